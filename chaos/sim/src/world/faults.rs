//! What goes wrong, and what operators do meanwhile.

use meridian_metadata::placement::Change;
use meridian_shard::Home;
use meridian_types::NodeId;
use rand::RngExt as _;

use super::catalog::node_row;
use super::placement::join;
use super::{Event, World};
use crate::node::Node;
use crate::swarm::Weights;

/// A fault.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Crash,
    CrashLeader,
    CrashMany,
    Power,
    PowerAll,
    Eio,
    CutOneWay,
    Isolate,
    Split,
    Reset,
    Clock,
    Depose,
    SlowDisk,
    Freeze,
    Wan,
    Drain,
    Moving,
    Join,
    Remove,
    Replicate,
    DiskFull,
    RegionLost,
    WanLong,
    Flip,
    LoseDisks,
}

impl Kind {
    fn weighed(weights: &Weights) -> [(Self, u32); 25] {
        [
            (Self::Crash, weights.crash),
            (Self::CrashLeader, weights.crash_leader),
            (Self::CrashMany, weights.crash_many),
            (Self::Power, weights.power),
            (Self::PowerAll, weights.power_all),
            (Self::Eio, weights.eio),
            (Self::CutOneWay, weights.cut_one_way),
            (Self::Isolate, weights.isolate),
            (Self::Split, weights.split),
            (Self::Reset, weights.reset),
            (Self::Clock, weights.clock),
            (Self::Depose, weights.depose),
            (Self::SlowDisk, weights.slow_disk),
            (Self::Freeze, weights.freeze),
            (Self::Wan, weights.wan),
            (Self::Drain, weights.drain),
            (Self::Moving, weights.moving),
            (Self::Join, weights.join),
            (Self::Remove, weights.remove),
            (Self::Replicate, weights.replicate),
            (Self::DiskFull, weights.disk_full),
            (Self::RegionLost, weights.region_lost),
            (Self::WanLong, weights.wan_long),
            (Self::Flip, weights.flip),
            (Self::LoseDisks, weights.lose_disks),
        ]
    }
}

impl World {
    pub(super) fn fault(&mut self) {
        if self.calm {
            return;
        }
        let delay = 1 + self.some(2 * self.swarm.fault_every);
        self.after(delay, Event::Fault);
        let kinds = Kind::weighed(&self.swarm.weights);
        let total: u32 = kinds.iter().map(|(_, weight)| weight).sum();
        let mut left = self.rng.random_range(0..total);
        for (kind, weight) in kinds {
            if left < weight {
                self.trace.line(self.now, format_args!("fault: {kind:?}"));
                let happened = self.inject(kind);
                self.faults += u64::from(happened);
                return;
            }
            left -= weight;
        }
    }

    /// Whether it could happen.
    fn inject(&mut self, kind: Kind) -> bool {
        let region = self.rng.random_range(0..self.swarm.regions);
        let up: Vec<NodeId> = self.nodes.values().filter(|node| node.is_up()).map(|node| node.id).collect();
        let ours: Vec<NodeId> = up.iter().copied().filter(|id| Self::region_of(*id) == region).collect();
        let Some(one) = self.pick(&ours) else { return false };
        match kind {
            Kind::Crash => self.crash(one, false),
            Kind::CrashLeader => {
                let power = self.chance(50);
                let Some(leader) = self.leader_in(region) else { return false };
                self.met.met("fault: a leader crashes");
                self.crash(leader, power);
            }
            Kind::CrashMany => {
                self.met.met("fault: several crash");
                for id in ours {
                    if id == one || self.chance(60) {
                        let power = self.chance(50);
                        self.crash(id, power);
                    }
                }
            }
            Kind::Power => self.crash(one, true),
            Kind::PowerAll => {
                self.met.met("fault: power lost everywhere");
                for id in ours {
                    self.crash(id, true);
                }
            }
            Kind::RegionLost => {
                self.met.met("fault: region lost, and back");
                let back = 2_000_000 + self.some(6_000_000);
                for id in ours {
                    let later = back + self.some(500_000);
                    self.crash_for(id, true, later);
                }
            }
            Kind::Eio => {
                let after = self.some(2);
                if let Some(node) = self.nodes.get(&one) {
                    node.disk.fail_sync(after);
                    self.met.met("fault: an fsync fails");
                }
            }
            Kind::DiskFull => self.fill_disk(one),
            Kind::Flip => return self.flip_bits(region),
            Kind::LoseDisks => return self.doom(region),
            Kind::CutOneWay | Kind::Isolate | Kind::Split | Kind::Wan | Kind::WanLong | Kind::Reset => {
                return self.inject_cut(kind, region, one, &ours, &up);
            }
            Kind::Clock => {
                self.met.met("fault: clock jumps");
                let jump = self.rng.random_range(-600_000..=600_000);
                if let Some(node) = self.nodes.get_mut(&one) {
                    node.skew = jump;
                }
            }
            Kind::Depose => return self.depose(self.current[region]),
            Kind::SlowDisk => {
                self.met.met("fault: slow disk");
                // Its process stands still, as one that waits for its disk.
                let until = self.now + self.some(400_000);
                self.freeze(one, until);
            }
            Kind::Freeze => {
                self.met.met("fault: process stopped");
                let leader = self.leader_in(region).unwrap_or(one);
                let until = self.now + 500_000 + self.some(3_000_000);
                self.freeze(leader, until);
            }
            Kind::Drain | Kind::Moving | Kind::Join | Kind::Remove | Kind::Replicate => {
                return self.operate(kind, region, one);
            }
        }
        true
    }

    fn inject_cut(&mut self, kind: Kind, region: usize, one: NodeId, ours: &[NodeId], up: &[NodeId]) -> bool {
        let mut ways = Vec::new();
        let mut cut = |a: NodeId, b: NodeId, both: bool| {
            ways.push((a, b));
            if both {
                ways.push((b, a));
            }
        };
        let (name, longest) = match kind {
            Kind::CutOneWay => {
                if let Some(other) = self.pick(ours).filter(|other| *other != one) {
                    cut(one, other, false);
                }
                ("fault: cut in one direction", 2_500_000)
            }
            Kind::Isolate => {
                let one = if self.chance(50) { self.leader_in(region).unwrap_or(one) } else { one };
                ours.iter().filter(|other| **other != one).for_each(|other| cut(one, *other, true));
                ("fault: isolated", 3_000_000)
            }
            Kind::Split => {
                // Two halves, or each pair by itself: then some see both sides.
                let halves = self.chance(50);
                let half: Vec<NodeId> = ours.iter().copied().filter(|_| self.chance(50)).collect();
                for a in ours {
                    for b in ours {
                        let apart =
                            if halves { half.contains(a) != half.contains(b) } else { self.chance(50) };
                        if a < b && apart {
                            cut(*a, *b, true);
                        }
                    }
                }
                ("fault: split", 3_000_000)
            }
            Kind::Reset => {
                let Some(other) = self.pick(up).filter(|other| *other != one) else { return false };
                self.met.met("fault: connection reset");
                self.reset(one, other);
                return true;
            }
            _ => {
                let long = matches!(kind, Kind::WanLong);
                let both = long || self.chance(50);
                for other in up.iter().filter(|other| Self::region_of(**other) != region) {
                    ours.iter().for_each(|id| cut(*other, *id, both));
                }
                if long { ("fault: WAN cut for long", 30_000_000) } else { ("fault: WAN cut", 5_000_000) }
            }
        };
        if ways.is_empty() {
            return false;
        }
        self.met.met(name);
        self.cut_ways(ways, longest);
        true
    }

    fn operate(&mut self, kind: Kind, region: usize, one: NodeId) -> bool {
        let group = self.current[region];
        if self.lost.contains_key(&region) || self.past.unheard.contains(&region) {
            // What nobody knows of may be left out of a set: see ../FINDINGS.md.
            return false;
        }
        match kind {
            Kind::Drain => {
                self.met.met("operator: drain");
                self.propose(group, None, vec![Change::Drain { node: one }]);
                let back = 1_000_000 + self.some(4_000_000);
                if self.chance(80) {
                    self.met.met("operator: undrain");
                    self.undrain_later(group, one, back);
                }
                true
            }
            // A set that shrinks to a damaged replica leaves nobody to repair it: see ../FINDINGS.md.
            Kind::Replicate if self.damaged.keys().any(|id| Self::region_of(*id) == region) => false,
            Kind::Replicate => {
                self.met.met("operator: set replication");
                let replicas = self.rng.random_range(1..=5);
                self.propose(group, None, vec![Change::SetReplication { replicas }]);
                true
            }
            Kind::Moving => self.move_one(region),
            Kind::Join => self.join_one(region),
            _ => {
                let drained: Vec<NodeId> = self
                    .nodes
                    .values()
                    .filter(|node| node.region == region)
                    .filter(|node| {
                        node.placement.node(node.id).is_some() && !node.placement.is_active(node.id)
                    })
                    .map(|node| node.id)
                    .collect();
                let Some(node) = self.pick(&drained) else { return false };
                self.met.met("operator: remove");
                self.propose(group, None, vec![Change::Remove { node }]);
                true
            }
        }
    }

    /// No room for another volume file, for a while.
    fn fill_disk(&mut self, id: NodeId) {
        let while_full = 200_000 + self.some(4_000_000);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.disk.set_capacity(node.disk.used());
            node.full = true;
            self.met.met("fault: disk full");
            self.after(while_full, Event::DiskFreed(id));
        }
    }

    fn undrain_later(&mut self, group: usize, node: NodeId, after: u64) {
        use meridian_metadata::placement::Command;
        let command = Command { changes: vec![Change::Undrain { node }] }.to_bytes();
        self.after(after, Event::Ordered { group, command });
    }

    fn move_one(&mut self, region: usize) -> bool {
        let group = self.current[region];
        let Some(view) =
            self.nodes.values().filter(|node| node.group == group).max_by_key(|node| node.applied)
        else {
            return false;
        };
        let rows: Vec<_> = view.placement.shards().map(|(shard, row)| (shard, row.members.clone())).collect();
        let ids: Vec<NodeId> = view.placement.nodes().map(|(id, _)| id).collect();
        let Some((shard, members)) = self.pick(&rows) else { return false };
        if shard.origin.is_past(self.groups[group].origin) {
            // As `region/wishes.rs` refuses it.
            return false;
        }
        let free: Vec<NodeId> = ids.into_iter().filter(|id| !members.contains(id)).collect();
        let (Some(from), Some(to)) = (self.pick(&members), self.pick(&free)) else { return false };
        self.met.met("operator: move");
        self.propose(group, None, vec![Change::Move { shard, from, to }]);
        true
    }

    fn join_one(&mut self, region: usize) -> bool {
        let count = self.nodes.values().filter(|node| node.region == region).count() as u32;
        if count >= self.swarm.nodes[region] + 3 {
            return false;
        }
        let group = self.current[region];
        let id = self.next_node(region, &[]);
        self.decide(meridian_metadata::catalog::Change::RegisterNode(node_row(id, region)));
        let catalog = (self.catalog.state.clone(), self.catalog.log.len());
        let node = Node::new(id, region, self.seed, catalog);
        self.nodes.insert(id, Node { group, home: self.groups[group].origin, ..node });
        self.met.met("operator: join");
        self.start(id);
        self.propose(group, None, vec![Change::Join(join(id))]);
        true
    }

    /// A node that leads something of its own region, or of another.
    pub(super) fn leader_in(&mut self, region: usize) -> Option<NodeId> {
        let leads = |home: Home| {
            let nodes = self.nodes.values().filter(|node| node.region == region);
            nodes
                .filter(|node| {
                    node.process.as_ref().is_some_and(|process| {
                        process.hosts.values().any(|host| host.home == home && host.replica.leads().is_some())
                    })
                })
                .map(|node| node.id)
                .collect::<Vec<_>>()
        };
        let (home, copies) = (leads(Home::Origin), leads(Home::Copy));
        if self.chance(70) { self.pick(&home) } else { self.pick(&copies) }
    }

    pub(super) fn freeze(&mut self, id: NodeId, until: u64) {
        if let Some(node) = self.nodes.get_mut(&id).filter(|node| node.is_up()) {
            node.frozen_until = node.frozen_until.max(until);
        }
    }

    pub(super) fn cut_ways(&mut self, ways: Vec<(NodeId, NodeId)>, longest: u64) {
        for (from, to) in &ways {
            self.network.cut(*from, *to);
        }
        let for_so_long = 100_000 + self.some(longest);
        self.after(for_so_long, Event::Mend(ways));
    }

    /// Opens ways again; what stood is gone, for it stood too long.
    pub(super) fn mend(&mut self, ways: &[(NodeId, NodeId)]) {
        let mut pairs = Vec::new();
        for (from, to) in ways {
            self.network.mend(*from, *to);
            pairs.push(crate::network::pair(*from, *to));
        }
        pairs.sort_unstable();
        pairs.dedup();
        for (a, b) in pairs {
            self.reset(a, b);
        }
    }

    /// A crash at the worst moment: just after a promise, or an election.
    pub(super) fn ambush(&mut self, id: NodeId) {
        let percent = self.swarm.ambush;
        if !self.calm && percent > 0 && self.chance(percent) && self.now > 1_500_000 {
            self.met.met("fault: ambush");
            let delay = self.some(2 * self.swarm.way + self.swarm.sync);
            let until = self.now + delay;
            match self.rng.random_range(0..3) {
                0 => self.freeze(id, until + 300_000),
                1 => {
                    let region = Self::region_of(id);
                    let others: Vec<NodeId> = self
                        .nodes
                        .values()
                        .filter(|node| node.region == region && node.id != id && node.is_up())
                        .map(|node| node.id)
                        .collect();
                    let ways = others.iter().flat_map(|other| [(id, *other), (*other, id)]).collect();
                    self.cut_ways(ways, 1_500_000);
                }
                // In the middle of something: the disk goes with its next operations.
                _ => {
                    if let Some(node) = self.nodes.get(&id) {
                        node.disk.crash_at(node.disk.ops() + 1 + delay % 6);
                    }
                }
            }
        }
    }
}
