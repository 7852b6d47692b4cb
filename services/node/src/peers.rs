//! Ways to the other nodes: one channel each for Raft, and a connection of its own for each link.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use meridian_metadata::{NoChannel, PeerChannels};
use meridian_mirror::Dialer;
use meridian_types::{NodeId, RegionName};
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};

use crate::config::NodeConfig;
use crate::wan::WanConnector;

/// For bulk over a WAN: a window as large as what may be on its way.
const BULK_STREAM_WINDOW: u32 = 32 * 1024 * 1024;
const BULK_CONNECTION_WINDOW: u32 = 64 * 1024 * 1024;

struct Way {
    address: String,
    connector: WanConnector,
}

/// Ways to the nodes that the configuration names.
pub struct PeerWays {
    ways: BTreeMap<NodeId, Way>,
    raft: Mutex<BTreeMap<NodeId, Channel>>,
}

impl PeerWays {
    /// From a node's configuration.
    pub fn new(config: &NodeConfig) -> Arc<Self> {
        let ways = config
            .cluster
            .nodes
            .iter()
            .map(|node| {
                let connector = WanConnector::to_region(config, &node.region);
                (node.id, Way { address: node.peer.clone(), connector })
            })
            .collect();
        Arc::new(Self { ways, raft: Mutex::default() })
    }

    fn endpoint(&self, node: NodeId) -> Result<(Endpoint, WanConnector), NoChannel> {
        let no = |why: String| NoChannel { node, why };
        let way = self.ways.get(&node).ok_or_else(|| no("its address is not known".to_owned()))?;
        let endpoint = Endpoint::from_shared(way.address.clone())
            .map_err(|error| no(format!("{}: {error}", way.address)))?
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        Ok((endpoint, way.connector.clone()))
    }

    /// Another node's region, as configured.
    pub fn nodes_of(config: &NodeConfig, region: &RegionName) -> Vec<NodeId> {
        config.cluster.nodes.iter().filter(|node| node.region == *region).map(|node| node.id).collect()
    }
}

impl PeerChannels for PeerWays {
    fn channel(&self, node: NodeId) -> Result<Channel, NoChannel> {
        let mut channels = self.raft.lock();
        if let Some(channel) = channels.get(&node) {
            return Ok(channel.clone());
        }
        let (endpoint, connector) = self.endpoint(node)?;
        let channel = endpoint.connect_with_connector_lazy(connector);
        channels.insert(node, channel.clone());
        Ok(channel)
    }
}

impl Dialer for PeerWays {
    fn dial(&self, node: NodeId) -> BoxFuture<'static, Result<Channel, String>> {
        let way = self.endpoint(node).map_err(|error| error.to_string());
        async move {
            let (endpoint, connector) = way?;
            endpoint
                .initial_stream_window_size(BULK_STREAM_WINDOW)
                .initial_connection_window_size(BULK_CONNECTION_WINDOW)
                .connect_with_connector(connector)
                .await
                .map_err(|error| crate::serve::chain(&error))
        }
        .boxed()
    }
}
