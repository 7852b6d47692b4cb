//! The writer: what every shard wants to append, as rounds.
//!
//! In: submissions. Out: their places, after the sync of the round that holds their last entry. No linger timer: what
//! has come while a round was written and synced is the next round. Must never answer before the sync, or go on after a
//! failure.
//!
//! A thread of its own writes the rounds. Where a disk syncs quickly, to wake that thread and to be woken by it takes longer
//! than a small round itself: so whoever submits may offer to write small rounds where it is ([`WriterHandle::offer_hands`]).
//! Rounds are written one after the other all the same, by whoever has them under lock.

mod hands;
mod rounds;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use meridian_types::ShardId;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::place::Place;
use crate::record::Entry;
use crate::volume::{Restarts, Stock, Volume, WriteError};
use hands::Hands;
use rounds::Rounds;

/// How the writer thread behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterConfig {
    /// After how long without anything to write the empty round follows.
    pub idle: Duration,
    /// How often a full disk is tried again.
    pub retry_full: Duration,
    /// How much of its time the thread that makes files ahead may write, in percent.
    pub prepare_duty: u32,
}

impl Default for WriterConfig {
    fn default() -> Self {
        Self { idle: Duration::from_millis(20), retry_full: Duration::from_millis(100), prepare_duty: 50 }
    }
}

/// Entries of one shard to be written in order.
pub struct Submission {
    /// Whose they are.
    pub shard: ShardId,
    /// What to write.
    pub entries: Vec<Entry>,
    /// Called by whoever wrote it, once all of it is synced: it must not block. Dropped uncalled if the disk fails,
    /// or at a shutdown with a full disk: then nothing of it may be acknowledged.
    pub done: Box<dyn FnOnce(Flushed) + Send>,
}

impl std::fmt::Debug for Submission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Submission")
            .field("shard", &self.shard)
            .field("entries", &self.entries.len())
            .finish()
    }
}

/// What became of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// One for each entry: `None` for records, and for frames that were not written because a Cut that was queued
    /// after them drops them.
    pub places: Vec<Option<Place>>,
}

/// Starts the writer.
#[derive(Debug)]
pub struct VolumeWriter;

/// Submits to the writer, from any thread.
#[derive(Clone)]
pub struct WriterHandle {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for WriterHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriterHandle").field("queued_bytes", &self.queued_bytes()).finish_non_exhaustive()
    }
}

struct Shared {
    /// Locked before the queue, by whoever writes. None: the writer has ended, and the volume is closed.
    writing: Mutex<Option<Rounds>>,
    queue: Mutex<Queue>,
    /// The thread waits here.
    wake: Condvar,
    queued_bytes: AtomicU64,
    rounds: AtomicU64,
    blocked: AtomicBool,
    stock: Arc<Stock>,
    restarts: Restarts,
}

#[derive(Default)]
struct Queue {
    submissions: VecDeque<Submission>,
    /// Of `submissions`, in bytes.
    bytes: u64,
    hands: Hands,
    /// When the last round was written: the empty one follows some time after it.
    last_round: Option<Instant>,
    /// The thread waits for whatever comes, and looks at no clock.
    asleep: bool,
    /// Shutdown was asked for: write what is queued, then end.
    stop: bool,
    /// The writer has ended: nothing is taken any more.
    dead: bool,
}

impl Queue {
    fn take(&mut self) -> VecDeque<Submission> {
        self.bytes = 0;
        std::mem::take(&mut self.submissions)
    }
}

impl VolumeWriter {
    /// Starts the thread that writes, and the one that makes files ahead. `on_fatal` is called once if the disk fails;
    /// it should end the process. The join handle ends after [`WriterHandle::shutdown`] or a failure, and with it the
    /// volume is closed.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn spawn(
        volume: Volume,
        config: WriterConfig,
        on_fatal: Box<dyn Fn(io::Error) + Send + Sync>,
    ) -> io::Result<(WriterHandle, JoinHandle<()>)> {
        let shared = Arc::new(Shared {
            stock: volume.stock(),
            restarts: volume.restarts(),
            writing: Mutex::new(Some(Rounds::of(volume))),
            queue: Mutex::default(),
            wake: Condvar::new(),
            queued_bytes: AtomicU64::new(0),
            rounds: AtomicU64::new(0),
            blocked: AtomicBool::new(false),
        });
        let handle = WriterHandle { shared: Arc::clone(&shared) };
        let on_fatal: Arc<dyn Fn(io::Error) + Send + Sync> = Arc::from(on_fatal);
        let preparer = {
            let (shared, on_fatal) = (Arc::clone(&shared), Arc::clone(&on_fatal));
            thread::Builder::new()
                .name("volume-prepare".into())
                .spawn(move || prepare(&shared, config, &*on_fatal))?
        };
        let writer = move || {
            let result = write(&shared, config);
            shared.end();
            if let Err(error) = result {
                on_fatal(error);
            }
            // It holds no more than a file half made; a panic in it has been reported by itself.
            let _ = preparer.join();
        };
        let thread = thread::Builder::new().name("volume-writer".into()).spawn(writer)?;
        Ok((handle, thread))
    }
}

impl WriterHandle {
    /// What recovery may begin at, as the volume grows.
    pub fn restarts(&self) -> &Restarts {
        &self.shared.restarts
    }

    /// Queues a submission. Never blocks: whoever submits bounds itself by [`WriterHandle::queued_bytes`].
    pub fn submit(&self, submission: Submission) {
        let bytes = submission.entries.iter().map(|entry| entry.encoded_len() as u64).sum();
        let mut queue = self.shared.queue.lock();
        if queue.stop || queue.dead {
            return; // dropped outside of any promise: `done` is not called
        }
        self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        queue.submissions.push_back(submission);
        queue.bytes += bytes;
        let round = queue.bytes;
        let hands = queue.hands.for_round_of(round);
        drop(queue);
        match hands {
            Some(call) => call(),
            None => _ = self.shared.wake.notify_one(),
        }
    }

    /// Offers to write small rounds, while the disk is quick: `call` is called, by whoever submits, when there is one, and is to
    /// see to it that [`WriterHandle::write_here`] is called soon. What has been submitted by then becomes one round. Called once
    /// more when the writer ends: the offer stands until then.
    pub fn offer_hands(&self, call: impl Fn() + Send + Sync + 'static) {
        self.shared.queue.lock().hands.offer(Arc::new(call));
    }

    /// Writes what is queued, on this thread, or leaves it to the writer's own: if that is writing, if it is much, or if anything
    /// is in the way. Blocks for a write and a sync; the answers are given before it returns. `false`: the writer has ended, and this
    /// need not be called any more.
    pub fn write_here(&self) -> bool {
        let leave = match self.shared.writing.try_lock() {
            Some(mut writing) => match writing.as_mut() {
                Some(rounds) => rounds.write_small(&self.shared),
                None => return false,
            },
            None => true,
        };
        if leave {
            // The thread looks and begins to wait under this lock: it has seen what is left, or is woken.
            let _queue = self.shared.queue.lock();
            self.shared.wake.notify_one();
        }
        true
    }

    /// How many bytes of entries are submitted and not yet answered.
    pub fn queued_bytes(&self) -> u64 {
        self.shared.queued_bytes.load(Ordering::Relaxed)
    }

    /// Whether the disk has no room for another volume file: stop publishing. It is tried again all the time, and
    /// goes back to false by itself. What is left of the current file still takes entries.
    pub fn is_full(&self) -> bool {
        self.shared.blocked.load(Ordering::Acquire) || self.shared.stock.is_exhausted()
    }

    /// How many rounds with entries were synced since the start.
    pub fn synced_rounds(&self) -> u64 {
        self.shared.rounds.load(Ordering::Relaxed)
    }

    /// Lets the writer write what is queued and then end. Later submissions are dropped.
    pub fn shutdown(&self) {
        self.shared.queue.lock().stop = true;
        self.shared.wake.notify_one();
        self.shared.stock.wake();
    }
}

impl Shared {
    fn is_over(&self) -> bool {
        let queue = self.queue.lock();
        queue.stop || queue.dead
    }

    /// Nothing that is left will be written. What was to be called is dropped outside of the locks.
    fn end(&self) {
        let rounds = self.writing.lock().take();
        let mut queue = self.queue.lock();
        queue.dead = true;
        let dropped = queue.take();
        let hands = queue.hands.withdraw();
        drop(queue);
        drop((rounds, dropped));
        self.queued_bytes.store(0, Ordering::Relaxed);
        self.stock.wake();
        if let Some(call) = hands {
            call();
        }
    }

    /// Waits for the next thing to do, and until the last round has to be followed by the empty one if nothing comes.
    fn wait(&self, mut queue: MutexGuard<'_, Queue>, proven: bool, idle: Duration) {
        if proven {
            queue.asleep = true;
            self.wake.wait(&mut queue);
            queue.asleep = false;
        } else {
            let since = queue.last_round.unwrap_or_else(Instant::now);
            self.wake.wait_until(&mut queue, since + idle);
        }
    }
}

/// The body of the thread that writes.
fn write(shared: &Shared, config: WriterConfig) -> io::Result<()> {
    loop {
        let mut writing = shared.writing.lock();
        let Some(rounds) = writing.as_mut() else { return Ok(()) };
        let mut queue = shared.queue.lock();
        if queue.dead {
            return Ok(());
        }
        let nothing_to_do = queue.submissions.is_empty() && rounds.are_done();
        if !nothing_to_do {
            rounds.take(queue.take());
            drop(queue);
            if !write_round(shared, rounds, config)? {
                return Ok(());
            }
            shared.queue.lock().last_round = Some(Instant::now());
            continue;
        }
        let proven = rounds.are_proven();
        let stop = queue.stop;
        if stop || !proven && queue.last_round.is_none_or(|at| at.elapsed() >= config.idle) {
            // The lock is not held while a disk is waited for.
            drop(queue);
            rounds.write_idle()?;
            if stop {
                return Ok(());
            }
            shared.queue.lock().last_round = Some(Instant::now());
            continue;
        }
        drop(writing);
        shared.wait(queue, proven, config.idle);
    }
}

/// Writes a round, and tries until there is room for it. `false`: shut down while the disk is full.
fn write_round(shared: &Shared, rounds: &mut Rounds, config: WriterConfig) -> io::Result<bool> {
    loop {
        match rounds.write(shared) {
            Ok(()) => return Ok(true),
            Err(WriteError::NoSpace) => {
                if shared.is_over() {
                    return Ok(false);
                }
                thread::sleep(config.retry_full);
            }
            Err(error) => return Err(into_io(error)),
        }
    }
}

/// What the thread ends with: a failure of the disk, or a bug of a caller, which must not be survived either.
fn into_io(error: WriteError) -> io::Error {
    match error {
        WriteError::Fatal(error) => error,
        other => io::Error::other(other),
    }
}

/// The body of the thread that makes files ahead.
fn prepare(shared: &Shared, config: WriterConfig, on_fatal: &(dyn Fn(io::Error) + Send + Sync)) {
    while !shared.is_over() {
        if !shared.stock.wait_until_short(config.retry_full) {
            continue;
        }
        match shared.stock.fill(config.prepare_duty) {
            Ok(()) => {}
            Err(WriteError::Fatal(error)) => {
                shared.queue.lock().dead = true;
                shared.wake.notify_one();
                return on_fatal(error);
            }
            Err(_) => thread::sleep(config.retry_full),
        }
    }
}
