//! One round after the other, on whatever thread.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Instant;

use meridian_types::{Seq, ShardId};

use super::hands::SMALL_ROUND;
use super::{Flushed, Shared, Submission, into_io};
use crate::place::Place;
use crate::record::Entry;
use crate::volume::{Staged, Volume, WriteError};

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

/// The volume, and what is to be written to it.
pub(super) struct Rounds {
    volume: Volume,
    pending: VecDeque<Pending>,
    placed: Vec<Option<Place>>,
    round_bytes: usize,
}

impl Rounds {
    /// Nothing is to be written yet.
    pub fn of(volume: Volume) -> Self {
        let round_bytes = volume.config().max_round_bytes;
        Self { volume, pending: VecDeque::new(), placed: Vec::new(), round_bytes }
    }

    /// Whether all that was taken is written and answered.
    pub fn are_done(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether the last round is proven by an empty one.
    pub fn are_proven(&self) -> bool {
        self.volume.is_proven()
    }

    /// The empty round; the next one proves the last just as well, where there is no room for it.
    pub fn write_idle(&mut self) -> io::Result<()> {
        match self.volume.write_idle_round() {
            Ok(_) | Err(WriteError::NoSpace) => Ok(()),
            Err(error) => Err(into_io(error)),
        }
    }

    /// Takes what was queued.
    pub fn take(&mut self, arrived: VecDeque<Submission>) {
        for submission in arrived {
            self.arrive(submission);
        }
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

    /// Writes what is queued, if it is little and nothing is in the way. Whether something is left to the thread.
    pub fn write_small(&mut self, shared: &Shared) -> bool {
        if !self.are_done() {
            return true;
        }
        let mut queue = shared.queue.lock();
        if queue.dead {
            // The disk has failed elsewhere: nothing is answered any more.
            return true;
        }
        if queue.submissions.is_empty() {
            return false;
        }
        // To go on in a new file takes several syncs.
        if queue.bytes > SMALL_ROUND || !self.volume.has_room_in_file(2 * SMALL_ROUND) {
            return true;
        }
        let arrived = queue.take();
        drop(queue);
        self.take(arrived);
        let begun = Instant::now();
        let written = self.write(shared);
        let ended = Instant::now();
        let mut queue = shared.queue.lock();
        queue.hands.wrote(ended - begun, ended);
        queue.last_round = Some(ended);
        // A failure is the thread's to meet again, and to report; and it has to think of the empty round.
        written.is_err() || !self.are_done() || !queue.submissions.is_empty() || queue.asleep
    }

    /// Writes one round of what is pending, and answers. After [`WriteError::NoSpace`] it is to be called again.
    pub fn write(&mut self, shared: &Shared) -> Result<(), WriteError> {
        if self.volume.staged_bytes() == 0 {
            self.stage()?;
        }
        let empty = self.volume.staged_bytes() == 0;
        self.placed.clear();
        let committed = self.volume.commit(&mut self.placed);
        shared.blocked.store(matches!(committed, Err(WriteError::NoSpace)), Ordering::Release);
        committed?;
        if !empty {
            shared.rounds.fetch_add(1, Ordering::Relaxed);
        }
        self.answer(shared);
        Ok(())
    }

    fn stage(&mut self) -> Result<(), WriteError> {
        for pending in &mut self.pending {
            while let Some(entry) = pending.submission.entries.get(pending.next) {
                if !pending.is_skipped(pending.next)
                    && self.volume.stage(entry, self.round_bytes)? == Staged::Full
                {
                    return Ok(());
                }
                pending.next += 1;
            }
        }
        Ok(())
    }

    /// Hands the places to those submissions that are complete.
    fn answer(&mut self, shared: &Shared) {
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
            shared.queued_bytes.fetch_sub(done.bytes, Ordering::Relaxed);
            (done.submission.done)(Flushed { places: done.places });
        }
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
