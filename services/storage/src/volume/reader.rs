//! Reading frames by place.
//!
//! In: places. Out: frames whose CRCs were checked on this very read. Must never serve bytes that are not synced.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use meridian_types::{Seq, ShardId};
use parking_lot::RwLock;

use super::among::Among;
use super::error::ReadError;
use super::spans::{SPAN_MAX, Spans};
use crate::aligned::BLOCK;
use crate::disk::DiskFile;
use crate::frame::{FRAME_HEADER_BYTES, FRAME_PAYLOAD_BYTES_MAX, Frame, FrameHeader};
use crate::place::Place;

/// A volume file as readers see it.
pub(super) struct OpenFile {
    pub file: Arc<dyn DiskFile>,
    /// The end of what is synced; moved by the writer after each sync.
    pub end: AtomicU64,
}

impl OpenFile {
    pub fn synced(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }
}

/// The files of a volume, by number.
pub(super) type Files = Arc<RwLock<BTreeMap<u64, Arc<OpenFile>>>>;

/// How much is read at once by whoever reads one frame after the other.
const SPAN: u64 = 128 * 1024;

/// Reads frames from a volume, from any thread, beside the writer.
#[derive(Clone)]
pub struct VolumeReader {
    files: Files,
    spans: Arc<Spans>,
}

impl std::fmt::Debug for VolumeReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VolumeReader").finish_non_exhaustive()
    }
}

impl VolumeReader {
    /// The most that is read at once by [`VolumeReader::among`].
    pub const AROUND_MAX: u64 = SPAN_MAX;

    /// Of a volume with files of that length.
    pub(super) fn new(files: Files, spans: Arc<Spans>) -> Self {
        Self { files, spans }
    }

    /// How much of a file is read at once by [`VolumeReader::among`], in bytes, from a multiple of itself on.
    pub fn around(&self) -> u64 {
        self.spans.len
    }

    /// How many parts of files [`VolumeReader::among`] has in memory.
    pub fn around_held(&self) -> usize {
        self.spans.held()
    }

    pub(super) fn spans(&self) -> &Spans {
        &self.spans
    }

    pub(super) fn file(&self, number: u64) -> Option<Arc<OpenFile>> {
        self.files.read().get(&number).cloned()
    }

    /// Reads the frame at a place.
    ///
    /// # Errors
    /// [`ReadError`]: the disk's, a damaged frame, or a place outside what is synced.
    pub fn read(&self, place: Place) -> Result<Frame, ReadError> {
        self.read_by(place, |file, buf, at| file.read_at(buf, at))
    }

    /// As [`VolumeReader::read`], but what the disk holds, past the page cache where the system can: for verification.
    ///
    /// # Errors
    /// As [`VolumeReader::read`].
    pub fn read_uncached(&self, place: Place) -> Result<Frame, ReadError> {
        self.read_by(place, |file, buf, at| file.read_at_uncached(buf, at))
    }

    /// Reads one frame after the other as [`VolumeReader::read_uncached`] does, with what lies behind each.
    pub fn in_order(&self) -> InOrder {
        InOrder { reader: self.clone(), file: 0, at: 0, bytes: Bytes::new() }
    }

    /// As [`VolumeReader::read`], and refuses any frame but the one that the caller looks for. What comes from an index
    /// is read so.
    ///
    /// # Errors
    /// As [`VolumeReader::read`], and [`ReadError::Other`].
    pub fn read_expecting(&self, place: Place, shard: ShardId, seq: Seq) -> Result<Frame, ReadError> {
        let frame = self.read(place)?;
        expect(frame.header, place, shard, seq).map(|()| frame)
    }

    /// Reads many frames that lie close to each other, with what lies around them, which is then in memory for a while.
    pub fn among(&self) -> Among {
        Among::new(self.clone())
    }

    /// Has what follows in memory before [`VolumeReader::among`] asks for it: to be called while what was read is used.
    pub fn read_ahead(&self) {
        self.spans.read_ahead(|file| self.file(file));
    }

    /// Gives back the memory of [`VolumeReader::among`], if nothing was read so since the last time.
    pub fn forget_unused(&self) {
        self.spans.forget_unused();
    }

    /// [`VolumeReader::read_expecting`] past the page cache.
    ///
    /// # Errors
    /// As [`VolumeReader::read_expecting`].
    pub fn read_expecting_uncached(
        &self,
        place: Place,
        shard: ShardId,
        seq: Seq,
    ) -> Result<Frame, ReadError> {
        let frame = self.read_uncached(place)?;
        expect(frame.header, place, shard, seq).map(|()| frame)
    }

    /// Reads the header of the frame at a place alone: its chain stands even where its payload is damaged.
    ///
    /// # Errors
    /// As [`VolumeReader::read_expecting`].
    pub fn header_expecting(&self, place: Place, shard: ShardId, seq: Seq) -> Result<FrameHeader, ReadError> {
        let head = Place { len: FRAME_HEADER_BYTES as u32, ..place };
        let bytes = self.bytes(head, |file, buf, at| file.read_at(buf, at))?;
        let header = FrameHeader::decode(&bytes).map_err(|source| ReadError::Damaged { place, source })?;
        expect(header, place, shard, seq).map(|()| header)
    }

    fn read_by(
        &self,
        place: Place,
        read: impl FnOnce(&dyn DiskFile, &mut [u8], u64) -> io::Result<()>,
    ) -> Result<Frame, ReadError> {
        let bytes = self.bytes(place, read)?;
        Frame::parse(Bytes::from(bytes)).map_err(|source| ReadError::Damaged { place, source })
    }

    fn bytes(
        &self,
        place: Place,
        read: impl FnOnce(&dyn DiskFile, &mut [u8], u64) -> io::Result<()>,
    ) -> Result<Vec<u8>, ReadError> {
        let file = self.files.read().get(&place.file).cloned().ok_or(ReadError::Outside(place))?;
        let len = place.len as usize;
        let end = place.at.checked_add(len as u64).ok_or(ReadError::Outside(place))?;
        let plausible = FRAME_HEADER_BYTES..=FRAME_HEADER_BYTES + FRAME_PAYLOAD_BYTES_MAX;
        if place.at < BLOCK as u64 || end > file.synced() || !plausible.contains(&len) {
            return Err(ReadError::Outside(place));
        }
        let mut bytes = vec![0; len];
        read(&*file.file, &mut bytes, place.at).map_err(|source| ReadError::Io { place, source })?;
        Ok(bytes)
    }
}

/// Reads frames that lie about in the order in which they are asked for: a call of the system for each takes far longer than the bytes.
pub struct InOrder {
    reader: VolumeReader,
    /// What was read last, of which file and from where.
    file: u64,
    at: u64,
    bytes: Bytes,
}

impl InOrder {
    /// The frame at a place, of bytes that were read from the disk since this reader was made, past the page cache where the system can.
    ///
    /// # Errors
    /// As [`VolumeReader::read`].
    pub fn read(&mut self, place: Place) -> Result<Frame, ReadError> {
        if let Some(bytes) =
            self.held(place).or_else(|| self.span_from(place).and_then(|()| self.held(place)))
            && let Ok(frame) = Frame::parse(Bytes::copy_from_slice(&bytes))
        {
            return Ok(frame);
        }
        // Whatever is wrong may be with what lies behind it.
        self.reader.read_uncached(place)
    }

    /// The bytes of a place, if they are at hand.
    fn held(&self, place: Place) -> Option<Bytes> {
        let from = place.at.checked_sub(self.at).filter(|_| place.file == self.file)?;
        let from = usize::try_from(from).ok()?;
        let end = from.checked_add(place.len as usize).filter(|end| *end <= self.bytes.len())?;
        Some(self.bytes.slice(from..end))
    }

    /// Reads what lies from a place on, as far as it is synced.
    fn span_from(&mut self, place: Place) -> Option<()> {
        let file = self.reader.files.read().get(&place.file).cloned()?;
        let len = file.synced().checked_sub(place.at)?.min(SPAN);
        if place.at < BLOCK as u64 || u64::from(place.len) > len {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        file.file.read_at_uncached(&mut bytes, place.at).ok()?;
        (self.file, self.at, self.bytes) = (place.file, place.at, bytes.into());
        Some(())
    }
}

pub(super) fn expect(header: FrameHeader, place: Place, shard: ShardId, seq: Seq) -> Result<(), ReadError> {
    let (found_shard, found_seq) = (header.shard_id(), header.seq);
    if (found_shard, found_seq) == (shard, seq) {
        Ok(())
    } else {
        Err(ReadError::Other { place, shard, seq, found_shard, found_seq })
    }
}
