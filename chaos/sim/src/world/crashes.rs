//! Processes that end, disks that lose power, and what is there when a process starts again.

use std::collections::BTreeMap;

use meridian_mirror::Legs;
use meridian_shard::Input;
use meridian_storage::{PowerLoss, VolumeError};
use meridian_types::{NodeId, ShardId};
use rand::RngExt as _;

use super::{At, Event, World, names};
use crate::check::stored::{self, StoredLog};
use crate::check::{Law, doubt};
use crate::node::Link;

impl World {
    /// The process of a node ends; `power`: its machine too, so that what was not synced may be gone.
    pub(super) fn crash(&mut self, id: NodeId, power: bool) {
        let down = 10_000 + self.some(self.swarm.down);
        self.crash_for(id, power, down);
    }

    /// As `crash`; it starts again after so long.
    pub(super) fn crash_for(&mut self, id: NodeId, power: bool, down: u64) {
        let coin = self.rng.random_bool(0.5);
        let ops = self.rng.random_range(1..4);
        let loss = [PowerLoss::Nothing, PowerLoss::Everything, PowerLoss::Any, PowerLoss::Any]
            [self.rng.random_range(0..4)];
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(mut process) = node.process.take() else { return };
        node.frozen_until = 0;
        node.proven = process.volume.next_round() - 1;
        node.in_flight = node.stored.clone();
        let round = process.queue.round().to_vec();
        for entry in &round {
            node.in_flight.entry(entry.shard()).or_default().take(entry);
        }
        if coin && !round.is_empty() && !node.disk.crashed() {
            // In the middle of the write, or of the sync.
            node.disk.crash_at(node.disk.ops() + ops);
            let _ = process.volume.write_round(&round);
            self.met.met("fault: crash in the middle of a round");
        }
        drop(process);
        node.kv.crash();
        if power {
            node.disk.lose_power(loss);
        } else {
            node.disk.kill();
        }
        self.met.met(if power { "fault: power lost" } else { "fault: process killed" });
        self.trace.line(self.now, format_args!("{id} ends{}", if power { ", its power gone" } else { "" }));
        let peers: Vec<NodeId> = self.nodes.keys().copied().filter(|peer| *peer != id).collect();
        for peer in peers {
            self.reset(id, peer);
        }
        self.end_links_of(id);
        self.end_seats_of(id);
        self.after(down, Event::Start(id));
    }

    /// A process takes part in the placement of what its region writes as, as its node knows that when it starts.
    fn enter_group(&mut self, id: NodeId) {
        let Some(origin) = self.written_as(id) else { return };
        let Some(group) = self.groups.iter().position(|group| group.origin == origin) else { return };
        if let Some(node) = self.nodes.get_mut(&id).filter(|node| !node.is_up() && node.group != group) {
            (node.home, node.group) = (origin, group);
            (node.placement, node.applied) = Default::default();
        }
    }

    pub(super) fn start(&mut self, id: NodeId) {
        let (config, life) = (self.volume_config(), self.number());
        let trips = !self.calm && self.now > 0 && self.chance(8);
        let ops = self.rng.random_range(1..8);
        let regions = self.swarm.regions;
        self.enter_group(id);
        let all = self.wanted(id);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.is_up() {
            return;
        }
        let home = node.home;
        if trips {
            node.disk.crash_at(node.disk.ops() + ops);
        }
        let started = match node.start(life, config, &all) {
            Ok(started) => started,
            Err(_) if node.disk.crashed() => {
                node.process = None;
                node.kv.crash();
                node.disk.lose_power(PowerLoss::Any);
                self.met.met("fault: crash while it starts");
                return self.after(20_000, Event::Start(id));
            }
            Err(error) if node.full && error == VolumeError::NoSpace.to_string() => {
                node.process = None;
                self.met.met("disk: no room to start");
                return self.after(200_000, Event::Start(id));
            }
            Err(error) => {
                return self.judge(Law::StoredLast, Err(format!("node {id} does not start: {error}")));
            }
        };
        let damaged = !started.recovered.damage.is_empty();
        let Some(process) = &mut node.process else { return };
        let (mut verdict, mut doubted, mut kept) = (Ok(()), Ok(()), Vec::new());
        let mut shards: Vec<ShardId> =
            process.hosts.keys().copied().chain(node.in_flight.keys().copied()).collect();
        shards.sort_unstable();
        shards.dedup();
        let none = StoredLog::default();
        for shard in shards {
            let host = process.hosts.get(&shard);
            let view = host.map(|host| host.view.clone()).unwrap_or_default();
            let unsure = host.and_then(|host| host.replica.unsure_from());
            let mut promised =
                started.recovered.promises.get(&shard).map(|promise| promise.epoch).unwrap_or_default();
            if let Some(host) = host.filter(|_| node.flipped) {
                promised = host.replica.promised();
            }
            let synced = node.stored.get(&shard).unwrap_or(&none);
            let in_flight = node.in_flight.get(&shard).unwrap_or(synced);
            let marked = started.recovered.shards.get(&shard).map(|found| found.applied).unwrap_or_default();
            let before = synced.before.clone();
            let mut log = StoredLog { promised, applied: marked, doubt: unsure, before, frames: view };
            if host.is_some_and(|host| host.is_past) {
                // What was not applied is given up, whatever it was.
                let applied = host.map(|host| host.replica.marks().applied).unwrap_or_default();
                verdict = verdict.and(stored::kept(id, shard, synced, in_flight, &log.frames, applied));
                kept.push((shard, log.last()));
                log.before.clear();
            } else if node.flipped {
                let applied = host.map(|host| host.replica.marks().applied).unwrap_or_default();
                let awaits = host.is_some_and(|host| host.replica.awaits_begun());
                let found = doubt::Found { view: &log.frames, promised, unsure, awaits, applied };
                doubted = doubted.and(doubt::recovered(id, shard, synced, in_flight, found));
                if unsure.is_some() || awaits {
                    log.before.push(StoredLog { before: Vec::new(), ..synced.clone() });
                }
            } else {
                verdict = verdict.and(stored::recovered(id, shard, synced, in_flight, &log.frames, promised));
            }
            node.stored.insert(shard, log);
        }
        node.in_flight = node.stored.clone();
        for other in (0..regions).filter(|other| *other != node.region) {
            let legs = Legs::new(Self::link_config(self.swarm.credit, home), id);
            let link = Link { legs, ways: BTreeMap::new(), opening: BTreeMap::new(), attempts: 0 };
            process.links.insert(other, link);
        }
        let boot = process.boot;
        if damaged && !node.flipped {
            verdict = verdict.and(Err(format!("node {id} finds damage: {:?}", started.recovered.damage)));
        }
        self.met.add("disk: frame replayed", started.replayed);
        self.met.add("disk: file passed at a start", started.recovered.files_passed as u64);
        for damage in &started.recovered.damage {
            self.trace.line(self.now, format_args!("{id} finds {damage:?}"));
            self.met.met(names::damage(damage));
        }
        if started.recovered.torn.is_some() {
            self.met.met("disk: torn round");
        }
        self.trace.line(self.now, format_args!("{id} starts, boot {boot}, {} replayed", started.replayed));
        self.judge(Law::StoredLast, verdict);
        self.judge(Law::InDoubt, doubted);
        for (shard, applied) in kept {
            self.keeps(shard, applied);
        }
        let at = At { node: id, life };
        let shards: Vec<ShardId> =
            self.process(at).map(|p| p.hosts.keys().copied().collect()).unwrap_or_default();
        for shard in shards {
            let process = self.process(at);
            let was_applied = process.and_then(|process| Some(process.hosts.get(&shard)?.was_applied));
            self.step(id, shard, Input::WasApplied(was_applied.unwrap_or_default()));
            self.show_soon(at, shard);
        }
        let delay = self.some(self.swarm.checkpoint);
        self.after(delay, Event::FlushIndex(at));
        let delay = self.some(100_000);
        self.after(delay, Event::Heartbeat(at));
        self.after(delay, Event::ApplyPlacement(id));
        self.after(delay, Event::Repair(at));
        self.after(delay, Event::ApplyCatalog(id));
        if regions > 1 {
            self.after(delay, Event::LinkTick(at));
            for other in (0..regions).filter(|other| *other != Self::region_of(id)) {
                self.after(delay, Event::LinkConnect(at, other));
            }
        }
        let peers: Vec<NodeId> = self.nodes.keys().copied().filter(|peer| *peer != id).collect();
        for peer in peers {
            self.reset(id, peer);
        }
        self.tell_placement(id);
    }
}
