//! The walk that a gateway does before it stores a batch.

use std::borrow::Cow;

use meridian_types::Timestamp;

use crate::decompress::decompress;
use crate::walk::Walk;
use crate::{BatchError, BatchView, Codec, Limits, Producer, Sequence};

/// What a batch holds, every part of it checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchInfo {
    /// How many events; at least one.
    pub events: u32,
    /// Its idempotent producer, if it has one.
    pub producer: Option<Producer>,
    /// The latest timestamp of its events.
    pub max_timestamp: Timestamp,
    /// How its records are compressed.
    pub codec: Codec,
    /// How large its records are when they are not, in bytes.
    pub uncompressed_bytes: usize,
}

/// Checks everything that a batch says about itself: its length, format, CRC, attributes, producer, count, and each
/// record's place, lengths, size and time. Takes at most [`Limits::uncompressed_bytes`] of memory for the records,
/// and as much again inside the decoder.
///
/// maxTimestamp must be the latest of the events' timestamps. Kafka's broker rewrites it if it is not; here nobody
/// touches a byte that the CRC covers, and retention and lookups by time believe it, so a wrong one is refused.
///
/// # Errors
/// [`BatchError`], for the first thing that is wrong.
pub fn validate(bytes: &[u8], limits: &Limits) -> Result<BatchInfo, BatchError> {
    let view = BatchView::new(bytes)?;
    open(&view, limits).map(|(info, _)| info)
}

/// Validates a batch, and keeps its records.
pub(crate) fn open<'a>(
    view: &BatchView<'a>,
    limits: &Limits,
) -> Result<(BatchInfo, Cow<'a, [u8]>), BatchError> {
    let checked = view.check(limits)?;
    let producer = producer(view)?;
    let records = match checked.codec {
        Codec::None if view.records().len() > limits.uncompressed_bytes => {
            return Err(BatchError::Uncompressed { limit: limits.uncompressed_bytes });
        }
        Codec::None => Cow::Borrowed(view.records()),
        codec => Cow::Owned(decompress(codec, view.records(), limits.uncompressed_bytes)?),
    };
    let mut walk = Walk::new(&records, 0, view.base_timestamp());
    let mut latest = 0;
    for _ in 0..checked.events {
        latest = walk.next(limits, |_, _| {})?.timestamp.max(latest);
    }
    if !walk.rest().is_empty() {
        return Err(BatchError::RecordsTail { bytes: walk.rest().len(), events: checked.events });
    }
    if view.max_timestamp() != latest {
        return Err(BatchError::MaxTimestamp { stored: view.max_timestamp(), computed: latest });
    }
    let info = BatchInfo {
        events: checked.events,
        producer,
        max_timestamp: Timestamp(latest.unsigned_abs()),
        codec: checked.codec,
        uncompressed_bytes: records.len(),
    };
    Ok((info, records))
}

fn producer(view: &BatchView<'_>) -> Result<Option<Producer>, BatchError> {
    let (id, epoch, sequence) = (view.producer_id(), view.producer_epoch(), view.base_sequence());
    match (id.0, epoch.0, Sequence::new(sequence)) {
        (-1, -1, None) if sequence == -1 => Ok(None),
        (0.., 0.., Some(sequence)) => Ok(Some(Producer { id, epoch, sequence })),
        _ => Err(BatchError::Producer { id: id.0, epoch: epoch.0, sequence }),
    }
}
