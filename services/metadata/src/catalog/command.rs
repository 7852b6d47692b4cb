//! What the catalog can be asked to do.

use meridian_types::{ClusterUuid, Incarnation, NodeId, RegionId, StreamId, StreamName, TenantId, Timestamp};
use uuid::Uuid;

use super::past::Past;
use super::rows::{NodeRow, RegionRow, StreamSettings};

/// Names one wish of one caller. A command that is proposed again under it is answered, not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(pub Uuid);

impl RequestId {
    /// A new one.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

/// A change, with all that it depends on besides the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Which wish it is.
    pub request: RequestId,
    /// The proposer's clock.
    pub at: Timestamp,
    /// What to do.
    pub change: Change,
}

impl Command {
    /// A new wish.
    pub fn new(at: Timestamp, change: Change) -> Self {
        Self { request: RequestId::random(), at, change }
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Found the cluster: the first command, and only that.
    Genesis(Genesis),
    /// Make a stream. Again with the same settings: the existing one is answered.
    CreateStream(CreateStream),
    /// Change a stream's settings.
    UpdateStream(UpdateStream),
    /// Drop a stream. Its id is never given again.
    DeleteStream(StreamId),
    /// Add a node, or change a known node's addresses and feature level.
    RegisterNode(NodeRow),
    /// Forget a node that no shard needs any more. Its id and its disk are refused for ever.
    RemoveNode(NodeId),
    /// Have a region that lost a majority of its disks go on under its next incarnation.
    RestoreRegion(RestoreRegion),
    /// Allow the commands of the next feature level.
    RaiseFeatureLevel(u32),
}

/// The founding of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// Its name for ever.
    pub cluster: ClusterUuid,
    /// The feature level to begin with, at least 1.
    pub feature_level: u32,
    /// Its regions, in their first incarnations.
    pub regions: Vec<RegionRow>,
    /// The nodes that found it: the first voters.
    pub nodes: Vec<NodeRow>,
}

/// A stream to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateStream {
    /// For whom.
    pub tenant: TenantId,
    /// Under which name.
    pub name: StreamName,
    /// With which settings.
    pub settings: StreamSettings,
}

/// A stream to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateStream {
    /// Which.
    pub id: StreamId,
    /// The settings as they shall be, all of them.
    pub settings: StreamSettings,
    /// Refused where the stream's version is another; `None`: any.
    pub expected_version: Option<u64>,
}

/// A region to restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreRegion {
    /// Which.
    pub region: RegionId,
    /// Its incarnation now, or the command is refused: two operators restore it once.
    pub incarnation: Incarnation,
    /// The nodes that decide in the region, of its placement group, or on one of its shards: a set that has lost its majority.
    pub voters: Vec<NodeId>,
    /// The nodes whose disks are lost, or given up. They and their disks are refused for ever.
    pub lost: Vec<NodeId>,
    /// What is left of the incarnation that ends, of those before it, and of past ones of other regions. Publishing waits until the
    /// region has that much of its own again, and those who hold something are in the first sets. Of its own that are not named
    /// holds what an earlier restore said, or nothing.
    pub past: Vec<Past>,
}
