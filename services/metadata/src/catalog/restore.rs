//! How a region that lost a majority of its disks comes back: as a whole, under a new incarnation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meridian_types::mutant::{self, Mutant};
use meridian_types::{Incarnation, NodeId, Origin, RegionId, RegionName, Seq, ShardId};

use super::apply::{malformed, refuse};
use super::command::RestoreRegion;
use super::past::Past;
use super::reply::{Outcome, Refusal, RefusalCode as Code, Reply};
use super::rows::{NodeRow, RegionRow};
use super::state::Catalog;
use crate::group::Standing;
use crate::placement::Placement;

/// Whether a shard takes publishes: its region holds again what `before` says of the incarnations that ended. Before it does, a
/// retry of what that had acknowledged would be stored a second time. It has to be here, on the node that takes the publishes: producers
/// are looked up nowhere else. The driver of placement keeps replicas of a past shard wherever the present one has some.
pub fn has_recovered(before: &[(ShardId, Seq)], applied: impl Fn(ShardId) -> Option<Seq>) -> bool {
    before.iter().all(|(before, through)| {
        mutant::is(Mutant::PublishesTooEarly) || applied(*before).is_some_and(|applied| applied >= *through)
    })
}

impl Catalog {
    /// Every shard that a node keeps which writes as `home`: of each region those of all its incarnations. What a later one of its
    /// own region has is for the process that serves that.
    pub fn shards_for(&self, home: Origin) -> Vec<ShardId> {
        let all = self.regions().flat_map(|region| region.origins().map(move |origin| (region, origin)));
        all.filter(|(_, origin)| !home.is_past(*origin))
            .flat_map(|(region, origin)| region.shards_of(origin))
            .collect()
    }

    /// What a link from a region carries, and whether it is of the past: what the region writes, and every past incarnation's
    /// shards, for any region may have most of those.
    pub fn carried_from(&self, source: RegionId) -> Vec<(ShardId, bool)> {
        let shards = |row: &Arc<RegionRow>| {
            let (row, now) = (row.clone(), row.origin());
            let written = row.origins().filter(move |origin| *origin != now || now.region == source);
            written.flat_map(move |origin| row.shards_of(origin).map(move |shard| (shard, origin != now)))
        };
        self.regions().flat_map(shards).collect()
    }

    /// The entry that fences what was: the lost disks are refused for ever, the old incarnation writes no more, and the
    /// nodes that the region still has found its placement anew.
    pub(super) fn restore_region(&mut self, restore: RestoreRegion) -> Reply {
        let region = self
            .region(restore.region)
            .cloned()
            .ok_or_else(|| refuse(Code::RegionNotFound, format!("there is no region {}", restore.region)))?;
        if region.incarnation != restore.incarnation {
            return Err(refuse(
                Code::VersionConflict,
                format!(
                    "region {} is at incarnation {}, not {}: another restore came first; look at it again",
                    region.name, region.incarnation, restore.incarnation
                ),
            ));
        }
        if region.incarnation.0 == u16::MAX {
            return Err(malformed(format!("region {} has no incarnations left", region.name)));
        }
        let founders = self.check_lost(&region, &restore)?;
        let past = self.past_of(&region, &restore, &founders)?;
        for id in &restore.lost {
            if let Some(row) = self.node(*id).cloned() {
                self.nodes.remove_mut(id);
                self.removed.insert_mut(*id, row.disk);
            }
        }
        let incarnation = Incarnation(region.incarnation.0 + 1);
        let row = RegionRow { incarnation, founders, past, ..RegionRow::clone(&region) };
        let row = Arc::new(row);
        self.regions.insert_mut(row.id, Arc::clone(&row));
        Ok(Outcome::RegionRestored(row))
    }

    /// What is left of every past incarnation: as the restore says, or else as an earlier one of the same region did.
    fn past_of(
        &self,
        region: &RegionRow,
        restore: &RestoreRegion,
        founders: &[NodeId],
    ) -> Result<Vec<Past>, Refusal> {
        let mut all: BTreeMap<Origin, Past> = BTreeMap::new();
        let before = region.past.iter().filter(|past| past.origin.region == region.id);
        for mut past in before.chain(&restore.past).cloned() {
            let Origin { region: of, incarnation } = past.origin;
            let row = self.region(of).ok_or_else(|| malformed(format!("there is no region {of}")))?;
            let is_over = incarnation < row.incarnation || past.origin == region.origin();
            let fits = |held: &Vec<Seq>| held.len() == usize::from(row.shards);
            if !is_over || !fits(&past.elsewhere) || !past.held.values().all(fits) {
                return Err(malformed(format!(
                    "incarnation {incarnation} of region {} is not over, or has other than {} shards; name the end of each",
                    row.name, row.shards
                )));
            }
            if let Some(before) = all.get(&past.origin) {
                past.keep(before);
            }
            past.held.retain(|node, _| founders.contains(node));
            all.insert(past.origin, past);
        }
        Ok(all.into_values().collect())
    }

    /// Every incarnation that will be over once a region's present one is, and how many shards it has.
    pub fn past_after(&self, region: RegionId) -> Vec<(Origin, u16)> {
        let past = |row: &Arc<RegionRow>| {
            let (shards, now) = (row.shards, row.origin());
            let is_past = move |origin: &Origin| *origin != now || now.region == region;
            row.origins().filter(is_past).map(move |origin| (origin, shards))
        };
        self.regions().flat_map(past).collect()
    }

    /// The nodes of a region whose disks are lost or given up: others came in their place, and they are not yet removed.
    pub fn replaced(&self, region: &RegionName) -> BTreeSet<NodeId> {
        let Some(region) = self.region_named(region).map(|row| row.id) else { return BTreeSet::new() };
        let rows = || self.nodes().filter(|row| row.region == region);
        let replaced: BTreeSet<NodeId> = rows().filter_map(|row| row.replaces).collect();
        rows().map(|row| row.id).filter(|id| replaced.contains(id)).collect()
    }

    /// The nodes of a region that are not lost.
    pub fn remaining(&self, region: &RegionName) -> BTreeSet<NodeId> {
        let lost = self.replaced(region);
        let of_it = self.region_named(region).map(|row| row.id);
        let rows = self.nodes().filter(|row| Some(row.region) == of_it);
        rows.map(|row| row.id).filter(|id| !lost.contains(id)).collect()
    }

    /// The restore, but for what is left, that is due because the disks of a majority of those that decide in a region were
    /// replaced; none: none is. `standings`: how placement looks from *every* node that remains: whatever set of voters had a
    /// majority left, one of them would know of it.
    pub fn due_restore(&self, region: &RegionName, standings: &[Standing]) -> Option<RestoreRegion> {
        let lost = self.replaced(region);
        let row = self.region_named(region)?;
        let known: Vec<&Standing> =
            standings.iter().filter(|standing| !standing.configs.is_empty()).collect();
        let is_led = standings.iter().any(|standing| standing.leader.is_some());
        if lost.is_empty() || is_led || !known.iter().all(|standing| standing.is_lost_without(&lost)) {
            return None;
        }
        let voters = match known.first() {
            // One of its sets is lost: that one, for the catalog looks at one.
            Some(standing) => {
                let mut sets = standing.configs.iter();
                sets.find(|set| set.difference(&lost).count() <= set.len() / 2)?.clone()
            }
            // It was restored, and lost a majority of those that were to found it before they had.
            None if !row.founders.is_empty() => {
                let founders: BTreeSet<NodeId> = row.founders.iter().copied().collect();
                Some(founders).filter(|set| set.difference(&lost).count() <= set.len() / 2)?
            }
            // Nobody is left who took part: those that came in nobody's place did.
            None => {
                let of_it = self.nodes().filter(|node| node.region == row.id && node.replaces.is_none());
                let first: BTreeSet<NodeId> = of_it.map(|node| node.id).collect();
                Some(first).filter(|first| first.is_subset(&lost))?
            }
        };
        Some(RestoreRegion {
            region: row.id,
            incarnation: row.incarnation,
            voters: voters.into_iter().collect(),
            lost: lost.into_iter().collect(),
            past: Vec::new(),
        })
    }

    /// The restore, but for what is left, that is due because a set of replicas lost its majority for good, though placement has one:
    /// no other set can take its place, for that needs a leader. `silent`: the replaced nodes that nobody hears; those that are heard
    /// are emptied, and so are those that leave a majority.
    pub fn due_restore_of_shards(
        &self,
        region: &RegionName,
        placement: &Placement,
        silent: &BTreeSet<NodeId>,
    ) -> Option<RestoreRegion> {
        let row = self.region_named(region)?;
        // Nothing is given up before others are there.
        let joined = self.nodes().filter(|node| placement.node(node.id).is_some());
        let replaced: BTreeSet<NodeId> = joined.filter_map(|node| node.replaces).collect();
        let lost: BTreeSet<NodeId> = self
            .replaced(region)
            .into_iter()
            .filter(|id| silent.contains(id) && replaced.contains(id))
            .collect();
        let is_lost =
            |set: &&Vec<NodeId>| 2 * set.iter().filter(|id| !lost.contains(id)).count() <= set.len();
        // A copy of what another region writes is there again.
        let own = placement.shards().filter(|(shard, _)| shard.origin.region == row.id);
        let mut sets = own.flat_map(|(_, row)| std::iter::once(&row.members).chain(&row.previous));
        Some(RestoreRegion {
            region: row.id,
            incarnation: row.incarnation,
            voters: sets.find(is_lost)?.clone(),
            lost: lost.into_iter().collect(),
            past: Vec::new(),
        })
    }

    /// Who may hold what the region wrote, and must be asked before it is restored: everyone but the lost, and but those that
    /// came in their place and know of nobody who decides. `strangers`: these.
    pub fn may_hold(&self, restore: &RestoreRegion, strangers: &BTreeSet<NodeId>) -> Vec<Arc<NodeRow>> {
        let asked = |row: &&Arc<NodeRow>| !restore.lost.contains(&row.id) && !strangers.contains(&row.id);
        self.nodes().filter(asked).cloned().collect()
    }

    /// Who founds the region's placement anew.
    fn check_lost(&self, region: &RegionRow, restore: &RestoreRegion) -> Result<Vec<NodeId>, Refusal> {
        let lost: BTreeSet<NodeId> = restore.lost.iter().copied().collect();
        let voted: BTreeSet<NodeId> = restore.voters.iter().copied().collect();
        let is_of = |id: &NodeId| self.node(*id).is_some_and(|row| row.region == region.id);
        if let Some(id) = lost.iter().find(|id| !is_of(id) && !self.is_removed(**id)) {
            return Err(refuse(
                Code::NodeNotFound,
                format!("node {id} is not of region {}; list the nodes", region.name),
            ));
        }
        let left = voted.difference(&lost).count();
        if voted.is_empty() || left > voted.len() / 2 {
            return Err(refuse(
                Code::RegionHealthy,
                format!(
                    "region {} has {left} of the {} nodes that decide in it, or in a shard, which is a majority: it needs no \
                     new incarnation; start them, or replace the lost ones one by one",
                    region.name,
                    voted.len()
                ),
            ));
        }
        let rest = self.nodes().filter(|row| row.region == region.id && !lost.contains(&row.id));
        let founders: Vec<NodeId> = rest.map(|row| row.id).collect();
        if founders.is_empty() {
            return Err(refuse(
                Code::LastNode,
                format!("region {} would have no node; add new ones first: meridian node add", region.name),
            ));
        }
        Ok(founders)
    }
}
