//! What the services share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use meridian_metadata::{CatalogHandle, PeerChannels};
use meridian_mirror::{DurableBoard, Identity, Links, Neighbours as _};
use meridian_region::Region;
use meridian_shard::{ReadError, ShardHost};
use meridian_types::{Clock, ProducerId, ShardId};
use meridian_wire::{ApiError, Reason};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::budget::ByteBudget;
use crate::metrics::Metrics;
use crate::peers::Peers;

/// Bounds that are configured.
#[derive(Clone, Copy, Debug)]
pub struct GatewayConfig {
    /// Bytes of requests that are taken in, until the shard is done with them.
    pub request_bytes: u64,
    /// Requests open at once, streams among them.
    pub requests: usize,
    /// Bytes of batches on their way to subscribers, until HTTP/2 has taken them.
    pub delivery_bytes: u64,
    /// Subscriptions open at once.
    pub subscribers: usize,
    /// Bytes read ahead for one subscription.
    pub subscriber_buffer_bytes: usize,
    /// After how long a reader that takes nothing of what it has credit for is cut off.
    pub slow_reader: Duration,
}

/// What the events of large publishes may take while they are taken apart, over all of them. Several of the largest.
pub const DECODED_BYTES: u64 = 64 << 20;

/// What large cursors of subscriptions may take, over all of them. Apart from what is delivered: they stay.
pub const CURSOR_BYTES: u64 = 48 << 20;

/// What a gateway is composed of.
pub struct GatewayParts {
    /// This node.
    pub me: Identity,
    /// The catalog.
    pub catalog: CatalogHandle,
    /// The shards.
    pub host: Arc<ShardHost>,
    /// The links into this region.
    pub links: Arc<Links>,
    /// The other nodes of this region.
    pub region: Region,
    /// Ways to those, for what is read there.
    pub channels: Arc<dyn PeerChannels>,
    /// What other regions have stored of this one.
    pub board: Arc<DurableBoard>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

struct Inner {
    peers: Peers,
    parts: GatewayParts,
    config: GatewayConfig,
    budget: Arc<ByteBudget>,
    decoded: Arc<ByteBudget>,
    delivery: Arc<ByteBudget>,
    cursors: Arc<ByteBudget>,
    requests: Arc<Semaphore>,
    ready: AtomicBool,
    readable: AtomicBool,
    draining: watch::Sender<bool>,
    producers: AtomicU64,
    subscribers: AtomicUsize,
}

/// The gateway of a node. Cheap to clone.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

impl Gateway {
    /// A gateway that answers NOT_READY until [`Gateway::set_ready`], or to readers until [`Gateway::set_readable`].
    pub fn new(parts: GatewayParts, config: GatewayConfig) -> Self {
        Self(Arc::new(Inner {
            peers: Peers::new(parts.me.clone(), parts.region.clone(), parts.channels.clone()),
            parts,
            budget: ByteBudget::new(config.request_bytes),
            decoded: ByteBudget::new(DECODED_BYTES),
            delivery: ByteBudget::new(config.delivery_bytes),
            cursors: ByteBudget::new(CURSOR_BYTES),
            requests: Arc::new(Semaphore::new(config.requests)),
            config,
            ready: AtomicBool::new(false),
            readable: AtomicBool::new(false),
            draining: watch::Sender::new(false),
            producers: AtomicU64::new(0),
            subscribers: AtomicUsize::new(0),
        }))
    }

    /// The node has recovered, is part of its cluster, and leads its shards.
    pub fn set_ready(&self) {
        self.0.ready.store(true, Ordering::Release);
    }

    /// The node has recovered, and does not find who leads its shards: it gives readers what it holds, which is committed, and
    /// takes no publishes. No reader is told that this is all, and where a lane ends now or began at a time it does not say.
    pub fn set_readable(&self) {
        self.0.readable.store(true, Ordering::Release);
    }

    /// Refuses what is new from now on; what is under way is answered.
    pub fn drain(&self) {
        self.0.draining.send_replace(true);
    }

    /// Whether requests are taken.
    pub fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Acquire) && !self.is_draining()
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.0.draining.borrow()
    }

    /// Resolves when the node begins to stop.
    pub(crate) async fn until_draining(&self) {
        // The sender lives as long as this.
        let _ = self.0.draining.subscribe().wait_for(|draining| *draining).await;
    }

    /// The budget of bytes on their way to subscribers.
    pub(crate) fn delivery(&self) -> &Arc<ByteBudget> {
        &self.0.delivery
    }

    /// The budget of events that are taken apart.
    pub(crate) fn decoded(&self) -> &Arc<ByteBudget> {
        &self.0.decoded
    }

    /// The budget of large cursors.
    pub(crate) fn cursors(&self) -> &Arc<ByteBudget> {
        &self.0.cursors
    }

    /// Takes a request's place.
    ///
    /// # Errors
    /// All places are taken.
    pub(crate) fn take_request(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.0.requests.clone().try_acquire_owned().map_err(|_| {
            let limit = self.0.config.requests;
            ApiError::new(
                Reason::Overloaded,
                format!("this node has {limit} requests open and takes no more for now; try again"),
            )
            .with("limit", limit)
            .retry_after(Duration::from_millis(250))
        })
    }

    /// The budget of request bytes.
    pub fn budget(&self) -> &Arc<ByteBudget> {
        &self.0.budget
    }

    pub(crate) fn check_ready(&self) -> Result<(), ApiError> {
        if self.is_ready() { Ok(()) } else { Err(self.not_ready()) }
    }

    /// For what reads what this node holds.
    ///
    /// # Errors
    /// NOT_READY: the node is stopping, or has just started.
    pub(crate) fn check_readable(&self) -> Result<(), ApiError> {
        let is_readable = self.is_ready() || self.reads_alone();
        if is_readable { Ok(()) } else { Err(self.not_ready()) }
    }

    /// Whether readers are served, and nobody else.
    fn reads_alone(&self) -> bool {
        self.0.readable.load(Ordering::Acquire) && !self.is_ready() && !self.is_draining()
    }

    /// What a client gets that comes too early or too late.
    pub(crate) fn not_ready(&self) -> ApiError {
        let message = if self.is_draining() {
            "this node is stopping; try again, or another node"
        } else if self.reads_alone() {
            "this node does not find who leads its shards: a majority of its region's nodes must run and reach each other. \
             Until then it gives what it holds to readers that begin at the start or at a cursor, and takes nothing; try \
             again, or another node"
        } else {
            "this node is starting; try again, or another node"
        };
        ApiError::new(Reason::NotReady, message).retry_after(Duration::from_millis(500))
    }

    pub(crate) fn me(&self) -> &Identity {
        &self.0.parts.me
    }

    pub(crate) fn catalog(&self) -> &CatalogHandle {
        &self.0.parts.catalog
    }

    /// The shards that it serves.
    pub fn host(&self) -> &Arc<ShardHost> {
        &self.0.parts.host
    }

    /// Whether other nodes of the region alone have replicas of a shard.
    pub fn is_placed_elsewhere(&self, shard: ShardId) -> bool {
        self.0.parts.region.is_placed_elsewhere(shard)
    }

    pub(crate) fn links(&self) -> &Links {
        &self.0.parts.links
    }

    pub(crate) fn region(&self) -> &Region {
        &self.0.parts.region
    }

    /// The other nodes of this region, as those that are asked.
    pub(crate) fn peers(&self) -> &Peers {
        &self.0.peers
    }

    pub(crate) fn board(&self) -> &DurableBoard {
        &self.0.parts.board
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.0.parts.clock
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.parts.metrics
    }

    pub(crate) fn shared_metrics(&self) -> &Arc<Metrics> {
        &self.0.parts.metrics
    }

    pub(crate) fn config(&self) -> &GatewayConfig {
        &self.0.config
    }

    /// A producer id that no one else gets: 15 bits of node, 24 of its boot counter, 24 of a counter.
    ///
    /// # Errors
    /// The counter of this start is used up.
    pub(crate) fn mint_producer(&self) -> Result<ProducerId, ApiError> {
        const COUNTER_BITS: u32 = 24;
        const BOOT_BITS: u32 = 24;
        let count = self.0.producers.fetch_add(1, Ordering::Relaxed);
        let (node, boot) = (u64::from(self.me().node.0), self.me().boot.0);
        if count >> COUNTER_BITS != 0 || boot >> BOOT_BITS != 0 || node >> 15 != 0 {
            return Err(ApiError::new(
                Reason::Overloaded,
                "this start of the node has no producer ids left; restart it",
            ));
        }
        let id = node << (BOOT_BITS + COUNTER_BITS) | boot << COUNTER_BITS | count;
        Ok(ProducerId(id as i64))
    }

    /// Takes a subscriber's place.
    ///
    /// # Errors
    /// All places are taken.
    pub(crate) fn take_subscriber(&self) -> Result<SubscriberPlace, ApiError> {
        let limit = self.0.config.subscribers;
        let fits = |taken: usize| (taken < limit).then_some(taken + 1);
        if self.0.subscribers.fetch_update(Ordering::AcqRel, Ordering::Relaxed, fits).is_err() {
            return Err(ApiError::new(
                Reason::Overloaded,
                format!("this node has {limit} subscribers and takes no more"),
            )
            .with("limit", limit)
            .retry_after(Duration::from_secs(5)));
        }
        self.metrics().subscribers.inc();
        Ok(SubscriberPlace(self.clone()))
    }
}

/// One of the places for subscribers; dropping gives it back.
pub(crate) struct SubscriberPlace(Gateway);

impl Drop for SubscriberPlace {
    fn drop(&mut self) {
        self.0.0.subscribers.fetch_sub(1, Ordering::AcqRel);
        self.0.metrics().subscribers.dec();
    }
}

/// Reads the index or the disk, off the threads that serve.
///
/// # Errors
/// DAMAGED, or the node is stopping.
pub(crate) async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(ApiError::new(Reason::Damaged, error.to_string())),
        Err(_) => Err(ApiError::new(Reason::NotReady, "the node is stopping")),
    }
}
