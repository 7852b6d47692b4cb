//! The sans-IO replica of one shard.
//!
//! `step(input, now) → effects`. In: everything in [`Input`]. Out: everything in [`Effect`], in order. It holds no
//! frame beyond handing it out, and decides alone what is appended, cut, committed, applied and acknowledged.
//!
//! What it keeps, whatever arrives in whatever order, once, twice or never:
//! - after a promise it appends, reports, counts, confirms and acknowledges nothing in a lower epoch;
//! - a fence is answered from the synced end, once the promise is synced;
//! - what is applied, and so committed, is never cut.

mod doubt;
mod follower;
mod leader;
mod log;

use std::collections::BTreeMap;

use meridian_batch::Producer;
use meridian_storage::index::{AppliedMark, ProducerState};
use meridian_storage::{Chain, Frame, FrameKind, Promise};
use meridian_types::mutant::{self, Mutant};
use meridian_types::{
    Boot, Hlc, LeaderEpoch, LogEpoch, NodeId, Offset, Origin, Partition, ProducerId, Seq, ShardId, StreamId,
    Timestamp,
};

use crate::message::{LogPoint, Message};
use crate::{CopyFault, Effect, Election, FenceAnswer, Input, Marks, Reject};
use doubt::Doubt;
use follower::Follower;
use leader::Leader;
use log::{End, Log};

/// Whether this region is the shard's origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// It is: the leader accepts publishes and writes its epoch into the log.
    Origin,
    /// It is not: the leader appends what the origin committed, and nothing of its own.
    Copy,
}

/// What a replica starts from: the index's applied mark and what goes with it.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// The last applied frame; none: nothing is applied.
    pub applied: Option<AppliedMark>,
    /// The next offset of each lane, as of that mark.
    pub lanes: BTreeMap<(StreamId, Partition), Offset>,
    /// The highest promise found in the volume.
    pub promised: LeaderEpoch,
}

#[derive(Debug)]
enum Role {
    /// Appends, counts and acknowledges nothing.
    Idle,
    Follower(Follower),
    Leader(Box<Leader>),
}

/// A replica. See the module.
#[derive(Debug)]
pub struct Replica {
    shard: ShardId,
    me: NodeId,
    boot: Boot,
    home: Home,
    role: Role,
    promised: LeaderEpoch,
    /// The highest promise that is synced.
    synced: LeaderEpoch,
    /// Someone waits for the answer to the fence of `promised`.
    asked: bool,
    /// To be taken up once its epoch's promise is synced.
    awaited: Option<Election>,
    /// The last epoch in which it has led: it leads in none twice.
    led: LeaderEpoch,
    /// The last epoch in which it has led or followed.
    acted: LeaderEpoch,
    /// Numbers the probes.
    attempts: u32,
    /// Who asked this replica as the leader of an epoch that it did not lead yet: elections are told in any order.
    early: BTreeMap<NodeId, LeaderEpoch>,
    log: Log,
    marks: Marks,
    /// How many producers a leader keeps in memory.
    producers: usize,
    /// What damage may have cost; none: nothing.
    doubt: Option<Doubt>,
    /// Damage may hide what it has promised: see `doubt.rs`.
    promise_hidden: bool,
    /// The highest epoch of a fence that waits until that is known.
    fenced: Option<LeaderEpoch>,
    faulted: bool,
}

impl Replica {
    /// A replica as its index has it. [`Replica::replay`] adds what its volume holds beyond that.
    pub fn recover(
        shard: ShardId,
        me: NodeId,
        boot: Boot,
        home: Home,
        from: Recovery,
        producers: usize,
    ) -> Self {
        let base = from.applied.map_or_else(End::default, |mark| End {
            point: LogPoint { seq: mark.seq, epoch: mark.log_epoch, chain: mark.chain },
            hlc: mark.hlc,
        });
        let seq = base.point.seq;
        let mut replica = Self {
            shard,
            me,
            boot,
            home,
            role: Role::Idle,
            promised: from.promised,
            synced: from.promised,
            asked: false,
            awaited: None,
            led: LeaderEpoch(0),
            acted: LeaderEpoch(0),
            // An answer to what an earlier life asked may come late.
            attempts: (boot.0 as u32).wrapping_sub(1) << 16,
            early: BTreeMap::new(),
            log: Log::new(shard, base, from.lanes),
            // What is applied was committed and flushed.
            marks: Marks { appended: seq, flushed: seq, committed: seq, applied: seq },
            producers,
            doubt: None,
            promise_hidden: false,
            fenced: None,
            faulted: false,
        };
        replica.promise_what_is_written();
        replica
    }

    /// The next frame that the volume holds beyond the applied mark; it is flushed.
    ///
    /// # Errors
    /// The frame does not follow: the volume is damaged there, and the replica takes nothing more.
    pub fn replay(&mut self, frame: &Frame) -> Result<(), CopyFault> {
        self.log.check_next(frame).inspect_err(|_| self.set_unsure(frame.header.seq))?;
        self.log.append(&frame.header, producer_of(frame));
        self.marks.appended = frame.header.seq;
        self.marks.flushed = frame.header.seq;
        self.promise_what_is_written();
        self.marks.check();
        Ok(())
    }

    /// A frame of an epoch was only ever taken after that epoch's promise: damage may hide the promise itself.
    fn promise_what_is_written(&mut self) {
        if self.home == Home::Origin {
            let written = LeaderEpoch(self.log.end().point.epoch.0);
            self.promised = self.promised.max(written);
            self.synced = self.synced.max(written);
        }
    }

    /// Whether [`Replica::learn`] must be called before a batch of this producer is judged.
    pub fn must_learn(&self, stream: StreamId, partition: Partition, id: ProducerId) -> bool {
        matches!(&self.role, Role::Leader(leader) if !leader.producers.knows(stream, partition, id))
    }

    /// What the index holds of a producer, as of the applied mark; and of an earlier incarnation's same shard, where it
    /// has one that knows the producer.
    pub fn learn(
        &mut self,
        stream: StreamId,
        partition: Partition,
        id: ProducerId,
        state: Option<ProducerState>,
        past: Option<(Origin, ProducerState)>,
    ) {
        if let Role::Leader(leader) = &mut self.role {
            leader.learn((stream, partition, id), state, past, self.marks.applied);
        }
    }

    /// What must be looked up in the applied log before [`Input::From`] is given this message: the newest frame at or
    /// below this seq whose epoch is at most this one.
    pub fn must_look_up(&self, message: &Message) -> Option<(Seq, LogEpoch)> {
        let Message::Probe { at, .. } = message else { return None };
        let leads = matches!(self.role, Role::Leader(_));
        let known = self.log.newest(at.seq, at.epoch).is_some();
        (leads && at.seq > Seq::ZERO && !known).then_some((at.seq, at.epoch))
    }

    /// The marks.
    pub fn marks(&self) -> Marks {
        self.marks
    }

    /// The highest epoch that it has promised.
    pub fn promised(&self) -> LeaderEpoch {
        self.promised
    }

    /// The last frame of its log.
    pub fn end(&self) -> LogPoint {
        self.log.end().point
    }

    /// The hlc of its last frame.
    pub fn hlc(&self) -> Hlc {
        self.log.end().hlc
    }

    /// The chain of its last frame.
    pub fn chain(&self) -> Chain {
        self.end().chain
    }

    /// The leadership that it holds.
    pub fn leads(&self) -> Option<LeaderEpoch> {
        match &self.role {
            Role::Leader(leader) => Some(leader.epoch),
            Role::Idle | Role::Follower(_) => None,
        }
    }

    /// The leader that it follows, and in which leadership.
    pub fn follows(&self) -> Option<(NodeId, LeaderEpoch)> {
        match &self.role {
            Role::Follower(follower) => Some((follower.leader, follower.epoch)),
            Role::Idle | Role::Leader(_) => None,
        }
    }

    /// Whether it leads and has applied through its epoch's first frame: it accepts publishes, and what it says of its
    /// committed end is the shard's.
    pub fn is_ready(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if self.marks.applied >= leader.first)
            && self.doubt.is_none()
    }

    /// Whether it leads, and all that was in its log when it was elected is at a majority of its set: elections need no
    /// earlier set any more.
    pub fn is_settled(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.majority.agreed() >= leader.settled_at)
    }

    /// How far what is applied here is at a majority of the set, as far as its leader knows. The set may be a new one: what is
    /// applied was at a majority of some earlier one.
    pub fn durable(&self) -> Seq {
        match &self.role {
            Role::Leader(leader) => self.marks.applied.min(leader.majority.agreed()),
            Role::Idle | Role::Follower(_) => self.marks.applied,
        }
    }

    /// How far a node that follows this leader has flushed; none: it does not follow, or this is no leader.
    pub fn flushed_by(&self, node: NodeId) -> Option<Seq> {
        match &self.role {
            Role::Leader(leader) => {
                let all = leader.beyond.get(&node).map(|_| self.end().seq);
                leader.majority.of(node).max(all)
            }
            Role::Idle | Role::Follower(_) => None,
        }
    }

    /// Takes one input and appends what is to be done to `out`.
    pub fn step(&mut self, input: Input, now: Timestamp, out: &mut Vec<Effect>) {
        match input {
            Input::Fence { epoch } => self.fence(epoch, out),
            Input::Promised { epoch } => self.on_promised(epoch, now, out),
            Input::Begun { epoch, untouched } => self.begun(epoch, untouched, out),
            Input::Sure => self.sure(),
            Input::WasApplied(seq) => self.was_applied(seq, out),
            Input::Elected(election) => self.elected(election, now, out),
            Input::Connected => self.probe_again(out),
            Input::From { node, message, held } => self.on_message(node, message, held, out),
            Input::Publish(publish) => self.publish(publish, now, out),
            Input::Read { request } => self.read(request, out),
            Input::Copy { epoch, frame } => self.copy(epoch, frame, out),
            Input::Flushed { seq, chain } => self.on_flushed(seq, chain, out),
            Input::Applied(seq) => {
                self.marks.applied = self.marks.applied.max(seq);
                self.log.applied(self.marks.applied);
                if let Role::Leader(leader) = &mut self.role {
                    leader.forget(self.marks.applied);
                }
            }
        }
        self.marks.check();
    }

    fn fence(&mut self, epoch: LeaderEpoch, out: &mut Vec<Effect>) {
        if self.promise_hidden && !mutant::is(Mutant::DoubtFollowsAtOnce) {
            self.fenced = self.fenced.max(Some(epoch));
        } else if epoch > self.promised {
            self.promise(epoch, out);
            self.asked = true;
            if mutant::is(Mutant::PromiseNotSynced) {
                self.synced = epoch;
                self.answer_fence(out);
            }
        } else if epoch < self.promised || epoch <= self.acted || !matches!(self.role, Role::Idle) {
            // Of an epoch in which it has led or followed since, its log's end is another than when it promised, and not yet synced.
            let promised = self.promised;
            out.push(Effect::Answer(FenceAnswer::Refused { epoch, promised }));
        } else if self.synced == epoch {
            self.answer_fence(out);
        } else {
            self.asked = true;
        }
    }

    /// From here on nothing is done in a lower epoch.
    fn promise(&mut self, epoch: LeaderEpoch, out: &mut Vec<Effect>) {
        self.promised = epoch;
        self.asked = false;
        self.awaited = None;
        self.write_promise(out);
        let kept = match self.role {
            Role::Leader(_) => mutant::is(Mutant::FencedCounts),
            Role::Follower(_) => mutant::is(Mutant::FencedReports),
            Role::Idle => false,
        };
        if !kept {
            self.step_down(out);
        }
    }

    fn write_promise(&self, out: &mut Vec<Effect>) {
        out.push(Effect::Promise(Promise { shard: self.shard, epoch: self.promised, boot: self.boot }));
    }

    /// Ends whatever role it has. What was appended may yet commit under another leader: a retry will meet it.
    fn step_down(&mut self, out: &mut Vec<Effect>) {
        if let Role::Leader(leader) = std::mem::replace(&mut self.role, Role::Idle) {
            out.push(Effect::StopFeeding);
            for request in leader.requests() {
                out.push(Effect::Reject { request, reject: Reject::NotLeader });
            }
        }
    }

    fn on_promised(&mut self, epoch: LeaderEpoch, now: Timestamp, out: &mut Vec<Effect>) {
        self.synced = self.synced.max(epoch);
        if epoch != self.promised {
            return;
        }
        if self.asked {
            self.answer_fence(out);
        }
        if let Some(election) = self.awaited.take() {
            self.elected(election, now, out);
        }
    }

    /// Everything that was queued for the volume before the promise is synced with it, and nothing was queued since.
    fn answer_fence(&mut self, out: &mut Vec<Effect>) {
        self.asked = false;
        let unsure_from = self.unsure_from();
        let end = match unsure_from {
            Some(from) => self.log.point(from.prev()).unwrap_or_else(|| self.log.base()),
            None => self.end(),
        };
        let epoch = self.promised;
        out.push(Effect::Answer(FenceAnswer::Promised { epoch, end: end.end(), unsure_from }));
    }

    fn elected(&mut self, election: Election, now: Timestamp, out: &mut Vec<Effect>) {
        let Election { epoch, leader, boot, .. } = election;
        let unknown = self.promise_hidden && !mutant::is(Mutant::DoubtFollowsAtOnce);
        if epoch < self.promised || self.faulted || unknown {
            return;
        }
        if leader == self.me {
            let same_process = boot == self.boot || mutant::is(Mutant::RestartedLeads);
            // A copy's frames are its origin's: what it has lost comes again, and nobody but placement decides that it may.
            let may_lead = self.doubt.is_none() || self.home == Home::Copy;
            if epoch == self.synced && same_process && self.led < epoch && may_lead {
                (self.led, self.acted) = (epoch, epoch);
                self.go_on_without(out);
                self.lead(election, now, out);
            }
        } else if epoch > self.promised {
            self.promise(epoch, out);
            self.awaited = Some(election);
        } else if epoch > self.synced {
            self.awaited = Some(election);
        } else if self.may_follow() {
            self.doubt_in_writing(out);
            self.follow(&election, out);
        }
    }

    fn on_message(&mut self, node: NodeId, message: Message, held: Option<LogPoint>, out: &mut Vec<Effect>) {
        if let Some(epoch) = message.epoch()
            && epoch < self.promised
            && !mutant::is(Mutant::FencedReports)
            && !mutant::is(Mutant::FencedCounts)
        {
            let promised = self.promised;
            return out.push(Effect::Send { to: node, message: Message::Fenced { promised } });
        }
        match message {
            Message::Leads { epoch } => self.on_leads(node, epoch, out),
            Message::Probe { epoch, attempt, at, doubt } => {
                self.on_probe(node, epoch, (attempt, at, doubt), held, out);
            }
            Message::Flushed { epoch, set, seq } => self.on_peer_flushed(node, epoch, set, seq, out),
            Message::Confirmed { epoch, round } => self.on_confirmed(node, epoch, round, out),
            Message::Mismatch { epoch, attempt, mine } => self.on_mismatch(epoch, attempt, mine, out),
            Message::Match { epoch, attempt, at, end } => self.on_match(epoch, attempt, at, end, out),
            Message::Frames { epoch, frames, committed } => {
                self.on_frames(epoch, frames, out);
                self.on_committed(epoch, committed, out);
            }
            Message::Committed { epoch, seq } => self.on_committed(epoch, seq, out),
            Message::Confirm { epoch, round } => self.on_confirm(node, epoch, round, out),
            Message::Fenced { promised } => {
                // Its leadership is over, or its leader's is; what follows it comes from placement.
                let current = self.leads().or(self.follows().map(|(_, epoch)| epoch));
                if current.is_some_and(|epoch| epoch < promised) && !mutant::is(Mutant::FencedCounts) {
                    self.step_down(out);
                }
            }
        }
    }

    fn on_flushed(&mut self, seq: Seq, chain: Chain, out: &mut Vec<Effect>) {
        // A frame that was cut since has been flushed in vain; the cut's own sync reports what is before it.
        let stands = self.log.point(seq).is_some_and(|point| point.is(seq, chain));
        if !stands {
            return;
        }
        self.marks.flushed = self.marks.flushed.max(seq);
        let flushed = self.marks.flushed;
        if let Role::Leader(leader) = &mut self.role {
            leader.majority.flushed(self.me, flushed);
        }
        self.report(false, out);
        self.mend(out);
        self.advance(out);
    }

    /// What was applied once was committed.
    fn was_applied(&mut self, seq: Seq, out: &mut Vec<Effect>) {
        if mutant::is(Mutant::MarkForgotten) {
            return;
        }
        let sound = self.unsure_from().map_or(self.marks.flushed, |from| self.marks.flushed.min(from.prev()));
        self.marks.committed = self.marks.committed.max(seq.min(sound));
        self.advance(out);
    }

    fn append(&mut self, frame: Frame, out: &mut Vec<Effect>) {
        self.log.append(&frame.header, producer_of(&frame));
        self.marks.appended = frame.header.seq;
        out.push(Effect::Append(frame));
    }

    /// Moves the committed mark, acknowledges what it passed, and has applied what may be.
    fn advance(&mut self, out: &mut Vec<Effect>) {
        if let Role::Leader(leader) = &mut self.role {
            let agreed = leader.majority.agreed();
            let counts = agreed >= leader.first || mutant::is(Mutant::OldEpochCounts);
            if agreed > self.marks.committed && counts {
                self.marks.committed = agreed;
                leader.acknowledge(agreed, out);
            }
        }
        let through = self.marks.applicable();
        if through > self.marks.applied {
            out.push(Effect::Apply { through });
        }
    }
}

impl Message {
    /// The leadership in which it is said.
    fn epoch(&self) -> Option<LeaderEpoch> {
        match self {
            Self::Leads { epoch }
            | Self::Probe { epoch, .. }
            | Self::Mismatch { epoch, .. }
            | Self::Match { epoch, .. }
            | Self::Frames { epoch, .. }
            | Self::Committed { epoch, .. }
            | Self::Flushed { epoch, .. }
            | Self::Confirm { epoch, .. }
            | Self::Confirmed { epoch, .. } => Some(*epoch),
            Self::Fenced { .. } => None,
        }
    }
}

/// The producer that a frame's batch names. A frame that passed its CRC holds a batch that was validated.
fn producer_of(frame: &Frame) -> Option<Producer> {
    if frame.header.kind != FrameKind::Events {
        return None;
    }
    let view = meridian_batch::BatchView::new(&frame.payload).ok()?;
    let sequence = meridian_batch::Sequence::new(view.base_sequence())?;
    let (id, epoch) = (view.producer_id(), view.producer_epoch());
    id.is_some().then_some(Producer { id, epoch, sequence })
}

#[cfg(test)]
mod doubt_tests;
#[cfg(test)]
mod follower_tests;
#[cfg(test)]
mod tests;
