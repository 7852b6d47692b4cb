//! Nodes of a catalog in one process, talking gRPC over loopback ports, with links that can be cut.
#![allow(dead_code)] // each test file uses its part

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use meridian_metadata::catalog::{
    Catalog, Change, Command, CreateStream, Genesis, MAX_FEATURE_LEVEL, NodeRow, Outcome, RegionRow,
    StreamRow, StreamSettings,
};
use meridian_metadata::{
    CatalogGroup, CatalogHandle, Config, NoChannel, OnFatal, PeerChannels, RaftServers, Role,
};
use meridian_types::{ClusterUuid, DiskUuid, NodeId, RegionId, RegionName, StreamName, TenantId, Timestamp};
use meridian_wire::v1::RaftHeader;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use uuid::Uuid;

pub const CLUSTER: ClusterUuid = ClusterUuid(Uuid::from_u128(0xC1));
/// For what must come to pass, on a machine that does much else.
pub const LONG: Duration = Duration::from_secs(60);

/// What node 2 says to node 1 of itself.
pub fn header() -> RaftHeader {
    RaftHeader {
        group: "catalog".into(),
        cluster_uuid: CLUSTER.to_string(),
        from_node: 2,
        from_disk: disk(2).to_string(),
        to_node: 1,
        to_disk: disk(1).to_string(),
        generation: 0,
    }
}

pub fn disk(node: u32) -> DiskUuid {
    DiskUuid(Uuid::from_u128(0xD0 + u128::from(node)))
}

pub fn at(ms: u64, change: Change) -> Command {
    Command::new(Timestamp(ms), change)
}

pub fn create(name: &str) -> Command {
    at(
        7,
        Change::CreateStream(CreateStream {
            tenant: TenantId::DEFAULT,
            name: StreamName::new(name).unwrap(),
            settings: StreamSettings { partitions: 4, ..StreamSettings::default() },
        }),
    )
}

pub async fn make(handle: &CatalogHandle, name: &str) -> Arc<StreamRow> {
    match handle.propose(create(name), LONG).await {
        Ok(Ok(Outcome::StreamCreated { stream, .. })) => stream,
        other => panic!("{name}: {other:?}"),
    }
}

pub fn config(node: u32, dir: impl Into<PathBuf>) -> Config {
    Config {
        heartbeat: Duration::from_millis(200),
        election_min: Duration::from_millis(1000),
        election_max: Duration::from_millis(2000),
        ..Config::catalog(NodeId(node), disk(node), dir)
    }
}

/// Where everyone is, and which ways are cut.
#[derive(Default)]
pub struct Net {
    addresses: Mutex<BTreeMap<NodeId, SocketAddr>>,
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
}

impl Net {
    pub fn cut(&self, a: u32, b: u32) {
        let mut cut = self.cut.lock().unwrap();
        cut.insert((NodeId(a), NodeId(b)));
        cut.insert((NodeId(b), NodeId(a)));
    }

    pub fn heal(&self) {
        self.cut.lock().unwrap().clear();
    }

    pub fn place(&self, node: u32, address: SocketAddr) {
        self.addresses.lock().unwrap().insert(NodeId(node), address);
    }

    pub fn address(&self, node: u32) -> SocketAddr {
        self.addresses.lock().unwrap()[&NodeId(node)]
    }
}

pub struct Way {
    from: NodeId,
    net: Arc<Net>,
    made: Mutex<BTreeMap<NodeId, Channel>>,
}

impl PeerChannels for Way {
    fn channel(&self, node: NodeId) -> Result<Channel, NoChannel> {
        let no = |why: &str| NoChannel { node, why: why.into() };
        if self.net.cut.lock().unwrap().contains(&(self.from, node)) {
            return Err(no("cut"));
        }
        let address = *self.net.addresses.lock().unwrap().get(&node).ok_or_else(|| no("unknown"))?;
        Ok(self
            .made
            .lock()
            .unwrap()
            .entry(node)
            .or_insert_with(|| {
                Endpoint::from_shared(format!("http://{address}"))
                    .unwrap()
                    .connect_timeout(Duration::from_secs(2))
                    .connect_lazy()
            })
            .clone())
    }
}

/// One node and its files.
pub struct Node {
    pub id: u32,
    pub config: Config,
    net: Arc<Net>,
    _dir: TempDir,
    running: Option<Running>,
}

struct Running {
    group: CatalogGroup,
    /// Dropped with the node, so that connections end as those of a dead process do.
    server: Runtime,
}

pub fn never_fatal() -> OnFatal {
    Arc::new(|what| {
        // A panic would end one task of Raft's runtime only, and the test would go on.
        eprintln!("Raft failed: {what}");
        std::process::abort();
    })
}

impl Node {
    pub async fn new(id: u32, net: &Arc<Net>, change: impl Fn(&mut Config)) -> Self {
        let dir = TempDir::new().unwrap();
        let mut config = config(id, dir.path().join("catalog"));
        change(&mut config);
        // The port stays this node's over restarts.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        net.addresses.lock().unwrap().insert(NodeId(id), listener.local_addr().unwrap());
        let mut node = Self { id, config, net: Arc::clone(net), _dir: dir, running: None };
        node.run(listener).await;
        node
    }

    async fn run(&mut self, listener: TcpListener) {
        let way = Way { from: NodeId(self.id), net: Arc::clone(&self.net), made: Mutex::default() };
        let group = CatalogGroup::start(self.config.clone(), Arc::new(way), never_fatal()).await.unwrap();
        let service = RaftServers::new(group.server(), None).into_service();
        let server = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        server.spawn(async move {
            listener.set_nonblocking(true).unwrap();
            let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).unwrap());
            Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
        self.running = Some(Running { group, server });
    }

    pub fn handle(&self) -> CatalogHandle {
        self.running.as_ref().expect("the node is down").group.handle()
    }

    /// Gone, without a word to the others.
    pub async fn down(&mut self) {
        if let Some(running) = self.running.take() {
            running.server.shutdown_background();
            running.group.close().await;
        }
    }

    pub async fn up(&mut self) {
        let address = self.net.address(self.id);
        let start = Instant::now();
        let listener = loop {
            match TcpListener::bind(address) {
                Ok(listener) => break listener,
                Err(error) => assert!(start.elapsed() < LONG, "no way back to {address}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        self.run(listener).await;
    }

    pub fn is_up(&self) -> bool {
        self.running.is_some()
    }
}

pub fn genesis(net: &Net, nodes: &[u32]) -> Genesis {
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
                peer_address: net.address(id).to_string(),
                client_address: format!("http://127.0.0.1:{}", 8000 + id),
                max_feature_level: MAX_FEATURE_LEVEL,
                added: false,
                replaces: None,
            })
            .collect(),
    }
}

pub async fn nodes(count: u32, change: impl Fn(&mut Config)) -> (Arc<Net>, Vec<Node>) {
    // RUST_LOG=openraft=debug shows what Raft does.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
    let net = Arc::new(Net::default());
    let mut nodes = Vec::new();
    for id in 1..=count {
        nodes.push(Node::new(id, &net, &change).await);
    }
    (net, nodes)
}

pub async fn found(net: &Net, nodes: &[Node]) {
    let ids: Vec<u32> = nodes.iter().map(|node| node.id).collect();
    let command = at(1, Change::Genesis(genesis(net, &ids)));
    nodes[0].handle().bootstrap(command, LONG).await.unwrap();
}

pub async fn cluster(count: u32, change: impl Fn(&mut Config)) -> (Arc<Net>, Vec<Node>) {
    let (net, nodes) = nodes(count, change).await;
    found(&net, &nodes).await;
    (net, nodes)
}

pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LONG, "not within {LONG:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The place in `nodes` of the one that leads.
pub async fn leader(nodes: &[Node]) -> usize {
    let mut found = None;
    until("a leader", || {
        // One that was restarted may still think that it leads, in an older term.
        found = (0..nodes.len())
            .filter(|&i| nodes[i].is_up() && nodes[i].handle().status().role == Role::Leader)
            .max_by_key(|&i| nodes[i].handle().status().term);
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// Waits until all that are up have the same bytes.
pub async fn agree(nodes: &[Node]) -> Arc<Catalog> {
    let states = || -> Vec<Arc<Catalog>> {
        nodes.iter().filter(|node| node.is_up()).map(|node| node.handle().state()).collect()
    };
    until("all have the same state", || {
        let states = states();
        states.windows(2).all(|pair| pair[0].to_bytes() == pair[1].to_bytes())
    })
    .await;
    states().remove(0)
}
