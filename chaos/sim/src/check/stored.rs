//! A recovered log is what was stored last, and at no time a frame that was cut (fault 35); what was synced is there.

use meridian_storage::{Chain, Entry, Frame};
use meridian_types::{LeaderEpoch, LogEnd, NodeId, Seq, ShardId};

/// What a node's disk has synced of a shard, by the words of the volume's format alone.
#[derive(Clone, Debug, Default)]
pub struct StoredLog {
    pub frames: Vec<Frame>,
    pub promised: LeaderEpoch,
    /// How far it is written that the log was applied.
    pub applied: Seq,
    /// It is written that frames from there on may be lost.
    pub doubt: Option<Seq>,
    /// What it was before bits flipped in it, until that is made good: see `doubt.rs`.
    pub before: Vec<Self>,
}

impl StoredLog {
    pub fn chain(&self, seq: Seq) -> Option<Chain> {
        if seq == Seq::ZERO {
            return Some(Chain::GENESIS);
        }
        self.frames.get(usize::try_from(seq.0 - 1).ok()?).map(|frame| frame.header.chain)
    }

    /// Whether it has that frame, or had it before bits flipped.
    pub fn had(&self, seq: Seq, chain: Chain) -> bool {
        self.chain(seq) == Some(chain) || self.before.iter().any(|before| before.had(seq, chain))
    }

    /// The highest promise that was ever synced.
    pub fn ever_promised(&self) -> LeaderEpoch {
        self.before.iter().map(Self::ever_promised).fold(self.promised, LeaderEpoch::max)
    }

    pub fn last(&self) -> Seq {
        Seq(self.frames.len() as u64)
    }

    pub fn end(&self) -> LogEnd {
        self.frames
            .last()
            .map_or(LogEnd::default(), |last| LogEnd { epoch: last.header.log_epoch, seq: last.header.seq })
    }

    /// An entry is synced.
    pub fn take(&mut self, entry: &Entry) {
        match entry {
            Entry::Frame(frame) => self.frames.push(frame.clone()),
            Entry::Cut { from, .. } => self.frames.truncate(usize::try_from(from.prev().0).unwrap_or(0)),
            Entry::Promise(promise) => {
                self.promised = promise.epoch;
                if self.doubt.is_none() && promise.epoch >= self.ever_promised() {
                    self.before.clear();
                }
            }
            Entry::Doubt { from: Some(from), .. } => {
                self.doubt = Some(self.doubt.map_or(*from, |known| known.min(*from)));
            }
            Entry::Doubt { from: None, .. } => {
                self.doubt = None;
                self.before.clear();
            }
            // What the log holds stays what it is.
            Entry::Moved(_) => {}
            Entry::Applied { through, .. } => self.applied = self.applied.max(*through),
        }
    }

    pub(super) fn is(&self, view: &[Frame], promised: LeaderEpoch) -> bool {
        let ends = (self.frames.last(), view.last());
        let same = self.frames.len() == view.len()
            && ends.0.map(|f| f.header.chain) == ends.1.map(|f| f.header.chain);
        same && self.promised == promised
    }
}

/// Nothing is queued: the replica's log is the disk's.
pub fn settled(node: NodeId, shard: ShardId, stored: &StoredLog, view: &[Frame]) -> Result<(), String> {
    if stored.is(view, stored.promised) {
        return Ok(());
    }
    let end = |frames: &[Frame]| {
        frames.last().map_or(LogEnd::default(), |l| LogEnd { epoch: l.header.log_epoch, seq: l.header.seq })
    };
    Err(format!(
        "node {node} holds shard {shard} up to {}, and its disk has it up to {}",
        end(view),
        stored.end()
    ))
}

/// A process starts that does not write as its region did before: of what that wrote it has what was applied, by its index or by
/// what is written in the volume, and that was synced.
pub fn kept(
    node: NodeId,
    shard: ShardId,
    synced: &StoredLog,
    in_flight: &StoredLog,
    view: &[Frame],
    applied: Seq,
) -> Result<(), String> {
    let chain = view.last().map_or(Chain::GENESIS, |last| last.header.chain);
    let is = |log: &&StoredLog| {
        let through = log.applied.max(applied);
        log.chain(through) == Some(chain) && view.len() as u64 == through.0
    };
    if [synced, in_flight].iter().any(is) {
        return Ok(());
    }
    Err(format!(
        "node {node} keeps {} frames of shard {shard}, applied up to {applied} by its index and to {} by its volume, which is not what was synced: {}",
        view.len(),
        synced.applied,
        synced.end()
    ))
}

/// A process starts: its log is what was synced, or that and the round that was being written.
pub fn recovered(
    node: NodeId,
    shard: ShardId,
    synced: &StoredLog,
    in_flight: &StoredLog,
    view: &[Frame],
    promised: LeaderEpoch,
) -> Result<(), String> {
    if synced.is(view, promised) || in_flight.is(view, promised) {
        return Ok(());
    }
    Err(format!(
        "node {node} recovers shard {shard} up to {:?} with promise {promised}; synced was {} with promise {}, with the last round {} with {}",
        view.last().map(|l| (l.header.log_epoch, l.header.seq)),
        synced.end(),
        synced.promised,
        in_flight.end(),
        in_flight.promised
    ))
}
