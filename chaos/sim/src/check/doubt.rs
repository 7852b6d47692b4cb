//! Damage costs no more than it must, and nobody relies on what it has cost (faults 4 and 6): what is applied stays, a log
//! whose end may be lost says so, and goes on saying so over restarts until it has every committed frame that it had.

use meridian_storage::Frame;
use meridian_types::{LeaderEpoch, NodeId, Seq, ShardId};

use super::stored::StoredLog;
use super::truth::Truth;

/// What a process has recovered of a shard.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    pub view: &'a [Frame],
    pub promised: LeaderEpoch,
    /// From where on it says that its log is in doubt.
    pub unsure: Option<Seq>,
    /// It says that it does not know what it has promised.
    pub awaits: bool,
    pub applied: Seq,
}

/// A process starts on a disk in which bits have flipped. What it is sure of is what was synced; where it is sure of all,
/// that is all that was.
pub fn recovered(
    node: NodeId,
    shard: ShardId,
    synced: &StoredLog,
    in_flight: &StoredLog,
    found: Found<'_>,
) -> Result<(), String> {
    let Found { view, promised, unsure, awaits, applied } = found;
    let wrong = |what: &str| {
        Err(format!(
            "node {node} recovers shard {shard} up to {:?} with promise {promised}, applied up to {applied}, unsure from {unsure:?}; synced was {} with promise {}, in doubt from {:?}: {what}",
            view.last().map(|last| (last.header.log_epoch, last.header.seq)),
            synced.end(),
            synced.promised,
            synced.doubt,
        ))
    };
    let Some(from) = unsure else {
        if synced.doubt.is_some() && in_flight.doubt.is_some() {
            return wrong("its doubt is forgotten");
        }
        let is = |log: &&StoredLog| log.is(view, if awaits { log.promised } else { promised });
        return match [synced, in_flight].iter().any(is) {
            true => Ok(()),
            false => wrong("it lacks something, and is sure"),
        };
    };
    let end = view.len().min(usize::try_from(from.prev().0).unwrap_or(0));
    let sure = Seq(end.max(usize::try_from(applied.0).unwrap_or(0)) as u64);
    let last = |seq: Seq| usize::try_from(seq.0).ok().and_then(|n| view.get(n.checked_sub(1)?));
    let agrees = |log: &&StoredLog| {
        sure == Seq::ZERO || last(sure).is_some_and(|frame| log.chain(sure) == Some(frame.header.chain))
    };
    if [synced, in_flight].iter().any(agrees) {
        return Ok(());
    }
    wrong("what it is sure of is not what was synced")
}

/// That the doubt of an origin's replica is over is synced: it has all that was committed and that it had.
pub fn ends(node: NodeId, shard: ShardId, log: &StoredLog, truth: &Truth) -> Result<(), String> {
    for (committed, seq) in truth.log(shard).iter().zip(1..) {
        let (seq, chain) = (Seq(seq), committed.header.chain);
        if log.chain(seq) != Some(chain) && log.had(seq, chain) {
            return Err(format!(
                "node {node} says that it lacks nothing of shard {shard} any more, and has lost frame {seq}, which is committed: it ends at {}",
                log.end()
            ));
        }
    }
    Ok(())
}
