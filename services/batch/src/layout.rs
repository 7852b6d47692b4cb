//! The bytes of a RecordBatch v2, as in Kafka's documentation, "Message Format"
//! (<https://kafka.apache.org/documentation/#recordbatch>). All integers are big-endian.
//!
//! | at | bytes | field | what Meridian asks of it |
//! | --- | --- | --- | --- |
//! | 0 | 8 | baseOffset, i64 | not negative; written by the leader at append |
//! | 8 | 4 | batchLength, i32 | the bytes that follow this field, exactly |
//! | 12 | 4 | partitionLeaderEpoch, i32 | any; written by the leader at append |
//! | 16 | 1 | magic, i8 | 2 |
//! | 17 | 4 | crc, u32 | CRC-32C of everything from 21 to the end |
//! | 21 | 2 | attributes, i16 | bits 0–2 the codec; all others 0 |
//! | 23 | 4 | lastOffsetDelta, i32 | recordsCount − 1 |
//! | 27 | 8 | baseTimestamp, i64 | milliseconds since 1970, what the records' deltas count from |
//! | 35 | 8 | maxTimestamp, i64 | the latest of the records' timestamps |
//! | 43 | 8 | producerId, i64 | this, the epoch and the sequence: all −1, or all ≥ 0 |
//! | 51 | 2 | producerEpoch, i16 | |
//! | 53 | 4 | baseSequence, i32 | |
//! | 57 | 4 | recordsCount, i32 | at least 1 |
//! | 61 | … | records | compressed as one stream if the codec says so |
//!
//! Attributes: bits 0–2 codec (0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd), bit 3 timestamp type (1: log append time),
//! bit 4 transactional, bit 5 control, bit 6 delete horizon, 7–15 unused.
//!
//! The CRC leaves out the first 21 bytes so that a broker can set the offset and the epoch without touching the rest.
//!
//! A record. `varint` and `varlong` are zigzag LEB128 of 32 and 64 bits; a length of −1 means null:
//!
//! | field | type | what Meridian asks of it |
//! | --- | --- | --- |
//! | length | varint | the bytes that follow it, exactly |
//! | attributes | i8 | 0 |
//! | timestampDelta | varlong | baseTimestamp + delta is between 0 and [`MAX_TIMESTAMP`](crate::MAX_TIMESTAMP) |
//! | offsetDelta | varint | 0, 1, 2, … in order |
//! | keyLength, key | varint, bytes | null is allowed |
//! | valueLength, value | varint, bytes | null is allowed |
//! | headersCount | varint | not negative |
//! | then for each header: headerKeyLength, headerKey | varint, UTF-8 | null is not allowed |
//! | headerValueLength, headerValue | varint, bytes | null is allowed |

/// The bytes before the first record.
pub const HEADER_BYTES: usize = 61;
/// The only magic byte there is.
pub const MAGIC_V2: u8 = 2;

/// Where baseOffset is.
pub const BASE_OFFSET: usize = 0;
/// Where batchLength is.
pub const BATCH_LENGTH: usize = 8;
/// Where partitionLeaderEpoch is: also the first byte that batchLength counts.
pub const LEADER_EPOCH: usize = 12;
/// Where magic is.
pub const MAGIC: usize = 16;
/// Where crc is.
pub const CRC: usize = 17;
/// Where attributes is: also the first byte that the crc covers.
pub const ATTRIBUTES: usize = 21;
/// Where lastOffsetDelta is.
pub const LAST_OFFSET_DELTA: usize = 23;
/// Where baseTimestamp is.
pub const BASE_TIMESTAMP: usize = 27;
/// Where maxTimestamp is.
pub const MAX_TIMESTAMP: usize = 35;
/// Where producerId is.
pub const PRODUCER_ID: usize = 43;
/// Where producerEpoch is.
pub const PRODUCER_EPOCH: usize = 51;
/// Where baseSequence is.
pub const BASE_SEQUENCE: usize = 53;
/// Where recordsCount is.
pub const RECORDS_COUNT: usize = 57;

/// The bits of attributes that name the codec.
pub const CODEC_MASK: i16 = 0b111;
/// The bit of attributes that says that timestamps are the broker's.
pub const LOG_APPEND_TIME: i16 = 1 << 3;
/// The bit of attributes that says that the batch is part of a transaction.
pub const TRANSACTIONAL: i16 = 1 << 4;
/// The bit of attributes that says that the records are markers and not events.
pub const CONTROL: i16 = 1 << 5;
