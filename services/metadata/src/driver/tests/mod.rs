//! What a driver does, behaviour by behaviour, and a toy cluster that looks for schedules nobody thought of.

mod elections;
mod leaders;
mod property;
mod repairs;
mod replicas;
mod world;

use std::time::Duration;

use meridian_types::{
    Boot, LeaderEpoch, LogEnd, LogEpoch, NodeId, Origin, RegionId, Seq, ShardId, ShardNo, Timestamp,
};

use super::*;
use crate::placement::{Change, Elected, Found, Join, Placement, ShardRow};
use crate::testing::{CLUSTER, disk};

pub(super) fn shard(no: u16) -> ShardId {
    ShardId { origin: Origin::first(RegionId(1)), no: ShardNo(no) }
}

pub(super) fn ids(nodes: &[u32]) -> Vec<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

pub(super) fn join(node: u32) -> Join {
    let address = format!("127.0.0.1:{node}");
    Join { node: NodeId(node), disk: disk(node), peer_address: address.clone(), client_address: address }
}

/// A founded region of that many nodes, with replication 3.
pub(super) fn founded(nodes: u32) -> Placement {
    let mut state = Placement::default();
    let nodes = (1..=nodes).map(join).collect();
    state
        .change(Change::Found(Found { cluster: CLUSTER, region: RegionId(1), replication: 3, nodes }))
        .unwrap();
    state
}

pub(super) fn end(epoch: u32, seq: u64) -> LogEnd {
    LogEnd { epoch: LogEpoch(epoch), seq: Seq(seq) }
}

/// A driver with its state: proposals are applied as soon as they are made, unless they are held back.
pub(super) struct Bench {
    pub driver: Driver,
    pub state: Placement,
    pub now: u64,
    pub hold: bool,
    /// Everything proposed so far.
    pub proposed: Vec<Change>,
    pub fenced: Vec<(NodeId, ShardId, LeaderEpoch)>,
    pub told: Vec<(NodeId, Election)>,
    pub full: Vec<u32>,
    /// What heartbeats say that a leader leads, beyond what was told: `settled`, `durable`, `caught_up`.
    pub settled: bool,
    pub durable: u64,
    pub caught_up: Option<u32>,
    /// Nodes whose heartbeats do not show that they lead.
    pub idle: Vec<u32>,
    pub boots: std::collections::BTreeMap<u32, u64>,
}

impl Bench {
    pub fn new(nodes: u32) -> Self {
        Self {
            driver: Driver::new(Config::default(), Timestamp(0)),
            state: founded(nodes),
            now: 0,
            hold: false,
            proposed: Vec::new(),
            fenced: Vec::new(),
            told: Vec::new(),
            full: Vec::new(),
            settled: true,
            durable: 0,
            caught_up: None,
            idle: Vec::new(),
            boots: (1..=nodes).map(|node| (node, 1)).collect(),
        }
    }

    /// With a row for shard 0.
    pub fn with(nodes: u32, members: &[u32]) -> Self {
        let mut bench = Self::new(nodes);
        bench.change(Change::Create { shard: shard(0), members: ids(members) });
        bench
    }

    /// With a leader of shard 0 in epoch 1 that is heard and leads.
    pub fn led(nodes: u32, members: &[u32], leader: u32) -> Self {
        let mut bench = Self::with(nodes, members);
        bench.change(Change::Begin { shard: shard(0), epoch: LeaderEpoch(1) });
        let node = NodeId(leader);
        bench.change(Change::Elect { shard: shard(0), epoch: LeaderEpoch(1), node, boot: Boot(1) });
        bench.beat_all();
        bench
    }

    pub fn change(&mut self, change: Change) {
        self.state.change(change).unwrap();
    }

    pub fn row(&self) -> &ShardRow {
        self.state.shard(shard(0)).unwrap()
    }

    pub fn leader(&self) -> Option<Elected> {
        self.row().leader()
    }

    pub fn input(&mut self, input: Input) {
        let mut out = Vec::new();
        self.driver.step(&self.state, input, Timestamp(self.now), &mut out);
        let mut proposals = 0;
        for effect in out {
            match effect {
                Effect::Propose(changes) => {
                    proposals += 1;
                    assert_eq!(proposals, 1, "one proposal a step");
                    self.proposed.extend(changes.clone());
                    if !self.hold {
                        for change in changes {
                            self.state.change(change).unwrap();
                        }
                        self.input(Input::Changed);
                    }
                }
                Effect::Fence { node, epochs } => {
                    self.fenced.extend(epochs.into_iter().map(|(shard, epoch)| (node, shard, epoch)));
                }
                Effect::Tell { node, elections } => {
                    self.told.extend(elections.into_iter().map(|election| (node, election)));
                }
            }
        }
    }

    pub fn beat(&mut self, node: u32) {
        let boot = Boot(self.boots[&node]);
        let leads = self
            .state
            .shards()
            .filter_map(|(shard, row)| Some((shard, row.leader()?)))
            .filter(|(_, leader)| *leader == Elected { node: NodeId(node), boot, ..*leader })
            .filter(|_| !self.idle.contains(&node))
            .map(|(shard, leader)| Led {
                shard,
                epoch: leader.epoch,
                settled: self.settled,
                durable: Seq(self.durable),
                caught_up: self.caught_up.map(NodeId),
            })
            .collect();
        let full = self.full.contains(&node);
        self.input(Input::Heard(Heartbeat { node: NodeId(node), boot, full, leads }));
    }

    pub fn beat_all(&mut self) {
        for node in self.boots.keys().copied().collect::<Vec<_>>() {
            self.beat(node);
        }
    }

    /// Time passes with heartbeats of those nodes every 100 ms and a tick every 10.
    pub fn run(&mut self, ms: u64, beating: &[u32]) {
        for _ in 0..ms / 10 {
            self.now += 10;
            if self.now.is_multiple_of(100) {
                for node in beating {
                    self.beat(*node);
                }
            }
            self.input(Input::Tick);
        }
    }

    /// A node answers the fence of the epoch last begun of shard 0.
    pub fn answer(&mut self, node: u32, end: LogEnd) {
        self.promise(node, end, None);
    }

    pub fn promise(&mut self, node: u32, end: LogEnd, unsure_from: Option<u64>) {
        let outcome = FenceOutcome::Promised { end, unsure_from: unsure_from.map(Seq) };
        self.outcome(node, outcome);
    }

    pub fn outcome(&mut self, node: u32, outcome: FenceOutcome) {
        let answer = FenceAnswer { shard: shard(0), epoch: self.row().begun, outcome };
        let boot = Boot(self.boots[&node]);
        self.input(Input::Fenced { node: NodeId(node), boot, answers: vec![answer] });
    }

    pub fn begins(&self) -> usize {
        self.proposed.iter().filter(|change| matches!(change, Change::Begin { .. })).count()
    }

    pub fn fences_of(&self, node: u32) -> usize {
        self.fenced.iter().filter(|(to, _, _)| *to == NodeId(node)).count()
    }
}

#[test]
fn ranks_spread_evenly() {
    let mut first = [0usize; 5];
    for no in 0..320 {
        let best = (0..5u32).max_by_key(|node| rank::rank(rank::For::Leading, shard(no), NodeId(node + 1)));
        first[best.unwrap() as usize] += 1;
    }
    assert!(first.iter().all(|count| (40..90).contains(count)), "{first:?}");
}

#[test]
fn waits_are_ordered() {
    let config = Config::default();
    assert!(config.suspect_after < config.dead_after && config.first_wait < config.dead_after);
    assert!(config.fence_retry < config.fence_retry_max && config.prefer_wait < Duration::from_millis(100));
}
