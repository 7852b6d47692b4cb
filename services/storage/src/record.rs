//! Volume records: what a volume knows for itself, in rounds beside frames, never replicated.
//!
//! In: promises, cuts, frames out of order, doubts and applied marks. Out: [`RECORD_BYTES`] bytes each, with a CRC of their own. Must never
//! be in a shard's log.
//!
//! A record, little endian:
//!
//! | at | bytes | Promise (0x81) | Cut (0x82) | Moved (0x83) | Doubt (0x85) | Applied (0x86) |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | 0 | 1 | kind | kind | kind | kind | kind |
//! | 1 | 1 | version: 1 | version: 1 | version: 1 | version: 1 | version: 1 |
//! | 2 | 2 | shard number | shard number | shard number | shard number | shard number |
//! | 4 | 4 | origin | origin | origin | origin | origin |
//! | 8 | 8 | leadership epoch | first seq that is dropped | seq | first seq in doubt; zero: the doubt is over | seq |
//! | 16 | 8 | boot | zero | zero | zero | zero |
//! | 24 | 4 | reserved: zero | reserved: zero | reserved: zero | reserved: zero | reserved: zero |
//! | 28 | 4 | crc32c of bytes 0..28 | the same | the same | the same | the same |
//!
//! A *Moved* record is followed at once, in the same round, by the frame of that shard and seq, verbatim: it is stored again,
//! out of the log's order, in the place of one that is damaged. Where a seq is moved more than once, the last one counts.
//!
//! A *Doubt* says that damage may have cost this log frames from that seq on which this node had reported as flushed: until
//! it is over, no election counts on this log's end. It answers for all damage before it: what recovery reads before a
//! Doubt makes nothing unsure any more, for the doubt itself does.
//!
//! *Applied* says that the log's frames up to that seq are committed, and applied here: the index forgets in a crash what it has
//! not flushed, and of a shard whose incarnation ended nobody can be asked any more what was committed.
//!
//! Reserved: 0x84 (Gap).

use meridian_types::{Boot, LeaderEpoch, Origin, Seq, ShardId, ShardNo};

use crate::frame::Frame;

/// Kinds from here on are records, below are frames.
pub const RECORD_KIND_MIN: u8 = 0x80;
/// The length of a record.
pub const RECORD_BYTES: usize = 32;
/// The version that this build writes, and the only one that it reads.
pub const RECORD_VERSION: u8 = 1;
/// The kind of a [`Promise`].
pub const RECORD_PROMISE: u8 = 0x81;
/// The kind of a cut.
pub const RECORD_CUT: u8 = 0x82;
/// The kind of what announces a frame that is stored again.
pub const RECORD_MOVED: u8 = 0x83;
/// Reserved: a range that a copy lacks, and why.
pub const RECORD_GAP: u8 = 0x84;
/// The kind of a doubt, and of its end.
pub const RECORD_DOUBT: u8 = 0x85;
/// The kind of an applied mark.
pub const RECORD_APPLIED: u8 = 0x86;

/// What a node has promised to a shard's leadership: nothing in a lower epoch (DESIGN §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Of which shard.
    pub shard: ShardId,
    /// The epoch that it was fenced in.
    pub epoch: LeaderEpoch,
    /// The start of the process that promised.
    pub boot: Boot,
}

/// What can be in a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A frame, verbatim.
    Frame(Frame),
    /// A promise; the last one of a shard counts.
    Promise(Promise),
    /// Drops the shard's earlier-written frames from `from` on, whatever their epochs.
    Cut {
        /// Whose frames.
        shard: ShardId,
        /// The first seq that is dropped.
        from: Seq,
    },
    /// A frame that was stored before, at a place that is damaged: stored again, verbatim, out of the log's order.
    Moved(Frame),
    /// From there on the log may lack frames that this node had reported as flushed; none: that is over.
    Doubt {
        /// Whose log.
        shard: ShardId,
        /// The first seq in doubt.
        from: Option<Seq>,
    },
    /// The log is committed, and applied here, up to there.
    Applied {
        /// Whose log.
        shard: ShardId,
        /// Its last frame that is.
        through: Seq,
    },
}

impl Entry {
    /// The entry's length in a round.
    pub fn encoded_len(&self) -> usize {
        match self {
            Self::Frame(frame) => frame.encoded_len(),
            Self::Moved(frame) => RECORD_BYTES + frame.encoded_len(),
            Self::Promise(_) | Self::Cut { .. } | Self::Doubt { .. } | Self::Applied { .. } => RECORD_BYTES,
        }
    }

    /// The shard that it is of.
    pub fn shard(&self) -> ShardId {
        match self {
            Self::Frame(frame) | Self::Moved(frame) => frame.header.shard_id(),
            Self::Promise(promise) => promise.shard,
            Self::Cut { shard, .. } | Self::Doubt { shard, .. } | Self::Applied { shard, .. } => *shard,
        }
    }
}

/// A record as it is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// See [`Promise`].
    Promise(Promise),
    /// See [`Entry::Cut`].
    Cut {
        /// Whose frames.
        shard: ShardId,
        /// The first seq that is dropped.
        from: Seq,
    },
    /// The frame of this shard and seq follows. See [`Entry::Moved`].
    Moved {
        /// Whose frame.
        shard: ShardId,
        /// Which.
        seq: Seq,
    },
    /// See [`Entry::Doubt`].
    Doubt {
        /// Whose log.
        shard: ShardId,
        /// The first seq in doubt; none: the doubt is over.
        from: Option<Seq>,
    },
    /// See [`Entry::Applied`].
    Applied {
        /// Whose log.
        shard: ShardId,
        /// Its last frame that is applied.
        through: Seq,
    },
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes end inside the record.
    #[error("the record is cut off: {0} bytes of {RECORD_BYTES}")]
    Short(usize),
    /// The bytes are damaged.
    #[error("the record fails its CRC")]
    Crc,
    /// Written by a newer version of Meridian.
    #[error("record kind {kind:#x}, version {version}, is not known to this build: upgrade it")]
    Unknown {
        /// The kind found.
        kind: u8,
        /// The version found.
        version: u8,
    },
}

impl Record {
    /// The record's bytes.
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let (kind, shard, first, second) = match *self {
            Self::Promise(p) => (RECORD_PROMISE, p.shard, u64::from(p.epoch.0), p.boot.0),
            Self::Cut { shard, from } => (RECORD_CUT, shard, from.0, 0),
            Self::Moved { shard, seq } => (RECORD_MOVED, shard, seq.0, 0),
            Self::Doubt { shard, from } => (RECORD_DOUBT, shard, from.map_or(0, |from| from.0), 0),
            Self::Applied { shard, through } => (RECORD_APPLIED, shard, through.0, 0),
        };
        let mut out = [0u8; RECORD_BYTES];
        out[0] = kind;
        out[1] = RECORD_VERSION;
        out[2..4].copy_from_slice(&shard.no.0.to_le_bytes());
        out[4..8].copy_from_slice(&shard.origin.to_u32().to_le_bytes());
        out[8..16].copy_from_slice(&first.to_le_bytes());
        out[16..24].copy_from_slice(&second.to_le_bytes());
        let crc = crc32c::crc32c(&out[..28]);
        out[28..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a record from the start of `bytes`.
    ///
    /// # Errors
    /// Cut off, damaged, or of a newer version.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let Some(b) = bytes.first_chunk::<RECORD_BYTES>() else {
            return Err(RecordError::Short(bytes.len()));
        };
        if crc32c::crc32c(&b[..28]) != u32::from_le_bytes([b[28], b[29], b[30], b[31]]) {
            return Err(RecordError::Crc);
        }
        let shard = ShardId {
            origin: Origin::from_u32(u32::from_le_bytes([b[4], b[5], b[6], b[7]])),
            no: ShardNo(u16::from_le_bytes([b[2], b[3]])),
        };
        let first = u64::from_le_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]);
        let second = u64::from_le_bytes([b[16], b[17], b[18], b[19], b[20], b[21], b[22], b[23]]);
        let unknown = RecordError::Unknown { kind: b[0], version: b[1] };
        if b[1] != RECORD_VERSION || b[24..28] != [0; 4] {
            return Err(unknown);
        }
        match b[0] {
            RECORD_PROMISE => {
                let epoch = LeaderEpoch(u32::try_from(first).map_err(|_| unknown)?);
                Ok(Self::Promise(Promise { shard, epoch, boot: Boot(second) }))
            }
            RECORD_CUT => Ok(Self::Cut { shard, from: Seq(first) }),
            RECORD_MOVED => Ok(Self::Moved { shard, seq: Seq(first) }),
            RECORD_DOUBT => Ok(Self::Doubt { shard, from: (first > 0).then_some(Seq(first)) }),
            RECORD_APPLIED => Ok(Self::Applied { shard, through: Seq(first) }),
            _ => Err(unknown),
        }
    }
}
