//! The rows of the catalog.

use std::collections::BTreeMap;

use meridian_types::{
    DiskUuid, Incarnation, NodeId, Origin, RegionId, RegionName, Seq, ShardId, ShardNo, StreamId, StreamName,
    TenantId, TenantName, Timestamp,
};

use super::past::Past;

/// A failure domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionRow {
    /// Its number.
    pub id: RegionId,
    /// Its name.
    pub name: RegionName,
    /// The incarnation that writes now.
    pub incarnation: Incarnation,
    /// How many shards each incarnation has.
    pub shards: u16,
    /// The nodes that found the placement of this incarnation. Empty: those of the genesis.
    pub founders: Vec<NodeId>,
    /// What is left of past incarnations, as the last restore of this region found it.
    pub past: Vec<Past>,
}

impl RegionRow {
    /// A region as the genesis has it.
    pub const fn first(id: RegionId, name: RegionName, shards: u16) -> RegionRow {
        RegionRow { id, name, incarnation: Incarnation(1), shards, founders: vec![], past: vec![] }
    }

    /// The writer of the region's lanes now.
    pub const fn origin(&self) -> Origin {
        Origin { region: self.id, incarnation: self.incarnation }
    }

    /// Every writer that the region has had, the present one last. Each has as many shards as the others, so a partition
    /// keeps its shard's number.
    pub fn origins(&self) -> impl Iterator<Item = Origin> + use<> {
        let region = self.id;
        (1..=self.incarnation.0).map(move |no| Origin { region, incarnation: Incarnation(no) })
    }

    /// The same shard of each incarnation before, and how far this region is to hold that again before it takes publishes; none:
    /// it waits for nothing.
    pub fn held_before(&self, shard: ShardId) -> Vec<(ShardId, Seq)> {
        // Also where the region is restored again, and whoever asks has not heard of it yet.
        let own = self.past.iter().filter(|past| past.origin.is_past(shard.origin));
        let through =
            |past: &Past| Some((ShardId { origin: past.origin, ..shard }, past.through(shard.no.0)?));
        own.filter_map(through).collect()
    }

    /// Who of this region held something of a past shard when it was restored, and how far.
    pub fn holders(&self) -> BTreeMap<ShardId, BTreeMap<NodeId, Seq>> {
        let mut holders: BTreeMap<ShardId, BTreeMap<NodeId, Seq>> = BTreeMap::new();
        for past in &self.past {
            for (node, held) in &past.held {
                for (no, seq) in (0..).zip(held).filter(|(_, seq)| **seq > Seq::ZERO) {
                    let shard = ShardId { origin: past.origin, no: ShardNo(no) };
                    holders.entry(shard).or_default().insert(*node, *seq);
                }
            }
        }
        holders
    }

    /// The shards of a writer of this region.
    pub fn shards_of(&self, origin: Origin) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.shards).map(move |no| ShardId { origin, no: ShardNo(no) })
    }
}

/// A process with a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// Its number.
    pub id: NodeId,
    /// Where it is.
    pub region: RegionId,
    /// The disk that makes it this node: with another it would be another node.
    pub disk: DiskUuid,
    /// `host:port` of its peer listener.
    pub peer_address: String,
    /// What clients dial.
    pub client_address: String,
    /// The highest feature level that its software knows.
    pub max_feature_level: u32,
    /// It came after the genesis. The machine says so, whatever a command says.
    pub added: bool,
    /// The node whose disk is lost, or given up, and in whose place this one came.
    pub replaces: Option<NodeId>,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantRow {
    /// Its number.
    pub id: TenantId,
    /// Its name.
    pub name: TenantName,
}

/// What a stream's owner chooses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamSettings {
    /// 1 to [`meridian_types::limits::PARTITIONS`]; may only grow.
    pub partitions: u32,
    /// How long events are kept; `None`: for ever.
    pub retention_ms: Option<u64>,
    /// How many bytes of a lane are kept; `None`: all.
    pub retention_bytes: Option<u64>,
    /// The owner's notes.
    pub labels: BTreeMap<String, String>,
}

impl StreamSettings {
    /// What of these is unlike `wanted`, for people: `partitions 3, not 4`. Empty: nothing is.
    pub(super) fn unlike(&self, wanted: &Self) -> String {
        let mut all = Vec::new();
        let mut compare = |what: &str, own: String, wanted: String| {
            if own != wanted {
                all.push(format!("{what} {own}, not {wanted}"));
            }
        };
        let bound = |bound: Option<u64>| bound.map_or_else(|| "none".to_owned(), |bound| bound.to_string());
        compare("partitions", self.partitions.to_string(), wanted.partitions.to_string());
        compare("retention_ms", bound(self.retention_ms), bound(wanted.retention_ms));
        compare("retention_bytes", bound(self.retention_bytes), bound(wanted.retention_bytes));
        compare("labels", format!("{:?}", self.labels), format!("{:?}", wanted.labels));
        all.join(", ")
    }
}

/// A stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRow {
    /// Its number, never given again.
    pub id: StreamId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name, unique in its tenant.
    pub name: StreamName,
    /// What its owner chose.
    pub settings: StreamSettings,
    /// By the clock of the node that proposed it.
    pub created_at: Timestamp,
    /// From 1, rising with each update.
    pub version: u64,
}
