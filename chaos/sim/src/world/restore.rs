//! A region loses the disks of a majority for good, and an operator restores it: new nodes in the place of the lost ones, one
//! entry of the catalog, and a placement group anew.

use std::collections::{BTreeMap, BTreeSet};

use meridian_metadata::catalog::{Change, Outcome, Past as Left, RestoreRegion};
use meridian_types::{NodeId, Origin, Seq, ShardId, ShardNo};
use rand::RngExt as _;

use super::catalog::{node_row, region_id};
use super::{Event, World};
use crate::check::Law;
use crate::host::Host;
use crate::node::{Node, Process};

/// What is known of incarnations that are over, for the checkers.
#[derive(Default)]
pub struct Past {
    /// How far somebody who is left had applied a shard, in a way that outlives him.
    pub kept: BTreeMap<ShardId, Seq>,
    /// How far whoever answered the operator had applied it.
    pub through: BTreeMap<ShardId, Seq>,
    /// The frames that there were when the incarnation ended. No other is ever committed under it.
    pub made: BTreeMap<ShardId, BTreeSet<[u8; 16]>>,
    /// Regions that were restored while one of theirs did not answer: what it holds nobody knows of.
    pub unheard: BTreeSet<usize>,
}

impl World {
    /// The disks of a majority are about to go, and with them answers to clients. Whether there is a region that may lose them.
    pub(super) fn doom(&mut self, region: usize) -> bool {
        if !self.doomed.is_empty() || !self.may_lose_disks() {
            return false;
        }
        let spared = if self.chance(50) { self.cut_off_a_leader(region) } else { None };
        self.doomed.insert(region, spared);
        let later = self.some(400_000);
        self.after(later, Event::LoseDisks(region));
        true
    }

    /// So that what it still appends is at no majority when the others are gone.
    fn cut_off_a_leader(&mut self, region: usize) -> Option<NodeId> {
        let leader = self.leader_in(region)?;
        let others = self.nodes.keys().filter(|id| Self::region_of(**id) == region && **id != leader);
        let ways = others.flat_map(|other| [(leader, *other), (*other, leader)]).collect();
        self.met.met("fault: a leader is cut off, and the disks of others go");
        self.cut_ways(ways, 1_500_000);
        Some(leader)
    }

    fn may_lose_disks(&mut self) -> bool {
        self.forget_mended();
        let damaged = !self.damaged.is_empty();
        // Once, and where there is somebody else: what is left of a region may be at one node alone for a while.
        let again = !self.lost.is_empty() || self.current.len() < self.groups.len();
        if self.swarm.regions < 2 || again || damaged {
            return false;
        }
        true
    }

    /// The disks of a majority go up in smoke.
    pub(super) fn lose_disks(&mut self, region: usize) {
        let Some(spared) = self.doomed.remove(&region) else { return };
        if !self.may_lose_disks() {
            return;
        }
        let placed = &self.groups[self.current[region]].state;
        let mut left: Vec<NodeId> = placed.nodes().map(|(id, _)| id).collect();
        // One that nobody heard is not known to hold anything, and of more nodes than replicas it may be left out.
        let may_be_unheard = left.len() <= self.swarm.replication[region] as usize;
        // The group that decides, and each shard's set: one that still had its majority would go on.
        let mut sets = vec![left.clone(), self.groups[self.current[region]].voters.clone()];
        for (_, row) in placed.shards() {
            sets.push(row.members.clone());
            sets.extend(row.previous.clone());
        }
        let mut lost = Vec::new();
        let goes_on = |set: &Vec<NodeId>, lost: &[NodeId]| {
            2 * set.iter().filter(|id| !lost.contains(id)).count() > set.len()
        };
        let mut more = self.rng.random_range(0..2);
        loop {
            if sets.iter().all(|set| !goes_on(set, &lost)) {
                if more == 0 {
                    break;
                }
                more -= 1;
            }
            if left.is_empty() {
                break;
            }
            let mut at = self.rng.random_range(0..left.len());
            if Some(left[at]) == spared {
                at = (at + 1) % left.len();
            }
            lost.push(left.swap_remove(at));
        }
        self.met.met("fault: the disks of a majority are lost for good");
        self.trace.line(self.now, format_args!("the disks of {lost:?} are lost for good"));
        for id in &lost {
            self.crash_for(*id, true, 0);
            if let Some(node) = self.nodes.remove(id) {
                self.graves.insert(*id, node.stored);
            }
        }
        for id in left {
            if may_be_unheard && self.chance(40) {
                let until = self.now + self.rng.random_range(500_000..6_000_000);
                self.met.met("fault: a survivor stands still");
                self.freeze(id, until);
            }
        }
        self.lost.insert(region, lost);
        let later = 200_000 + self.some(3_000_000);
        self.after(later, Event::Restore(region));
    }

    /// What `meridian region restore` does, once new nodes are added.
    pub(super) fn restore(&mut self, region: usize) {
        // Of more nodes than replicas one that is not asked may be left out with what it alone holds: so all are started first.
        let survivors = self.nodes.values().filter(|node| node.region == region);
        let is_silent = |node: &Node| !node.is_up() || node.frozen_until > self.now;
        let count = survivors.clone().count() + self.lost.get(&region).map_or(0, Vec::len);
        let any_is_silent = survivors.clone().any(is_silent);
        if count > self.swarm.replication[region] as usize && any_is_silent {
            return self.after(300_000, Event::Restore(region));
        }
        let Some(lost) = self.lost.remove(&region) else { return };
        if any_is_silent {
            self.past.unheard.insert(region);
        }
        let group = self.current[region];
        let before = self.groups[group].origin;
        let voters = self.groups[group].voters.clone();
        self.flush_who_answers();
        let mut new = Vec::new();
        for _ in 0..lost.len().max(1) {
            let id = self.next_node(region, &new);
            self.decide(Change::RegisterNode(node_row(id, region)));
            new.push(id);
        }
        let shards: Vec<ShardId> =
            (0..self.swarm.shards).map(|no| ShardId { origin: before, no: ShardNo(no) }).collect();
        let recovered: Vec<Seq> = shards.iter().map(|shard| self.held_by_anyone(*shard)).collect();
        for (shard, through) in shards.iter().zip(&recovered) {
            self.past.through.insert(*shard, *through);
            let made = self.all_frames(*shard);
            self.past.made.insert(*shard, made);
            // Who does not answer may have written down that he had more.
            let written = self.nodes.values().filter_map(|node| {
                let log = node.stored.get(shard)?;
                // Where bits flipped, a copy without its like cuts from there on, to ask its origin anew.
                Some(if node.flipped { log.applied.min(log.last()) } else { log.applied })
            });
            let kept = written.max().unwrap_or_default().max(*through);
            self.keeps(*shard, kept);
        }
        self.trace.line(
            self.now,
            format_args!("region {region} is restored: {before} is over, {recovered:?} is left"),
        );
        let restore = RestoreRegion {
            region: region_id(region),
            incarnation: before.incarnation,
            voters,
            lost,
            past: vec![self.left_of(before, region)],
        };
        let Some(Outcome::RegionRestored(row)) = self.decide(Change::RestoreRegion(restore)) else { return };
        self.met.met("operator: a region is restored");
        let group = self.new_group(region, row.origin(), row.founders.clone(), row.holders());
        self.current[region] = group;
        for id in new {
            let catalog = (self.catalog.state.clone(), self.catalog.log.len());
            let node = Node::new(id, region, self.seed, catalog);
            self.nodes.insert(id, Node { group, home: row.origin(), ..node });
            let delay = self.some(500_000);
            self.after(delay, Event::Start(id));
        }
        self.after(0, Event::GroupTick(group));
    }

    /// An id that no node of the region ever had.
    pub(super) fn next_node(&self, region: usize, new: &[NodeId]) -> NodeId {
        let known = self.nodes.keys().chain(self.graves.keys()).chain(new);
        let highest = known.copied().filter(|id| Self::region_of(*id) == region).max().unwrap_or_default();
        NodeId(highest.0.max((region as u32 + 1) * 100) + 1)
    }

    /// Whoever answers the operator.
    fn who_answers(&self) -> impl Iterator<Item = &Process> {
        let answers = self.nodes.values().filter(|node| node.frozen_until <= self.now);
        answers.filter_map(|node| node.process.as_ref())
    }

    /// What is counted as left is not lost with the next power loss, as with `ListShardsRequest.durable`.
    fn flush_who_answers(&mut self) {
        let flushed = self.who_answers().try_for_each(|process| process.index.flush());
        self.judge(Law::OwnChecks, flushed.map_err(|error| error.to_string()));
    }

    /// What those who answer the operator say of an incarnation that ends.
    fn left_of(&self, origin: Origin, region: usize) -> Left {
        let answers = self.nodes.values().filter(|node| node.frozen_until <= self.now);
        let said: Vec<_> = answers
            .filter_map(|node| {
                let hosts = node.process.as_ref()?.hosts.iter();
                let applied = |shard: &ShardId, host: &Host| {
                    ((shard.origin, u32::from(shard.no.0)), host.replica.marks().applied)
                };
                Some((
                    node.id,
                    node.region == region,
                    hosts.map(|(shard, host)| applied(shard, host)).collect(),
                ))
            })
            .collect();
        Left::of(origin, self.swarm.shards, &said)
    }

    /// The longest that anyone who answers has applied.
    fn held_by_anyone(&self, shard: ShardId) -> Seq {
        let hosts = self.who_answers().filter_map(|process| process.hosts.get(&shard));
        hosts.map(|host| host.replica.marks().applied).max().unwrap_or_default()
    }

    fn all_frames(&self, shard: ShardId) -> BTreeSet<[u8; 16]> {
        let views = self.nodes.values().filter_map(|node| node.process.as_ref()?.hosts.get(&shard));
        let views = views.flat_map(|host| host.view.iter());
        let ids = self.nodes.keys().chain(self.graves.keys());
        let stored = ids.filter_map(|id| self.stored(*id, shard)).flat_map(|log| log.frames.iter());
        views.chain(stored).map(|frame| frame.header.chain.0).collect()
    }

    /// A process ends in order and begins anew under the next incarnation of its region: what it had applied of the one before
    /// stays.
    pub(super) fn begin_anew(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(&id) else { return };
        let Some(process) = &node.process else { return };
        let flushed = process.index.flush();
        let home = node.home;
        let applied: Vec<(ShardId, Seq)> = process
            .hosts
            .iter()
            .filter(|(shard, _)| shard.origin == home)
            .map(|(shard, host)| (*shard, host.replica.marks().applied))
            .collect();
        if let Err(error) = flushed {
            return self.judge(Law::OwnChecks, Err(error.to_string()));
        }
        for (shard, applied) in applied {
            self.keeps(shard, applied);
        }
        self.crash_for(id, false, 10_000);
    }

    /// Somebody who is left has applied it so far, and has it on his disk.
    pub(super) fn keeps(&mut self, shard: ShardId, applied: Seq) {
        let kept = self.past.kept.entry(shard).or_default();
        *kept = (*kept).max(applied);
    }

    /// How far a shard goes that nobody writes any more: as far as anybody has applied it.
    pub(super) fn end_of(&self, shard: ShardId) -> Seq {
        let region = usize::from(shard.origin.region.0) - 1;
        if self.origin(region) == shard.origin {
            return self.laws.truth.end(shard);
        }
        let hosts = self.nodes.values().filter_map(|node| node.process.as_ref()?.hosts.get(&shard));
        hosts.map(|host| host.replica.marks().applied).max().unwrap_or_default()
    }
}
