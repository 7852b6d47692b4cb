//! Reading many frames that lie close to each other.
//!
//! In: places. Out: frames whose CRCs were checked on this very read, cut out of what lies around them. Must never make of a span that
//! cannot be read more than one try: whatever is wrong with a frame is found out by reading it alone.

use bytes::{Bytes, BytesMut};
use meridian_types::{Seq, ShardId};

use super::error::ReadError;
use super::reader::{VolumeReader, expect};
use crate::frame::{FRAME_HEADER_BYTES, Frame};
use crate::place::Place;

/// One read of many frames: [`VolumeReader::among`].
pub struct Among {
    reader: VolumeReader,
    /// The spans that this read has met: file, number, and the bytes, if the disk gave them.
    met: Vec<(u64, u64, Option<Bytes>)>,
}

impl Among {
    pub(super) fn new(reader: VolumeReader) -> Self {
        Self { reader, met: Vec::new() }
    }

    /// As [`VolumeReader::read_expecting`].
    ///
    /// # Errors
    /// As [`VolumeReader::read_expecting`].
    pub fn read(&mut self, place: Place, shard: ShardId, seq: Seq) -> Result<Frame, ReadError> {
        let frame = self.bytes(place).and_then(|bytes| Frame::parse(bytes).ok());
        match frame.filter(|frame| expect(frame.header, place, shard, seq).is_ok()) {
            Some(frame) => Ok(frame),
            None => self.reader.read_expecting(place, shard, seq),
        }
    }

    /// The bytes of a place; none: it is too long, or what lies around it is not to be had.
    fn bytes(&mut self, place: Place) -> Option<Bytes> {
        let (len, span) = (place.len as usize, self.reader.around());
        if len < FRAME_HEADER_BYTES {
            return None;
        }
        let end = place.at.checked_add(u64::from(place.len))?;
        let (first, last) = (place.at / span, (end - 1) / span);
        if last > first + 1 {
            return None;
        }
        let head = self.span(place.file, first)?;
        self.reader.spans().used(place.file, last);
        let from = (place.at % span) as usize;
        if first == last {
            return Some(head.slice(from..from + len));
        }
        let rest = self.span(place.file, last)?;
        let mut both = BytesMut::with_capacity(len);
        both.extend_from_slice(&head[from..]);
        both.extend_from_slice(&rest[..len - both.len()]);
        Some(both.freeze())
    }

    fn span(&mut self, file: u64, number: u64) -> Option<Bytes> {
        if let Some((_, _, bytes)) = self.met.iter().find(|(of, no, _)| (*of, *no) == (file, number)) {
            return bytes.clone();
        }
        let open = self.reader.file(file);
        let bytes = open.and_then(|open| self.reader.spans().get(file, number, &open));
        self.met.push((file, number, bytes.clone()));
        bytes
    }
}
