//! The order of a replica's marks, in the words of DESIGN §3:
//!
//! ```text
//! trimmed ≤ checkpointed ≤ applied ≤ min(committed, flushed)        max(committed, flushed) ≤ appended (leader)
//! ```

use meridian_shard::Marks;
use meridian_types::{NodeId, Seq, ShardId};

/// After a step that began with `before`. `stored`: how far the node's disk has really synced the log; `indexed`: the
/// index's applied mark.
pub fn stepped(
    node: NodeId,
    shard: ShardId,
    before: Marks,
    after: Marks,
    stored: Seq,
    indexed: Seq,
) -> Result<(), String> {
    let wrong = |what: &str| {
        Err(format!(
            "node {node}, shard {shard}: {what}: {before:?} then {after:?}, stored {stored}, indexed {indexed}"
        ))
    };
    if after.applied > after.committed.min(after.flushed) {
        return wrong("applied ≤ min(committed, flushed)");
    }
    if after.committed.max(after.flushed) > after.appended {
        return wrong("max(committed, flushed) ≤ appended");
    }
    if after.committed < before.committed || after.applied < before.applied {
        return wrong("committed and applied never go back");
    }
    if after.flushed > stored {
        return wrong("flushed is what the disk has synced");
    }
    if after.applied != indexed {
        return wrong("applied is what the index holds");
    }
    Ok(())
}
