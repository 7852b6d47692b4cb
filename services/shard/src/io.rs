//! All that can happen to a replica, and all that it can want done, on one screen each.

use bytes::Bytes;
use meridian_batch::Producer;
use meridian_storage::{Chain, Frame, Promise};
use meridian_types::{
    Boot, Hlc, Lane, LeaderEpoch, LogEnd, NodeId, Offset, Partition, ProducerEpoch, Seq, StreamId, TenantId,
};

use crate::ReplicaSet;
use crate::message::{LogPoint, Message};

/// Pairs a publish or a read with its answer. Chosen by the shell, never reused.
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

/// An election that placement has committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Election {
    /// The leadership; higher than any before.
    pub epoch: LeaderEpoch,
    /// The elected node.
    pub leader: NodeId,
    /// The start of the process that was elected: no other one of that node may lead on it.
    pub boot: Boot,
    /// The replica set under which it leads.
    pub set: ReplicaSet,
}

/// What happens to a replica.
#[derive(Clone, Debug)]
pub enum Input {
    /// Placement begins an election: promise to do nothing in a lower epoch, and say how far this log is.
    Fence {
        /// The epoch that was begun.
        epoch: LeaderEpoch,
    },
    /// The promise of this epoch is synced.
    Promised {
        /// Which.
        epoch: LeaderEpoch,
    },
    /// Placement, asked since this process began, has begun no election of this shard above this epoch. A damaged replica
    /// waits for this, for its promises may be among what is lost: whatever it promised was begun before.
    Begun {
        /// The epoch last begun.
        epoch: LeaderEpoch,
        /// Nobody was ever elected to lead this shard: no frame of it was ever written.
        untouched: bool,
    },
    /// The end of the doubt is synced.
    Sure,
    /// The volume says that the log was applied up to there.
    WasApplied(Seq),
    /// Placement has elected: lead, or follow.
    Elected(Election),
    /// The way to the leader is new: what was sent may be lost.
    Connected,
    /// Another replica of the shard says something.
    From {
        /// Which node.
        node: NodeId,
        /// What.
        message: Message,
        /// What [`Replica::must_look_up`] asked for.
        ///
        /// [`Replica::must_look_up`]: crate::Replica::must_look_up
        held: Option<LogPoint>,
    },
    /// A client's batch.
    Publish(Publish),
    /// A client wants to know what is committed now, wherever else it was published.
    Read {
        /// For the answer.
        request: RequestId,
    },
    /// A frame that the origin committed, from a mirror link.
    Copy {
        /// The leadership of this copy that the link asked it for: what the one before was given, it perhaps did not take.
        epoch: LeaderEpoch,
        /// The frame.
        frame: Frame,
    },
    /// This node's volume has synced this frame, and all before it.
    Flushed {
        /// Its seq.
        seq: Seq,
        /// Its chain: another frame may be there now.
        chain: Chain,
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
    /// A part of this shard's log is damaged here, and nobody leads it; nothing is appended behind it.
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
    /// The region's leader of the shard lacks what this replica knows to be committed: the logs differ where they must
    /// not.
    #[error("the leader does not have frame {seq}, which is committed")]
    LeaderLacks {
        /// The committed frame.
        seq: Seq,
    },
}

/// What a replica answers to a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceAnswer {
    /// The promise is synced, and so is the log up to here.
    Promised {
        /// What was promised.
        epoch: LeaderEpoch,
        /// The end of the log; of a damaged one, the end of what is sure.
        end: LogEnd,
        /// Damage may hide frames from here on: this replica cannot lead, and is not counted as lacking them.
        unsure_from: Option<Seq>,
    },
    /// More was promised before.
    Refused {
        /// What was asked.
        epoch: LeaderEpoch,
        /// What was promised.
        promised: LeaderEpoch,
    },
}

/// What a replica wants done, in this order. `effects.rs` and `task.rs` execute it; nothing else does.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Queue this frame for the volume.
    Append(Frame),
    /// Queue a cut for the volume: every frame after this point is dropped, whether it is written yet or not.
    Cut {
        /// The last frame that stays. Once the cut is synced, so is this.
        after: LogPoint,
    },
    /// Queue this promise for the volume; say [`Input::Promised`] once it is synced.
    Promise(Promise),
    /// Queue for the volume that from there on this log may lack what was reported as flushed; none: that is over, and
    /// [`Input::Sure`] is to be said once it is synced.
    Doubt {
        /// The first seq in doubt.
        from: Option<Seq>,
    },
    /// Answer those who fenced.
    Answer(FenceAnswer),
    /// Bring the effects of the frames up to there into the index, in one batch, with the mark.
    Apply {
        /// The last frame.
        through: Seq,
    },
    /// Say this to another replica. It may be lost: whoever waits for an answer asks again on a new connection.
    Send {
        /// Which node.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// From now on send this node every frame of this log after that one, applied or not, and the committed mark. It
    /// replaces an earlier feed of that node.
    Feed {
        /// Which node.
        to: NodeId,
        /// The leadership to name.
        epoch: LeaderEpoch,
        /// The last frame that it has.
        after: Seq,
    },
    /// The leadership has ended: feed nobody.
    StopFeeding,
    /// Answer a publish: it is committed.
    Ack {
        /// Which.
        request: RequestId,
        /// Where it is.
        ack: Ack,
    },
    /// Answer a publish or a read: nothing came of it.
    Reject {
        /// Which.
        request: RequestId,
        /// Why.
        reject: Reject,
    },
    /// Answer a read: everything that was acknowledged before it was asked is at or below this.
    Readable {
        /// Which.
        request: RequestId,
        /// The committed end.
        committed: Seq,
    },
    /// Fault the link that this copy is fed by, raise the alarm, append nothing more.
    Fault(CopyFault),
}
