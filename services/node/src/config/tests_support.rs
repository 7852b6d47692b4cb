//! Configurations for the tests of this crate.

use std::path::Path;

use meridian_types::{ClusterUuid, NodeId, RegionId, RegionName};

use super::{ClusterSection, ListenSection, NodeConfig, NodeEntry, NodeSection, RegionEntry};

/// A cluster of two regions, `us` with node 1 and `eu` with node 2; the file would be `folder/node.toml`.
pub fn config_of_node(id: u32, folder: &Path) -> NodeConfig {
    let name = |id: u32| RegionName::new(if id == 1 { "us" } else { "eu" }).unwrap();
    let regions = [1, 2].map(|id| RegionEntry { id: RegionId(id), name: name(id.into()), shards: 4 });
    let nodes = [node_beside(1, "us"), node_beside(2, "eu")];
    let config = NodeConfig {
        node: NodeSection {
            id: NodeId(id),
            region: name(id),
            data: ".".into(),
            advertise_peer: None,
            advertise_client: None,
        },
        cluster: ClusterSection {
            uuid: ClusterUuid(uuid::Uuid::from_u128(5)),
            regions: regions.to_vec(),
            nodes: nodes.to_vec(),
        },
        listen: ListenSection::default(),
        tls: Default::default(),
        limits: Default::default(),
        storage: Default::default(),
        raft: Default::default(),
        placement: Default::default(),
        wan: Default::default(),
        log: Default::default(),
        runtime: Default::default(),
        file: folder.join("node.toml"),
    };
    config.check().unwrap();
    config
}

/// One more node for that cluster.
pub fn node_beside(id: u16, region: &str) -> NodeEntry {
    NodeEntry {
        id: NodeId(id.into()),
        region: RegionName::new(region).unwrap(),
        peer: format!("http://127.0.0.1:{}", 7500 + id),
        client: format!("http://127.0.0.1:{}", 7400 + id),
    }
}
