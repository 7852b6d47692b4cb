//! A linearizable read misses nothing that was acknowledged before it began.

use meridian_types::{NodeId, Seq, ShardId};

/// A read of `shard` is answered with `committed`; before it began, `acknowledged` was.
pub fn answered(node: NodeId, shard: ShardId, committed: Seq, acknowledged: Seq) -> Result<(), String> {
    if committed >= acknowledged {
        return Ok(());
    }
    Err(format!(
        "node {node} answers a read of shard {shard} with {committed}, and {acknowledged} was acknowledged before it began"
    ))
}
