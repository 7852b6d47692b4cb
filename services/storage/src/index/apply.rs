//! From a run of frames to one batch of rows.
//!
//! What a frame changes depends on the frame and on the rows before it, on nothing else, so a replay comes to the same index.

use std::collections::BTreeMap;

use meridian_types::{
    Hlc, Lane, Offset, ProducerEpoch, ProducerId, Seq, ShardId, StreamId, TenantId, Timestamp,
};

use super::known::Known;
use super::rows::{LaneFrame, LaneRow, OffsetsRow, PlacesRow, ROW_FRAMES, Row, TimeRow};
use super::{
    AppliedMark, Batch, IndexError, KeyValue, LaneState, PRODUCER_BATCHES, ProducerState, RememberedBatch,
    Usage, keys,
};
use crate::{Chain, FrameHeader, FrameKind, Place};

/// What a committed and flushed frame does to the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameEffects {
    /// The frame's header.
    pub header: FrameHeader,
    /// Where the frame lies.
    pub place: Place,
    /// The idempotent producer of its batch, if it has one.
    pub producer: Option<ProducerBatch>,
    /// The highest timestamp in its batch; without meaning for other kinds than Events.
    pub max_timestamp: Timestamp,
}

/// What a batch says of its idempotent producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerBatch {
    /// Who.
    pub id: ProducerId,
    /// In which epoch.
    pub epoch: ProducerEpoch,
    /// The sequence of the first event.
    pub first_sequence: i32,
    /// The sequence of the last event.
    pub last_sequence: i32,
}

/// The rows of a run, gathered. Rows that many frames of a run change are read once and written once.
pub(super) struct Run<'a> {
    kv: &'a dyn KeyValue,
    known: &'a mut Known,
    shard: ShardId,
    mark: AppliedMark,
    first: Seq,
    places: Vec<Place>,
    lanes: BTreeMap<Lane, LaneRun>,
    producers: BTreeMap<(Lane, ProducerId), ProducerState>,
    usage: BTreeMap<(TenantId, StreamId), Usage>,
    batch: Batch,
}

/// What a run adds to a lane.
struct LaneRun {
    state: LaneState,
    first: Offset,
    frames: Vec<LaneFrame>,
}

impl<'a> Run<'a> {
    /// A run that begins after the shard's applied mark. What is `known` of the rows is not read.
    pub fn after(kv: &'a dyn KeyValue, known: &'a mut Known, shard: ShardId) -> Result<Self, IndexError> {
        let before_all = AppliedMark {
            seq: Seq::ZERO,
            log_epoch: Default::default(),
            hlc: Hlc::ZERO,
            chain: Chain::GENESIS,
        };
        let mark = known.mark(kv, shard)?.unwrap_or(before_all);
        Ok(Self {
            kv,
            known,
            shard,
            mark,
            first: mark.seq.next(),
            places: Vec::new(),
            lanes: BTreeMap::new(),
            producers: BTreeMap::new(),
            usage: BTreeMap::new(),
            batch: Batch::default(),
        })
    }

    /// Adds the next frame, or says why it cannot be the next.
    pub fn add(&mut self, frame: &FrameEffects) -> Result<(), IndexError> {
        let header = &frame.header;
        let (shard, seq) = (self.shard, header.seq);
        if header.shard_id() != shard {
            return Err(IndexError::OtherShard { shard, got: header.shard_id(), seq });
        }
        let expected = self.mark.seq.next();
        if seq != expected {
            return Err(IndexError::NotNext { shard, expected, got: seq });
        }
        if !header.follows(self.mark.chain) {
            return Err(IndexError::Chain { shard, seq });
        }
        self.places.push(frame.place);
        if header.kind == FrameKind::Events {
            self.add_to_lane(frame)?;
            self.add_to_producer(frame)?;
            self.add_to_usage(header)?;
        }
        self.mark = AppliedMark { seq, log_epoch: header.log_epoch, hlc: header.hlc, chain: header.chain };
        Ok(())
    }

    fn add_to_lane(&mut self, frame: &FrameEffects) -> Result<(), IndexError> {
        let (header, lane) = (&frame.header, frame.header.lane());
        let (base, events, seq) = (header.base_offset, header.events, header.seq);
        if !self.lanes.contains_key(&lane) {
            let state = self.known.lane(self.kv, lane)?.unwrap_or(LaneState {
                shard: self.shard,
                tenant: header.tenant,
                start: Offset::ZERO,
                end: Offset::ZERO,
                last_hlc: Hlc::ZERO,
                last_timestamp: Timestamp(0),
                max_timestamp: Timestamp(0),
                bytes: 0,
                events: 0,
            });
            self.lanes.insert(lane, LaneRun { state, first: state.end, frames: Vec::new() });
        }
        let Some(LaneRun { state, frames, .. }) = self.lanes.get_mut(&lane) else { return Ok(()) };
        if state.shard != self.shard {
            return Err(IndexError::LaneElsewhere { lane, home: state.shard, got: self.shard, seq });
        }
        if base != state.end {
            return Err(IndexError::LaneGap { lane, end: state.end, got: base, seq });
        }
        let end = match base.0.checked_add(u64::from(events)) {
            Some(end) if events > 0 => Offset(end),
            _ => return Err(IndexError::EventCount { lane, seq, events }),
        };
        frames.push(LaneFrame { events, seq, place: frame.place });
        // Only a batch that exceeds all before it can be the first that reaches some time.
        if state.events == 0 || frame.max_timestamp > state.max_timestamp {
            self.batch.put(TimeRow::FAMILY, keys::time(lane, frame.max_timestamp), TimeRow(base).encode());
            state.max_timestamp = frame.max_timestamp;
        }
        state.end = end;
        state.last_hlc = header.hlc;
        state.last_timestamp = frame.max_timestamp;
        state.bytes = state.bytes.saturating_add(u64::from(header.payload_len));
        state.events = state.events.saturating_add(u64::from(events));
        Ok(())
    }

    fn add_to_producer(&mut self, frame: &FrameEffects) -> Result<(), IndexError> {
        let Some(batch) = frame.producer.filter(|batch| batch.id.is_some()) else { return Ok(()) };
        let at = (frame.header.lane(), batch.id);
        let state = match self.producers.remove(&at) {
            Some(state) => Some(state),
            None => self.known.producer(self.kv, at)?,
        };
        let mut state = match state {
            Some(state) if state.epoch >= batch.epoch => state,
            // A higher epoch begins anew, as a producer without a past does.
            _ => ProducerState { epoch: batch.epoch, batches: Vec::new() },
        };
        // The leader refuses an epoch that was passed. Should one be in the log all the same, it changes nothing here.
        if state.epoch == batch.epoch {
            if state.batches.len() == PRODUCER_BATCHES {
                state.batches.remove(0);
            }
            state.batches.push(RememberedBatch {
                first_sequence: batch.first_sequence,
                last_sequence: batch.last_sequence,
                base_offset: frame.header.base_offset,
                seq: frame.header.seq,
                hlc: frame.header.hlc,
            });
        }
        self.producers.insert(at, state);
        Ok(())
    }

    fn add_to_usage(&mut self, header: &FrameHeader) -> Result<(), IndexError> {
        let (tenant, stream) = (header.tenant, header.stream);
        let mut usage = match self.usage.get(&(tenant, stream)) {
            Some(usage) => *usage,
            None => self.known.usage(self.kv, (tenant, stream, self.shard))?.unwrap_or_default(),
        };
        usage.events = usage.events.saturating_add(u64::from(header.events));
        usage.bytes = usage.bytes.saturating_add(u64::from(header.payload_len));
        self.usage.insert((tenant, stream), usage);
        Ok(())
    }

    /// Writes all rows and the mark.
    pub fn write(self) -> Result<(), IndexError> {
        let Self { kv, known, shard, mark, first, places, lanes, producers, usage, mut batch } = self;
        let mut seq = first;
        for places in places.chunks(ROW_FRAMES) {
            batch.put(PlacesRow::FAMILY, keys::place(shard, seq), PlacesRow(places.to_vec()).encode());
            seq = Seq(seq.0 + places.len() as u64);
        }
        for (lane, LaneRun { state, first, frames }) in &lanes {
            let mut base = *first;
            for frames in frames.chunks(ROW_FRAMES) {
                let row = OffsetsRow { no: shard.no, frames: frames.to_vec() };
                batch.put(OffsetsRow::FAMILY, keys::offset(*lane, base), row.encode());
                base = base.plus(frames.iter().map(|frame| u64::from(frame.events)).sum());
            }
            batch.put(LaneRow::FAMILY, keys::lane(*lane), LaneRow::of(*lane, state).encode());
        }
        for ((lane, id), state) in &producers {
            batch.put(ProducerState::FAMILY, keys::producer(*lane, *id), state.encode());
        }
        for ((tenant, stream), usage) in &usage {
            batch.put(Usage::FAMILY, keys::usage(*tenant, *stream, shard), usage.encode());
        }
        batch.put(AppliedMark::FAMILY, keys::shard(shard), mark.encode());
        if let Err(error) = kv.write(batch) {
            // It may have been done or not.
            known.forget();
            return Err(error.into());
        }
        let lanes = lanes.into_iter().map(|(lane, run)| (lane, run.state));
        let usage = usage.into_iter().map(|((tenant, stream), usage)| ((tenant, stream, shard), usage));
        known.wrote((shard, mark), lanes, producers, usage);
        Ok(())
    }
}
