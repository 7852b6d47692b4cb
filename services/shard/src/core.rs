//! The sans-IO replica of one shard.
//!
//! `step(input, now) → effects`. In: everything in [`Input`]. Out: everything in [`Effect`], in order. It holds no
//! frame beyond handing it out, and decides alone what is appended, committed, applied and acknowledged.

use std::collections::{BTreeMap, VecDeque};

use meridian_batch::stamped;
use meridian_storage::index::AppliedMark;
use meridian_storage::{Chain, Frame, FrameHeader, FrameKind, Promise};
use meridian_types::{
    Boot, Hlc, Lane, LeaderEpoch, LogEpoch, NodeId, Offset, Partition, Seq, ShardId, StreamId, TenantId,
    Timestamp,
};

use crate::replicas::Majority;
use crate::{
    Ack, CopyFault, Effect, Input, Marks, Producers, Publish, Reject, ReplicaSet, RequestId, Standing,
    Verdict,
};

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

/// The end of the log.
#[derive(Clone, Copy, Debug)]
struct End {
    seq: Seq,
    epoch: LogEpoch,
    hlc: Hlc,
    chain: Chain,
}

/// A publish whose frame is in the log and not yet committed.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    request: RequestId,
    ack: Ack,
}

#[derive(Debug)]
enum Role {
    /// Appends, counts and acknowledges nothing.
    Idle,
    Leader {
        epoch: LeaderEpoch,
        majority: Majority,
        /// Commits count only from here on: the epoch's first frame in the origin, the log's end in a copy.
        first: Seq,
    },
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
    end: End,
    marks: Marks,
    lanes: BTreeMap<(StreamId, Partition), Offset>,
    producers: Producers,
    /// By rising seq, except that duplicates wait for an earlier frame than their place says.
    waiting: VecDeque<Waiting>,
    damaged: bool,
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
        let end = from.applied.map_or(
            End { seq: Seq::ZERO, epoch: LogEpoch(0), hlc: Hlc::ZERO, chain: Chain::GENESIS },
            |mark| End { seq: mark.seq, epoch: mark.log_epoch, hlc: mark.hlc, chain: mark.chain },
        );
        let seq = end.seq;
        Self {
            shard,
            me,
            boot,
            home,
            role: Role::Idle,
            promised: from.promised,
            end,
            // What is applied was committed and flushed.
            marks: Marks { appended: seq, flushed: seq, committed: seq, applied: seq },
            lanes: from.lanes,
            producers: Producers::new(producers),
            waiting: VecDeque::new(),
            damaged: false,
            faulted: false,
        }
    }

    /// The next frame that the volume holds beyond the applied mark; it is flushed. Its producer must be known
    /// ([`Replica::learn`]).
    ///
    /// # Errors
    /// The frame does not follow: the volume is damaged there, and the replica takes nothing more.
    pub fn replay(&mut self, frame: &Frame) -> Result<(), CopyFault> {
        self.check_next(frame).inspect_err(|_| self.damaged = true)?;
        self.note(&frame.header, producer_of(frame));
        self.marks.flushed = self.end.seq;
        self.marks.check();
        Ok(())
    }

    /// Frames are missing in the middle of this replica's log: it leads nothing and appends nothing.
    pub fn set_damaged(&mut self) {
        self.damaged = true;
    }

    /// Whether [`Replica::learn`] must be called before a batch of this producer is judged.
    pub fn must_learn(&self, stream: StreamId, partition: Partition, id: meridian_types::ProducerId) -> bool {
        !self.producers.knows(stream, partition, id)
    }

    /// What the index holds of a producer.
    pub fn learn(
        &mut self,
        stream: StreamId,
        partition: Partition,
        id: meridian_types::ProducerId,
        state: Option<meridian_storage::index::ProducerState>,
    ) {
        self.producers.make_room(self.marks.applied);
        self.producers.learn(stream, partition, id, state);
    }

    /// The marks.
    pub fn marks(&self) -> Marks {
        self.marks
    }

    /// What it says of itself when an election begins.
    pub fn standing(&self) -> Standing {
        Standing { promised: self.promised, last_epoch: self.end.epoch, last_seq: self.end.seq }
    }

    /// The hlc of its last frame.
    pub fn hlc(&self) -> Hlc {
        self.end.hlc
    }

    /// The chain of its last frame.
    pub fn chain(&self) -> Chain {
        self.end.chain
    }

    /// The leadership that it holds.
    pub fn leads(&self) -> Option<LeaderEpoch> {
        match &self.role {
            Role::Leader { epoch, .. } => Some(*epoch),
            Role::Idle => None,
        }
    }

    /// Whether it leads and has applied through its epoch's first frame: it accepts publishes, and what it says of its
    /// committed end is the shard's.
    pub fn is_ready(&self) -> bool {
        matches!(&self.role, Role::Leader { first, .. } if self.marks.applied >= *first) && !self.damaged
    }

    /// Takes one input and appends what is to be done to `out`.
    pub fn step(&mut self, input: Input, now: Timestamp, out: &mut Vec<Effect>) {
        match input {
            Input::Lead { epoch, set } => self.lead(epoch, set, now, out),
            Input::Fence { epoch } => self.fence(epoch, out),
            Input::Publish(publish) => self.publish(publish, now, out),
            Input::Copy(frame) => self.copy(frame, out),
            Input::Flushed(seq) => {
                assert!(seq <= self.end.seq, "flushed {seq} beyond the log's end {}", self.end.seq);
                self.marks.flushed = self.marks.flushed.max(seq);
                if let Role::Leader { majority, .. } = &mut self.role {
                    majority.flushed(self.me, seq);
                }
                self.advance(out);
            }
            Input::Matched { node, epoch, seq } => {
                if let Role::Leader { epoch: mine, majority, .. } = &mut self.role
                    && *mine == epoch
                {
                    majority.matched(node, seq.min(self.end.seq));
                }
            }
            Input::PeerFlushed { node, epoch, set, seq } => {
                if let Role::Leader { epoch: mine, majority, .. } = &mut self.role
                    && *mine == epoch
                    && majority.version() == set
                    && node != self.me
                {
                    majority.flushed(node, seq.min(self.end.seq));
                }
                self.advance(out);
            }
            Input::Applied(seq) => {
                self.marks.applied = self.marks.applied.max(seq);
                self.producers.forget(self.marks.applied);
            }
        }
        self.marks.check();
    }

    /// A fence is promised before it is answered, and from then on nothing is done in a lower epoch.
    fn fence(&mut self, epoch: LeaderEpoch, out: &mut Vec<Effect>) {
        if epoch <= self.promised {
            return;
        }
        self.promised = epoch;
        self.role = Role::Idle;
        out.push(Effect::Promise(Promise { shard: self.shard, epoch, boot: self.boot }));
        // Their frames may yet commit under another leader: a retry will meet them.
        for waiting in self.waiting.drain(..) {
            out.push(Effect::Reject { request: waiting.request, reject: Reject::NotLeader });
        }
    }

    fn lead(&mut self, epoch: LeaderEpoch, set: ReplicaSet, now: Timestamp, out: &mut Vec<Effect>) {
        if epoch != self.promised || self.damaged || self.leads().is_some() {
            return;
        }
        let majority = Majority::new(self.me, set, self.end.seq, self.marks.flushed);
        match self.home {
            Home::Origin => {
                let first = self.end.seq.next();
                self.role = Role::Leader { epoch, majority, first };
                let fields = FrameHeader {
                    kind: FrameKind::EpochStart,
                    log_epoch: epoch.in_origin(),
                    ..self.fields(now)
                };
                self.append(Frame::build(fields, self.end.chain, bytes::Bytes::new()), out);
            }
            Home::Copy => {
                self.role = Role::Leader { epoch, majority, first: self.marks.applied };
                self.advance(out);
            }
        }
    }

    fn publish(&mut self, publish: Publish, now: Timestamp, out: &mut Vec<Effect>) {
        let Publish { request, tenant, stream, partition, batch, events, producer } = publish;
        let mut refuse = |reject| out.push(Effect::Reject { request, reject });
        if self.damaged {
            return refuse(Reject::Damaged);
        }
        let Role::Leader { epoch, .. } = self.role else { return refuse(Reject::NotLeader) };
        if !self.is_ready() || self.home != Home::Origin {
            return refuse(Reject::NotLeader);
        }
        let lane = Lane { stream, partition, origin: self.shard.origin };
        if let Some(producer) = producer {
            match self.producers.judge(stream, partition, producer, events) {
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
                    if original.seq <= self.marks.committed {
                        out.push(Effect::Ack { request, ack });
                    } else {
                        self.waiting.push_back(Waiting { request, ack });
                    }
                    return;
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
        let base_offset = self.lanes.get(&(stream, partition)).copied().unwrap_or(Offset::ZERO);
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
        let frame = Frame::build(fields, self.end.chain, stamped(batch, base_offset, log_epoch));
        let FrameHeader { seq, hlc, .. } = frame.header;
        self.waiting
            .push_back(Waiting { request, ack: Ack { lane, base_offset, seq, hlc, duplicate: false } });
        self.note_producer(&frame.header, producer);
        self.append(frame, out);
    }

    fn copy(&mut self, frame: Frame, out: &mut Vec<Effect>) {
        let leads = self.leads().is_some() && self.home == Home::Copy;
        if !leads || self.damaged || self.faulted || frame.header.seq <= self.end.seq {
            // Not ours to append, or sent twice: what is held was checked when it came.
            return;
        }
        if let Err(fault) = self.check_next(&frame) {
            self.faulted = true;
            return out.push(Effect::Fault(fault));
        }
        self.note_producer(&frame.header, producer_of(&frame));
        self.append(frame, out);
    }

    /// Frame n+1 after frame n, or nothing.
    fn check_next(&self, frame: &Frame) -> Result<(), CopyFault> {
        let header = &frame.header;
        let out_of_order = |what| Err(CopyFault::OutOfOrder { seq: header.seq, what });
        if header.shard_id() != self.shard {
            return out_of_order("it is another shard's");
        }
        if header.seq != self.end.seq.next() {
            return out_of_order("its seq is not the next");
        }
        if !frame.follows(self.end.chain) {
            return Err(CopyFault::ChainDiffers { seq: header.seq, last: self.end.seq });
        }
        if header.log_epoch < self.end.epoch {
            return out_of_order("its log epoch goes back");
        }
        if header.log_epoch == LogEpoch(u32::MAX) {
            // No epoch could follow it.
            return out_of_order("its log epoch is the last there is");
        }
        if header.hlc <= self.end.hlc {
            return out_of_order("its hlc does not rise");
        }
        if header.kind == FrameKind::Events {
            let next = self.lanes.get(&(header.stream, header.partition)).copied().unwrap_or(Offset::ZERO);
            if header.base_offset != next {
                return out_of_order("its base offset is not its lane's next");
            }
            // The index takes no such frame, and a process that ends on it would end on it again at every start.
            if header.events == 0 || header.base_offset.0.checked_add(u64::from(header.events)).is_none() {
                return out_of_order("its number of events is not possible");
            }
        }
        Ok(())
    }

    /// The fields that every frame of this leader has.
    fn fields(&self, now: Timestamp) -> FrameHeader {
        FrameHeader {
            kind: FrameKind::Tick,
            origin: self.shard.origin,
            shard: self.shard.no,
            seq: self.end.seq.next(),
            log_epoch: self.end.epoch,
            hlc: self.end.hlc.tick(now),
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

    fn append(&mut self, frame: Frame, out: &mut Vec<Effect>) {
        self.note_end(&frame.header);
        out.push(Effect::Append(frame));
    }

    /// Takes a frame into the state that covers appended frames.
    fn note(&mut self, header: &FrameHeader, producer: Option<meridian_batch::Producer>) {
        self.note_producer(header, producer);
        self.note_end(header);
    }

    fn note_producer(&mut self, header: &FrameHeader, producer: Option<meridian_batch::Producer>) {
        if let Some(producer) = producer {
            let at = (header.base_offset, header.seq, header.hlc);
            self.producers.appended((header.stream, header.partition), producer, header.events, at);
        }
    }

    fn note_end(&mut self, header: &FrameHeader) {
        if header.kind == FrameKind::Events {
            self.lanes.insert((header.stream, header.partition), header.next_offset());
        }
        self.end = End { seq: header.seq, epoch: header.log_epoch, hlc: header.hlc, chain: header.chain };
        self.marks.appended = header.seq;
    }

    /// Moves the committed mark, acknowledges what it passed, and has applied what may be.
    fn advance(&mut self, out: &mut Vec<Effect>) {
        let Role::Leader { majority, first, .. } = &self.role else { return };
        let agreed = majority.agreed();
        if agreed > self.marks.committed && agreed >= *first {
            self.marks.committed = agreed;
            let committed = self.marks.committed;
            self.waiting.retain(|waiting| {
                let done = waiting.ack.seq <= committed;
                if done {
                    out.push(Effect::Ack { request: waiting.request, ack: waiting.ack });
                }
                !done
            });
        }
        let through = self.marks.applicable();
        if through > self.marks.applied {
            out.push(Effect::Apply { through });
        }
    }
}

/// The producer that a frame's batch names. A frame that passed its CRC holds a batch that was validated.
fn producer_of(frame: &Frame) -> Option<meridian_batch::Producer> {
    if frame.header.kind != FrameKind::Events {
        return None;
    }
    let view = meridian_batch::BatchView::new(&frame.payload).ok()?;
    let sequence = meridian_batch::Sequence::new(view.base_sequence())?;
    let (id, epoch) = (view.producer_id(), view.producer_epoch());
    id.is_some().then_some(meridian_batch::Producer { id, epoch, sequence })
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
