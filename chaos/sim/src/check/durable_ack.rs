//! Law 1: what is committed, and so what is acknowledged, is on stable storage at a majority of its shard's replicas
//! before anybody hears of it, and every later leader has it.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_shard::{Ack, ReplicaSet};
use meridian_storage::{Chain, Frame};
use meridian_types::{LeaderEpoch, NodeId, Seq, ShardId};

use super::stored::StoredLog;
use super::truth::Truth;

/// What was acknowledged.
#[derive(Debug, Default)]
pub struct DurableAck {
    /// The highest seq, by shard.
    highest: BTreeMap<ShardId, Seq>,
    pub acks: u64,
}

impl DurableAck {
    /// Whether the frame with this chain, and so all before it, is synced at a majority of the set.
    pub fn at_majority<'a>(
        what: &str,
        shard: ShardId,
        (seq, chain): (Seq, Chain),
        set: &ReplicaSet,
        stored: impl Fn(NodeId) -> Option<&'a StoredLog>,
    ) -> Result<(), String> {
        let have: Vec<NodeId> = set
            .members
            .iter()
            .copied()
            .filter(|node| stored(*node).is_some_and(|log| log.had(seq, chain)))
            .collect();
        if 2 * have.len() > set.members.len() {
            return Ok(());
        }
        Err(format!(
            "frame {seq} of shard {shard} is {what}, and of {:?} only {have:?} have it on stable storage",
            set.members
        ))
    }

    /// A leader counts the frame with this chain, and all before it, as flushed at a node (fault 32). One that has promised
    /// a later epoch since may have cut it.
    pub fn counted(
        leader: NodeId,
        (shard, epoch): (ShardId, LeaderEpoch),
        node: NodeId,
        (seq, chain): (Seq, Chain),
        stored: Option<&StoredLog>,
    ) -> Result<(), String> {
        let has = |log: &StoredLog| log.promised > epoch || log.had(seq, chain);
        if stored.is_some_and(has) {
            return Ok(());
        }
        Err(format!(
            "node {leader} leads shard {shard} in epoch {epoch} and counts frame {seq} as flushed at node {node}, whose disk has {}",
            stored.map(StoredLog::end).unwrap_or_default()
        ))
    }

    /// A leader counts what is flushed at a majority only once a frame of its own epoch is: of earlier epochs alone a later
    /// leader may lack what was counted (Ongaro and Ousterhout 2014, figure 8).
    pub fn counts(node: NodeId, epoch: LeaderEpoch, last: &Frame) -> Result<(), String> {
        let header = &last.header;
        if header.log_epoch == epoch.in_origin() {
            return Ok(());
        }
        Err(format!(
            "node {node} leads shard {} in epoch {epoch} and commits up to frame {} of epoch {}, which a later leader may lack",
            header.shard_id(),
            header.seq,
            header.log_epoch
        ))
    }

    /// A leader appends where an earlier leader has committed: it lacks what it must have.
    pub fn appended(truth: &Truth, node: NodeId, frame: &Frame) -> Result<(), String> {
        let header = &frame.header;
        let shard = header.shard_id();
        // A deposed leader that nobody has told may still write; nothing of it will be committed.
        let committed_in = truth.committed_in(shard, header.seq);
        if committed_in.is_none_or(|epoch| epoch.in_origin() >= header.log_epoch) {
            return Ok(());
        }
        Err(format!(
            "node {node} leads shard {shard} in epoch {} and writes frame {}, where another is committed up to {}",
            header.log_epoch,
            header.seq,
            truth.end(shard)
        ))
    }

    /// A publish is acknowledged.
    pub fn acked(&mut self, truth: &Truth, shard: ShardId, ack: &Ack, batch: &Bytes) -> Result<(), String> {
        self.acks += 1;
        let highest = self.highest.entry(shard).or_default();
        *highest = (*highest).max(ack.seq);
        let Some(frame) = truth.frame(shard, ack.seq) else {
            return Err(format!("frame {} of shard {shard} is acknowledged and not committed", ack.seq));
        };
        let header = &frame.header;
        if (header.lane(), header.base_offset, header.hlc) != (ack.lane, ack.base_offset, ack.hlc) {
            return Err(format!("{ack:?} is acknowledged, and the log has {header:?} there"));
        }
        let stamped =
            meridian_batch::stamped(Bytes::copy_from_slice(batch), header.base_offset, header.log_epoch);
        if stamped != frame.payload {
            return Err(format!("{ack:?} is acknowledged, and another batch is there"));
        }
        Ok(())
    }

    /// The highest acknowledged frame.
    pub fn highest(&self, shard: ShardId) -> Seq {
        self.highest.get(&shard).copied().unwrap_or_default()
    }
}
