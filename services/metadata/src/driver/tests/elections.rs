//! Elections: who is fenced, whose answers count, who wins.

use super::*;

/// Nodes 1 to 3 with an election of shard 0 just begun.
fn begun() -> Bench {
    let mut bench = Bench::with(3, &[1, 2, 3]);
    bench.beat_all();
    assert_eq!((bench.begins(), bench.row().begun), (1, LeaderEpoch(1)));
    bench
}

/// The nodes by how much shard 0 prefers them as leaders, best first.
fn preferred(nodes: &[u32]) -> Vec<u32> {
    let mut nodes = nodes.to_vec();
    nodes.sort_by_key(|node| std::cmp::Reverse(rank::rank(rank::For::Leading, shard(0), NodeId(*node))));
    nodes
}

#[test]
fn a_shard_that_never_had_a_leader_gets_one() {
    let mut bench = begun();
    assert_eq!((1..=3).map(|node| bench.fences_of(node)).collect::<Vec<_>>(), [1, 1, 1]);
    for node in 1..=3 {
        bench.answer(node, end(0, 0));
    }
    assert_eq!(bench.leader().unwrap().node, NodeId(preferred(&[1, 2, 3])[0]));
    let told: Vec<NodeId> = bench.told.iter().map(|(node, _)| *node).collect();
    assert_eq!(told, ids(&[1, 2, 3]), "every member is told at once");
}

#[test]
fn the_longest_log_wins_and_epochs_come_before_lengths() {
    let mut bench = begun();
    bench.answer(1, end(1, 90));
    assert_eq!(bench.leader(), None, "one of three is no majority");
    bench.answer(2, end(2, 5));
    bench.answer(3, end(1, 99));
    assert_eq!(bench.leader().unwrap().node, NodeId(2));
}

#[test]
fn the_preferred_has_a_moment_to_answer() {
    let mut bench = begun();
    let order = preferred(&[1, 2, 3]);
    bench.answer(order[1], end(1, 5));
    bench.answer(order[2], end(1, 5));
    assert_eq!(bench.leader(), None);
    bench.run(20, &[]);
    assert_eq!(bench.leader(), None);
    bench.answer(order[0], end(1, 5));
    assert_eq!(bench.leader().unwrap().node, NodeId(order[0]));

    let mut bench = begun();
    bench.answer(order[1], end(1, 5));
    bench.answer(order[2], end(1, 5));
    bench.run(60, &[]);
    assert_eq!(bench.leader().unwrap().node, NodeId(order[1]), "but no more than a moment");
}

#[test]
fn an_unsure_answer_elects_nobody() {
    let mut bench = begun();
    bench.promise(1, end(1, 9), Some(4));
    bench.answer(2, end(1, 9));
    bench.run(5_000, &[1, 2]);
    assert_eq!(bench.leader(), None);
    bench.answer(3, end(1, 8));
    bench.run(100, &[1, 2]);
    assert_eq!(bench.leader().unwrap().node, NodeId(2));
    assert_eq!(bench.begins(), 1);
}

#[test]
fn the_longest_of_a_copys_damaged_logs_wins_once_all_have_answered() {
    for (home, elects) in [(RegionId(1), false), (RegionId(2), true)] {
        let mut bench = begun();
        let config = Config { home: Some(Origin::first(home)), ..Config::default() };
        bench.driver = Driver::new(config, Timestamp(bench.now));
        bench.beat_all();
        bench.run(1_000, &[1, 2, 3]);
        bench.promise(1, end(1, 9), Some(4));
        bench.promise(2, end(1, 7), Some(8));
        bench.run(5_000, &[1, 2, 3]);
        assert_eq!(bench.leader(), None, "the third may have more");
        bench.answer(3, end(1, 8));
        bench.run(100, &[1, 2, 3]);
        assert_eq!(bench.leader().map(|leader| leader.node), elects.then_some(NodeId(1)));
    }
}

/// A set of a past shard that never had a leader, on a driver that has heard all.
fn begun_for_a_past_shard() -> Bench {
    let mut bench = begun();
    let config = Config { home: Some(Origin::first(RegionId(2))), ..Config::default() };
    bench.driver = Driver::new(config, Timestamp(bench.now));
    bench.beat_all();
    bench.run(1_000, &[1, 2, 3]);
    bench
}

#[test]
fn the_first_election_of_a_past_shard_waits_for_all_that_live() {
    for slow in 1..=3 {
        let mut bench = begun_for_a_past_shard();
        for node in (1..=3).filter(|node| *node != slow) {
            bench.answer(node, end(0, 0));
        }
        bench.run(5_000, &[1, 2, 3]);
        assert_eq!(bench.leader(), None, "two that hold nothing, and one that lives");
        bench.answer(slow, end(1, 9));
        assert_eq!(bench.leader().map(|leader| leader.node), Some(NodeId(slow)), "at once");

        let mut bench = begun_for_a_past_shard();
        for node in (1..=3).filter(|node| *node != slow) {
            bench.answer(node, end(0, 0));
        }
        let alive: Vec<u32> = (1..=3).filter(|node| *node != slow).collect();
        bench.run(1_500, &alive);
        assert!(bench.leader().is_some(), "who is not heard is not waited for");

        let mut bench = begun_for_a_past_shard();
        for node in &alive {
            bench.answer(*node, end(0, 0));
        }
        bench.run(12_000, &[1, 2, 3]);
        assert!(bench.leader().is_some(), "nor one that cannot open the shard, for ever");
    }
}

#[test]
fn the_longest_log_of_a_past_shard_leads_even_if_it_shall_go_until_others_have_it() {
    let mut bench = begun_for_a_past_shard();
    bench.change(Change::Join(join(4)));
    bench.change(Change::Drain { node: NodeId(3) });
    for epoch in 1..=2 {
        bench.answer(1, end(0, 0));
        bench.answer(2, end(0, 0));
        bench.answer(3, end(1, 9));
        let elected = Elected { epoch: LeaderEpoch(epoch), node: NodeId(3), boot: Boot(1) };
        assert_eq!(bench.row().elected, Some(elected), "even when it is to give way");
    }
    bench.run(6_000, &[1, 2, 3]);
    assert_eq!(bench.begins(), 3, "it is asked to give way once more");
    for node in 1..=3 {
        bench.answer(node, end(1, 9));
    }
    assert!(bench.leader().is_some_and(|leader| leader.node != NodeId(3)), "others have as much by now");
}

/// Who was elected and did not lead is passed over, though it is the longest.
#[test]
fn a_copys_longest_log_that_cannot_lead_is_passed_over() {
    let mut bench = begun_for_a_past_shard();
    bench.idle = vec![3];
    for node in 1..=2 {
        bench.answer(node, end(1, 4));
    }
    bench.answer(3, end(1, 9));
    assert_eq!(bench.leader().map(|leader| leader.node), Some(NodeId(3)));
    bench.run(2_000, &[1, 2, 3]);
    for node in 1..=3 {
        bench.answer(node, end(1, if node == 3 { 9 } else { 4 }));
    }
    bench.run(2_000, &[1, 2, 3]);
    assert!(bench.leader().is_some_and(|leader| leader.node != NodeId(3)), "{:?}", bench.row());
}

#[test]
fn more_in_an_unsure_log_is_waited_for_and_not_for_ever() {
    let mut bench = Bench::with(5, &[1, 2, 3]);
    bench.beat_all();
    bench.promise(1, end(1, 12), Some(4));
    bench.answer(2, end(1, 9));
    bench.answer(3, end(1, 8));
    assert_eq!(bench.leader().map(|leader| leader.node), Some(NodeId(2)), "all have answered");
}

#[test]
fn what_a_former_process_answered_counts_no_more() {
    let mut bench = begun();
    bench.answer(1, end(1, 9));
    bench.boots.insert(1, 2);
    bench.beat(1);
    assert_eq!(bench.fences_of(1), 2, "asked again at once");
    bench.answer(2, end(1, 5));
    bench.run(100, &[1, 2, 3]);
    assert_eq!(bench.leader(), None);
    bench.answer(1, end(1, 9));
    bench.run(100, &[1, 2, 3]);
    assert_eq!(bench.leader(), Some(Elected { epoch: LeaderEpoch(1), node: NodeId(1), boot: Boot(2) }));
}

#[test]
fn a_dead_candidate_is_not_elected() {
    let mut bench = begun();
    bench.answer(1, end(1, 9));
    bench.run(1_500, &[2, 3]);
    bench.answer(2, end(1, 7));
    bench.run(2_000, &[2, 3]);
    assert_eq!(bench.leader(), None, "node 2 may lack what node 1 has committed");
    bench.answer(3, end(1, 7));
    bench.run(100, &[2, 3]);
    assert!(bench.leader().is_some());
    assert_ne!(bench.leader().unwrap().node, NodeId(1));
}

#[test]
fn slow_answers_begin_no_epoch_and_are_asked_for_less_and_less() {
    let mut bench = begun();
    bench.run(10_000, &[1, 2, 3]);
    assert_eq!(bench.begins(), 1, "no storm of epochs");
    assert!((10..25).contains(&bench.fences_of(1)), "{}", bench.fences_of(1));
}

#[test]
fn a_higher_promise_begins_above_it() {
    let mut bench = begun();
    bench.outcome(2, FenceOutcome::Refused { promised: LeaderEpoch(7) });
    assert_eq!(bench.row().begun, LeaderEpoch(8));
    assert_eq!(bench.begins(), 2);
}

#[test]
fn an_answer_for_an_older_epoch_is_of_no_use() {
    let mut bench = begun();
    let promised = FenceOutcome::Promised { end: end(0, 0), unsure_from: None };
    let answers = vec![FenceAnswer { shard: shard(0), epoch: LeaderEpoch(1), outcome: promised }];
    bench.change(Change::Begin { shard: shard(0), epoch: LeaderEpoch(2) });
    bench.input(Input::Changed);
    for node in [1, 2, 3] {
        bench.input(Input::Fenced { node: NodeId(node), boot: Boot(1), answers: answers.clone() });
    }
    bench.run(200, &[1, 2, 3]);
    assert_eq!(bench.leader(), None);
}

#[test]
fn a_new_driver_takes_over_the_epoch_that_was_begun() {
    let mut bench = begun();
    bench.driver = Driver::new(Config::default(), Timestamp(bench.now));
    bench.input(Input::Tick);
    assert_eq!(bench.fences_of(1), 2);
    for node in 1..=3 {
        bench.answer(node, end(0, 0));
    }
    assert!(bench.leader().is_some());
    assert_eq!(bench.begins(), 1);
}

#[test]
fn a_proposal_is_not_made_twice_until_its_time_is_up() {
    let mut bench = Bench::with(3, &[1, 2, 3]);
    bench.hold = true;
    bench.beat_all();
    bench.run(900, &[1, 2, 3]);
    assert_eq!(bench.begins(), 1);
    bench.run(200, &[1, 2, 3]);
    assert_eq!(bench.begins(), 2, "nothing was heard of it");
    bench.input(Input::Refused);
    assert_eq!(bench.begins(), 2, "a failing group is not hammered");
    bench.run(60, &[]);
    assert_eq!(bench.begins(), 3);
}

#[test]
fn both_sets_elect_while_a_change_has_not_settled() {
    let mut bench = Bench::led(4, &[1, 2, 3], 1);
    bench.change(Change::Learner { shard: shard(0), version: bench.row().version, node: Some(NodeId(4)) });
    let version = bench.row().version;
    bench.change(Change::Change { shard: shard(0), version, members: ids(&[1, 2, 3, 4]) });
    bench.input(Input::Changed);
    assert_eq!((1..=4).map(|node| bench.fences_of(node)).collect::<Vec<_>>(), [1, 1, 1, 1]);
    bench.answer(4, end(1, 9));
    bench.answer(3, end(1, 9));
    bench.run(200, &[1, 2, 3, 4]);
    assert_eq!(bench.leader(), None);
    bench.answer(2, end(1, 9));
    bench.run(60, &[]);
    assert!(bench.leader().is_some(), "three of four, and two of the three before");
}

#[test]
fn who_leaves_the_set_is_fenced_and_cannot_win() {
    let mut bench = Bench::led(4, &[1, 2, 3], 1);
    let version = bench.row().version;
    bench.change(Change::Change { shard: shard(0), version, members: ids(&[2, 3]) });
    bench.input(Input::Changed);
    assert_eq!(bench.fences_of(1), 1);
    bench.answer(1, end(1, 20));
    bench.answer(2, end(1, 9));
    bench.run(3_000, &[1, 2, 3]);
    assert_eq!(bench.leader(), None, "node 2 may lack what 1 and 3 have");
    bench.answer(3, end(1, 11));
    bench.run(100, &[1, 2, 3]);
    assert_eq!(bench.leader().unwrap().node, NodeId(3), "what node 1 alone has was never committed");
}

/// The simulation's case: a set shrinks to a shorter log and a damaged one, and who has everything has just left it. Only a
/// leader could mend the damaged one, and nobody could be elected, for ever.
#[test]
fn a_change_is_taken_back_where_only_who_left_can_lead() {
    let mut bench = Bench::led(3, &[1, 2, 3], 1);
    let version = bench.row().version;
    bench.change(Change::Change { shard: shard(0), version, members: ids(&[2, 3]) });
    bench.input(Input::Changed);
    bench.answer(1, end(1, 20));
    bench.answer(2, end(1, 9));
    bench.run(1_000, &[1, 2, 3]);
    assert_eq!(bench.row().members, ids(&[2, 3]), "the third lives and may have as much");
    bench.promise(3, end(1, 8), Some(9));
    let row = bench.row();
    assert_eq!((&row.members, &row.previous), (&ids(&[1, 2, 3]), &Some(ids(&[2, 3]))));
    bench.answer(1, end(1, 20));
    bench.answer(2, end(1, 9));
    bench.promise(3, end(1, 8), Some(9));
    bench.run(100, &[1, 2, 3]);
    assert_eq!(bench.leader().unwrap().node, NodeId(1));
}

#[test]
fn enough_of_the_larger_set_are_not_enough_of_the_set_before() {
    let mut bench = Bench::led(4, &[1, 2, 3], 1);
    bench.change(Change::Learner { shard: shard(0), version: bench.row().version, node: Some(NodeId(4)) });
    let (version, members) = (bench.row().version, ids(&[1, 2, 3, 4]));
    bench.change(Change::Change { shard: shard(0), version, members });
    bench.input(Input::Changed);
    bench.answer(3, end(1, 9));
    bench.answer(4, end(1, 9));
    bench.run(3_000, &[1, 2, 3, 4]);
    assert_eq!(
        bench.leader(),
        None,
        "two of four, but one of the three before: 1 and 2 may have committed more"
    );
    bench.answer(2, end(1, 9));
    bench.run(60, &[]);
    assert!(bench.leader().is_some());
}

#[test]
fn of_an_even_set_the_longer_half_is_enough() {
    let mut bench = Bench::led(2, &[1, 2], 1);
    let (version, members) = (bench.row().version, ids(&[2]));
    bench.change(Change::Change { shard: shard(0), version, members });
    bench.input(Input::Changed);
    bench.answer(1, end(1, 20));
    bench.answer(2, end(1, 9));
    bench.run(3_000, &[1, 2]);
    assert_eq!(bench.leader().unwrap().node, NodeId(2), "what one of two alone has was never committed");
}
