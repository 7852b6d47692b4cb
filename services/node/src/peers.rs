//! Ways to the other nodes: one channel each for Raft, and a connection of its own for each link.
//!
//! Where nodes are is the catalog's to say, and what it says is followed as it changes. The configuration's own words come
//! second: they are the seeds of a node that has no catalog yet, and the way back where all have moved. A node that was
//! removed keeps its way, for Raft may need its voice to do without it.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use meridian_metadata::catalog::Catalog;
use meridian_metadata::{CatalogHandle, NoChannel, PeerChannels};
use meridian_mirror::Dialer;
use meridian_types::{NodeId, RegionName};
use meridian_wire::HTTP_FRAME;
use parking_lot::{Mutex, RwLock};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use crate::config::{NodeConfig, WanTable};
use crate::wan::{WanConnector, WanStream};

/// How long an address is waited for where there is another one: nobody may be at the first any more, to refuse.
const PATIENCE: Duration = Duration::from_secs(1);
/// The largest window that HTTP/2 has.
const MOST_WINDOW: usize = (1 << 31) - 1;
/// How much wider than the window of a stream its connection's is: for what else is said on it.
const BESIDE: usize = 8 * 1024 * 1024;
/// The window of what a node of the region answers on a connection of its own: words, and frames to repair others with.
const NEAR_WINDOW: usize = 4 * 1024 * 1024;

/// Where a node is.
struct Way {
    /// In another region.
    is_far: bool,
    connector: WanConnector,
    seed: Option<String>,
    /// As the catalog says.
    known: RwLock<Option<String>>,
}

impl Way {
    fn addresses(&self) -> Vec<String> {
        let mut addresses: Vec<String> = self.known.read().iter().cloned().collect();
        addresses
            .extend(self.seed.iter().filter(|seed| !addresses.contains(seed)).cloned().collect::<Vec<_>>());
        addresses
    }
}

/// Ways to the nodes that the configuration or the catalog names.
pub struct PeerWays {
    home: RegionName,
    wan: WanTable,
    ways: RwLock<BTreeMap<NodeId, Arc<Way>>>,
    raft: Mutex<BTreeMap<NodeId, Channel>>,
    /// What may be on its way over a link.
    credit: usize,
}

impl PeerWays {
    /// From a node's configuration.
    pub fn new(config: &NodeConfig) -> Arc<Self> {
        let (home, wan) = (config.node.region.clone(), config.wan.clone());
        let way = |region: &RegionName, seed: &str| Way {
            is_far: *region != home,
            connector: WanConnector::new(wan.round_trip(&home, region)),
            seed: Some(seed.to_owned()),
            known: RwLock::default(),
        };
        let nodes = config.cluster.nodes.iter();
        let ways = nodes.map(|node| (node.id, Arc::new(way(&node.region, &node.peer)))).collect();
        let credit = config.limits.link_credit();
        Arc::new(Self { ways: RwLock::new(ways), home, wan, raft: Mutex::default(), credit })
    }

    /// Takes up where the catalog says that nodes are.
    pub fn learn(&self, catalog: &Catalog) {
        for node in catalog.nodes() {
            let Some(region) = catalog.region(node.region) else { continue };
            let known = self.ways.read().get(&node.id).cloned();
            let way = known.unwrap_or_else(|| {
                let connector = WanConnector::new(self.wan.round_trip(&self.home, &region.name));
                let is_far = region.name != self.home;
                let way = Arc::new(Way { is_far, connector, seed: None, known: RwLock::default() });
                self.ways.write().entry(node.id).or_insert(way).clone()
            });
            let before = way.known.write().replace(node.peer_address.clone());
            if before.is_some_and(|before| before != node.peer_address) {
                // Somebody else may be at the old address by now, and the connection to him well.
                self.raft.lock().remove(&node.id);
            }
        }
    }

    /// The same, whenever the catalog changes; for ever.
    pub async fn follow(self: Arc<Self>, catalog: CatalogHandle) {
        let mut changed = catalog.changed();
        loop {
            self.learn(&catalog.state());
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// How to dial a node.
    fn endpoint(&self, node: NodeId) -> Result<(Endpoint, Connector), NoChannel> {
        let no = |why: String| NoChannel { node, why };
        let way = self.ways.read().get(&node).cloned();
        let way = way.ok_or_else(|| no("its address is not known".to_owned()))?;
        let address = way.addresses().into_iter().next().unwrap_or_default();
        let endpoint = Endpoint::from_shared(address.clone())
            .map_err(|error| no(format!("{address}: {error}")))?
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        Ok((endpoint, Connector { way, bulk: None }))
    }
}

/// Dials a node wherever it is when it is dialled: a channel that is connected anew goes to the new address.
#[derive(Clone)]
struct Connector {
    way: Arc<Way>,
    /// Room for so many bytes on their way.
    bulk: Option<usize>,
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<WanStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (way, bulk) = (self.way.clone(), self.bulk);
        Box::pin(async move {
            let mut last = io::Error::new(io::ErrorKind::InvalidInput, "its address is not known");
            let addresses = way.addresses();
            for (at, address) in addresses.iter().enumerate() {
                let connecting = way.connector.connect_to(address, bulk);
                let is_last = at + 1 == addresses.len();
                let connected = match is_last {
                    true => connecting.await,
                    false => timeout(PATIENCE, connecting).await.unwrap_or_else(|_| {
                        Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer"))
                    }),
                };
                match connected {
                    Ok(stream) => return Ok(TokioIo::new(stream)),
                    Err(error) => last = error,
                }
            }
            Err(last)
        })
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

fn window(bytes: usize) -> u32 {
    bytes.min(MOST_WINDOW) as u32
}

impl Dialer for PeerWays {
    fn dial(&self, node: NodeId) -> BoxFuture<'static, Result<Channel, String>> {
        let credit = self.credit;
        let way = self.endpoint(node).map_err(|error| error.to_string());
        async move {
            let (endpoint, mut connector) = way?;
            connector.bulk = connector.way.is_far.then_some(credit);
            let bytes = connector.bulk.unwrap_or(NEAR_WINDOW);
            endpoint
                .initial_stream_window_size(window(bytes))
                .initial_connection_window_size(window(bytes.saturating_add(BESIDE)))
                .max_frame_size(HTTP_FRAME)
                .connect_with_connector(connector)
                .await
                .map_err(|error| crate::serve::chain(&error))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use meridian_metadata::catalog::{Change, Command, Genesis, NodeRow, RegionRow};
    use meridian_types::{DiskUuid, RegionId, Timestamp};
    use uuid::Uuid;

    use super::*;
    use crate::config::tests_support::config_of_node;

    fn row(id: u32, peer: &str) -> NodeRow {
        NodeRow {
            id: NodeId(id),
            region: RegionId(if id == 2 { 2 } else { 1 }),
            disk: DiskUuid(Uuid::from_u128(id.into())),
            peer_address: peer.to_owned(),
            client_address: format!("http://127.0.0.1:{}", 9000 + id),
            max_feature_level: 2,
            added: false,
            replaces: None,
        }
    }

    #[test]
    fn the_catalog_says_where_nodes_are_and_the_configuration_comes_second() {
        let config = config_of_node(1, std::path::Path::new("x"));
        let ways = PeerWays::new(&config);
        let addresses = |id| ways.ways.read().get(&NodeId(id)).map(|way| way.addresses());
        assert_eq!(addresses(2), Some(vec!["http://127.0.0.1:7502".to_owned()]));
        assert_eq!(addresses(3), None);
        assert!(ways.channel(NodeId(3)).is_err());

        let regions = config
            .cluster
            .regions
            .iter()
            .map(|region| RegionRow::first(region.id, region.name.clone(), region.shards));
        let genesis = Genesis {
            cluster: config.cluster.uuid,
            feature_level: 2,
            regions: regions.collect(),
            nodes: vec![row(1, "http://127.0.0.1:7501"), row(2, "http://127.0.0.1:7502")],
        };
        let mut catalog = Catalog::default();
        let mut apply = |change| {
            catalog.apply(Command::new(Timestamp(1), change)).unwrap();
            ways.learn(&catalog);
        };
        apply(Change::Genesis(genesis));
        apply(Change::RegisterNode(row(2, "http://127.0.0.1:8502")));
        apply(Change::RegisterNode(row(3, "http://127.0.0.1:8503")));
        assert_eq!(addresses(2).unwrap(), ["http://127.0.0.1:8502", "http://127.0.0.1:7502"]);
        assert_eq!(addresses(3).unwrap(), ["http://127.0.0.1:8503"]);
        apply(Change::RegisterNode(row(3, "http://127.0.0.1:9503")));
        apply(Change::RemoveNode(NodeId(2)));
        assert_eq!(addresses(3).unwrap(), ["http://127.0.0.1:9503"]);
        assert!(addresses(2).is_some(), "until Raft can do without it");
    }

    #[tokio::test]
    async fn where_an_address_swallows_what_is_sent_the_next_one_is_tried() {
        use tower::Service as _;

        let hole = tokio::net::TcpSocket::new_v4().unwrap();
        hole.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let hole = hole.listen(1).unwrap();
        let swallowing = hole.local_addr().unwrap();
        // Nobody accepts: what its queue has no room for is not answered.
        let mut waiting = Vec::new();
        while let Ok(Ok(one)) = timeout(PATIENCE / 4, tokio::net::TcpStream::connect(swallowing)).await {
            waiting.push(one);
        }
        let there = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let way = Way {
            is_far: false,
            connector: WanConnector::new(Duration::ZERO),
            seed: Some(format!("http://{}", there.local_addr().unwrap())),
            known: RwLock::new(Some(format!("http://{swallowing}"))),
        };
        let mut connector = Connector { way: Arc::new(way), bulk: None };
        connector.call(Uri::from_static("http://node")).await.unwrap();
        there.accept().await.unwrap();
    }
}
