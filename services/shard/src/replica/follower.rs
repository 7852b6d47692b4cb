//! A replica that follows: it finds what it has in common with its leader, cuts the rest, takes what follows, and
//! reports what it has flushed of that.

use meridian_storage::Frame;
use meridian_types::mutant::{self, Mutant};
use meridian_types::{LeaderEpoch, NodeId, Seq, SetVersion};

use super::{Home, Replica, Role};
use crate::message::{LogPoint, Message};
use crate::{CopyFault, Effect, Election};

#[derive(Debug)]
pub(super) struct Follower {
    pub epoch: LeaderEpoch,
    pub leader: NodeId,
    set: SetVersion,
    state: State,
    /// How far this log is known to be the leader's. What was once in common in an epoch stays so: a leader cuts nothing.
    common: Seq,
    reported: Seq,
    /// How far the leader has said that its log is committed.
    told: Seq,
    /// The end of the leader's log when it first agreed with this one in this leadership and life: whatever this node can
    /// have lost of what counted is at or below it.
    goal: Option<Seq>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Asked whether the leader has this.
    Asking {
        attempt: u32,
        at: LogPoint,
    },
    Matched,
}

impl Replica {
    pub(super) fn follow(&mut self, election: &Election, out: &mut Vec<Effect>) {
        if let Role::Follower(follower) = &mut self.role
            && follower.epoch == election.epoch
        {
            return;
        }
        self.step_down(out);
        self.acted = election.epoch;
        self.role = Role::Follower(Follower {
            epoch: election.epoch,
            leader: election.leader,
            set: election.set.version,
            state: State::Matched,
            common: Seq::ZERO,
            reported: Seq::ZERO,
            told: Seq::ZERO,
            goal: None,
        });
        if mutant::is(Mutant::BeyondMatched) {
            self.report(true, out);
        }
        self.ask(self.end(), out);
    }

    /// On a new connection the leader feeds nobody before it is asked.
    pub(super) fn probe_again(&mut self, out: &mut Vec<Effect>) {
        if matches!(self.role, Role::Follower(_)) {
            self.ask(self.end(), out);
        }
    }

    /// The leader leads by now: what it was asked before, it has not answered. Or it speaks on a new connection: its answer may be
    /// lost; where frames have answered instead, a doubt still has to hear how far it goes.
    pub(super) fn on_leads(&mut self, leader: NodeId, epoch: LeaderEpoch, out: &mut Vec<Effect>) {
        if let Role::Follower(follower) = &self.role
            && (follower.leader, follower.epoch) == (leader, epoch)
            && (follower.state != State::Matched || self.doubt.is_some() && follower.goal.is_none())
        {
            self.ask(self.end(), out);
        }
    }

    fn ask(&mut self, at: LogPoint, out: &mut Vec<Effect>) {
        self.attempts = self.attempts.wrapping_add(1);
        let (attempt, doubt) = (self.attempts, self.doubt.is_some());
        if let Role::Follower(follower) = &mut self.role {
            follower.state = State::Asking { attempt, at };
            let message = Message::Probe { epoch: follower.epoch, attempt, at, doubt };
            out.push(Effect::Send { to: follower.leader, message });
        }
    }

    /// The follower, if it is one in this epoch, and what it asks about, if that was this attempt.
    fn asking(&self, epoch: LeaderEpoch, attempt: u32) -> Option<LogPoint> {
        match &self.role {
            Role::Follower(Follower { epoch: mine, state: State::Asking { attempt: asked, at }, .. })
                if *mine == epoch && *asked == attempt =>
            {
                Some(*at)
            }
            _ => None,
        }
    }

    pub(super) fn on_mismatch(
        &mut self,
        epoch: LeaderEpoch,
        attempt: u32,
        mine: LogPoint,
        out: &mut Vec<Effect>,
    ) {
        let Some(asked) = self.asking(epoch, attempt) else { return };
        let next = match self.home {
            // Of two that differ at a seq, the newest frame here of an epoch that the leader has so far; always below
            // what was asked, so that the questions end.
            Home::Origin => self.log.newest(mine.seq.min(asked.seq.prev()), mine.epoch),
            // A copy holds what its origin committed: a shorter leader is only behind, and no difference is honest.
            Home::Copy if mine.seq < asked.seq => match self.log.point(mine.seq) {
                None => return self.say_what_is_applied(out),
                next => next,
            },
            Home::Copy => None,
        };
        match next {
            Some(next) => self.ask(next, out),
            None => self.fault(CopyFault::LeaderLacks { seq: self.log.base().seq.min(asked.seq) }, out),
        }
    }

    /// More of a copy is applied here than its leader has. Nothing is cut and nothing in common: the leader is told, so that it gives
    /// way; or it catches up with the origin.
    fn say_what_is_applied(&self, out: &mut Vec<Effect>) {
        if let Role::Follower(follower) = &self.role {
            let (epoch, set, seq) = (follower.epoch, follower.set, self.log.base().seq);
            out.push(Effect::Send { to: follower.leader, message: Message::Flushed { epoch, set, seq } });
        }
    }

    pub(super) fn on_match(
        &mut self,
        epoch: LeaderEpoch,
        attempt: u32,
        at: LogPoint,
        end: Option<Seq>,
        out: &mut Vec<Effect>,
    ) {
        if let Role::Follower(follower) = &mut self.role
            && follower.epoch == epoch
        {
            follower.goal = follower.goal.or(end);
            if follower.state == State::Matched {
                // Frames have answered it before. The leader may have begun to count this node anew.
                self.report(true, out);
                return self.mend(out);
            }
        }
        let Some(asked) = self.asking(epoch, attempt) else { return };
        if asked != at {
            return;
        }
        if self.home == Home::Origin && at.seq < self.marks.committed {
            return self.fault(CopyFault::LeaderLacks { seq: self.marks.committed }, out);
        }
        if self.home == Home::Origin && at.seq < self.end().seq && !mutant::is(Mutant::NoTruncation) {
            self.log.cut(at.seq);
            self.marks.appended = at.seq;
            self.marks.flushed = self.marks.flushed.min(at.seq);
            if !mutant::is(Mutant::CutNotWritten) {
                out.push(Effect::Cut { after: at });
            }
        }
        if let Role::Follower(follower) = &mut self.role {
            follower.state = State::Matched;
            follower.common = follower.common.max(at.seq);
        }
        self.report(true, out);
        self.mend(out);
        self.count_committed(out);
    }

    /// Whether all is flushed here that the leader had when it first agreed with this log.
    pub(super) fn has_caught_up(&self) -> bool {
        matches!(&self.role, Role::Follower(Follower { state: State::Matched, goal: Some(goal), common, .. })
            if self.marks.flushed.min(*common) >= *goal)
    }

    pub(super) fn on_frames(&mut self, epoch: LeaderEpoch, frames: Vec<Frame>, out: &mut Vec<Effect>) {
        if let Role::Follower(Follower { epoch: mine, state: State::Asking { attempt, at }, .. }) = self.role
            && mine == epoch
            && frames
                .first()
                .is_some_and(|first| first.header.seq == at.seq.next() && first.follows(at.chain))
        {
            // They came before the answer, and answer it: their chain says that the leader has what was asked about.
            self.on_match(epoch, attempt, at, None, out);
        }
        for frame in frames {
            let Role::Follower(follower) = &mut self.role else { return };
            if follower.epoch != epoch || follower.state != State::Matched || self.faulted {
                return;
            }
            let (seq, chain) = (frame.header.seq, frame.header.chain);
            if seq <= self.marks.appended {
                match self.log.point(seq) {
                    // Applied long ago, and checked when it came.
                    None => {}
                    Some(held) if held.is(seq, chain) => follower.common = follower.common.max(seq),
                    Some(_) if mutant::is(Mutant::NoTruncation) => follower.common = follower.common.max(seq),
                    Some(_) => return self.fault(CopyFault::ChainDiffers { seq, last: self.end().seq }, out),
                }
                continue;
            }
            if seq > self.marks.appended.next() {
                // Something in between was lost.
                return self.ask(self.end(), out);
            }
            if self.home == Home::Origin && frame.header.log_epoch > epoch.in_origin() {
                // It left a log that its leader does not lead any more.
                return;
            }
            if let Err(fault) = self.log.check_next(&frame) {
                return self.fault(fault, out);
            }
            follower.common = seq;
            self.append(frame, out);
        }
        // What was held already may be flushed already.
        self.report(false, out);
        self.mend(out);
    }

    pub(super) fn on_committed(&mut self, epoch: LeaderEpoch, seq: Seq, out: &mut Vec<Effect>) {
        if let Role::Follower(follower) = &mut self.role
            && follower.epoch == epoch
        {
            follower.told = follower.told.max(seq);
            self.count_committed(out);
        }
    }

    /// Counts as committed what the leader has said to be: of what is in common, for beyond that this log may hold what
    /// never was.
    fn count_committed(&mut self, out: &mut Vec<Effect>) {
        let Role::Follower(follower) = &self.role else { return };
        let seq = follower.told.min(follower.common);
        if follower.state == State::Matched && seq > self.marks.committed {
            self.marks.committed = seq;
            self.advance(out);
        }
    }

    pub(super) fn on_confirm(
        &mut self,
        leader: NodeId,
        epoch: LeaderEpoch,
        round: u64,
        out: &mut Vec<Effect>,
    ) {
        let follows = self.follows() == Some((leader, epoch));
        if follows && epoch == self.promised {
            out.push(Effect::Send { to: leader, message: Message::Confirmed { epoch, round } });
        }
    }

    /// Tells the leader how far this log is flushed; `anew`: even if it was told.
    pub(super) fn report(&mut self, anew: bool, out: &mut Vec<Effect>) {
        let flushed = self.marks.flushed;
        let Role::Follower(follower) = &mut self.role else { return };
        if follower.state != State::Matched {
            return;
        }
        let seq = if mutant::is(Mutant::BeyondMatched) { flushed } else { flushed.min(follower.common) };
        if anew || seq > follower.reported {
            follower.reported = seq;
            let message = Message::Flushed { epoch: follower.epoch, set: follower.set, seq };
            out.push(Effect::Send { to: follower.leader, message });
        }
    }

    fn fault(&mut self, fault: CopyFault, out: &mut Vec<Effect>) {
        self.faulted = true;
        self.step_down(out);
        out.push(Effect::Fault(fault));
    }
}
