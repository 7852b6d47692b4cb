//! Events to batches.

use bytes::{BufMut, Bytes};
use meridian_types::{Offset, ProducerEpoch, ProducerId};

use crate::compress::compress_after;
use crate::layout::{self, HEADER_BYTES, MAGIC_V2};
use crate::{BatchError, Codec, Event, Limits, MAX_TIMESTAMP, Producer, RecordFault, varint};

/// Makes one batch that [`validate`](crate::validate) takes under the same limits.
///
/// Events are encoded as they are pushed, so [`BatchBuilder::bytes`] is always exact, and an event that does not fit
/// leaves the builder as it was.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    codec: Codec,
    limits: Limits,
    producer: Option<Producer>,
    /// Room for the header, then the records, not compressed.
    buffer: Vec<u8>,
    events: u32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl BatchBuilder {
    /// An empty batch, under the limits of the interface.
    pub fn new(codec: Codec) -> Self {
        Self {
            codec,
            limits: Limits::DEFAULT,
            producer: None,
            buffer: vec![0; HEADER_BYTES],
            events: 0,
            base_timestamp: 0,
            max_timestamp: 0,
        }
    }

    /// Under other limits, or those of the format where they are lower: its lengths and counts are 31 bits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        const FORMAT: usize = i32::MAX as usize;
        let (batch_bytes, events) = (limits.batch_bytes.min(FORMAT), limits.events.min(FORMAT));
        self.limits = Limits { batch_bytes, events, ..limits };
        self
    }

    /// Of an idempotent producer.
    #[must_use]
    pub fn with_producer(mut self, producer: Producer) -> Self {
        self.producer = Some(producer);
        self
    }

    /// With room for `bytes` of events: what is known to come is not moved as the batch grows, and no more is held than
    /// it takes.
    #[must_use]
    pub fn with_room_for(mut self, bytes: usize) -> Self {
        self.buffer.reserve(bytes.min(self.limits.uncompressed_bytes));
        self
    }

    /// Goes on in another buffer, with the room that it has.
    pub fn move_into(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        buffer.extend_from_slice(&self.buffer);
        self.buffer = buffer;
    }

    /// How many events were pushed.
    pub fn events(&self) -> u32 {
        self.events
    }

    /// Whether nothing was pushed yet.
    pub fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// The size of the batch, in bytes; no codec makes it larger.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Adds an event.
    ///
    /// # Errors
    /// If the event is over a limit by itself; or if it has no room here, which [`BatchError::is_full`] tells apart:
    /// then build this batch and push the event to a new one. If that one is still empty, the event is too large.
    pub fn push(&mut self, event: &Event) -> Result<(), BatchError> {
        let index = self.events;
        let timestamp = i64::try_from(event.timestamp.0).ok().filter(|time| *time <= MAX_TIMESTAMP).ok_or(
            BatchError::Record { index, fault: RecordFault::Timestamp(i128::from(event.timestamp.0)) },
        )?;
        if event.headers.len() > self.limits.event_headers {
            let (headers, limit) = (event.headers.len(), self.limits.event_headers);
            return Err(BatchError::TooManyHeaders { index, headers, limit });
        }
        if event.bytes() > self.limits.event_bytes {
            let (bytes, limit) = (event.bytes(), self.limits.event_bytes);
            return Err(BatchError::EventTooLarge { index, bytes, limit });
        }
        if index as usize >= self.limits.events {
            return Err(BatchError::TooManyEvents { events: index as usize + 1, limit: self.limits.events });
        }
        // As in Kafka's client, deltas count from the first event.
        let base_timestamp = if index == 0 { timestamp } else { self.base_timestamp };
        let timestamp_delta = timestamp - base_timestamp;
        let body = body_bytes(event, timestamp_delta, index);
        let bytes = self.buffer.len() + varint::size(body as i64) + body;
        if bytes > self.limits.batch_bytes {
            return Err(BatchError::TooLarge { bytes, limit: self.limits.batch_bytes });
        }
        if bytes - HEADER_BYTES > self.limits.uncompressed_bytes {
            return Err(BatchError::Uncompressed { limit: self.limits.uncompressed_bytes });
        }

        self.buffer.reserve(bytes - self.buffer.len());
        varint::write(&mut self.buffer, body as i64);
        write_body(&mut self.buffer, event, timestamp_delta, index);
        debug_assert_eq!(self.buffer.len(), bytes, "what was measured is what was written");
        self.base_timestamp = base_timestamp;
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.events += 1;
        Ok(())
    }

    /// The batch, with offset 0 and epoch 0 until a leader [stamps](crate::stamp) it. Records that its codec would make
    /// smaller by less than a sixteenth, which is not worth what all readers spend on it, are left as they are, and the
    /// batch says so. Of many records a sample decides, so that those which do not compress cost next to nothing.
    ///
    /// # Errors
    /// [`BatchError::Empty`], [`BatchError::Producer`] if the producer's id or epoch is negative, or
    /// [`BatchError::Compress`] if the codec is out of memory.
    pub fn build(mut self) -> Result<Bytes, BatchError> {
        if self.is_empty() {
            return Err(BatchError::Empty(0));
        }
        if let Some(Producer { id, epoch, sequence }) = self.producer
            && (id.0 < 0 || epoch.0 < 0)
        {
            return Err(BatchError::Producer { id: id.0, epoch: epoch.0, sequence: sequence.get() });
        }
        match compress_after(HEADER_BYTES, self.codec, &self.buffer[HEADER_BYTES..])? {
            Some(compressed) => self.buffer = compressed,
            None => self.codec = Codec::None,
        }
        let header = self.header();
        self.buffer[..HEADER_BYTES].copy_from_slice(&header);
        let crc = crc32c::crc32c(&self.buffer[layout::ATTRIBUTES..]);
        self.buffer[layout::CRC..layout::CRC + 4].copy_from_slice(&crc.to_be_bytes());
        Ok(self.buffer.into())
    }

    /// The header of what is in the buffer, without its CRC.
    fn header(&self) -> [u8; HEADER_BYTES] {
        let (id, epoch, sequence) = match self.producer {
            Some(producer) => (producer.id, producer.epoch, producer.sequence.get()),
            None => (ProducerId::NONE, ProducerEpoch(-1), -1),
        };
        let mut header = [0; HEADER_BYTES];
        let mut to = &mut header[..];
        to.put_u64(Offset::ZERO.0);
        // The limits keep both far below 2³¹.
        to.put_i32((self.buffer.len() - layout::LEADER_EPOCH) as i32);
        to.put_u32(0);
        to.put_u8(MAGIC_V2);
        to.put_u32(0);
        to.put_i16(i16::from(self.codec.id()));
        to.put_i32(self.events as i32 - 1);
        to.put_i64(self.base_timestamp);
        to.put_i64(self.max_timestamp);
        to.put_i64(id.0);
        to.put_i16(epoch.0);
        to.put_i32(sequence);
        to.put_i32(self.events as i32);
        header
    }
}

fn nullable_bytes(part: Option<&Bytes>) -> usize {
    part.map_or(varint::size(-1), |part| varint::size(part.len() as i64) + part.len())
}

fn write_nullable(to: &mut Vec<u8>, part: Option<&Bytes>) {
    match part {
        None => varint::write(to, -1),
        Some(part) => {
            varint::write(to, part.len() as i64);
            to.extend_from_slice(part);
        }
    }
}

/// How many bytes [`write_body`] takes.
fn body_bytes(event: &Event, timestamp_delta: i64, offset_delta: u32) -> usize {
    let headers: usize = event
        .headers
        .iter()
        .map(|h| varint::size(h.key.len() as i64) + h.key.len() + nullable_bytes(h.value.as_ref()))
        .sum();
    1 + varint::size(timestamp_delta)
        + varint::size(i64::from(offset_delta))
        + nullable_bytes(event.key.as_ref())
        + nullable_bytes(event.value.as_ref())
        + varint::size(event.headers.len() as i64)
        + headers
}

/// A record without its length.
fn write_body(to: &mut Vec<u8>, event: &Event, timestamp_delta: i64, offset_delta: u32) {
    to.push(0);
    varint::write(to, timestamp_delta);
    varint::write(to, i64::from(offset_delta));
    write_nullable(to, event.key.as_ref());
    write_nullable(to, event.value.as_ref());
    varint::write(to, event.headers.len() as i64);
    for header in &event.headers {
        varint::write(to, header.key.len() as i64);
        to.extend_from_slice(header.key.as_bytes());
        write_nullable(to, header.value.as_ref());
    }
}
