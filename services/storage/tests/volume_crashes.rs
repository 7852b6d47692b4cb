//! The real volume over the simulated disk, from seeds: power loss, kills, EIO, a full disk, at any operation.
//!
//! Faults 1, 7, 8 (roll), 9, 31 (the volume's side), 35 (replay) and 37. The law, after every recovery: what stands is
//! what was acknowledged, or that and the whole round that was under way; every frame with the same bytes, in order, at
//! the place that was given out; nothing that was cut.

mod common;

use std::io;
use std::sync::Arc;

use common::{Model, formatted, seeds, shard};
use meridian_storage::{
    Disk, DiskFile, Entry, PowerLoss, Promise, SimDisk, Volume, VolumeConfig, VolumeError, WriteError,
};
use meridian_types::{Boot, LeaderEpoch, LogEpoch, Seq, ShardId};
use rand::rngs::Xoshiro256PlusPlus as Rng;
use rand::{RngExt, SeedableRng};

/// What has happened over all seeds: a run in which something never happened proves nothing about it.
#[derive(Debug, Default)]
struct Seen {
    opened: u64,
    acknowledged: u64,
    torn: u64,
    survived_unacknowledged: u64,
    crashed_in_open: u64,
    crashed_in_write: u64,
    eio: u64,
    eio_of_write: u64,
    no_space: u64,
    cuts: u64,
    files: u64,
}

struct World {
    seed: u64,
    rng: Rng,
    disk: Arc<SimDisk>,
    /// The disk as the volume sees it.
    view: Arc<dyn Disk>,
    config: VolumeConfig,
    acknowledged: Model,
    /// What stands if the round under way at the crash did reach the disk.
    with_in_flight: Option<Model>,
    /// Up to where each shard is applied: never cut.
    applied: Vec<u64>,
    epoch: u32,
}

impl World {
    fn new(seed: u64, lie: Option<Lie>) -> Self {
        let mut rng = Rng::seed_from_u64(seed);
        let blocks = rng.random_range(8..24);
        let config = VolumeConfig {
            file_bytes: blocks * 4096,
            max_round_bytes: 4096,
            stock: rng.random_range(0..3),
            reserve_bytes: 0,
        };
        let shards = rng.random_range(1..5);
        let disk = formatted(seed);
        let view: Arc<dyn Disk> = match lie {
            Some(lie) => Arc::new(Liar { disk: disk.clone(), lie }),
            None => disk.clone(),
        };
        World {
            seed,
            disk,
            view,
            rng,
            config,
            acknowledged: Model::default(),
            with_in_flight: None,
            applied: vec![0; shards],
            epoch: 1,
        }
    }

    /// Opens and checks. `None`: a crash, or a sync that failed, came first.
    fn open(&mut self, seen: &mut Seen) -> Option<Volume> {
        let from_start = self.rng.random_bool(0.5);
        let marks = self.applied.clone();
        let applied = move |id: ShardId| Seq(if from_start { 0 } else { marks[id.no.0 as usize] });
        let (volume, recovered) = match Volume::open(self.view.clone(), self.config, &applied) {
            Ok(opened) => opened,
            Err(VolumeError::Io { .. }) => return None,
            Err(error) => panic!("seed {}: {error}", self.seed),
        };
        seen.opened += 1;
        seen.torn += u64::from(recovered.torn.is_some());
        let reader = volume.reader();
        if let Some(why) = self.acknowledged.differs(&recovered, &reader, &applied) {
            let also = self.with_in_flight.take();
            match also.map(|model| (model.differs(&recovered, &reader, &applied), model)) {
                Some((None, model)) => {
                    seen.survived_unacknowledged += 1;
                    // From now on it is as good as acknowledged: it was reported.
                    self.acknowledged = model;
                }
                other => panic!(
                    "seed {}: not what was acknowledged ({why}), nor that and what was under way ({:?})",
                    self.seed,
                    other.map(|(why, _)| why)
                ),
            }
        }
        self.with_in_flight = None;
        Some(volume)
    }

    fn entries(&mut self, seen: &mut Seen) -> Vec<Entry> {
        let mut after = self.acknowledged.clone();
        let mut entries = Vec::new();
        for _ in 0..self.rng.random_range(1..6) {
            let no = self.rng.random_range(0..self.applied.len());
            let id = shard(no as u16);
            let len = after.shards.get(&id).map_or(0, |log| log.len() as u64);
            let entry = match self.rng.random_range(0..20) {
                0 => Entry::Promise(Promise {
                    shard: id,
                    epoch: LeaderEpoch(self.rng.random()),
                    boot: Boot(self.rng.random()),
                }),
                1 | 2 if len > self.applied[no] => {
                    self.epoch += 1;
                    seen.cuts += 1;
                    Entry::Cut { shard: id, from: Seq(self.rng.random_range(self.applied[no] + 1..=len + 1)) }
                }
                _ => {
                    let most = [0, 10, 600, 4000, 9000][self.rng.random_range(0..5)];
                    let payload = (0..self.rng.random_range(0..=most)).map(|_| self.rng.random()).collect();
                    Entry::Frame(after.next(id, LogEpoch(self.epoch), payload))
                }
            };
            after.apply(std::slice::from_ref(&entry), None);
            entries.push(entry);
        }
        entries
    }

    /// Writes rounds until something fails, or for a while.
    fn write(&mut self, volume: &mut Volume, seen: &mut Seen) {
        for _ in 0..self.rng.random_range(0..12) {
            match self.rng.random_range(0..8) {
                0 if volume.write_idle_round().is_err() => return,
                1 if matches!(volume.prepare(), Err(WriteError::Fatal(_))) => return,
                2 => {
                    for (no, applied) in self.applied.iter_mut().enumerate() {
                        let log = self.acknowledged.shards.get(&shard(no as u16)).map_or(0, Vec::len) as u64;
                        *applied = self.rng.random_range(*applied..=log);
                    }
                }
                3 => self.disk.set_capacity(self.disk.used() + self.rng.random_range(0..3) * 30_000),
                _ => {}
            }
            let entries = self.entries(seen);
            match volume.write_round(&entries) {
                Ok(places) => {
                    self.acknowledged.apply(&entries, Some(&places));
                    seen.acknowledged += 1;
                }
                Err(WriteError::NoSpace) => {
                    seen.no_space += 1;
                    self.disk.set_capacity(u64::MAX);
                }
                Err(WriteError::TooLarge { .. }) => {}
                Err(WriteError::Fatal(_)) => {
                    let mut model = self.acknowledged.clone();
                    model.apply(&entries, None);
                    self.with_in_flight = Some(model);
                    // Fault 9: no retry. The disk works again, this volume does not.
                    let again = volume.write_round(&entries);
                    assert!(matches!(again, Err(WriteError::Fatal(_))), "seed {}: {again:?}", self.seed);
                    assert!(volume.write_idle_round().is_err() && volume.prepare().is_err());
                    return;
                }
                Err(error) => panic!("seed {}: {error}", self.seed),
            }
        }
    }

    fn life(&mut self, seen: &mut Seen) {
        let trouble = self.rng.random_range(0..5);
        match trouble {
            0 => self.disk.crash_at(self.disk.ops() + self.rng.random_range(1..60)),
            1 => self.disk.fail_sync(self.rng.random_range(0..20)),
            2 => self.disk.fail_write(self.rng.random_range(0..20)),
            _ => {}
        }
        if let Some(mut volume) = self.open(seen) {
            self.write(&mut volume, seen);
            seen.crashed_in_write += u64::from(self.disk.crashed());
            seen.eio += u64::from(trouble == 1 && self.with_in_flight.is_some());
            seen.eio_of_write += u64::from(trouble == 2 && self.with_in_flight.is_some());
        } else {
            assert!(trouble < 3, "seed {}: open failed on a disk without trouble", self.seed);
            seen.crashed_in_open += 1;
        }
        self.disk.set_capacity(u64::MAX);
        match self.rng.random_range(0..5) {
            0 | 1 => self.disk.kill(),
            2 => self.disk.lose_power(PowerLoss::Nothing),
            3 => self.disk.lose_power(PowerLoss::Everything),
            _ => self.disk.lose_power(PowerLoss::Any),
        }
    }
}

impl World {
    fn run(mut self, seen: &mut Seen) {
        let seed = self.seed;
        for _ in 0..6 {
            self.life(seen);
        }
        assert!(self.open(seen).is_some(), "seed {seed}: a disk without trouble opens");
        // Fault 37: what was just reported cannot depend on the page cache.
        self.disk.lose_power(PowerLoss::Nothing);
        assert!(self.open(seen).is_some(), "seed {seed}");
        let names = self.disk.list().unwrap();
        seen.files += names.iter().filter(|name| name.ends_with(".rounds")).count() as u64 - 1;
    }
}

#[test]
fn what_was_acknowledged_stands_and_nothing_else() {
    let mut seen = Seen::default();
    for seed in seeds(2_000) {
        World::new(seed, None).run(&mut seen);
    }
    println!("{seen:?}");
    if std::env::var("MERIDIAN_SEED").is_err() {
        let least = [
            seen.opened / 10,
            seen.acknowledged,
            seen.torn,
            seen.survived_unacknowledged,
            seen.crashed_in_open,
            seen.crashed_in_write,
            seen.eio,
            seen.eio_of_write,
            seen.no_space,
            seen.cuts,
            seen.files,
        ];
        assert!(least.iter().all(|count| *count > 50), "something hardly ever happened: {seen:?}");
    }
}

/// What a disk, or a volume that forgets to ask it, may get wrong.
#[derive(Clone, Copy, Debug)]
enum Lie {
    /// fdatasync does nothing.
    NoSync,
    /// A write that fails is told as one that does not.
    NoWriteErrors,
    /// The folder's fsync does nothing.
    NoSyncDir,
    /// What should come from the disk comes from the page cache.
    CachedReads,
}

struct Liar {
    disk: Arc<SimDisk>,
    lie: Lie,
}

struct LiarFile {
    file: Arc<dyn DiskFile>,
    lie: Lie,
}

impl Liar {
    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(LiarFile { file, lie: self.lie })
    }
}

impl Disk for Liar {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(name).map(|file| self.file(file))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(name).map(|file| self.file(file))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        if matches!(self.lie, Lie::NoSyncDir) { Ok(()) } else { self.disk.sync_dir() }
    }

    fn available(&self) -> io::Result<u64> {
        self.disk.available()
    }
}

impl DiskFile for LiarFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_at(buf, at)
    }

    fn read_at_uncached(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        if matches!(self.lie, Lie::CachedReads) {
            self.file.read_at(buf, at)
        } else {
            self.file.read_at_uncached(buf, at)
        }
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let written = self.file.write_at(bytes, at);
        if matches!(self.lie, Lie::NoWriteErrors) { Ok(()) } else { written }
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if matches!(self.lie, Lie::NoSync) { Ok(()) } else { self.file.sync_data() }
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

/// The test of the test: leave out any one of the things that make a round durable, and it is found out.
#[test]
fn the_model_notices_what_is_left_out() {
    for (lie, tries) in
        [(Lie::NoSync, 20), (Lie::NoWriteErrors, 40), (Lie::NoSyncDir, 40), (Lie::CachedReads, 600)]
    {
        let found = (0..tries).find(|seed| {
            let run = || World::new(*seed, Some(lie)).run(&mut Seen::default());
            std::panic::catch_unwind(run).is_err()
        });
        assert!(found.is_some(), "{lie:?} went unnoticed");
        println!("{lie:?} noticed with seed {found:?}");
    }
}

/// Fault 8: a crash at each operation of the making of a volume and of rolls, over every kind of power loss.
#[test]
fn a_crash_at_each_step_of_a_roll() {
    let config = VolumeConfig { file_bytes: 8 * 4096, max_round_bytes: 4096, stock: 1, reserve_bytes: 0 };
    let applied = |_: ShardId| Seq::ZERO;
    for seed in seeds(12) {
        for step in 1.. {
            let disk = formatted(seed * 1000 + step);
            disk.crash_at(disk.ops() + step);
            let mut model = Model::default();
            let mut under_way = None;
            if let Ok((mut volume, _)) = Volume::open(disk.clone(), config, &applied) {
                for _ in 0..14 {
                    let entries = [Entry::Frame(model.next(shard(0), LogEpoch(1), vec![7; 3000]))];
                    let mut after = model.clone();
                    after.apply(&entries, None);
                    match volume.write_round(&entries) {
                        Ok(places) => model.apply(&entries, Some(&places)),
                        Err(_) => {
                            under_way = Some(after);
                            break;
                        }
                    }
                }
            }
            let crashed = disk.crashed();
            let losses = [PowerLoss::Nothing, PowerLoss::Everything, PowerLoss::Any];
            match (seed % 4) as usize {
                3 => disk.kill(),
                n => disk.lose_power(losses[n]),
            }
            // Twice, and on over the next roll: file numbers, generations and rounds go on as they should.
            for life in 0..2 {
                let (mut volume, recovered) = Volume::open(disk.clone(), config, &applied)
                    .unwrap_or_else(|error| panic!("seed {seed}, step {step}: {error}"));
                let reader = volume.reader();
                if let Some(why) = model.differs(&recovered, &reader, &applied) {
                    model = under_way.take().unwrap_or_else(|| panic!("seed {seed}, step {step}: {why}"));
                    let why = model.differs(&recovered, &reader, &applied);
                    assert_eq!(why, None, "seed {seed}, step {step}, life {life}");
                }
                under_way = None;
                for _ in 0..8 {
                    let entries = [Entry::Frame(model.next(shard(0), LogEpoch(2), vec![8; 3000]))];
                    let places = volume.write_round(&entries).unwrap();
                    model.apply(&entries, Some(&places));
                }
                disk.lose_power(PowerLoss::Nothing);
            }
            if !crashed {
                assert!(step > 20, "the steps of three rolls were gone through");
                break;
            }
        }
    }
}

/// Fault 35: cut after an election, stored again by a later epoch, a crash at each operation: the cut frame never
/// comes back.
#[test]
fn a_cut_frame_never_comes_back() {
    let config = VolumeConfig { file_bytes: 8 * 4096, max_round_bytes: 4096, stock: 1, reserve_bytes: 0 };
    let applied = |_: ShardId| Seq(2);
    for seed in seeds(30) {
        for step in 1..40 {
            let disk = formatted(seed);
            let (mut volume, _) = Volume::open(disk.clone(), config, &applied).unwrap();
            let mut model = Model::default();
            let mut epoch = 1;
            let mut under_way = None;
            disk.crash_at(disk.ops() + step);
            'writes: for _ in 0..4 {
                let mut rounds = Vec::new();
                let mut after = model.clone();
                let mut round = Vec::new();
                for _ in 0..4 {
                    let frame = Entry::Frame(after.next(shard(0), LogEpoch(epoch), vec![epoch as u8; 900]));
                    after.apply(std::slice::from_ref(&frame), None);
                    round.push(frame);
                }
                rounds.push(round);
                epoch += 1;
                // The Cut in a round of its own, or before the frames that replace what it drops.
                let last = after.shards[&shard(0)].len() as u64;
                let cut = Entry::Cut { shard: shard(0), from: Seq(last - 1) };
                after.apply(std::slice::from_ref(&cut), None);
                let again = Entry::Frame(after.next(shard(0), LogEpoch(epoch), vec![epoch as u8; 700]));
                if seed % 2 == 0 {
                    rounds.push(vec![cut, again]);
                } else {
                    rounds.extend([vec![cut], vec![again]]);
                }
                for round in rounds {
                    let mut after = model.clone();
                    after.apply(&round, None);
                    match volume.write_round(&round) {
                        Ok(places) => model.apply(&round, Some(&places)),
                        Err(_) => {
                            under_way = Some(after);
                            break 'writes;
                        }
                    }
                }
            }
            disk.lose_power(PowerLoss::Any);
            let (volume, recovered) = Volume::open(disk.clone(), config, &applied).unwrap();
            let why = model.differs(&recovered, &volume.reader(), &applied);
            if let Some(why) = why {
                let model = under_way.unwrap_or_else(|| panic!("seed {seed}, step {step}: {why}"));
                assert_eq!(
                    model.differs(&recovered, &volume.reader(), &applied),
                    None,
                    "seed {seed}, step {step}"
                );
            }
        }
    }
}
