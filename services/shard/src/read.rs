//! Reading what is applied: frames of a shard for mirrors, frames of a lane for consumers, digests for `verify`.
//!
//! The calls block on the disk: async callers go through `spawn_blocking`.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use meridian_storage::index::{Index, IndexError, LaneState, Located};
use meridian_storage::{
    Chain, Frame, FrameHeader, InOrder, Place, ReadError as VolumeReadError, VolumeReader,
};
use meridian_types::{Lane, LogEpoch, Offset, Seq, ShardId, StreamId, Timestamp};
use parking_lot::RwLock;

use crate::tail::Unapplied;
use crate::{LogPoint, Quarantine, Tail};

/// Frames looked up in the index in one go.
const ROWS: usize = 1024;
/// As many are looked up first: a read of large frames needs no more.
const ROWS_FIRST: usize = 32;
/// What a shard's frames must make up of what lies around them, for that to be read along: this part.
const WINDOW_PART: u64 = 32;

/// Why something stored cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The volume's bytes are damaged, elsewhere, or out of reach.
    #[error(transparent)]
    Volume(#[from] VolumeReadError),
    /// The index cannot be read.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// BLAKE3 over the stored frames of a part of a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneDigest {
    /// Over headers and payloads, in order, as they are on the disk.
    pub blake3: [u8; 32],
    /// Events in it.
    pub events: u64,
    /// Frames in it.
    pub frames: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// The first offset whose frame cannot be read as it was written, and why; the digest covers what is before it.
    pub damaged: Option<(Offset, String)>,
}

/// Reads what this node holds.
#[derive(Clone)]
pub struct Reader {
    index: Arc<Index>,
    volume: VolumeReader,
    tails: Arc<RwLock<HashMap<ShardId, Arc<Tail>>>>,
    quarantine: Arc<Quarantine>,
}

/// A run of a lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneFrames {
    /// In order.
    pub frames: Vec<Frame>,
    /// Where the lane ended when it was read, or before: whoever is not there yet reads on.
    pub end: Offset,
}

/// A part of a volume file. Shards that are read in turn go from one to the next together, so that each is read once.
struct Window {
    file: u64,
    number: u64,
    around: u64,
}

impl Window {
    fn holds(&self, place: Place) -> bool {
        place.file == self.file && place.at / self.around == self.number
    }
}

/// The window of the first of a shard's frames, if enough of them lie in it.
fn window(places: &[(ShardId, Seq, Place)], around: u64) -> Option<Window> {
    let (_, _, first) = places.first()?;
    let window = Window { file: first.file, number: first.at / around, around };
    let inside = places.iter().map(|(_, _, place)| *place).take_while(|place| window.holds(*place));
    let (bytes, end) = inside.fold((0, 0), |(bytes, _), place| {
        let len = u64::from(place.len);
        (bytes + len, place.at + len)
    });
    let all = end.saturating_sub(first.at);
    // One frame alone, or a few small ones, are read as they are.
    (bytes > u64::from(first.len) && bytes * WINDOW_PART >= all).then_some(window)
}

impl Reader {
    /// Reads an index and the volume that it points into.
    pub fn new(index: Arc<Index>, volume: VolumeReader) -> Self {
        Self { index, volume, tails: Arc::default(), quarantine: Arc::default() }
    }

    /// What is damaged here of what is applied. Whatever a read finds to be, is added to it.
    pub fn quarantine(&self) -> &Arc<Quarantine> {
        &self.quarantine
    }

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    pub(crate) fn volume(&self) -> &VolumeReader {
        &self.volume
    }

    pub(crate) fn add_tail(&self, shard: ShardId, tail: Arc<Tail>) {
        self.tails.write().insert(shard, tail);
    }

    fn tail(&self, shard: ShardId) -> Option<Arc<Tail>> {
        self.tails.read().get(&shard).cloned()
    }

    /// The applied frames of a shard from `from` on, from memory alone; none: go to the disk.
    pub fn cached(&self, shard: ShardId, from: Seq, max_bytes: usize) -> Option<Vec<Frame>> {
        self.tail(shard)?.from(from, max_bytes)
    }

    /// The applied frames of a shard from `from` on, contiguous, up to `max_bytes` but at least one where there is one.
    ///
    /// # Errors
    /// [`ReadError`] if the first frame cannot be read.
    pub fn frames(&self, shard: ShardId, from: Seq, max_bytes: usize) -> Result<Vec<Frame>, ReadError> {
        if let Some(frames) = self.cached(shard, from, max_bytes) {
            return Ok(frames);
        }
        let mut next = from;
        let more = |count| {
            let rows = self.index.places(shard, next, count)?;
            next = rows.last().map_or(next, |(last, _)| last.next());
            Ok(rows.into_iter().map(|(seq, place)| (shard, seq, place)).collect())
        };
        let around = self.volume.around();
        self.read_within(more, max_bytes, |places| window(places, around))
    }

    /// Has what follows the frames that were read last in memory, where they were read with what lies around them.
    pub fn read_ahead(&self) {
        self.volume.read_ahead();
    }

    /// The frames of a shard's log from `from` on, applied or not, as followers are fed; up to `max_bytes`, but at least
    /// one where there is one.
    ///
    /// # Errors
    /// [`ReadError`] if the first frame cannot be read.
    pub fn log(&self, shard: ShardId, from: Seq, max_bytes: usize) -> Result<Vec<Frame>, ReadError> {
        let Some(unapplied) = self.tail(shard).and_then(|tail| tail.unapplied(from, max_bytes)) else {
            return self.frames(shard, from, max_bytes);
        };
        let mut frames = Vec::with_capacity(unapplied.len());
        for frame in unapplied {
            frames.push(match frame {
                Unapplied::InMemory(frame) => frame,
                Unapplied::OnDisk(seq, place) => self.volume.read_expecting(place, shard, seq)?,
            });
        }
        Ok(frames)
    }

    /// As [`Reader::log`], from memory alone; none: go to the disk. Empty: there is nothing from `from` on.
    pub fn log_cached(&self, shard: ShardId, from: Seq, max_bytes: usize) -> Option<Vec<Frame>> {
        let tail = self.tail(shard)?;
        let Some(unapplied) = tail.unapplied(from, max_bytes) else { return tail.from(from, max_bytes) };
        let in_memory = |frame| match frame {
            Unapplied::InMemory(frame) => Some(frame),
            Unapplied::OnDisk(..) => None,
        };
        unapplied.into_iter().map(in_memory).collect()
    }

    /// The newest applied frame at or below `seq` whose epoch is at most `epoch`: the point where two logs may agree.
    ///
    /// # Errors
    /// [`ReadError`] where a frame's header on the way cannot be read.
    pub fn newest(&self, shard: ShardId, seq: Seq, epoch: LogEpoch) -> Result<LogPoint, ReadError> {
        // Epochs only rise in a log, so halving finds it.
        let (mut low, mut high) = (LogPoint::START, seq.0);
        while low.seq.0 < high {
            let middle = Seq(low.seq.0 + (high - low.seq.0).div_ceil(2));
            match self.point_at(shard, middle)? {
                Some(point) if point.epoch <= epoch => low = point,
                _ => high = middle.prev().0,
            }
        }
        Ok(low)
    }

    fn point_at(&self, shard: ShardId, seq: Seq) -> Result<Option<LogPoint>, ReadError> {
        let point = |header: FrameHeader| LogPoint { seq, epoch: header.log_epoch, chain: header.chain };
        Ok(self.header(shard, seq)?.map(point))
    }

    /// The header of an applied frame; none: the index has no such frame.
    pub(crate) fn header(&self, shard: ShardId, seq: Seq) -> Result<Option<FrameHeader>, ReadError> {
        if let Some(frame) = self.tail(shard).and_then(|tail| tail.get(seq)) {
            return Ok(Some(frame.header));
        }
        let Some(place) = self.index.place(shard, seq)? else { return Ok(None) };
        Ok(Some(self.noting(shard, seq, self.volume.header_expecting(place, shard, seq))?))
    }

    /// Quarantines a frame that cannot be read as it was written.
    fn noting<T>(
        &self,
        shard: ShardId,
        seq: Seq,
        read: Result<T, VolumeReadError>,
    ) -> Result<T, VolumeReadError> {
        read.inspect_err(|_| self.quarantine.add(shard, seq..=seq))
    }

    /// The chain through frame `seq`; none: the index has no such frame.
    ///
    /// # Errors
    /// [`ReadError`] where the frame's header cannot be read; a payload that is damaged is no matter.
    pub fn chain_at(&self, shard: ShardId, seq: Seq) -> Result<Option<Chain>, ReadError> {
        if seq == Seq::ZERO {
            return Ok(Some(Chain::GENESIS));
        }
        Ok(self.header(shard, seq)?.map(|header| header.chain))
    }

    /// As [`Reader::lane_frames`], from memory alone; none: go to the disk.
    pub fn cached_lane(
        &self,
        shard: ShardId,
        lane: Lane,
        from: Offset,
        max_bytes: usize,
    ) -> Option<LaneFrames> {
        let (frames, end) = self.tail(shard)?.of_lane(lane, from, max_bytes)?;
        Some(LaneFrames { frames, end })
    }

    /// The frames of a lane that hold offsets from `from` on, up to `max_bytes` but at least one where there is one.
    /// The first may begin before `from`.
    ///
    /// # Errors
    /// [`ReadError`] if the first frame cannot be read.
    pub fn lane_frames(&self, lane: Lane, from: Offset, max_bytes: usize) -> Result<LaneFrames, ReadError> {
        let Some(state) = self.index.lane(lane)? else { return Ok(LaneFrames::default()) };
        let mut next = from;
        let more = |count| {
            let rows = self.index.read_lane(lane, next, count)?;
            next = rows.last().map_or(next, Located::next_offset);
            Ok(rows.into_iter().map(|row| (state.shard, row.seq, row.place)).collect())
        };
        Ok(LaneFrames { frames: self.read_within(more, max_bytes, |_| None)?, end: state.end })
    }

    /// The lanes of a shard that have grown by frames after `seq`, from memory alone; none: memory does not tell.
    pub fn lanes_after(&self, shard: ShardId, seq: Seq) -> Option<BTreeSet<Lane>> {
        self.tail(shard)?.lanes_after(seq)
    }

    /// Reads what `more` names, so many frames at a time, up to `max_bytes`; where there is a `window`, no further than that.
    fn read_within(
        &self,
        mut more: impl FnMut(usize) -> Result<Vec<(ShardId, Seq, Place)>, IndexError>,
        max_bytes: usize,
        window: impl Fn(&[(ShardId, Seq, Place)]) -> Option<Window>,
    ) -> Result<Vec<Frame>, ReadError> {
        let mut frames = Vec::new();
        let (mut bytes, mut count) = (0, ROWS_FIRST);
        let (mut within, mut among) = (None, self.volume.among());
        loop {
            let places = more(count)?;
            let is_last = places.len() < count;
            if bytes == 0 {
                within = window(&places);
            }
            for (shard, seq, place) in places {
                let is_beyond = |window: &Window| !window.holds(place);
                let is_full =
                    bytes + place.len as usize > max_bytes || within.as_ref().is_some_and(is_beyond);
                if bytes > 0 && is_full {
                    return Ok(frames);
                }
                bytes += place.len as usize;
                let frame = match self.tail(shard).and_then(|tail| tail.get(seq)) {
                    Some(frame) => Ok(frame),
                    None if within.is_some() => self.noting(shard, seq, among.read(place, shard, seq)),
                    None => self.noting(shard, seq, self.volume.read_expecting(place, shard, seq)),
                };
                match frame {
                    Ok(frame) => frames.push(frame),
                    Err(error) if frames.is_empty() => return Err(error.into()),
                    // What is before it is whole: whoever goes on meets the error then.
                    Err(_) => return Ok(frames),
                }
            }
            if is_last || frames.len() >= ROWS {
                return Ok(frames);
            }
            count = ROWS.min(count * 2);
        }
    }

    /// What a lane adds up to.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn lane(&self, lane: Lane) -> Result<Option<LaneState>, ReadError> {
        Ok(self.index.lane(lane)?)
    }

    /// The lanes of a stream that hold anything.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn lanes_of(&self, stream: StreamId) -> Result<Vec<(Lane, LaneState)>, ReadError> {
        Ok(self.index.lanes_of(stream)?)
    }

    /// The first offset of the first batch with an event at `time` or later; none: all are earlier.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn offset_at(&self, lane: Lane, time: Timestamp) -> Result<Option<Offset>, ReadError> {
        Ok(self.index.offset_at(lane, time)?)
    }

    /// Digests the frames of a lane whose first offset is in `[start, end)`, reading each from the disk now, past every
    /// cache of this process and, where the disk can, of the kernel.
    ///
    /// # Errors
    /// The index cannot be read. A frame that cannot be read is told in the digest.
    pub fn digest(&self, lane: Lane, start: Offset, end: Offset) -> Result<LaneDigest, ReadError> {
        let mut hasher = blake3::Hasher::new();
        let mut digest = LaneDigest { blake3: [0; 32], events: 0, frames: 0, bytes: 0, damaged: None };
        let mut next = start;
        let mut head = Vec::with_capacity(meridian_storage::FRAME_HEADER_BYTES);
        let mut disk = self.volume.in_order();
        if let Some(state) = self.index.lane(lane)? {
            'rows: loop {
                let rows = self.index.read_lane(lane, next, ROWS)?;
                if rows.is_empty() {
                    break;
                }
                for row in rows {
                    next = row.next_offset();
                    if row.base_offset < start {
                        continue;
                    }
                    if row.base_offset >= end {
                        break 'rows;
                    }
                    match self.stored(&mut disk, state.shard, lane, &row) {
                        Ok(frame) => {
                            head.clear();
                            head.extend_from_slice(&frame.header.encode());
                            hasher.update(&head).update(&frame.payload);
                            digest.events += u64::from(frame.header.events);
                            digest.frames += 1;
                            digest.bytes += frame.encoded_len() as u64;
                        }
                        Err(why) => {
                            digest.damaged = Some((row.base_offset, why));
                            break 'rows;
                        }
                    }
                }
            }
        }
        digest.blake3 = *hasher.finalize().as_bytes();
        Ok(digest)
    }

    /// The frame of an index row, as it is on the disk; or why it is not what the row says.
    fn stored(&self, disk: &mut InOrder, shard: ShardId, lane: Lane, row: &Located) -> Result<Frame, String> {
        let read = self.noting(shard, row.seq, disk.read(row.place));
        let frame = read.map_err(|error| error.to_string())?;
        let header = &frame.header;
        let is = (header.shard_id(), header.seq, header.lane(), header.base_offset);
        if is == (shard, row.seq, lane, row.base_offset) {
            Ok(frame)
        } else {
            self.quarantine.add(shard, row.seq..=row.seq);
            Err(format!("the index points to frame {} of shard {}", header.seq, header.shard_id()))
        }
    }
}
