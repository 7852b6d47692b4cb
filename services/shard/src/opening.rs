//! What a shard is opened with: what recovery found of it in the volume, held against what the index has applied.
//!
//! In: both. Out: what is quarantined, from where on its log is in doubt, what is replayed, and what is given up. Must never
//! take a frame for lost that is applied: what is applied was committed, and its effects are in the index.

use meridian_storage::{Place, RecoveredShard, SeqRanges};
use meridian_types::mutant::{self, Mutant};
use meridian_types::{Incarnation, LeaderEpoch, Origin, Seq, ShardId};

/// See the module.
#[derive(Debug, Default)]
pub struct Opening {
    /// Applied frames that are damaged: no read gives them out before they are repaired.
    pub damaged: SeqRanges,
    /// From where on frames may be missing, or be others than were stored last: [`crate::Replica::set_unsure`].
    pub unsure: Option<Seq>,
    /// A promise may be hidden: [`crate::Replica::set_promise_hidden`].
    pub promise_hidden: bool,
    /// What the volume holds beyond the applied mark, in order.
    pub replay: Vec<(Seq, Place)>,
    /// Everything from there on is to be cut from the volume.
    pub give_up: Option<Seq>,
    /// What is damaged, for people.
    pub why: Option<&'static str>,
}

impl Opening {
    /// Of a shard that is applied up to `applied`. `hidden`: damage hides what shards it held. `is_past`: see [`Opening::is_past`].
    pub fn of(found: Option<&RecoveredShard>, applied: Seq, hidden: bool, is_past: bool) -> Self {
        let mut opening = Self::default();
        match found {
            Some(found) => opening.take(found, applied, is_past),
            None if applied > Seq::ZERO => {
                opening.damaged.insert(Seq::ZERO.next()..=applied);
                opening.doubt(applied.next(), "the volume holds nothing of a shard that the index knows");
            }
            None if hidden => {
                opening
                    .doubt(Seq::ZERO.next(), "the volume is damaged: all of this shard may be hidden in it");
            }
            None => {}
        }
        opening
    }

    /// Whether this region wrote the shard under an incarnation that is over, and this disk was not opened since it is. What is
    /// promised tells: it takes frames only once it has promised, and what it takes since then was committed.
    pub fn is_past(shard: ShardId, home: Origin, promised: LeaderEpoch) -> bool {
        let next =
            Origin { incarnation: Incarnation(shard.origin.incarnation.0.saturating_add(1)), ..shard.origin };
        shard.origin.is_past(home) && promised <= next.epochs_after()
    }

    fn take(&mut self, found: &RecoveredShard, applied: Seq, is_past: bool) {
        let end = found.end;
        for range in &found.missing {
            self.damaged.insert(*range.start()..=applied.min(*range.end()));
        }
        // Of what is above the mark nothing may be applied past a hole.
        if let Some(range) = found.missing.iter().find(|range| *range.end() > applied) {
            let from = (*range.start()).max(applied.next());
            self.doubt(from, "the volume is damaged: frames of this shard are missing");
        }
        if end < applied {
            self.damaged.insert(end.next()..=applied);
            for (seq, _) in &found.moved {
                self.damaged.remove(*seq..=*seq);
            }
            self.doubt(applied.next(), "the volume ends before the index: it lost its tail");
        }
        if let Some(from) = found.unsure_from {
            // Acknowledged frames may be among what is hidden: to append here could begin a second history.
            let from = from.max(applied.next());
            self.doubt(from, "the volume is damaged: frames of this shard may be hidden in it");
        }
        if found.promise_hidden {
            self.promise_hidden = true;
            self.why.get_or_insert("the volume is damaged: a promise of this shard may be hidden in it");
        }
        if let Some(from) = found.doubt {
            self.doubt(from, "this replica was in doubt when its process ended, and is so still");
        }
        if is_past && !mutant::is(Mutant::PastIsReplayed) {
            // Whether what is above the mark was committed nobody can say any more, so none of it may reach another region
            // (law 4). What had reached one comes back from there. The index may be behind what the volume says of it.
            let known = if mutant::is(Mutant::MarkForgotten) { applied } else { found.applied.max(applied) };
            self.replay = found.frames.iter().copied().take_while(|(seq, _)| *seq <= known).collect();
            self.give_up = (end > known).then_some(known.next());
        } else {
            self.replay.clone_from(&found.frames);
        }
    }

    /// A replayed frame cannot be read, or does not follow: so it is from there on.
    pub fn breaks_at(&mut self, seq: Seq) {
        self.doubt(seq, "the volume's log breaks off here: what follows is quarantined");
    }

    fn doubt(&mut self, from: Seq, why: &'static str) {
        self.unsure = Some(self.unsure.map_or(from, |known| known.min(from)));
        self.why.get_or_insert(why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(frames: std::ops::RangeInclusive<u64>) -> RecoveredShard {
        let header = crate::tests_support::frame(*frames.end()).header;
        let place = Place { file: 1, at: 4096, len: 100 };
        RecoveredShard {
            last: Some(header),
            end: header.seq,
            frames: frames.map(|seq| (Seq(seq), place)).collect(),
            ..RecoveredShard::default()
        }
    }

    fn ranges(opening: &Opening) -> Vec<(u64, u64)> {
        opening.damaged.iter().map(|range| (range.start().0, range.end().0)).collect()
    }

    #[test]
    fn below_the_mark_it_is_quarantined_and_above_it_in_doubt() {
        let missing = RecoveredShard { missing: vec![Seq(2)..=Seq(3)], ..found(6..=9) };
        let below = Opening::of(Some(&missing), Seq(5), false, false);
        assert_eq!((ranges(&below), below.unsure, below.replay.len()), (vec![(2, 3)], None, 4));
        let missing = RecoveredShard { missing: vec![Seq(4)..=Seq(7)], ..found(6..=9) };
        let across = Opening::of(Some(&missing), Seq(5), false, false);
        assert_eq!((ranges(&across), across.unsure), (vec![(4, 5)], Some(Seq(6))));
    }

    #[test]
    fn of_several_reasons_for_doubt_the_lowest_counts() {
        let both =
            RecoveredShard { missing: vec![Seq(8)..=Seq(8)], unsure_from: Some(Seq(4)), ..found(4..=9) };
        assert_eq!(Opening::of(Some(&both), Seq(3), true, false).unsure, Some(Seq(4)));
    }

    #[test]
    fn it_is_given_up_once() {
        let origin = |incarnation| Origin { incarnation: Incarnation(incarnation), ..Origin::default() };
        let shard = ShardId { origin: origin(2), ..ShardId::default() };
        let promised = |incarnation| origin(incarnation).epochs_after().next();
        for (home, promised, is_past) in [
            (2, promised(2), false),
            (3, promised(2), true),
            (3, LeaderEpoch(0), true),
            (3, promised(3), false),
            (4, promised(3), false),
            (4, promised(2), true),
        ] {
            assert_eq!(Opening::is_past(shard, origin(home), promised), is_past, "{home} {promised:?}");
        }
    }

    #[test]
    fn what_may_be_hidden_is_in_doubt_and_a_doubt_lasts() {
        let unsure = RecoveredShard { unsure_from: Some(Seq(3)), doubt: Some(Seq(7)), ..found(6..=9) };
        assert_eq!(Opening::of(Some(&unsure), Seq(5), true, false).unsure, Some(Seq(6)));
        let doubt = RecoveredShard { doubt: Some(Seq(7)), ..found(6..=9) };
        assert_eq!(Opening::of(Some(&doubt), Seq(5), false, false).unsure, Some(Seq(7)));
        let short = Opening::of(Some(&found(1..=3)), Seq(5), false, false);
        assert_eq!((ranges(&short), short.unsure), (vec![(4, 5)], Some(Seq(6))));
        assert_eq!(Opening::of(None, Seq::ZERO, true, false).unsure, Some(Seq(1)));
        assert_eq!(Opening::of(None, Seq::ZERO, false, false).unsure, None);
        assert_eq!(ranges(&Opening::of(None, Seq(4), false, false)), [(1, 4)]);
    }

    /// As a frame that was hidden, and stored again: the log was cut back to it, so nothing can be missing after it.
    #[test]
    fn a_log_that_was_cut_back_is_not_short() {
        let place = Place { file: 1, at: 4096, len: 100 };
        let moved = RecoveredShard { end: Seq(1), moved: vec![(Seq(1), place)], ..RecoveredShard::default() };
        assert_eq!(Opening::of(Some(&moved), Seq(1), true, false).unsure, None);
        let short = RecoveredShard { end: Seq::ZERO, ..moved };
        assert_eq!(Opening::of(Some(&short), Seq(1), true, false).unsure, Some(Seq(2)));
    }

    #[test]
    fn of_a_past_incarnation_what_is_applied_stays_and_nothing_else() {
        let past = Opening::of(Some(&found(6..=9)), Seq(5), false, true);
        assert_eq!((past.replay.len(), past.give_up, past.unsure), (0, Some(Seq(6)), None));
        assert_eq!(Opening::of(Some(&found(4..=5)), Seq(5), false, true).give_up, None);
        let marked = |applied| RecoveredShard { applied: Seq(applied), ..found(6..=9) };
        let past = |applied| {
            let opening = Opening::of(Some(&marked(applied)), Seq(5), false, true);
            (opening.replay.iter().map(|(seq, _)| seq.0).collect::<Vec<_>>(), opening.give_up)
        };
        assert_eq!(past(8), (vec![6, 7, 8], Some(Seq(9))), "the volume knows what the index forgot");
        assert_eq!(past(9), (vec![6, 7, 8, 9], None));
        assert_eq!(past(4), (vec![], Some(Seq(6))));
    }
}
