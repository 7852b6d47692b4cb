//! What a process has queued for its volume, and what becomes of it: the order of things of `storage/src/writer.rs`,
//! without its threads.

use std::collections::VecDeque;

use meridian_shard::{LogPoint, Proven};
use meridian_storage::{Entry, Place};
use meridian_types::{LeaderEpoch, Seq, ShardId};

/// What a shard is told once all of its submission is synced.
#[derive(Clone, Debug)]
pub enum Synced {
    Frames(Vec<(LogPoint, Place)>),
    Cut(LogPoint),
    Promise(LeaderEpoch),
    Doubt(Option<Seq>),
    Repaired(Proven, Vec<Option<Place>>),
    GivenUp,
}

/// Entries of one shard, written in order.
#[derive(Debug)]
pub struct Submission {
    shard: ShardId,
    entries: Vec<Entry>,
    done: Synced,
    next: usize,
    answered: usize,
    skipped: Vec<bool>,
    places: Vec<Option<Place>>,
}

/// The queue of a volume.
#[derive(Debug, Default)]
pub struct Queue {
    arrived: VecDeque<Submission>,
    pending: VecDeque<Submission>,
    /// The round that is being written.
    round: Option<Vec<Entry>>,
    /// How many frames a later cut kept from being written.
    pub skipped: u64,
}

impl Queue {
    pub fn frames(&mut self, shard: ShardId, entries: Vec<Entry>) {
        self.push(shard, entries, Synced::Frames(Vec::new()));
    }

    pub fn cut(&mut self, shard: ShardId, after: LogPoint) {
        self.push(shard, vec![Entry::Cut { shard, from: after.seq.next() }], Synced::Cut(after));
    }

    pub fn give_up(&mut self, shard: ShardId, from: Seq) {
        self.push(shard, vec![Entry::Cut { shard, from }], Synced::GivenUp);
    }

    pub fn promise(&mut self, promise: meridian_storage::Promise) {
        self.push(promise.shard, vec![Entry::Promise(promise)], Synced::Promise(promise.epoch));
    }

    pub fn doubt(&mut self, shard: ShardId, from: Option<Seq>) {
        self.push(shard, vec![Entry::Doubt { shard, from }], Synced::Doubt(from));
    }

    pub fn repair(&mut self, shard: ShardId, proven: Proven) {
        self.push(shard, proven.entries(), Synced::Repaired(proven, Vec::new()));
    }

    fn push(&mut self, shard: ShardId, entries: Vec<Entry>, done: Synced) {
        let (skipped, places) = (vec![false; entries.len()], vec![None; entries.len()]);
        self.arrived.push_back(Submission { shard, entries, done, next: 0, answered: 0, skipped, places });
    }

    /// Nothing is queued, and nothing is being written.
    pub fn is_idle(&self) -> bool {
        self.arrived.is_empty() && self.pending.is_empty() && self.round.is_none()
    }

    /// Whether nothing of a shard is queued or being written.
    pub fn is_clear_of(&self, shard: ShardId) -> bool {
        let others = |queue: &VecDeque<Submission>| queue.iter().all(|one| one.shard != shard);
        self.round.is_none() && others(&self.arrived) && others(&self.pending)
    }

    pub fn is_writing(&self) -> bool {
        self.round.is_some()
    }

    /// Puts the next round together. False: there is nothing to write.
    pub fn begin(&mut self, max_bytes: usize) -> bool {
        for mut submission in std::mem::take(&mut self.arrived) {
            for at in 0..submission.entries.len() {
                if let Entry::Cut { shard, from } = submission.entries[at] {
                    self.skipped +=
                        self.pending.iter_mut().map(|one| one.skip(shard, from, usize::MAX)).sum::<u64>();
                    self.skipped += submission.skip(shard, from, at);
                }
            }
            self.pending.push_back(submission);
        }
        let (mut round, mut bytes) = (Vec::new(), 0);
        'all: for submission in &mut self.pending {
            while let Some(entry) = submission.entries.get(submission.next) {
                if !submission.skipped[submission.next] {
                    bytes += entry.encoded_len();
                    if !round.is_empty() && bytes > max_bytes {
                        break 'all;
                    }
                    round.push(entry.clone());
                }
                submission.next += 1;
            }
        }
        let any = !self.pending.is_empty();
        self.round = any.then_some(round);
        any
    }

    /// The round that is being written.
    pub fn round(&self) -> &[Entry] {
        self.round.as_deref().unwrap_or_default()
    }

    /// The round is synced: which submissions are complete.
    pub fn end(&mut self, places: Vec<Option<Place>>) -> Vec<(ShardId, Synced)> {
        self.round = None;
        let mut places = places.into_iter();
        for submission in &mut self.pending {
            for at in submission.answered..submission.next {
                if !submission.skipped[at] {
                    submission.places[at] = places.next().flatten();
                }
            }
            submission.answered = submission.next;
            if submission.next < submission.entries.len() {
                break;
            }
        }
        let mut complete = Vec::new();
        while let Some(done) = self.pending.pop_front_if(|one| one.next == one.entries.len()) {
            let synced = match done.done {
                Synced::Frames(_) => {
                    let placed = done.entries.iter().zip(done.places);
                    Synced::Frames(
                        placed.filter_map(|(entry, place)| Some((point(entry)?, place?))).collect(),
                    )
                }
                Synced::Repaired(proven, _) => Synced::Repaired(proven, done.places),
                other => other,
            };
            complete.push((done.shard, synced));
        }
        complete
    }
}

impl Submission {
    fn skip(&mut self, shard: ShardId, from: Seq, until: usize) -> u64 {
        let mut count = 0;
        for at in self.next..until.min(self.entries.len()) {
            if let Entry::Frame(frame) = &self.entries[at]
                && frame.header.shard_id() == shard
                && frame.header.seq >= from
            {
                self.skipped[at] = true;
                count += 1;
            }
        }
        count
    }
}

fn point(entry: &Entry) -> Option<LogPoint> {
    let Entry::Frame(frame) = entry else { return None };
    let header = &frame.header;
    Some(LogPoint { seq: header.seq, epoch: header.log_epoch, chain: header.chain })
}
