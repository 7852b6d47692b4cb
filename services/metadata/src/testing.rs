//! What the tests of this crate share.

use meridian_types::{ClusterUuid, DiskUuid, NodeId, RegionId, RegionName};
use uuid::Uuid;

use crate::catalog::{Genesis, MAX_FEATURE_LEVEL, NodeRow, RegionRow};

pub(crate) const CLUSTER: ClusterUuid = ClusterUuid(Uuid::from_u128(0xC1));

pub(crate) fn disk(node: u32) -> DiskUuid {
    DiskUuid(Uuid::from_u128(0xD0 + u128::from(node)))
}

/// One region a node.
pub(crate) fn genesis(nodes: &[u32]) -> Genesis {
    Genesis {
        cluster: CLUSTER,
        feature_level: MAX_FEATURE_LEVEL,
        regions: nodes
            .iter()
            .map(|&id| RegionRow::first(RegionId(id as u16), RegionName::new(format!("r{id}")).unwrap(), 16))
            .collect(),
        nodes: nodes
            .iter()
            .map(|&id| NodeRow {
                id: NodeId(id),
                region: RegionId(id as u16),
                disk: disk(id),
                peer_address: format!("127.0.0.1:{}", 7000 + id),
                client_address: format!("http://127.0.0.1:{}", 8000 + id),
                max_feature_level: MAX_FEATURE_LEVEL,
                added: false,
                replaces: None,
            })
            .collect(),
    }
}
