//! The rows of placement.

use meridian_types::{Boot, ClusterUuid, DiskUuid, LeaderEpoch, NodeId, RegionId, SetVersion};

/// What the region was founded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Founded {
    /// The cluster that it belongs to.
    pub cluster: ClusterUuid,
    /// Which region it is.
    pub region: RegionId,
    /// How many replicas a shard shall have, from 1.
    pub replication: u8,
}

/// What a node is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// It takes replicas.
    Active,
    /// It takes none, and those that it has are moved away.
    Draining,
}

/// A process with a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// The disk that makes it this node: with another it would be another node.
    pub disk: DiskUuid,
    /// `host:port` of its peer listener.
    pub peer_address: String,
    /// What clients dial.
    pub client_address: String,
    /// What it is good for.
    pub state: NodeState,
}

/// Who leads a shard, and in which life of its process: a restarted process leads nothing before a new election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elected {
    /// The leadership.
    pub epoch: LeaderEpoch,
    /// The node.
    pub node: NodeId,
    /// The process.
    pub boot: Boot,
}

/// A replica that an operator moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The member that shall go.
    pub from: NodeId,
    /// The node that shall be one in its place.
    pub to: NodeId,
}

/// A shard's replica set and its leadership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardRow {
    /// Of the set, from 1.
    pub version: SetVersion,
    /// The set, in rising order, never empty.
    pub members: Vec<NodeId>,
    /// A node that copies the log and counts for nothing yet.
    pub learner: Option<NodeId>,
    /// The set before, until an epoch of the present one has committed a frame: elections need majorities of both.
    pub previous: Option<Vec<NodeId>>,
    /// The epoch that the last change of the set began; 0: never changed.
    pub changed_in: LeaderEpoch,
    /// The epoch last begun; 0: none.
    pub begun: LeaderEpoch,
    /// Who was elected last. Superseded where [`ShardRow::begun`] is higher.
    pub elected: Option<Elected>,
    /// What an operator asked for and is not done yet.
    pub moving: Option<Move>,
}

impl ShardRow {
    /// Who leads: who was elected in the epoch last begun.
    pub fn leader(&self) -> Option<Elected> {
        self.elected.filter(|elected| elected.epoch == self.begun)
    }

    /// Whether the node counts in elections: a member of the set or of the one before.
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.members.contains(&node)
            || self.previous.as_ref().is_some_and(|previous| previous.contains(&node))
    }

    /// Those that count in elections, in rising order.
    pub fn voters(&self) -> Vec<NodeId> {
        let mut voters = self.members.clone();
        voters.extend(self.previous.iter().flatten());
        voters.sort_unstable();
        voters.dedup();
        voters
    }
}

/// How many of a set are more than half of it.
pub fn majority(members: &[NodeId]) -> usize {
    members.len() / 2 + 1
}
