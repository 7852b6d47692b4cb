//! A toy cluster: replicas that promise, lead, replicate and commit by the rules of DESIGN §5, a placement log that orders
//! what any driver proposes, and a network that loses, delays, doubles and cuts.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::Xoshiro256PlusPlus as Rng;
use rand::{RngExt as _, SeedableRng as _};

use super::replicas::{Log, Message, Replica};
use super::*;

/// Milliseconds of a step.
pub(super) const STEP: u64 = 10;

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub boot: u64,
    pub up: bool,
    pub replicas: BTreeMap<ShardId, Replica>,
}

#[derive(Debug)]
struct Sent {
    at: u64,
    from: NodeId,
    to: NodeId,
    /// The receiver's process when it was sent: a log is streamed over a connection, which a restart breaks.
    boot: u64,
    message: Message,
}

/// A driver, and how it sees the placement log: one that was deposed sees less and less of it.
pub(super) struct Seat {
    pub driver: Driver,
    view: Placement,
    pub at: NodeId,
    lags: bool,
}

pub(super) struct World {
    pub rng: Rng,
    pub now: u64,
    pub config: Config,
    pub state: Placement,
    pub nodes: BTreeMap<NodeId, Node>,
    pub seats: BTreeMap<usize, Seat>,
    next_seat: usize,
    sent: Vec<Sent>,
    /// Cut in this direction.
    pub cut: BTreeSet<(NodeId, NodeId)>,
    /// Of 100 messages, how many are lost and how many are doubled.
    pub loss: u32,
    pub delay: u64,
    /// What any leader of a shard has committed.
    pub(super) committed: BTreeMap<ShardId, Log>,
    elected: BTreeMap<(ShardId, u32), (NodeId, Boot)>,
    pub begins: usize,
    pub changes: usize,
    pub elections: usize,
}

impl World {
    pub fn new(seed: u64, nodes: u32, shards: u16) -> Self {
        let mut rng = Rng::seed_from_u64(seed);
        let mut state = founded(nodes);
        for no in 0..shards {
            let first = rng.random_range(0..nodes);
            let members = (0..nodes.min(3)).map(|i| NodeId((first + i) % nodes + 1)).collect();
            state.change(Change::Create { shard: shard(no), members }).unwrap();
        }
        let node = Node { boot: 1, up: true, replicas: BTreeMap::new() };
        Self {
            rng,
            now: 0,
            config: Config {
                grace: Duration::from_millis(2_500),
                learner_grace: Duration::from_millis(1_500),
                ..Config::default()
            },
            state,
            nodes: (1..=nodes).map(|id| (NodeId(id), node.clone())).collect(),
            seats: BTreeMap::new(),
            next_seat: 0,
            sent: Vec::new(),
            cut: BTreeSet::new(),
            loss: 0,
            delay: 10,
            committed: BTreeMap::new(),
            elected: BTreeMap::new(),
            begins: 0,
            changes: 0,
            elections: 0,
        }
    }

    /// Another node leads the placement group. The driver before may go on for a while, seeing nothing new.
    pub fn depose(&mut self, keep: bool) {
        if keep {
            self.seats.retain(|_, seat| !seat.lags);
            self.seats.values_mut().for_each(|seat| seat.lags = true);
        } else {
            self.seats.clear();
        }
        let up: Vec<NodeId> = self.nodes.iter().filter(|(_, node)| node.up).map(|(id, _)| *id).collect();
        let at = if up.is_empty() { NodeId(1) } else { up[self.rng.random_range(0..up.len())] };
        let driver = Driver::new(self.config.clone(), Timestamp(self.now));
        self.seats.insert(self.next_seat, Seat { driver, view: self.state.clone(), at, lags: false });
        self.next_seat += 1;
    }

    pub fn crash(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.up = false;
        for replica in node.replicas.values_mut() {
            let Replica { promised, log, hidden, .. } = std::mem::take(replica);
            *replica = Replica { promised, log, hidden, ..Replica::default() };
        }
        self.seats.retain(|_, seat| seat.at != id);
    }

    /// `hurt`: it comes back without the end of its logs, and knows it.
    pub fn restart(&mut self, id: NodeId, hurt: bool) {
        let node = self.nodes.get_mut(&id).unwrap();
        if !node.up {
            node.up = true;
            node.boot += 1;
            for replica in node.replicas.values_mut().filter(|replica| hurt && replica.hidden.is_none()) {
                replica.hidden = Some(replica.log.clone());
                let kept = self.rng.random_range(0..=replica.log.len());
                replica.log.truncate(kept);
            }
        }
    }

    /// Damage is mended from the other replicas: what was never lost is known to be there again.
    pub fn mend(&mut self) {
        for replica in self.nodes.values_mut().flat_map(|node| node.replicas.values_mut()) {
            if let Some(log) = replica.hidden.take() {
                replica.log = log;
            }
        }
    }

    pub(super) fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        if self.cut.contains(&(from, to)) && from != to {
            return;
        }
        let copies = match self.rng.random_range(0..100) {
            roll if roll < self.loss => 0,
            roll if roll < 2 * self.loss => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let at = self.now + STEP + self.rng.random_range(0..=self.delay);
            let boot = self.nodes[&to].boot;
            self.sent.push(Sent { at, from, to, boot, message: message.clone() });
        }
    }

    /// One step of all.
    pub fn step(&mut self) {
        self.now += STEP;
        let (due, later) = std::mem::take(&mut self.sent).into_iter().partition(|sent| sent.at <= self.now);
        self.sent = later;
        for Sent { from, to, boot, message, .. } in due {
            let streamed = matches!(message, Message::Append { .. } | Message::Ack { .. });
            if !streamed || boot == self.nodes[&to].boot {
                self.deliver(from, to, message);
            }
        }
        for seat in self.seats.keys().copied().collect::<Vec<_>>() {
            let catches_up = self.seats[&seat].lags && self.rng.random_ratio(1, 40);
            if catches_up {
                self.seats.get_mut(&seat).unwrap().view = self.state.clone();
            }
            if self.now.is_multiple_of(20) {
                self.drive(seat, Input::Tick);
            }
        }
        if self.now.is_multiple_of(100) {
            for id in self.up() {
                self.beat(id);
            }
        }
        if self.now.is_multiple_of(50) {
            for id in self.up() {
                self.replicate(id);
            }
        }
    }

    pub fn up(&self) -> Vec<NodeId> {
        self.nodes.iter().filter(|(_, node)| node.up).map(|(id, _)| *id).collect()
    }

    pub(super) fn drive(&mut self, seat: usize, input: Input) {
        let mut out = Vec::new();
        let Some(chair) = self.seats.get_mut(&seat) else { return };
        if !chair.lags {
            chair.view.clone_from(&self.state);
        }
        chair.driver.step(&chair.view, input, Timestamp(self.now), &mut out);
        let at = chair.at;
        for effect in out {
            match effect {
                Effect::Propose(changes) => self.propose(seat, at, changes),
                Effect::Fence { node, epochs } => self.send(at, node, Message::Fence(seat, epochs)),
                Effect::Tell { node, elections } => self.send(at, node, Message::Tell(elections)),
            }
        }
    }

    /// What a deposed driver proposes may take long on its way.
    fn propose(&mut self, seat: usize, at: NodeId, changes: Vec<Change>) {
        let before = self.sent.len();
        self.send(at, at, Message::Propose(seat, changes));
        if self.seats.get(&seat).is_some_and(|seat| seat.lags) {
            let late = self.rng.random_range(0..800);
            self.sent[before..].iter_mut().for_each(|sent| sent.at += late);
        }
    }

    /// The placement log takes what any driver proposes, in the order in which it comes.
    pub(super) fn order(&mut self, seat: usize, changes: Vec<Change>) {
        if self.rng.random_ratio(self.loss, 200) {
            return self.drive(seat, Input::Refused);
        }
        for change in changes {
            if self.state.change(change.clone()).is_err() {
                continue;
            }
            match change {
                Change::Begin { .. } => self.begins += 1,
                Change::Change { .. } => self.changes += 1,
                Change::Elect { shard, epoch, node, boot } => self.check_elected(shard, epoch, node, boot),
                _ => {}
            }
        }
        for seat in self.seats.keys().copied().collect::<Vec<_>>() {
            self.drive(seat, Input::Changed);
        }
    }

    fn check_elected(&mut self, shard: ShardId, epoch: LeaderEpoch, node: NodeId, boot: Boot) {
        let first = *self.elected.entry((shard, epoch.0)).or_insert((node, boot));
        assert_eq!(first, (node, boot), "two elected for {shard} in epoch {epoch}");
        self.elections += 1;
        if self.nodes[&node].boot != boot.0 {
            return; // That process is gone and leads nothing; what its node has now was not asked.
        }
        let log =
            self.nodes[&node].replicas.get(&shard).map(|replica| replica.log.clone()).unwrap_or_default();
        let committed = self.committed.get(&shard).cloned().unwrap_or_default();
        assert!(log.starts_with(&committed), "{node} leads {shard} in {epoch} and lacks what was committed");
    }

    /// Whether every shard has a leader that leads and has committed in its epoch.
    pub fn is_led(&self) -> Result<(), String> {
        for (shard, row) in self.state.shards() {
            let leader = row.leader().ok_or_else(|| format!("{shard} has no leader: {row:?}"))?;
            let replica = self.nodes[&leader.node].replicas.get(&shard);
            let replica = replica.ok_or_else(|| format!("{shard}: the leader has no replica"))?;
            let last = replica.committed.checked_sub(1).map(|last| replica.log[last]);
            if replica.leads != Some(leader.epoch.0) || last != Some(leader.epoch.0) {
                return Err(format!("{shard} is not led as elected: {row:?}, {replica:?}"));
            }
        }
        Ok(())
    }
}
