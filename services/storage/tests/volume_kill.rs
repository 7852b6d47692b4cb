//! kill -9 on real files: a child process writes rounds and tells what was acknowledged; it is killed at a random
//! moment; all that it told stands, with its bytes, and nothing that it never wrote.

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{frame, seeds, shard};
use meridian_storage::{
    Chain, Entry, Frame, Identity, RealDisk, Recovered, Submission, Volume, VolumeConfig, VolumeWriter,
    WriterConfig,
};
use meridian_types::{Boot, ClusterUuid, LogEpoch, NodeId, Seq, ShardId};
use rand::rngs::Xoshiro256PlusPlus as Rng;
use rand::{RngExt, SeedableRng};

const CHILD: &str = "MERIDIAN_TEST_KILLED_CHILD";
const SHARDS: u16 = 4;
const CONFIG: VolumeConfig =
    VolumeConfig { file_bytes: 512 * 1024, max_round_bytes: 64 * 1024, stock: 1, reserve_bytes: 0 };

fn open(dir: &Path) -> (Volume, Recovered) {
    let disk = Arc::new(RealDisk::open(dir).unwrap());
    Volume::open(disk, CONFIG, &|_| Seq::ZERO).unwrap()
}

/// A frame's payload follows from its shard, seq and epoch, so that the parent can tell the bytes.
fn payload(shard: ShardId, seq: Seq, epoch: LogEpoch) -> Vec<u8> {
    let mut rng = Rng::seed_from_u64(u64::from(shard.no.0) << 48 ^ u64::from(epoch.0) << 32 ^ seq.0);
    let len = rng.random_range(0..6000);
    (0..len).map(|_| rng.random()).collect()
}

/// The child: goes on where the volume stands, until it is killed.
fn child(dir: &Path) {
    let disk = RealDisk::open(dir).unwrap();
    let epoch = LogEpoch(Identity::next_boot(&disk).unwrap().0 as u32);
    drop(disk);
    let (volume, recovered) = open(dir);
    let on_fatal = Box::new(|error| panic!("{error}"));
    let (handle, _thread) = VolumeWriter::spawn(volume, WriterConfig::default(), on_fatal).unwrap();
    // Of each shard its last seq, and the chains up to it as far back as this process knows them.
    let mut logs: Vec<(ShardId, Seq, Vec<Chain>)> = (0..SHARDS)
        .map(|no| {
            let last = recovered.shards.get(&shard(no)).and_then(|found| found.last);
            let (seq, chain) = last.map_or((Seq::ZERO, Chain::GENESIS), |last| (last.seq, last.chain));
            (shard(no), seq, vec![chain])
        })
        .collect();
    println!("\nREADY {epoch}");
    let mut rng = Rng::seed_from_u64(u64::from(epoch.0));
    loop {
        for (id, seq, chains) in &mut logs {
            let mut entries = Vec::new();
            if rng.random_range(0..20) == 0 && chains.len() > 1 {
                chains.pop();
                *seq = seq.prev();
                entries.push(Entry::Cut { shard: *id, from: seq.next() });
            }
            for _ in 0..rng.random_range(1..4) {
                *seq = seq.next();
                let prev = *chains.last().unwrap();
                let next = frame(*id, *seq, epoch, prev, payload(*id, *seq, epoch));
                chains.push(next.header.chain);
                entries.push(Entry::Frame(next));
            }
            let (id, last, cut) = (*id, *seq, matches!(entries[0], Entry::Cut { .. }));
            let first = Seq(last.0 + 1 - (entries.len() - usize::from(cut)) as u64);
            let line = format!("{} {} {} {}", id.no, first, last, u8::from(cut));
            println!("TRY {line}");
            let done = Box::new(move |_| {
                // One write, so that a line is whole or not there.
                let _ = std::io::stdout().lock().write_all(format!("ACK {line}\n").as_bytes());
            });
            handle.submit(Submission { shard: id, entries, done });
        }
        while handle.queued_bytes() > 256 * 1024 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What the parent knows of a shard.
#[derive(Default)]
struct Log {
    /// By seq, the epoch that was acknowledged or recovered last.
    sure: BTreeMap<u64, u32>,
    /// Submissions of this life that were tried: first, last, with a cut, acknowledged.
    tried: Vec<(u64, u64, bool, bool)>,
}

#[test]
fn kill_minus_nine() {
    if let Ok(dir) = std::env::var(CHILD) {
        child(Path::new(&dir));
    }
    let kills = seeds(32).end;
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(dir.path()).unwrap();
    Identity::format(&disk, ClusterUuid::default(), NodeId(1)).unwrap();
    drop(disk);
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = Rng::seed_from_u64(seed);
    let mut logs: BTreeMap<u16, Log> = BTreeMap::new();
    let (mut acknowledged, mut ready, mut lost_unacknowledged) = (0, 0, 0);
    for kill in 0..kills {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill_minus_nine", "--nocapture", "--test-threads", "1"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap());
        // Every other life lasts until something was acknowledged, however slow the disk is; of the rest, now and then
        // one ends in the middle of recovery.
        let after_ack = kill % 2 == 0;
        let after_ready = after_ack || rng.random_bool(0.8);
        let mut told = Vec::new();
        if after_ready {
            let mut line = String::new();
            while !line.starts_with("READY") {
                line.clear();
                assert!(lines.read_line(&mut line).unwrap() > 0, "kill {kill}: the child ended");
            }
            ready += 1;
        }
        while after_ack && !told.last().is_some_and(|line: &String| line.starts_with("ACK")) {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).unwrap() > 0, "kill {kill}: the child ended");
            told.push(line.trim_end().to_owned());
        }
        let wait = Duration::from_micros(rng.random_range(0..30_000));
        let reader = std::thread::spawn(move || {
            for line in lines.split(b'\n').map_while(Result::ok) {
                told.push(String::from_utf8_lossy(&line).into_owned());
            }
            told
        });
        std::thread::sleep(wait);
        process.kill().unwrap();
        assert!(!process.wait().unwrap().success());
        for line in reader.join().unwrap() {
            let Some((word, rest)) = line.split_once(' ') else { continue };
            let numbers: Vec<u64> = rest.split(' ').filter_map(|n| n.parse().ok()).collect();
            let [no, first, last, cut] = numbers[..] else { continue };
            let log = logs.entry(no as u16).or_default();
            match word {
                "TRY" => log.tried.push((first, last, cut == 1, false)),
                "ACK" => {
                    let of = log
                        .tried
                        .iter_mut()
                        .find(|tried| (tried.0, tried.1, tried.3) == (first, last, false));
                    of.expect("what is acknowledged was tried").3 = true;
                    acknowledged += 1;
                }
                _ => {}
            }
        }
        lost_unacknowledged += verify(dir.path(), &mut logs, seed, kill);
    }
    println!("{kills} kills, {ready} of them when ready, {acknowledged} submissions acknowledged");
    assert!(acknowledged >= kills / 2 && lost_unacknowledged > 0, "{acknowledged}, {lost_unacknowledged}");
}

/// Opens what the killed child left and compares. How many submissions are not there (and were not acknowledged).
fn verify(dir: &Path, logs: &mut BTreeMap<u16, Log>, seed: u64, kill: u64) -> u64 {
    let disk = RealDisk::open(dir).unwrap();
    let epoch = Identity::next_boot(&disk).unwrap(); // a boot of its own, so that no epoch is used twice
    drop(disk);
    let epoch = Boot(epoch.0 - 1).0 as u32;
    let (volume, recovered) = open(dir);
    let context = format!("seed {seed}, kill {kill}");
    assert!(recovered.damage.is_empty(), "{context}: {:?}", recovered.damage);
    let reader = volume.reader();
    let mut lost = 0;
    for no in 0..SHARDS {
        let id = shard(no);
        let log = logs.entry(no).or_default();
        let found = recovered.shards.get(&id).cloned().unwrap_or_default();
        assert!(found.missing.is_empty() && found.unsure_from.is_none(), "{context}: {found:?}");
        let stands: BTreeMap<u64, u32> = found
            .frames
            .iter()
            .map(|(seq, place)| {
                let frame: Frame =
                    reader.read_expecting(*place, id, *seq).expect("what is listed can be read");
                let of = frame.header.log_epoch;
                assert_eq!(frame.payload, payload(id, *seq, of), "{context}: {id}:{seq} of epoch {of}");
                (seq.0, of.0)
            })
            .collect();
        // What stands is what stood, then a prefix of what was tried: as many submissions as fit, at least those
        // acknowledged. A submission may be cut in two only between its rounds, so any of its frames may be last.
        let mut wanted = log.sure.clone();
        let mut fits = Vec::from([(wanted.clone(), 0)]);
        let sure = log.tried.iter().rposition(|tried| tried.3).map_or(0, |last| last + 1);
        for (i, (first, last, cut, _)) in log.tried.iter().enumerate() {
            if *cut {
                wanted.split_off(first);
                fits.push((wanted.clone(), i));
            }
            for seq in *first..=*last {
                wanted.insert(seq, epoch);
                fits.push((wanted.clone(), if seq == *last { i + 1 } else { i }));
            }
        }
        let fit = fits.iter().rev().find(|(wanted, _)| *wanted == stands);
        let (_, whole) = fit.unwrap_or_else(|| panic!("{context}: {id} is no state that was ever asked for"));
        assert!(*whole >= sure, "{context}: {id}: {sure} submissions were acknowledged, {whole} are there");
        lost += (log.tried.len() - whole) as u64;
        log.sure = stands;
        log.tried.clear();
    }
    lost
}
