//! What a shard shows of itself to whoever watches it.

use meridian_storage::Chain;
use meridian_types::{Hlc, LeaderEpoch, NodeId, Seq};

use crate::{CopyFault, Replica};

/// Sums over the applied frames of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events.
    pub events: u64,
    /// Payload bytes of Events frames.
    pub bytes: u64,
}

/// What a shard shows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The last frame handed to the volume.
    pub appended: Seq,
    /// The last committed frame.
    pub committed: Seq,
    /// The last applied frame: what readers may read.
    pub applied: Seq,
    /// The last applied frame that is known, in this leadership, to be at a majority of the set; where this node does not lead, the
    /// last applied one.
    pub durable: Seq,
    /// The last applied frame that the volume, synced, tells of: a crash does not forget it.
    pub marked: Seq,
    /// The chain of the last appended frame.
    pub chain: Chain,
    /// The hlc of the last applied frame.
    pub hlc: Hlc,
    /// Over the applied frames.
    pub totals: Totals,
    /// The highest leadership that it has promised.
    pub promised: LeaderEpoch,
    /// The leadership that this node holds.
    pub leads: Option<LeaderEpoch>,
    /// The leader that it follows, and in which leadership.
    pub follows: Option<(NodeId, LeaderEpoch)>,
    /// It leads, and what was in its log when it was elected is at a majority.
    pub settled: bool,
    /// It accepts publishes (in the origin) or frames (in a copy).
    pub ready: bool,
    /// The end of the log is lost here, or may be: this node leads nothing before it has caught up with a leader.
    pub damaged: bool,
    /// It follows nobody before it is told which election placement has begun last.
    pub awaits_begun: bool,
    /// Why a copy takes no more frames.
    pub fault: Option<CopyFault>,
}

impl Progress {
    /// Of a replica, with what its task keeps beside it: the hlc of the last applied frame, sums up to there, how far that is told
    /// in the volume, and why it takes no more frames.
    pub fn of(replica: &Replica, hlc: Hlc, totals: Totals, marked: Seq, fault: Option<CopyFault>) -> Self {
        let marks = replica.marks();
        Self {
            appended: marks.appended,
            committed: marks.committed,
            applied: marks.applied,
            durable: replica.durable(),
            marked,
            chain: replica.chain(),
            hlc,
            totals,
            promised: replica.promised(),
            leads: replica.leads(),
            follows: replica.follows(),
            settled: replica.is_settled(),
            ready: replica.is_ready(),
            damaged: replica.unsure_from().is_some(),
            awaits_begun: replica.awaits_begun(),
            fault,
        }
    }
}
