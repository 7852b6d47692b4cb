//! The round: what the writer writes and syncs at once.
//!
//! In: entries, or bytes. Out: one block-aligned buffer, or a header whose CRC has been checked. Must never look for
//! a frame anywhere but at the end of the entry before it.
//!
//! A round starts at a block boundary with [`ROUND_HEADER_BYTES`] bytes, little endian; entries follow verbatim and
//! without gaps, then zeros up to the next block boundary. An entry is a frame ([`crate::frame`]), a record
//! ([`crate::record`]), or a Moved record with its frame, which count as one:
//!
//! | at | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | `MRDN` |
//! | 4 | 2 | version: 1 |
//! | 6 | 2 | reserved: zero |
//! | 8 | 8 | generation of the file |
//! | 16 | 8 | number of the round, contiguous over files, from 1 |
//! | 24 | 8 | position of the round in its file |
//! | 32 | 4 | length of the entries, without padding |
//! | 36 | 4 | number of entries |
//! | 40 | 4 | crc32c of the entries |
//! | 44 | 16 | reserved: zero |
//! | 60 | 4 | crc32c of bytes 0..60 |
//!
//! Both CRCs start from crc32c(secret ‖ generation): bytes that a client published, or that another generation of the
//! file left, never pass for a round. The position keeps a copy of a round from passing for one elsewhere.

use crate::aligned::{AlignedBuf, BLOCK, to_blocks};
use crate::identity::Secret;
use crate::record::{Entry, Record};

/// The length of a round's header.
pub const ROUND_HEADER_BYTES: usize = 64;
/// The version that this build writes, and the only one that it reads.
pub const ROUND_VERSION: u16 = 1;

const MAGIC: &[u8; 4] = b"MRDN";
const CRC_AT: usize = ROUND_HEADER_BYTES - 4;

/// The start value of a file's CRCs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(u32);

impl Seed {
    /// For a generation of a volume's file.
    pub fn new(secret: &Secret, generation: u64) -> Self {
        Self(crc32c::crc32c_append(crc32c::crc32c(&secret.0), &generation.to_le_bytes()))
    }

    /// The seeded CRC of some bytes.
    pub fn crc(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, bytes)
    }
}

/// A round's header. See the module for the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundHeader {
    /// The generation of the file.
    pub generation: u64,
    /// The round's number.
    pub number: u64,
    /// Where in the file the round starts.
    pub at: u64,
    /// The length of the entries.
    pub body_len: u32,
    /// How many entries.
    pub entries: u32,
    /// The entries' CRC.
    pub body_crc: u32,
}

/// Why bytes are no round's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoundError {
    /// Free space, damage, or another generation's.
    #[error("no round starts here")]
    NotARound,
    /// Written by a newer version of Meridian.
    #[error("round version {0} is not known to this build: upgrade it")]
    Version(u16),
}

impl RoundHeader {
    /// The round's length on disk, padding included.
    pub fn padded_len(&self) -> u64 {
        to_blocks(ROUND_HEADER_BYTES as u64 + u64::from(self.body_len))
    }

    /// The header's bytes.
    pub fn encode(&self, seed: Seed) -> [u8; ROUND_HEADER_BYTES] {
        let mut out = [0u8; ROUND_HEADER_BYTES];
        out[..4].copy_from_slice(MAGIC);
        out[4..6].copy_from_slice(&ROUND_VERSION.to_le_bytes());
        out[8..16].copy_from_slice(&self.generation.to_le_bytes());
        out[16..24].copy_from_slice(&self.number.to_le_bytes());
        out[24..32].copy_from_slice(&self.at.to_le_bytes());
        out[32..36].copy_from_slice(&self.body_len.to_le_bytes());
        out[36..40].copy_from_slice(&self.entries.to_le_bytes());
        out[40..44].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = seed.crc(&out[..CRC_AT]);
        out[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the header of a round of `generation` that starts at `at`, from the start of `bytes`.
    ///
    /// # Errors
    /// No such round, or one of a newer version.
    pub fn decode(bytes: &[u8], secret: &Secret, generation: u64, at: u64) -> Result<Self, RoundError> {
        let found = Self::decode_any(bytes, secret, at)?;
        if found.generation == generation { Ok(found) } else { Err(RoundError::NotARound) }
    }

    /// As [`RoundHeader::decode`], of whatever generation.
    ///
    /// # Errors
    /// No round, or one of a newer version.
    pub fn decode_any(bytes: &[u8], secret: &Secret, at: u64) -> Result<Self, RoundError> {
        let Some(b) = bytes.first_chunk::<ROUND_HEADER_BYTES>() else {
            return Err(RoundError::NotARound);
        };
        if b[..4] != *MAGIC {
            return Err(RoundError::NotARound);
        }
        let header = Self {
            generation: u64_at(b, 8),
            number: u64_at(b, 16),
            at: u64_at(b, 24),
            body_len: u32_at(b, 32),
            entries: u32_at(b, 36),
            body_crc: u32_at(b, 40),
        };
        if Seed::new(secret, header.generation).crc(&b[..CRC_AT]) != u32_at(b, CRC_AT) || header.at != at {
            return Err(RoundError::NotARound);
        }
        match u16::from_le_bytes([b[4], b[5]]) {
            ROUND_VERSION if b[44..60] == [0; 16] && b[6..8] == [0; 2] => Ok(header),
            version => Err(RoundError::Version(version)),
        }
    }
}

fn u32_at(bytes: &[u8; ROUND_HEADER_BYTES], at: usize) -> u32 {
    let mut out = [0u8; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}

fn u64_at(bytes: &[u8; ROUND_HEADER_BYTES], at: usize) -> u64 {
    let mut out = [0u8; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}

/// A round while it is put together, in one buffer that is used again for the next.
#[derive(Debug)]
pub struct RoundBuilder {
    buf: AlignedBuf,
    body_len: usize,
    entries: u32,
}

impl RoundBuilder {
    /// An empty round in a buffer with room for `capacity` bytes of entries; it grows if one needs more.
    pub fn new(capacity: usize) -> Self {
        let mut builder = Self {
            buf: AlignedBuf::with_capacity(to_blocks((ROUND_HEADER_BYTES + capacity) as u64) as usize),
            body_len: 0,
            entries: 0,
        };
        builder.clear();
        builder
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.buf.clear();
        self.buf.extend(&[0; ROUND_HEADER_BYTES]);
        self.body_len = 0;
        self.entries = 0;
    }

    /// Appends an entry. Its position from the start of the round; of a moved frame, the frame's.
    pub fn push(&mut self, entry: &Entry) -> u64 {
        // A seal before this one, of an empty round or of one that met a full disk, has left its padding.
        self.buf.set_len(ROUND_HEADER_BYTES + self.body_len);
        let record = match entry {
            Entry::Frame(_) => None,
            Entry::Promise(promise) => Some(Record::Promise(*promise)),
            Entry::Cut { shard, from } => Some(Record::Cut { shard: *shard, from: *from }),
            Entry::Moved(frame) => {
                Some(Record::Moved { shard: frame.header.shard_id(), seq: frame.header.seq })
            }
            Entry::Doubt { shard, from } => Some(Record::Doubt { shard: *shard, from: *from }),
            Entry::Applied { shard, through } => Some(Record::Applied { shard: *shard, through: *through }),
        };
        let mut at = self.buf.len() as u64;
        if let Some(record) = record {
            self.buf.extend(&record.encode());
        }
        if let Entry::Frame(frame) | Entry::Moved(frame) = entry {
            at = self.buf.len() as u64;
            self.buf.extend(&frame.header.encode());
            self.buf.extend(&frame.payload);
        }
        self.body_len = self.buf.len() - ROUND_HEADER_BYTES;
        self.entries += 1;
        at
    }

    /// The length of the entries so far.
    pub fn body_len(&self) -> usize {
        self.body_len
    }

    /// How many entries so far.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// The round's length on disk.
    pub fn padded_len(&self) -> u64 {
        to_blocks((ROUND_HEADER_BYTES + self.body_len) as u64)
    }

    /// Sets header and padding, and returns the bytes to be written: whole blocks, in aligned memory. May be called
    /// again with another place and number.
    pub fn seal(&mut self, secret: &Secret, generation: u64, number: u64, at: u64) -> &[u8] {
        let end = ROUND_HEADER_BYTES + self.body_len;
        let seed = Seed::new(secret, generation);
        let header = RoundHeader {
            generation,
            number,
            at,
            body_len: self.body_len as u32,
            entries: self.entries,
            body_crc: seed.crc(&self.buf.bytes()[ROUND_HEADER_BYTES..end]),
        };
        self.buf.pad();
        self.buf.bytes_mut()[..ROUND_HEADER_BYTES].copy_from_slice(&header.encode(seed));
        debug_assert_eq!(self.buf.len() % BLOCK, 0);
        self.buf.bytes()
    }
}
