//! A history: one scheduler, one thread, one seed.
//!
//! Real are the cores, the volume, the index and the machines. Simulated are time, the network, disks, the tasks that
//! execute effects (in the order of `shard/src/task.rs`), and Raft, as an order of commands that everybody learns of
//! sooner or later.

mod catalog;
mod clients;
mod crashes;
mod damage;
mod disk;
mod event;
mod faults;
mod healing;
mod links;
mod messages;
mod names;
mod observe;
mod placement;
mod replicas;
mod restore;
mod sessions;

use std::collections::BTreeMap;

use meridian_shard::ReplicaSet;
use meridian_storage::VolumeConfig;
use meridian_types::{LeaderEpoch, NodeId, Origin, ShardId, Timestamp};
use rand::rngs::Xoshiro256PlusPlus as Rng;
use rand::{RngExt as _, SeedableRng as _};

use crate::check::stored::StoredLog;
use crate::check::{Law, Laws};
use crate::coverage::Coverage;
use crate::network::Network;
use crate::node::Node;
use crate::run::{FAULTS, OPERATIONS};
use crate::swarm::Swarm;
use crate::trace::Trace;
use catalog::CatalogLog;
use clients::Clients;
pub use event::{At, Event, Packet, Reply};
use links::Connection;
use placement::Group;
use restore::Past;

/// The clocks' zero in milliseconds, so that they can jump back.
const EPOCH: u64 = 10_000_000_000;
/// How long all may take to get well, in µs.
const HEALING: u64 = 120_000_000;

/// A history under way.
pub struct World {
    pub seed: u64,
    pub rng: Rng,
    pub swarm: Swarm,
    /// In µs.
    pub now: u64,
    events: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    pub nodes: BTreeMap<NodeId, Node>,
    pub groups: Vec<Group>,
    /// The newest group of each region.
    pub current: Vec<usize>,
    pub catalog: CatalogLog,
    /// Regions that have lost a majority of their disks for good, and were not restored since, with the disks that went.
    lost: BTreeMap<usize, Vec<NodeId>>,
    /// Regions that are about to, with a node that is spared: nobody is answered there any more.
    doomed: BTreeMap<usize, Option<NodeId>>,
    /// What disks that are gone for good had synced.
    graves: BTreeMap<NodeId, BTreeMap<ShardId, StoredLog>>,
    past: Past,
    pub network: Network,
    connections: BTreeMap<u64, Connection>,
    /// The set of each leadership in each group.
    sets: BTreeMap<(usize, ShardId, LeaderEpoch), ReplicaSet>,
    pub clients: Clients,
    pub laws: Laws,
    /// Nodes whose disk was damaged and is not made good yet, and the last number given before.
    damaged: BTreeMap<NodeId, u64>,
    pub trace: Trace,
    pub met: Coverage,
    next_number: u64,
    /// No more faults.
    pub calm: bool,
    pub faults: u64,
    pub operations: u64,
    pub steps: u64,
}

impl World {
    /// A world before its first event.
    pub fn new(seed: u64, keep_trace: bool) -> Self {
        let mut rng = Rng::seed_from_u64(seed);
        let swarm = Swarm::draw(&mut rng);
        let mut world = Self {
            seed,
            clients: Clients::new(&swarm, &mut rng),
            rng,
            now: 0,
            events: BTreeMap::new(),
            next_event: 0,
            nodes: BTreeMap::new(),
            groups: Vec::new(),
            current: Vec::new(),
            catalog: CatalogLog::default(),
            lost: BTreeMap::new(),
            doomed: BTreeMap::new(),
            graves: BTreeMap::new(),
            past: Past::default(),
            network: Network::default(),
            connections: BTreeMap::new(),
            sets: BTreeMap::new(),
            laws: Laws::default(),
            damaged: BTreeMap::new(),
            trace: Trace::new(keep_trace),
            met: Coverage::default(),
            next_number: 0,
            calm: false,
            faults: 0,
            operations: 0,
            steps: 0,
            swarm,
        };
        let swarm = world.swarm.clone();
        world.trace.line(0, format_args!("{swarm:?}"));
        world.genesis();
        for region in 0..swarm.regions {
            world.found(region);
        }
        let ids: Vec<NodeId> = world.nodes.keys().copied().collect();
        for id in ids {
            world.start(id);
        }
        for region in 0..swarm.regions {
            world.after(0, Event::GroupTick(world.current[region]));
        }
        world.after(1_000_000, Event::Operation);
        world.after(1_200_000, Event::Fault);
        world
    }

    /// Runs it to its end: faults, then healing, then the last checks.
    pub fn run(&mut self) {
        let thin = |world: &Self| world.operations < OPERATIONS || world.faults < FAULTS;
        while !self.is_over() && (self.now < self.swarm.chaos || thin(self)) {
            self.next();
        }
        self.heal();
        let deadline = self.now + HEALING;
        while !self.is_over() {
            let missing = self.missing();
            if missing.is_empty() {
                break;
            }
            if self.now > deadline {
                let verdict = crate::check::liveness::well(&missing, HEALING);
                return self.laws.judge(Law::GetsWell, verdict);
            }
            let until = self.now + 200_000;
            while self.now < until && !self.is_over() {
                self.next();
            }
        }
        if !self.is_over() {
            self.last_checks();
        }
    }

    /// A law is broken.
    pub fn is_over(&self) -> bool {
        self.laws.breach.is_some()
    }

    pub fn judge(&mut self, law: Law, verdict: Result<(), String>) {
        if let Err(what) = &verdict {
            self.trace.line(self.now, format_args!("BREACH of {law}: {what}"));
        }
        self.laws.judge(law, verdict);
    }

    /// A number that was never given before.
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn at(&mut self, time: u64, event: Event) {
        self.events.insert((time.max(self.now), self.next_event), event);
        self.next_event += 1;
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    fn some(&mut self, most: u64) -> u64 {
        self.rng.random_range(0..=most)
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() { None } else { Some(of[self.rng.random_range(0..of.len())].clone()) }
    }

    /// Milliseconds that do not jump.
    fn steady(&self) -> Timestamp {
        Timestamp(self.now / 1000)
    }

    /// What a node's clock says.
    fn clock(&self, id: NodeId) -> Timestamp {
        let skew = self.nodes.get(&id).map_or(0, |node| node.skew);
        Timestamp((EPOCH + self.now / 1000).saturating_add_signed(skew))
    }

    /// What a region writes as, as whoever knows all knows it.
    fn origin(&self, region: usize) -> Origin {
        self.groups[self.current[region]].origin
    }

    /// What a node's process writes as.
    fn home(&self, id: NodeId) -> Origin {
        self.nodes.get(&id).map(|node| node.home).unwrap_or_default()
    }

    /// What a node's disk has synced, or had when it was lost.
    fn stored(&self, id: NodeId, shard: ShardId) -> Option<&StoredLog> {
        let logs = self.nodes.get(&id).map(|node| &node.stored).or_else(|| self.graves.get(&id))?;
        logs.get(&shard)
    }

    fn region_of(id: NodeId) -> usize {
        (id.0 / 100) as usize - 1
    }

    fn shards(&self) -> Vec<ShardId> {
        // Nobody writes as such: so it names all.
        self.catalog.state.shards_for(Origin::default())
    }

    fn volume_config(&self) -> VolumeConfig {
        VolumeConfig {
            file_bytes: self.swarm.file_bytes,
            max_round_bytes: 16 << 10,
            stock: 1,
            reserve_bytes: 0,
        }
    }

    /// The process, if it still runs.
    fn process(&mut self, at: At) -> Option<&mut crate::node::Process> {
        self.nodes.get_mut(&at.node)?.process.as_mut().filter(|process| process.life == at.life)
    }

    fn here(&self, node: NodeId) -> Option<At> {
        let life = self.nodes.get(&node)?.process.as_ref()?.life;
        Some(At { node, life })
    }

    fn next(&mut self) {
        let Some(((time, _), event)) = self.events.pop_first() else { return };
        self.now = time;
        if let Some(until) = event.node().and_then(|id| self.nodes.get(&id)).map(|node| node.frozen_until)
            && until > self.now
        {
            return self.at(until, event);
        }
        self.steps += 1;
        match event {
            Event::RoundBegins(at) => self.round_begins(at),
            Event::RoundEnds(at) => self.round_ends(at),
            Event::Synced(at, shard, synced) => self.synced(at, shard, synced),
            Event::FlushIndex(at) => self.flush_index(at),
            Event::Start(id) => self.start(id),
            Event::Packet { from, to, connection, packet } => self.arrives(from, to, connection, *packet),
            Event::Connected { node, peer, connection } => self.connected(node, peer, connection),
            Event::Pump { at, shard, to } => self.pump(at, shard, to),
            Event::Heartbeat(at) => self.heartbeat(at),
            Event::ConfirmEnds(at, shard, request) => self.confirmed(at, shard, request, None),
            Event::GroupTick(group) => self.group_tick(group),
            Event::SeatTick(group, seat) => self.seat_tick(group, seat),
            Event::SeatEnds(group, seat) => self.seat_ends(group, seat),
            Event::Ordered { group, command } => self.ordered(group, command),
            Event::NotOrdered { group, seat } => {
                self.drive(group, seat, meridian_metadata::driver::Input::Refused);
            }
            Event::ApplyPlacement(id) => self.apply_placement(id),
            Event::ApplyCatalog(id) => self.apply_catalog(id),
            Event::LoseDisks(region) => self.lose_disks(region),
            Event::Restore(region) => self.restore(region),
            Event::LinkTick(at) => self.link_tick(at),
            Event::LinkConnect(at, region) => self.link_connect(at, region),
            Event::LinkLeg(at, region, node, attempt) => self.open_leg(at, region, node, attempt),
            Event::LinkConnected(connection) => self.link_connected(connection),
            Event::LinkRequest(connection, request) => self.link_request(connection, *request),
            Event::LinkReply(connection, reply) => self.link_reply(connection, *reply),
            Event::SessionTick(connection, count) => self.session_tick(connection, count),
            Event::SessionLooks(connection, input) => self.session(connection, *input),
            Event::ShowCopy(at, shard) => self.show_copy(at, shard),
            Event::Mark(at, shard) => self.mark(at, shard),
            Event::Begun { at, shard, upto } => self.begun(at, shard, upto),
            Event::Repair(at) => self.look_for_repairs(at),
            Event::RepairFrom(at, sources, stretch) => self.repair_from(at, sources, stretch),
            Event::Said { from, to, shard, message } => self.replica_says(from, to, shard, *message),
            Event::Operation => self.operation(),
            Event::Publish { node, client, ticket, publish } => {
                self.publish_arrives(node, client, ticket, *publish)
            }
            Event::Answer { client, batch, answer } => self.answered(client, batch, answer),
            Event::TimedOut { client, ticket } => self.timed_out(client, ticket),
            Event::Kick(client) => self.kick(client),
            Event::Fault => self.fault(),
            Event::DiskFreed(id) => self.disk_freed(id),
            Event::Mend(ways) => self.mend(&ways),
        }
    }
}
