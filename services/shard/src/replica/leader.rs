//! A replica that leads: publishes, the majority, acknowledgements and linearizable reads.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use meridian_batch::{Producer, stamped};
use meridian_storage::index::{ProducerState, RememberedBatch};
use meridian_storage::{Chain, Frame, FrameHeader, FrameKind};
use meridian_types::mutant::{self, Mutant};
use meridian_types::{
    Hlc, Lane, LeaderEpoch, NodeId, Offset, Origin, Partition, Seq, SetVersion, StreamId, TenantId, Timestamp,
};

use super::{Home, Replica, Role};
use crate::message::{LogPoint, Message};
use crate::producers::Who;
use crate::replicas::Majority;
use crate::{Ack, Effect, Election, Producers, Publish, Reject, RequestId, Verdict};

/// A publish whose frame is in the log and not yet committed.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    request: RequestId,
    ack: Ack,
}

/// A read that waits for a majority to confirm the leadership.
#[derive(Clone, Copy, Debug)]
struct Read {
    request: RequestId,
    round: u64,
    committed: Seq,
}

/// A batch that was in the log, above the applied mark, before this leadership.
#[derive(Clone, Copy, Debug)]
struct Inherited {
    producer: Producer,
    events: u32,
    at: (Offset, Seq, Hlc),
}

#[derive(Debug)]
pub(super) struct Leader {
    pub epoch: LeaderEpoch,
    pub majority: Majority,
    /// Commits count only from here on: the epoch's first frame in the origin, what is applied in a copy.
    pub first: Seq,
    /// Once a majority has flushed through here, whatever an earlier set may have committed is in this one.
    pub settled_at: Seq,
    /// Covers every appended frame: the index's state, what was inherited above it, and what this leader appended.
    /// It begins with each leadership, so no truncation ever needs to roll it back.
    pub producers: Producers,
    inherited: BTreeMap<Who, Vec<Inherited>>,
    /// By rising seq.
    waiting: VecDeque<Waiting>,
    /// Those who sent again what is not committed yet. Few at any time, and in no order.
    duplicates: Vec<Waiting>,
    reads: VecDeque<Read>,
    round: u64,
    confirmed: BTreeMap<NodeId, u64>,
    /// Of a copy: learners that have more applied than there is here, and how much. They are asked again once that is here.
    pub beyond: BTreeMap<NodeId, Seq>,
}

impl Leader {
    /// See [`Replica::learn`].
    pub fn learn(
        &mut self,
        who: Who,
        state: Option<ProducerState>,
        past: Option<(Origin, ProducerState)>,
        applied: Seq,
    ) {
        let (stream, partition, id) = who;
        self.producers.make_room(applied);
        self.producers.learn(stream, partition, id, state);
        if let Some(past) = past {
            self.producers.learn_past(stream, partition, id, past);
        }
        for batch in self.inherited.get(&who).into_iter().flatten() {
            // What is applied by now is in the index's state.
            if batch.at.1 > applied {
                self.producers.appended((stream, partition), batch.producer, batch.events, batch.at);
            }
        }
    }

    pub fn forget(&mut self, applied: Seq) {
        self.producers.forget(applied);
        if applied >= self.first {
            // `first` is above all that was inherited, or it is all applied.
            self.inherited.retain(|_, batches| batches.iter().any(|batch| batch.at.1 > applied));
        }
    }

    pub fn acknowledge(&mut self, committed: Seq, out: &mut Vec<Effect>) {
        let ack = |waiting: &Waiting| Effect::Ack { request: waiting.request, ack: waiting.ack };
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.ack.seq <= committed) {
            out.push(ack(&waiting));
        }
        out.extend(
            self.duplicates
                .extract_if(.., |waiting| waiting.ack.seq <= committed)
                .map(|waiting| ack(&waiting)),
        );
    }

    /// Who waits for an answer.
    pub fn requests(&self) -> impl Iterator<Item = RequestId> {
        let reads = self.reads.iter().map(|read| read.request);
        self.waiting.iter().chain(&self.duplicates).map(|waiting| waiting.request).chain(reads)
    }
}

impl Replica {
    pub(super) fn lead(&mut self, election: Election, now: Timestamp, out: &mut Vec<Effect>) {
        self.step_down(out);
        let mut inherited: BTreeMap<Who, Vec<Inherited>> = BTreeMap::new();
        for frame in self.log.unapplied() {
            if let (Some((stream, partition)), Some(producer)) = (frame.lane, frame.producer) {
                let at = (frame.base_offset, frame.end.point.seq, frame.end.hlc);
                let batch = Inherited { producer, events: frame.events, at };
                inherited.entry((stream, partition, producer.id)).or_default().push(batch);
            }
        }
        let end = self.end().seq;
        let first = match self.home {
            Home::Origin => end.next(),
            // It is committed in its origin, whoever leads here.
            Home::Copy => self.marks.applied,
        };
        let mut followers: BTreeSet<NodeId> = election.set.members.iter().copied().collect();
        followers.extend(
            std::mem::take(&mut self.early)
                .into_iter()
                .filter(|(_, epoch)| *epoch == election.epoch)
                .map(|(node, _)| node),
        );
        followers.remove(&self.me);
        for to in followers {
            out.push(Effect::Send { to, message: Message::Leads { epoch: election.epoch } });
        }
        self.role = Role::Leader(Box::new(Leader {
            epoch: election.epoch,
            majority: Majority::new(self.me, election.set, self.marks.flushed),
            first,
            settled_at: first.max(end),
            producers: Producers::new(self.producers),
            inherited,
            waiting: VecDeque::new(),
            duplicates: Vec::new(),
            reads: VecDeque::new(),
            round: 0,
            confirmed: BTreeMap::new(),
            beyond: BTreeMap::new(),
        }));
        if self.home == Home::Origin {
            let fields = FrameHeader {
                kind: FrameKind::EpochStart,
                log_epoch: election.epoch.in_origin(),
                ..self.fields(now)
            };
            self.append_own(Frame::build(fields, self.end().chain, bytes::Bytes::new()), out);
        }
        self.advance(out);
    }

    pub(super) fn publish(&mut self, publish: Publish, now: Timestamp, out: &mut Vec<Effect>) {
        let Publish { request, tenant, stream, partition, batch, events, producer } = publish;
        let mut refuse = |reject| out.push(Effect::Reject { request, reject });
        if self.doubt.is_some() && matches!(self.role, Role::Idle) {
            return refuse(Reject::Damaged);
        }
        if !self.is_ready() || self.home != Home::Origin {
            return refuse(Reject::NotLeader);
        }
        let committed = self.marks.committed;
        let Role::Leader(leader) = &mut self.role else { return refuse(Reject::NotLeader) };
        let epoch = leader.epoch;
        let lane = Lane { stream, partition, origin: self.shard.origin };
        if let Some(producer) = producer {
            match leader.producers.judge(stream, partition, producer, events) {
                Verdict::New => {}
                Verdict::Duplicate(original) => {
                    let ack = Ack {
                        lane,
                        base_offset: original.base_offset,
                        seq: original.seq,
                        hlc: original.hlc,
                        duplicate: true,
                    };
                    // Never before its original has committed (fault 17).
                    if original.seq <= committed || mutant::is(Mutant::DuplicateEarly) {
                        out.push(Effect::Ack { request, ack });
                    } else {
                        leader.duplicates.push(Waiting { request, ack });
                    }
                    return;
                }
                // An earlier incarnation's frames are all committed: it writes no more.
                Verdict::DuplicateOf(origin, RememberedBatch { base_offset, seq, hlc, .. }) => {
                    let lane = Lane { origin, ..lane };
                    let ack = Ack { lane, base_offset, seq, hlc, duplicate: true };
                    return out.push(Effect::Ack { request, ack });
                }
                Verdict::Fenced(current) => {
                    return refuse(Reject::ProducerFenced { got: producer.epoch, current });
                }
                Verdict::Expired => return refuse(Reject::ProducerExpired),
                Verdict::OutOfSequence(expected) => {
                    return refuse(Reject::OutOfSequence { got: producer.sequence.get(), expected });
                }
            }
        }
        let base_offset = self.log.next_offset((stream, partition));
        let log_epoch = epoch.in_origin();
        let fields = FrameHeader {
            kind: FrameKind::Events,
            log_epoch,
            tenant,
            stream,
            partition,
            base_offset,
            events,
            ..self.fields(now)
        };
        let frame = Frame::build(fields, self.end().chain, stamped(batch, base_offset, log_epoch));
        let FrameHeader { seq, hlc, .. } = frame.header;
        if let Role::Leader(leader) = &mut self.role {
            let ack = Ack { lane, base_offset, seq, hlc, duplicate: false };
            leader.waiting.push_back(Waiting { request, ack });
            if let Some(producer) = producer {
                leader.producers.appended((stream, partition), producer, events, (base_offset, seq, hlc));
            }
        }
        self.append_own(frame, out);
    }

    /// A frame of another origin, from a mirror link. One that follows what an earlier leadership was given, and did not take for it was
    /// deposed, is no hole: the link asks anew once it hears of this leadership.
    pub(super) fn copy(&mut self, epoch: LeaderEpoch, frame: Frame, out: &mut Vec<Effect>) {
        let leads = self.leads() == Some(epoch) && self.home == Home::Copy;
        if !leads || self.faulted || frame.header.seq <= self.end().seq {
            // Not ours to append, or sent twice: what is held was checked when it came.
            return;
        }
        if let Err(fault) = self.log.check_next(&frame) {
            self.faulted = true;
            return out.push(Effect::Fault(fault));
        }
        self.append_own(frame, out);
        let end = self.end().seq;
        if let Role::Leader(leader) = &mut self.role {
            let epoch = leader.epoch;
            for (to, _) in leader.beyond.extract_if(.., |_, seq| *seq <= end) {
                out.push(Effect::Send { to, message: Message::Leads { epoch } });
            }
        }
    }

    fn append_own(&mut self, frame: Frame, out: &mut Vec<Effect>) {
        let seq = frame.header.seq;
        self.append(frame, out);
        if mutant::is(Mutant::AckBeforeFlush) {
            if let Role::Leader(leader) = &mut self.role {
                leader.majority.flushed(self.me, seq);
            }
            self.advance(out);
        }
    }

    /// The fields that every frame of this leader has.
    fn fields(&self, now: Timestamp) -> FrameHeader {
        let hlc = self.log.end().hlc;
        FrameHeader {
            kind: FrameKind::Tick,
            origin: self.shard.origin,
            shard: self.shard.no,
            seq: self.end().seq.next(),
            log_epoch: self.end().epoch,
            hlc: if mutant::is(Mutant::HlcGoesBack) { Hlc::ZERO.tick(now) } else { hlc.tick(now) },
            tenant: TenantId(0),
            stream: StreamId(0),
            partition: Partition(0),
            base_offset: Offset::ZERO,
            events: 0,
            payload_len: 0,
            payload_crc: 0,
            chain: Chain::GENESIS,
        }
    }

    /// Where this log and a follower's agree, and from where on it is fed.
    pub(super) fn on_probe(
        &mut self,
        node: NodeId,
        epoch: LeaderEpoch,
        (attempt, at, doubt): (u32, LogPoint, bool),
        held: Option<LogPoint>,
        out: &mut Vec<Effect>,
    ) {
        let end = self.end().seq;
        // The newest frame that both may have: epochs only rise in a log.
        let mine = match at.seq {
            Seq::ZERO => Some(LogPoint::START),
            seq => self.log.newest(seq, at.epoch).or(held),
        };
        let leader = match &mut self.role {
            Role::Leader(leader) if leader.epoch == epoch => leader,
            _ => {
                self.early.insert(node, epoch);
                return;
            }
        };
        if doubt {
            leader.majority.forget(node);
        }
        // Without the frame nothing can be said: it was trimmed, or cannot be read.
        let Some(mine) = mine else { return };
        if mine != at {
            let message = Message::Mismatch { epoch, attempt, mine };
            return out.push(Effect::Send { to: node, message });
        }
        leader.majority.matched(node);
        let round = leader.round;
        let asks = leader.reads.back().is_some();
        out.push(Effect::Send { to: node, message: Message::Match { epoch, attempt, at, end: Some(end) } });
        out.push(Effect::Feed { to: node, epoch, after: at.seq });
        if asks {
            out.push(Effect::Send { to: node, message: Message::Confirm { epoch, round } });
        }
        self.advance(out);
    }

    pub(super) fn on_peer_flushed(
        &mut self,
        node: NodeId,
        epoch: LeaderEpoch,
        set: SetVersion,
        seq: Seq,
        out: &mut Vec<Effect>,
    ) {
        let end = self.end().seq;
        let Role::Leader(leader) = &mut self.role else { return };
        let current = leader.epoch == epoch && leader.majority.set().version == set;
        if current && self.home == Home::Copy && leader.majority.of(node).is_none() {
            // It was told that there is less here than it has applied. Where placement was founded anew, the majority of a set may hold
            // nothing yet, and what another has applied may be nowhere else: that one is to lead. A learner first becomes a member.
            if seq <= end {
                return out.push(Effect::Send { to: node, message: Message::Leads { epoch } });
            }
            if leader.majority.set().members.contains(&node) {
                return self.step_down(out);
            }
            leader.beyond.insert(node, seq);
            return;
        }
        if current && node != self.me {
            leader.majority.flushed(node, seq.min(end));
            self.advance(out);
        }
    }

    /// What is committed when a majority has confirmed, after this was asked, that nobody else can have led before.
    pub(super) fn read(&mut self, request: RequestId, out: &mut Vec<Effect>) {
        let committed = self.marks.committed;
        let (ready, me) = (self.is_ready(), self.me);
        let Role::Leader(leader) = &mut self.role else {
            return out.push(Effect::Reject { request, reject: Reject::NotLeader });
        };
        if !ready {
            return out.push(Effect::Reject { request, reject: Reject::NotLeader });
        }
        if mutant::is(Mutant::StaleRead) {
            return out.push(Effect::Readable { request, committed });
        }
        leader.round += 1;
        let (epoch, round) = (leader.epoch, leader.round);
        leader.reads.push_back(Read { request, round, committed });
        for &to in leader.majority.set().members.iter().filter(|&&node| node != me) {
            out.push(Effect::Send { to, message: Message::Confirm { epoch, round } });
        }
        self.on_confirmed(me, epoch, round, out);
    }

    pub(super) fn on_confirmed(
        &mut self,
        node: NodeId,
        epoch: LeaderEpoch,
        round: u64,
        out: &mut Vec<Effect>,
    ) {
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.epoch != epoch {
            return;
        }
        let known = leader.confirmed.entry(node).or_default();
        *known = round.max(*known);
        let confirmed = &leader.confirmed;
        let agreed = leader.majority.lowest_of_majority(|node| confirmed.get(&node).copied().unwrap_or(0));
        while let Some(read) = leader.reads.pop_front_if(|read| read.round <= agreed) {
            out.push(Effect::Readable { request: read.request, committed: read.committed });
        }
    }
}
