//! Shards that have a leader: its death, its restart, its silence, its drain.

use super::*;

#[test]
fn a_dead_leader_is_replaced_once() {
    let mut bench = Bench::led(3, &[1, 2, 3], 1);
    bench.run(900, &[2, 3]);
    assert_eq!(bench.begins(), 0);
    bench.run(10_000, &[2, 3]);
    assert_eq!(bench.begins(), 1, "an election that cannot end begins no other");
    bench.answer(2, end(1, 4));
    bench.answer(3, end(1, 4));
    bench.run(100, &[2, 3]);
    assert!(bench.leader().is_some_and(|leader| leader.node != NodeId(1)));
    assert_eq!(bench.begins(), 1);
}

#[test]
fn a_new_driver_listens_before_it_takes_a_leader_for_dead() {
    let mut bench = Bench::led(3, &[1, 2, 3], 1);
    bench.now += 10_000;
    bench.driver = Driver::new(Config::default(), Timestamp(bench.now));
    bench.run(400, &[2, 3]);
    assert_eq!(bench.begins(), 0);
    bench.run(200, &[2, 3]);
    assert_eq!(bench.begins(), 1);
}

#[test]
fn a_new_driver_knows_who_fell_silent_before_it_drove() {
    let mut bench = Bench::led(3, &[1, 2, 3], 1);
    bench.now += 10_000;
    bench.driver = Driver::new(Config::default(), Timestamp(bench.now));
    for (node, ago) in [(1, 1200), (2, 90), (3, 10)] {
        let heartbeat = Heartbeat { node: NodeId(node), boot: Boot(1), full: false, leads: Vec::new() };
        bench.driver.heard_before(heartbeat, Timestamp(bench.now - ago));
    }
    bench.input(Input::Tick);
    assert_eq!(bench.begins(), 1, "it has been silent for long enough");

    // One that was heard lately has its whole time.
    let mut bench = Bench::led(3, &[1, 2, 3], 1);
    bench.now += 10_000;
    bench.driver = Driver::new(Config::default(), Timestamp(bench.now));
    let heartbeat = Heartbeat { node: NodeId(1), boot: Boot(1), full: false, leads: Vec::new() };
    bench.driver.heard_before(heartbeat, Timestamp(bench.now - 300));
    bench.run(600, &[2, 3]);
    assert_eq!(bench.begins(), 0);
    bench.run(200, &[2, 3]);
    assert_eq!(bench.begins(), 1);
}

#[test]
fn a_broken_connection_is_a_suspicion_and_a_word_clears_it() {
    let mut bench = Bench::led(3, &[1, 2, 3], 1);
    bench.now = 50;
    bench.input(Input::Suspect { node: NodeId(1) });
    bench.run(50, &[1, 2, 3]);
    bench.run(300, &[1, 2, 3]);
    assert_eq!(bench.begins(), 0);
    bench.input(Input::Suspect { node: NodeId(1) });
    bench.run(150, &[2, 3]);
    assert_eq!(bench.begins(), 0);
    bench.run(60, &[2, 3]);
    assert_eq!(bench.begins(), 1, "well before dead_after");
}

#[test]
fn a_restarted_leader_leads_nothing_before_a_new_election() {
    let mut bench = Bench::led(1, &[1], 1);
    bench.boots.insert(1, 2);
    bench.beat(1);
    assert_eq!((bench.begins(), bench.row().begun), (1, LeaderEpoch(2)));
    bench.answer(1, end(1, 4));
    assert_eq!(bench.leader().unwrap().boot, Boot(2), "in a region of one node too");
}

#[test]
fn a_late_heartbeat_of_a_former_process_says_nothing() {
    let mut bench = Bench::led(3, &[1, 2, 3], 1);
    bench.boots.insert(2, 5);
    bench.beat(2);
    bench.boots.insert(2, 4);
    bench.now = 950;
    bench.beat(2);
    bench.now = 1_100;
    assert!(!bench.driver.liveness().is_live(NodeId(2), Timestamp(1_100)));
}

#[test]
fn who_was_elected_is_told_until_it_leads() {
    let mut bench = Bench::led(3, &[1, 2, 3], 1);
    bench.told.clear();
    bench.idle = vec![1];
    bench.run(900, &[1, 2, 3]);
    assert!((3..=5).contains(&bench.told.len()), "{}", bench.told.len());
    assert!(
        bench.told.iter().all(|(node, election)| *node == NodeId(1) && election.elected.node == NodeId(1))
    );
    bench.idle.clear();
    bench.run(200, &[1, 2, 3]);
    bench.told.clear();
    bench.run(1_000, &[1, 2, 3]);
    assert_eq!(bench.told.len(), 0);
}

#[test]
fn a_node_that_is_back_is_told() {
    let mut bench = Bench::led(3, &[1, 2, 3], 1);
    bench.run(2_000, &[1, 2]);
    bench.told.clear();
    bench.beat(3);
    assert_eq!(bench.told.len(), 1);
    assert_eq!(bench.told[0].0, NodeId(3));
}

#[test]
fn who_does_not_lead_although_elected_is_passed_over() {
    let mut bench = Bench::led(3, &[1, 2, 3], 1);
    bench.idle = vec![1];
    bench.run(1_300, &[1, 2, 3]);
    assert_eq!(bench.begins(), 1);
    bench.answer(1, end(1, 9));
    bench.answer(2, end(1, 9));
    bench.answer(3, end(1, 9));
    assert_ne!(bench.leader().unwrap().node, NodeId(1));
}

#[test]
fn a_shard_that_nobody_can_lead_makes_few_epochs() {
    let mut bench = Bench::led(3, &[1, 2, 3], 1);
    bench.idle = vec![1, 2, 3];
    for _ in 0..600 {
        bench.run(100, &[1, 2, 3]);
        if bench.leader().is_none() {
            for node in [1, 2, 3] {
                bench.answer(node, end(1, 9));
            }
        }
    }
    assert!((4..9).contains(&bench.begins()), "{} in a minute", bench.begins());
}

#[test]
fn the_only_replica_is_told_and_not_passed_over() {
    let mut bench = Bench::led(3, &[1, 2, 3], 1);
    bench.idle = vec![1];
    bench.run(1_000, &[1, 2, 3]);
    let begins = bench.begins();
    bench.run(300, &[1]);
    let mut alone = Bench::led(1, &[1], 1);
    alone.idle = vec![1];
    alone.run(10_000, &[1]);
    assert_eq!((begins, alone.begins()), (0, 0));
}

#[test]
fn a_draining_leader_gives_way() {
    let mut bench = Bench::led(4, &[1, 2, 3], 1);
    bench.change(Change::Drain { node: NodeId(1) });
    bench.input(Input::Changed);
    assert_eq!(bench.begins(), 1);
    bench.answer(1, end(1, 12));
    bench.answer(2, end(1, 9));
    bench.answer(3, end(1, 9));
    assert_ne!(bench.leader().unwrap().node, NodeId(1), "what only node 1 has was not committed");
}

#[test]
fn a_draining_leader_stays_while_no_other_lives() {
    let mut bench = Bench::led(4, &[1, 2, 3], 1);
    bench.run(2_000, &[1, 4]);
    bench.change(Change::Drain { node: NodeId(1) });
    bench.run(2_000, &[1, 4]);
    assert_eq!(bench.begins(), 0);
}

/// A full disk takes nothing, and what others have room for goes on.
#[test]
fn a_leader_whose_disk_is_full_gives_way_to_one_that_has_room() {
    let all = [1, 2, 3, 4];
    let mut bench = Bench::led(4, &[1, 2, 3], 1);
    bench.full = vec![1];
    bench.run(100, &all);
    assert_eq!(bench.begins(), 1);
    bench.answer(1, end(1, 12));
    bench.answer(2, end(1, 9));
    bench.answer(3, end(1, 9));
    assert_ne!(bench.leader().unwrap().node, NodeId(1), "what only node 1 has was not committed");
    // There is no better one any more.
    bench.full = vec![1, 2, 3, 4];
    bench.run(20_000, &all);
    assert_eq!(bench.begins(), 1);
}

/// A disk that is full to the brim promises nothing: nobody would be elected, and what the leader can still do would end.
#[test]
fn a_leader_whose_disk_is_full_stays_while_no_majority_has_room() {
    for (full, live) in [(vec![2], vec![1, 2, 3, 4]), (vec![], vec![1, 2, 4])] {
        let mut bench = Bench::led(4, &[1, 2, 3], 1);
        bench.full = full;
        bench.run(2_000, &live);
        bench.full.push(1);
        bench.run(20_000, &live);
        assert_eq!(bench.begins(), 0, "{live:?}");
    }
}

#[test]
fn a_set_settles_once_its_leader_has_committed() {
    let mut bench = Bench::led(4, &[1, 2, 3], 1);
    bench.change(Change::Learner { shard: shard(0), version: bench.row().version, node: Some(NodeId(4)) });
    let version = bench.row().version;
    bench.change(Change::Change { shard: shard(0), version, members: ids(&[1, 2, 3, 4]) });
    bench.settled = false;
    bench.input(Input::Changed);
    for node in 1..=4 {
        bench.answer(node, end(1, 9));
    }
    assert!(bench.leader().is_some());
    bench.hold = true;
    bench.run(500, &[1, 2, 3, 4]);
    assert!(bench.row().previous.is_some());
    bench.settled = true;
    bench.run(100, &[1, 2, 3, 4]);
    assert_eq!(
        bench.proposed,
        [
            Change::Elect {
                shard: shard(0),
                epoch: LeaderEpoch(2),
                node: bench.leader().unwrap().node,
                boot: Boot(1)
            },
            Change::Settle { shard: shard(0), epoch: LeaderEpoch(2) }
        ]
    );
}
