//! A region's placement group: Raft as an order of commands that nodes learn of late, a leader whose driver drives, and
//! deposed ones that go on for a while.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use meridian_metadata::driver::{Config, Driver, Effect, Heartbeat, Input, Led};
use meridian_metadata::members::{Reach, Rule, Seen, Step, Wanted, next};
use meridian_metadata::placement::{Change, Command, Found, Join, Placement, ShardRow, reply_from_bytes};
use meridian_types::{NodeId, Origin, RegionId, Seq, ShardId};

use super::{At, Event, Packet, World, names};
use crate::check::Law;
use crate::node::{CLUSTER, Node, disk_uuid};

/// The most voters of a group.
const VOTERS: usize = 5;

/// By past shard: who holds something of it, and how far.
pub type Holders = BTreeMap<ShardId, BTreeMap<NodeId, Seq>>;

/// A region's group.
pub struct Group {
    pub region: usize,
    /// Of which incarnation: it hears no other.
    pub origin: Origin,
    /// Raft's voters.
    pub voters: Vec<NodeId>,
    /// Who held something of a past shard when the region was restored, and how far.
    holders: Holders,
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
    /// The first nodes of a region, and their group.
    pub(super) fn found(&mut self, region: usize) {
        let count = self.swarm.nodes[region];
        let nodes: Vec<NodeId> = (1..=count).map(|n| NodeId((region as u32 + 1) * 100 + n)).collect();
        let origin = Origin::first(RegionId(region as u16 + 1));
        let group = self.new_group(region, origin, nodes.clone(), Holders::new());
        for id in nodes {
            let node = Node::new(id, region, self.seed, (self.catalog.state.clone(), self.catalog.log.len()));
            self.nodes.insert(id, Node { group, home: origin, ..node });
        }
        self.current.push(group);
    }

    /// A group that is founded for an incarnation.
    pub(super) fn new_group(
        &mut self,
        region: usize,
        origin: Origin,
        nodes: Vec<NodeId>,
        holders: Holders,
    ) -> usize {
        let found = Found {
            cluster: CLUSTER,
            region: origin.region,
            replication: self.swarm.replication[region] as u8,
            nodes: nodes.iter().map(|id| join(*id)).collect(),
        };
        let log = vec![Command { changes: vec![Change::Found(found)] }.to_bytes()];
        let mut state = Placement::default();
        let _ = meridian_metadata::Machine::apply(&mut state, &log[0]);
        let voters = nodes.into_iter().take(VOTERS).collect();
        self.groups.push(Group {
            region,
            origin,
            voters,
            holders,
            log,
            state,
            judged: 0,
            leader: None,
            vacant_until: 0,
            seats: BTreeMap::new(),
        });
        self.groups.len() - 1
    }

    /// The group that a node's process takes part in.
    pub(super) fn group_of(&self, id: NodeId) -> usize {
        self.nodes.get(&id).map_or(0, |node| node.group)
    }

    /// Whether a node and a majority of its group hear each other.
    pub(super) fn reaches_majority(&self, group: usize, id: NodeId) -> bool {
        let voters = &self.groups[group].voters;
        let up = |other: &NodeId| {
            self.nodes
                .get(other)
                .is_some_and(|node| node.is_up() && node.group == group && node.frozen_until <= self.now)
        };
        let reached =
            voters.iter().filter(|voter| up(voter) && self.network.is_connected(id, **voter)).count();
        up(&id) && 2 * reached > voters.len()
    }

    pub(super) fn group_tick(&mut self, group: usize) {
        let is_over = self.current[self.groups[group].region] != group;
        if is_over && self.nodes.values().all(|node| node.group != group) {
            return;
        }
        self.after(50_000, Event::GroupTick(group));
        match self.groups[group].leader {
            Some((id, _)) if self.reaches_majority(group, id) => self.keep_voters(group, id),
            Some(_) => {
                self.depose(group);
            }
            None if self.groups[group].vacant_until > self.now => {}
            None => {
                let voters = self.groups[group].voters.clone();
                let able: Vec<NodeId> =
                    voters.into_iter().filter(|id| self.reaches_majority(group, *id)).collect();
                let Some(node) = self.pick(&able) else { return };
                let seat = self.number();
                let mut driver = Driver::new(self.driver_config(group), self.steady());
                let process = self.nodes.get(&node).and_then(|node| node.process.as_ref());
                for (heartbeat, at) in process.iter().flat_map(|process| process.heard.values()) {
                    driver.heard_before(heartbeat.clone(), *at);
                }
                self.groups[group].leader = Some((node, seat));
                self.groups[group].seats.insert(seat, Seat { node, driver, deposed: false });
                self.met.met("placement: group leader");
                self.trace
                    .line(self.now, format_args!("{node} leads placement of {}", self.groups[group].origin));
                let wanted = self.wanted(node);
                self.drive(group, seat, Input::Wanted(wanted));
                self.after(0, Event::SeatTick(group, seat));
            }
        }
    }

    /// Who votes follows who is of the region, as the leader of a group sees to it.
    fn keep_voters(&mut self, group: usize, leader: NodeId) {
        let it = &self.groups[group];
        let region = it.origin.region;
        let wanted: BTreeMap<NodeId, Wanted> = it
            .state
            .nodes()
            .map(|(id, row)| (id, Wanted { region, address: row.peer_address.clone() }))
            .collect();
        let reach = |id: NodeId| match self.nodes.get(&id) {
            Some(node)
                if node.is_up()
                    && node.group == group
                    && node.frozen_until <= self.now
                    && self.network.is_connected(leader, id) =>
            {
                if node.applied > 0 {
                    Reach::There
                } else {
                    Reach::Behind
                }
            }
            _ => Reach::Silent,
        };
        let voters: BTreeSet<NodeId> = it.voters.iter().copied().collect();
        let members = wanted.keys().chain(&voters).map(|id| (*id, reach(*id))).collect();
        let seen = Seen { voters, members, is_joint: false };
        let Some(Step::Vote(voters)) = next(Rule::Placement, &wanted, &seen) else { return };
        self.met.met("placement: others vote");
        self.trace.line(self.now, format_args!("{voters:?} vote in {}", self.groups[group].origin));
        let leads_on = voters.contains(&leader);
        self.groups[group].voters = voters.into_iter().collect();
        if !leads_on {
            self.depose(group);
        }
    }

    fn driver_config(&self, group: usize) -> Config {
        let Group { origin, holders, .. } = &self.groups[group];
        Config { home: Some(*origin), holders: holders.clone(), ..self.swarm.driver.clone() }
    }

    /// The leader is one no more, and may not know it for a while.
    pub(super) fn depose(&mut self, group: usize) -> bool {
        let vacant = self.now + 100_000 + self.some(500_000);
        let lingers = self.some(1_500_000);
        let it = &mut self.groups[group];
        it.vacant_until = vacant;
        let Some((_, seat)) = it.leader.take() else { return false };
        if let Some(seat) = it.seats.get_mut(&seat) {
            seat.deposed = true;
        }
        self.met.met("placement: deposed");
        self.after(lingers, Event::SeatEnds(group, seat));
        true
    }

    pub(super) fn seat_ends(&mut self, group: usize, seat: u64) {
        self.groups[group].seats.remove(&seat);
    }

    pub(super) fn end_seats_of(&mut self, id: NodeId) {
        let group = self.group_of(id);
        if self.groups[group].leader.is_some_and(|(leader, _)| leader == id) {
            self.depose(group);
        }
        self.groups[group].seats.retain(|_, seat| seat.node != id);
    }

    pub(super) fn seat_tick(&mut self, group: usize, seat: u64) {
        let Some(node) = self.groups[group].seats.get(&seat).map(|seat| seat.node) else { return };
        self.after(20_000, Event::SeatTick(group, seat));
        if self.nodes.get(&node).is_some_and(|node| node.frozen_until <= self.now) {
            self.drive(group, seat, Input::Tick);
        }
    }

    /// Every driver on a node is told.
    pub(super) fn drive_all_at(&mut self, id: NodeId, input: &Input) {
        let group = self.group_of(id);
        let seats: Vec<u64> = self.groups[group]
            .seats
            .iter()
            .filter(|(_, seat)| seat.node == id)
            .map(|(seat, _)| *seat)
            .collect();
        for seat in seats {
            self.drive(group, seat, input.clone());
        }
    }

    pub(super) fn drive(&mut self, group: usize, number: u64, input: Input) {
        let now = self.steady();
        let Some(seat) = self.groups[group].seats.get_mut(&number) else { return };
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
                    self.propose(group, Some((number, me, deposed)), changes);
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
    pub(super) fn propose(&mut self, group: usize, by: Option<(u64, NodeId, bool)>, changes: Vec<Change>) {
        let command = Command { changes }.to_bytes();
        let well = match by {
            Some((_, node, deposed)) => !deposed && self.reaches_majority(group, node),
            None => true,
        };
        let (percent, longest) =
            if well { (97, 2 * self.swarm.way + 2 * self.swarm.sync) } else { (40, 1_500_000) };
        let delay = 500 + self.some(longest);
        if self.chance(percent) {
            if !well {
                self.met.met("placement: ordered after its proposer was deposed");
            }
            self.after(delay, Event::Ordered { group, command });
        } else {
            self.met.met("placement: proposal lost");
            if let Some((seat, ..)) = by {
                self.after(delay, Event::NotOrdered { group, seat });
            }
        }
    }

    pub(super) fn ordered(&mut self, group: usize, command: Bytes) {
        let _ = meridian_metadata::Machine::apply(&mut self.groups[group].state, &command);
        self.groups[group].log.push(command);
        let leader = self.groups[group].leader.map(|(node, _)| node);
        let ids: Vec<NodeId> =
            self.nodes.values().filter(|node| node.group == group).map(|node| node.id).collect();
        for id in ids {
            let delay = if Some(id) == leader { self.some(2_000) } else { self.some(self.swarm.apply_lag) };
            self.after(delay, Event::ApplyPlacement(id));
        }
    }

    pub(super) fn apply_placement(&mut self, id: NodeId) {
        let group = self.group_of(id);
        let leader = self.groups[group].leader.map(|(node, _)| node);
        let hears = leader.is_some_and(|leader| self.network.is_open(leader, id));
        let log = &self.groups[group].log;
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
            if at >= self.groups[group].judged {
                self.groups[group].judged = at + 1;
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
            let (settled, durable) = (host.replica.is_settled(), host.replica.durable());
            let caught_up = learner.filter(|node| near(*node));
            leads.push(Led { shard: *shard, epoch, settled, durable, caught_up });
        }
        let full = process.volume.is_full();
        let heartbeat = Heartbeat { node: at.node, boot: process.boot, full, leads };
        // Whoever this process knows: a survivor may be another incarnation's by now.
        let group = self.group_of(at.node);
        let knows = |node: &&Node| node.group == group || placement.node(node.id).is_some();
        let to: Vec<NodeId> = self.nodes.values().filter(knows).map(|node| node.id).collect();
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
