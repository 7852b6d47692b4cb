//! What Prometheus reads.

use meridian_mirror::{LinkState, LinkStatus};
use meridian_shard::ShardHandle;
use meridian_types::ShardId;
use meridian_wire::ApiError;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The reason of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// As in ErrorInfo.
    pub reason: String,
}

/// The region that a link comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceLabel {
    /// Its name.
    pub source: String,
}

/// Counters, gauges and histograms of a node.
#[derive(Debug)]
pub struct Metrics {
    /// Events that were acknowledged.
    pub published_events: Counter,
    /// Bytes of their batches.
    pub published_bytes: Counter,
    /// Batches that were there already.
    pub duplicates: Counter,
    /// Refusals by reason.
    pub refused: Family<ReasonLabel, Counter>,
    /// Seconds from taking a batch to its acknowledgement.
    pub publish_seconds: Histogram,
    /// Events delivered to subscribers.
    pub delivered_events: Counter,
    /// Open subscriptions.
    pub subscribers: Gauge,
    /// Events that a link is behind.
    pub link_backlog_events: Family<SourceLabel, Gauge>,
    /// Milliseconds since the oldest of them.
    pub link_backlog_ms: Family<SourceLabel, Gauge>,
    /// 1 where a link is live.
    pub link_live: Family<SourceLabel, Gauge>,
    /// Shards of a link that are faulted.
    pub link_faults: Family<SourceLabel, Gauge>,
    /// Connections that were given up because nothing moved.
    pub link_stalls: Family<SourceLabel, Gauge>,
    /// For how long links had something to read and made no progress, in milliseconds, in all.
    pub link_stalled_ms: Family<SourceLabel, Gauge>,
    /// Connections of links besides their first.
    pub link_legs: Family<SourceLabel, Gauge>,
    /// Shards whose log's end is lost here, or may be, and that have not caught up with a leader since.
    pub damaged_shards: Gauge,
    /// Frames that were found damaged and are not served.
    pub quarantined_frames: Gauge,
    /// Frames that were found damaged and stored again, since the start.
    pub repaired_frames: Gauge,
    /// Bytes of requests that were taken in, until the shard is done with them.
    pub request_bytes: Gauge,
    /// What the configuration bounds the process's memory by.
    pub memory_bound_bytes: Gauge,
    registry: parking_lot::Mutex<Registry>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            published_events: Counter::default(),
            published_bytes: Counter::default(),
            duplicates: Counter::default(),
            refused: Family::default(),
            publish_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 18)),
            delivered_events: Counter::default(),
            subscribers: Gauge::default(),
            link_backlog_events: Family::default(),
            link_backlog_ms: Family::default(),
            link_live: Family::default(),
            link_faults: Family::default(),
            link_stalls: Family::default(),
            link_stalled_ms: Family::default(),
            link_legs: Family::default(),
            damaged_shards: Gauge::default(),
            quarantined_frames: Gauge::default(),
            repaired_frames: Gauge::default(),
            request_bytes: Gauge::default(),
            memory_bound_bytes: Gauge::default(),
            registry: parking_lot::Mutex::new(Registry::with_prefix("meridian")),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&self) {
        let mut registry = self.registry.lock();
        registry.register("published_events", "Events acknowledged", self.published_events.clone());
        registry.register("published_bytes", "Bytes of acknowledged batches", self.published_bytes.clone());
        registry.register("duplicate_batches", "Batches that were there already", self.duplicates.clone());
        registry.register("refused_requests", "Refusals by reason", self.refused.clone());
        registry.register("publish_seconds", "Time to acknowledge a batch", self.publish_seconds.clone());
        registry.register("delivered_events", "Events sent to subscribers", self.delivered_events.clone());
        registry.register("subscribers", "Open subscriptions", self.subscribers.clone());
        registry.register("link_backlog_events", "Events a link is behind", self.link_backlog_events.clone());
        registry.register("link_backlog_ms", "Age of the oldest event missing", self.link_backlog_ms.clone());
        registry.register("link_live", "1 where the link is live", self.link_live.clone());
        registry.register(
            "link_faulted_shards",
            "Shards whose copy differs or is damaged",
            self.link_faults.clone(),
        );
        registry.register("link_stalls", "Connections given up without progress", self.link_stalls.clone());
        registry.register(
            "link_stalled_ms",
            "Milliseconds, in all, in which there was something to read and no progress, over reconnects too",
            self.link_stalled_ms.clone(),
        );
        registry.register(
            "link_legs",
            "Connections besides a link's first, to nodes that hold what that one's does not",
            self.link_legs.clone(),
        );
        registry.register(
            "damaged_shards",
            "Shards whose log has lost its end here, or may have, and has not caught up since",
            self.damaged_shards.clone(),
        );
        registry.register(
            "quarantined_frames",
            "Frames that were found damaged and are not served",
            self.quarantined_frames.clone(),
        );
        registry.register(
            "repaired_frames",
            "Frames that were found damaged and stored again from another copy, since the start",
            self.repaired_frames.clone(),
        );
        registry.register(
            "request_bytes_in_hand",
            "Bytes taken in, until the shard is done with them",
            self.request_bytes.clone(),
        );
        registry.register(
            "memory_bound_bytes",
            "What the configured limits allow the process's memory to grow to",
            self.memory_bound_bytes.clone(),
        );
    }

    /// Counts a refusal.
    pub(crate) fn count_refusal(&self, error: &ApiError) {
        let label = ReasonLabel { reason: error.reason.as_str().to_owned() };
        self.refused.get_or_create(&label).inc();
    }

    /// The text that Prometheus scrapes (OpenMetrics).
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry.lock());
        text
    }
}

/// Brings what the shards say of damage into the gauges. What is held of those that have no replica here is no loss.
pub fn collect_shards(metrics: &Metrics, shards: &[ShardHandle], is_elsewhere: impl Fn(ShardId) -> bool) {
    let (mut damaged, mut quarantined, mut repaired) = (0, 0, 0);
    for shard in shards {
        damaged += i64::from(shard.progress().damaged && !is_elsewhere(shard.id));
        let (still, mended) = shard.quarantined();
        quarantined += still;
        repaired += mended;
    }
    metrics.damaged_shards.set(damaged);
    metrics.quarantined_frames.set(i64::try_from(quarantined).unwrap_or(i64::MAX));
    metrics.repaired_frames.set(i64::try_from(repaired).unwrap_or(i64::MAX));
}

/// Brings the links' states into the gauges.
pub fn collect_links(metrics: &Metrics, links: &[LinkStatus]) {
    let to_i64 = |value: u128| i64::try_from(value).unwrap_or(i64::MAX);
    for link in links {
        let source = link.source.as_ref().map(ToString::to_string).unwrap_or_default();
        let label = SourceLabel { source };
        metrics.link_backlog_events.get_or_create(&label).set(to_i64(u128::from(link.events)));
        metrics.link_backlog_ms.get_or_create(&label).set(to_i64(link.oldest.as_millis()));
        metrics.link_live.get_or_create(&label).set(i64::from(link.state == LinkState::Live));
        metrics.link_faults.get_or_create(&label).set(to_i64(link.faults.len() as u128));
        metrics.link_stalls.get_or_create(&label).set(to_i64(u128::from(link.stalls)));
        metrics.link_stalled_ms.get_or_create(&label).set(to_i64(link.stalled.as_millis()));
        metrics.link_legs.get_or_create(&label).set(i64::from(link.legs));
    }
}
