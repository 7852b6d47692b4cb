//! SIGKILL of a process that applies to a real RocksDB.
//!
//! The child applies runs of a known workload, flushes now and then, and says after each what it has done. The parent
//! kills it at a random moment, opens what it left, and compares: the marks are at least the last flushed ones, and
//! every row is what the frames up to the marks add up to. Then the next child goes on from there.
//!
//! This target has a `main` of its own, since it runs itself as the child. `INDEX_KILLS` and `INDEX_KILL_SEED` say how
//! often and which; the seed is printed.

mod index_model;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use index_model::{World, shards};
use meridian_storage::index::{Index, RocksConfig, RocksKeyValue};
use meridian_types::Seq;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const FIRST_LINE_WITHIN: Duration = Duration::from_secs(60);

/// By position in [`shards`], so that a line is short.
type Marks = BTreeMap<usize, Seq>;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, role, folder, seed, round] = arguments.as_slice()
        && role == "child"
    {
        child(Path::new(folder), number(seed), number(round));
    }
    parent();
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

fn from_environment(name: &str, otherwise: impl FnOnce() -> u64) -> u64 {
    std::env::var(name).map_or_else(|_| otherwise(), |text| number(&text))
}

fn open(folder: &Path) -> Index {
    // Small memtables, so that RocksDB also flushes by itself, at moments that nobody chose.
    let config =
        RocksConfig { memtable_bytes: 256 << 10, block_cache_bytes: 1 << 20, ..RocksConfig::default() };
    let kv = RocksKeyValue::open(folder, &config).expect("the index opens");
    Index::open(Arc::new(kv)).expect("the index opens")
}

/// Applies and flushes until it is killed.
fn child(folder: &Path, seed: u64, round: u64) -> ! {
    let index = open(folder);
    let mut world = World::new(seed);
    let mut rng = StdRng::seed_from_u64(seed.wrapping_add(round));
    let shards = shards();
    let mut out = std::io::stdout().lock();
    let applied = |shard| index.applied(shard).expect("a mark").map_or(Seq::ZERO, |mark| mark.seq);
    loop {
        let at = rng.random_range(0..shards.len());
        let from = applied(shards[at]).next();
        let run = world.frames(shards[at], from, rng.random_range(1..30));
        index.apply(shards[at], run).expect("the next frames");
        let line = format!("applied {at} {}\n", applied(shards[at]));
        out.write_all(line.as_bytes()).expect("the parent listens");
        if rng.random_bool(0.03) {
            index.flush().expect("a flush");
            for (at, &shard) in shards.iter().enumerate() {
                let line =
                    format!("flushed {at} {}\n", index.checkpointed(shard).map_or(0, |mark| mark.seq.0));
                out.write_all(line.as_bytes()).expect("the parent listens");
            }
        }
        out.flush().expect("the parent listens");
    }
}

fn parent() {
    let kills = from_environment("INDEX_KILLS", || 25);
    let seed = from_environment("INDEX_KILL_SEED", rand::random);
    println!("index_kill: {kills} kills, INDEX_KILL_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut world = World::new(seed);
    let (mut opened_at, mut lost, mut beyond_flush) = (Marks::new(), 0, 0);
    for round in 0..kills {
        // Most live until they have applied something, however slow the machine is; the others may die as they open.
        let after_applied = rng.random_bool(0.8);
        let wait = Duration::from_millis(rng.random_range(0..250));
        let (applied, flushed) = run_and_kill(folder.path(), seed, round, after_applied, wait);
        let index = open(folder.path());
        for (at, shard) in shards().into_iter().enumerate() {
            let found = index.applied(shard).expect("a mark").map_or(Seq::ZERO, |mark| mark.seq);
            let known = |marks: &Marks| marks.get(&at).copied().unwrap_or(Seq::ZERO);
            let durable = known(&flushed).max(known(&opened_at));
            let context = format!("seed {seed}, kill {round}, shard {shard}");
            assert!(found >= durable, "{context}: {found} is applied, {durable} was flushed");
            // One run may have been applied and not yet been told of.
            let told = known(&applied).max(durable);
            assert!(found.0 <= told.0 + 30, "{context}: {found} is applied, {told} was the last told of");
            lost += u64::from(found < told);
            beyond_flush += u64::from(found > durable);
            opened_at.insert(at, found);
        }
        world.check(&index);
    }
    let frames: u64 = opened_at.values().map(|seq| seq.0).sum();
    println!(
        "index_kill: ok: {frames} frames applied; {lost} marks fell back, {beyond_flush} were past the last flush"
    );
    // Kills that take nothing back would show nothing.
    assert!(lost > 0, "no kill has lost anything: the test did not test (seed {seed})");
}

/// What the child has said before it was killed.
fn run_and_kill(folder: &Path, seed: u64, round: u64, after_applied: bool, wait: Duration) -> (Marks, Marks) {
    let program = std::env::current_exe().expect("this program");
    let mut child = Command::new(program)
        .args(["child", &folder.display().to_string(), &seed.to_string(), &round.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let (told, hear) = std::sync::mpsc::channel();
    let listener = std::thread::spawn(move || {
        let (mut applied, mut flushed) = (Marks::new(), Marks::new());
        let mut line = String::new();
        // The kill may cut the last line; what was not said whole was not said.
        while output.read_line(&mut line).is_ok_and(|_| line.ends_with('\n')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let marks = match words.as_slice() {
                ["flushed", _, _] => &mut flushed,
                ["applied", _, _] => &mut applied,
                _ => panic!("the child said {line:?}"),
            };
            marks.insert(number(words[1]) as usize, Seq(number(words[2])));
            // Only the first is waited for.
            let _ = told.send(());
            line.clear();
        }
        (applied, flushed)
    });
    if after_applied && hear.recv_timeout(FIRST_LINE_WITHIN).is_err() {
        let _ = child.kill();
        panic!("the child has applied nothing in {FIRST_LINE_WITHIN:?} (seed {seed}, kill {round})");
    }
    let deadline = Instant::now() + wait;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("a child") {
            panic!("the child ended by itself: {status} (seed {seed}, kill {round})");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("SIGKILL");
    child.wait().expect("an end");
    listener.join().expect("the listener")
}
