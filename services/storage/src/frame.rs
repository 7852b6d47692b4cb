//! The frame: the unit of a shard's log, the same bytes in every copy.
//!
//! In: fields and a payload, or bytes from a disk or a wire. Out: bytes, or a frame whose two CRCs have been checked.
//! Must never hold anything that is local to one volume, and never panic on bytes.
//!
//! The header, little endian, [`FRAME_HEADER_BYTES`] bytes; the payload follows at once:
//!
//! | at | bytes | field |
//! | --- | --- | --- |
//! | 0 | 1 | kind ([`FrameKind`]); 0x80 and above are volume records ([`crate::record`]), never frames |
//! | 1 | 1 | version: 1 |
//! | 2 | 2 | shard number |
//! | 4 | 4 | origin: region in the high 16 bits, incarnation in the low |
//! | 8 | 8 | seq |
//! | 16 | 4 | log epoch |
//! | 20 | 4 | event count |
//! | 24 | 8 | hlc |
//! | 32 | 8 | stream |
//! | 40 | 8 | base offset |
//! | 48 | 4 | tenant |
//! | 52 | 4 | partition |
//! | 56 | 4 | payload length |
//! | 60 | 4 | crc32c of the payload |
//! | 64 | 16 | chain: xxh3-128 over (the previous frame's chain ‖ bytes 0..64 of this header), little endian |
//! | 80 | 4 | reserved: zero |
//! | 84 | 4 | crc32c of bytes 0..84 |

use bytes::{Bytes, BytesMut};
use meridian_types::{
    Hlc, Lane, LogEpoch, Offset, Origin, Partition, Seq, ShardId, ShardNo, StreamId, TenantId,
};
use xxhash_rust::xxh3::Xxh3;

/// The length of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 88;
/// The longest payload: a batch at its limit, with room for what else becomes a frame.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The version that this build writes, and the only one that it reads.
pub const FRAME_VERSION: u8 = 1;

/// What the chain and the header CRC cover.
const CHAINED: usize = 64;
const CRC_AT: usize = FRAME_HEADER_BYTES - 4;

/// What a frame's payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A batch of events, as it was published.
    Events = 1,
    /// A leadership begins. Empty.
    EpochStart = 2,
    /// A group's positions.
    CursorCommit = 3,
    /// A queue's acknowledgements.
    Acks = 4,
    /// What tenants have used.
    Usage = 5,
    /// Moves an idle shard's hlc on.
    Tick = 6,
    /// The set of origins of the global order changes.
    Members = 7,
    /// A slice of the log's state, restated.
    Checkpoint = 8,
}

impl FrameKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Events,
        Self::EpochStart,
        Self::CursorCommit,
        Self::Acks,
        Self::Usage,
        Self::Tick,
        Self::Members,
        Self::Checkpoint,
    ];
}

impl TryFrom<u8> for FrameKind {
    type Error = FrameError;

    fn try_from(value: u8) -> Result<Self, FrameError> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == value).ok_or(FrameError::Kind(value))
    }
}

/// A hash over every header of a shard's log up to a frame: equal chains mean equal logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Chain(pub [u8; 16]);

impl Chain {
    /// Before the first frame.
    pub const GENESIS: Self = Self([0; 16]);
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The bytes end inside the frame.
    #[error("the frame is cut off: {have} bytes of {need}")]
    Short {
        /// Bytes at hand.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// More bytes than the frame has.
    #[error("{0} bytes follow the frame")]
    Trailing(usize),
    /// The header's CRC does not fit: the bytes are damaged, or no frame begins here.
    #[error("the frame's header fails its CRC")]
    HeaderCrc,
    /// The payload's CRC does not fit: the bytes are damaged.
    #[error("the frame's payload fails its CRC")]
    PayloadCrc,
    /// Written by a newer version of Meridian.
    #[error("frame version {0} is not known to this build: upgrade it")]
    Version(u8),
    /// Written by a newer version of Meridian.
    #[error("frame kind {0} is not known to this build: upgrade it")]
    Kind(u8),
    /// The payload is longer than any frame's may be.
    #[error("a payload of {0} bytes is over the limit of {max}", max = FRAME_PAYLOAD_BYTES_MAX)]
    TooLong(u32),
    /// A reserved field is not zero: written by a newer version of Meridian.
    #[error("a reserved field of the frame is in use: upgrade this build")]
    Reserved,
}

/// A frame's header. See the module for the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the payload is.
    pub kind: FrameKind,
    /// Who appends to this log.
    pub origin: Origin,
    /// Which of the origin's shards.
    pub shard: ShardNo,
    /// The position in the shard's log.
    pub seq: Seq,
    /// The leadership that appended it.
    pub log_epoch: LogEpoch,
    /// When, rising within the shard.
    pub hlc: Hlc,
    /// Whose stream it is; 0 for frames of no stream.
    pub tenant: TenantId,
    /// The stream; 0 for frames of no stream.
    pub stream: StreamId,
    /// The stream's partition.
    pub partition: Partition,
    /// The offset of the first event.
    pub base_offset: Offset,
    /// How many events; 0 for other kinds than events.
    pub events: u32,
    /// The payload's length in bytes.
    pub payload_len: u32,
    /// The payload's crc32c.
    pub payload_crc: u32,
    /// The log's chain through this frame.
    pub chain: Chain,
}

impl FrameHeader {
    /// The shard whose log this is of.
    pub fn shard_id(&self) -> ShardId {
        ShardId { origin: self.origin, no: self.shard }
    }

    /// The lane that an Events frame belongs to.
    pub fn lane(&self) -> Lane {
        Lane { stream: self.stream, partition: self.partition, origin: self.origin }
    }

    /// The offset after this frame's last event.
    pub fn next_offset(&self) -> Offset {
        Offset(self.base_offset.0.saturating_add(u64::from(self.events)))
    }

    /// The length of the whole frame, header and payload.
    pub fn frame_len(&self) -> usize {
        FRAME_HEADER_BYTES + self.payload_len as usize
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut out = [0u8; FRAME_HEADER_BYTES];
        out[..CHAINED].copy_from_slice(&self.chained());
        out[64..80].copy_from_slice(&self.chain.0);
        let crc = crc32c::crc32c(&out[..CRC_AT]);
        out[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header from the start of `bytes`; what follows it is not looked at.
    ///
    /// # Errors
    /// Cut off, damaged, or of a newer version.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let Some(b) = bytes.first_chunk::<FRAME_HEADER_BYTES>() else {
            return Err(FrameError::Short { have: bytes.len(), need: FRAME_HEADER_BYTES });
        };
        if crc32c::crc32c(&b[..CRC_AT]) != u32_at(b, CRC_AT) {
            return Err(FrameError::HeaderCrc);
        }
        if b[1] != FRAME_VERSION {
            return Err(FrameError::Version(b[1]));
        }
        let kind = FrameKind::try_from(b[0])?;
        if u32_at(b, 80) != 0 {
            return Err(FrameError::Reserved);
        }
        let payload_len = u32_at(b, 56);
        if payload_len as usize > FRAME_PAYLOAD_BYTES_MAX {
            return Err(FrameError::TooLong(payload_len));
        }
        let mut chain = [0u8; 16];
        chain.copy_from_slice(&b[64..80]);
        Ok(Self {
            kind,
            origin: Origin::from_u32(u32_at(b, 4)),
            shard: ShardNo(u16::from_le_bytes([b[2], b[3]])),
            seq: Seq(u64_at(b, 8)),
            log_epoch: LogEpoch(u32_at(b, 16)),
            hlc: Hlc(u64_at(b, 24)),
            tenant: TenantId(u32_at(b, 48)),
            stream: StreamId(u64_at(b, 32)),
            partition: Partition(u32_at(b, 52)),
            base_offset: Offset(u64_at(b, 40)),
            events: u32_at(b, 20),
            payload_len,
            payload_crc: u32_at(b, 60),
            chain: Chain(chain),
        })
    }

    /// Whether this header's chain follows from the one of the frame before it.
    pub fn follows(&self, prev: Chain) -> bool {
        self.chain_after(prev) == self.chain
    }

    fn chain_after(&self, prev: Chain) -> Chain {
        let mut hash = Xxh3::new();
        hash.update(&prev.0);
        hash.update(&self.chained());
        Chain(hash.digest128().to_le_bytes())
    }

    /// Bytes 0..64: all of the header but the chain and what comes after it.
    fn chained(&self) -> [u8; CHAINED] {
        let mut out = [0u8; CHAINED];
        out[0] = self.kind as u8;
        out[1] = FRAME_VERSION;
        out[2..4].copy_from_slice(&self.shard.0.to_le_bytes());
        out[4..8].copy_from_slice(&self.origin.to_u32().to_le_bytes());
        out[8..16].copy_from_slice(&self.seq.0.to_le_bytes());
        out[16..20].copy_from_slice(&self.log_epoch.0.to_le_bytes());
        out[20..24].copy_from_slice(&self.events.to_le_bytes());
        out[24..32].copy_from_slice(&self.hlc.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.stream.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.base_offset.0.to_le_bytes());
        out[48..52].copy_from_slice(&self.tenant.0.to_le_bytes());
        out[52..56].copy_from_slice(&self.partition.0.to_le_bytes());
        out[56..60].copy_from_slice(&self.payload_len.to_le_bytes());
        out[60..64].copy_from_slice(&self.payload_crc.to_le_bytes());
        out
    }
}

/// A header and its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The header.
    pub header: FrameHeader,
    /// The payload.
    pub payload: Bytes,
}

impl Frame {
    /// Makes the frame that follows one whose chain is `prev`. `payload_len`, `payload_crc` and `chain` of `fields` are
    /// ignored and computed.
    ///
    /// # Panics
    /// If the payload is over [`FRAME_PAYLOAD_BYTES_MAX`]: the gateway refuses such batches long before.
    pub fn build(fields: FrameHeader, prev: Chain, payload: Bytes) -> Self {
        assert!(payload.len() <= FRAME_PAYLOAD_BYTES_MAX, "a payload of {} bytes", payload.len());
        let mut header = fields;
        header.payload_len = payload.len() as u32;
        header.payload_crc = crc32c::crc32c(&payload);
        header.chain = header.chain_after(prev);
        Self { header, payload }
    }

    /// Reads exactly one frame and checks both CRCs. The payload is a slice of `bytes`, not a copy.
    ///
    /// # Errors
    /// Cut off, too long, damaged, or of a newer version.
    pub fn parse(bytes: Bytes) -> Result<Self, FrameError> {
        let header = FrameHeader::decode(&bytes)?;
        let (have, need) = (bytes.len(), header.frame_len());
        if have < need {
            return Err(FrameError::Short { have, need });
        }
        if have > need {
            return Err(FrameError::Trailing(have - need));
        }
        let payload = bytes.slice(FRAME_HEADER_BYTES..);
        if crc32c::crc32c(&payload) != header.payload_crc {
            return Err(FrameError::PayloadCrc);
        }
        Ok(Self { header, payload })
    }

    /// Whether this frame follows one whose chain is `prev`.
    pub fn follows(&self, prev: Chain) -> bool {
        self.header.follows(prev)
    }

    /// The length of header and payload.
    pub fn encoded_len(&self) -> usize {
        FRAME_HEADER_BYTES + self.payload.len()
    }

    /// Appends header and payload to `out`.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.header.encode());
        out.extend_from_slice(&self.payload);
    }

    /// Header and payload as one piece.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_len());
        out.extend_from_slice(&self.header.encode());
        out.extend_from_slice(&self.payload);
        out.freeze()
    }
}

// Callers pass arrays and constant positions inside them.
fn u32_at(bytes: &[u8; FRAME_HEADER_BYTES], at: usize) -> u32 {
    let mut out = [0u8; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}

fn u64_at(bytes: &[u8; FRAME_HEADER_BYTES], at: usize) -> u64 {
    let mut out = [0u8; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}
