//! Law 3: any two replicas, in whatever region, agree on every offset that both have committed.

use meridian_storage::Frame;
use meridian_types::{NodeId, Seq, ShardId};

use super::truth::Truth;

/// A replica takes its log for committed up to `seq`, where it has `frame`.
pub fn committed(
    truth: &Truth,
    node: NodeId,
    shard: ShardId,
    seq: Seq,
    frame: Option<&Frame>,
) -> Result<(), String> {
    let Some(frame) = frame else {
        return Err(format!(
            "node {node} takes frame {seq} of shard {shard} for committed and does not have it"
        ));
    };
    match truth.chain(shard, seq) {
        None => Err(format!(
            "node {node} takes frame {seq} of shard {shard} for committed, which its leaders do only up to {}",
            truth.end(shard)
        )),
        Some(chain) if chain != frame.header.chain => Err(format!(
            "node {node} has another frame {seq} of shard {shard} than is committed: of epoch {}, not {}",
            frame.header.log_epoch,
            truth.frame(shard, seq).map_or(0, |frame| frame.header.log_epoch.0)
        )),
        Some(_) => Ok(()),
    }
}

/// What a replica can read in the end is what is committed, byte for byte, up to where the shard ends.
pub fn whole(truth: &Truth, node: NodeId, shard: ShardId, end: Seq, read: &[Frame]) -> Result<(), String> {
    let log = truth.log(shard);
    let log = &log[..log.len().min(usize::try_from(end.0).unwrap_or(usize::MAX))];
    if read.len() != log.len() {
        return Err(format!(
            "node {node} holds {} frames of shard {shard}, and {} are committed",
            read.len(),
            log.len()
        ));
    }
    match read.iter().zip(log).find(|(read, frame)| read.to_bytes() != frame.to_bytes()) {
        None => Ok(()),
        Some((read, _)) => {
            Err(format!("node {node} holds other bytes in frame {} of shard {shard}", read.header.seq))
        }
    }
}
