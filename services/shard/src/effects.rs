//! From a frame's bytes alone to what it does to the index: never a clock, never the catalog.

use meridian_batch::{BatchView, Sequence};
use meridian_storage::index::{FrameEffects, ProducerBatch};
use meridian_storage::{Frame, FrameKind, Place};
use meridian_types::Timestamp;

/// What applying `frame`, which lies at `place`, writes into the index.
pub fn frame_effects(frame: &Frame, place: Place) -> FrameEffects {
    let header = frame.header;
    let none = FrameEffects { header, place, producer: None, max_timestamp: Timestamp(0) };
    if header.kind != FrameKind::Events {
        return none;
    }
    // A batch that is stored was validated; one that cannot be read still keeps its offsets.
    let Ok(view) = BatchView::new(&frame.payload) else { return none };
    let producer =
        Sequence::new(view.base_sequence()).filter(|_| view.producer_id().is_some()).map(|first| {
            ProducerBatch {
                id: view.producer_id(),
                epoch: view.producer_epoch(),
                first_sequence: first.get(),
                last_sequence: first.plus(header.events.saturating_sub(1)).get(),
            }
        });
    let max_timestamp = Timestamp(u64::try_from(view.max_timestamp()).unwrap_or(0));
    FrameEffects { header, place, producer, max_timestamp }
}
