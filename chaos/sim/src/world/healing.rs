//! The end of a history: all faults end, everything gets well, and what is there is read once more from every disk.

use meridian_shard::Home;
use meridian_types::{NodeId, Seq, ShardId};

use super::{Event, World};
use crate::check::{Law, incarnations, same_bytes};

impl World {
    /// No more faults: what is down comes back, what is cut is mended.
    pub(super) fn heal(&mut self) {
        self.calm = true;
        self.doomed.clear();
        self.trace.line(self.now, format_args!("all faults end"));
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in &ids {
            let Some(node) = self.nodes.get_mut(id) else { continue };
            node.frozen_until = self.now;
            node.full = false;
            node.disk.set_capacity(u64::MAX);
            // What waits in ambush goes off now: the node starts with a sound disk.
            if node.is_up() {
                self.crash(*id, false);
            }
        }
        let lost: Vec<usize> = self.lost.keys().copied().collect();
        for region in lost {
            self.restore(region);
        }
        let cuts = self.network.mend_all();
        for (from, to) in cuts {
            self.reset(from, to);
        }
        for id in ids {
            self.after(50_000, Event::Start(id));
            self.after(100_000, Event::ApplyCatalog(id));
        }
    }

    /// What is not well yet.
    pub(super) fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if self.clients.open() > 0 {
            missing.push(format!("{} batches are not acknowledged", self.clients.open()));
        }
        for (id, node) in &self.nodes {
            if node.group != self.current[node.region] {
                missing.push(format!("node {id} still writes as {}", node.home));
            }
        }
        for region in 0..self.swarm.regions {
            for shard in self.shards() {
                if let Some(what) = self.lacks(region, shard) {
                    missing.push(format!("region {region}, shard {shard}: {what}"));
                }
            }
        }
        missing
    }

    fn lacks(&self, region: usize, shard: ShardId) -> Option<String> {
        let leader = self.groups[self.current[region]].leader.map(|(node, _)| node);
        let Some(view) = leader.and_then(|leader| self.nodes.get(&leader)) else {
            return Some("its placement group has no leader".into());
        };
        let Some(row) = view.placement.shard(shard) else { return Some("it is not placed".into()) };
        let Some(elected) = row.leader() else { return Some(format!("nobody is elected in {}", row.begun)) };
        // A set that has shrunk to damaged replicas, with nobody elsewhere: see ../FINDINGS.md.
        let damaged = |id: &NodeId| {
            let process = self.nodes.get(id).and_then(|node| node.process.as_ref());
            process.map_or(0, |process| process.reader.quarantine().counts(shard).0)
        };
        if self.swarm.regions == 1 && row.members.iter().all(|id| damaged(id) > 0) {
            return None;
        }
        if row.previous.is_some() || row.learner.is_some() {
            return Some(format!("its set is changing: {row:?}"));
        }
        let end = self.end_of(shard);
        for id in &row.members {
            let process = self.nodes.get(id).and_then(|node| node.process.as_ref());
            let Some(host) = process.and_then(|process| process.hosts.get(&shard)) else {
                return Some(format!("node {id} does not have it"));
            };
            let marks = host.replica.marks();
            if let Some(from) = host.replica.unsure_from() {
                return Some(format!("node {id} is in doubt from {from}"));
            }
            let damaged = damaged(id);
            if damaged > 0 {
                let first = process.and_then(|process| process.reader.quarantine().first_from(shard, Seq(1)));
                return Some(format!("{damaged} frames are damaged at node {id}, from {first:?}"));
            }
            if *id == elected.node && host.replica.leads() != Some(elected.epoch) {
                return Some(format!(
                    "node {id} is elected in {} and leads {:?}",
                    elected.epoch,
                    host.replica.leads()
                ));
            }
            if *id == elected.node && host.home == Home::Origin && !host.replica.is_ready() {
                return Some(format!("node {id} is not ready: {marks:?}"));
            }
            if *id != elected.node && host.replica.follows() != Some((elected.node, elected.epoch)) {
                return Some(format!("node {id} does not follow"));
            }
            // Of the past a copy may hold more, which nobody had applied.
            let is_past = shard.origin != self.origin(usize::from(shard.origin.region.0) - 1);
            if marks.applied != end || (marks.appended != end && !is_past) {
                return Some(format!("node {id} is at {marks:?} of {end}"));
            }
        }
        None
    }

    /// Every replica and copy holds what is committed, byte for byte, as its disk has it.
    pub(super) fn last_checks(&mut self) {
        let mut frames = 0;
        for region in 0..self.swarm.regions {
            for shard in self.shards() {
                let current = self.nodes.values().filter(|node| node.group == self.current[region]);
                let row = current.max_by_key(|node| node.applied);
                let members = row.and_then(|node| node.placement.shard(shard)).map(|row| row.members.clone());
                for id in members.unwrap_or_default() {
                    let process = self.nodes.get(&id).and_then(|node| node.process.as_ref());
                    if process.is_some_and(|process| process.reader.quarantine().counts(shard).0 > 0) {
                        self.met.met("end: damaged, and nobody to repair it");
                        continue;
                    }
                    let verdict = self.read_all(id, shard).and_then(|read| {
                        frames += read.len() as u64;
                        same_bytes::whole(&self.laws.truth, id, shard, self.end_of(shard), &read)
                    });
                    self.judge(Law::SameBytes, verdict);
                }
            }
        }
        self.met.add("end: frame compared", frames);
        let past: Vec<(ShardId, Seq)> = self.past.kept.iter().map(|(shard, kept)| (*shard, *kept)).collect();
        for (shard, kept) in past {
            let verdict = incarnations::survives(shard, kept, self.end_of(shard));
            self.judge(Law::Survives, verdict);
        }
        let logs: Vec<(ShardId, Seq, Seq)> = self
            .shards()
            .into_iter()
            .map(|shard| {
                let end = self.end_of(shard);
                (shard, end, self.past.through.get(&shard).copied().unwrap_or(end).min(end))
            })
            .collect();
        let verdict = incarnations::no_twin(&self.laws.truth, &logs);
        self.judge(Law::NoHoleNoTwin, verdict);
    }

    fn read_all(&self, id: NodeId, shard: ShardId) -> Result<Vec<meridian_storage::Frame>, String> {
        let process = self.nodes.get(&id).and_then(|node| node.process.as_ref()).ok_or("it is down")?;
        let (mut frames, mut from) = (Vec::new(), Seq(1));
        loop {
            let more = process.reader.frames(shard, from, 1 << 20).map_err(|error| error.to_string())?;
            let Some(last) = more.last() else { return Ok(frames) };
            from = last.header.seq.next();
            frames.extend(more);
        }
    }
}
