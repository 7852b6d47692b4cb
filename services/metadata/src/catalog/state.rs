//! The catalog's state and what can be read from it.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use meridian_types::{
    ClusterUuid, DiskUuid, NodeId, RegionId, RegionName, StreamId, StreamName, TenantId, TenantName,
    Timestamp,
};
use rpds::RedBlackTreeMapSync;

use super::command::RequestId;
use super::reply::Outcome;
use super::rows::{NodeRow, RegionRow, StreamRow, TenantRow};

/// How many of the last commands are remembered, so that one proposed again is answered and not repeated. A proposer
/// gives up long before that many others have passed.
pub(crate) const REMEMBERED: usize = 1024;

/// The catalog. Cheap to clone, however large: versions share what did not change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    pub(crate) founded: Option<Founded>,
    pub(crate) feature_level: u32,
    pub(crate) revision: u64,
    pub(crate) regions: RedBlackTreeMapSync<RegionId, Arc<RegionRow>>,
    pub(crate) nodes: RedBlackTreeMapSync<NodeId, Arc<NodeRow>>,
    /// Never taken again: a node that comes back under such an id or disk may hold what its region gave up.
    pub(crate) removed: RedBlackTreeMapSync<NodeId, DiskUuid>,
    pub(crate) tenants: RedBlackTreeMapSync<TenantId, Arc<TenantRow>>,
    pub(crate) streams: RedBlackTreeMapSync<StreamId, Arc<StreamRow>>,
    pub(crate) names: RedBlackTreeMapSync<TenantId, RedBlackTreeMapSync<StreamName, StreamId>>,
    pub(crate) next_stream: u64,
    pub(crate) next_tenant: u32,
    pub(crate) answered: VecDeque<Arc<Answered>>,
}

/// That and when the cluster was founded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Founded {
    pub cluster: ClusterUuid,
    pub at: Timestamp,
}

/// A command that was done, and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    pub request: RequestId,
    pub outcome: Outcome,
}

impl Catalog {
    /// The cluster, once it is founded.
    pub fn cluster(&self) -> Option<ClusterUuid> {
        self.founded.map(|founded| founded.cluster)
    }

    /// When the cluster was founded, by its founder's clock.
    pub fn founded_at(&self) -> Option<Timestamp> {
        self.founded.map(|founded| founded.at)
    }

    /// The commands of higher levels are refused.
    pub fn feature_level(&self) -> u32 {
        self.feature_level
    }

    /// How many commands were done.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// A region by its number.
    pub fn region(&self, id: RegionId) -> Option<&Arc<RegionRow>> {
        self.regions.get(&id)
    }

    /// A region by its name.
    pub fn region_named(&self, name: &RegionName) -> Option<&Arc<RegionRow>> {
        self.regions.values().find(|region| region.name == *name)
    }

    /// The regions, by number.
    pub fn regions(&self) -> impl Iterator<Item = &Arc<RegionRow>> {
        self.regions.values()
    }

    /// A node by its number.
    pub fn node(&self, id: NodeId) -> Option<&Arc<NodeRow>> {
        self.nodes.get(&id)
    }

    /// The nodes, by number.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<NodeRow>> {
        self.nodes.values()
    }

    /// Whether the node was there once and is refused for ever.
    pub fn is_removed(&self, id: NodeId) -> bool {
        self.removed.contains_key(&id)
    }

    /// Whether the disk was that of a node that is refused for ever.
    pub fn is_removed_disk(&self, disk: DiskUuid) -> bool {
        self.removed.values().any(|removed| *removed == disk)
    }

    /// A tenant by its number.
    pub fn tenant(&self, id: TenantId) -> Option<&Arc<TenantRow>> {
        self.tenants.get(&id)
    }

    /// A tenant by its name.
    pub fn tenant_named(&self, name: &TenantName) -> Option<&Arc<TenantRow>> {
        self.tenants.values().find(|tenant| tenant.name == *name)
    }

    /// A stream by its number.
    pub fn stream(&self, id: StreamId) -> Option<&Arc<StreamRow>> {
        self.streams.get(&id)
    }

    /// A stream by its name.
    pub fn stream_named(&self, tenant: TenantId, name: &StreamName) -> Option<&Arc<StreamRow>> {
        self.names.get(&tenant)?.get(name).and_then(|id| self.streams.get(id))
    }

    /// A tenant's streams by name, those after `after` where it is given.
    pub fn streams_of<'a>(
        &'a self,
        tenant: TenantId,
        after: Option<&StreamName>,
    ) -> impl Iterator<Item = &'a Arc<StreamRow>> + use<'a> {
        let from = after.map_or(Bound::Unbounded, |name| Bound::Excluded(name.clone()));
        self.names
            .get(&tenant)
            .into_iter()
            .flat_map(move |names| names.range::<StreamName, _>((from.clone(), Bound::Unbounded)))
            .filter_map(|(_, id)| self.streams.get(id))
    }

    /// Every stream, by number.
    pub fn streams(&self) -> impl Iterator<Item = &Arc<StreamRow>> {
        self.streams.values()
    }

    /// Whether the stream was there once and is no more. A number that was never given is not deleted: this copy of the
    /// catalog may only be behind.
    pub fn is_deleted(&self, id: StreamId) -> bool {
        id.0 < self.next_stream && id.0 > 0 && !self.streams.contains_key(&id)
    }
}
