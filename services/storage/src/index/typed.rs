//! The index that the rest of the system sees.

use std::collections::BTreeMap;
use std::sync::Arc;

use meridian_types::{Lane, Offset, ProducerId, Seq, ShardId, StreamId, TenantId, Timestamp};
use parking_lot::Mutex;

use super::apply::{FrameEffects, Run};
use super::keys::{self, FORMAT, FORMAT_KEY, Family, StoredFormat};
use super::rows::{LaneRow, OffsetRow, Row, TimeRow};
use super::{
    AppliedMark, Batch, Direction, IndexError, KeyRange, KeyValue, LaneState, ProducerState, RowError, Usage,
};
use crate::{FrameHeader, FrameKind, Place};

/// Shards apply side by side; more locks than threads that do.
const STRIPES: usize = 32;

/// Places, lanes, producers, cursors, usage and marks over a [`KeyValue`].
///
/// All calls are synchronous and may read or write the disk; `flush` waits for it.
pub struct Index {
    kv: Arc<dyn KeyValue>,
    /// A run is checked against rows that it then writes, so two runs of one shard must not overlap.
    applying: [Mutex<()>; STRIPES],
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
}

impl Index {
    /// The index over a floor. A new floor gets the format, durably; one of a newer format is refused unchanged.
    pub fn open(kv: Arc<dyn KeyValue>) -> Result<Self, IndexError> {
        match StoredFormat::of(kv.get(Family::Default, FORMAT_KEY)?.as_deref()) {
            StoredFormat::Known => {}
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
                let mut batch = Batch::default();
                batch.put(Family::Default, FORMAT_KEY, FORMAT.to_le_bytes());
                kv.write(batch)?;
                kv.flush()?;
            }
        }
        let index =
            Self { kv, applying: std::array::from_fn(|_| Mutex::new(())), checkpointed: Mutex::default() };
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
        let _alone = self.applying[stripe(shard)].lock();
        let mut run = Run::after(&*self.kv, shard)?;
        for frame in frames {
            run.add(frame)?;
        }
        Ok(self.kv.write(run.finish())?)
    }

    /// Says where applied frames lie now, which were stored again, in one batch. Saying it twice changes nothing.
    ///
    /// # Errors
    /// A frame that is not applied, or of another lane or offset than the one that is: nothing is changed then.
    pub fn relocate(&self, shard: ShardId, frames: &[(FrameHeader, Place)]) -> Result<(), IndexError> {
        let _alone = self.applying[stripe(shard)].lock();
        let applied = self.applied(shard)?.map_or(Seq::ZERO, |mark| mark.seq);
        let mut batch = Batch::default();
        for (header, place) in frames {
            let seq = header.seq;
            let other = Err(IndexError::NotApplied { shard, seq });
            if header.shard_id() != shard || seq > applied || self.place(shard, seq)?.is_none() {
                return other;
            }
            batch.put(Place::FAMILY, keys::place(shard, seq), place.encode());
            if header.kind == FrameKind::Events {
                let key = keys::offset(header.lane(), header.base_offset);
                match read_row::<OffsetRow>(&*self.kv, &key)? {
                    Some(row) if (row.no, row.seq, row.events) == (shard.no, seq, header.events) => {
                        batch.put(OffsetRow::FAMILY, key, OffsetRow { place: *place, ..row }.encode());
                    }
                    _ => return other,
                }
            }
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
        read_row(&*self.kv, &keys::place(shard, seq))
    }

    /// Where the frames from `from` on lie, up to `limit` of them, by rising seq.
    pub fn places(&self, shard: ShardId, from: Seq, limit: usize) -> Result<Vec<(Seq, Place)>, IndexError> {
        let range = KeyRange::prefix_from(&keys::shard(shard), &keys::place(shard, from));
        self.rows(&range, Direction::Forward, limit, |key| Ok(keys::parse_place(key)?.1))
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
        let range = KeyRange::prefix_through(&keys::lane(lane), &keys::offset(lane, offset));
        let floor = self.offsets(lane, &range, Direction::Reverse, 1)?.pop();
        Ok(floor.filter(|frame| offset < frame.next_offset()))
    }

    /// The frames that hold offsets from `from` on, up to `limit` of them, in order. The first may begin before `from`.
    pub fn read_lane(&self, lane: Lane, from: Offset, limit: usize) -> Result<Vec<Located>, IndexError> {
        let first = self.locate(lane, from)?.map_or(from, |frame| frame.base_offset);
        let range = KeyRange::prefix_from(&keys::lane(lane), &keys::offset(lane, first));
        self.offsets(lane, &range, Direction::Forward, limit)
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

    fn offsets(
        &self,
        lane: Lane,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Located>, IndexError> {
        let rows = self.rows::<OffsetRow, _>(range, direction, limit, keys::parse_under_lane)?;
        let located = rows.into_iter().map(|((_, base), OffsetRow { events, no, seq, place })| Located {
            base_offset: Offset(base),
            events,
            shard: ShardId { origin: lane.origin, no },
            seq,
            place,
        });
        Ok(located.collect())
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

/// The row under a key.
pub(super) fn read_row<R: Row>(kv: &dyn KeyValue, key: &[u8]) -> Result<Option<R>, IndexError> {
    let Some(value) = kv.get(R::FAMILY, key)? else { return Ok(None) };
    let row = R::decode(&value);
    row.map(Some).map_err(|error| IndexError::Row { family: R::FAMILY, key: key.to_vec(), error })
}

fn stripe(shard: ShardId) -> usize {
    (shard.origin.to_u32() as usize).wrapping_mul(31).wrapping_add(usize::from(shard.no.0)) % STRIPES
}
