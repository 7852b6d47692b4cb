//! The writer thread: what every shard wants to append, as rounds.
//!
//! In: submissions. Out: their places, after the sync of the round that holds their last entry. No linger timer: what
//! has come while a round was written and synced is the next round. Must never answer before the sync, or go on after a
//! failure.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use meridian_types::{Seq, ShardId};
use parking_lot::{Condvar, Mutex};

use crate::place::Place;
use crate::record::Entry;
use crate::volume::{Staged, Stock, Volume, WriteError};

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
    /// Called on the writer's thread once all of it is synced: it must not block. Dropped uncalled if the disk fails,
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
    queue: Mutex<Queue>,
    wake: Condvar,
    queued_bytes: AtomicU64,
    rounds: AtomicU64,
    blocked: AtomicBool,
    stock: Arc<Stock>,
}

#[derive(Default)]
struct Queue {
    submissions: VecDeque<Submission>,
    /// Shutdown was asked for: write what is queued, then end.
    stop: bool,
    /// The writer has ended: nothing is taken any more.
    dead: bool,
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
            queue: Mutex::default(),
            wake: Condvar::new(),
            queued_bytes: AtomicU64::new(0),
            rounds: AtomicU64::new(0),
            blocked: AtomicBool::new(false),
            stock: volume.stock(),
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
            let round_bytes = volume.config().max_round_bytes;
            let pending = VecDeque::new();
            let mut writer = Writer { volume, config, shared, pending, placed: Vec::new(), round_bytes };
            let result = writer.run();
            writer.end();
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
    /// Queues a submission. Never blocks: whoever submits bounds itself by [`WriterHandle::queued_bytes`].
    pub fn submit(&self, submission: Submission) {
        let bytes: usize = submission.entries.iter().map(Entry::encoded_len).sum();
        let mut queue = self.shared.queue.lock();
        if queue.stop || queue.dead {
            return; // dropped outside of any promise: `done` is not called
        }
        self.shared.queued_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        queue.submissions.push_back(submission);
        drop(queue);
        self.shared.wake.notify_one();
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

/// A submission on its way.
struct Pending {
    submission: Submission,
    bytes: u64,
    /// Entries that are staged or skipped.
    next: usize,
    /// Entries whose places are known.
    answered: usize,
    /// Which entries are skipped; empty, as nearly always, if none is.
    skipped: Vec<bool>,
    places: Vec<Option<Place>>,
}

struct Writer {
    volume: Volume,
    config: WriterConfig,
    shared: Arc<Shared>,
    pending: VecDeque<Pending>,
    placed: Vec<Option<Place>>,
    round_bytes: usize,
}

impl Writer {
    fn run(&mut self) -> io::Result<()> {
        loop {
            if !self.gather()? {
                return Ok(());
            }
            self.stage()?;
            if !self.commit()? {
                return Ok(());
            }
            self.answer();
        }
    }

    /// Moves what is queued to `pending`; waits if there is nothing. `false`: it is over.
    fn gather(&mut self) -> io::Result<bool> {
        let mut queue = self.shared.queue.lock();
        loop {
            if queue.dead {
                return Ok(false);
            }
            if !queue.submissions.is_empty() || !self.pending.is_empty() {
                break;
            }
            let stop = queue.stop;
            let waited = stop || self.shared.wake.wait_for(&mut queue, self.config.idle).timed_out();
            if waited && queue.submissions.is_empty() {
                // The lock is not held while a disk is waited for.
                let written =
                    parking_lot::MutexGuard::unlocked(&mut queue, || self.volume.write_idle_round());
                match written {
                    // The next round proves the last one just as well.
                    Ok(_) | Err(WriteError::NoSpace) => {}
                    Err(error) => return Err(into_io(error)),
                }
                if stop {
                    return Ok(false);
                }
                if queue.submissions.is_empty() && !queue.stop && !queue.dead {
                    self.shared.wake.wait(&mut queue);
                }
            }
        }
        let arrived = std::mem::take(&mut queue.submissions);
        drop(queue);
        for submission in arrived {
            self.arrive(submission);
        }
        Ok(true)
    }

    fn arrive(&mut self, submission: Submission) {
        let entries = submission.entries.len();
        let bytes = submission.entries.iter().map(|entry| entry.encoded_len() as u64).sum();
        let mut pending = Pending {
            submission,
            bytes,
            next: 0,
            answered: 0,
            skipped: Vec::new(),
            places: vec![None; entries],
        };
        for at in 0..entries {
            if let Entry::Cut { shard, from } = pending.submission.entries[at] {
                self.pending.iter_mut().for_each(|earlier| earlier.skip(shard, from, usize::MAX));
                pending.skip(shard, from, at);
            }
        }
        self.pending.push_back(pending);
    }

    fn stage(&mut self) -> io::Result<()> {
        for pending in &mut self.pending {
            while let Some(entry) = pending.submission.entries.get(pending.next) {
                if !pending.is_skipped(pending.next)
                    && self.volume.stage(entry, self.round_bytes).map_err(into_io)? == Staged::Full
                {
                    return Ok(());
                }
                pending.next += 1;
            }
        }
        Ok(())
    }

    /// Writes the round, and tries until there is room for it. `false`: shut down while the disk is full.
    fn commit(&mut self) -> io::Result<bool> {
        self.placed.clear();
        let empty = self.volume.staged_bytes() == 0;
        loop {
            match self.volume.commit(&mut self.placed) {
                Ok(()) => break,
                Err(WriteError::NoSpace) => {
                    self.shared.blocked.store(true, Ordering::Release);
                    if self.shared.is_over() {
                        return Ok(false);
                    }
                    thread::sleep(self.config.retry_full);
                }
                Err(error) => return Err(into_io(error)),
            }
        }
        self.shared.blocked.store(false, Ordering::Release);
        if !empty {
            self.shared.rounds.fetch_add(1, Ordering::Relaxed);
        }
        Ok(true)
    }

    /// Hands the places to those submissions that are complete.
    fn answer(&mut self) {
        let mut placed = self.placed.drain(..);
        for pending in &mut self.pending {
            for at in pending.answered..pending.next {
                if !pending.is_skipped(at) {
                    pending.places[at] = placed.next().flatten();
                }
            }
            pending.answered = pending.next;
            if pending.next < pending.submission.entries.len() {
                break;
            }
        }
        drop(placed);
        while let Some(done) =
            self.pending.pop_front_if(|pending| pending.next == pending.submission.entries.len())
        {
            self.shared.queued_bytes.fetch_sub(done.bytes, Ordering::Relaxed);
            (done.submission.done)(Flushed { places: done.places });
        }
    }

    /// Nothing that is left will be written. What was to be called is dropped outside of the lock.
    fn end(&mut self) {
        let mut queue = self.shared.queue.lock();
        queue.dead = true;
        let dropped = std::mem::take(&mut queue.submissions);
        drop(queue);
        drop(dropped);
        self.pending.clear();
        self.shared.queued_bytes.store(0, Ordering::Relaxed);
        self.shared.stock.wake();
    }
}

impl Pending {
    fn is_skipped(&self, at: usize) -> bool {
        self.skipped.get(at).copied().unwrap_or(false)
    }

    /// Marks the frames of a shard from a seq on that are not staged yet, before entry `until`.
    fn skip(&mut self, shard: ShardId, from: Seq, until: usize) {
        let until = until.min(self.submission.entries.len());
        for at in self.next..until {
            if let Entry::Frame(frame) = &self.submission.entries[at]
                && frame.header.shard_id() == shard
                && frame.header.seq >= from
            {
                self.skipped.resize(self.submission.entries.len(), false);
                self.skipped[at] = true;
            }
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
