//! One node, from its configuration to its end. The only place that starts things.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use meridian_gateway::{
    Gateway, GatewayConfig, GatewayParts, MeteredLayer, Metrics, ReadServer, accept, accepted, routes,
};
use meridian_metadata::catalog::{Catalog, NodeRow};
use meridian_metadata::members::{Rule, Wanted};
use meridian_metadata::{
    CatalogGroup, Config as RaftConfig, OnFatal, PlacementGroup, RaftServers, StartError, WantedNodes,
};
use meridian_mirror::{
    DurableBoard, Elsewhere, Identity, LinkConfig, Links, Neighbours as _, PeerServer, RepairSources,
    Repairs, Source, Whereabouts,
};
use meridian_region::{Agent, Region, RegionConfig, RegionServer, keep_nodes, keep_restored};
use meridian_shard::{ByGroup, HostConfig, OpenError, ShardHost};
use meridian_storage::disk::Disk;
use meridian_storage::index::{Index, IndexError, KvError, RocksConfig, RocksKeyValue};
use meridian_storage::{
    Identity as DiskIdentity, IdentityError, Recovered, Restart, Volume, VolumeConfig, VolumeError,
    VolumeReader, VolumeWriter, WriterConfig, WriterHandle,
};
use meridian_types::{Boot, Clock, Incarnation, Origin, RegionName, Seq, ShardId, SystemClock};
use meridian_wire::HTTP_FRAME;
use meridian_wire::v1::peer_service_server::PeerServiceServer;
use parking_lot::RwLock;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_health::ServingStatus;

use crate::admin::{Admin, Serving};
use crate::config::NodeConfig;
use crate::descriptors::{self, DescriptorsError};
use crate::folder::{Folder, FolderError};
use crate::founding::{self, FoundingError};
use crate::peers::PeerWays;
use crate::shards::CatalogShards;
use crate::socket_buffers::widen_sending;

/// Requests of one connection that may be under way at once.
const CLIENT_STREAMS: u32 = 256;
/// The longest HTTP/2 frame that a node takes of a client: most batches come in one, and are read by one or two system calls,
/// where frames of 16 KiB, the default, take a call each. What a node holds of a connection beside its window grows with it.
const CLIENT_FRAME: u32 = 128 * 1024;
/// A link's message holds a chunk of frames, or one frame as large as a batch.
const PEER_MESSAGE: usize = 32 * 1024 * 1024;
/// Beside those of subscriptions.
const PEER_STREAMS: usize = 1024;
/// How often a node that starts looks where its shards are placed.
const READY_LOOK: Duration = Duration::from_millis(50);
/// A node that has not found the leaders of its shards by then serves readers from what it holds. Before, they had better ask a
/// node that has: most starts take less.
const READ_ALONE_AFTER: Duration = Duration::from_secs(5);
/// How long a node that stops waits for what is under way.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

/// Why a node does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its data folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Its boot counter.
    #[error("the boot counter: {0}")]
    Boot(#[from] IdentityError),
    /// A port.
    #[error(
        "the {listener} listener cannot have {address}: {source}; end what listens there, or change `listen.{listener}`"
    )]
    Listen {
        /// Which listener.
        listener: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Too few files may be open.
    #[error(transparent)]
    Descriptors(#[from] DescriptorsError),
    /// The catalog's Raft group, or the placement's.
    #[error("a Raft group: {0}")]
    Raft(#[from] StartError),
    /// The cluster does not let it in.
    #[error(transparent)]
    Founding(#[from] FoundingError),
    /// The volume.
    #[error("the volume: {0}")]
    Volume(#[from] VolumeError),
    /// The index's files.
    #[error("the index: {0}")]
    IndexFiles(#[from] KvError),
    /// The index.
    #[error("the index: {0}")]
    Index(#[from] IndexError),
    /// The shards.
    #[error("the shards: {0}")]
    Shards(#[from] OpenError),
    /// The operating system.
    #[error("{what}: {source}")]
    System {
        /// What failed.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The region goes on under another incarnation: what this process writes is over, and the next start writes as that.
    #[error("the region is restored, and writes as {now} from now on; start this node again")]
    Restored {
        /// What the region writes as.
        now: Origin,
    },
    /// A listener ended by itself.
    #[error("a listener failed: {0}")]
    Server(String),
}

/// What another node may have open on a connection: each subscription there watches lanes and reads one.
fn peer_streams(config: &NodeConfig) -> u32 {
    let streams = config.limits.subscribers.saturating_mul(2).saturating_add(PEER_STREAMS);
    u32::try_from(streams).unwrap_or(u32::MAX)
}

/// An error and what caused it, in a line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Ends the process: going on could break a law.
fn fatal(what: &str) -> ! {
    tracing::error!(what, "fatal: the process ends at once");
    std::process::abort()
}

/// Makes a panic in any thread end the process, once it has been printed. A task that panicked has broken an invariant;
/// were it to die alone, its shard would be silent for good while the node looks alive.
pub fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}

/// Runs a node until `stop` is cancelled, then drains it. Must run on a multi-threaded tokio runtime.
///
/// # Errors
/// [`ServeError`] says what to do.
pub async fn serve(config: NodeConfig, stop: CancellationToken) -> Result<(), ServeError> {
    serve_on(config, stop, |disk| disk).await
}

/// As [`serve`], with the volume on what `over` puts over its folder: tests hold a disk up, and let it go on.
///
/// # Errors
/// As [`serve`].
pub async fn serve_on(
    config: NodeConfig,
    stop: CancellationToken,
    over: impl FnOnce(Arc<dyn Disk>) -> Arc<dyn Disk>,
) -> Result<(), ServeError> {
    descriptors::reserve(config.limits.connections)?;
    let mut folder = Folder::take(&config)?;
    folder.disk = over(folder.disk);
    let client = listen("client", config.listen.client).await?;
    let peer = listen("peer", config.listen.peer).await?;
    widen_sending(&peer, config.limits.link_credit());
    let admin = listen("admin", config.listen.admin).await?;
    let boot = DiskIdentity::next_boot(&*folder.disk)?;
    let mut me = Identity {
        cluster: config.cluster.uuid,
        region: config.node.region.clone(),
        node: config.node.id,
        disk: folder.identity.disk,
        boot,
        incarnation: Incarnation(1),
    };
    tracing::info!(node = %me.node, region = %me.region, disk = %me.disk, %boot, "starting");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    // Raft makes its channels from these on its own runtime, and so they stay there: nothing else may make one first.
    let ways = PeerWays::new(&config);

    let on_fatal: OnFatal = Arc::new(|what| fatal(what));
    let group =
        CatalogGroup::start(raft_config(&config, &me, &folder), ways.clone(), on_fatal.clone()).await?;
    let catalog = group.handle();
    // Channels of its own: what is urgent here does not wait behind the catalog.
    let region_ways = PeerWays::new(&config);
    // And what readers wait for does not stand before either. Greetings go here too.
    let read_ways = PeerWays::new(&config);
    let home = home_of(&config, &catalog.state());
    me.incarnation = home.incarnation;
    let placement_config = placement_config(&config, &me, &folder, home);
    let placement = match PlacementGroup::start(placement_config, region_ways.clone(), on_fatal).await {
        Ok(placement) => placement,
        Err(error) => {
            // RocksDB aborts a process that ends while its files are open.
            group.close().await;
            return Err(error.into());
        }
    };

    // Raft and greetings are answered before there are shards: without them no cluster is founded.
    let host_cell = Arc::new(OnceLock::new());
    let gateway_cell = Arc::new(OnceLock::new());
    let board = Arc::new(DurableBoard::default());
    let vetting = founding::vetting(catalog.clone());
    let (region, agent) = Agent::new(
        me.clone(),
        RegionConfig {
            heartbeat: config.placement.heartbeat.into(),
            dead_after: config.placement.dead_after.into(),
            grace: config.placement.grace.into(),
            replication_bytes: config.limits.replication_bytes.0,
        },
        placement.handle(),
        region_ways.clone(),
        vetting.clone(),
        board.clone(),
        Arc::new(CatalogShards { catalog: catalog.clone(), home }),
    );
    let peer_server = PeerServer::new(
        me.clone(),
        host_cell.clone(),
        vetting.clone(),
        board.clone(),
        Arc::new(region.clone()),
    );
    // One token ends the listeners, after what they serve has been drained.
    let close = CancellationToken::new();
    let mut peer_task = tokio::spawn(
        Server::builder()
            .initial_stream_window_size(4 * 1024 * 1024)
            .initial_connection_window_size(8 * 1024 * 1024)
            .max_frame_size(HTTP_FRAME)
            .http2_keepalive_interval(Some(Duration::from_secs(5)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .max_concurrent_streams(peer_streams(&config))
            .add_service(RaftServers::new(group.server(), Some(placement.server())).into_service())
            .add_service(RegionServer::new(region.clone()).into_service())
            .add_service(ReadServer::new(gateway_cell.clone()).into_service())
            .add_service(
                PeerServiceServer::new(peer_server)
                    .max_decoding_message_size(PEER_MESSAGE)
                    .max_encoding_message_size(PEER_MESSAGE),
            )
            .serve_with_incoming_shutdown(accepted(peer, "peer"), close.clone().cancelled_owned()),
    );
    let metrics = Arc::new(Metrics::default());
    let serving = Arc::new(RwLock::new(None));
    let routes_of_admin = Admin {
        serving: serving.clone(),
        metrics: metrics.clone(),
        catalog: catalog.clone(),
        test_switch: config.raft.test_switch,
    };
    let admin_close = close.clone();
    let mut admin_task = tokio::spawn(async move {
        axum::serve(admin, routes_of_admin.router())
            .with_graceful_shutdown(admin_close.cancelled_owned())
            .await
    });

    let mut tasks = JoinSet::new();
    tasks.spawn(ways.clone().follow(catalog.clone()));
    tasks.spawn(region_ways.follow(catalog.clone()));
    tasks.spawn(read_ways.clone().follow(catalog.clone()));
    tasks.spawn(catalog.clone().keep_members(Rule::Catalog, members(catalog.clone())));
    let keeping = keep_nodes(me.region.clone(), placement.handle(), catalog.clone(), clock.clone());
    tasks.spawn(keeping);
    tasks.spawn(keep_restored(
        me.region.clone(),
        region.clone(),
        placement.handle(),
        catalog.clone(),
        clock.clone(),
    ));
    let joined = tokio::select! {
        joined = async {
            founding::join(&config, &me, &catalog, &read_ways, &*clock).await?;
            founding::place(&config, &me, &catalog, &placement.handle()).await
        } => Some(joined.map_err(ServeError::from)),
        why = restored(&catalog, &me.region, home) => Some(Err(why)),
        () = stop.cancelled() => None,
    };
    let ended = match joined {
        Some(Ok(())) => {
            tasks.spawn(founding::report_level(me.node, catalog.clone(), clock.clone()));
            let (myself, ways_of_mine) = (me.clone(), read_ways.clone());
            let parts = Parts {
                config: &config,
                me,
                boot,
                clock,
                ways,
                catalog: catalog.clone(),
                vetting,
                board,
                metrics,
                host_cell,
                gateway_cell,
                read_ways,
                serving,
                region,
                home,
            };
            let others = async {
                tokio::select! {
                    why = ended("peer", &mut peer_task) => why,
                    why = ended("admin", &mut admin_task) => why,
                    why = founding::until_removed(&myself, &catalog, &ways_of_mine) => why.into(),
                    why = restored(&catalog, &myself.region, home) => why,
                }
            };
            parts.run(&folder, agent, client, others, &stop).await
        }
        Some(Err(error)) => Err(error),
        None => Ok(()),
    };
    tasks.shutdown().await;
    close.cancel();
    for (what, task) in [("peer", peer_task.abort_handle()), ("admin", admin_task.abort_handle())] {
        tracing::debug!(what, "closing a listener");
        task.abort();
    }
    placement.close().await;
    group.close().await;
    ended
}

/// Waits for a listener's end, which nobody asked for.
async fn ended<T, E: std::fmt::Debug>(
    listener: &'static str,
    task: &mut JoinHandle<Result<T, E>>,
) -> ServeError {
    let why = match task.await {
        Ok(Ok(_)) => "it ended by itself".to_owned(),
        Ok(Err(error)) => format!("{error:?}"),
        Err(error) => error.to_string(),
    };
    ServeError::Server(format!("the {listener} listener: {why}"))
}

async fn listen(listener: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { listener, address, source })
}

fn raft_config(config: &NodeConfig, me: &Identity, folder: &Folder) -> RaftConfig {
    RaftConfig {
        heartbeat: config.raft.heartbeat.into(),
        election_min: config.raft.election_min.into(),
        election_max: config.raft.election_max.into(),
        ..RaftConfig::catalog(me.node, me.disk, folder.layout.catalog.clone())
    }
}

fn placement_config(config: &NodeConfig, me: &Identity, folder: &Folder, home: Origin) -> RaftConfig {
    RaftConfig {
        heartbeat: config.placement.heartbeat.into(),
        election_min: config.placement.election_min.into(),
        election_max: config.placement.election_max.into(),
        generation: home.incarnation.0,
        ..RaftConfig::placement(me.node, me.disk, folder.layout.placement_of(home.incarnation))
    }
}

/// Every node of the cluster has the catalog.
fn members(catalog: meridian_metadata::CatalogHandle) -> WantedNodes {
    Arc::new(move || {
        let row = |node: &Arc<NodeRow>| {
            (node.id, Wanted { region: node.region, address: node.peer_address.clone() })
        };
        catalog.state().nodes().map(row).collect()
    })
}

/// The nodes of all regions but one.
fn whereabouts(catalog: meridian_metadata::CatalogHandle, home: RegionName) -> Whereabouts {
    Arc::new(move || {
        let state = catalog.state();
        let source = |node: &Arc<NodeRow>| {
            let region = state.region(node.region)?.name.clone();
            (region != home).then_some(Source { region, node: node.id })
        };
        state.nodes().filter_map(source).collect()
    })
}

/// What this process writes as: its region's incarnation as it starts. Another one is another process's.
fn home_of(config: &NodeConfig, state: &Catalog) -> Origin {
    let known = state.region_named(&config.node.region).map(|region| region.origin());
    let first = || config.region_named(&config.node.region).map(|region| Origin::first(region.id));
    known.or_else(first).unwrap_or_default()
}

/// Waits until the region goes on under another incarnation.
async fn restored(
    catalog: &meridian_metadata::CatalogHandle,
    region: &RegionName,
    home: Origin,
) -> ServeError {
    let mut changed = catalog.changed();
    loop {
        changed.mark_unchanged();
        match catalog.state().region_named(region) {
            Some(row) if row.origin() != home => {
                tracing::warn!(now = %row.origin(), "the region is restored: this process begins anew");
                return ServeError::Restored { now: row.origin() };
            }
            _ => {}
        }
        if changed.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

struct Parts<'a> {
    config: &'a NodeConfig,
    me: Identity,
    boot: Boot,
    clock: Arc<dyn Clock>,
    ways: Arc<PeerWays>,
    catalog: meridian_metadata::CatalogHandle,
    vetting: meridian_mirror::Vetting,
    board: Arc<DurableBoard>,
    metrics: Arc<Metrics>,
    host_cell: Arc<OnceLock<Arc<ShardHost>>>,
    gateway_cell: Arc<OnceLock<Gateway>>,
    read_ways: Arc<PeerWays>,
    serving: Serving,
    region: Region,
    /// What this process writes as.
    home: Origin,
}

impl Parts<'_> {
    /// From a founded cluster to the end.
    async fn run(
        self,
        folder: &Folder,
        agent: Agent,
        client: TcpListener,
        others: impl Future<Output = ServeError>,
        stop: &CancellationToken,
    ) -> Result<(), ServeError> {
        let (host, writer, writer_thread) = self.open_shards(folder)?;
        let _ = self.host_cell.set(host.clone());
        self.region.set_host(host.clone());
        let agent = tokio::spawn(agent.run());
        let links = self.start_links(&host)?;
        let repairs = Repairs::new(
            host.clone(),
            self.me.clone(),
            self.ways.clone(),
            self.vetting.clone(),
            self.repair_sources(),
        );
        let repairing = tokio::spawn(repairs.run());
        let gateway = self.gateway(&host, &links);
        let _ = self.gateway_cell.set(gateway.clone());
        *self.serving.write() = Some((gateway.clone(), links.clone()));

        let (routes, options) =
            routes(&gateway).await.map_err(|error| ServeError::Server(error.to_string()))?;
        let close = CancellationToken::new();
        let limits = &self.config.limits;
        let window = u32::try_from(limits.connection_window_bytes.0).unwrap_or(u32::MAX);
        let bounding = tokio::spawn(show_bound(
            self.config.clone(),
            self.region.clone(),
            self.catalog.clone(),
            self.metrics.clone(),
        ));
        let mut server = tokio::spawn(
            Server::builder()
                // What was sent ahead lies in memory before it is metered. No request takes all of a connection.
                .initial_stream_window_size(window / 2)
                .initial_connection_window_size(window)
                .max_frame_size(CLIENT_FRAME)
                .max_concurrent_streams(CLIENT_STREAMS)
                .http2_keepalive_interval(Some(Duration::from_secs(15)))
                .http2_keepalive_timeout(Some(Duration::from_secs(20)))
                .layer(MeteredLayer(gateway.clone()))
                .add_routes(routes)
                .serve_with_incoming_shutdown(
                    accept(client, limits.connections),
                    close.clone().cancelled_owned(),
                ),
        );
        let flushing = tokio::spawn({
            let host = host.clone();
            async move { host.keep_flushing().await }
        });
        let copying = async {
            let mut changed = self.catalog.changed();
            while changed.changed().await.is_ok() {
                self.look_for_copies(&host, &links)?;
            }
            std::future::pending::<Result<std::convert::Infallible, ServeError>>().await
        };

        let running = async {
            let ready = ready(&host, &self.region);
            tokio::pin!(ready);
            if tokio::time::timeout(READ_ALONE_AFTER, &mut ready).await.is_err() {
                gateway.set_readable();
                tracing::warn!(
                    "no leader is found for some shards: readers get what is held here, publishes are refused"
                );
                ready.await;
            }
            gateway.set_ready();
            options.health.set_service_status("", ServingStatus::Serving).await;
            tracing::info!(client = %self.config.listen.client, "ready");
            std::future::pending::<()>().await;
        };
        let over = tokio::select! {
            () = running => None,
            () = stop.cancelled() => None,
            why = ended("client", &mut server) => Some(why),
            Err(why) = copying => Some(why),
            why = others => Some(why),
        };
        // In order whatever the reason: RocksDB aborts a process that ends while its files are open, and of what its region's past
        // incarnation wrote a node keeps what is applied, so that is to be on the disk.

        tracing::info!("draining");
        options.health.set_service_status("", ServingStatus::NotServing).await;
        gateway.drain();
        close.cancel();
        if !server.is_finished() && tokio::time::timeout(DRAIN_WITHIN, &mut server).await.is_err() {
            server.abort();
        }
        links.stop();
        repairing.abort();
        agent.abort();
        self.region.close();
        flushing.abort();
        bounding.abort();
        host.close().await;
        writer.shutdown();
        let joined = tokio::task::spawn_blocking(move || writer_thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::warn!("the writer did not end in order");
        }
        *self.serving.write() = None;
        tracing::info!("stopped");
        over.map_or(Ok(()), Err)
    }

    fn open_shards(
        &self,
        folder: &Folder,
    ) -> Result<(Arc<ShardHost>, WriterHandle, std::thread::JoinHandle<()>), ServeError> {
        let limits = &self.config.limits;
        let memory = limits.index_memory_bytes.0 as usize;
        let rocks = RocksConfig {
            block_cache_bytes: memory / 2,
            memtable_bytes: memory / 2,
            ..RocksConfig::default()
        };
        let index = Arc::new(Index::open(Arc::new(RocksKeyValue::open(&folder.layout.index, &rocks)?))?);
        let (volume, recovered) = open_volume(self.config, folder, &index)?;
        log_recovery(&recovered);
        let reader: VolumeReader = volume.reader();
        let (writer, thread) = VolumeWriter::spawn(
            volume,
            WriterConfig::default(),
            Box::new(|error| fatal(&format!("the volume cannot be written: {error}"))),
        )
        .map_err(|source| ServeError::System { what: "the writer's thread", source })?;
        write_small_rounds_here(&writer);

        let state = self.catalog.state();
        let region = state.region_named(&self.me.region).cloned();
        let region = region.ok_or_else(|| {
            FoundingError::NotThisNode(format!("the catalog knows no region {}", self.me.region))
        })?;
        let host = ShardHost::open(
            HostConfig {
                me: self.me.node,
                boot: self.boot,
                home: self.home,
                shards: region.shards,
                tail_bytes: limits.tail_bytes.0 as usize,
                producers: 10_000,
                flush_every: Duration::from_secs(5),
                mark_after: Duration::from_millis(250),
            },
            index,
            reader,
            writer.clone(),
            self.clock.clone(),
            Arc::new(ByGroup),
            self.region.peers(),
            recovered,
            Arc::new(|what| fatal(&what)),
        )?;
        Ok((Arc::new(host), writer, thread))
    }

    fn start_links(&self, host: &Arc<ShardHost>) -> Result<Arc<Links>, ServeError> {
        let link_config = LinkConfig {
            credit_bytes: self.config.limits.link_credit_bytes.0,
            stall_ms: 10_000,
            retry_ms: 200,
            hosting_incarnation: u32::from(host.home().incarnation.0),
        };
        let links = Arc::new(Links::new(
            self.me.clone(),
            link_config,
            self.ways.clone(),
            self.clock.clone(),
            self.vetting.clone(),
            whereabouts(self.catalog.clone(), self.me.region.clone()),
            self.elsewhere(),
        ));
        self.look_for_copies(host, &links)?;
        Ok(links)
    }

    fn elsewhere(&self) -> Elsewhere {
        let region = self.region.clone();
        Arc::new(move |shard| region.is_placed_elsewhere(shard))
    }

    /// Each link carries what its region writes, and every past incarnation's shards: any region may have most of those.
    fn look_for_copies(&self, host: &ShardHost, links: &Links) -> Result<(), ServeError> {
        let state = self.catalog.state();
        let others = || state.regions().filter(|region| region.name != self.me.region);
        for region in others() {
            links.start(&region.name);
            for (shard, is_past) in state.carried_from(region.id) {
                links.carry(&region.name, &host.ensure(shard)?, is_past);
            }
        }
        Ok(())
    }

    /// The shard's other replicas in this region, then this region's other nodes, those of its origin, and of every other region.
    fn repair_sources(&self) -> RepairSources {
        let (region, catalog) = (self.region.clone(), self.catalog.clone());
        let here = self.me.region.clone();
        Arc::new(move |shard| {
            let placed = region.placement();
            let members = placed.shard(shard).map(|row| row.voters()).unwrap_or_default();
            // A replica that has left the set still holds what it applied, and may be the only one that does.
            let others = placed.nodes().map(|(node, _)| node).filter(|node| !members.contains(node));
            let nodes = members.iter().copied().chain(others);
            let mut sources: Vec<Source> = nodes.map(|node| Source { region: here.clone(), node }).collect();
            let state = catalog.state();
            let mut others: Vec<_> = state.regions().filter(|other| other.name != here).collect();
            others.sort_by_key(|other| other.origin() != shard.origin);
            for other in others {
                let nodes = state.nodes().filter(|node| node.region == other.id).map(|node| node.id);
                sources.extend(nodes.map(|node| Source { region: other.name.clone(), node }));
            }
            sources
        })
    }

    fn gateway(&self, host: &Arc<ShardHost>, links: &Arc<Links>) -> Gateway {
        let limits = &self.config.limits;
        Gateway::new(
            GatewayParts {
                me: self.me.clone(),
                catalog: self.catalog.clone(),
                host: host.clone(),
                links: links.clone(),
                region: self.region.clone(),
                channels: self.read_ways.clone(),
                board: self.board.clone(),
                clock: self.clock.clone(),
                metrics: self.metrics.clone(),
            },
            GatewayConfig {
                request_bytes: limits.publish_bytes_in_flight.0,
                requests: limits.requests,
                delivery_bytes: limits.delivery_bytes_in_flight.0,
                subscribers: limits.subscribers,
                subscriber_buffer_bytes: limits.subscriber_buffer_bytes.0 as usize,
                slow_reader: limits.slow_reader.into(),
            },
        )
    }
}

/// Small rounds are written by the threads that answer for them: see [`WriterHandle::offer_hands`].
fn write_small_rounds_here(writer: &WriterHandle) {
    let called = Arc::new(Notify::new());
    writer.offer_hands({
        let called = called.clone();
        move || called.notify_one()
    });
    let writer = writer.clone();
    tokio::spawn(async move {
        loop {
            called.notified().await;
            // Whatever else can go on goes first, so that what comes of it is in the same round.
            tokio::task::yield_now().await;
            if !writer.write_here() {
                return;
            }
        }
    });
}

/// Shows what memory is bounded by, whenever nodes come or go.
async fn show_bound(
    config: NodeConfig,
    region: Region,
    catalog: meridian_metadata::CatalogHandle,
    metrics: Arc<Metrics>,
) {
    let (mut changed, mut changed_elsewhere) = (region.changed(), catalog.changed());
    let elsewhere = whereabouts(catalog, config.node.region.clone());
    let mut shown = None;
    loop {
        let neighbours = region.placement().nodes().count().saturating_sub(1);
        let elsewhere = elsewhere().len();
        if shown.replace((neighbours, elsewhere)) != Some((neighbours, elsewhere)) {
            let bound = config.memory_bound_among(neighbours, elsewhere);
            metrics.memory_bound_bytes.set(i64::try_from(bound.0).unwrap_or(i64::MAX));
            tracing::info!(%bound, neighbours, elsewhere, "memory is bounded by the configured limits");
        }
        let changed = tokio::select! {
            changed = changed.changed() => changed.is_ok(),
            changed = changed_elsewhere.changed() => changed.is_ok(),
        };
        if !changed {
            return;
        }
    }
}

fn open_volume(
    config: &NodeConfig,
    folder: &Folder,
    index: &Index,
) -> Result<(Volume, Recovered), ServeError> {
    let storage = &config.storage;
    let volume_config = VolumeConfig {
        file_bytes: storage.file_bytes.0,
        max_round_bytes: storage.max_round_bytes.0 as usize,
        stock: storage.stock,
        ..VolumeConfig::default()
    };
    let applied: std::collections::BTreeMap<ShardId, Seq> =
        index.shards()?.into_iter().map(|(shard, mark)| (shard, mark.seq)).collect();
    let from = |shard: ShardId| applied.get(&shard).copied().unwrap_or(Seq::ZERO);
    let restart = Restart::of(index)?;
    Ok(Volume::open_at(folder.disk.clone(), volume_config, restart.as_ref(), &from)?)
}

fn log_recovery(recovered: &Recovered) {
    let replayed: usize = recovered.shards.values().map(|shard| shard.frames.len()).sum();
    tracing::info!(
        files_passed = recovered.files_passed,
        rounds = recovered.rounds,
        shards = recovered.shards.len(),
        replayed,
        "recovered"
    );
    for damage in &recovered.damage {
        tracing::error!(?damage, "the volume is damaged here: what it held is quarantined");
    }
}

/// Until every shard at home has a place, and each that has one here leads or follows, or is known to be damaged.
async fn ready(host: &ShardHost, region: &Region) {
    let home = host.all().into_iter().filter(|shard| shard.id.origin == host.home());
    for shard in home {
        let mut watch = shard.watch();
        while !region.is_placed_elsewhere(shard.id) {
            let settled = watch.wait_for(|shown| shown.ready || shown.follows.is_some() || shown.damaged);
            // An error means that the task has ended: the node is stopping.
            if tokio::time::timeout(READY_LOOK, settled).await.is_ok() {
                break;
            }
        }
    }
}
