//! What is wrong with a batch.

use crate::{Codec, MAX_TIMESTAMP};

/// Why bytes are not a batch that Meridian takes, or why one cannot be made. Events are counted from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Too short for a header.
    #[error("batch is cut short: {bytes} bytes, but its header alone takes 61")]
    CutShort {
        /// How many bytes there are.
        bytes: usize,
    },
    /// Cut short, or more than one batch.
    #[error("batchLength says {declared} but {actual} bytes follow it; send exactly one whole batch")]
    Length {
        /// What batchLength says.
        declared: i32,
        /// What follows it.
        actual: usize,
    },
    /// Too many bytes as it is sent.
    #[error("batch has {bytes} bytes; at most {limit} are allowed: send smaller batches")]
    TooLarge {
        /// How many bytes there are, or would be.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Another format.
    #[error(
        "batch has magic {0}; only RecordBatch v2 (magic 2) is taken: use a client of Kafka 0.11 or later"
    )]
    Magic(i8),
    /// Changed since it was made.
    #[error(
        "batch is damaged: its CRC-32C says {stored:#010x}, its bytes give {computed:#010x}; send it again"
    )]
    Crc {
        /// What the header says.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// A codec that there is not.
    #[error("batch names codec {0}; known are none, gzip, snappy, lz4 and zstd (0 to 4)")]
    UnknownCodec(u8),
    /// The producer calls its timestamps the log's.
    #[error("batch claims log append time; a producer sets the time of creation")]
    LogAppendTime,
    /// Part of a transaction.
    #[error("batch is transactional; transactions are not supported: produce without a transactional id")]
    Transactional,
    /// A transaction marker.
    #[error("batch is a control batch; only events can be published")]
    Control,
    /// Bits that mean nothing here.
    #[error("batch has unknown attribute bits: {0:#06x}")]
    UnknownAttributes(i16),
    /// An offset that there is not.
    #[error("baseOffset {0} is no offset; producers send 0")]
    BaseOffset(i64),
    /// Half an idempotent producer.
    #[error(
        "producer id {id}, epoch {epoch} and sequence {sequence} do not agree: all are -1, or none is negative"
    )]
    Producer {
        /// producerId.
        id: i64,
        /// producerEpoch.
        epoch: i16,
        /// baseSequence.
        sequence: i32,
    },
    /// No events.
    #[error("batch holds no events (its count is {0}); it needs at least one")]
    Empty(i32),
    /// Too many events.
    #[error("batch holds {events} events; at most {limit} are allowed: send smaller batches")]
    TooManyEvents {
        /// How many it claims, or would hold.
        events: usize,
        /// The limit.
        limit: usize,
    },
    /// The header contradicts itself.
    #[error("lastOffsetDelta is {delta}, but with {events} events it must be one less than that")]
    LastOffsetDelta {
        /// What the header says.
        delta: i32,
        /// What the header says about the count.
        events: u32,
    },
    /// baseTimestamp is no time.
    #[error("baseTimestamp {0} is not a time in milliseconds since 1970 (0 to {MAX_TIMESTAMP})")]
    BaseTimestamp(i64),
    /// The header contradicts the events. Kafka's broker would rewrite it; here no one touches a byte under the CRC.
    #[error("maxTimestamp is {stored}, but the latest event has {computed}")]
    MaxTimestamp {
        /// What the header says.
        stored: i64,
        /// The latest of the events.
        computed: i64,
    },
    /// Not what the codec writes.
    #[error("records are not valid {codec}: {reason}")]
    Decompress {
        /// The codec.
        codec: Codec,
        /// What its decoder says.
        reason: String,
    },
    /// Something after the compressed stream.
    #[error("{bytes} bytes follow the end of the {codec} stream; a batch holds exactly one")]
    CompressedTail {
        /// The codec.
        codec: Codec,
        /// How many bytes.
        bytes: usize,
    },
    /// A decompression bomb, or simply too much.
    #[error("records decompress to more than {limit} bytes; send smaller batches")]
    Uncompressed {
        /// The limit.
        limit: usize,
    },
    /// A record that lies about itself.
    #[error("event {index}: {fault}")]
    Record {
        /// Which event.
        index: u32,
        /// What is wrong with it.
        fault: RecordFault,
    },
    /// More after the last record.
    #[error("{bytes} bytes follow the last of the {events} events that the header counts")]
    RecordsTail {
        /// How many bytes.
        bytes: usize,
        /// The count.
        events: u32,
    },
    /// Too large an event.
    #[error("event {index} has {bytes} bytes of key, value and headers; at most {limit} are allowed")]
    EventTooLarge {
        /// Which event.
        index: u32,
        /// How many bytes.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Too many headers.
    #[error("event {index} has {headers} headers; at most {limit} are allowed")]
    TooManyHeaders {
        /// Which event.
        index: u32,
        /// How many.
        headers: usize,
        /// The limit.
        limit: usize,
    },
    /// The codec's encoder failed: out of memory.
    #[error("{codec} could not compress the batch: {reason}")]
    Compress {
        /// The codec.
        codec: Codec,
        /// What its encoder says.
        reason: String,
    },
}

impl BatchError {
    /// Whether it was a builder that is full: build it, and push the event to a new one.
    pub const fn is_full(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::Uncompressed { .. } | Self::TooManyEvents { .. })
    }
}

/// What is wrong with one record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// It ends within a field.
    #[error("cut short in its {0}")]
    CutShort(&'static str),
    /// A variable-length integer that does not end, or does not fit.
    #[error("the {0} is a variable-length integer that overflows")]
    Varint(&'static str),
    /// A length or count below what its field allows.
    #[error("the {field} is {length}")]
    Negative {
        /// Which length or count.
        field: &'static str,
        /// What it says.
        length: i32,
    },
    /// A length that reaches past the end of the record, or of the batch.
    #[error("the {field} is {length}, but only {left} bytes are left")]
    Beyond {
        /// Which length.
        field: &'static str,
        /// What it says.
        length: usize,
        /// What is left.
        left: usize,
    },
    /// Bytes after its last field.
    #[error("{0} bytes are left after its last field")]
    Tail(usize),
    /// Attributes, of which Kafka has defined none.
    #[error("unknown record attributes {0:#04x}")]
    Attributes(u8),
    /// Not in its place.
    #[error("its offset delta is {0}; deltas count up from 0")]
    OffsetDelta(i32),
    /// No text.
    #[error("a header's key is not UTF-8")]
    HeaderKey,
    /// No time.
    #[error("its timestamp {0} is not a time in milliseconds since 1970 (0 to {MAX_TIMESTAMP})")]
    Timestamp(i128),
}
