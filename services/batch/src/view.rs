//! The header of a batch, read in place.

use meridian_types::{LogEpoch, Offset, ProducerEpoch, ProducerId};

use crate::layout::{self, HEADER_BYTES, MAGIC_V2};
use crate::{BatchError, Codec, Limits};

/// One batch: its header's fields as they are, and its records as bytes. That the length is exact and the magic right
/// was checked; nothing else was. For that there is [`validate`](crate::validate).
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    header: &'a [u8; HEADER_BYTES],
    bytes: &'a [u8],
}

impl<'a> BatchView<'a> {
    /// Reads bytes that are exactly one batch.
    ///
    /// # Errors
    /// [`BatchError::CutShort`], [`BatchError::Length`] or [`BatchError::Magic`].
    pub fn new(bytes: &'a [u8]) -> Result<Self, BatchError> {
        let header = bytes.first_chunk().ok_or(BatchError::CutShort { bytes: bytes.len() })?;
        let view = Self { header, bytes };
        let (declared, actual) = (view.batch_length(), bytes.len() - layout::LEADER_EPOCH);
        if usize::try_from(declared) != Ok(actual) {
            return Err(BatchError::Length { declared, actual });
        }
        if view.magic() != MAGIC_V2 {
            return Err(BatchError::Magic(view.magic() as i8));
        }
        Ok(view)
    }

    fn at<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut field = [0; N];
        field.copy_from_slice(&self.header[at..at + N]);
        field
    }

    /// baseOffset, the offset of the first event. Negative ones, which [`validate`](crate::validate) refuses, come
    /// out above 2⁶³.
    pub fn base_offset(&self) -> Offset {
        Offset(u64::from_be_bytes(self.at(layout::BASE_OFFSET)))
    }

    /// batchLength: what follows it, in bytes.
    pub fn batch_length(&self) -> i32 {
        i32::from_be_bytes(self.at(layout::BATCH_LENGTH))
    }

    /// partitionLeaderEpoch.
    pub fn partition_leader_epoch(&self) -> LogEpoch {
        LogEpoch(u32::from_be_bytes(self.at(layout::LEADER_EPOCH)))
    }

    /// magic.
    pub fn magic(&self) -> u8 {
        self.header[layout::MAGIC]
    }

    /// crc, as the header says it.
    pub fn crc(&self) -> u32 {
        u32::from_be_bytes(self.at(layout::CRC))
    }

    /// The CRC-32C of the bytes that it covers.
    pub fn computed_crc(&self) -> u32 {
        crc32c::crc32c(&self.bytes[layout::ATTRIBUTES..])
    }

    /// attributes, all bits.
    pub fn attributes(&self) -> i16 {
        i16::from_be_bytes(self.at(layout::ATTRIBUTES))
    }

    /// The codec of the records; none if there is no codec with its number.
    pub fn codec(&self) -> Option<Codec> {
        Codec::from_id((self.attributes() & layout::CODEC_MASK) as u8)
    }

    /// Whether timestamps are the log's and not the producer's.
    pub fn is_log_append_time(&self) -> bool {
        self.attributes() & layout::LOG_APPEND_TIME != 0
    }

    /// Whether it is part of a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes() & layout::TRANSACTIONAL != 0
    }

    /// Whether it holds markers and not events.
    pub fn is_control(&self) -> bool {
        self.attributes() & layout::CONTROL != 0
    }

    /// lastOffsetDelta.
    pub fn last_offset_delta(&self) -> i32 {
        i32::from_be_bytes(self.at(layout::LAST_OFFSET_DELTA))
    }

    /// baseTimestamp, in milliseconds since 1970.
    pub fn base_timestamp(&self) -> i64 {
        i64::from_be_bytes(self.at(layout::BASE_TIMESTAMP))
    }

    /// maxTimestamp, in milliseconds since 1970.
    pub fn max_timestamp(&self) -> i64 {
        i64::from_be_bytes(self.at(layout::MAX_TIMESTAMP))
    }

    /// producerId.
    pub fn producer_id(&self) -> ProducerId {
        ProducerId(i64::from_be_bytes(self.at(layout::PRODUCER_ID)))
    }

    /// producerEpoch.
    pub fn producer_epoch(&self) -> ProducerEpoch {
        ProducerEpoch(i16::from_be_bytes(self.at(layout::PRODUCER_EPOCH)))
    }

    /// baseSequence; −1 without an idempotent producer.
    pub fn base_sequence(&self) -> i32 {
        i32::from_be_bytes(self.at(layout::BASE_SEQUENCE))
    }

    /// recordsCount, as the header says it.
    pub fn records_count(&self) -> i32 {
        i32::from_be_bytes(self.at(layout::RECORDS_COUNT))
    }

    /// The records as they are, compressed or not.
    pub fn records(&self) -> &'a [u8] {
        &self.bytes[HEADER_BYTES..]
    }

    /// Checks all that can be checked before the records are decompressed.
    pub(crate) fn check(&self, limits: &Limits) -> Result<Checked, BatchError> {
        if self.bytes.len() > limits.batch_bytes {
            return Err(BatchError::TooLarge { bytes: self.bytes.len(), limit: limits.batch_bytes });
        }
        let (stored, computed) = (self.crc(), self.computed_crc());
        if stored != computed {
            return Err(BatchError::Crc { stored, computed });
        }
        let codec = self.check_attributes()?;
        let count = self.records_count();
        let events = u32::try_from(count).ok().filter(|n| *n > 0).ok_or(BatchError::Empty(count))?;
        if events as usize > limits.events {
            return Err(BatchError::TooManyEvents { events: events as usize, limit: limits.events });
        }
        if self.last_offset_delta() != count - 1 {
            return Err(BatchError::LastOffsetDelta { delta: self.last_offset_delta(), events });
        }
        // The last offset must be one too, or reading it would overflow.
        let base_offset = i64::from_be_bytes(self.at(layout::BASE_OFFSET));
        if base_offset < 0 || base_offset.checked_add(i64::from(count)).is_none() {
            return Err(BatchError::BaseOffset(base_offset));
        }
        if !(0..=crate::MAX_TIMESTAMP).contains(&self.base_timestamp()) {
            return Err(BatchError::BaseTimestamp(self.base_timestamp()));
        }
        Ok(Checked { codec, events })
    }

    fn check_attributes(&self) -> Result<Codec, BatchError> {
        if self.is_control() {
            return Err(BatchError::Control);
        }
        if self.is_transactional() {
            return Err(BatchError::Transactional);
        }
        if self.is_log_append_time() {
            return Err(BatchError::LogAppendTime);
        }
        let unknown = self.attributes() & !layout::CODEC_MASK;
        if unknown != 0 {
            return Err(BatchError::UnknownAttributes(unknown));
        }
        self.codec().ok_or(BatchError::UnknownCodec(self.attributes() as u8))
    }
}

/// What [`BatchView::check`] found.
pub(crate) struct Checked {
    pub(crate) codec: Codec,
    pub(crate) events: u32,
}
