//! A workload that is a function of its seed, and what an index must say of any part of it, found the slow way.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use meridian_storage::index::{
    AppliedMark, FrameEffects, Index, LaneState, Located, PRODUCER_BATCHES, ProducerBatch, ProducerState,
    RememberedBatch, Usage,
};
use meridian_storage::{Chain, Frame, FrameHeader, FrameKind, Place};
use meridian_types::{
    Hlc, Lane, LogEpoch, Offset, Origin, Partition, ProducerEpoch, ProducerId, RegionId, Seq, ShardId,
    ShardNo, StreamId, TenantId, Timestamp, shard_of,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Shards of each of the two origins.
pub const SHARDS: u16 = 3;
/// Streams, with so many partitions each.
pub const STREAMS: u64 = 3;
pub const PARTITIONS: u32 = 4;
const TENANT: TenantId = TenantId::DEFAULT;
const FIRST_MILLISECOND: u64 = 1_700_000_000_000;

/// All shards of the workload.
pub fn shards() -> Vec<ShardId> {
    let origins = [Origin::first(RegionId(1)), Origin::first(RegionId(2))];
    origins
        .into_iter()
        .flat_map(|origin| (0..SHARDS).map(move |no| ShardId { origin, no: ShardNo(no) }))
        .collect()
}

/// All lanes that live in a shard.
pub fn lanes_in(shard: ShardId) -> Vec<Lane> {
    (1..=STREAMS)
        .flat_map(|stream| (0..PARTITIONS).map(move |partition| (StreamId(stream), Partition(partition))))
        .filter(|&(stream, partition)| shard_of(stream, partition, SHARDS) == shard.no)
        .map(|(stream, partition)| Lane { stream, partition, origin: shard.origin })
        .collect()
}

/// A shard's log, made frame by frame.
pub struct Log {
    shard: ShardId,
    lanes: Vec<Lane>,
    rng: StdRng,
    last: AppliedMark,
    ends: BTreeMap<Lane, Offset>,
    sequences: BTreeMap<(Lane, ProducerId, ProducerEpoch), i32>,
    place: Place,
}

impl Log {
    /// The log of a shard in the world of a seed, from seq 1.
    pub fn new(seed: u64, shard: ShardId) -> Self {
        let own = (u64::from(shard.origin.to_u32()) << 16) | u64::from(shard.no.0);
        Self {
            shard,
            lanes: lanes_in(shard),
            rng: StdRng::seed_from_u64(seed ^ own.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            last: AppliedMark {
                seq: Seq::ZERO,
                log_epoch: LogEpoch(1),
                hlc: Hlc::at(Timestamp(FIRST_MILLISECOND)),
                chain: Chain::GENESIS,
            },
            ends: BTreeMap::new(),
            sequences: BTreeMap::new(),
            place: Place { file: 1, at: 4096, len: 0 },
        }
    }

    /// The next frame.
    pub fn frame(&mut self) -> FrameEffects {
        let kind = match self.rng.random_range(0..20) {
            _ if self.lanes.is_empty() || self.last.seq == Seq::ZERO => FrameKind::EpochStart,
            0 => FrameKind::EpochStart,
            1 => FrameKind::Tick,
            2 => FrameKind::CursorCommit,
            _ => FrameKind::Events,
        };
        let lane = match kind {
            FrameKind::Events => self.lanes[self.rng.random_range(0..self.lanes.len())],
            _ => Lane { stream: StreamId(0), partition: Partition(0), origin: self.shard.origin },
        };
        let events = if kind == FrameKind::Events { self.rng.random_range(1..20) } else { 0 };
        let end = self.ends.entry(lane).or_insert(Offset::ZERO);
        let base_offset = *end;
        *end = end.plus(u64::from(events));
        let log_epoch = LogEpoch(self.last.log_epoch.0 + u32::from(kind == FrameKind::EpochStart));
        let hlc = Hlc(self.last.hlc.0 + self.rng.random_range(1..1 << 20));
        let fields = FrameHeader {
            kind,
            origin: self.shard.origin,
            shard: self.shard.no,
            seq: self.last.seq.next(),
            log_epoch,
            hlc,
            tenant: TENANT,
            stream: lane.stream,
            partition: lane.partition,
            base_offset,
            events,
            payload_len: 0,
            payload_crc: 0,
            chain: Chain::GENESIS,
        };
        let payload = vec![self.rng.random(); self.rng.random_range(0..300)];
        let frame = Frame::build(fields, self.last.chain, Bytes::from(payload));
        let header = frame.header;
        self.last = AppliedMark { seq: header.seq, log_epoch, hlc, chain: header.chain };
        self.place.at += u64::from(self.place.len) + 4096 * self.rng.random_range(0..2);
        self.place.len = u32::try_from(frame.encoded_len()).expect("a small frame");
        if self.place.at > 1 << 20 {
            self.place = Place { file: self.place.file + 1, at: 4096, ..self.place };
        }
        // Events come with times out of order, as clients have them.
        let max_timestamp = Timestamp(hlc.time().0.saturating_sub(self.rng.random_range(0..2_000)));
        let producer = self.rng.random_bool(0.7).then(|| self.producer(lane, events)).filter(|_| events > 0);
        FrameEffects { header, place: self.place, producer, max_timestamp }
    }

    fn producer(&mut self, lane: Lane, events: u32) -> ProducerBatch {
        let id = ProducerId(self.rng.random_range(0..4));
        // Epochs rise in the long run and now and then an old one writes once more.
        let epoch = ProducerEpoch((self.last.seq.0 / 40) as i16 - i16::from(self.rng.random_bool(0.1)));
        let next = self.sequences.entry((lane, id, epoch)).or_insert(0);
        let first_sequence = *next;
        *next += events as i32;
        ProducerBatch { id, epoch, first_sequence, last_sequence: *next - 1 }
    }
}

/// Logs of all shards, each as far as it was asked for.
pub struct World {
    seed: u64,
    logs: BTreeMap<ShardId, (Log, Vec<FrameEffects>)>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let logs = shards().into_iter().map(|shard| (shard, (Log::new(seed, shard), Vec::new()))).collect();
        Self { seed, logs }
    }

    /// The frames of a shard from `from` on, `count` of them.
    pub fn frames(&mut self, shard: ShardId, from: Seq, count: usize) -> &[FrameEffects] {
        let (log, frames) = self.logs.get_mut(&shard).expect("a shard of the workload");
        let from = usize::try_from(from.0 - 1).expect("a short log");
        while frames.len() < from + count {
            frames.push(log.frame());
        }
        &frames[from..from + count]
    }

    /// Compares all that the index holds with what the frames up to its marks add up to.
    pub fn check(&mut self, index: &Index) {
        let seed = self.seed;
        let marks: BTreeMap<ShardId, AppliedMark> = index.shards().expect("marks").into_iter().collect();
        let mut lanes = Vec::new();
        let mut usage: BTreeMap<StreamId, Usage> = BTreeMap::new();
        for shard in shards() {
            let count = marks.get(&shard).map_or(0, |mark| mark.seq.0 as usize);
            let frames = self.frames(shard, Seq(1), count).to_vec();
            let context = format!("seed {seed}, shard {shard}, {count} frames");
            assert_eq!(index.applied(shard).expect("a mark"), frames.last().map(mark), "{context}");
            let places: Vec<_> = frames.iter().map(|frame| (frame.header.seq, frame.place)).collect();
            assert!(index.places(shard, Seq(0), usize::MAX).expect("places") == places, "{context}");
            for lane in lanes_in(shard) {
                let of_lane = |frame: &&FrameEffects| {
                    frame.header.kind == FrameKind::Events && frame.header.lane() == lane
                };
                let frames: Vec<FrameEffects> = frames.iter().filter(of_lane).copied().collect();
                let state = check_lane(index, lane, &frames, &format!("{context}, lane {lane}"));
                if let Some(state) = state {
                    let usage = usage.entry(lane.stream).or_default();
                    usage.events += state.events;
                    usage.bytes += state.bytes;
                    lanes.push((lane, state));
                }
            }
        }
        lanes.sort_by_key(|(lane, _)| *lane);
        assert_eq!(index.all_lanes().expect("lanes"), lanes, "seed {seed}");
        for stream in (1..=STREAMS).map(StreamId) {
            let of_stream: Vec<_> = lanes.iter().filter(|(lane, _)| lane.stream == stream).copied().collect();
            assert_eq!(index.lanes_of(stream).expect("lanes"), of_stream, "seed {seed}");
            let expected = usage.get(&stream).copied().unwrap_or_default();
            assert_eq!(index.usage(TENANT, stream).expect("usage"), expected, "seed {seed}, stream {stream}");
        }
    }
}

/// The mark that a frame leaves.
pub fn mark(frame: &FrameEffects) -> AppliedMark {
    let FrameHeader { seq, log_epoch, hlc, chain, .. } = frame.header;
    AppliedMark { seq, log_epoch, hlc, chain }
}

fn located(frame: &FrameEffects) -> Located {
    Located {
        base_offset: frame.header.base_offset,
        events: frame.header.events,
        shard: frame.header.shard_id(),
        seq: frame.header.seq,
        place: frame.place,
    }
}

fn check_lane(index: &Index, lane: Lane, frames: &[FrameEffects], context: &str) -> Option<LaneState> {
    let state = frames.last().map(|last| LaneState {
        shard: last.header.shard_id(),
        tenant: TENANT,
        start: Offset::ZERO,
        end: last.header.next_offset(),
        last_hlc: last.header.hlc,
        last_timestamp: last.max_timestamp,
        max_timestamp: frames.iter().map(|frame| frame.max_timestamp).max().expect("a last one"),
        bytes: frames.iter().map(|frame| u64::from(frame.header.payload_len)).sum(),
        events: frames.iter().map(|frame| u64::from(frame.header.events)).sum(),
    });
    assert_eq!(index.lane(lane).expect("a lane"), state, "{context}");
    let all: Vec<Located> = frames.iter().map(located).collect();
    assert!(index.read_lane(lane, Offset::ZERO, usize::MAX).expect("frames") == all, "{context}");

    let end = state.map_or(0, |state| state.end.0);
    for offset in (0..end + 2).step_by(1 + end as usize / 40).map(Offset) {
        let holds = |one: &&Located| one.base_offset <= offset && offset < one.next_offset();
        let expected = all.iter().find(holds).copied();
        assert_eq!(index.locate(lane, offset).expect("a frame"), expected, "{context}, offset {offset}");
        let onwards: Vec<Located> =
            all.iter().filter(|one| one.next_offset() > offset).take(3).copied().collect();
        assert_eq!(index.read_lane(lane, offset, 3).expect("frames"), onwards, "{context}, offset {offset}");
    }

    let times: BTreeSet<u64> = frames
        .iter()
        .step_by(1 + frames.len() / 40)
        .flat_map(|frame| [frame.max_timestamp.0 - 1, frame.max_timestamp.0, frame.max_timestamp.0 + 1])
        .chain([0, u64::MAX])
        .collect();
    for time in times.into_iter().map(Timestamp) {
        let first = frames.iter().find(|frame| frame.max_timestamp >= time);
        let expected = first.map(|frame| frame.header.base_offset);
        assert_eq!(index.offset_at(lane, time).expect("an offset"), expected, "{context}, time {}", time.0);
    }

    let producers = index.producers_of(lane, ProducerId(0), usize::MAX).expect("producers");
    assert_eq!(producers, producers_after(frames), "{context}");
    for (id, state) in producers {
        assert_eq!(index.producer(lane, id).expect("a producer"), Some(state), "{context}, producer {id}");
    }
    state
}

/// The batches of the highest epoch of each producer, the last few of them.
fn producers_after(frames: &[FrameEffects]) -> Vec<(ProducerId, ProducerState)> {
    let batches = || frames.iter().filter_map(|frame| Some((frame, frame.producer?)));
    let ids: BTreeSet<ProducerId> = batches().map(|(_, batch)| batch.id).collect();
    let state = |id| {
        let epoch = batches().filter(|(_, batch)| batch.id == id).map(|(_, batch)| batch.epoch).max()?;
        let mut batches: Vec<RememberedBatch> = batches()
            .filter(|(_, batch)| batch.id == id && batch.epoch == epoch)
            .map(|(frame, batch)| RememberedBatch {
                first_sequence: batch.first_sequence,
                last_sequence: batch.last_sequence,
                base_offset: frame.header.base_offset,
                seq: frame.header.seq,
                hlc: frame.header.hlc,
            })
            .collect();
        batches.drain(..batches.len().saturating_sub(PRODUCER_BATCHES));
        Some((id, ProducerState { epoch, batches }))
    };
    ids.into_iter().filter_map(state).collect()
}
