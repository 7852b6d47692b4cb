//! Sets: rows that are made, replicas that are replaced, moved, and never given up too early.

use super::*;

const GRACE: u64 = 300_000;

impl Bench {
    /// Elections of shard 0 end at once, as if every live replica had the same log.
    fn answer_all(&mut self, beating: &[u32]) {
        for node in beating {
            if self.leader().is_none() && self.row().is_voter(NodeId(*node)) {
                self.answer(*node, end(1, 9));
            }
        }
    }

    /// Until nothing changes any more, with learners that catch up at once.
    fn settle(&mut self, beating: &[u32]) {
        for _ in 0..50 {
            self.caught_up = self.row().learner.map(|node| node.0);
            self.run(100, beating);
            self.answer_all(beating);
        }
    }
}

#[test]
fn wanted_shards_are_created_on_nodes_that_are_there() {
    let mut bench = Bench::new(4);
    bench.full = vec![4];
    bench.hold = true;
    bench.input(Input::Wanted((0..20).map(shard).collect()));
    bench.run(400, &[1, 2, 4]);
    assert_eq!(bench.proposed, [], "node 3 may yet be heard");
    bench.run(200, &[1, 2, 4]);
    assert_eq!(bench.proposed.len(), 20);
    for change in &bench.proposed {
        let Change::Create { members, .. } = change else { panic!("{change:?}") };
        assert_eq!(*members, ids(&[1, 2]), "as many as there are; not the full one");
    }
}

#[test]
fn where_all_nodes_are_drained_before_anything_is_placed_shards_are_placed_all_the_same() {
    let mut bench = Bench::new(2);
    bench.hold = true;
    bench.change(Change::Drain { node: NodeId(1) });
    bench.input(Input::Wanted(vec![shard(0)]));
    bench.run(600, &[1, 2]);
    assert_eq!(
        bench.proposed,
        [Change::Create { shard: shard(0), members: ids(&[2]) }],
        "not at the drained one"
    );

    let mut bench = Bench::new(2);
    bench.change(Change::Drain { node: NodeId(1) });
    bench.change(Change::Drain { node: NodeId(2) });
    bench.input(Input::Wanted(vec![shard(0)]));
    bench.run(600, &[1, 2]);
    assert_eq!(bench.state.shard(shard(0)).unwrap().members, ids(&[1, 2]));
}

/// A region of six with replication 3, of which those nodes hold so much of shard 0, a past one.
fn restored(held: &[(u32, u64)]) -> Bench {
    let mut bench = Bench::new(6);
    let held = held.iter().map(|(node, seq)| (NodeId(*node), Seq(*seq))).collect();
    let home = Some(Origin { incarnation: meridian_types::Incarnation(2), ..shard(0).origin });
    let config = Config { home, holders: [(shard(0), held)].into(), ..Config::default() };
    bench.driver = Driver::new(config, Timestamp(0));
    bench.hold = true;
    bench.input(Input::Wanted(vec![shard(0), shard(1)]));
    bench
}

/// The first set of each shard, as it was proposed last.
fn first_sets(bench: &Bench) -> [Option<Vec<NodeId>>; 2] {
    [0, 1].map(|no| {
        bench.proposed.iter().rev().find_map(|change| match change {
            Change::Create { shard: of, members } if *of == shard(no) => Some(members.clone()),
            _ => None,
        })
    })
}

#[test]
fn those_who_hold_a_past_shard_are_in_its_first_set() {
    let mut nodes: Vec<u32> = (1..=6).collect();
    nodes.sort_by_key(|node| std::cmp::Reverse(rank::rank(rank::For::Holding, shard(0), NodeId(*node))));
    let (liked, unloved) = (nodes[0], &nodes[3..]);
    let with = |held: &[u32]| {
        let mut set = ids(held);
        set.sort_unstable();
        Some(set)
    };
    // A full disk has it already.
    let mut bench = restored(&[(unloved[0], 9), (unloved[1], 7)]);
    bench.full = vec![unloved[0]];
    bench.run(1_000, &[1, 2, 3, 4, 5, 6]);
    assert_eq!(first_sets(&bench)[0], with(&[unloved[0], unloved[1], liked]));
    // More hold something than there shall be replicas.
    let mut bench = restored(&[(unloved[0], 9), (unloved[1], 7), (liked, 1), (unloved[2], 8)]);
    bench.run(1_000, &[1, 2, 3, 4, 5, 6]);
    assert_eq!(first_sets(&bench)[0], with(unloved));
}

#[test]
fn what_a_restored_region_writes_lies_where_the_same_shard_did_before() {
    let home = Origin { incarnation: meridian_types::Incarnation(2), ..shard(0).origin };
    for (no, holder) in (0..4).flat_map(|no| (1..=6).map(move |holder| (no, holder))) {
        let (past, new) = (shard(no), ShardId { origin: home, ..shard(no) });
        let mut bench = Bench::new(6);
        let held = [(past, [(NodeId(holder), Seq(9))].into())].into();
        let config = Config { home: Some(home), holders: held, ..Config::default() };
        bench.driver = Driver::new(config, Timestamp(0));
        bench.input(Input::Wanted(vec![past, new]));
        let others: Vec<u32> = (1..=6).filter(|node| *node != holder).collect();
        bench.run(1_000, &others);
        assert!(
            bench.state.shard(past).is_none() && bench.state.shard(new).is_none(),
            "the holder is waited for"
        );
        bench.run(200, &[1, 2, 3, 4, 5, 6]);
        let [past, new] = [past, new].map(|shard| bench.state.shard(shard).unwrap().members.clone());
        assert!(past.contains(&NodeId(holder)) && past == new, "{past:?} {new:?}");
    }
}

#[test]
fn who_holds_more_of_a_past_shard_than_all_that_are_heard_is_waited_for_until_it_is_removed() {
    let mut bench = restored(&[(5, 9), (6, 7)]);
    bench.run(60_000, &[1, 2, 3, 4, 6]);
    assert!(
        first_sets(&bench)[0].is_none() && first_sets(&bench)[1].is_some(),
        "other shards wait for nobody"
    );
    bench.change(Change::Drain { node: NodeId(5) });
    bench.run(1_000, &[1, 2, 3, 4, 6]);
    assert_eq!(first_sets(&bench)[0], None, "it may yet come");
    bench.run(200, &[1, 2, 3, 4, 5, 6]);
    assert!(first_sets(&bench)[0].as_ref().unwrap().contains(&NodeId(5)), "and is welcome as it goes");

    let mut bench = restored(&[(5, 9), (6, 7)]);
    bench.change(Change::Drain { node: NodeId(5) });
    bench.change(Change::Remove { node: NodeId(5) });
    bench.run(1_000, &[1, 2, 3, 4, 6]);
    assert!(first_sets(&bench)[0].as_ref().unwrap().contains(&NodeId(6)));
}

#[test]
fn who_holds_no_more_of_a_past_shard_than_others_is_waited_for_for_a_while() {
    let mut bench = restored(&[(5, 9), (6, 9)]);
    bench.run(9_000, &[1, 2, 3, 4, 6]);
    assert_eq!(first_sets(&bench)[0], None, "it may have more than it said");
    bench.run(2_000, &[1, 2, 3, 4, 6]);
    let set = first_sets(&bench)[0].clone().unwrap();
    assert!(set.contains(&NodeId(6)) && !set.contains(&NodeId(5)), "{set:?}");
}

#[test]
fn a_dead_member_is_replaced_after_its_grace() {
    let mut bench = Bench::led(4, &[1, 2, 3], 1);
    bench.run(GRACE - 1_000, &[1, 2, 4]);
    assert_eq!(bench.row().learner, None);
    bench.run(2_000, &[1, 2, 4]);
    assert_eq!(bench.row().learner, Some(NodeId(4)));
    bench.run(2_000, &[1, 2, 4]);
    assert_eq!(bench.row().members, ids(&[1, 2, 3]), "not before it has caught up");
    bench.settle(&[1, 2, 4]);
    assert_eq!((bench.row().members.clone(), bench.row().previous.clone()), (ids(&[1, 2, 4]), None));
    assert_eq!(bench.begins(), 0, "each change has begun its own epoch");
}

/// Who leads the present shard looks producers up in the past one, on its own node. Who is not heard may hold what nobody else has.
#[test]
fn a_past_shard_comes_to_be_wherever_the_present_one_is() {
    for silent in [None, Some(1)] {
        let mut bench = Bench::led(5, &[1, 2, 3], 2);
        let home = Origin { incarnation: meridian_types::Incarnation(2), ..shard(0).origin };
        bench.driver = Driver::new(Config { home: Some(home), ..Config::default() }, Timestamp(0));
        let present = ShardId { origin: home, ..shard(0) };
        bench.change(Change::Create { shard: present, members: ids(&[3, 4, 5]) });
        bench.beat_all();
        let live: Vec<u32> = (1..=5).filter(|node| Some(*node) != silent).collect();
        bench.settle(&live);
        let wanted: &[u32] = if silent.is_some() { &[1, 3, 4, 5] } else { &[3, 4, 5] };
        assert_eq!(bench.row().members, ids(wanted), "{silent:?}");
        for change in &bench.proposed {
            if let Change::Change { shard: of, members, .. } = change {
                assert!(*of == shard(0) && members.len() >= 3, "nobody goes before another has come");
            }
        }
        bench.run(GRACE, &live);
        bench.settle(&live);
        assert_eq!(bench.row().members, ids(&[3, 4, 5]), "dead for long");
    }
}

/// A past shard on nodes 1 to 3, led by 2, of which node 1 held ten frames when the region was restored; the present one is on those.
fn past(nodes: u32, present: &[u32]) -> Bench {
    past_beside_full(nodes, present, vec![])
}

fn past_beside_full(nodes: u32, present: &[u32], full: Vec<u32>) -> Bench {
    let mut bench = Bench::led(nodes, &[1, 2, 3], 2);
    bench.full = full;
    let home = Origin { incarnation: meridian_types::Incarnation(2), ..shard(0).origin };
    let holders = [(shard(0), [(NodeId(1), Seq(10))].into())].into();
    let config = Config { home: Some(home), holders, ..Config::default() };
    bench.driver = Driver::new(config, Timestamp(0));
    bench.change(Change::Create { shard: ShardId { origin: home, ..shard(0) }, members: ids(present) });
    bench.beat_all();
    bench
}

#[test]
fn who_holds_most_of_a_past_shard_stays_until_a_majority_has_it() {
    for (settled, durable, stays) in [(true, 9, true), (false, 10, true), (true, 10, false)] {
        let mut bench = past(3, &[2, 3]);
        bench.change(Change::SetReplication { replicas: 2 });
        (bench.settled, bench.durable) = (settled, durable);
        bench.run(3_000, &[1, 2, 3]);
        let dropped = bench.proposed.iter().any(|change| matches!(change, Change::Change { .. }));
        assert_eq!(dropped, !stays, "settled: {settled}, durable up to {durable}");
    }
}

#[test]
fn who_holds_most_of_a_past_shard_and_is_silent_is_given_up_only_by_an_operator() {
    let mut bench = past(4, &[2, 3, 4]);
    bench.durable = 9;
    bench.settle(&[2, 3, 4]);
    bench.run(GRACE, &[2, 3, 4]);
    bench.settle(&[2, 3, 4]);
    assert_eq!(bench.row().members, ids(&[1, 2, 3, 4]), "dead for long");
    // It is back, is drained, and starts again in the middle of that.
    bench.run(1_000, &[1, 2, 3, 4]);
    bench.change(Change::Drain { node: NodeId(1) });
    bench.settle(&[2, 3, 4]);
    assert_eq!(bench.row().members, ids(&[1, 2, 3, 4]), "it may come back with what it holds");
    bench.run(GRACE, &[2, 3, 4]);
    bench.settle(&[2, 3, 4]);
    assert_eq!(bench.row().members, ids(&[2, 3, 4]), "it is drained, and dead for long");
}

#[test]
fn of_those_that_a_past_shard_can_do_without_who_is_drained_goes_first() {
    let mut bench = past(4, &[2, 3, 4]);
    bench.settle(&[1, 2, 3, 4]);
    assert_eq!(bench.row().members, ids(&[1, 2, 3, 4]));
    // The present one has left node 4.
    let home = Origin { incarnation: meridian_types::Incarnation(2), ..shard(0).origin };
    let present = ShardId { origin: home, ..shard(0) };
    let (version, members) = (bench.state.shard(present).unwrap().version, ids(&[2, 3]));
    bench.change(Change::Change { shard: present, version, members });
    bench.durable = 10;
    bench.change(Change::Drain { node: NodeId(4) });
    bench.settle(&[1, 2, 3, 4]);
    assert_eq!(bench.row().members, ids(&[1, 2, 3]));
}

#[test]
fn a_past_shard_is_elsewhere_while_the_nodes_of_the_present_one_are_full() {
    let mut bench = past_beside_full(5, &[2, 3, 4], vec![4]);
    bench.durable = 10;
    let all = [1, 2, 3, 4, 5];
    bench.settle(&all);
    assert_eq!(bench.row().members, ids(&[1, 2, 3]), "it lacks nobody");
    bench.change(Change::Drain { node: NodeId(1) });
    bench.settle(&all);
    assert_eq!(bench.row().members, ids(&[2, 3, 5]));
    bench.full = vec![];
    bench.settle(&all);
    assert_eq!(bench.row().members, ids(&[2, 3, 4]));
}

/// Node 1 holds more than a majority, is dead for long and may not go; node 4, beside which another should be, is full.
#[test]
fn nobody_comes_and_goes_for_ever_beside_one_that_may_not_go() {
    for is_drained in [false, true] {
        let mut bench = past_beside_full(5, &[2, 3, 4], vec![4]);
        bench.durable = 9;
        if is_drained {
            bench.change(Change::Drain { node: NodeId(1) });
            bench.run(10_000, &[2, 3, 4, 5]);
        } else {
            bench.run(GRACE, &[2, 3, 4, 5]);
        }
        bench.settle(&[2, 3, 4, 5]);
        assert_eq!(bench.row().members, ids(&[1, 2, 3, 5]), "drained: {is_drained}");
        let proposed = bench.proposed.len();
        bench.settle(&[2, 3, 4, 5]);
        assert_eq!(bench.proposed.len(), proposed, "drained: {is_drained}");
    }
}

#[test]
fn an_operators_move_of_a_past_shard_is_cancelled() {
    let mut bench = past(4, &[1, 2, 3]);
    bench.change(Change::Move { shard: shard(0), from: NodeId(1), to: NodeId(4) });
    bench.settle(&[1, 2, 3, 4]);
    assert_eq!((bench.row().members.clone(), bench.row().moving), (ids(&[1, 2, 3]), None));
}

#[test]
fn a_past_shard_leaves_no_node_before_the_present_one_has() {
    let mut bench = past(4, &[1, 2, 3]);
    bench.durable = 10;
    bench.change(Change::Drain { node: NodeId(1) });
    bench.run(5_000, &[1, 2, 3, 4]);
    let of_past = |change: &&Change| matches!(change, Change::Learner { shard: of, .. } | Change::Change { shard: of, .. } if *of == shard(0));
    assert_eq!(bench.proposed.iter().find(of_past), None, "it would have to come back");
}

#[test]
fn a_member_that_comes_back_in_time_stays() {
    let mut bench = Bench::led(4, &[1, 2, 3], 1);
    bench.run(GRACE + 1_000, &[1, 2, 4]);
    assert_eq!(bench.row().learner, Some(NodeId(4)));
    bench.run(500, &[1, 2, 3, 4]);
    assert_eq!((bench.row().learner, bench.row().members.clone()), (None, ids(&[1, 2, 3])));
}

#[test]
fn no_learner_on_a_full_or_draining_node() {
    let mut bench = Bench::led(5, &[1, 2, 3], 1);
    bench.full = vec![4];
    bench.change(Change::Drain { node: NodeId(5) });
    bench.run(GRACE + 1_000, &[1, 2, 4, 5]);
    assert_eq!(bench.row().learner, None);
}

#[test]
fn a_draining_node_is_left_at_once() {
    let mut bench = Bench::led(4, &[1, 2, 3], 1);
    bench.change(Change::Drain { node: NodeId(1) });
    bench.settle(&[1, 2, 3, 4]);
    assert_eq!(bench.row().members, ids(&[2, 3, 4]));
    bench.change(Change::Remove { node: NodeId(1) });
}

#[test]
fn a_small_set_grows() {
    let mut bench = Bench::led(3, &[1], 1);
    bench.settle(&[1, 2, 3]);
    assert_eq!(bench.row().members, ids(&[1, 2, 3]));
}

#[test]
fn what_an_operator_moves_is_moved() {
    let mut bench = Bench::led(5, &[1, 2, 3], 1);
    bench.change(Change::Move { shard: shard(0), from: NodeId(1), to: NodeId(5) });
    bench.settle(&[1, 2, 3, 4, 5]);
    assert_eq!((bench.row().members.clone(), bench.row().moving), (ids(&[2, 3, 5]), None));
}

#[test]
fn a_move_to_a_node_that_goes_away_is_cancelled() {
    let mut bench = Bench::led(5, &[1, 2, 3], 1);
    bench.change(Change::Move { shard: shard(0), from: NodeId(1), to: NodeId(5) });
    bench.change(Change::Drain { node: NodeId(5) });
    bench.settle(&[1, 2, 3, 4, 5]);
    assert_eq!((bench.row().members.clone(), bench.row().moving), (ids(&[1, 2, 3]), None));
}

#[test]
fn a_set_is_not_changed_to_one_without_a_live_majority() {
    let mut bench = Bench::led(4, &[1, 2, 3], 1);
    bench.change(Change::Drain { node: NodeId(2) });
    bench.run(3_000, &[1, 2, 4]);
    assert_eq!(bench.row().learner, Some(NodeId(4)));
    // Node 4 is in, then dies: without node 2, only node 1 of {1, 3, 4} lives.
    (bench.caught_up, bench.settled) = (Some(4), false);
    bench.run(100, &[1, 2, 4]);
    bench.answer_all(&[1, 2, 4]);
    bench.run(2_000, &[1, 2]);
    bench.settled = true;
    bench.settle(&[1, 2]);
    assert_eq!(bench.row().members, ids(&[1, 2, 3, 4]));
}

#[test]
fn only_some_shards_change_at_a_time() {
    let mut bench = Bench::new(4);
    for no in 0..20 {
        bench.change(Change::Create { shard: shard(no), members: ids(&[1, 2, 3]) });
        bench.change(Change::Begin { shard: shard(no), epoch: LeaderEpoch(1) });
        let (node, boot) = (NodeId(1), Boot(1));
        bench.change(Change::Elect { shard: shard(no), epoch: LeaderEpoch(1), node, boot });
    }
    bench.change(Change::Drain { node: NodeId(3) });
    bench.run(3_000, &[1, 2, 3, 4]);
    let changing = bench.state.shards().filter(|(_, row)| row.learner.is_some()).count();
    assert_eq!(changing, 8);
}

#[test]
fn sets_follow_the_replication_that_was_asked_for() {
    let mut bench = Bench::led(5, &[1, 2, 3], 1);
    let all = [1, 2, 3, 4, 5];
    for replicas in [5, 3, 1, 3] {
        bench.change(Change::SetReplication { replicas });
        bench.settle(&all);
        let row = bench.row();
        assert_eq!(
            (row.members.len(), row.previous.clone(), row.learner),
            (usize::from(replicas), None, None)
        );
    }
}
