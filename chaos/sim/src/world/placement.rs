//! A region's placement group: Raft as an order of commands that nodes learn of late, a leader whose driver drives, and
//! deposed ones that go on for a while.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_metadata::driver::{Config, Driver, Effect, Heartbeat, Input, Led};
use meridian_metadata::placement::{Change, Command, Found, Join, Placement, ShardRow, reply_from_bytes};
use meridian_types::{ClusterUuid, NodeId, RegionId, Seq, ShardId};
use uuid::Uuid;

use super::{At, Event, Packet, World, names};
use crate::check::Law;
use crate::node::{Node, disk_uuid};

/// A region's group.
pub struct Group {
    /// Raft's voters.
    pub voters: Vec<NodeId>,
    /// What was ordered.
    pub log: Vec<Bytes>,
    /// What that adds up to.
    pub state: Placement,
    /// How many of them some node has applied.
    judged: usize,
    /// Who leads it, from when on another may.
    pub leader: Option<(NodeId, u64)>,
    vacant_until: u64,
    seats: BTreeMap<u64, Seat>,
}

/// A driver on a node.
struct Seat {
    node: NodeId,
    driver: Driver,
    deposed: bool,
}

impl World {
    pub(super) fn found(&mut self, region: usize) {
        let count = self.swarm.nodes[region];
        let voters: Vec<NodeId> = (1..=count).map(|n| NodeId((region as u32 + 1) * 100 + n)).collect();
        for &id in &voters {
            self.nodes.insert(id, Node::new(id, region, self.seed, true));
        }
        let found = Found {
            cluster: ClusterUuid(Uuid::from_u128(7)),
            region: RegionId(region as u16 + 1),
            replication: self.swarm.replication[region] as u8,
            nodes: voters.iter().map(|id| join(*id)).collect(),
        };
        let log = vec![Command { changes: vec![Change::Found(found)] }.to_bytes()];
        let mut state = Placement::default();
        let _ = meridian_metadata::Machine::apply(&mut state, &log[0]);
        self.groups.push(Group {
            voters,
            log,
            state,
            judged: 0,
            leader: None,
            vacant_until: 0,
            seats: BTreeMap::new(),
        });
    }

    /// Whether a node and a majority of its group hear each other.
    pub(super) fn reaches_majority(&self, region: usize, id: NodeId) -> bool {
        let voters = &self.groups[region].voters;
        let up = |other: &NodeId| {
            self.nodes.get(other).is_some_and(|node| node.is_up() && node.frozen_until <= self.now)
        };
        let reached =
            voters.iter().filter(|voter| up(voter) && self.network.is_connected(id, **voter)).count();
        up(&id) && 2 * reached > voters.len()
    }

    pub(super) fn group_tick(&mut self, region: usize) {
        self.after(50_000, Event::GroupTick(region));
        match self.groups[region].leader {
            Some((id, _)) if self.reaches_majority(region, id) => {}
            Some(_) => {
                self.depose(region);
            }
            None if self.groups[region].vacant_until > self.now => {}
            None => {
                let voters = self.groups[region].voters.clone();
                let able: Vec<NodeId> =
                    voters.into_iter().filter(|id| self.reaches_majority(region, *id)).collect();
                let Some(node) = self.pick(&able) else { return };
                let seat = self.number();
                let mut driver = Driver::new(self.driver_config(region), self.steady());
                let process = self.nodes.get(&node).and_then(|node| node.process.as_ref());
                for (heartbeat, at) in process.iter().flat_map(|process| process.heard.values()) {
                    driver.heard_before(heartbeat.clone(), *at);
                }
                self.groups[region].leader = Some((node, seat));
                self.groups[region].seats.insert(seat, Seat { node, driver, deposed: false });
                self.met.met("placement: group leader");
                self.trace.line(self.now, format_args!("{node} leads placement of region {region}"));
                let wanted = self.shards();
                self.drive(region, seat, Input::Wanted(wanted));
                self.after(0, Event::SeatTick(region, seat));
            }
        }
    }

    fn driver_config(&self, region: usize) -> Config {
        Config { home: Some(Self::origin(region)), ..self.swarm.driver.clone() }
    }

    /// The leader is one no more, and may not know it for a while.
    pub(super) fn depose(&mut self, region: usize) -> bool {
        let vacant = self.now + 100_000 + self.some(500_000);
        let lingers = self.some(1_500_000);
        let group = &mut self.groups[region];
        group.vacant_until = vacant;
        let Some((_, seat)) = group.leader.take() else { return false };
        if let Some(seat) = group.seats.get_mut(&seat) {
            seat.deposed = true;
        }
        self.met.met("placement: deposed");
        self.after(lingers, Event::SeatEnds(region, seat));
        true
    }

    pub(super) fn seat_ends(&mut self, region: usize, seat: u64) {
        self.groups[region].seats.remove(&seat);
    }

    pub(super) fn end_seats_of(&mut self, id: NodeId) {
        let region = Self::region_of(id);
        if self.groups[region].leader.is_some_and(|(leader, _)| leader == id) {
            self.depose(region);
        }
        self.groups[region].seats.retain(|_, seat| seat.node != id);
    }

    pub(super) fn seat_tick(&mut self, region: usize, seat: u64) {
        let Some(node) = self.groups[region].seats.get(&seat).map(|seat| seat.node) else { return };
        self.after(20_000, Event::SeatTick(region, seat));
        if self.nodes.get(&node).is_some_and(|node| node.frozen_until <= self.now) {
            self.drive(region, seat, Input::Tick);
        }
    }

    /// Every driver on a node is told.
    pub(super) fn drive_all_at(&mut self, id: NodeId, input: &Input) {
        let region = Self::region_of(id);
        let seats: Vec<u64> = self.groups[region]
            .seats
            .iter()
            .filter(|(_, seat)| seat.node == id)
            .map(|(seat, _)| *seat)
            .collect();
        for seat in seats {
            self.drive(region, seat, input.clone());
        }
    }

    pub(super) fn drive(&mut self, region: usize, number: u64, input: Input) {
        let now = self.steady();
        let Some(seat) = self.groups[region].seats.get_mut(&number) else { return };
        let Some(node) = self.nodes.get(&seat.node).filter(|node| node.is_up()) else { return };
        let mut effects = Vec::new();
        let (name, alone) = (names::driver_input(&input), seat.deposed);
        self.met.met(if alone { names::DEPOSED } else { name });
        seat.driver.step(&node.placement, input, now, &mut effects);
        let (me, deposed) = (seat.node, seat.deposed);
        for effect in effects {
            match effect {
                Effect::Propose(changes) => {
                    for change in &changes {
                        self.met.met(names::change(change));
                    }
                    self.met.met("driver: Propose");
                    self.trace.line(self.now, format_args!("{me} proposes {changes:?}"));
                    self.propose(region, Some((number, me, deposed)), changes);
                }
                Effect::Fence { node, epochs } => {
                    self.met.met("driver: Fence");
                    self.send(me, node, Packet::Fence(epochs));
                }
                Effect::Tell { node, elections } => {
                    self.met.met("driver: Tell");
                    self.send(me, node, Packet::Tell(elections));
                }
            }
        }
    }

    /// A proposal is ordered sooner or later, or lost; whoever made it may not hear of it.
    pub(super) fn propose(&mut self, region: usize, by: Option<(u64, NodeId, bool)>, changes: Vec<Change>) {
        let command = Command { changes }.to_bytes();
        let well = match by {
            Some((_, node, deposed)) => !deposed && self.reaches_majority(region, node),
            None => true,
        };
        let (percent, longest) =
            if well { (97, 2 * self.swarm.way + 2 * self.swarm.sync) } else { (40, 1_500_000) };
        let delay = 500 + self.some(longest);
        if self.chance(percent) {
            if !well {
                self.met.met("placement: ordered after its proposer was deposed");
            }
            self.after(delay, Event::Ordered { region, command });
        } else {
            self.met.met("placement: proposal lost");
            if let Some((seat, ..)) = by {
                self.after(delay, Event::NotOrdered { region, seat });
            }
        }
    }

    pub(super) fn ordered(&mut self, region: usize, command: Bytes) {
        let _ = meridian_metadata::Machine::apply(&mut self.groups[region].state, &command);
        self.groups[region].log.push(command);
        let leader = self.groups[region].leader.map(|(node, _)| node);
        let ids: Vec<NodeId> =
            self.nodes.values().filter(|node| node.region == region).map(|node| node.id).collect();
        for id in ids {
            let delay = if Some(id) == leader { self.some(2_000) } else { self.some(self.swarm.apply_lag) };
            self.after(delay, Event::ApplyPlacement(id));
        }
    }

    pub(super) fn apply_placement(&mut self, id: NodeId) {
        let region = Self::region_of(id);
        let leader = self.groups[region].leader.map(|(node, _)| node);
        let hears = leader.is_some_and(|leader| self.network.is_open(leader, id));
        let log = &self.groups[region].log;
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.is_up()) else { return };
        if node.applied >= log.len() {
            return;
        }
        if !hears && node.applied > 0 {
            return self.after(100_000, Event::ApplyPlacement(id));
        }
        let before = node.placement.clone();
        let (from, end) = (node.applied, log.len());
        let mut replies = Vec::new();
        for command in &log[from..] {
            let reply = meridian_metadata::Machine::apply(&mut node.placement, command);
            match reply.and_then(|reply| reply_from_bytes(&reply)) {
                Ok(reply) => replies.push(reply),
                Err(error) => return self.judge(Law::OwnChecks, Err(format!("placement: {error}"))),
            }
        }
        node.applied = end;
        // The first node to apply a command speaks for all.
        for (at, reply) in (from..).zip(replies) {
            if at >= self.groups[region].judged {
                self.groups[region].judged = at + 1;
                for refusal in reply.into_iter().filter_map(Result::err) {
                    self.met.met(format!("placement: refused, {:?}", refusal.code));
                }
            }
        }
        let Some(node) = self.nodes.get(&id) else { return };
        let changed: Vec<(ShardId, ShardRow)> = node
            .placement
            .shards()
            .filter(|(shard, row)| before.shard(*shard) != Some(row))
            .map(|(shard, row)| (shard, row.clone()))
            .collect();
        for (shard, row) in changed {
            self.take_row(id, shard, &row);
        }
        self.drive_all_at(id, &Input::Changed);
    }

    fn take_row(&mut self, id: NodeId, shard: ShardId, row: &ShardRow) {
        if let Some(elected) = row.leader() {
            self.elected(id, shard, elected, row.version, &row.members, row.learner);
        }
    }

    /// A process that starts takes up what its node knows.
    pub(super) fn tell_placement(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(&id) else { return };
        let rows: Vec<(ShardId, ShardRow)> =
            node.placement.shards().map(|(shard, row)| (shard, row.clone())).collect();
        for (shard, row) in rows {
            self.take_row(id, shard, &row);
        }
    }

    pub(super) fn heartbeat(&mut self, at: At) {
        let Some(node) = self.nodes.get(&at.node) else { return };
        let placement = node.placement.clone();
        let Some(process) = self.process(at) else { return };
        let mut leads = Vec::new();
        for (shard, host) in &process.hosts {
            let Some(epoch) = host.replica.leads() else { continue };
            let learner = placement.shard(*shard).and_then(|row| row.learner);
            let near = |node: NodeId| {
                host.replica.flushed_by(node).is_some_and(|seq| Seq(seq.0 + 4) >= host.replica.end().seq)
            };
            let settled = host.replica.is_settled();
            leads.push(Led { shard: *shard, epoch, settled, caught_up: learner.filter(|node| near(*node)) });
        }
        let heartbeat = Heartbeat { node: at.node, boot: process.boot, full: false, leads };
        let region = Self::region_of(at.node);
        let to: Vec<NodeId> =
            self.nodes.values().filter(|node| node.region == region).map(|node| node.id).collect();
        for to in to {
            self.send(at.node, to, Packet::Heartbeat(heartbeat.clone()));
        }
        self.after(80_000, Event::Heartbeat(at));
    }
}

/// What a node joins with.
pub(super) fn join(id: NodeId) -> Join {
    Join {
        node: id,
        disk: disk_uuid(id),
        peer_address: format!("n{id}:1"),
        client_address: format!("n{id}:2"),
    }
}
