//! The index that the rest of the system sees.

use std::collections::BTreeMap;
use std::sync::Arc;

use meridian_types::{Lane, Offset, ProducerId, Seq, ShardId, StreamId, TenantId, Timestamp};
use parking_lot::Mutex;

use super::apply::{FrameEffects, Run};
use super::keys::{self, FORMAT, FORMAT_KEY, Family, StoredFormat};
use super::known::Known;
use super::rows::{LaneRow, OffsetsRow, PlacesRow, Row, TimeRow};
use super::{
    AppliedMark, Batch, Direction, IndexError, KeyRange, KeyValue, KvError, LaneState, ProducerState,
    RowError, Usage,
};
use crate::{FrameHeader, FrameKind, Place};

/// Shards apply side by side; more locks than threads that do.
const STRIPES: usize = 32;

/// Rows of frames that are read at once, at most.
const ROWS: usize = 16;

/// Places, lanes, producers, cursors, usage and marks over a [`KeyValue`].
///
/// All calls are synchronous and may read or write the disk; `flush` waits for it.
pub struct Index {
    kv: Arc<dyn KeyValue>,
    /// A run is checked against rows that it then writes, so two runs of one shard must not overlap.
    applying: [Mutex<Known>; STRIPES],
    /// What a crash would come back to, at least.
    checkpointed: Mutex<BTreeMap<ShardId, AppliedMark>>,
}

/// A frame of a lane and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// The offset of its first event.
    pub base_offset: Offset,
    /// How many events it holds.
    pub events: u32,
    /// Its shard: with `seq`, what a read of the place has to find there.
    pub shard: ShardId,
    /// Its seq.
    pub seq: Seq,
    /// Where it lies.
    pub place: Place,
}

impl Located {
    /// The offset after its last event.
    pub fn next_offset(&self) -> Offset {
        Offset(self.base_offset.0.saturating_add(u64::from(self.events)))
    }
}

/// Whose positions they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum CursorKind {
    /// A mirror's.
    Mirror = 1,
    /// A consumer group's.
    Group = 2,
    /// The volume's: where its recovery begins ([`Restart`](crate::volume::Restart)).
    Restart = 3,
}

impl Index {
    /// The index over a floor. A new floor gets the format, durably; one of a newer format is refused unchanged.
    pub fn open(kv: Arc<dyn KeyValue>) -> Result<Self, IndexError> {
        match StoredFormat::of(kv.get(Family::Default, FORMAT_KEY)?.as_deref()) {
            StoredFormat::Current => {}
            // Before there is a row that the older version cannot read.
            StoredFormat::Older => stamp(&*kv)?,
            StoredFormat::Newer(found) => return Err(IndexError::NewerFormat { found, known: FORMAT }),
            StoredFormat::Garbled => {
                let (family, key) = (Family::Default, FORMAT_KEY.to_vec());
                return Err(IndexError::Row { family, key, error: RowError::Value("not a format") });
            }
            StoredFormat::Absent => {
                for &family in Family::ALL {
                    if !kv.scan(family, &KeyRange::all(), Direction::Forward, 1)?.is_empty() {
                        return Err(IndexError::NoFormat);
                    }
                }
                stamp(&*kv)?;
            }
        }
        let index = Self { kv, applying: Default::default(), checkpointed: Mutex::default() };
        // Nothing was written since the crash or the close, so all that is there is durable.
        *index.checkpointed.lock() = index.shards()?.into_iter().collect();
        Ok(index)
    }

    /// Writes all effects of a run of committed and flushed frames of one shard, and the shard's mark, in one batch.
    ///
    /// # Errors
    /// A run that does not begin after the applied mark, does not follow its chain, or whose batches do not begin where
    /// their lanes end is refused whole.
    pub fn apply(&self, shard: ShardId, frames: &[FrameEffects]) -> Result<(), IndexError> {
        if frames.is_empty() {
            return Ok(());
        }
        let mut known = self.applying[stripe(shard)].lock();
        let mut run = Run::after(&*self.kv, &mut known, shard)?;
        for frame in frames {
            run.add(frame)?;
        }
        run.write()
    }

    /// Says where applied frames lie now, which were stored again, in one batch. Saying it twice changes nothing.
    ///
    /// # Errors
    /// A frame that is not applied, or of another lane or offset than the one that is: nothing is changed then.
    pub fn relocate(&self, shard: ShardId, frames: &[(FrameHeader, Place)]) -> Result<(), IndexError> {
        let _alone = self.applying[stripe(shard)].lock();
        let applied = self.applied(shard)?.map_or(Seq::ZERO, |mark| mark.seq);
        let mut places = BTreeMap::new();
        let mut offsets = BTreeMap::new();
        for (header, place) in frames {
            let seq = header.seq;
            let other = Err(IndexError::NotApplied { shard, seq });
            if header.shard_id() != shard || seq > applied {
                return other;
            }
            let Some((first, row)) = self.places_row(shard, seq)? else { return other };
            let PlacesRow(row) = places.entry(first).or_insert(row);
            let Some(known) = nth(seq.0 - first.0).and_then(|at| row.get_mut(at)) else { return other };
            *known = *place;
            if header.kind == FrameKind::Events {
                let (lane, base) = (header.lane(), header.base_offset);
                let Some((first, row)) = self.offsets_row(lane, base)? else { return other };
                let row = offsets.entry((lane, first)).or_insert(row);
                let known = located(lane, first, row).position(|frame| {
                    (frame.base_offset, frame.shard, frame.seq, frame.events)
                        == (base, shard, seq, header.events)
                });
                let Some(known) = known.and_then(|at| row.frames.get_mut(at)) else { return other };
                known.place = *place;
            }
        }
        let mut batch = Batch::default();
        for (first, row) in places {
            batch.put(PlacesRow::FAMILY, keys::place(shard, first), row.encode());
        }
        for ((lane, first), row) in offsets {
            batch.put(OffsetsRow::FAMILY, keys::offset(lane, first), row.encode());
        }
        Ok(self.kv.write(batch)?)
    }

    /// The last applied frame of a shard.
    pub fn applied(&self, shard: ShardId) -> Result<Option<AppliedMark>, IndexError> {
        read_row(&*self.kv, &keys::shard(shard))
    }

    /// The last frame of a shard that is applied durably: a crash comes back to it or to a later one.
    pub fn checkpointed(&self, shard: ShardId) -> Option<AppliedMark> {
        self.checkpointed.lock().get(&shard).copied()
    }

    /// The applied marks of all shards, in their order.
    pub fn shards(&self) -> Result<Vec<(ShardId, AppliedMark)>, IndexError> {
        self.rows(&KeyRange::all(), Direction::Forward, usize::MAX, keys::parse_shard)
    }

    /// Where a frame lies.
    pub fn place(&self, shard: ShardId, seq: Seq) -> Result<Option<Place>, IndexError> {
        let row = self.places_row(shard, seq)?;
        Ok(row.and_then(|(first, PlacesRow(places))| places.get(nth(seq.0 - first.0)?).copied()))
    }

    /// Where the frames from `from` on lie, up to `limit` of them, by rising seq.
    pub fn places(&self, shard: ShardId, from: Seq, limit: usize) -> Result<Vec<(Seq, Place)>, IndexError> {
        let mut next = self.places_row(shard, from)?.map_or(from, |(first, _)| first);
        let mut found = Vec::new();
        while found.len() < limit {
            let range = KeyRange::prefix_from(&keys::shard(shard), &keys::place(shard, next));
            let most = ROWS.min(limit);
            let rows = self.rows::<PlacesRow, _>(&range, Direction::Forward, most, keys::parse_place)?;
            let is_last = rows.len() < most;
            for ((_, first), PlacesRow(places)) in rows {
                next = Seq(first.0 + places.len() as u64);
                let frames = (first.0..).map(Seq).zip(places).filter(|(seq, _)| *seq >= from);
                found.extend(frames.take(limit - found.len()));
            }
            if is_last {
                break;
            }
        }
        Ok(found)
    }

    /// What a lane adds up to. None: no frame of it is applied.
    pub fn lane(&self, lane: Lane) -> Result<Option<LaneState>, IndexError> {
        Ok(read_row::<LaneRow>(&*self.kv, &keys::lane(lane))?.map(|row| row.into_state(lane)))
    }

    /// The lanes of a stream, by (partition, origin).
    pub fn lanes_of(&self, stream: StreamId) -> Result<Vec<(Lane, LaneState)>, IndexError> {
        self.lanes_in(&KeyRange::prefix(&keys::stream(stream)))
    }

    /// All lanes, by (stream, partition, origin).
    pub fn all_lanes(&self) -> Result<Vec<(Lane, LaneState)>, IndexError> {
        self.lanes_in(&KeyRange::all())
    }

    /// The frame that holds an offset. None: the lane has not come so far, or not from so far back.
    pub fn locate(&self, lane: Lane, offset: Offset) -> Result<Option<Located>, IndexError> {
        let Some((first, row)) = self.offsets_row(lane, offset)? else { return Ok(None) };
        let holds = |frame: &Located| (frame.base_offset..frame.next_offset()).contains(&offset);
        Ok(located(lane, first, &row).find(holds))
    }

    /// The frames that hold offsets from `from` on, up to `limit` of them, in order. The first may begin before `from`.
    pub fn read_lane(&self, lane: Lane, from: Offset, limit: usize) -> Result<Vec<Located>, IndexError> {
        let mut next = self.offsets_row(lane, from)?.map_or(from, |(first, _)| first);
        let mut found: Vec<Located> = Vec::new();
        while found.len() < limit {
            let range = KeyRange::prefix_from(&keys::lane(lane), &keys::offset(lane, next));
            let most = ROWS.min(limit);
            let rows =
                self.rows::<OffsetsRow, _>(&range, Direction::Forward, most, keys::parse_under_lane)?;
            let is_last = rows.len() < most;
            for ((_, first), row) in rows {
                for frame in located(lane, Offset(first), &row) {
                    next = frame.next_offset();
                    if next > from && found.len() < limit {
                        found.push(frame);
                    }
                }
            }
            if is_last {
                break;
            }
        }
        Ok(found)
    }

    /// The base offset of the first batch with an event at `time` or later, as Kafka's `offsetsForTimes`; never before
    /// the lane's start. None: there is no such batch yet.
    pub fn offset_at(&self, lane: Lane, time: Timestamp) -> Result<Option<Offset>, IndexError> {
        let range = KeyRange::prefix_from(&keys::lane(lane), &keys::time(lane, time));
        let rows = self.rows::<TimeRow, _>(&range, Direction::Forward, 1, keys::parse_under_lane)?;
        let (Some((_, TimeRow(offset))), Some(state)) = (rows.first(), self.lane(lane)?) else {
            return Ok(None);
        };
        Ok(Some((*offset).max(state.start)))
    }

    /// What is known of a producer in a lane.
    pub fn producer(&self, lane: Lane, id: ProducerId) -> Result<Option<ProducerState>, IndexError> {
        read_row(&*self.kv, &keys::producer(lane, id))
    }

    /// The producers of a lane from id `from` on, up to `limit` of them, by rising id.
    pub fn producers_of(
        &self,
        lane: Lane,
        from: ProducerId,
        limit: usize,
    ) -> Result<Vec<(ProducerId, ProducerState)>, IndexError> {
        let range = KeyRange::prefix_from(&keys::lane(lane), &keys::producer(lane, from));
        self.rows(&range, Direction::Forward, limit, |key| {
            Ok(ProducerId(keys::parse_under_lane(key)?.1.cast_signed()))
        })
    }

    /// What a tenant has stored in a stream on this node, over all shards.
    pub fn usage(&self, tenant: TenantId, stream: StreamId) -> Result<Usage, IndexError> {
        let range = KeyRange::prefix(&keys::usage_of(tenant, stream));
        let rows = self.rows::<Usage, _>(&range, Direction::Forward, usize::MAX, |_| Ok(()))?;
        Ok(rows.iter().fold(Usage::default(), |sum, (_, usage)| Usage {
            events: sum.events.saturating_add(usage.events),
            bytes: sum.bytes.saturating_add(usage.bytes),
        }))
    }

    /// Keeps a position. Like all that is applied, it is durable with the next flush.
    pub fn put_cursor(&self, kind: CursorKind, name: &[u8], position: &[u8]) -> Result<(), IndexError> {
        let mut batch = Batch::default();
        batch.put(Family::Cursors, keys::cursor(kind as u8, name), position);
        Ok(self.kv.write(batch)?)
    }

    /// A position that was kept.
    pub fn cursor(&self, kind: CursorKind, name: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        Ok(self.kv.get(Family::Cursors, &keys::cursor(kind as u8, name))?)
    }

    /// Makes all that is applied durable, over all rows at once, and waits for it.
    pub fn flush(&self) -> Result<(), IndexError> {
        // Marks that rise while the flush runs may be in it or not, so these are read before.
        let applied = self.shards()?;
        self.kv.flush()?;
        let mut checkpointed = self.checkpointed.lock();
        for (shard, mark) in applied {
            let known = checkpointed.entry(shard).or_insert(mark);
            if known.seq < mark.seq {
                *known = mark;
            }
        }
        Ok(())
    }

    fn lanes_in(&self, range: &KeyRange) -> Result<Vec<(Lane, LaneState)>, IndexError> {
        let rows = self.rows::<LaneRow, _>(range, Direction::Forward, usize::MAX, keys::parse_lane)?;
        Ok(rows.into_iter().map(|(lane, row)| (lane, row.into_state(lane))).collect())
    }

    /// The row that holds a frame's place, if any does, and its first seq.
    fn places_row(&self, shard: ShardId, seq: Seq) -> Result<Option<(Seq, PlacesRow)>, IndexError> {
        let range = KeyRange::prefix_through(&keys::shard(shard), &keys::place(shard, seq));
        let floor = self.rows(&range, Direction::Reverse, 1, keys::parse_place)?.pop();
        Ok(floor.map(|((_, first), row)| (first, row)))
    }

    /// The row that holds the frame of an offset, if any does, and its first offset.
    fn offsets_row(&self, lane: Lane, offset: Offset) -> Result<Option<(Offset, OffsetsRow)>, IndexError> {
        let range = KeyRange::prefix_through(&keys::lane(lane), &keys::offset(lane, offset));
        let floor = self.rows(&range, Direction::Reverse, 1, keys::parse_under_lane)?.pop();
        Ok(floor.map(|((_, first), row)| (Offset(first), row)))
    }

    fn rows<R: Row, K>(
        &self,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
        parse: impl Fn(&[u8]) -> Result<K, RowError>,
    ) -> Result<Vec<(K, R)>, IndexError> {
        let pairs = self.kv.scan(R::FAMILY, range, direction, limit)?;
        let row = |(key, value): (Vec<u8>, Vec<u8>)| match (parse(&key), R::decode(&value)) {
            (Ok(parsed), Ok(row)) => Ok((parsed, row)),
            (Err(error), _) | (_, Err(error)) => Err(IndexError::Row { family: R::FAMILY, key, error }),
        };
        pairs.into_iter().map(row).collect()
    }
}

/// Says durably which format is written from now on.
fn stamp(kv: &dyn KeyValue) -> Result<(), KvError> {
    let mut batch = Batch::default();
    batch.put(Family::Default, FORMAT_KEY, FORMAT.to_le_bytes());
    kv.write(batch)?;
    kv.flush()
}

/// The frames of a row that begins at an offset.
fn located(lane: Lane, first: Offset, row: &OffsetsRow) -> impl Iterator<Item = Located> {
    let shard = ShardId { origin: lane.origin, no: row.no };
    row.frames.iter().scan(first, move |next, frame| {
        let located =
            Located { base_offset: *next, events: frame.events, shard, seq: frame.seq, place: frame.place };
        *next = located.next_offset();
        Some(located)
    })
}

/// Where in a row a frame is that is so far behind its first.
fn nth(behind: u64) -> Option<usize> {
    usize::try_from(behind).ok()
}

/// The row under a key.
pub(super) fn read_row<R: Row>(kv: &dyn KeyValue, key: &[u8]) -> Result<Option<R>, IndexError> {
    let Some(value) = kv.get(R::FAMILY, key)? else { return Ok(None) };
    let row = R::decode(&value);
    row.map(Some).map_err(|error| IndexError::Row { family: R::FAMILY, key: key.to_vec(), error })
}

fn stripe(shard: ShardId) -> usize {
    (shard.origin.to_u32() as usize).wrapping_mul(31).wrapping_add(usize::from(shard.no.0)) % STRIPES
}
