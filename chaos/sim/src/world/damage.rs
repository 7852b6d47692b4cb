//! Bits that flip in what disks have synced, at most on a minority of a shard's replicas at a time; what a damaged replica
//! asks of placement; and repairs, as `mirror/src/repair.rs` does them.

use std::collections::{BTreeSet, VecDeque};

use meridian_metadata::placement::ShardRow;
use meridian_shard::{Input, Proof, Proven, Stretch};
use meridian_storage::record::{RECORD_BYTES, RECORD_KIND_MIN};
use meridian_storage::round::{ROUND_HEADER_BYTES, RoundHeader};
use meridian_storage::volume::{file_name, file_number};
use meridian_storage::{BLOCK, Disk as _, FRAME_HEADER_BYTES, FrameHeader, Identity};
use meridian_types::{NodeId, Seq, ShardId};
use rand::RngExt as _;

use super::{At, Event, World};
use crate::node::Node;

/// A round as it lies on a disk.
struct Lies {
    file: u64,
    at: u64,
    header: RoundHeader,
}

impl World {
    /// Flips bits on a disk of the region, with its process ended or not. Whether there was a disk that may be damaged.
    pub(super) fn flip_bits(&mut self, region: usize) -> bool {
        self.forget_mended();
        // Of what a lost region had, others may have the only copy: that is two misfortunes.
        if self.current.len() < self.groups.len() || !self.lost.is_empty() {
            return false;
        }
        let ids: Vec<NodeId> = self.nodes.values().filter(|node| node.is_up()).map(|node| node.id).collect();
        let ours: Vec<NodeId> = ids.into_iter().filter(|id| Self::region_of(*id) == region).collect();
        let Some(id) = self.pick(&ours) else { return false };
        let whole = self.may_damage(id, |_| true);
        let copies: BTreeSet<ShardId> =
            self.shards().into_iter().filter(|shard| self.may_damage(id, |other| other == *shard)).collect();
        if !whole && copies.is_empty() {
            return false;
        }
        if self.chance(80) {
            let power = self.chance(50);
            self.crash(id, power);
        }
        let flips = self.rng.random_range(1..4);
        let Some(node) = self.nodes.get(&id) else { return false };
        let rounds = lie(node);
        let Some(last) = rounds.len().checked_sub(1) else { return false };
        let mut flipped = 0;
        for _ in 0..flips {
            // Most of what is of interest is near the end.
            let from = if self.chance(60) { last.saturating_sub(4) } else { 0 };
            let round = &rounds[self.rng.random_range(from..=last)];
            let mask = 1u8 << self.rng.random_range(0..8);
            let Some(node) = self.nodes.get(&id) else { return false };
            let body = u64::from(round.header.body_len);
            let at = if !whole {
                let payloads = payloads(node, round, &copies);
                let Some((at, len)) = self.pick(&payloads) else { continue };
                at + self.rng.random_range(0..len)
            } else if self.chance(4) {
                self.rng.random_range(0..64)
            } else if body == 0 || self.chance(20) {
                round.at + self.rng.random_range(0..ROUND_HEADER_BYTES as u64)
            } else {
                round.at + ROUND_HEADER_BYTES as u64 + self.rng.random_range(0..body)
            };
            let Some(node) = self.nodes.get(&id) else { return false };
            flipped += u64::from(node.disk.flip(&file_name(round.file), at, mask));
        }
        if flipped == 0 {
            return false;
        }
        self.met.met(if whole { "fault: bits flip" } else { "fault: bits flip in the only copy" });
        self.trace.line(self.now, format_args!("bits flip on the disk of {id}"));
        let life = self.next_number;
        if let Some(node) = self.nodes.get_mut(&id) {
            node.flipped = true;
        }
        self.damaged.insert(id, life);
        true
    }

    /// Whether damage at this node, of these shards, leaves each of them a majority that nothing has happened to. A copy alone
    /// in its region may be damaged too: its origin has what it loses.
    fn may_damage(&self, id: NodeId, of: impl Fn(ShardId) -> bool) -> bool {
        let home = self.home(id);
        let placed = &self.groups[self.group_of(id)].state;
        let leaves_a_majority = |set: &Vec<NodeId>, shard: ShardId| {
            let others = set.iter().filter(|node| **node != id && self.damaged.contains_key(*node)).count();
            let alone = set.len() == 1 && shard.origin != home;
            !set.contains(&id) || alone || 2 * (others + 1) < set.len()
        };
        self.shards().into_iter().filter(|shard| of(*shard)).all(|shard| {
            placed.shard(shard).is_some_and(|row: &ShardRow| {
                leaves_a_majority(&row.members, shard)
                    && row.previous.as_ref().is_none_or(|set| leaves_a_majority(set, shard))
                    // It may be all of the set before it has started again, and know nothing of it.
                    && (shard.origin != home || row.learner != Some(id))
            })
        })
    }

    /// A damaged node counts as one no more once a process has started on its disk since, and nothing is damaged or in doubt.
    pub(super) fn forget_mended(&mut self) {
        let nodes = &self.nodes;
        self.damaged.retain(|id, since| {
            let process = nodes.get(id).and_then(|node| node.process.as_ref());
            !process.is_some_and(|process| process.life > *since && process.is_sound())
        });
    }

    /// As `elections.rs::tell_damaged`: a linearizable read of what placement has begun.
    pub(super) fn ask_placement(&mut self, at: At, shard: ShardId) {
        let group = self.group_of(at.node);
        let Some(host) = self.process(at).and_then(|process| process.hosts.get_mut(&shard)) else { return };
        if std::mem::replace(&mut host.asking, true) {
            return;
        }
        let upto = self.groups[group].log.len();
        let leader = self.groups[group].leader.map(|(leader, _)| leader);
        let answered = leader.is_some_and(|leader| {
            self.network.is_connected(leader, at.node) && self.reaches_majority(group, leader)
        });
        let delay = if answered { 500 + self.some(2 * self.swarm.way) } else { 1_000_000 };
        let upto = answered.then_some(upto);
        self.after(delay, Event::Begun { at, shard, upto });
    }

    /// Placement has answered, if it has: everything up to there is known here.
    pub(super) fn begun(&mut self, at: At, shard: ShardId, upto: Option<usize>) {
        self.apply_placement(at.node);
        let Some(host) = self.process(at).and_then(|process| process.hosts.get_mut(&shard)) else { return };
        host.asking = false;
        if !host.replica.awaits_begun() {
            return;
        }
        let Some(node) = self.nodes.get(&at.node) else { return };
        if upto.is_none_or(|upto| node.applied < upto) {
            return self.ask_placement(at, shard);
        }
        let Some(row) = node.placement.shard(shard).cloned() else { return };
        self.met.met("replica: asked placement what it has begun");
        self.step(at.node, shard, Input::Begun { epoch: row.begun, untouched: row.elected.is_none() });
        if let Some(elected) = row.leader() {
            self.elected(at.node, shard, elected, row.version, &row.members, row.learner);
        }
    }

    /// As `Repairs::run`: each stretch of damaged frames is asked of the other replicas here, then of other regions.
    pub(super) fn look_for_repairs(&mut self, at: At) {
        let Some(process) = self.process(at) else { return };
        let mut stretches = Vec::new();
        for (shard, first) in process.reader.quarantine().first_of_each() {
            let mut next = Some(first);
            while let Some(seq) = next {
                let stretch = process.reader.stretch(shard, seq).ok().flatten();
                let after = stretch.as_ref().map_or(seq, |stretch| stretch.last).next();
                stretches.extend(stretch);
                next = process.reader.quarantine().first_from(shard, after);
            }
        }
        for stretch in stretches {
            if self.process(at).is_some_and(|process| process.reader.reread(&stretch)) {
                self.met.met("repair: the frames are whole");
                continue;
            }
            let sources = self.repair_sources(at.node, stretch.shard);
            self.ask_for_repair(at, sources, Box::new(stretch));
        }
        let delay = 200_000 + self.some(500_000);
        self.after(delay, Event::Repair(at));
    }

    /// As `serve.rs::repair_sources`: the shard's other replicas here, the other nodes here, those of its origin, and the rest.
    fn repair_sources(&self, id: NodeId, shard: ShardId) -> VecDeque<NodeId> {
        let Some(node) = self.nodes.get(&id) else { return VecDeque::new() };
        let voters = node.placement.shard(shard).map(|row| row.voters()).unwrap_or_default();
        let origin = |region: usize| super::catalog::region_id(region) == shard.origin.region;
        let mut others: Vec<&Node> = self.nodes.values().filter(|other| other.id != id).collect();
        others.sort_by_key(|other| {
            let is_here = other.region == node.region;
            (!is_here, is_here && !voters.contains(&other.id), !origin(other.region), other.region, other.id)
        });
        others.into_iter().map(|other| other.id).collect()
    }

    fn ask_for_repair(&mut self, at: At, sources: VecDeque<NodeId>, stretch: Box<Stretch>) {
        let Some(source) = sources.front() else { return };
        self.trace.line(
            self.now,
            format_args!(
                "{} asks {source} for {} to {} of {}",
                at.node, stretch.first, stretch.last, stretch.shard
            ),
        );
        let delay = 500 + self.some(2 * self.swarm.wan);
        self.after(delay, Event::RepairFrom(at, sources, stretch));
    }

    /// What the first of the sources holds in the place of the stretch, as a link gives it out: what is applied, after the same
    /// chain. If that is no help, the next one is asked.
    pub(super) fn repair_from(&mut self, at: At, mut sources: VecDeque<NodeId>, stretch: Box<Stretch>) {
        let Some(source) = sources.pop_front() else { return };
        let Stretch { shard, first, last, before, .. } = *stretch;
        let is_connected = self.network.is_connected(at.node, source);
        let process = self.here(source).filter(|_| is_connected).and_then(|source| self.process(source));
        let proven = process.and_then(|process| {
            let applied = process.hosts.get(&shard).map_or(Seq::ZERO, |host| host.replica.marks().applied);
            let chain = process.reader.chain_at(shard, first.prev());
            let agrees = matches!(chain, Ok(Some(chain)) if chain == before);
            if applied < last || !agrees { None } else { prove(process, &stretch) }
        });
        let Some(proven) = proven else {
            self.met.met("repair: the source cannot help");
            let what = format_args!("{source} cannot help with {first} to {last} of {shard}");
            self.trace.line(self.now, what);
            return self.ask_for_repair(at, sources, stretch);
        };
        let Some(process) = self.process(at) else { return };
        process.queue.repair(shard, proven);
        self.met.met("repair: frames are stored again");
        self.wake_disk(at);
    }
}

fn prove(source: &crate::node::Process, stretch: &Stretch) -> Option<Proven> {
    let mut proof = Proof::of(stretch.clone());
    let mut next = stretch.first;
    loop {
        for frame in source.reader.frames(stretch.shard, next, 2_000).ok()? {
            next = frame.header.seq.next();
            if proof.take(frame).ok()? {
                return proof.meet().ok();
            }
        }
    }
}

/// The rounds of a disk that may be damaged: those that the header of a later one proves to have been synced. Of the last one
/// nobody can tell damage from a write that was cut off.
fn lie(node: &Node) -> Vec<Lies> {
    let Ok(Identity { secret, .. }) = Identity::read(&node.disk) else { return Vec::new() };
    let running = node.process.as_ref().map(|process| process.volume.next_round() - 1);
    let proven = running.unwrap_or(node.proven);
    let mut rounds = Vec::new();
    for name in node.disk.list().unwrap_or_default() {
        let (Some(file), Some(bytes)) = (file_number(&name), node.disk.contents(&name)) else { continue };
        for (block, i) in bytes.chunks_exact(BLOCK).zip(0u64..) {
            let at = i * BLOCK as u64;
            let header = RoundHeader::decode_any(block, &secret, at).ok();
            if let Some(header) = header.filter(|header| header.number < proven) {
                rounds.push(Lies { file, at, header });
            }
        }
    }
    rounds.sort_by_key(|round| round.header.number);
    rounds
}

/// Where payloads of these shards lie in a round, and how long they are.
fn payloads(node: &Node, round: &Lies, of: &BTreeSet<ShardId>) -> Vec<(u64, u64)> {
    let Some(bytes) = node.disk.contents(&file_name(round.file)) else { return Vec::new() };
    let from = round.at as usize + ROUND_HEADER_BYTES;
    let body = bytes.get(from..from + round.header.body_len as usize).unwrap_or_default();
    let (mut at, mut found) = (0, Vec::new());
    while let Some(kind) = body.get(at) {
        if *kind >= RECORD_KIND_MIN {
            at += RECORD_BYTES;
            continue;
        }
        let Ok(header) = FrameHeader::decode(&body[at..]) else { break };
        if of.contains(&header.shard_id()) && header.payload_len > 0 {
            found.push(((from + at + FRAME_HEADER_BYTES) as u64, u64::from(header.payload_len)));
        }
        at += header.frame_len();
    }
    found
}
