//! The laws of the typed index, over the twin in memory.

mod index_model;

use std::sync::{Arc, Barrier};

use bytes::Bytes;
use index_model::{World, lanes_in, mark, shards};
use meridian_storage::index::{
    Batch, CursorKind, Family, FrameEffects, Index, IndexError, KeyValue, MemoryKeyValue, RowError, Usage,
    keys,
};
use meridian_storage::{Chain, Frame, FrameHeader, Place};
use meridian_types::{Offset, ProducerEpoch, ProducerId, Seq, ShardNo, TenantId, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn open() -> (Arc<MemoryKeyValue>, Index) {
    let kv = Arc::new(MemoryKeyValue::new());
    let index = Index::open(kv.clone()).expect("a new index");
    (kv, index)
}

/// The first events of a shard, all in one lane and from its start.
fn one_lane(world: &mut World, count: usize) -> Vec<FrameEffects> {
    let shard = *shards().iter().find(|shard| !lanes_in(**shard).is_empty()).expect("a shard with lanes");
    let frames = world.frames(shard, Seq(1), 400);
    let lane = frames.iter().find(|frame| frame.header.events > 0).expect("events").header.lane();
    let of_lane = frames.iter().filter(|frame| frame.header.events > 0 && frame.header.lane() == lane);
    let mut rechained = Vec::new();
    for frame in of_lane.take(count) {
        rechain(&mut rechained, *frame);
    }
    rechained
}

/// Appends a frame behind others: with the next seq and their chain.
fn rechain(frames: &mut Vec<FrameEffects>, frame: FrameEffects) {
    let (seq, chain) =
        frames.last().map_or((Seq(1), Chain::GENESIS), |last| (last.header.seq.next(), last.header.chain));
    let payload = Bytes::from(vec![7; frame.header.payload_len as usize]);
    let built = Frame::build(FrameHeader { seq, ..frame.header }, chain, payload);
    frames.push(FrameEffects { header: built.header, ..frame });
}

#[test]
fn holds_what_the_frames_up_to_its_marks_add_up_to_through_crashes() {
    for seed in 0..150 {
        let mut world = World::new(seed);
        let mut rng = StdRng::seed_from_u64(seed);
        let (kv, mut index) = open();
        let shards = shards();
        for _ in 0..rng.random_range(1..60) {
            match rng.random_range(0..20) {
                0 => {
                    let durable: Vec<_> = shards.iter().map(|&shard| index.checkpointed(shard)).collect();
                    kv.crash();
                    index = Index::open(kv.clone()).expect("an index after a crash");
                    for (&shard, durable) in shards.iter().zip(durable) {
                        // This twin makes durable what a flush did and nothing else.
                        assert_eq!(index.applied(shard).expect("a mark"), durable, "seed {seed}");
                        assert_eq!(index.checkpointed(shard), durable, "seed {seed}");
                    }
                    world.check(&index);
                }
                1 | 2 => {
                    index.flush().expect("a flush");
                    for &shard in &shards {
                        assert_eq!(index.checkpointed(shard), index.applied(shard).expect("a mark"));
                    }
                }
                _ => {
                    let shard = shards[rng.random_range(0..shards.len())];
                    let from = index.applied(shard).expect("a mark").map_or(Seq(1), |mark| mark.seq.next());
                    let run = world.frames(shard, from, rng.random_range(0..20));
                    index.apply(shard, run).expect("the next frames");
                }
            }
        }
        world.check(&index);
    }
}

#[test]
fn a_refused_run_changes_nothing() {
    let mut world = World::new(1);
    let (_, index) = open();
    let good = one_lane(&mut world, 4);
    let shard = good[0].header.shard_id();
    let lane = good[0].header.lane();
    index.apply(shard, &good[..2]).expect("two frames");
    let before = (index.applied(shard), index.lane(lane), index.places(shard, Seq(0), 99));

    let altered = |change: &dyn Fn(&mut FrameHeader)| {
        let mut run = good[..3].to_vec();
        let mut bad = good[3];
        change(&mut bad.header);
        rechain(&mut run, bad);
        run[2..].to_vec()
    };
    let gap = altered(&|header| header.base_offset = header.base_offset.plus(1));
    let overlap = altered(&|header| header.base_offset.0 -= 1);
    let empty = altered(&|header| header.events = 0);
    let other = altered(&|header| header.shard = ShardNo(header.shard.0 ^ 1));
    let mut unchained = good[2..].to_vec();
    unchained[1].header.chain = Chain([9; 16]);
    let (end, seq) = (good[3].header.base_offset, Seq(4));

    let refusals = [
        (vec![good[3]], IndexError::NotNext { shard, expected: Seq(3), got: Seq(4) }),
        (vec![good[1], good[2]], IndexError::NotNext { shard, expected: Seq(3), got: Seq(2) }),
        (vec![good[2], good[2]], IndexError::NotNext { shard, expected: Seq(4), got: Seq(3) }),
        (gap, IndexError::LaneGap { lane, end, got: end.plus(1), seq }),
        (overlap, IndexError::LaneGap { lane, end, got: Offset(end.0 - 1), seq }),
        (empty, IndexError::EventCount { lane, seq, events: 0 }),
        (other.clone(), IndexError::OtherShard { shard, got: other[1].header.shard_id(), seq }),
        (unchained, IndexError::Chain { shard, seq }),
    ];
    for (run, expected) in refusals {
        assert_eq!(index.apply(shard, &run), Err(expected));
        assert_eq!((index.applied(shard), index.lane(lane), index.places(shard, Seq(0), 99)), before);
    }
    index.apply(shard, &good[2..]).expect("the right frames");
    assert_eq!(index.applied(shard), Ok(good.last().map(mark)));
}

#[test]
fn a_lane_stays_in_its_shard() {
    let (_, index) = open();
    let good = one_lane(&mut World::new(2), 2);
    let home = good[0].header.shard_id();
    index.apply(home, &good[..1]).expect("a frame");
    let mut elsewhere = Vec::new();
    let mut frame = good[1];
    frame.header.shard = ShardNo(home.no.0 ^ 1);
    rechain(&mut elsewhere, frame);
    let got = frame.header.shard_id();
    let refused = IndexError::LaneElsewhere { lane: frame.header.lane(), home, got, seq: Seq(1) };
    assert_eq!(index.apply(got, &elsewhere), Err(refused));
}

#[test]
fn the_first_batch_that_reaches_a_time() {
    let (_, index) = open();
    let mut frames = one_lane(&mut World::new(3), 5);
    for (frame, time) in frames.iter_mut().zip([100, 50, 100, 300, 200]) {
        frame.max_timestamp = Timestamp(time);
    }
    let lane = frames[0].header.lane();
    let at = |time| index.offset_at(lane, Timestamp(time)).expect("an offset");
    assert_eq!(at(0), None, "nothing is applied");
    index.apply(frames[0].header.shard_id(), &frames).expect("the frames");
    let base = |number: usize| Some(frames[number].header.base_offset);
    // 50 and 200 come back after higher ones: their batches are the first for no time.
    let expected = [(0, 0), (50, 0), (51, 0), (100, 0), (101, 3), (200, 3), (300, 3)];
    for (time, number) in expected {
        assert_eq!(at(time), base(number), "time {time}");
    }
    assert_eq!(at(301), None);
}

#[test]
fn a_producer_is_known_by_its_last_five_batches_of_its_highest_epoch() {
    let (_, index) = open();
    let mut frames = one_lane(&mut World::new(4), 9);
    let id = ProducerId(77);
    for (number, (frame, epoch)) in (0i32..).zip(frames.iter_mut().zip([1, 1, 1, 1, 1, 1, 1, 2, 1])) {
        frame.producer = Some(meridian_storage::index::ProducerBatch {
            id,
            epoch: ProducerEpoch(epoch),
            first_sequence: number,
            last_sequence: number,
        });
    }
    let (shard, lane) = (frames[0].header.shard_id(), frames[0].header.lane());
    let known = || {
        let state = index.producer(lane, id).expect("a producer").expect("known");
        (state.epoch.0, state.batches.iter().map(|batch| batch.first_sequence).collect::<Vec<_>>())
    };
    // In runs of their own and in one: the same.
    for frame in &frames[..6] {
        index.apply(shard, std::slice::from_ref(frame)).expect("a frame");
    }
    assert_eq!(known(), (1, vec![1, 2, 3, 4, 5]));
    index.apply(shard, &frames[6..8]).expect("frames");
    assert_eq!(known(), (2, vec![7]), "a higher epoch begins anew");
    index.apply(shard, &frames[8..]).expect("a frame");
    assert_eq!(known(), (2, vec![7]), "an epoch that was passed changes nothing");
    assert_eq!(index.producer(lane, ProducerId(78)), Ok(None));
}

#[test]
fn shards_are_applied_side_by_side_and_one_shard_once() {
    let mut world = World::new(5);
    let (_, index) = open();
    let shards = shards();
    let runs: Vec<Vec<FrameEffects>> =
        shards.iter().map(|&shard| world.frames(shard, Seq(1), 200).to_vec()).collect();
    // Each shard is applied by two threads at once, run by run; each run is taken from exactly one of them.
    let start = Barrier::new(2 * shards.len());
    let taken: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2 * shards.len())
            .map(|worker| {
                let (shard, frames) = (shards[worker / 2], &runs[worker / 2]);
                let (start, index) = (&start, &index);
                scope.spawn(move || {
                    start.wait();
                    let apply = |run: &[FrameEffects]| loop {
                        match index.apply(shard, run) {
                            Ok(()) => return true,
                            // Too early: the other thread is behind. Too late: it has taken this one.
                            Err(IndexError::NotNext { expected, got, .. }) if expected < got => {
                                std::thread::yield_now();
                            }
                            Err(IndexError::NotNext { .. }) => return false,
                            Err(error) => panic!("{error}"),
                        }
                    };
                    frames.chunks(5).filter(|run| apply(run)).count()
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker")).sum()
    });
    assert_eq!(taken, shards.len() * 200 / 5);
    world.check(&index);
}

#[test]
fn cursors_are_kept_by_kind_and_name() {
    let (kv, index) = open();
    index.put_cursor(CursorKind::Mirror, b"eu", b"1").expect("a put");
    index.put_cursor(CursorKind::Group, b"eu", b"2").expect("a put");
    index.flush().expect("a flush");
    index.put_cursor(CursorKind::Group, b"eu", b"3").expect("a put");
    assert_eq!(index.cursor(CursorKind::Group, b"eu"), Ok(Some(b"3".to_vec())));
    kv.crash();
    assert_eq!(index.cursor(CursorKind::Group, b"eu"), Ok(Some(b"2".to_vec())));
    assert_eq!(index.cursor(CursorKind::Mirror, b"eu"), Ok(Some(b"1".to_vec())));
    assert_eq!(index.cursor(CursorKind::Mirror, b"e"), Ok(None));
}

#[test]
fn a_newer_format_is_refused_unchanged() {
    let kv = Arc::new(MemoryKeyValue::new());
    put(&*kv, Family::Default, keys::FORMAT_KEY, &(keys::FORMAT + 1).to_le_bytes());
    let refused = Index::open(kv.clone()).err();
    assert_eq!(refused, Some(IndexError::NewerFormat { found: keys::FORMAT + 1, known: keys::FORMAT }));
    kv.crash();
    assert_eq!(kv.get(Family::Default, keys::FORMAT_KEY), Ok(None), "the refusal has flushed");
}

/// As format 1 has them: a row for each frame.
fn as_in_format_1(index: &Index, kv: &MemoryKeyValue, from: Seq) {
    for shard in shards() {
        for (seq, place) in index.places(shard, from, usize::MAX).expect("places") {
            let [file, at, len] =
                [&place.file.to_le_bytes()[..], &place.at.to_le_bytes(), &place.len.to_le_bytes()];
            put(kv, Family::Places, &keys::place(shard, seq), &[&[1], file, at, len].concat());
        }
        for lane in lanes_in(shard) {
            for frame in index.read_lane(lane, Offset::ZERO, usize::MAX).expect("frames") {
                let place = [
                    &frame.place.file.to_le_bytes()[..],
                    &frame.place.at.to_le_bytes(),
                    &frame.place.len.to_le_bytes(),
                ];
                let (events, no) = (frame.events.to_le_bytes(), frame.shard.no.0.to_le_bytes());
                let row = [&[1], &events[..], &no, &frame.seq.0.to_le_bytes(), &place.concat()].concat();
                put(kv, Family::Offsets, &keys::offset(lane, frame.base_offset), &row);
            }
        }
    }
    put(kv, Family::Default, keys::FORMAT_KEY, &1u32.to_le_bytes());
    kv.flush().expect("a flush");
}

#[test]
fn an_index_of_format_1_goes_on_in_this_one() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        let (kv, index) = open();
        for shard in shards() {
            // One frame at a time: so no row of more than one is left under what is put in their place.
            for frame in world.frames(shard, Seq(1), 50).to_vec() {
                index.apply(shard, &[frame]).expect("a frame");
            }
        }
        as_in_format_1(&index, &kv, Seq(1));
        let index = Index::open(kv.clone()).expect("an index of format 1");
        let format = kv.get(Family::Default, keys::FORMAT_KEY).expect("a read");
        assert_eq!(format, Some(keys::FORMAT.to_le_bytes().to_vec()));
        world.check(&index);
        for shard in shards() {
            for run in world.frames(shard, Seq(51), 200).to_vec().chunks(70) {
                index.apply(shard, run).expect("frames");
            }
        }
        world.check(&index);
        // What was stored again is found again, in rows of either format, and nothing beside it is touched.
        for shard in shards() {
            let frames = world.frames(shard, Seq(1), 250).to_vec();
            let moved: Vec<_> = (frames.iter().step_by(3))
                .map(|frame| (frame.header, Place { file: 1000 + frame.place.file, ..frame.place }))
                .collect();
            index.relocate(shard, &moved).expect("frames that are applied");
            let places = index.places(shard, Seq(1), usize::MAX).expect("places");
            assert_eq!(places.len(), frames.len());
            for (number, ((seq, place), frame)) in places.into_iter().zip(&frames).enumerate() {
                let file = if number % 3 == 0 { 1000 + frame.place.file } else { frame.place.file };
                assert_eq!((seq, place), (frame.header.seq, Place { file, ..frame.place }), "seed {seed}");
                assert_eq!(index.place(shard, seq), Ok(Some(place)));
                if frame.header.events > 0 {
                    let located = index.locate(frame.header.lane(), frame.header.base_offset);
                    assert_eq!(located.expect("a read").expect("a frame").place, place);
                }
            }
            // Of two, the second is said to be another frame than it is: neither is changed.
            let events = frames.iter().find(|frame| frame.header.events > 0).expect("a frame of events");
            let seq = events.header.seq.next();
            let other = (FrameHeader { seq, ..events.header }, Place { file: 5000, ..events.place });
            let before = index.places(shard, Seq(1), usize::MAX);
            let refused = index.relocate(shard, &[(frames[1].header, other.1), other]);
            assert_eq!(refused, Err(IndexError::NotApplied { shard, seq }), "seed {seed}");
            assert_eq!(index.places(shard, Seq(1), usize::MAX), before);
        }
    }
}

#[test]
fn rows_without_a_format_are_refused() {
    let kv = Arc::new(MemoryKeyValue::new());
    put(&*kv, Family::Marks, b"row", b"row");
    assert_eq!(Index::open(kv).err(), Some(IndexError::NoFormat));
}

#[test]
fn a_damaged_row_is_named() {
    let (kv, index) = open();
    let shard = shards()[0];
    let row = |error| IndexError::Row { family: Family::Marks, key: keys::shard(shard).to_vec(), error };
    put(&*kv, Family::Marks, &keys::shard(shard), &[1, 2, 3]);
    assert_eq!(index.applied(shard), Err(row(RowError::Short)));
    assert_eq!(index.shards(), Err(row(RowError::Short)));
    assert_eq!(index.apply(shard, World::new(6).frames(shard, Seq(1), 1)), Err(row(RowError::Short)));
    put(&*kv, Family::Marks, &keys::shard(shard), &[200, 2, 3]);
    assert_eq!(index.applied(shard), Err(row(RowError::Version(200))));
}

#[test]
fn what_is_not_there() {
    let (_, index) = open();
    let lane = lanes_in(shards()[0]).first().copied().unwrap_or_default();
    assert_eq!(index.lane(lane), Ok(None));
    assert_eq!(index.locate(lane, Offset(0)), Ok(None));
    assert_eq!(index.read_lane(lane, Offset(5), 9), Ok(Vec::new()));
    assert_eq!(index.applied(shards()[0]), Ok(None));
    assert_eq!(index.checkpointed(shards()[0]), None);
    assert_eq!(index.usage(TenantId::DEFAULT, lane.stream), Ok(Usage::default()));
}

fn put(kv: &dyn KeyValue, family: Family, key: &[u8], value: &[u8]) {
    let mut batch = Batch::default();
    batch.put(family, key, value);
    kv.write(batch).expect("a write");
}
