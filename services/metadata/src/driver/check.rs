//! What an operator's wish is checked against besides the state: who is alive, and who has room.

use meridian_types::{NodeId, ShardId, Timestamp};

use super::liveness::Liveness;
use crate::placement::{Placement, Refusal, RefusalCode};

/// Checks that a replica can be moved now, before [`crate::placement::Change::Move`] is proposed. A shard that is being
/// moved in the same way passes.
///
/// # Errors
/// [`Refusal`] with what is in the way: the shard or a node is not known, the move makes no sense, another is under way,
/// or the node that shall take it is not heard or full.
pub fn check_move(
    state: &Placement,
    liveness: &Liveness,
    shard: ShardId,
    from: NodeId,
    to: NodeId,
    now: Timestamp,
) -> Result<(), Refusal> {
    let same = |row: &crate::placement::ShardRow| {
        row.moving.is_some_and(|moving| moving.from == from && moving.to == to)
    };
    if state.shard(shard).is_some_and(same) {
        return Ok(());
    }
    state.check_move(shard, from, to)?;
    if !liveness.is_live(to, now) {
        return Err(Refusal::new(
            RefusalCode::NodeDead,
            format!("node {to} is not heard; start it, or choose another for shard {shard}"),
        ));
    }
    if liveness.is_full(to) {
        return Err(Refusal::new(
            RefusalCode::NodeFull,
            format!(
                "the disk of node {to} is at its reserve; make room there, or choose another for shard {shard}"
            ),
        ));
    }
    Ok(())
}
