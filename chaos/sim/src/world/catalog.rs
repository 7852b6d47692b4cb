//! The catalog: the real machine over one order of entries, which nodes learn of late. A process whose region goes on under
//! another incarnation ends in order and begins anew in its place, as `node/src/serve.rs` has it.

use bytes::Bytes;
use meridian_metadata::catalog::{
    Catalog, Change, Command, Genesis, MAX_FEATURE_LEVEL, NodeRow, Outcome, RegionRow, RequestId,
};
use meridian_types::{NodeId, RegionId, RegionName, ShardId, Timestamp};
use uuid::Uuid;

use super::{At, Event, World};
use crate::check::Law;
use crate::node::{CLUSTER, disk_uuid};

/// The entries, and what they add up to.
#[derive(Default)]
pub struct CatalogLog {
    pub log: Vec<Bytes>,
    pub state: Catalog,
}

/// A region's number.
pub fn region_id(region: usize) -> RegionId {
    RegionId(region as u16 + 1)
}

/// A node's row.
pub fn node_row(id: NodeId, region: usize) -> NodeRow {
    NodeRow {
        id,
        region: region_id(region),
        disk: disk_uuid(id),
        peer_address: format!("n{id}:1"),
        client_address: format!("n{id}:2"),
        max_feature_level: MAX_FEATURE_LEVEL,
        added: false,
        replaces: None,
    }
}

impl World {
    pub(super) fn genesis(&mut self) {
        let regions = 0..self.swarm.regions;
        let name = |region: usize| RegionName::new(format!("r{region}")).expect("a short name");
        let rows = regions.clone().map(|r| RegionRow::first(region_id(r), name(r), self.swarm.shards));
        let nodes = regions.flat_map(|region| {
            let count = self.swarm.nodes[region];
            (1..=count).map(move |n| node_row(NodeId((region as u32 + 1) * 100 + n), region))
        });
        let genesis = Genesis {
            cluster: CLUSTER,
            feature_level: MAX_FEATURE_LEVEL,
            regions: rows.collect(),
            nodes: nodes.collect(),
        };
        self.decide(Change::Genesis(genesis));
    }

    /// An entry is ordered; everybody learns of it sooner or later.
    pub(super) fn decide(&mut self, change: Change) -> Option<Outcome> {
        let request = RequestId(Uuid::from_u128(self.catalog.log.len() as u128 + 1));
        let command = Command { request, at: Timestamp(1), change };
        self.catalog.log.push(command.to_bytes());
        let outcome = self.catalog.state.apply(command);
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            let delay = self.some(if self.calm { 50_000 } else { 1_500_000 });
            self.after(delay, Event::ApplyCatalog(id));
        }
        match outcome {
            Ok(outcome) => Some(outcome),
            Err(refusal) => {
                self.judge(Law::OwnChecks, Err(format!("the catalog refuses: {refusal}")));
                None
            }
        }
    }

    /// Every shard that a node's process keeps.
    pub(super) fn wanted(&self, id: NodeId) -> Vec<ShardId> {
        self.nodes.get(&id).map_or_else(Vec::new, |node| node.catalog.shards_for(node.home))
    }

    pub(super) fn apply_catalog(&mut self, id: NodeId) {
        let hears = self.nodes.keys().any(|other| *other != id && self.network.is_connected(id, *other));
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.is_up()) else { return };
        let (from, end) = (node.learnt, self.catalog.log.len());
        if from >= end {
            return;
        }
        if !hears {
            return self.after(200_000, Event::ApplyCatalog(id));
        }
        for command in &self.catalog.log[from..end] {
            if let Err(error) = meridian_metadata::Machine::apply(&mut node.catalog, command) {
                return self.judge(Law::OwnChecks, Err(format!("the catalog: {error}")));
            }
        }
        node.learnt = end;
        let (home, region) = (node.home, node.region);
        if self.written_as(id) != Some(home) {
            self.met.met("process: begins anew, for its region is restored");
            return self.begin_anew(id);
        }
        let wanted = self.wanted(id);
        let Some(at) = self.here(id) else { return };
        let Some(process) = self.process(at) else { return };
        for shard in &wanted {
            process.ensure(id, *shard, home);
        }
        self.trace.line(self.now, format_args!("{id} of region {region} learns from the catalog"));
        self.drive_all_at(id, &meridian_metadata::driver::Input::Wanted(wanted));
        self.show_all(at);
    }

    /// What a node's region writes as, as that node knows it.
    pub(super) fn written_as(&self, id: NodeId) -> Option<meridian_types::Origin> {
        let node = self.nodes.get(&id)?;
        Some(node.catalog.region(region_id(node.region))?.origin())
    }

    /// The links are told of each copy how it is.
    pub(super) fn show_all(&mut self, at: At) {
        let shards: Vec<ShardId> =
            self.process(at).map(|process| process.hosts.keys().copied().collect()).unwrap_or_default();
        for shard in shards {
            self.show_soon(at, shard);
        }
    }
}
