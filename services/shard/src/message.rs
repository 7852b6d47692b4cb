//! What the replicas of a shard say to each other (DESIGN §5). Each word names the leadership in which it was said, and
//! counts in no other. Nothing here relies on the order in which words arrive, or on each arriving once.

use meridian_storage::{Chain, Frame};
use meridian_types::{LeaderEpoch, LogEnd, LogEpoch, Seq, SetVersion};

/// A frame's place in a history: two logs that have the same point agree on everything before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPoint {
    /// Its seq; [`Seq::ZERO`] is the point before the first frame.
    pub seq: Seq,
    /// Its log epoch.
    pub epoch: LogEpoch,
    /// Its chain.
    pub chain: Chain,
}

impl LogPoint {
    /// Before the first frame of every log.
    pub const START: Self = Self { seq: Seq::ZERO, epoch: LogEpoch(0), chain: Chain::GENESIS };

    /// What elections compare.
    pub fn end(self) -> LogEnd {
        LogEnd { epoch: self.epoch, seq: self.seq }
    }
}

/// One word between two replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Leader: I lead now. A question that came before it did was not answered.
    Leads {
        /// The leadership.
        epoch: LeaderEpoch,
    },
    /// Follower: do you have this? Its first word is its log's end.
    Probe {
        /// The leadership that it follows.
        epoch: LeaderEpoch,
        /// Pairs the answer with the question: an answer to an earlier one must not cut.
        attempt: u32,
        /// The point asked about.
        at: LogPoint,
        /// Damage may have cost this log what it had reported as flushed: nothing that it reported before counts.
        doubt: bool,
    },
    /// Leader: no; below this there may be one that we share.
    Mismatch {
        /// The leadership.
        epoch: LeaderEpoch,
        /// Of the probe.
        attempt: u32,
        /// The leader's newest frame that is neither of a higher seq than the probe's, nor of a higher epoch.
        mine: LogPoint,
    },
    /// Leader: yes; cut what you have beyond it, and take what follows.
    Match {
        /// The leadership.
        epoch: LeaderEpoch,
        /// Of the probe.
        attempt: u32,
        /// The last point in common.
        at: LogPoint,
        /// The last frame of the leader's log; none: a leader of an older build does not say.
        end: Option<Seq>,
    },
    /// Leader: what follows.
    Frames {
        /// The leadership.
        epoch: LeaderEpoch,
        /// In order.
        frames: Vec<Frame>,
        /// How far all of it is committed.
        committed: Seq,
    },
    /// Leader: how far all of it is committed.
    Committed {
        /// The leadership.
        epoch: LeaderEpoch,
        /// The last committed frame.
        seq: Seq,
    },
    /// Follower: this much of what we have in common is on stable storage here.
    Flushed {
        /// The leadership.
        epoch: LeaderEpoch,
        /// The replica set under which it counts.
        set: SetVersion,
        /// How far.
        seq: Seq,
    },
    /// Leader: do I still lead?
    Confirm {
        /// The leadership.
        epoch: LeaderEpoch,
        /// Which question.
        round: u64,
    },
    /// Follower: I have promised nothing higher.
    Confirmed {
        /// The leadership.
        epoch: LeaderEpoch,
        /// Which question.
        round: u64,
    },
    /// Either: I have promised more than your leadership; it is over.
    Fenced {
        /// What was promised.
        promised: LeaderEpoch,
    },
}
