//! What is committed in each origin: the frames that its leaders' committed marks have passed, for ever.

use std::collections::BTreeMap;

use meridian_storage::{Chain, Frame};
use meridian_types::{LeaderEpoch, Seq, ShardId};

/// The committed log of each shard: frame n at n − 1.
#[derive(Debug, Default)]
pub struct Truth {
    logs: BTreeMap<ShardId, Vec<Frame>>,
    /// The leadership whose leader committed each of them.
    committed_in: BTreeMap<ShardId, Vec<LeaderEpoch>>,
}

impl Truth {
    pub fn log(&self, shard: ShardId) -> &[Frame] {
        self.logs.get(&shard).map(Vec::as_slice).unwrap_or_default()
    }

    pub fn end(&self, shard: ShardId) -> Seq {
        Seq(self.log(shard).len() as u64)
    }

    pub fn frame(&self, shard: ShardId, seq: Seq) -> Option<&Frame> {
        self.log(shard).get(usize::try_from(seq.0.checked_sub(1)?).ok()?)
    }

    pub fn chain(&self, shard: ShardId, seq: Seq) -> Option<Chain> {
        self.frame(shard, seq).map(|frame| frame.header.chain)
    }

    /// The leadership in which a frame was committed; none: it is not.
    pub fn committed_in(&self, shard: ShardId, seq: Seq) -> Option<LeaderEpoch> {
        let at = usize::try_from(seq.0.checked_sub(1)?).ok()?;
        self.committed_in.get(&shard)?.get(at).copied()
    }

    /// The next committed frame.
    pub fn push(&mut self, shard: ShardId, frame: Frame, by: LeaderEpoch) {
        self.committed_in.entry(shard).or_default().push(by);
        self.logs.entry(shard).or_default().push(frame);
    }
}
