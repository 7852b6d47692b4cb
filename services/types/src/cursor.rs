//! A position in a stream: lane → next offset.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::limits::CURSOR_LANES;
use crate::{Lane, Offset, Origin, Partition, StreamId};

/// The next offset to read of each lane of one stream. The same everywhere: a cursor taken in one region is valid in
/// every other. A lane that is absent has not been begun: its next offset is 0.
///
/// Clients treat the bytes as opaque. Version 1: `1u8, stream u64 LE, count u32 LE, count × (origin u32 LE, partition
/// u32 LE, next offset u64 LE)` in rising order of (origin, partition), then xxh64 of all that as u64 LE, so that a
/// mangled cursor is refused and not read as another position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The stream that it is a position of.
    pub stream: StreamId,
    next: BTreeMap<(Origin, Partition), Offset>,
}

/// Why bytes are no cursor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Written by a newer version.
    #[error("cursor version {0} is newer than this one knows; upgrade the client or the node")]
    Version(u8),
    /// Cut short, mangled, or not a cursor.
    #[error("not a cursor, or damaged on the way: copy it whole, as `consume --print-cursor` printed it")]
    Malformed,
    /// More lanes than any stream can have.
    #[error("cursor names {0} lanes; at most {CURSOR_LANES} are possible")]
    TooManyLanes(usize),
}

const VERSION: u8 = 1;
const HEAD: usize = 13;
const ENTRY: usize = 16;
const SUM: usize = 8;

impl Cursor {
    /// The start of a stream.
    pub fn start(stream: StreamId) -> Self {
        Self { stream, next: BTreeMap::new() }
    }

    /// The next offset to read of a lane of this stream.
    pub fn next(&self, origin: Origin, partition: Partition) -> Offset {
        self.next.get(&(origin, partition)).copied().unwrap_or(Offset::ZERO)
    }

    /// Whether the lane has been begun.
    pub fn has(&self, origin: Origin, partition: Partition) -> bool {
        self.next.contains_key(&(origin, partition))
    }

    /// Sets the next offset of a lane.
    pub fn set(&mut self, origin: Origin, partition: Partition, next: Offset) {
        self.next.insert((origin, partition), next);
    }

    /// The lanes that have been begun, in order of (origin, partition).
    pub fn lanes(&self) -> impl Iterator<Item = (Lane, Offset)> + '_ {
        let stream = self.stream;
        self.next.iter().map(move |(&(origin, partition), &next)| (Lane { stream, partition, origin }, next))
    }

    /// Whether every lane is read at least as far as in another cursor of the stream.
    pub fn has_reached(&self, other: &Self) -> bool {
        let has_read = |(lane, next): (Lane, Offset)| self.next(lane.origin, lane.partition) >= next;
        self.stream == other.stream && other.lanes().all(has_read)
    }

    /// The opaque bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + ENTRY * self.next.len() + SUM);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.stream.0.to_le_bytes());
        bytes.extend_from_slice(&(self.next.len() as u32).to_le_bytes());
        for (&(origin, partition), next) in &self.next {
            bytes.extend_from_slice(&origin.to_u32().to_le_bytes());
            bytes.extend_from_slice(&partition.0.to_le_bytes());
            bytes.extend_from_slice(&next.0.to_le_bytes());
        }
        let sum = xxhash_rust::xxh64::xxh64(&bytes, 0);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads the opaque bytes.
    ///
    /// # Errors
    /// [`CursorError`] for anything that [`Cursor::to_bytes`] did not write.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CursorError> {
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&version) if version > VERSION && bytes.len() >= HEAD => {
                return Err(CursorError::Version(version));
            }
            _ => return Err(CursorError::Malformed),
        }
        if bytes.len() < HEAD + SUM {
            return Err(CursorError::Malformed);
        }
        let (body, sum) = bytes.split_at(bytes.len() - SUM);
        if xxhash_rust::xxh64::xxh64(body, 0).to_le_bytes() != sum {
            return Err(CursorError::Malformed);
        }
        let count = u32_at(body, 9) as usize;
        if count > CURSOR_LANES {
            return Err(CursorError::TooManyLanes(count));
        }
        if body.len() != HEAD + count * ENTRY {
            return Err(CursorError::Malformed);
        }
        let next: BTreeMap<_, _> = body[HEAD..]
            .chunks_exact(ENTRY)
            .map(|e| ((Origin::from_u32(u32_at(e, 0)), Partition(u32_at(e, 4))), Offset(u64_at(e, 8))))
            .collect();
        if next.len() != count {
            return Err(CursorError::Malformed);
        }
        Ok(Self { stream: StreamId(u64_at(body, 1)), next })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

impl fmt::Display for Cursor {
    /// The bytes in unpadded URL-safe base64, for command lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.to_bytes()))
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim()).map_err(|_| CursorError::Malformed)?;
        Self::from_bytes(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RegionId;

    fn sample() -> Cursor {
        let mut cursor = Cursor::start(StreamId(7));
        cursor.set(Origin::first(RegionId(1)), Partition(0), Offset(42));
        cursor.set(Origin::first(RegionId(2)), Partition(3), Offset(u64::MAX >> 1));
        cursor
    }

    #[test]
    fn comes_back_as_it_was() {
        let cursor = sample();
        assert_eq!(Cursor::from_bytes(&cursor.to_bytes()), Ok(cursor.clone()));
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
    }

    #[test]
    fn a_cursor_has_reached_another_once_it_has_in_every_lane() {
        let (goal, mut cursor) = (sample(), Cursor::start(StreamId(7)));
        assert!(!cursor.has_reached(&goal));
        cursor.set(Origin::first(RegionId(1)), Partition(0), Offset(43));
        cursor.set(Origin::first(RegionId(1)), Partition(9), Offset(1));
        assert!(!cursor.has_reached(&goal), "one lane of two");
        cursor.set(Origin::first(RegionId(2)), Partition(3), Offset(u64::MAX >> 1));
        assert!(cursor.has_reached(&goal));
        assert!(!goal.has_reached(&cursor), "it is further");
        assert!(!Cursor::start(StreamId(8)).has_reached(&Cursor::start(StreamId(7))), "another stream");
        assert!(Cursor::start(StreamId(7)).has_reached(&Cursor::start(StreamId(7))));
    }

    #[test]
    fn any_cut_or_flipped_byte_is_refused() {
        let bytes = sample().to_bytes();
        for len in 0..bytes.len() {
            assert!(Cursor::from_bytes(&bytes[..len]).is_err());
        }
        for i in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[i] ^= 1 << bit;
                assert!(Cursor::from_bytes(&bad).is_err(), "byte {i} bit {bit}");
            }
        }
    }

    #[test]
    fn a_newer_version_says_so() {
        let mut bytes = sample().to_bytes();
        bytes[0] = 2;
        assert_eq!(Cursor::from_bytes(&bytes), Err(CursorError::Version(2)));
    }
}
