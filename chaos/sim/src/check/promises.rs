//! A fence is answered from the synced end, once the promise is synced; and after a promise nothing is done in a lower
//! epoch (faults 2, 11, 38).

use meridian_shard::FenceAnswer;
use meridian_types::{LeaderEpoch, LogEnd, NodeId, ShardId};

use super::stored::StoredLog;

/// A replica answers a fence.
pub fn answered(
    node: NodeId,
    shard: ShardId,
    answer: &FenceAnswer,
    stored: Option<&StoredLog>,
) -> Result<(), String> {
    let FenceAnswer::Promised { epoch, end, unsure_from } = answer else { return Ok(()) };
    let (promised, stored_end) =
        stored.map_or((LeaderEpoch(0), LogEnd::default()), |log| (log.promised, log.end()));
    if promised < *epoch {
        return Err(format!(
            "node {node} says that it has promised epoch {epoch} of shard {shard}, and its disk has synced {promised}"
        ));
    }
    if unsure_from.is_none() && stored_end != *end {
        return Err(format!(
            "node {node} says that shard {shard} ends at {end}, and its disk has synced {stored_end}"
        ));
    }
    Ok(())
}

/// A replica does something in an epoch.
pub fn acts(
    node: NodeId,
    shard: ShardId,
    what: &str,
    epoch: LeaderEpoch,
    promised: LeaderEpoch,
) -> Result<(), String> {
    if epoch >= promised {
        return Ok(());
    }
    Err(format!("node {node} {what} in epoch {epoch} of shard {shard} after it has promised {promised}"))
}
