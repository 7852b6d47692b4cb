//! What placement can be asked to do.

use meridian_types::{Boot, ClusterUuid, DiskUuid, LeaderEpoch, NodeId, RegionId, SetVersion, ShardId};

/// A batch of changes. Each is done or refused on its own, in order. Every change can be proposed again without harm: it
/// is answered as done, or refused because the state has moved on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// The changes.
    pub changes: Vec<Change>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Found the region: the first change, and only that.
    Found(Found),
    /// Add a node, or change a known node's addresses.
    Join(Join),
    /// Move everything away from a node.
    Drain {
        /// Which.
        node: NodeId,
    },
    /// Let a node take replicas again.
    Undrain {
        /// Which.
        node: NodeId,
    },
    /// Forget a drained node. Its id and its disk are refused for ever.
    Remove {
        /// Which.
        node: NodeId,
    },
    /// How many replicas a shard shall have from now on. Sets follow one node at a time.
    SetReplication {
        /// From 1, and no more than there are active nodes.
        replicas: u8,
    },
    /// Make a shard's row.
    Create {
        /// Which.
        shard: ShardId,
        /// Its first set.
        members: Vec<NodeId>,
    },
    /// Begin an election.
    Begin {
        /// Of which shard.
        shard: ShardId,
        /// Higher than any begun before.
        epoch: LeaderEpoch,
    },
    /// End the election of the epoch last begun.
    Elect {
        /// Of which shard.
        shard: ShardId,
        /// The epoch last begun.
        epoch: LeaderEpoch,
        /// Who leads: a member.
        node: NodeId,
        /// The process that answered the fence.
        boot: Boot,
    },
    /// Name or drop the learner.
    Learner {
        /// Of which shard.
        shard: ShardId,
        /// The set's version, or the change is refused.
        version: SetVersion,
        /// Who; `None`: nobody any more.
        node: Option<NodeId>,
    },
    /// Change the set by one node. Begins the next epoch.
    Change {
        /// Of which shard.
        shard: ShardId,
        /// The set's version, or the change is refused.
        version: SetVersion,
        /// The set as it shall be.
        members: Vec<NodeId>,
    },
    /// An epoch of the present set has committed a frame: the set before counts no more.
    Settle {
        /// Of which shard.
        shard: ShardId,
        /// The epoch that committed one.
        epoch: LeaderEpoch,
    },
    /// An operator moves a replica.
    Move {
        /// Of which shard.
        shard: ShardId,
        /// From this member,
        from: NodeId,
        /// to this node.
        to: NodeId,
    },
    /// Forget what [`Change::Move`] asked for.
    CancelMove {
        /// Of which shard.
        shard: ShardId,
    },
}

/// The founding of a region's placement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The cluster that the region belongs to.
    pub cluster: ClusterUuid,
    /// Which region it is.
    pub region: RegionId,
    /// How many replicas a shard shall have, from 1.
    pub replication: u8,
    /// The nodes that found it.
    pub nodes: Vec<Join>,
}

/// A node and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Its number, from 1.
    pub node: NodeId,
    /// The disk that makes it this node.
    pub disk: DiskUuid,
    /// `host:port` of its peer listener.
    pub peer_address: String,
    /// What clients dial.
    pub client_address: String,
}
