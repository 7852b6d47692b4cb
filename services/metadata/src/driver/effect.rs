//! What a driver wants done.

use meridian_types::{LeaderEpoch, NodeId, SetVersion, ShardId};

use crate::placement::{Change, Elected};

/// What to do. A step gives at most one proposal, and one message of a kind for each node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Propose these as one command; say [`super::Input::Changed`] or [`super::Input::Refused`] when it is known what
    /// became of it.
    Propose(Vec<Change>),
    /// Have a node promise these epochs; its answer comes as [`super::Input::Fenced`].
    Fence {
        /// Which node.
        node: NodeId,
        /// What it shall promise.
        epochs: Vec<(ShardId, LeaderEpoch)>,
    },
    /// Tell a node who leads. No answer is waited for: heartbeats show whether the elected leads.
    Tell {
        /// Which node.
        node: NodeId,
        /// Who leads what.
        elections: Vec<Election>,
    },
}

/// Who leads a shard, and over which set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Election {
    /// Which shard.
    pub shard: ShardId,
    /// Who leads it.
    pub elected: Elected,
    /// The set's version.
    pub version: SetVersion,
    /// The set.
    pub members: Vec<NodeId>,
    /// Who shall copy the log without counting.
    pub learner: Option<NodeId>,
}
