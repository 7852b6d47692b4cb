//! One shard in one process: the real replica, and what `shard/src/task.rs` keeps beside it.

use std::collections::{BTreeMap, VecDeque};

use meridian_shard::{CopyFault, Home, LogPoint, Publish, Replica, ReplicaSet, RequestId, Totals};
use meridian_storage::{Chain, Entry, Frame, FrameEffects};
use meridian_types::{Hlc, LeaderEpoch, NodeId, Seq, ShardId};

/// A frame between the log's end and the index.
pub struct Unapplied {
    pub effects: FrameEffects,
    pub flushed: bool,
}

/// A follower that is fed.
#[derive(Clone, Copy, Debug)]
pub struct Pump {
    pub epoch: LeaderEpoch,
    /// The next frame to send.
    pub next: Seq,
    /// The committed mark that was told last.
    pub told: Seq,
    /// The connection that it goes over, and dies with.
    pub connection: u64,
    /// A look at it is scheduled.
    pub awake: bool,
}

/// Who waits for an answer of the replica.
#[derive(Clone, Debug)]
pub enum Waiting {
    /// A client's try.
    Publish { client: usize, ticket: u64, publish: Box<Publish> },
    /// A linearizable read, and what was acknowledged before it began.
    Read { acknowledged: Seq },
    /// A source that would say that nobody has more than it, and is not believed before a majority confirms it.
    Confirm { connection: u64, from: Seq, chain_before: Chain },
}

/// A shard in a process.
pub struct Host {
    pub home: Home,
    pub replica: Replica,
    pub unapplied: VecDeque<Unapplied>,
    /// The replica's log as its effects made it, for the checkers: frame n at n − 1.
    pub view: Vec<Frame>,
    pub to_submit: Vec<Entry>,
    /// How far the volume was told that the log is applied, and that it is about to be told more.
    pub marked: Seq,
    pub marking: bool,
    pub totals: Totals,
    pub applied_hlc: Hlc,
    pub fault: Option<CopyFault>,
    /// Who asked for promises.
    pub fences: Vec<(LeaderEpoch, NodeId)>,
    pub answers: BTreeMap<RequestId, Waiting>,
    pub pumps: BTreeMap<NodeId, Pump>,
    /// The set of its last leadership.
    pub set: Option<ReplicaSet>,
    /// How far it was seen to count each node's flushes, and in which leadership.
    pub counted: (LeaderEpoch, BTreeMap<NodeId, Seq>),
    /// How far its committed mark was looked at.
    pub seen: Seq,
    /// Its link is about to be told how it is.
    pub showing: bool,
    /// Placement is being asked what it has begun.
    pub asking: bool,
    /// Of a past incarnation: what was not applied goes from there on.
    pub gives_up: Option<Seq>,
    /// How far the volume says that it was applied.
    pub was_applied: Seq,
    pub is_past: bool,
}

impl Host {
    /// Has the volume told how far the log is applied.
    pub fn mark(&mut self, shard: ShardId) {
        let through = self.replica.marks().applied;
        if through > self.marked {
            self.marked = through;
            self.to_submit.push(Entry::Applied { shard, through });
        }
    }

    pub fn point(&self, seq: Seq) -> Option<LogPoint> {
        let header = self.view.get(usize::try_from(seq.0.checked_sub(1)?).ok()?)?.header;
        Some(LogPoint { seq, epoch: header.log_epoch, chain: header.chain })
    }

    /// Frames from `from` on, as followers are fed.
    pub fn log_from(&self, from: Seq, max: usize) -> Vec<Frame> {
        let skip = usize::try_from(from.0.saturating_sub(1)).unwrap_or(usize::MAX);
        self.view.iter().skip(skip).take(max).cloned().collect()
    }
}
