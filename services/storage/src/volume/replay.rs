//! What the entries of a volume add up to, shard by shard, in the order in which they were written.
//!
//! In: entries that were read, entries that are known to be lost, and the news that unknown ones are. Out: for each
//! shard what stands, what is missing, and from where on it may be wrong. Must never guess in favour of what it has:
//! a Cut or a frame may be in whatever could not be read.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use meridian_types::{Seq, ShardId};

use crate::frame::FrameHeader;
use crate::place::Place;
use crate::record::{Promise, Record};
use crate::seq_ranges::SeqRanges;

/// A shard as a volume holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredShard {
    /// The header of the last frame. Its payload may be among what is missing.
    pub last: Option<FrameHeader>,
    /// Where that frame lies.
    pub last_place: Option<Place>,
    /// How far the log went when the last entry was written that tells: its last frame, or what it was cut back to.
    pub end: Seq,
    /// The frames after the mark that recovery was given, in order; those missing are left out.
    pub frames: Vec<(Seq, Place)>,
    /// Frames that are damaged, in order: quarantine them and fetch them elsewhere.
    pub missing: Vec<RangeInclusive<Seq>>,
    /// Damage may have hidden frames or cuts of this shard: from this seq on frames may be missing, or be others than
    /// those stored last. Nothing from here on may be applied, and the shard answers a fence with "unsure", until
    /// another copy has confirmed it. (The chain tells what is right.)
    pub unsure_from: Option<Seq>,
    /// How far the volume says that it is committed and was applied: the index may have forgotten some of it.
    pub applied: Seq,
    /// A promise may be among what damage hides: frames that came after it may be of earlier epochs, and tell nothing of it.
    pub promise_hidden: bool,
    /// Frames at or below that mark which were stored again, and where: an index that was not flushed since has to be told
    /// anew.
    pub moved: Vec<(Seq, Place)>,
    /// An earlier process has found frames from there on lost, which it may have reported as flushed, and was not done with
    /// following a leader to the end of what those can have been.
    pub doubt: Option<Seq>,
}

impl RecoveredShard {
    /// Whether nothing is damaged, in doubt, or stored again.
    pub(super) fn is_plain(&self) -> bool {
        let is_whole = self.missing.is_empty() && self.unsure_from.is_none() && !self.promise_hidden;
        is_whole && self.doubt.is_none() && self.moved.is_empty()
    }
}

/// Reads a frame's header again: after a cut the frame before it is the last.
pub(super) type ReadHeader<'a> = &'a dyn Fn(Place) -> Option<FrameHeader>;

pub(super) struct Replay<'a> {
    applied_from: &'a dyn Fn(ShardId) -> Seq,
    shards: BTreeMap<ShardId, Shard>,
    promises: BTreeMap<ShardId, Promise>,
    /// `hidden` when a shard last promised.
    promised_at: BTreeMap<ShardId, u64>,
    /// How often so far entries were hidden by damage.
    hidden: u64,
}

struct Shard {
    applied: Seq,
    /// The frames from `applied` on, and the last one before.
    known: Vec<Known>,
    last: Option<FrameHeader>,
    end: Seq,
    missing: SeqRanges,
    /// Frames stored again whose last place is good.
    moved: BTreeMap<Seq, Place>,
    unsure_from: Option<Seq>,
    doubt: Option<Seq>,
    marked: Seq,
    /// `Replay::hidden` when this shard's last frame was read: whatever was hidden before cannot have followed it.
    hidden: u64,
}

#[derive(Clone, Copy)]
struct Known {
    seq: Seq,
    place: Place,
    good: bool,
}

impl<'a> Replay<'a> {
    pub fn new(applied_from: &'a dyn Fn(ShardId) -> Seq) -> Self {
        Self {
            applied_from,
            shards: BTreeMap::new(),
            promises: BTreeMap::new(),
            promised_at: BTreeMap::new(),
            hidden: 0,
        }
    }

    /// What came before is known: this is how a shard's log ended.
    pub fn begin_after(&mut self, header: FrameHeader, place: Place) {
        let shard = self.shard(header.shard_id());
        shard.known = vec![Known { seq: header.seq, place, good: true }];
        (shard.last, shard.end) = (Some(header), header.seq);
    }

    /// Entries of unknown shards and kinds are lost at this point of the order.
    pub fn hidden(&mut self) {
        self.hidden += 1;
    }

    /// The next frame. `good`: its payload is whole; if not, it is known to be lost.
    pub fn frame(&mut self, header: FrameHeader, place: Place, good: bool, read: ReadHeader<'_>) {
        let hidden = self.hidden;
        self.shard(header.shard_id()).frame(header, place, good, hidden, read);
    }

    /// The next frame is one that was stored again. `good`: its payload is whole; if not, it is lost once more.
    pub fn moved(&mut self, header: FrameHeader, place: Place, good: bool) {
        let shard = self.shard(header.shard_id());
        if good {
            shard.moved.insert(header.seq, place);
        } else {
            shard.moved.remove(&header.seq);
            shard.lacks(header.seq..=header.seq);
        }
    }

    fn shard(&mut self, id: ShardId) -> &mut Shard {
        let applied_from = self.applied_from;
        self.shards.entry(id).or_insert_with(|| Shard {
            applied: applied_from(id),
            known: Vec::new(),
            last: None,
            end: Seq::ZERO,
            missing: SeqRanges::default(),
            moved: BTreeMap::new(),
            unsure_from: None,
            doubt: None,
            marked: Seq::ZERO,
            // A shard that first turns up after hidden damage may have begun in it.
            hidden: 0,
        })
    }

    /// The next record.
    pub fn record(&mut self, record: Record, read: ReadHeader<'_>) {
        match record {
            Record::Promise(promise) => {
                self.promises.insert(promise.shard, promise);
                self.promised_at.insert(promise.shard, self.hidden);
            }
            Record::Cut { shard, from } => {
                let hidden = self.hidden;
                let shard = self.shard(shard);
                shard.cut(from, read);
                shard.end = from.prev();
                if hidden > 0 {
                    // What the log was cut back to was there, whatever a doubt before it answers for.
                    let first = shard.last.map_or(Seq::ZERO, |last| last.seq).next();
                    shard.lacks(first..=from.prev());
                }
            }
            Record::Doubt { shard, from } => {
                let hidden = self.hidden;
                self.shard(shard).doubt(from, hidden);
            }
            Record::Applied { shard, through } => {
                let shard = self.shard(shard);
                shard.marked = shard.marked.max(through);
            }
            // Recovery hands its frame to `moved`.
            Record::Moved { .. } => {}
        }
    }

    pub fn finish(self) -> (BTreeMap<ShardId, RecoveredShard>, BTreeMap<ShardId, Promise>) {
        let hidden = self.hidden;
        let promised_at = self.promised_at;
        let finish = |(id, shard): (ShardId, Shard)| {
            let promise_hidden = promised_at.get(&id).copied().unwrap_or(0) < hidden;
            (id, RecoveredShard { promise_hidden, ..shard.finish(hidden) })
        };
        let shards = self.shards.into_iter().map(finish).collect();
        (shards, self.promises)
    }
}

impl Shard {
    fn frame(&mut self, header: FrameHeader, place: Place, good: bool, hidden: u64, read: ReadHeader<'_>) {
        let seq = header.seq;
        let since_hidden = self.hidden < hidden;
        if self.last.is_some_and(|last| seq <= last.seq) {
            // Only a Cut lets a log go back, so one was among what is hidden.
            self.cut(seq, read);
        }
        match self.last {
            Some(last) if seq == last.seq.next() => {
                if !header.follows(last.chain) {
                    self.unsure();
                }
            }
            Some(last) => {
                self.lacks(last.seq.next()..=seq.prev());
                // Frames of one epoch come from one leader, which never cuts its own log: with the same epoch on
                // both sides there was no cut between them, and all before is right. What is applied was committed,
                // and is never cut; the chain from the applied mark on tells whether the rest follows.
                if since_hidden && last.log_epoch != header.log_epoch && seq.prev() > self.applied {
                    self.unsure();
                }
            }
            None => {
                // The shard's first frame, or its first after a cut of all: a copy may begin anywhere. Where anything was hidden
                // before, what it lacks may have been there, and be applied.
                let first = Seq::ZERO.next();
                if hidden > 0 && first < seq {
                    self.lacks(first..=seq.prev());
                }
            }
        }
        if seq <= self.applied {
            self.known.clear();
        }
        self.known.push(Known { seq, place, good });
        if good {
            // A doubt is written again with each frame, also once the log was cut back below it.
            self.missing.remove(seq..=seq);
        } else {
            self.lacks(seq..=seq);
        }
        (self.last, self.end) = (Some(header), seq);
        self.hidden = hidden;
    }

    fn cut(&mut self, from: Seq, read: ReadHeader<'_>) {
        if self.last.is_none_or(|last| last.seq < from) {
            return;
        }
        while self.known.pop_if(|known| known.seq >= from).is_some() {}
        self.last = self.known.last().and_then(|known| read(known.place));
        self.missing.remove(from..=Seq(u64::MAX));
        self.moved.retain(|seq, _| *seq < from);
        self.unsure_from = self.unsure_from.filter(|unsure| *unsure < from);
    }

    /// Whoever wrote it had seen all damage before it, and answers for it: nothing of that makes the log unsure any more. (Damage
    /// that came later, to what was before it, shows in what the log lacks.)
    fn doubt(&mut self, from: Option<Seq>, hidden: u64) {
        let Some(from) = from else {
            self.doubt = None;
            return;
        };
        let first = self.last.map_or(Seq::ZERO, |last| last.seq).next();
        self.lacks(first..=from.prev());
        self.doubt = Some(self.doubt.map_or(from, |known| known.min(from)));
        self.unsure_from = None;
        self.hidden = hidden;
    }

    fn lacks(&mut self, range: RangeInclusive<Seq>) {
        self.missing.insert(range);
    }

    /// What is applied was committed, and nothing committed is ever cut; all after it may have been.
    fn unsure(&mut self) {
        let from = self.applied.next();
        self.unsure_from = Some(self.unsure_from.map_or(from, |unsure| unsure.min(from)));
    }

    fn finish(mut self, hidden: u64) -> RecoveredShard {
        if self.hidden < hidden {
            self.unsure();
        }
        for &seq in self.moved.keys() {
            self.missing.remove(seq..=seq);
        }
        let again = self.moved.split_off(&self.applied.next());
        let mut frames: BTreeMap<Seq, Place> =
            self.known.iter().filter(|k| k.good && k.seq > self.applied).map(|k| (k.seq, k.place)).collect();
        frames.extend(again);
        RecoveredShard {
            last: self.last,
            last_place: self.last.and(self.known.last()).map(|known| known.place),
            end: self.end,
            applied: self.marked.max(self.applied),
            frames: frames.into_iter().collect(),
            missing: self.missing.iter().collect(),
            unsure_from: self.unsure_from,
            promise_hidden: false,
            moved: self.moved.into_iter().collect(),
            doubt: self.doubt,
        }
    }
}
