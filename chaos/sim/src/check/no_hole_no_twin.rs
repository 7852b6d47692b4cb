//! Law 5: in the committed log each frame follows the one before, each lane's offsets are contiguous, and each batch of
//! an idempotent producer is there once, in its order.

use std::collections::BTreeMap;

use meridian_batch::BatchView;
use meridian_storage::{Chain, Frame, FrameKind};
use meridian_types::{Lane, NodeId, Offset, ProducerEpoch, ProducerId, Seq, ShardId};

/// How far each log, lane and producer is.
#[derive(Debug, Default)]
pub struct NoHoleNoTwin {
    ends: BTreeMap<ShardId, (Seq, Chain)>,
    lanes: BTreeMap<Lane, Offset>,
    producers: BTreeMap<(Lane, ProducerId), (ProducerEpoch, i32)>,
}

impl NoHoleNoTwin {
    /// Any replica, wherever it is, appends `frame` after `before`.
    pub fn appended(node: NodeId, before: Option<&Frame>, frame: &Frame) -> Result<(), String> {
        let (last, chain) =
            before.map_or((Seq::ZERO, Chain::GENESIS), |frame| (frame.header.seq, frame.header.chain));
        if frame.header.seq == last.next() && frame.follows(chain) {
            return Ok(());
        }
        let (seq, shard) = (frame.header.seq, frame.header.shard_id());
        Err(format!(
            "node {node} appends frame {seq} of shard {shard} after frame {last}, which it does not follow"
        ))
    }

    /// The next frame is committed.
    pub fn committed(&mut self, frame: &Frame) -> Result<(), String> {
        let header = &frame.header;
        let shard = header.shard_id();
        let (last, chain) = self.ends.entry(shard).or_insert((Seq::ZERO, Chain::GENESIS));
        if header.seq != last.next() || !frame.follows(*chain) {
            return Err(format!("frame {} of shard {shard} does not follow frame {last}", header.seq));
        }
        (*last, *chain) = (header.seq, header.chain);
        if header.kind != FrameKind::Events {
            return Ok(());
        }
        let lane = header.lane();
        let next = self.lanes.entry(lane).or_default();
        if header.base_offset != *next {
            return Err(format!("lane {lane} goes on at {} after {next}", header.base_offset));
        }
        *next = header.next_offset();
        let view =
            BatchView::new(&frame.payload).map_err(|error| format!("frame {}: {error}", header.seq))?;
        if !view.producer_id().is_some() {
            return Ok(());
        }
        let (id, epoch, first) = (view.producer_id(), view.producer_epoch(), view.base_sequence());
        // A later incarnation goes on where the one before ended; `incarnations.rs` looks at both.
        let begins_at = if lane.origin.incarnation.0 > 1 { first } else { 0 };
        let known = self.producers.entry((lane, id)).or_insert((epoch, begins_at));
        if epoch < known.0 {
            return Err(format!("producer {id} of epoch {epoch} writes to {lane} after epoch {}", known.0));
        }
        if epoch > known.0 {
            *known = (epoch, 0);
        }
        if first != known.1 {
            return Err(format!(
                "producer {id} in epoch {epoch} has sequence {first} in {lane}, where {} comes next: a hole or a twin",
                known.1
            ));
        }
        known.1 = first + i32::try_from(header.events).unwrap_or(0);
        Ok(())
    }
}
