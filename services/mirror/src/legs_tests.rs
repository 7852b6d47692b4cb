//! A link over several legs, against nodes that keep to the protocol, and what must hold whatever happens to them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeSet, VecDeque};

use meridian_storage::Frame;
use meridian_types::LeaderEpoch;
use proptest::prelude::*;

use super::*;
use crate::tests_support::{chain_at, log, mark, shard};

const BUDGET: u64 = 4_000;
const CONFIG: LinkConfig =
    LinkConfig { credit_bytes: BUDGET, stall_ms: 10_000, retry_ms: 200, hosting_incarnation: 1 };
const FRAMES: u64 = 40;

/// A node at the other end of a leg.
#[derive(Default)]
struct Source {
    node: u32,
    credit: i64,
    fetched: BTreeMap<ShardId, u64>,
}

/// A link, the nodes of its source's region, and the copies.
struct Rig {
    legs: Legs,
    now: u64,
    logs: Vec<Vec<Frame>>,
    /// The nodes that hold each shard.
    holders: Vec<BTreeSet<u32>>,
    /// What a node says of that.
    hints: Option<Vec<u32>>,
    sources: BTreeMap<LegId, Source>,
    opening: BTreeSet<NodeId>,
    /// Appended and durable.
    copies: Vec<(u64, u64)>,
    /// Said by the nodes and not yet heard.
    said: VecDeque<LegsInput>,
    opened: Vec<(u64, NodeId)>,
    reconnects: u32,
    /// The main leg is given up, once all else is done.
    gives_up: bool,
}

impl Rig {
    /// The main leg leads to node 1. Each shard is on the nodes that are given.
    fn new(holders: &[&[u32]]) -> Self {
        let mut rig = Self {
            legs: Legs::new(CONFIG, NodeId(0)),
            now: 1_000_000_000,
            logs: (0..holders.len()).map(|no| log(shard(no as u16), 1, FRAMES, 60)).collect(),
            holders: holders.iter().map(|nodes| nodes.iter().copied().collect()).collect(),
            hints: None,
            sources: BTreeMap::new(),
            opening: BTreeSet::new(),
            copies: vec![(0, 0); holders.len()],
            said: VecDeque::new(),
            opened: Vec::new(),
            reconnects: 0,
            gives_up: false,
        };
        for no in 0..holders.len() {
            rig.show(no, true);
        }
        rig.connect_main(1);
        rig
    }

    fn connect_main(&mut self, node: u32) {
        if let Entry::Vacant(none) = self.sources.entry(LegId::Main) {
            none.insert(Source { node, ..Source::default() });
            self.step(LegsInput::Connected(LegId::Main));
        }
    }

    fn step(&mut self, input: LegsInput) {
        let mut out = Vec::new();
        self.legs.step(input, Timestamp(self.now), &mut out);
        for effect in out {
            match effect {
                LegsEffect::On(id, effect) => self.on(id, effect),
                LegsEffect::Open(node, _) => {
                    assert!(self.opening.insert(node), "{node} is being opened");
                    assert!(!self.sources.contains_key(&LegId::To(node)), "{node} is open");
                    self.opened.push((self.now, node));
                }
                LegsEffect::Close(node) => {
                    let was = self.opening.remove(&node) | self.sources.remove(&LegId::To(node)).is_some();
                    assert!(was, "{node} is closed already");
                    self.forget(LegId::To(node));
                }
            }
        }
        if std::mem::take(&mut self.gives_up) {
            self.sources.remove(&LegId::Main);
            self.forget(LegId::Main);
            return self.step(LegsInput::Lost(LegId::Main));
        }
        self.check();
    }

    fn on(&mut self, id: LegId, effect: LinkEffect) {
        if let LinkEffect::Append(shard, _, frames) = &effect {
            let copy = &mut self.copies[usize::from(shard.no.0)];
            assert_eq!(frames[0].header.seq.0, copy.0 + 1, "n+1 after n");
            copy.0 += frames.len() as u64;
            return;
        }
        if matches!(effect, LinkEffect::Reconnect) {
            assert_eq!(id, LegId::Main);
            self.reconnects += 1;
            self.gives_up = true;
            return;
        }
        if let LinkEffect::Fetch { shard, .. } = &effect {
            let elsewhere =
                |(leg, source): (&LegId, &Source)| *leg != id && source.fetched.contains_key(shard);
            assert!(!self.sources.iter().any(elsewhere), "{shard} is asked for on two legs");
        }
        let source = self.sources.get_mut(&id).unwrap_or_else(|| panic!("{effect:?} on {id:?}, not open"));
        match effect {
            LinkEffect::Fetch { shard, from, .. } => {
                let no = usize::from(shard.no.0);
                let input = if self.holders[no].contains(&source.node) {
                    source.fetched.insert(shard, from.0);
                    LegsInput::Heard(id, LinkInput::Mark(shard, mark(FRAMES)))
                } else {
                    let named = self.hints.clone().unwrap_or(self.holders[no].iter().copied().collect());
                    let named = named.into_iter().filter(|node| *node != source.node).map(NodeId);
                    refusal(id, shard, named.collect())
                };
                self.said.push_back(input);
            }
            LinkEffect::Stop(shard) => {
                source.fetched.remove(&shard);
            }
            LinkEffect::Credit(bytes) => source.credit += bytes as i64,
            LinkEffect::Withdraw(bytes) => {
                let back = source.credit.clamp(0, bytes as i64);
                source.credit -= back;
                self.said.push_back(LegsInput::Heard(id, LinkInput::Withdrawn(back as u64)));
            }
            LinkEffect::Ping => {
                self.said.push_back(LegsInput::Heard(id, LinkInput::Pong(Duration::from_millis(1))));
            }
            LinkEffect::Durable(..) | LinkEffect::Append(..) | LinkEffect::Reconnect => {}
        }
    }

    /// The follower of a copy tells how it is.
    fn show(&mut self, no: usize, leads: bool) {
        let (appended, durable) = self.copies[no];
        let log = &self.logs[no];
        let state = CopyState {
            appended: Seq(appended),
            chain: chain_at(log, appended),
            durable: Seq(durable),
            totals: mark(durable).totals,
            hlc: mark(durable).hlc,
            leads: leads.then_some(LeaderEpoch(1)),
            follows: !leads,
            is_past: false,
            fault: None,
        };
        self.step(LegsInput::Copy(shard(no as u16), state));
    }

    /// What the nodes have said is heard.
    fn hear(&mut self) {
        while let Some(input) = self.said.pop_front() {
            let leg = match &input {
                LegsInput::Heard(leg, _) | LegsInput::Refused { leg, .. } => *leg,
                _ => LegId::Main,
            };
            if self.sources.contains_key(&leg) {
                self.step(input);
            }
        }
    }

    /// Attempts at legs come to something.
    fn open_all(&mut self) {
        while let Some(node) = self.opening.pop_first() {
            self.sources.insert(LegId::To(node), Source { node: node.0, ..Source::default() });
            self.step(LegsInput::Connected(LegId::To(node)));
        }
    }

    /// What a connection has not yet brought ends with it.
    fn forget(&mut self, id: LegId) {
        self.said.retain(|input| match input {
            LegsInput::Heard(leg, _) | LegsInput::Refused { leg, .. } => *leg != id,
            _ => true,
        });
    }

    fn lose(&mut self, id: LegId) {
        self.forget(id);
        if self.sources.remove(&id).is_some() {
            self.step(LegsInput::Lost(id));
        }
    }

    /// Each node pushes a frame of each shard that it is asked for, within its credit.
    fn push(&mut self) {
        let ids: Vec<LegId> = self.sources.keys().copied().collect();
        for id in ids {
            let fetched: Vec<ShardId> = self
                .sources
                .get(&id)
                .map(|source| source.fetched.keys().copied().collect())
                .unwrap_or_default();
            for shard in fetched {
                let Some(source) = self.sources.get_mut(&id).filter(|source| source.credit > 0) else {
                    break;
                };
                let Some(next) = source.fetched.get_mut(&shard).filter(|next| **next <= FRAMES) else {
                    continue;
                };
                let frame = self.logs[usize::from(shard.no.0)][*next as usize - 1].clone();
                *next += 1;
                source.credit -= frame.encoded_len() as i64;
                self.step(LegsInput::Heard(id, LinkInput::Frames { shard, frames: vec![frame] }));
            }
        }
    }

    fn store(&mut self, no: usize) {
        self.copies[no].1 = self.copies[no].0;
        self.show(no, true);
    }

    fn frame_bytes(&self) -> u64 {
        self.logs[0][0].encoded_len() as u64
    }

    fn pass(&mut self, millis: u64) {
        for _ in 0..millis / 100 {
            self.now += 100;
            self.step(LegsInput::Tick);
            self.hear();
        }
    }

    /// Nothing is in the way any more: everything that is held anywhere arrives. Says how long that took.
    fn finish(&mut self) -> u64 {
        let begun = self.now;
        while self.copies.iter().any(|(_, durable)| *durable < FRAMES) {
            assert!(self.now < begun + 60_000, "{:?} after a minute: {:?}", self.copies, self.legs.places);
            if !self.sources.contains_key(&LegId::Main) {
                self.connect_main(1);
            }
            self.pass(100);
            self.open_all();
            self.hear();
            self.push();
            for no in 0..self.copies.len() {
                self.store(no);
            }
            self.hear();
        }
        self.now - begun
    }

    fn check(&self) {
        for no in 0..self.copies.len() {
            let shard = shard(no as u16);
            let at = |leg: &Leg| leg.core.durable_of(shard).is_some();
            let Some(place) = self.legs.places.get(&shard) else { continue };
            let legs: Vec<LegId> =
                self.legs.legs.iter().filter(|(_, leg)| at(leg)).map(|(id, _)| *id).collect();
            assert_eq!(legs, [place.at], "{shard} is on one leg, and on that where it should be");
        }
        let allotted: u64 = self.legs.legs.values().map(|leg| leg.core.allotted()).sum();
        assert!(allotted <= BUDGET, "{allotted} bytes are allotted");
        // What may still come and what is not stored, but for a frame that overdraws on each leg.
        let may_come: i64 = self.sources.values().map(|source| source.credit.max(0)).sum();
        let waits: u64 =
            self.copies.iter().map(|(appended, durable)| (appended - durable) * self.frame_bytes()).sum();
        let most = BUDGET + self.frame_bytes() * self.legs.legs.len() as u64;
        assert!(may_come as u64 + waits <= most, "{may_come} may come, {waits} wait, at most {most}");
    }

    fn status(&self) -> LinkStatus {
        self.legs.status(Timestamp(self.now))
    }

    fn place(&self, no: u16) -> LegId {
        self.legs.places[&shard(no)].at
    }
}

fn refusal(leg: LegId, shard: ShardId, holders: Vec<NodeId>) -> LegsInput {
    let (reason, last) = (RefusedReason::UnknownShard, Seq::ZERO);
    LegsInput::Refused { leg, shard, reason, last, message: "it is elsewhere".into(), holders }
}

#[test]
fn a_node_that_holds_everything_needs_no_other() {
    let mut rig = Rig::new(&[&[1], &[1], &[1]]);
    rig.finish();
    assert!(rig.opened.is_empty());
    assert_eq!(rig.legs.legs[&LegId::Main].core.allotted(), BUDGET, "it has all the credit");
}

#[test]
fn each_shard_comes_from_a_node_that_holds_it_without_a_turn() {
    let mut rig = Rig::new(&[&[1], &[2], &[3], &[4], &[2]]);
    let took = rig.finish();
    assert_eq!(rig.opened.len(), 3, "a leg to each other node");
    assert_eq!((rig.reconnects, rig.status().reconnects, rig.status().stalls), (0, 0, 0));
    assert_eq!((rig.status().legs, rig.status().state), (3, LinkState::Live));
    assert_eq!(rig.status().stalled, Duration::ZERO, "in {took} ms");
    assert_eq!((rig.place(0), rig.place(1), rig.place(4)), (LegId::Main, LegId::To(NodeId(2)), rig.place(1)));
}

#[test]
fn as_few_legs_as_do() {
    let mut rig = Rig::new(&[&[2, 3], &[2, 3], &[3, 4], &[2, 4]]);
    rig.finish();
    assert_eq!(rig.opened.len(), 2, "{:?}", rig.opened);
}

#[test]
fn the_credit_is_split_and_comes_back() {
    let mut rig = Rig::new(&[&[1], &[2], &[3]]);
    rig.hear();
    rig.open_all();
    rig.hear();
    let allotted = |rig: &Rig, id| rig.legs.legs[&id].core.allotted();
    let ids = [LegId::Main, LegId::To(NodeId(2)), LegId::To(NodeId(3))];
    assert_eq!(ids.map(|id| allotted(&rig, id)), [BUDGET - 2 * (BUDGET / 3), BUDGET / 3, BUDGET / 3]);
    assert!(ids.iter().all(|id| rig.sources[id].credit > 0), "a frame passes on any");
    // Everything moves to the main leg's node.
    rig.finish();
    rig.holders = vec![[1].into(); 3];
    for no in [2, 3] {
        rig.sources.get_mut(&LegId::To(NodeId(no))).unwrap().fetched.clear();
        rig.said.push_back(refusal(LegId::To(NodeId(no)), shard(no as u16 - 1), Vec::new()));
    }
    rig.hear();
    rig.pass(IDLE_MS - 1_000);
    assert_eq!(rig.status().legs, 2);
    rig.pass(2_000);
    assert_eq!((rig.status().legs, allotted(&rig, LegId::Main)), (0, BUDGET), "legs without shards end");
    assert_eq!(rig.sources[&LegId::Main].credit, BUDGET as i64);
    assert_eq!(rig.status().reconnects, 0);
    rig.pass(FORGET_MS);
    assert_eq!(rig.legs.legs.len(), 1, "and are forgotten");
}

#[test]
fn a_leg_that_is_lost_gives_its_shards_back_and_another_holder_has_its_turn() {
    let mut rig = Rig::new(&[&[1], &[2, 3]]);
    rig.hear();
    let first = rig.opened[0].1;
    rig.open_all();
    rig.hear();
    rig.push();
    rig.lose(LegId::To(first));
    assert_eq!(rig.place(1), LegId::To(first), "what is in hand counts where it came from");
    rig.store(1);
    assert_eq!(rig.place(1), LegId::Main);
    rig.pass(300);
    let second = rig.opened[1].1;
    assert_ne!(first, second);
    rig.finish();
    assert_eq!(rig.status().reconnects, 1, "of the leg");
    assert_eq!(rig.reconnects, 0, "the main leg stands");
}

#[test]
fn a_leg_that_makes_no_progress_is_noticed_and_does_not_turn_the_others() {
    let mut rig = Rig::new(&[&[1], &[2]]);
    rig.hear();
    rig.open_all();
    rig.hear();
    // Node 2 has something and sends nothing; node 1 does.
    for _ in 0..99 {
        rig.pass(100);
        let main = rig.sources.get_mut(&LegId::Main).unwrap();
        main.fetched.clear();
    }
    assert_eq!((rig.status().stalls, rig.opened.len()), (0, 1));
    let stalled = rig.status().stalled;
    assert!(stalled >= Duration::from_millis(9_800) && stalled <= Duration::from_secs(10), "{stalled:?}");
    assert!(rig.status().state != LinkState::Faulted);
}

#[test]
fn holders_that_are_out_of_reach_are_tried_more_and_more_rarely_and_turn_nobody() {
    let mut rig = Rig::new(&[&[1], &[2]]);
    rig.hear();
    let mut stored = false;
    for _ in 0..1_200 {
        if !stored {
            rig.push();
            rig.store(0);
            stored = rig.copies[0].1 == FRAMES;
        }
        while let Some(node) = rig.opening.pop_first() {
            rig.step(LegsInput::Lost(LegId::To(node)));
        }
        rig.pass(100);
    }
    let tries = rig.opened.len();
    assert!((15..40).contains(&tries), "{tries} tries in two minutes");
    assert_eq!(rig.reconnects, 0, "its shard is nowhere else");
    assert!(rig.status().state == LinkState::Connecting, "{:?}", rig.status());
    assert!(rig.status().stalled > Duration::from_secs(110), "{:?}", rig.status().stalled);
}

#[test]
fn a_source_whose_word_is_old_is_turned_away_from() {
    let mut rig = Rig::new(&[&[1], &[3]]);
    // It says that node 2 has the shard, which says that it has not.
    rig.hints = Some(vec![2]);
    let mut fetches = 0;
    while rig.reconnects == 0 {
        assert!(rig.now < 1_000_060_000, "it stays for ever");
        rig.pass(100);
        rig.open_all();
        fetches += rig.said.len();
        rig.hear();
    }
    assert!(fetches < 300, "{fetches} questions");
}

#[test]
fn a_source_that_names_nobody_is_turned_away_from() {
    let mut rig = Rig::new(&[&[1], &[2]]);
    rig.hints = Some(Vec::new());
    rig.said.clear();
    rig.said.push_back(refusal(LegId::Main, shard(1), Vec::new()));
    rig.said.push_back(LegsInput::Heard(LegId::Main, LinkInput::Mark(shard(0), mark(FRAMES))));
    rig.hear();
    rig.push();
    rig.store(0);
    rig.pass(10_500);
    assert_eq!(rig.reconnects, 1, "as of old");
    assert!(rig.opened.is_empty());
}

#[test]
fn what_another_node_of_this_region_mirrors_keeps_no_leg_open() {
    let mut rig = Rig::new(&[&[1], &[2]]);
    rig.hear();
    rig.open_all();
    rig.hear();
    rig.show(1, false);
    assert_eq!(rig.place(1), LegId::Main);
    rig.pass(IDLE_MS + 200);
    assert_eq!(rig.status().legs, 0);
}

#[test]
fn a_fault_goes_with_its_shard() {
    let mut rig = Rig::new(&[&[1], &[2]]);
    rig.hear();
    rig.open_all();
    rig.hear();
    let (leg, shard, last) = (LegId::To(NodeId(2)), shard(1), Seq::ZERO);
    let (reason, message) = (RefusedReason::ChainDiffers, "it differs".to_owned());
    rig.step(LegsInput::Refused { leg, shard, reason, last, message, holders: Vec::new() });
    assert_eq!((rig.status().state, rig.status().faults.len()), (LinkState::Faulted, 1));
    rig.lose(leg);
    for _ in 0..60 {
        rig.push();
        rig.store(0);
        rig.pass(100);
    }
    assert_eq!((rig.place(1), rig.status().faults.len()), (LegId::Main, 1));
    assert!(!rig.sources[&LegId::Main].fetched.contains_key(&shard), "it is asked for nowhere");
    assert_eq!(rig.status().stalled, Duration::ZERO, "of what is faulted nothing is awaited");
}

#[test]
fn legs_of_a_relay_end_with_it() {
    let mut rig = Rig::new(&[&[1], &[2], &[3]]);
    rig.hear();
    rig.open_all();
    rig.hear();
    rig.lose(LegId::Main);
    for node in [2, 3] {
        rig.step(LegsInput::Retire(NodeId(node)));
    }
    assert!(rig.sources.is_empty() && rig.place(1) == LegId::Main && rig.place(2) == LegId::Main);
    assert_eq!(rig.status().reconnects, 1, "the main leg's");
    rig.finish();
}

#[derive(Clone, Debug)]
enum Op {
    Hear,
    Open,
    FailToOpen,
    Push,
    Store(usize),
    Follow(usize),
    Lose(u32),
    MainTo(u32),
    Move(usize, u32),
    Retire(u32),
    Pass(u64),
    JumpBack,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => Just(Op::Hear),
        3 => Just(Op::Open),
        1 => Just(Op::FailToOpen),
        4 => Just(Op::Push),
        4 => (0..4usize).prop_map(Op::Store),
        1 => (0..4usize).prop_map(Op::Follow),
        1 => (0..5u32).prop_map(Op::Lose),
        1 => (1..5u32).prop_map(Op::MainTo),
        1 => (0..4usize, 1..5u32).prop_map(|(no, node)| Op::Move(no, node)),
        1 => (1..5u32).prop_map(Op::Retire),
        3 => (1..60u64).prop_map(|tenths| Op::Pass(tenths * 100)),
        1 => Just(Op::JumpBack),
    ]
}

proptest! {
    /// Whatever happens, `Rig::check` holds after every step; and once nothing happens any more, everything arrives soon.
    #[test]
    fn a_shard_is_on_one_leg_and_the_credit_is_kept(
        holders in proptest::collection::vec(proptest::collection::btree_set(1..5u32, 1..3), 4),
        ops in proptest::collection::vec(op(), 0..120),
    ) {
        let held: Vec<Vec<u32>> = holders.iter().map(|nodes| nodes.iter().copied().collect()).collect();
        let held: Vec<&[u32]> = held.iter().map(Vec::as_slice).collect();
        let mut rig = Rig::new(&held);
        for op in ops {
            match op {
                Op::Hear => rig.hear(),
                Op::Open => rig.open_all(),
                Op::FailToOpen => {
                    if let Some(node) = rig.opening.pop_first() {
                        rig.step(LegsInput::Lost(LegId::To(node)));
                    }
                }
                Op::Push => rig.push(),
                Op::Store(no) => rig.store(no),
                Op::Follow(no) => {
                    rig.copies[no].1 = rig.copies[no].0;
                    rig.show(no, false);
                }
                Op::Lose(0) => rig.lose(LegId::Main),
                Op::Lose(node) => rig.lose(LegId::To(NodeId(node))),
                Op::MainTo(node) => rig.connect_main(node),
                Op::Move(no, node) => {
                    rig.holders[no] = [node].into();
                    let gone: Vec<LegId> = rig
                        .sources
                        .iter_mut()
                        .filter(|(_, source)| source.node != node)
                        .filter_map(|(id, source)| source.fetched.remove(&shard(no as u16)).map(|_| *id))
                        .collect();
                    for id in gone {
                        rig.said.push_back(refusal(id, shard(no as u16), vec![NodeId(node)]));
                    }
                }
                Op::Retire(node) => {
                    rig.step(LegsInput::Retire(NodeId(node)));
                    // It was no failure, so the node may be dialled again at once.
                    rig.opened.retain(|(_, opened)| opened.0 != node);
                }
                Op::Pass(millis) => rig.pass(millis),
                Op::JumpBack => {
                    rig.now -= 600_000;
                    rig.step(LegsInput::Tick);
                }
            }
        }
        rig.finish();
        // No node is dialled again and again.
        for pair in rig.opened.windows(2) {
            let (first, second) = (pair[0], pair[1]);
            prop_assert!(first.1 != second.1 || first.0 != second.0, "{:?}", rig.opened);
        }
    }
}
