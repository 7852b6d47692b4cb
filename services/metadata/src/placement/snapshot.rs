//! The whole placement as one protobuf message, and back.

use bytes::Bytes;
use meridian_types::{ClusterUuid, DiskUuid, NodeId, RegionId};
use meridian_wire::v1;
use prost::Message as _;

use super::convert::{narrow, uuid};
use super::convert_rows::{node_from_wire, node_to_wire, shard_from_wire, shard_to_wire};
use super::reply::Refusal;
use super::rows::Founded;
use super::state::Placement;
use crate::machine::Unsupported;

/// The layout of [`v1::PlacementState`]. Fields may be added under it; a change of meaning takes the next.
const VERSION: u32 = 1;

impl Placement {
    /// Equal states give equal bytes: the lists are in rising order of their keys.
    pub fn to_bytes(&self) -> Bytes {
        let state = v1::PlacementState {
            version: VERSION,
            cluster_uuid: self.cluster().map_or_else(String::new, |cluster| cluster.to_string()),
            region: self.founded.map_or(0, |founded| u32::from(founded.region.0)),
            replication: self.founded.map_or(0, |founded| u32::from(founded.replication)),
            nodes: self.nodes().map(|(id, row)| node_to_wire(id, row)).collect(),
            removed_nodes: self.removed_nodes.iter().map(|node| node.0).collect(),
            removed_disks: self.removed_disks.iter().map(ToString::to_string).collect(),
            shards: self.shards().map(|(id, row)| shard_to_wire(id, row)).collect(),
        };
        state.encode_to_vec().into()
    }

    /// The inverse of [`Placement::to_bytes`].
    ///
    /// # Errors
    /// [`Unsupported`] for bytes that are no placement, or one of a newer layout.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Unsupported> {
        let bad = |what: &str| Unsupported(format!("the placement snapshot is damaged or newer: {what}"));
        let state = v1::PlacementState::decode(bytes).map_err(|e| bad(&e.to_string()))?;
        if state.version != VERSION {
            return Err(Unsupported(format!(
                "the placement snapshot has layout {}, this build knows {VERSION}; start the newer build",
                state.version
            )));
        }
        let refused = |refusal: Refusal| bad(&refusal.message);
        let founded = if state.cluster_uuid.is_empty() {
            None
        } else {
            Some(Founded {
                cluster: ClusterUuid(uuid("cluster uuid", &state.cluster_uuid).map_err(refused)?),
                region: RegionId(narrow("region", state.region).map_err(refused)?),
                replication: narrow("replication", state.replication).map_err(refused)?,
            })
        };
        Ok(Self {
            founded,
            nodes: state.nodes.into_iter().map(node_from_wire).collect::<Result<_, _>>().map_err(refused)?,
            removed_nodes: state.removed_nodes.into_iter().map(NodeId).collect(),
            removed_disks: state
                .removed_disks
                .iter()
                .map(|disk| uuid("disk uuid", disk).map(DiskUuid))
                .collect::<Result<_, _>>()
                .map_err(refused)?,
            shards: state
                .shards
                .into_iter()
                .map(shard_from_wire)
                .collect::<Result<_, _>>()
                .map_err(refused)?,
        })
    }
}
