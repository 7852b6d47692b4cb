//! What the limits of a configuration add up to.

use meridian_gateway::{CURSOR_BYTES, DECODED_BYTES, READ_BYTES};

use super::{ByteSize, NodeConfig};

/// The process itself: code, threads, the catalog, RocksDB's own structures, what the allocator keeps.
const BASE: u64 = 192 << 20;
/// The placement's Raft group: two memtables, its log's cache, its threads and channels.
const PLACEMENT: u64 = 48 << 20;
/// Another node of the region, besides what is on its way to it: the windows of the connections that it dialled, which are
/// what it may send before that is stored, and of the one on which this node reads there; and twice what it may be sent at
/// once of lanes that it reads here, as that was read and as it is sent.
const NEIGHBOUR: u64 = 2 * READ_BYTES + (24 << 20);
/// A subscription of another node of the region that watches lanes here.
const WATCH: u64 = 32 << 10;
/// The idempotent producers that a shard remembers.
const SHARD: u64 = 4 << 20;
/// A connection, besides its window: the frame that is coming.
const CONNECTION: u64 = 192 << 10;
/// A request: its headers and a small message decoded, a frame that waits for room, and what HTTP/2 takes of an answer
/// that nobody fetches.
const REQUEST: u64 = 768 << 10;
/// A subscription, besides its request: the lanes of the widest stream in three regions, those that other nodes have told of, and
/// its cursor.
const SUBSCRIPTION: u64 = 768 << 10;
/// A link, besides its credit: the windows of its connections, one dialled, which is so much wider than the credit, and one accepted.
const LINK: u64 = (8 + 8) << 20;
/// What is read for links of volume files at once: the parts that are held, and as many buffers.
const AROUND: u64 = 24 << 20;
/// What is read for another region's node: two reads at once, each of what lies together or of the largest frame, and as it is sent.
const FED: u64 = (2 * 16 + 4) << 20;
/// One more leg of a link, besides its part of the link's credit: the windows of its connections, one dialled and one
/// accepted, and a frame that is larger than what was left of that part.
const LEG: u64 = (8 + 8 + 16) << 20;
/// Frames that are repaired, a part at a time: as they came, the largest message after them, and as they are written.
const REPAIR: u64 = 64 << 20;

impl NodeConfig {
    /// The most memory that the node's process takes, whatever clients and peers do. Counted are:
    ///
    /// - the process with its index, and for each shard its newest frames and its producers;
    /// - three times the bytes of publishes in flight: as they came, as they are stored, and as they are written;
    /// - what the events of large publishes take while they are taken apart and answered, and what large cursors take;
    /// - twice the bytes on their way to subscribers: as they were read, and as they are sent;
    /// - for each connection its window, for each request what HTTP/2 holds of its answer, for each subscription what it
    ///   knows of its lanes;
    /// - the Raft group of the region's placement, and for each other node of the region what is on its way to it, what it may
    ///   send ahead, and what its subscriptions read here;
    /// - for each link into this region twice its credit, and its windows, one of which is as wide; and the windows of one more leg to each
    ///   other node of its region;
    /// - what is read of the volume for nodes of other regions;
    /// - what is fetched from elsewhere in the place of damaged frames.
    pub fn memory_bound(&self) -> ByteSize {
        let elsewhere = self.cluster.nodes.iter().filter(|node| node.region != self.node.region).count();
        self.memory_bound_among(self.neighbours(), elsewhere)
    }

    /// The same, with so many other nodes in the region, and so many in other regions.
    pub fn memory_bound_among(&self, neighbours: usize, elsewhere: usize) -> ByteSize {
        let limits = &self.limits;
        let shards: u64 = self.cluster.regions.iter().map(|region| u64::from(region.shards)).sum();
        let links = self.cluster.regions.len().saturating_sub(1) as u64;
        let legs = (elsewhere as u64).saturating_sub(links);
        let neighbours = neighbours as u64;
        let parts = [
            BASE,
            PLACEMENT,
            neighbours.saturating_mul(limits.replication_bytes.0.saturating_add(NEIGHBOUR)),
            neighbours.saturating_mul(limits.subscribers as u64).saturating_mul(WATCH),
            limits.index_memory_bytes.0,
            limits.tail_bytes.0,
            shards.saturating_mul(SHARD),
            limits.publish_bytes_in_flight.0.saturating_mul(3),
            DECODED_BYTES,
            CURSOR_BYTES,
            limits.delivery_bytes_in_flight.0.saturating_mul(2),
            (limits.connections as u64)
                .saturating_mul(limits.connection_window_bytes.0.saturating_add(CONNECTION)),
            (limits.requests as u64).saturating_mul(REQUEST),
            (limits.subscribers as u64).saturating_mul(SUBSCRIPTION),
            links.saturating_mul(limits.link_credit_bytes.0.saturating_mul(3).saturating_add(LINK)),
            legs.saturating_mul(limits.link_credit_bytes.0.saturating_add(LEG)),
            AROUND,
            (elsewhere as u64).saturating_mul(FED),
            self.storage.max_round_bytes.0.saturating_mul(2),
            REPAIR,
        ];
        ByteSize(parts.into_iter().fold(0, u64::saturating_add))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::tests_support::{config_of_node, node_beside};

    #[test]
    fn each_limit_counts() {
        let config = config_of_node(1, Path::new("x"));
        let before = config.memory_bound().0;
        let more = |change: &dyn Fn(&mut NodeConfig)| {
            let mut config = config.clone();
            change(&mut config);
            config.memory_bound().0 - before
        };
        assert_eq!(more(&|c| c.limits.publish_bytes_in_flight.0 += 10), 30);
        assert_eq!(more(&|c| c.limits.delivery_bytes_in_flight.0 += 10), 20);
        assert_eq!(more(&|c| c.limits.tail_bytes.0 += 10), 10);
        assert_eq!(more(&|c| c.limits.index_memory_bytes.0 += 10), 10);
        assert_eq!(more(&|c| c.limits.connections += 1), CONNECTION + (1 << 20));
        assert_eq!(more(&|c| c.limits.connection_window_bytes.0 += 1), 1024);
        assert_eq!(more(&|c| c.limits.requests += 1), REQUEST);
        assert_eq!(more(&|c| c.limits.subscribers += 1), SUBSCRIPTION);
        assert_eq!(more(&|c| c.limits.link_credit_bytes.0 += 10), 30);
        assert_eq!(more(&|c| c.cluster.regions[0].shards += 1), SHARD);
        assert_eq!(more(&|c| c.limits.replication_bytes.0 += 10), 0, "alone in its region");
        let mut three = config.clone();
        for id in [3, 4] {
            three.cluster.nodes.push(node_beside(id, "us"));
        }
        three.check().unwrap();
        let watches = three.limits.subscribers as u64 * WATCH;
        let others = 2 * (three.limits.replication_bytes.0 + NEIGHBOUR + watches);
        assert_eq!(three.memory_bound().0 - before, others, "only those of its own region");
        three.cluster.nodes.push(node_beside(5, "eu"));
        three.check().unwrap();
        assert_eq!(
            three.memory_bound().0 - before,
            others + three.limits.link_credit_bytes.0 + LEG + FED,
            "a second one elsewhere may get a leg"
        );
        let mut huge = config;
        huge.limits.requests = usize::MAX;
        assert_eq!(huge.memory_bound(), ByteSize(u64::MAX), "no overflow");
    }
}
