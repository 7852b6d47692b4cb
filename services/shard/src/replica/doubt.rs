//! A replica whose log's end is lost, or may be: damage above the applied mark, or rounds that nothing is known of.
//!
//! It may have reported as flushed, and so have let be acknowledged, what it no longer has. So it leads nothing, and says
//! at every fence that it is unsure, which no election counts. It can follow: once placement has said, in this life, which
//! epoch was begun last, for its own promises may be lost too. Then it cuts what is beyond its last good frame, and writes
//! down that it is in doubt, which survives crashes. The doubt is over when it has flushed all that the leader had when the
//! two logs first agreed: whoever was elected without this node's word has every committed frame, and a leader cuts nothing,
//! so whatever this node can have lost of what counted is among that. The end is synced before it counts.
//!
//! Of a shard that nobody was ever elected to lead nothing can be missing: there the doubt is over when placement says so. Else a
//! region that is founded anew on disks that were damaged once would have no leader.
//!
//! Where the log is sound, and only a promise may be hidden, it is not in doubt: it does nothing in any epoch, and answers no fence,
//! until placement has said which epoch was begun last; that is promised, and written, again.

use meridian_types::mutant::{self, Mutant};
use meridian_types::{LeaderEpoch, Seq};

use super::{Home, Replica, Role};
use crate::Effect;

/// What is in doubt, and how far its mending is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doubt {
    from: Seq,
    /// Placement has said which epoch was begun last.
    begun: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The volume tells by itself that it is damaged.
    Unwritten,
    /// It is written down.
    Written,
    /// That it is over is on its way to the volume.
    Ending,
}

impl Replica {
    /// Frames may be missing from `from` on, or be others than were stored last.
    pub fn set_unsure(&mut self, from: Seq) {
        let doubt = self.doubt.get_or_insert(Doubt { from, begun: false, stage: Stage::Unwritten });
        doubt.from = doubt.from.min(from);
    }

    /// Damage may hide what this replica has promised, though its log is sound.
    pub fn set_promise_hidden(&mut self) {
        self.promise_hidden = true;
    }

    /// From where on damage may have cost this log what it held.
    pub fn unsure_from(&self) -> Option<Seq> {
        self.doubt.map(|doubt| doubt.from)
    }

    /// What is to be written down with every frame: a round that is lost must not take the doubt alone with it.
    pub fn doubt_to_write(&self) -> Option<Seq> {
        let written = |doubt: &Doubt| doubt.stage == Stage::Written && !mutant::is(Mutant::DoubtNotWritten);
        self.doubt.filter(written).map(|doubt| doubt.from)
    }

    /// Whether a damaged replica still has to be told what placement has begun: [`crate::Input::Begun`].
    pub fn awaits_begun(&self) -> bool {
        !self.may_follow()
    }

    pub(super) fn may_follow(&self) -> bool {
        let is_told = !self.promise_hidden && self.doubt.is_none_or(|doubt| doubt.begun);
        is_told || mutant::is(Mutant::DoubtFollowsAtOnce)
    }

    /// Whatever was promised had been begun before: with this it is promised again, and written again.
    pub(super) fn begun(&mut self, epoch: LeaderEpoch, untouched: bool, out: &mut Vec<Effect>) {
        let was_hidden = std::mem::take(&mut self.promise_hidden);
        let Some(doubt) = &mut self.doubt else {
            if was_hidden {
                self.promise_again(epoch, out);
            }
            return;
        };
        doubt.begun = true;
        // What another group wrote of it, a copy may have lost all the same.
        if untouched && self.home == Home::Origin && self.end().seq == Seq::ZERO {
            self.go_on_without(out);
        }
        self.promise_again(epoch, out);
    }

    fn promise_again(&mut self, epoch: LeaderEpoch, out: &mut Vec<Effect>) {
        if epoch > self.promised {
            self.promise(epoch, out);
        } else {
            self.write_promise(out);
        }
        if let Some(fence) = self.fenced.take() {
            self.fence(fence, out);
        }
    }

    /// Before it follows for the first time: what is beyond the last good frame goes, and that there may have been more is
    /// written down.
    pub(super) fn doubt_in_writing(&mut self, out: &mut Vec<Effect>) {
        if let Some(doubt) = self.doubt.as_mut().filter(|doubt| doubt.stage == Stage::Unwritten) {
            doubt.stage = Stage::Written;
            if !mutant::is(Mutant::DoubtNotWritten) {
                out.push(Effect::Doubt { from: Some(doubt.from) });
            }
            out.push(Effect::Cut { after: self.end() });
        }
    }

    /// What is beyond the last good frame goes, and nobody misses it: a copy that leads asks its origin for it again, and of an
    /// untouched shard there is nothing.
    pub(super) fn go_on_without(&mut self, out: &mut Vec<Effect>) {
        if self.doubt.is_some() {
            self.doubt_in_writing(out);
            self.doubt = None;
            out.push(Effect::Doubt { from: None });
        }
    }

    /// Ends the doubt once nothing can be missing any more.
    pub(super) fn mend(&mut self, out: &mut Vec<Effect>) {
        let follows = matches!(self.role, Role::Follower(_));
        let caught_up = follows && (self.has_caught_up() || mutant::is(Mutant::DoubtEndsEarly));
        if let Some(doubt) = self.doubt.as_mut().filter(|doubt| doubt.stage == Stage::Written)
            && caught_up
        {
            doubt.stage = Stage::Ending;
            out.push(Effect::Doubt { from: None });
        }
    }

    /// That it is over is synced.
    pub(super) fn sure(&mut self) {
        self.doubt = self.doubt.filter(|doubt| doubt.stage != Stage::Ending);
    }
}
