//! Placement's state and what can be read from it.

use std::collections::{BTreeMap, BTreeSet};

use meridian_types::{ClusterUuid, DiskUuid, NodeId, ShardId};

use super::rows::{Founded, NodeRow, NodeState, ShardRow};

/// The placement of a region. Small: a row a node and a row a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    pub(crate) founded: Option<Founded>,
    pub(crate) nodes: BTreeMap<NodeId, NodeRow>,
    /// Never taken again: a node that comes back under such an id or disk may hold what the region gave up.
    pub(crate) removed_nodes: BTreeSet<NodeId>,
    pub(crate) removed_disks: BTreeSet<DiskUuid>,
    pub(crate) shards: BTreeMap<ShardId, ShardRow>,
}

impl Placement {
    /// What the region was founded with, once it is.
    pub fn founded(&self) -> Option<Founded> {
        self.founded
    }

    /// The cluster, once the region is founded.
    pub fn cluster(&self) -> Option<ClusterUuid> {
        self.founded.map(|founded| founded.cluster)
    }

    /// How many replicas a shard shall have; 0 before the founding.
    pub fn replication(&self) -> usize {
        self.founded.map_or(0, |founded| usize::from(founded.replication))
    }

    /// A node by its number.
    pub fn node(&self, id: NodeId) -> Option<&NodeRow> {
        self.nodes.get(&id)
    }

    /// The nodes, by number.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &NodeRow)> {
        self.nodes.iter().map(|(id, row)| (*id, row))
    }

    /// Whether the node is known and takes replicas.
    pub fn is_active(&self, id: NodeId) -> bool {
        self.node(id).is_some_and(|row| row.state == NodeState::Active)
    }

    /// Whether the node was there once and is refused for ever.
    pub fn is_removed(&self, id: NodeId) -> bool {
        self.removed_nodes.contains(&id)
    }

    /// Whether the disk was that of a node that is refused for ever.
    pub fn is_removed_disk(&self, disk: DiskUuid) -> bool {
        self.removed_disks.contains(&disk)
    }

    /// A shard's row.
    pub fn shard(&self, id: ShardId) -> Option<&ShardRow> {
        self.shards.get(&id)
    }

    /// The shards, by id.
    pub fn shards(&self) -> impl Iterator<Item = (ShardId, &ShardRow)> {
        self.shards.iter().map(|(id, row)| (*id, row))
    }
}
