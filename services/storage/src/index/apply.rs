//! From a run of frames to one batch of rows.
//!
//! What a frame changes depends on the frame and on the rows before it, on nothing else, so a replay writes the same rows.

use std::collections::BTreeMap;

use meridian_types::{
    Hlc, Lane, Offset, ProducerEpoch, ProducerId, Seq, ShardId, StreamId, TenantId, Timestamp,
};

use super::rows::{LaneRow, OffsetRow, Row, TimeRow};
use super::typed::read_row;
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
    shard: ShardId,
    mark: AppliedMark,
    lanes: BTreeMap<Lane, LaneState>,
    producers: BTreeMap<(Lane, ProducerId), ProducerState>,
    usage: BTreeMap<(TenantId, StreamId), Usage>,
    batch: Batch,
}

impl<'a> Run<'a> {
    /// A run that begins after the shard's applied mark.
    pub fn after(kv: &'a dyn KeyValue, shard: ShardId) -> Result<Self, IndexError> {
        let before_all = AppliedMark {
            seq: Seq::ZERO,
            log_epoch: Default::default(),
            hlc: Hlc::ZERO,
            chain: Chain::GENESIS,
        };
        Ok(Self {
            kv,
            shard,
            mark: read_row(kv, &keys::shard(shard))?.unwrap_or(before_all),
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
        self.batch.put(Place::FAMILY, keys::place(shard, seq), frame.place.encode());
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
        let mut state = match self.lanes.get(&lane) {
            Some(state) => *state,
            None => match read_row::<LaneRow>(self.kv, &keys::lane(lane))? {
                Some(row) => row.into_state(lane),
                None => LaneState {
                    shard: self.shard,
                    tenant: header.tenant,
                    start: Offset::ZERO,
                    end: Offset::ZERO,
                    last_hlc: Hlc::ZERO,
                    last_timestamp: Timestamp(0),
                    max_timestamp: Timestamp(0),
                    bytes: 0,
                    events: 0,
                },
            },
        };
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
        let row = OffsetRow { events, no: self.shard.no, seq, place: frame.place };
        self.batch.put(OffsetRow::FAMILY, keys::offset(lane, base), row.encode());
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
        self.lanes.insert(lane, state);
        Ok(())
    }

    fn add_to_producer(&mut self, frame: &FrameEffects) -> Result<(), IndexError> {
        let Some(batch) = frame.producer.filter(|batch| batch.id.is_some()) else { return Ok(()) };
        let at = (frame.header.lane(), batch.id);
        let state = match self.producers.remove(&at) {
            Some(state) => Some(state),
            None => read_row::<ProducerState>(self.kv, &keys::producer(at.0, at.1))?,
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
            None => read_row::<Usage>(self.kv, &keys::usage(tenant, stream, self.shard))?.unwrap_or_default(),
        };
        usage.events = usage.events.saturating_add(u64::from(header.events));
        usage.bytes = usage.bytes.saturating_add(u64::from(header.payload_len));
        self.usage.insert((tenant, stream), usage);
        Ok(())
    }

    /// All rows and the mark.
    pub fn finish(mut self) -> Batch {
        let batch = &mut self.batch;
        for (lane, state) in &self.lanes {
            batch.put(LaneRow::FAMILY, keys::lane(*lane), LaneRow::of(*lane, state).encode());
        }
        for ((lane, id), state) in &self.producers {
            batch.put(ProducerState::FAMILY, keys::producer(*lane, *id), state.encode());
        }
        for ((tenant, stream), usage) in &self.usage {
            batch.put(Usage::FAMILY, keys::usage(*tenant, *stream, self.shard), usage.encode());
        }
        batch.put(AppliedMark::FAMILY, keys::shard(self.shard), self.mark.encode());
        self.batch
    }
}
