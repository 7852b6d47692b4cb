//! What a driver is told.

use meridian_types::{Boot, LeaderEpoch, LogEnd, NodeId, Seq, ShardId};

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time has passed. Wanted every 20 ms or so: waits end with the tick that follows them.
    Tick,
    /// A node says that it is there.
    Heard(Heartbeat),
    /// A connection to the node was reset or refused: it is dead unless it is heard again soon.
    Suspect {
        /// Which.
        node: NodeId,
    },
    /// A node's answers to a fence.
    Fenced {
        /// Which node.
        node: NodeId,
        /// The process that answers.
        boot: Boot,
        /// An answer a shard.
        answers: Vec<FenceAnswer>,
    },
    /// The state that is passed has moved on.
    Changed,
    /// A proposal failed, or nobody knows: look at the state again.
    Refused,
    /// All the shards that this region shall have; those without a row are created.
    Wanted(Vec<ShardId>),
}

/// A node's word that it is there, sent every 100 ms or so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Which node.
    pub node: NodeId,
    /// Its process.
    pub boot: Boot,
    /// Its disk is at its reserve: it takes no new replicas.
    pub full: bool,
    /// Every shard that it leads.
    pub leads: Vec<Led>,
}

/// A shard that a node leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Led {
    /// Which shard.
    pub shard: ShardId,
    /// In which epoch.
    pub epoch: LeaderEpoch,
    /// It has committed a frame in this epoch.
    pub settled: bool,
    /// How far what it has applied is at a majority of its set.
    pub durable: Seq,
    /// The learner that is within reach of the log's end.
    pub caught_up: Option<NodeId>,
}

/// What a replica answers to a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FenceAnswer {
    /// Which shard.
    pub shard: ShardId,
    /// The epoch that it was asked to promise.
    pub epoch: LeaderEpoch,
    /// What it came to.
    pub outcome: FenceOutcome,
}

/// What a fence came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceOutcome {
    /// The promise is synced, now or earlier.
    Promised {
        /// The end of its log as synced: it has at least that.
        end: LogEnd,
        /// Damage may hide frames from here on: it cannot be elected, and does not count as lacking them.
        unsure_from: Option<Seq>,
    },
    /// It has promised this epoch, or a higher one, to another election.
    Refused {
        /// Which.
        promised: LeaderEpoch,
    },
}
