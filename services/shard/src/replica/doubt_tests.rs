//! Replicas that lose the end of their logs, and with it what they had reported and promised: whatever happens, nobody
//! leads without every committed frame. Real replicas; a toy volume, network, and placement, which elects by the rule of
//! `metadata/driver/election.rs`.

use std::collections::BTreeMap;

use meridian_storage::index::AppliedMark;
use meridian_types::{LogEnd, SetVersion};
use rand::rngs::Xoshiro256PlusPlus as Rng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::tests_support::{SHARD, publish};
use crate::{Election, ReplicaSet};

const NODES: usize = 3;
const SEEDS: u64 = 400;
const STEPS: usize = 4000;

/// What a volume is asked to write.
#[derive(Clone, Debug)]
enum Entry {
    Frame(Frame),
    Cut(LogPoint),
    Promise(LeaderEpoch),
    Doubt(Option<Seq>),
}

/// What outlives a process.
#[derive(Default)]
struct Disk {
    log: Vec<Frame>,
    promised: LeaderEpoch,
    doubt: Option<Seq>,
    /// Recovery would find frames from here on missing.
    damaged_from: Option<Seq>,
    applied: Seq,
}

struct Node {
    id: NodeId,
    boot: u64,
    replica: Replica,
    /// Its log, synced or not.
    view: Vec<Frame>,
    queue: Vec<Entry>,
    disk: Disk,
    /// To whom it sends from where on, and in which leadership.
    feeds: BTreeMap<NodeId, (LeaderEpoch, Seq)>,
}

#[derive(Clone, Debug)]
enum Word {
    Replica(Message),
    Fence(LeaderEpoch),
    Elected(Election),
}

#[derive(Clone, Debug)]
struct Answer {
    boot: u64,
    end: LogEnd,
    unsure: bool,
}

/// What the seeds have met, so that the test knows that it tested.
#[derive(Debug, Default)]
struct Met {
    damaged: u64,
    lost_committed: u64,
    promise_lost: u64,
    doubts: u64,
    over: u64,
    elected: u64,
    led_after_doubt: u64,
    committed: u64,
}

struct World {
    seed: u64,
    rng: Rng,
    nodes: Vec<Node>,
    words: Vec<(usize, u64, NodeId, Word)>,
    begun: LeaderEpoch,
    answers: BTreeMap<NodeId, Answer>,
    elections: Vec<Election>,
    /// The chains of what any leader has committed.
    truth: Vec<Chain>,
    ever_doubted: [bool; NODES],
    met: Met,
}

fn point(frame: &Frame) -> LogPoint {
    let header = &frame.header;
    LogPoint { seq: header.seq, epoch: header.log_epoch, chain: header.chain }
}

fn opened(id: NodeId, boot: u64, disk: &Disk) -> Replica {
    let applied = disk.applied.0.checked_sub(1).map(|at| {
        let header = disk.log[at as usize].header;
        AppliedMark { seq: header.seq, log_epoch: header.log_epoch, hlc: header.hlc, chain: header.chain }
    });
    let mut lanes = BTreeMap::new();
    for frame in &disk.log[..disk.applied.0 as usize] {
        if frame.header.kind == FrameKind::Events {
            lanes.insert((frame.header.stream, frame.header.partition), frame.header.next_offset());
        }
    }
    let recovery = Recovery { applied, lanes, promised: disk.promised };
    let mut replica = Replica::recover(SHARD, id, Boot(boot), Home::Origin, recovery, 16);
    for frame in &disk.log[disk.applied.0 as usize..] {
        replica.replay(frame).expect("what is stored follows");
    }
    for from in [disk.doubt, disk.damaged_from].into_iter().flatten() {
        replica.set_unsure(from);
    }
    replica
}

impl World {
    fn new(seed: u64, met: Met) -> Self {
        let nodes = (1..=NODES as u32).map(|id| Node {
            id: NodeId(id),
            boot: 1,
            replica: opened(NodeId(id), 1, &Disk::default()),
            view: Vec::new(),
            queue: Vec::new(),
            disk: Disk::default(),
            feeds: BTreeMap::new(),
        });
        Self {
            seed,
            rng: Rng::seed_from_u64(seed),
            nodes: nodes.collect(),
            words: Vec::new(),
            begun: LeaderEpoch(0),
            answers: BTreeMap::new(),
            elections: Vec::new(),
            truth: Vec::new(),
            ever_doubted: [false; NODES],
            met,
        }
    }

    fn set() -> ReplicaSet {
        let members = (1..=NODES as u32).map(NodeId).collect();
        ReplicaSet { version: SetVersion(1), members }
    }

    fn step(&mut self, at: usize, input: Input) {
        let now = Timestamp(1_000_000);
        let mut out = Vec::new();
        let led_before = self.nodes[at].replica.leads();
        self.nodes[at].replica.step(input, now, &mut out);
        for effect in out {
            self.execute(at, effect);
        }
        let node = &self.nodes[at];
        let leads = node.replica.leads();
        if leads.is_some() && leads != led_before {
            // The law.
            let lacks = (self.truth.iter().enumerate())
                .find(|(i, chain)| node.view.get(*i).is_none_or(|frame| frame.header.chain != **chain));
            assert!(
                lacks.is_none(),
                "seed {}: {} leads in {leads:?} without committed frame {:?}",
                self.seed,
                node.id,
                lacks.map(|(i, _)| i + 1)
            );
            self.met.elected += 1;
            self.met.led_after_doubt += u64::from(self.ever_doubted[at]);
        }
        // What a step with several effects appends may be to come.
        let committed = node.view.len().min(node.replica.marks().committed.0 as usize);
        for i in 0..committed {
            let chain = node.view[i].header.chain;
            match self.truth.get(i) {
                Some(known) => {
                    assert_eq!(*known, chain, "seed {}: two frames {} are committed", self.seed, i + 1)
                }
                None => {
                    assert!(leads.is_some(), "seed {}: only a leader commits", self.seed);
                    self.truth.push(chain);
                    self.met.committed += 1;
                }
            }
        }
    }

    fn execute(&mut self, at: usize, effect: Effect) {
        let node = &mut self.nodes[at];
        match effect {
            Effect::Append(frame) => {
                node.view.push(frame.clone());
                if let from @ Some(_) = node.replica.doubt_to_write() {
                    node.queue.push(Entry::Doubt(from));
                }
                node.queue.push(Entry::Frame(frame));
            }
            Effect::Cut { after } => {
                node.view.truncate(after.seq.0 as usize);
                node.queue.retain(|entry| !matches!(entry, Entry::Frame(f) if f.header.seq > after.seq));
                node.queue.push(Entry::Cut(after));
            }
            Effect::Promise(promise) => node.queue.push(Entry::Promise(promise.epoch)),
            Effect::Doubt { from } => {
                self.ever_doubted[at] = true;
                self.met.doubts += u64::from(from.is_some());
                self.met.over += u64::from(from.is_none());
                self.nodes[at].queue.push(Entry::Doubt(from));
            }
            Effect::Answer(FenceAnswer::Promised { epoch, end, unsure_from }) => {
                if epoch == self.begun {
                    let answer = Answer { boot: node.boot, end, unsure: unsure_from.is_some() };
                    self.answers.insert(node.id, answer);
                }
            }
            Effect::Apply { through } => {
                self.step(at, Input::Applied(through));
            }
            Effect::Send { to, message } => {
                let (from, to) = (node.id, to.0 as usize - 1);
                let boot = self.nodes[to].boot;
                self.words.push((to, boot, from, Word::Replica(message)));
            }
            Effect::Feed { to, epoch, after } => drop(node.feeds.insert(to, (epoch, after.next()))),
            Effect::StopFeeding => node.feeds.clear(),
            Effect::Fault(fault) => panic!("seed {}: {} is faulted: {fault}", self.seed, node.id),
            Effect::Answer(FenceAnswer::Refused { .. })
            | Effect::Ack { .. }
            | Effect::Reject { .. }
            | Effect::Readable { .. } => {}
        }
    }

    /// The volume writes what was queued first, and says so.
    fn sync(&mut self, at: usize) {
        let count = self.nodes[at].queue.len();
        let count = if self.rng.random_bool(0.5) { count } else { self.rng.random_range(0..=count) };
        let entries: Vec<Entry> = self.nodes[at].queue.drain(..count).collect();
        let disk = &mut self.nodes[at].disk;
        let mut inputs = Vec::new();
        for entry in entries {
            match entry {
                Entry::Frame(frame) => {
                    let LogPoint { seq, chain, .. } = point(&frame);
                    disk.log.push(frame);
                    inputs.push(Input::Flushed { seq, chain });
                }
                Entry::Cut(after) => {
                    disk.log.truncate(after.seq.0 as usize);
                    inputs.push(Input::Flushed { seq: after.seq, chain: after.chain });
                }
                Entry::Promise(epoch) => {
                    disk.promised = epoch;
                    inputs.push(Input::Promised { epoch });
                }
                Entry::Doubt(Some(from)) => {
                    disk.doubt = Some(disk.doubt.map_or(from, |known| known.min(from)));
                    disk.damaged_from = None;
                }
                Entry::Doubt(None) => {
                    disk.doubt = None;
                    inputs.push(Input::Sure);
                }
            }
        }
        for input in inputs {
            self.step(at, input);
        }
    }

    /// The process ends; with damage, its disk has lost what was at the end, and maybe promises.
    fn restart(&mut self, at: usize, damage: bool) {
        let committed = self.truth.len() as u64;
        let node = &mut self.nodes[at];
        let applied = node.replica.marks().applied;
        node.disk.applied = Seq(self.rng.random_range(node.disk.applied.0..=applied.0));
        if damage {
            let kept = self.rng.random_range(node.disk.applied.0..=node.disk.log.len() as u64);
            self.met.damaged += 1;
            self.met.lost_committed += u64::from(kept < committed.min(node.disk.log.len() as u64));
            node.disk.log.truncate(kept as usize);
            let from = Seq(kept).next();
            node.disk.damaged_from = Some(node.disk.damaged_from.map_or(from, |known| known.min(from)));
            if self.rng.random_bool(0.5) {
                self.met.promise_lost += 1;
                node.disk.promised = LeaderEpoch(0);
            }
        }
        node.boot += 1;
        node.queue.clear();
        node.feeds.clear();
        node.view = node.disk.log.clone();
        node.replica = opened(node.id, node.boot, &node.disk);
        let boot = node.boot;
        self.words.retain(|(to, of, ..)| *to != at || *of == boot);
    }

    fn deliver(&mut self) {
        if self.words.is_empty() {
            return;
        }
        let which = self.rng.random_range(0..self.words.len().min(6));
        let (to, _, from, word) = self.words.remove(which);
        match word {
            Word::Replica(message) => {
                let held = self.nodes[to].replica.must_look_up(&message).map(|(seq, epoch)| {
                    let fits = |frame: &&Frame| frame.header.seq <= seq && frame.header.log_epoch <= epoch;
                    self.nodes[to].view.iter().rev().find(fits).map_or(LogPoint::START, point)
                });
                self.step(to, Input::From { node: from, message, held });
            }
            Word::Fence(epoch) => self.step(to, Input::Fence { epoch }),
            Word::Elected(election) => self.step(to, Input::Elected(election)),
        }
    }

    fn pump(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let committed = node.replica.marks().committed;
        let mut said = Vec::new();
        for (to, (epoch, next)) in &mut node.feeds {
            let frames: Vec<Frame> = node.view.iter().skip(next.0 as usize - 1).take(3).cloned().collect();
            *next = Seq(next.0 + frames.len() as u64);
            let message = match frames.is_empty() {
                true => Message::Committed { epoch: *epoch, seq: committed },
                false => Message::Frames { epoch: *epoch, frames, committed },
            };
            said.push((*to, message));
        }
        for (to, message) in said {
            self.execute(at, Effect::Send { to, message });
        }
    }

    fn tell(&mut self, at: usize, word: Word) {
        let boot = self.nodes[at].boot;
        self.words.push((at, boot, NodeId(0), word));
    }

    /// Placement: begins, fences, elects, tells; in this order, but for what is lost and repeated.
    fn place(&mut self) {
        let led = self.elections.last().is_some_and(|election| election.epoch == self.begun);
        match self.rng.random_range(0..30) {
            0 if led || self.begun == LeaderEpoch(0) => {
                self.begun = LeaderEpoch(self.begun.0 + 1);
                self.answers.clear();
            }
            1..=9 if !led => {
                let at = self.rng.random_range(0..NODES);
                self.ask_for(at);
                self.tell(at, Word::Fence(self.begun));
            }
            10..=19 if !led => {
                let backed = |candidate: &Answer| {
                    let behind = self.answers.values().filter(|a| !a.unsure && a.end <= candidate.end);
                    behind.count() + (NODES / 2 + 1) > NODES
                };
                let best = self.answers.iter().filter(|(_, answer)| !answer.unsure && backed(answer));
                if let Some((leader, answer)) = best.max_by_key(|(_, answer)| answer.end) {
                    let (epoch, boot) = (self.begun, Boot(answer.boot));
                    self.elections.push(Election { epoch, leader: *leader, boot, set: Self::set() });
                }
            }
            _ if !self.elections.is_empty() => {
                // Mostly of the last one; a node may also hear of an old one only now.
                let last = self.elections.len() - 1;
                let which = if self.rng.random_bool(0.8) { last } else { self.rng.random_range(0..=last) };
                let at = self.rng.random_range(0..NODES);
                self.ask_for(at);
                self.tell(at, Word::Elected(self.elections[which].clone()));
            }
            _ => {}
        }
    }

    /// What the group has decided by now is told to whoever awaits it.
    fn ask_for(&mut self, at: usize) {
        if self.nodes[at].replica.awaits_begun() {
            let (epoch, untouched) = (self.begun, self.elections.is_empty());
            self.step(at, Input::Begun { epoch, untouched });
        }
    }

    fn live(&mut self) {
        for _ in 0..STEPS {
            let at = self.rng.random_range(0..NODES);
            match self.rng.random_range(0..400) {
                0..=159 => self.deliver(),
                160..=239 => self.sync(at),
                240..=299 => self.pump(at),
                300..=359 => self.place(),
                360..=389 => {
                    if let Some(leader) = self.nodes.iter().position(|node| node.replica.is_ready()) {
                        self.step(leader, Input::Publish(publish(0, 1, None)));
                    }
                }
                390..=394 => self.step(at, Input::Connected),
                395..=396 => self.restart(at, false),
                _ => {
                    // With two of three in doubt nobody can be elected any more: that is right, and tests little.
                    let sure = |(i, node): (usize, &Node)| i == at || node.replica.unsure_from().is_none();
                    let alone = self.nodes.iter().enumerate().all(sure);
                    let damage = if alone { 0.6 } else { 0.01 };
                    let damage = self.rng.random_bool(damage);
                    self.restart(at, damage);
                }
            }
        }
    }
}

#[test]
fn whoever_leads_has_what_is_committed_whatever_was_lost() {
    let mut met = Met::default();
    let one = std::env::var("MERIDIAN_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let times: u64 = std::env::var("MERIDIAN_SEEDS").map_or(1, |n| n.parse().expect("a number"));
    for seed in one.map_or(0..SEEDS * times, |seed: u64| seed..seed + 1) {
        let mut world = World::new(seed, std::mem::take(&mut met));
        world.live();
        met = world.met;
    }
    println!("{met:?}");
    if one.is_none() {
        let often = [met.damaged, met.promise_lost, met.doubts, met.over, met.elected, met.committed];
        assert!(often.into_iter().all(|times| times > SEEDS), "{met:?}");
        assert!(met.lost_committed > SEEDS / 4 && met.led_after_doubt > SEEDS / 4, "{met:?}");
    }
}
