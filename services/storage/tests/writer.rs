//! The writer thread over the simulated disk: what it answers, when, and when never.

mod common;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{Model, formatted, shard};
use meridian_storage::{
    Disk, Entry, Flushed, Frame, PowerLoss, SimDisk, Submission, Volume, VolumeConfig, VolumeWriter,
    WriterConfig, WriterHandle,
};
use meridian_types::{LogEpoch, Seq, ShardId};

const CONFIG: VolumeConfig =
    VolumeConfig { file_bytes: 64 * 4096, max_round_bytes: 8 * 4096, stock: 1, reserve_bytes: 0 };
const LONG: Duration = Duration::from_secs(20);

struct World {
    disk: Arc<SimDisk>,
    handle: WriterHandle,
    thread: JoinHandle<()>,
    fatal: Receiver<io::Error>,
}

/// Who writes small rounds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hands {
    /// The writer's thread, as all.
    Thread,
    /// One that has offered it.
    Offered,
}

/// Each test, for either.
macro_rules! whoever_writes {
    ($($test:ident),* $(,)?) => {
        mod the_thread_writes {
            $(#[test] fn $test() { super::$test(super::Hands::Thread); })*
        }
        mod others_write {
            $(#[test] fn $test() { super::$test(super::Hands::Offered); })*
        }
    };
}

whoever_writes! {
    what_many_shards_submit_is_synced_in_few_rounds,
    nothing_is_answered_before_it_is_synced,
    a_sync_that_fails_ends_the_writer_and_answers_nothing,
    a_full_disk_holds_submissions_up_and_goes_on_by_itself,
    queued_frames_that_a_later_cut_drops_are_skipped,
    one_empty_round_follows_when_idle,
    a_frame_out_of_order_is_a_bug_that_is_not_survived,
}

/// Writes what is small from now on, on a thread of its own, for as long as the test runs.
fn offer(handle: &WriterHandle) {
    let (call, called) = channel();
    handle.offer_hands(move || _ = call.send(()));
    let handle = handle.clone();
    let write = move || while called.recv().is_ok() && handle.write_here() {};
    std::thread::Builder::new().name("hands".into()).spawn(write).unwrap();
}

fn start(disk: Arc<SimDisk>, hands: Hands) -> World {
    let (volume, _) = Volume::open(disk.clone(), CONFIG, &|_| Seq::ZERO).unwrap();
    let (send, fatal) = channel();
    let on_fatal = Box::new(move |error| send.send(error).unwrap());
    let (handle, thread) = VolumeWriter::spawn(volume, WriterConfig::default(), on_fatal).unwrap();
    if hands == Hands::Offered {
        offer(&handle);
    }
    World { disk, handle, thread, fatal }
}

fn submit(handle: &WriterHandle, shard: ShardId, entries: Vec<Entry>) -> Receiver<Flushed> {
    let (send, receive) = channel();
    // Whoever waits may have given up.
    let done = Box::new(move |flushed| drop(send.send(flushed)));
    handle.submit(Submission { shard, entries, done });
    receive
}

/// The frames 1..=n of a shard.
fn log(shard: ShardId, n: u64, len: usize) -> Vec<Frame> {
    let mut model = Model::default();
    for _ in 0..n {
        let frame = Entry::Frame(model.next(shard, LogEpoch(1), vec![shard.no.0 as u8; len]));
        model.apply(&[frame], None);
    }
    model.shards.remove(&shard).unwrap_or_default().into_iter().map(|(frame, _)| frame).collect()
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < LONG, "{what} never happened");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A file gets its name in the stock with the last operation of its making.
fn wait_for_stock(world: &World) {
    let stocked = |name: &String| name.starts_with("stock-") && !name.ends_with(".part");
    wait_for("the stock", || world.disk.list().unwrap().iter().any(stocked));
}

fn what_many_shards_submit_is_synced_in_few_rounds(hands: Hands) {
    let world = start(formatted(1), hands);
    let rounds = Arc::new(AtomicU64::new(0));
    let logs: Vec<_> = (0..8).map(|no| (shard(no), log(shard(no), 100, 300))).collect();
    std::thread::scope(|scope| {
        for (id, log) in &logs {
            let (handle, rounds) = (world.handle.clone(), Arc::clone(&rounds));
            scope.spawn(move || {
                let mut waiting = Vec::new();
                for frame in log {
                    waiting.push(submit(&handle, *id, vec![Entry::Frame(frame.clone())]));
                }
                for receive in waiting {
                    let flushed = receive.recv_timeout(LONG).unwrap();
                    assert!(matches!(flushed.places[..], [Some(_)]));
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(rounds.load(Ordering::Relaxed), 800);
    assert_eq!(world.handle.queued_bytes(), 0);
    assert!(world.handle.synced_rounds() < 800, "{} rounds", world.handle.synced_rounds());
    // All of it was answered, so none of it needs the page cache.
    world.handle.shutdown();
    world.thread.join().unwrap();
    world.disk.lose_power(PowerLoss::Nothing);
    let (volume, recovered) = Volume::open(world.disk, CONFIG, &|_| Seq::ZERO).unwrap();
    let model = Model {
        shards: logs
            .into_iter()
            .map(|(id, log)| (id, log.into_iter().map(|f| (f, None)).collect()))
            .collect(),
        ..Model::default()
    };
    assert_eq!(model.differs(&recovered, &volume.reader(), &|_| Seq::ZERO), None);
}

fn nothing_is_answered_before_it_is_synced(hands: Hands) {
    // Every answer is followed by a power loss at that very moment.
    for n in 1..20 {
        let world = start(formatted(n), hands);
        let log = log(shard(0), n, 2000);
        let (send, receive) = channel();
        for frame in &log {
            let (disk, send) = (world.disk.clone(), send.clone());
            let last = frame.header.seq.0 == n;
            let done = Box::new(move |_| {
                if last {
                    disk.lose_power(PowerLoss::Nothing);
                    send.send(()).unwrap();
                }
            });
            let entries = vec![Entry::Frame(frame.clone())];
            world.handle.submit(Submission { shard: shard(0), entries, done });
        }
        receive.recv_timeout(LONG).unwrap();
        world.handle.shutdown();
        world.thread.join().unwrap();
        let (_, recovered) = Volume::open(world.disk, CONFIG, &|_| Seq::ZERO).unwrap();
        assert_eq!(recovered.shards[&shard(0)].last, log.last().map(|frame| frame.header));
    }
}

/// Fault 9.
fn a_sync_that_fails_ends_the_writer_and_answers_nothing(hands: Hands) {
    let world = start(formatted(1), hands);
    let log = log(shard(0), 3, 10);
    submit(&world.handle, shard(0), vec![Entry::Frame(log[0].clone())]).recv_timeout(LONG).unwrap();
    // Or the sync that fails could be one of the thread that makes files ahead.
    wait_for_stock(&world);
    world.disk.fail_sync(0);
    let second = submit(&world.handle, shard(0), vec![Entry::Frame(log[1].clone())]);
    assert_eq!(world.fatal.recv_timeout(LONG).unwrap().to_string(), "simulated EIO");
    world.thread.join().unwrap();
    // The disk works again; the writer does not.
    let third = submit(&world.handle, shard(0), vec![Entry::Frame(log[2].clone())]);
    assert_eq!(second.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected));
    assert_eq!(third.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected));
    assert!(world.fatal.try_recv().is_err(), "told once");
}

fn a_full_disk_holds_submissions_up_and_goes_on_by_itself(hands: Hands) {
    let world = start(formatted(1), hands);
    let log = log(shard(0), 400, 2000);
    wait_for_stock(&world);
    world.disk.set_capacity(world.disk.used());
    let waiting: Vec<_> =
        log.iter().map(|frame| submit(&world.handle, shard(0), vec![Entry::Frame(frame.clone())])).collect();
    wait_for("full", || world.handle.is_full());
    wait_for("the room left is used", || {
        let left = world.handle.queued_bytes();
        left > 0 && left < 400 * 1500
    });
    let last = waiting.last().unwrap();
    assert!(last.recv_timeout(Duration::from_millis(250)).is_err(), "not answered while the disk is full");
    world.disk.set_capacity(u64::MAX);
    for receive in &waiting[..399] {
        receive.recv_timeout(LONG).unwrap();
    }
    last.recv_timeout(LONG).unwrap();
    wait_for("room again", || !world.handle.is_full());
    assert!(world.fatal.try_recv().is_err());
    world.handle.shutdown();
    world.thread.join().unwrap();
}

/// Fault 35, in the queue: frames that a later Cut drops are not written at all.
fn queued_frames_that_a_later_cut_drops_are_skipped(hands: Hands) {
    let world = start(formatted(1), hands);
    let old = log(shard(0), 6, 100);
    // The writer is held in an answer while the rest is queued.
    let (hold, held) = channel::<()>();
    let entries = old[..2].iter().cloned().map(Entry::Frame).collect();
    let done = Box::new(move |_| held.recv().unwrap());
    world.handle.submit(Submission { shard: shard(0), entries, done });
    wait_for("the first round", || world.handle.synced_rounds() == 1);
    let frames: Vec<_> = old[2..5].iter().cloned().map(Entry::Frame).collect();
    let third = submit(&world.handle, shard(0), frames);
    let other = submit(&world.handle, shard(1), log(shard(1), 2, 10).into_iter().map(Entry::Frame).collect());
    let mut model = Model::default();
    model.apply(&old[..3].iter().cloned().map(Entry::Frame).collect::<Vec<_>>(), None);
    let again = model.next(shard(0), LogEpoch(2), vec![9; 50]);
    let cut = submit(
        &world.handle,
        shard(0),
        vec![
            Entry::Frame(old[5].clone()),
            Entry::Cut { shard: shard(0), from: Seq(4) },
            Entry::Frame(again.clone()),
        ],
    );
    hold.send(()).unwrap();
    let third = third.recv_timeout(LONG).unwrap().places;
    assert!(matches!(third[..], [Some(_), None, None]), "{third:?}");
    assert!(other.recv_timeout(LONG).unwrap().places.iter().all(Option::is_some));
    let cut = cut.recv_timeout(LONG).unwrap().places;
    assert!(matches!(cut[..], [None, None, Some(_)]), "{cut:?}");
    world.handle.shutdown();
    world.thread.join().unwrap();
    let (volume, recovered) = Volume::open(world.disk, CONFIG, &|_| Seq::ZERO).unwrap();
    let found = &recovered.shards[&shard(0)];
    assert_eq!(found.frames.last(), Some(&(Seq(4), cut[2].unwrap())));
    assert_eq!(volume.reader().read(third[0].unwrap()).unwrap(), old[2]);
    assert_eq!(volume.reader().read(cut[2].unwrap()).unwrap(), again);
}

/// The empty round that tells a torn tail from damage comes once, 20 ms after the last one, and no more.
fn one_empty_round_follows_when_idle(hands: Hands) {
    let world = start(formatted(1), hands);
    let frame = log(shard(0), 1, 10).remove(0);
    wait_for_stock(&world);
    let before = world.disk.ops();
    submit(&world.handle, shard(0), vec![Entry::Frame(frame)]).recv_timeout(LONG).unwrap();
    // A write and a sync for the round, a write and a sync for the empty one.
    wait_for("the empty round", || world.disk.ops() == before + 4);
    std::thread::sleep(Duration::from_millis(120));
    assert_eq!(world.disk.ops(), before + 4);
    assert_eq!(world.handle.synced_rounds(), 1);
    world.handle.shutdown();
    world.thread.join().unwrap();
}

fn a_frame_out_of_order_is_a_bug_that_is_not_survived(hands: Hands) {
    let world = start(formatted(1), hands);
    let log = log(shard(0), 3, 10);
    submit(&world.handle, shard(0), vec![Entry::Frame(log[0].clone())]).recv_timeout(LONG).unwrap();
    let hole = submit(&world.handle, shard(0), vec![Entry::Frame(log[2].clone())]);
    assert!(world.fatal.recv_timeout(LONG).unwrap().to_string().contains("frame 3 after 1"));
    assert_eq!(hole.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected));
    world.thread.join().unwrap();
}

/// By whom a submission of these frames was answered.
fn answered_by(handle: &WriterHandle, frames: &[Frame]) -> String {
    let (send, receive) = channel();
    let by = move |_| send.send(std::thread::current().name().unwrap_or_default().to_owned()).unwrap();
    let entries = frames.iter().cloned().map(Entry::Frame).collect();
    handle.submit(Submission { shard: shard(0), entries, done: Box::new(by) });
    receive.recv_timeout(LONG).unwrap()
}

#[test]
fn who_has_offered_writes_what_is_small_and_the_thread_the_rest() {
    let world = start(formatted(1), Hands::Offered);
    let log = log(shard(0), 80, 1000);
    // The thread may be at it, too: it is woken to think of the empty round.
    let by: Vec<String> =
        log[..12].iter().map(|frame| answered_by(&world.handle, std::slice::from_ref(frame))).collect();
    assert!(by.iter().any(|by| by == "hands"), "{by:?}");
    assert_eq!(answered_by(&world.handle, &log[12..79]), "volume-writer", "more than 64 KiB");
    // Of the file's 256 KiB less is left than what two small rounds may take.
    assert_eq!(answered_by(&world.handle, &log[79..]), "volume-writer", "the next file is near");
    world.handle.shutdown();
    world.thread.join().unwrap();
    world.disk.lose_power(PowerLoss::Nothing);
    let (_, recovered) = Volume::open(world.disk, CONFIG, &|_| Seq::ZERO).unwrap();
    assert_eq!(recovered.shards[&shard(0)].last, log.last().map(|frame| frame.header));
}

#[test]
fn who_has_offered_is_told_of_the_end() {
    let world = start(formatted(1), Hands::Thread);
    let (call, called) = channel();
    world.handle.offer_hands(move || _ = call.send(()));
    world.handle.shutdown();
    world.thread.join().unwrap();
    called.recv_timeout(LONG).unwrap();
    assert!(!world.handle.write_here());
    assert!(called.recv_timeout(LONG).is_err(), "nobody can call any more");
}

#[test]
fn the_thread_writes_what_comes_while_it_writes() {
    let world = start(formatted(1), Hands::Offered);
    let log = log(shard(0), 80, 1000);
    let (hold, held) = channel::<()>();
    let entries = log[..70].iter().cloned().map(Entry::Frame).collect();
    let done = Box::new(move |_| held.recv().unwrap());
    world.handle.submit(Submission { shard: shard(0), entries, done });
    wait_for("a round", || world.handle.synced_rounds() > 0);
    let small = submit(&world.handle, shard(0), vec![Entry::Frame(log[70].clone())]);
    // Not by the hands, which find the volume in use, and do not wait for it.
    assert!(small.recv_timeout(Duration::from_millis(100)).is_err());
    hold.send(()).unwrap();
    small.recv_timeout(LONG).unwrap();
    world.handle.shutdown();
    world.thread.join().unwrap();
}
