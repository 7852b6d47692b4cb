//! All that can happen to a replica, and all that it can want done, on one screen each.

use bytes::Bytes;
use meridian_batch::Producer;
use meridian_storage::{Frame, Promise};
use meridian_types::{
    Hlc, Lane, LeaderEpoch, NodeId, Offset, Partition, ProducerEpoch, Seq, StreamId, TenantId,
};

use crate::ReplicaSet;
use crate::replicas::SetVersion;

/// Pairs a publish with its answer. Chosen by the shell, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A validated batch on its way into the log.
#[derive(Clone, Debug)]
pub struct Publish {
    /// For the answer.
    pub request: RequestId,
    /// Whose stream.
    pub tenant: TenantId,
    /// Which stream.
    pub stream: StreamId,
    /// Which partition.
    pub partition: Partition,
    /// A RecordBatch v2 that `meridian_batch::validate` passed.
    pub batch: Bytes,
    /// How many events it holds, as validated.
    pub events: u32,
    /// Its idempotent producer, as validated.
    pub producer: Option<Producer>,
}

/// What happens to a replica.
#[derive(Clone, Debug)]
pub enum Input {
    /// Placement elected this node, and the promise of that epoch is synced.
    Lead {
        /// The leadership.
        epoch: LeaderEpoch,
        /// Whose flushes count.
        set: ReplicaSet,
    },
    /// Placement begins an election: promise to do nothing in a lower epoch.
    Fence {
        /// The epoch that was begun.
        epoch: LeaderEpoch,
    },
    /// A client's batch.
    Publish(Publish),
    /// A frame that the origin committed, from a mirror link.
    Copy(Frame),
    /// This node's volume has synced up to there.
    Flushed(Seq),
    /// A follower's log agrees with this leader's up to there, in this epoch.
    Matched {
        /// Which follower.
        node: NodeId,
        /// In which leadership.
        epoch: LeaderEpoch,
        /// The last frame that agrees.
        seq: Seq,
    },
    /// A follower has synced up to there.
    PeerFlushed {
        /// Which follower.
        node: NodeId,
        /// In which leadership.
        epoch: LeaderEpoch,
        /// Under which replica set.
        set: SetVersion,
        /// How far.
        seq: Seq,
    },
    /// The index has the effects up to there.
    Applied(Seq),
}

/// A publish that is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Where.
    pub lane: Lane,
    /// The offset of the first event; of a duplicate, its original's.
    pub base_offset: Offset,
    /// The frame's position in the shard.
    pub seq: Seq,
    /// The frame's hlc.
    pub hlc: Hlc,
    /// It was there already.
    pub duplicate: bool,
}

/// A publish that got no offset.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// This replica does not lead, or has not yet applied through its epoch's first frame. A retry finds the leader.
    #[error("the shard has no leader here now; try again")]
    NotLeader,
    /// A newer epoch of the producer has written.
    #[error("producer epoch {got} is fenced: epoch {current} has written; init a new producer")]
    ProducerFenced {
        /// Of the batch.
        got: ProducerEpoch,
        /// The highest seen.
        current: ProducerEpoch,
    },
    /// Nothing is known of the producer, yet the batch is not its first.
    #[error(
        "nothing is known of this producer any more, so a retry cannot be told from a new batch; init a new producer"
    )]
    ProducerExpired,
    /// Neither the next sequence nor that of a remembered batch.
    #[error("sequence {got} is neither the next ({expected}) nor that of one of the last batches")]
    OutOfSequence {
        /// Of the batch.
        got: i32,
        /// The next.
        expected: i32,
    },
    /// A part of this shard's log is damaged on the only replica; nothing is appended behind it.
    #[error("a part of this shard's log is damaged here; nothing is appended until it is repaired")]
    Damaged,
}

/// Why a copy takes no frame any more. Nothing was appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyFault {
    /// The frame does not follow what this copy holds: the copies differ.
    #[error("frame {seq} does not follow this copy's frame {last}: the chains differ")]
    ChainDiffers {
        /// The frame's.
        seq: Seq,
        /// The copy's last.
        last: Seq,
    },
    /// The frame breaks the order of its own log.
    #[error("frame {seq} breaks the order of its log: {what}")]
    OutOfOrder {
        /// The frame's.
        seq: Seq,
        /// What it breaks.
        what: &'static str,
    },
}

/// What a replica wants done, in this order. `effects.rs` and `task.rs` execute it; nothing else does.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Queue this frame for the volume.
    Append(Frame),
    /// Queue this promise for the volume; answer whoever fenced only once it is synced.
    Promise(Promise),
    /// Bring the effects of the frames up to there into the index, in one batch, with the mark.
    Apply {
        /// The last frame.
        through: Seq,
    },
    /// Answer a publish: it is committed.
    Ack {
        /// Which.
        request: RequestId,
        /// Where it is.
        ack: Ack,
    },
    /// Answer a publish: it got no offset.
    Reject {
        /// Which.
        request: RequestId,
        /// Why.
        reject: Reject,
    },
    /// Fault the link that this copy is fed by, raise the alarm, append nothing more.
    Fault(CopyFault),
}
