//! What a subscription follows, and where: each rule in a few steps, and any schedule of nodes that come, go and lag.

use std::collections::BTreeMap;

use meridian_types::{Incarnation, RegionId, StreamId};
use proptest::prelude::*;

use super::*;

const STREAM: StreamId = StreamId(7);
const ORIGIN: Origin = Origin { region: RegionId(1), incarnation: Incarnation(1) };
const SHARDS: u16 = 4;
const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);

fn lane(partition: u32) -> Lane {
    Lane { stream: STREAM, partition: Partition(partition), origin: ORIGIN }
}

fn shard(partition: u32) -> ShardId {
    ShardId { origin: ORIGIN, no: shard_of(STREAM, Partition(partition), SHARDS) }
}

fn following(partitions: u32) -> Following {
    let mut following = Following::new(Cursor::start(STREAM));
    following.follow(ORIGIN, SHARDS, partitions);
    following
}

fn held_by(leader: Option<NodeId>, others: &[NodeId]) -> Holders {
    Holders { here: false, leader, others: others.to_vec(), members: others.to_vec() }
}

fn here() -> Holders {
    Holders { here: true, ..held_by(Some(A), &[A, B]) }
}

fn run(base: u64, events: u32) -> Run {
    Run { base: Offset(base), events, hlc: 1, batch: Bytes::new() }
}

fn firsts(news: &News) -> Vec<u64> {
    news.runs.iter().map(|(_, first)| first.0).collect()
}

#[test]
fn here_before_the_leader_before_who_is_asked_now_before_others() {
    let shunned = |nodes: &[NodeId]| nodes.iter().copied().collect::<BTreeSet<_>>();
    let all = held_by(Some(B), &[A, B, C]);
    assert_eq!(choose(Seat::At(A), &here(), &shunned(&[])), Seat::Here);
    assert_eq!(choose(Seat::At(A), &all, &shunned(&[])), Seat::At(B));
    assert_eq!(choose(Seat::At(C), &all, &shunned(&[B])), Seat::At(C));
    assert_eq!(choose(Seat::Nowhere, &all, &shunned(&[B])), Seat::At(A));
    assert_eq!(choose(Seat::Nowhere, &all, &shunned(&[A, B])), Seat::At(C));
    assert_eq!(choose(Seat::At(A), &held_by(None, &[B]), &shunned(&[])), Seat::At(B), "it has left");
    assert_eq!(choose(Seat::Here, &Holders::default(), &shunned(&[])), Seat::Nowhere);
}

#[test]
fn nothing_is_read_and_nobody_has_caught_up_before_a_seat_says_that_it_serves() {
    let mut following = following(1);
    assert!(!following.has_due() && !following.has_caught_up() && following.seeks());
    let moved = following.look(shard(0), &held_by(Some(A), &[A, B]));
    assert_eq!(moved, Some(Moved { from: Seat::Nowhere, to: Seat::At(A) }));
    assert!(!following.has_due() && !following.has_caught_up() && !following.seeks());
    following.grown(lane(0), Seat::At(A));
    following.served(shard(0), Seat::At(B));
    assert!(!following.has_due(), "another is asked by now");
    following.served(shard(0), Seat::At(A));
    assert!(!following.has_caught_up());
    let due = following.next().unwrap();
    assert_eq!((due.lane, due.from, due.seat), (lane(0), Offset(0), Seat::At(A)));
    assert_eq!(firsts(&following.take(lane(0), vec![run(0, 3)], Offset(5))), [0]);
    assert!(following.has_due(), "there is more");
    assert_eq!(following.next().unwrap().from, Offset(3));
    assert_eq!(firsts(&following.take(lane(0), vec![run(3, 2)], Offset(5))), [3]);
    assert!(following.has_caught_up());
}

#[test]
fn a_lane_goes_on_at_another_node_without_what_was_had_and_waits_for_what_that_lacks() {
    let mut following = following(1);
    let holders = held_by(Some(A), &[A, B]);
    let _ = following.look(shard(0), &holders);
    following.served(shard(0), Seat::At(A));
    let _ = following.next().unwrap();
    assert_eq!(firsts(&following.take(lane(0), vec![run(0, 4), run(4, 4)], Offset(8))), [0, 4]);
    assert!(following.has_caught_up());

    following.lost(A);
    assert!(!following.has_caught_up());
    let moved = following.look(shard(0), &holders).unwrap();
    assert_eq!(moved, Moved { from: Seat::Nowhere, to: Seat::At(B) }, "who is lost is asked last");
    following.served(shard(0), Seat::At(B));
    assert_eq!(following.next().unwrap().from, Offset(8));
    // It has less than the reader was given: that is not all that the region holds.
    assert_eq!(following.take(lane(0), vec![], Offset(6)), News::default());
    assert!(!following.has_due() && !following.has_caught_up());
    following.grown(lane(0), Seat::At(B));
    let _ = following.next().unwrap();
    // Batches are cut elsewhere there: what was had is not given again.
    let news = following.take(lane(0), vec![run(0, 6), run(6, 6)], Offset(12));
    assert_eq!((firsts(&news), news.hole), (vec![8], None));
    assert!(following.has_caught_up());
}

#[test]
fn what_a_replica_skips_is_said() {
    let mut following = following(1);
    let _ = following.look(shard(0), &here());
    following.served(shard(0), Seat::Here);
    // A lane may begin anywhere; once begun it may not.
    let news = following.take(lane(0), vec![run(10, 2), run(15, 1)], Offset(16));
    assert_eq!(firsts(&news), [10]);
    assert_eq!(news.hole, Some(Hole { at: Offset(12), next: Offset(15) }));
    let news = following.take(lane(0), vec![run(15, 1)], Offset(16));
    assert_eq!((firsts(&news), news.hole), (vec![], Some(Hole { at: Offset(12), next: Offset(15) })));
    assert_eq!(following.cursor().next(ORIGIN, Partition(0)), Offset(12));
}

#[test]
fn a_lane_that_cannot_be_read_is_tried_again_and_nobody_has_caught_up_meanwhile() {
    let mut following = following(1);
    let _ = following.look(shard(0), &here());
    following.served(shard(0), Seat::Here);
    assert!(following.next().is_some());
    following.unreadable(lane(0));
    assert!(!following.has_due() && !following.has_caught_up());
    following.again(lane(0));
    assert_eq!(following.next().map(|due| (due.from, due.seat)), Some((Offset(0), Seat::Here)));
    following.unreadable(lane(0));
    // Its seat is lost meanwhile: it is read once it has another.
    let _ = following.look(shard(0), &held_by(Some(B), &[B]));
    following.again(lane(0));
    assert!(!following.has_due());
    following.served(shard(0), Seat::At(B));
    assert_eq!(following.next().map(|due| due.seat), Some(Seat::At(B)));
    let news = following.take(lane(0), vec![run(0, 5)], Offset(5));
    assert_eq!((firsts(&news), following.has_caught_up()), (vec![0], true));
}

#[test]
fn a_position_beyond_the_end_waits_there() {
    let mut cursor = Cursor::start(STREAM);
    cursor.set(ORIGIN, Partition(0), Offset(8));
    let mut following = Following::new(cursor);
    following.follow(ORIGIN, SHARDS, 1);
    let _ = following.look(shard(0), &here());
    following.served(shard(0), Seat::Here);
    assert_eq!(following.next().unwrap().from, Offset(8));
    assert_eq!(following.take(lane(0), vec![], Offset(5)), News::default());
    assert!(following.has_caught_up(), "the region holds no more");
}

#[test]
fn a_node_that_does_not_serve_is_asked_again_once_all_were_asked_or_it_leads() {
    let mut following = following(1);
    let holders = held_by(None, &[A, B]);
    assert_eq!(following.look(shard(0), &holders).unwrap().to, Seat::At(A));
    following.left(shard(0), A);
    assert_eq!(following.look(shard(0), &holders).unwrap().to, Seat::At(B));
    assert_eq!(following.look(shard(0), &held_by(Some(A), &[A, B])).unwrap().to, Seat::At(A));
    following.left(shard(0), A);
    following.left(shard(0), B);
    assert_eq!(following.look(shard(0), &held_by(Some(A), &[A, B])), None, "nobody is left");
    assert!(following.seeks());
    assert_eq!(following.look(shard(0), &held_by(Some(A), &[A, B])).unwrap().to, Seat::At(A));
}

#[test]
fn new_partitions_and_writers_are_followed_from_their_start() {
    let mut following = following(1);
    for shard in following.shards() {
        let _ = following.look(shard, &here());
        following.served(shard, Seat::Here);
    }
    let _ = following.next().unwrap();
    let _ = following.take(lane(0), vec![], Offset(0));
    assert!(following.has_caught_up());
    following.follow(ORIGIN, SHARDS, 40);
    let again = Origin { incarnation: Incarnation(2), ..ORIGIN };
    following.follow(again, SHARDS, 40);
    assert!(!following.has_caught_up());
    for shard in following.shards() {
        let _ = following.look(shard, &here());
        following.served(shard, Seat::Here);
    }
    let mut lanes = BTreeSet::new();
    while let Some(due) = following.next() {
        assert!(lanes.insert(due.lane), "once: {due:?}");
        assert_eq!(following.take(due.lane, vec![run(0, 1)], Offset(1)).runs.len(), 1);
    }
    assert_eq!(lanes.len(), 80);
    assert!(following.has_caught_up());
}

// --- Any schedule: nodes that come, go, lag, and say things late and twice. ---

const PARTITIONS: u32 = 5;
const NODES: [NodeId; 3] = [A, B, C];

#[derive(Clone, Debug)]
enum Step {
    /// More is published to a lane, in batches of such sizes.
    Publish(u32, Vec<u32>),
    /// A replica catches up with some batches of a lane.
    Replicate(Seat, u32, usize),
    /// The set of a shard's members, and its leader, change.
    Place(u16, Vec<Seat>),
    /// A node is out of reach, or back.
    Reach(NodeId, bool),
    /// The subscription looks where to read.
    Look,
    /// What a seat has said arrives, again perhaps.
    Tell(Seat),
    /// A lane is read, so many batches of it, after some that were read before; or the node is lost half-way.
    Read { batches: usize, again: usize, is_lost: bool },
}

fn seat() -> impl Strategy<Value = Seat> {
    prop_oneof![Just(Seat::Here), prop::sample::select(NODES.to_vec()).prop_map(Seat::At)]
}

fn step() -> impl Strategy<Value = Step> {
    let node = || prop::sample::select(NODES.to_vec());
    prop_oneof![
        2 => (0..PARTITIONS, prop::collection::vec(1u32..4, 1..4)).prop_map(|(p, sizes)| Step::Publish(p, sizes)),
        4 => (seat(), 0..PARTITIONS, 1usize..4).prop_map(|(seat, p, n)| Step::Replicate(seat, p, n)),
        1 => (0..SHARDS, prop::collection::vec(seat(), 0..3)).prop_map(|(shard, set)| Step::Place(shard, set)),
        1 => (node(), any::<bool>()).prop_map(|(node, is_there)| Step::Reach(node, is_there)),
        3 => Just(Step::Look),
        4 => seat().prop_map(Step::Tell),
        6 => (1usize..4, 0usize..3, prop::bool::weighted(0.1))
            .prop_map(|(batches, again, is_lost)| Step::Read { batches, again, is_lost }),
    ]
}

/// What is true, and what the reader was given.
struct World {
    following: Following,
    /// Each lane's batches.
    truth: BTreeMap<u32, Vec<Run>>,
    /// How many of them each replica has.
    held: BTreeMap<(Seat, u32), usize>,
    sets: BTreeMap<u16, Vec<Seat>>,
    reached: BTreeSet<NodeId>,
    given: BTreeMap<u32, u64>,
}

impl World {
    fn new() -> Self {
        Self {
            following: following(PARTITIONS),
            truth: (0..PARTITIONS).map(|partition| (partition, Vec::new())).collect(),
            held: BTreeMap::new(),
            sets: (0..SHARDS).map(|no| (no, vec![Seat::At(A), Seat::At(B)])).collect(),
            reached: NODES.into(),
            given: BTreeMap::new(),
        }
    }

    fn in_reach(&self, seat: Seat) -> bool {
        match seat {
            Seat::At(node) => self.reached.contains(&node),
            Seat::Here => true,
            Seat::Nowhere => false,
        }
    }

    fn holders(&self, shard: ShardId) -> Holders {
        let set = &self.sets[&shard.no.0];
        let node = |seat: &Seat| match seat {
            Seat::At(node) if self.reached.contains(node) => Some(*node),
            _ => None,
        };
        let others: Vec<NodeId> = set.iter().filter_map(node).collect();
        let leader = set.first().and_then(node);
        Holders { here: set.contains(&Seat::Here), leader, members: others.clone(), others }
    }

    fn serves(&self, seat: Seat, shard: ShardId) -> bool {
        self.in_reach(seat) && self.sets[&shard.no.0].contains(&seat)
    }

    fn has(&self, seat: Seat, partition: u32) -> usize {
        self.held.get(&(seat, partition)).copied().unwrap_or(0)
    }

    fn end(&self, seat: Seat, partition: u32) -> Offset {
        self.truth[&partition][..self.has(seat, partition)].last().map_or(Offset(0), Run::next)
    }

    fn look(&mut self) {
        for shard in self.following.shards() {
            let moved = self.following.look(shard, &self.holders(shard));
            if let Some(Moved { to: Seat::Here, .. }) = moved {
                self.following.served(shard, Seat::Here);
            }
        }
    }

    fn tell(&mut self, seat: Seat) {
        for shard in self.following.shards() {
            match seat {
                _ if self.serves(seat, shard) => self.following.served(shard, seat),
                Seat::At(node) if self.reached.contains(&node) => self.following.left(shard, node),
                Seat::At(node) => self.following.lost(node),
                Seat::Here | Seat::Nowhere => {}
            }
        }
    }

    /// Reads a lane; whether there was one.
    fn read(&mut self, batches: usize, again: usize, is_lost: bool) -> bool {
        let Some(due) = self.following.next() else { return false };
        let partition = due.lane.partition.0;
        assert_eq!(due.from.0, self.given.get(&partition).copied().unwrap_or(0));
        if let Seat::At(node) = due.seat
            && (is_lost || !self.serves(due.seat, due.shard))
        {
            self.following.left(due.shard, node);
            return true;
        }
        let held = &self.truth[&partition][..self.has(due.seat, partition)];
        let first = held.iter().position(|run| run.next() > due.from).unwrap_or(held.len());
        let read = &held[first.saturating_sub(again)..(first + batches).min(held.len())];
        let (read, end) = (read.to_vec(), self.end(due.seat, partition));
        let news = self.following.take(due.lane, read, end);
        assert_eq!(news.hole, None);
        let given = self.given.entry(partition).or_insert(0);
        for (run, first) in news.runs {
            assert_eq!(first.0, *given, "no gap and no twin");
            *given = run.next().0;
        }
        true
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Publish(partition, sizes) => {
                let lane = self.truth.get_mut(&partition).unwrap();
                for events in sizes {
                    lane.push(run(lane.last().map_or(0, |run| run.next().0), events));
                }
            }
            Step::Replicate(seat, partition, batches) => {
                let all = self.truth[&partition].len();
                let held = self.held.entry((seat, partition)).or_insert(0);
                *held = (*held + batches).min(all);
            }
            Step::Place(shard, set) => drop(self.sets.insert(shard, set)),
            Step::Reach(node, true) => drop(self.reached.insert(node)),
            Step::Reach(node, false) => {
                self.reached.remove(&node);
            }
            Step::Look => self.look(),
            Step::Tell(seat) => self.tell(seat),
            Step::Read { batches, again, is_lost } => drop(self.read(batches, again, is_lost)),
        }
    }

    /// Nobody is told that all was sent while a shard's seat is not known to serve it, or has less than was given.
    fn check(&self) {
        if !self.following.has_caught_up() {
            return;
        }
        for partition in 0..PARTITIONS {
            let seat = self.following.seat_of(shard(partition));
            assert!(seat != Seat::Nowhere, "partition {partition} is read nowhere");
            let given = self.given.get(&partition).copied().unwrap_or(0);
            assert!(
                self.end(seat, partition).0 >= given,
                "partition {partition} was longer than its seat has it"
            );
        }
    }
}

proptest! {
    #[test]
    fn every_schedule_gives_each_event_once_in_order_and_all_in_the_end(steps in prop::collection::vec(step(), 0..200)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.check();
        }
        // All is well again: every replica of the sets that there are has everything, and somebody holds each shard.
        world.reached = NODES.into();
        for no in 0..SHARDS {
            let set = world.sets.get_mut(&no).unwrap();
            if set.is_empty() {
                set.push(Seat::At(C));
            }
        }
        for partition in 0..PARTITIONS {
            for seat in [Seat::Here, Seat::At(A), Seat::At(B), Seat::At(C)] {
                world.held.insert((seat, partition), world.truth[&partition].len());
            }
        }
        for _ in 0..4 {
            world.look();
            for seat in [Seat::Here, Seat::At(A), Seat::At(B), Seat::At(C)] {
                world.tell(seat);
            }
        }
        world.look();
        for seat in [Seat::Here, Seat::At(A), Seat::At(B), Seat::At(C)] {
            world.tell(seat);
        }
        while world.read(2, 1, false) {}
        prop_assert!(world.following.has_caught_up());
        for (partition, runs) in &world.truth {
            let end = runs.last().map_or(0, |run| run.next().0);
            prop_assert_eq!(world.given.get(partition).copied().unwrap_or(0), end);
        }
    }
}
