//! The index over the volume, through power cuts: fault 31, without settling.
//!
//! Real volume code over the simulated disk, the real index over the twin in memory. Frames are applied once their round
//! is synced, some at once, some late, some never, for they are cut first. The index is flushed when the dice say so,
//! also between the cut of the power and the end of the process. After each cut: no mark is past the volume, every place
//! in the index is read as the (shard, seq) that it stands for, and what lies above the marks is replayed.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use meridian_storage::index::{CursorKind, FrameEffects, Index, MemoryKeyValue};
use meridian_storage::volume::file_name;
use meridian_storage::{
    Chain, Disk, Entry, Frame, FrameHeader, FrameKind, Identity, Place, PowerLoss, Promise, ReadError,
    Recovered, RecoveredShard, Restart, Restarts, SimDisk, Volume, VolumeConfig, WriteError,
};
use meridian_types::{
    Boot, ClusterUuid, DiskUuid, Hlc, LeaderEpoch, LogEpoch, NodeId, Offset, Origin, Partition, RegionId,
    Seq, ShardId, ShardNo, StreamId, TenantId, Timestamp,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const SHARDS: u16 = 3;
const SEEDS: u64 = 500;
const LIVES: u64 = 4;
const CONFIG: VolumeConfig =
    VolumeConfig { file_bytes: 64 << 10, max_round_bytes: 32 << 10, stock: 1, reserve_bytes: 0 };

/// A shard's headers by seq: those that are synced, and with what was replayed those that are in the index.
type Log = BTreeMap<Seq, (FrameHeader, Place)>;

struct World {
    seed: u64,
    rng: StdRng,
    disk: SimDisk,
    kv: Arc<MemoryKeyValue>,
    index: Index,
    /// Synced, and not cut.
    logs: BTreeMap<ShardId, Log>,
    found: Found,
    /// Of the process that runs.
    restarts: Restarts,
}

/// What the seeds have met, so that the test knows that it tested.
#[derive(Default)]
struct Found {
    behind: u64,
    replayed: u64,
    read: u64,
    cut: u64,
    passed: u64,
    whole: u64,
}

#[test]
fn the_index_never_points_past_its_volume() {
    let mut found = Found::default();
    for seed in 0..SEEDS {
        let mut world = World::new(seed, std::mem::take(&mut found));
        for _ in 0..LIVES {
            world.live();
            world.lose_power();
        }
        let mut volume = world.recover();
        world.append(&mut volume).expect("a disk that works");
        found = world.found;
    }
    assert!(found.behind > SEEDS && found.replayed > SEEDS && found.read > SEEDS && found.cut > SEEDS / 10);
    assert!(found.passed > SEEDS / 4 && found.whole > SEEDS, "{} and {}", found.passed, found.whole);
}

/// Whatever an index claims: a place of another frame, or of none, is not served.
#[test]
fn a_place_of_another_frame_is_refused() {
    let mut world = World::new(1, Found::default());
    let mut volume = world.recover();
    while world.logs.values().filter(|log| log.len() >= 2).count() < 2 {
        world.append(&mut volume).expect("a disk that works");
    }
    let reader = volume.reader();
    let places: Vec<(ShardId, Seq, Place)> = (world.logs.iter())
        .flat_map(|(&shard, log)| log.iter().map(move |(&seq, &(_, place))| (shard, seq, place)))
        .collect();
    for &(shard, seq, place) in &places {
        let past = Place { file: place.file + 99, ..place };
        assert!(matches!(reader.read_expecting(past, shard, seq), Err(ReadError::Outside(_))));
        let beside = Place { at: place.at + 8, ..place };
        assert!(reader.read_expecting(beside, shard, seq).is_err());
        for &(other_shard, other_seq, _) in &places {
            let read = reader.read_expecting(place, other_shard, other_seq);
            if (other_shard, other_seq) == (shard, seq) {
                assert_eq!(read.expect("its own frame").header.seq, seq);
            } else {
                assert!(matches!(read, Err(ReadError::Other { .. })), "{read:?}");
            }
        }
    }
}

/// Where a restart does not hold, everything is read, and what is wrong is found.
#[test]
fn a_restart_that_does_not_hold_is_not_begun_at() {
    type Spoil = fn(&World) -> bool;
    let spoils: [(&str, Spoil); 6] = [
        ("nothing", |_| true),
        ("a file is lost", |world| world.disk.lose_file(&file_name(1))),
        ("a header is damaged", |world| world.disk.flip(&file_name(1), 9, 1)),
        ("the file to begin at has another header", |world| {
            let mut names: Vec<String> = world.disk.list().expect("a folder");
            names.retain(|name| name.ends_with(".rounds"));
            names.iter().skip(1).all(|name| world.disk.flip(name, 9, 1))
        }),
        ("the index holds another thing", |world| {
            world.index.put_cursor(CursorKind::Restart, &[], &[7; 90]).is_ok()
        }),
        ("a read has found damage", |world| world.restarts.keep_in(&world.index, true).is_ok()),
    ];
    for (what, spoil) in spoils {
        let mut world = World::new(3, Found::default());
        let mut volume = world.recover();
        while Restart::of(&world.index).expect("an index").is_none() {
            world.append(&mut volume).expect("a disk that works");
            shards().for_each(|shard| world.apply(shard));
            world.restarts.keep_in(&world.index, false).expect("a restart");
        }
        drop(volume);
        assert!(spoil(&world), "{what}");
        let restart = Restart::of(&world.index).expect("an index");
        let open = |restart: Option<&Restart>| {
            let applied = |shard| world.applied(shard);
            Volume::open_at(Arc::new(world.disk.clone()), CONFIG, restart, &applied).expect(what).1
        };
        let (short, whole) = (open(restart.as_ref()), open(None));
        assert_eq!((&short.shards, &short.promises), (&whole.shards, &whole.promises), "{what}");
        assert_eq!(short.files_passed > 0, what == "nothing", "{what}");
        let is_damaged = ["a file is lost", "a header is damaged", "the file to begin at has another header"];
        assert_eq!(!short.damage.is_empty(), is_damaged.contains(&what), "{what}: {:?}", short.damage);

        // An index that knows less than the restart says.
        let none = |_: ShardId| Seq::ZERO;
        let all = Volume::open_at(Arc::new(world.disk.clone()), CONFIG, restart.as_ref(), &none);
        assert_eq!(all.expect(what).1.files_passed, 0, "{what}");
    }
}

impl World {
    fn new(seed: u64, found: Found) -> Self {
        let disk = SimDisk::new(seed);
        let (cluster, uuid) = (ClusterUuid::default(), DiskUuid::default());
        Identity::format_as(&disk, cluster, NodeId(1), uuid, [7; 16]).expect("a formatted folder");
        let kv = Arc::new(MemoryKeyValue::new());
        let index = Index::open(kv.clone()).expect("a new index");
        Self {
            seed,
            rng: StdRng::seed_from_u64(seed),
            disk,
            kv,
            index,
            logs: BTreeMap::new(),
            found,
            restarts: Restarts::default(),
        }
    }

    fn applied(&self, shard: ShardId) -> Seq {
        self.index.applied(shard).expect("a mark").map_or(Seq::ZERO, |mark| mark.seq)
    }

    /// One process, until the disk stops.
    fn live(&mut self) {
        let mut volume = self.recover();
        self.disk.crash_at(self.disk.ops() + self.rng.random_range(1..60));
        loop {
            // What is being cut is not committed, so it must not be applied beside: first this, then that.
            for shard in shards() {
                if self.rng.random_bool(0.4) {
                    self.apply(shard);
                }
            }
            if self.rng.random_bool(0.2) {
                self.restarts.keep_in(&self.index, false).expect("a restart");
                self.index.flush().expect("a flush");
            }
            if self.append(&mut volume).is_err() {
                return;
            }
        }
    }

    /// Writes one round: the next frames of some shards, now and then after a cut of some that are not applied.
    fn append(&mut self, volume: &mut Volume) -> Result<(), WriteError> {
        let mut logs = self.logs.clone();
        let mut entries = Vec::new();
        let mut headers = Vec::new();
        for shard in shards() {
            let applied = self.applied(shard);
            let log = logs.entry(shard).or_default();
            let last = log.keys().next_back().copied().unwrap_or(Seq::ZERO);
            if last > applied && self.rng.random_bool(0.1) {
                let from = Seq(self.rng.random_range(applied.0 + 1..=last.0));
                entries.push(Entry::Cut { shard, from });
                headers.push(None);
                log.retain(|seq, _| *seq < from);
                self.found.cut += 1;
            }
            if self.rng.random_bool(0.1) {
                let (epoch, boot) = (LeaderEpoch(self.rng.random()), Boot(self.rng.random()));
                entries.push(Entry::Promise(Promise { shard, epoch, boot }));
                headers.push(None);
            }
            for _ in 0..self.rng.random_range(0..4) {
                let last = log.values().next_back().map(|(header, _)| *header);
                let frame = next_frame(shard, last.as_ref(), &mut self.rng);
                log.insert(frame.header.seq, (frame.header, Place { file: 0, at: 0, len: 0 }));
                headers.push(Some(frame.header));
                entries.push(Entry::Frame(frame));
            }
        }
        let places = volume.write_round(&entries)?;
        for (header, place) in headers.into_iter().zip(places) {
            let (Some(header), Some(place)) = (header, place) else { continue };
            logs.entry(header.shard_id()).or_default().insert(header.seq, (header, place));
        }
        self.logs = logs;
        Ok(())
    }

    /// Applies some of what is synced and is not applied yet.
    fn apply(&mut self, shard: ShardId) {
        let Some(log) = self.logs.get(&shard) else { return };
        let waiting = log.range((Bound::Excluded(self.applied(shard)), Bound::Unbounded));
        let count = self.rng.random_range(0..6);
        let run: Vec<FrameEffects> =
            waiting.take(count).map(|(_, (header, place))| effects(header, *place)).collect();
        self.index.apply(shard, &run).expect("the next frames");
    }

    fn lose_power(&mut self) {
        // The disk has stopped, the process has not noticed yet: what it flushes now is on the index's disk all the same.
        if self.rng.random_bool(0.5) {
            self.index.flush().expect("a flush");
        }
        let loss = [PowerLoss::Nothing, PowerLoss::Everything, PowerLoss::Any][self.rng.random_range(0..3)];
        self.disk.lose_power(loss);
        self.kv.crash();
        self.index = Index::open(self.kv.clone()).expect("an index after a crash");
    }

    /// Opens the volume, holds the index against it, and replays what lies above the marks.
    fn recover(&mut self) -> Volume {
        let applied = |shard| self.index.applied(shard).expect("a mark").map_or(Seq::ZERO, |mark| mark.seq);
        let disk = || Arc::new(self.disk.clone());
        let restart = Restart::of(&self.index).expect("an index");
        let (_, whole) = Volume::open(disk(), CONFIG, &applied).expect("a volume after a power cut");
        // What is read from a restart on comes to what all of it comes to.
        let (at_restart, short) =
            Volume::open_at(disk(), CONFIG, restart.as_ref(), &applied).expect("the same volume");
        let told = |recovered: &Recovered| {
            let mut shards = recovered.shards.clone();
            shards.retain(|_, shard| *shard != RecoveredShard::default());
            shards
        };
        assert_eq!(told(&short), told(&whole), "seed {}, {restart:?}", self.seed);
        assert_eq!(short.promises, whole.promises, "seed {}, {restart:?}", self.seed);
        self.found.passed += u64::from(short.files_passed > 0);
        self.found.whole += u64::from(short.files_passed == 0);
        let (volume, recovered) = if self.rng.random_bool(0.8) {
            (at_restart, short)
        } else {
            drop(at_restart);
            Volume::open(disk(), CONFIG, &applied).expect("the same volume")
        };
        self.restarts = volume.restarts();
        let reader = volume.reader();
        let seed = self.seed;
        assert!(recovered.damage.is_empty(), "seed {seed}: {:?}", recovered.damage);

        for (shard, mark) in self.index.shards().expect("marks") {
            let last = recovered.shards.get(&shard).and_then(|shard| shard.last).map(|header| header.seq);
            assert!(
                last >= Some(mark.seq),
                "seed {seed}: {shard} is applied to {}, stored to {last:?}",
                mark.seq
            );
            let places = self.index.places(shard, Seq(1), usize::MAX).expect("places");
            assert_eq!(places.len() as u64, mark.seq.0, "seed {seed}: {shard}");
            let mut chain = Chain::GENESIS;
            for (seq, place) in places {
                let frame = reader.read_expecting(place, shard, seq);
                let frame = frame.unwrap_or_else(|error| panic!("seed {seed}: {shard} {seq}: {error}"));
                assert!(frame.follows(chain), "seed {seed}: {shard} {seq} is of another history");
                chain = frame.header.chain;
                self.found.read += 1;
            }
            assert_eq!(chain, mark.chain, "seed {seed}: {shard}");
        }

        let before = std::mem::take(&mut self.logs);
        for (&shard, stored) in &recovered.shards {
            let mut log: Log = before.get(&shard).cloned().unwrap_or_default();
            log.retain(|seq, _| *seq <= applied(shard));
            for &(seq, place) in &stored.frames {
                let frame = reader.read_expecting(place, shard, seq).expect("a frame that was recovered");
                log.insert(seq, (frame.header, place));
                self.found.replayed += 1;
            }
            self.found.behind += u64::from(!stored.frames.is_empty());
            let run: Vec<FrameEffects> =
                stored.frames.iter().map(|(seq, place)| effects(&log[seq].0, *place)).collect();
            // Some are left for later, as they are while they are not known to be committed.
            let run = &run[..self.rng.random_range(0..=run.len())];
            self.index.apply(shard, run).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            self.logs.insert(shard, log);
        }
        volume
    }
}

fn shards() -> impl Iterator<Item = ShardId> {
    (0..SHARDS).map(|no| ShardId { origin: Origin::first(RegionId(1)), no: ShardNo(no) })
}

/// The frame after `last`. A shard has one lane here.
fn next_frame(shard: ShardId, last: Option<&FrameHeader>, rng: &mut StdRng) -> Frame {
    let fields = FrameHeader {
        kind: FrameKind::Events,
        origin: shard.origin,
        shard: shard.no,
        seq: last.map_or(Seq(1), |last| last.seq.next()),
        log_epoch: LogEpoch(1),
        hlc: last.map_or(Hlc(1), |last| Hlc(last.hlc.0 + rng.random_range(1..9))),
        tenant: TenantId::DEFAULT,
        stream: StreamId(u64::from(shard.no.0) + 1),
        partition: Partition(0),
        base_offset: last.map_or(Offset::ZERO, FrameHeader::next_offset),
        events: rng.random_range(1..9),
        payload_len: 0,
        payload_crc: 0,
        chain: Chain::GENESIS,
    };
    let payload = vec![rng.random(); rng.random_range(0..3_000)];
    Frame::build(fields, last.map_or(Chain::GENESIS, |last| last.chain), Bytes::from(payload))
}

fn effects(header: &FrameHeader, place: Place) -> FrameEffects {
    FrameEffects { header: *header, place, producer: None, max_timestamp: Timestamp(header.seq.0) }
}
