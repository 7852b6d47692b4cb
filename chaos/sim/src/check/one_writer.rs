//! Law 2: only its origin appends to a lane, and in each epoch one process of one node.

use std::collections::BTreeMap;

use meridian_storage::Frame;
use meridian_types::{Boot, LeaderEpoch, LogEpoch, NodeId, ShardId};

/// Who has written in which epoch.
#[derive(Debug, Default)]
pub struct OneWriter {
    writers: BTreeMap<(ShardId, LogEpoch), (NodeId, Boot)>,
}

impl OneWriter {
    /// A leader made a frame of its own.
    pub fn wrote(
        &mut self,
        (node, boot): (NodeId, Boot),
        at_home: bool,
        leads: Option<LeaderEpoch>,
        frame: &Frame,
    ) -> Result<(), String> {
        let header = &frame.header;
        let (shard, epoch) = (header.shard_id(), header.log_epoch);
        if !at_home {
            return Err(format!(
                "node {node} writes frame {} of shard {shard}, which is at home elsewhere",
                header.seq
            ));
        }
        if leads.map(LeaderEpoch::in_origin) != Some(epoch) {
            return Err(format!(
                "node {node} writes frame {} in epoch {epoch} and leads {leads:?}",
                header.seq
            ));
        }
        let writer = *self.writers.entry((shard, epoch)).or_insert((node, boot));
        if writer != (node, boot) {
            return Err(format!(
                "epoch {epoch} of shard {shard} has two writers: node {} in its life {}, node {node} in its life {boot}",
                writer.0, writer.1
            ));
        }
        Ok(())
    }
}
