//! Fault 22: what anybody who is left had applied of an incarnation that is over stays, and what the next incarnation was told
//! of is not stored a second time.

use std::collections::BTreeMap;

use meridian_batch::{BatchView, Producer};
use meridian_storage::FrameKind;
use meridian_types::{Partition, ProducerEpoch, ProducerId, RegionId, Seq, ShardId};

use super::truth::Truth;

/// Once all is well: a survivor had applied `kept`, and everybody has the shard up to `end`.
pub fn survives(shard: ShardId, kept: Seq, end: Seq) -> Result<(), String> {
    if end >= kept {
        return Ok(());
    }
    Err(format!("shard {shard} ends at {end} in every region, and a survivor had applied it up to {kept}"))
}

/// A batch of an idempotent producer.
type Batch = (RegionId, Partition, ProducerId, ProducerEpoch, i32);

/// Of each shard, by rising incarnations: how far it goes, and how far whoever answered had it when its incarnation ended.
pub fn no_twin(truth: &Truth, logs: &[(ShardId, Seq, Seq)]) -> Result<(), String> {
    let mut seen: BTreeMap<Batch, (ShardId, Seq)> = BTreeMap::new();
    for (shard, end, told) in logs {
        let log = truth.log(*shard).iter().take(usize::try_from(end.0).unwrap_or(usize::MAX));
        for frame in log.filter(|frame| frame.header.kind == FrameKind::Events) {
            let header = &frame.header;
            let Ok(view) = BatchView::new(&frame.payload) else { continue };
            if !view.producer_id().is_some() {
                continue;
            }
            let (id, epoch, first) = (view.producer_id(), view.producer_epoch(), view.base_sequence());
            let batch = (shard.origin.region, header.partition, id, epoch, first);
            if let Some((before, seq)) = seen.get(&batch).filter(|(before, _)| before.origin != shard.origin)
            {
                return Err(format!(
                    "the batch of producer {id} in epoch {epoch} with sequence {first} is frame {seq} of shard {before}, and frame {} of shard {shard}: a twin",
                    header.seq
                ));
            }
            if header.seq <= *told {
                seen.insert(batch, (*shard, header.seq));
            }
        }
    }
    Ok(())
}

/// A producer is told that what it sends does not follow what is known of it, and begins anew. Where the batch is among what the
/// incarnation was told of, it is known.
pub fn unknown(truth: &Truth, shard: ShardId, told: Seq, producer: Producer) -> Result<(), String> {
    let log = truth.log(shard).iter().take(usize::try_from(told.0).unwrap_or(usize::MAX));
    for frame in log.filter(|frame| frame.header.kind == FrameKind::Events) {
        let Ok(view) = BatchView::new(&frame.payload) else { continue };
        if (view.producer_id(), view.producer_epoch()) == (producer.id, producer.epoch)
            && view.base_sequence() == producer.sequence.get()
        {
            let Producer { id, epoch, sequence } = producer;
            return Err(format!(
                "producer {id} in epoch {epoch} is not known by sequence {}, and frame {} of shard {shard} has it: sent anew it is a twin",
                sequence.get(),
                frame.header.seq
            ));
        }
    }
    Ok(())
}
