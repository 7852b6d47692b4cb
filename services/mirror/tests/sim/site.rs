//! A region's node, reduced to what a link meets: replicas over a volume and an index in memory.
//!
//! What is flushed survives a crash, and of what was on its way to the disk any prefix; the index goes back to its
//! last checkpoint.

use std::collections::{BTreeMap, VecDeque};

use meridian_mirror::{CopyState, ShardFault, SourceMark};
use meridian_shard::{
    Ack, CopyFault, Effect, Election, Home, Input, Placement, Publish, Recovery, Replica, SoleReplica, Totals,
};
use meridian_storage::{AppliedMark, Chain, Frame, FrameKind};
use meridian_types::{Boot, Hlc, LeaderEpoch, NodeId, Offset, Partition, Seq, ShardId, StreamId, Timestamp};

const NODE: NodeId = NodeId(1);

/// What the checkers want to know of.
pub enum Seen {
    /// A frame went into the log.
    Appended(Frame),
    /// A publish was acknowledged.
    Acked(Ack),
}

enum Queued {
    Frame(Frame),
    Promise(LeaderEpoch),
}

#[derive(Clone, Default)]
struct Index {
    applied: Option<AppliedMark>,
    lanes: BTreeMap<(StreamId, Partition), Offset>,
    totals: Totals,
}

impl Index {
    fn apply(&mut self, frame: &Frame) {
        let header = &frame.header;
        assert_eq!(header.seq, self.seq().next(), "the index takes frame after frame");
        if header.kind == FrameKind::Events {
            self.lanes.insert((header.stream, header.partition), header.next_offset());
            self.totals.events += u64::from(header.events);
            self.totals.bytes += u64::from(header.payload_len);
        }
        self.applied = Some(AppliedMark {
            seq: header.seq,
            log_epoch: header.log_epoch,
            hlc: header.hlc,
            chain: header.chain,
        });
    }

    fn seq(&self) -> Seq {
        self.applied.map_or(Seq::ZERO, |mark| mark.seq)
    }

    fn hlc(&self) -> Hlc {
        self.applied.map_or(Hlc::ZERO, |mark| mark.hlc)
    }
}

/// What a process knows of a shard.
struct Life {
    replica: Replica,
    queued: VecDeque<Queued>,
    index: Index,
    election: Election,
    fault: Option<CopyFault>,
}

/// One shard on one node.
pub struct Shard {
    pub id: ShardId,
    home: Home,
    /// The frames on the disk: frame n at n − 1.
    pub durable: Vec<Frame>,
    promised: LeaderEpoch,
    checkpoint: Index,
    life: Option<Life>,
}

impl Shard {
    pub fn new(id: ShardId, home: Home) -> Self {
        let (durable, promised, checkpoint) = (Vec::new(), LeaderEpoch(0), Index::default());
        Self { id, home, durable, promised, checkpoint, life: None }
    }

    /// A process opens the shard, replays what its index lacks, and asks for a leadership.
    pub fn start(&mut self, boot: u64, now: u64, seen: &mut Vec<Seen>) {
        let index = self.checkpoint.clone();
        let recovery =
            Recovery { applied: index.applied, lanes: index.lanes.clone(), promised: self.promised };
        let mut replica = Replica::recover(self.id, NODE, Boot(boot), self.home, recovery, 64);
        for frame in &self.durable[index.seq().0 as usize..] {
            replica.replay(frame).expect("what is on the disk is in order");
        }
        let election = SoleReplica { node: NODE, boot: Boot(boot) }
            .begin(self.id, replica.promised(), replica.end().end())
            .expect("the only node elects itself");
        let epoch = election.epoch;
        self.life = Some(Life { replica, queued: VecDeque::new(), index, election, fault: None });
        self.step(Input::Fence { epoch }, now, seen);
    }

    /// The process ends. Of what was queued the first `keep` entries had reached the disk, unreported.
    pub fn crash(&mut self, keep: usize) {
        let Some(life) = self.life.take() else { return };
        for queued in life.queued.into_iter().take(keep) {
            match queued {
                Queued::Frame(frame) => self.durable.push(frame),
                Queued::Promise(epoch) => self.promised = epoch,
            }
        }
    }

    pub fn step(&mut self, input: Input, now: u64, seen: &mut Vec<Seen>) {
        let Some(life) = &mut self.life else { return };
        let mut effects = Vec::new();
        life.replica.step(input, Timestamp(now), &mut effects);
        for effect in effects {
            let Some(life) = &mut self.life else { return };
            match effect {
                Effect::Append(frame) => {
                    seen.push(Seen::Appended(frame.clone()));
                    life.queued.push_back(Queued::Frame(frame));
                }
                Effect::Promise(promise) => life.queued.push_back(Queued::Promise(promise.epoch)),
                Effect::Apply { through } => {
                    for frame in &self.durable[life.index.seq().0 as usize..through.0 as usize] {
                        life.index.apply(frame);
                    }
                    self.step(Input::Applied(through), now, seen);
                }
                Effect::Ack { ack, .. } => seen.push(Seen::Acked(ack)),
                Effect::Answer(_) => {
                    let election = life.election.clone();
                    self.step(Input::Elected(election), now, seen);
                }
                Effect::Reject { .. } | Effect::Readable { .. } => {}
                Effect::Doubt { .. }
                | Effect::Cut { .. }
                | Effect::Send { .. }
                | Effect::Feed { .. }
                | Effect::StopFeeding => {
                    panic!("a region of one node has nobody to follow it")
                }
                Effect::Fault(fault) => life.fault = Some(fault),
            }
        }
    }

    pub fn publish(&mut self, publish: Publish, now: u64, seen: &mut Vec<Seen>) {
        self.step(Input::Publish(publish), now, seen);
    }

    /// The disk confirms the oldest entry. Whether there was one.
    pub fn flush_one(&mut self, now: u64, seen: &mut Vec<Seen>) -> bool {
        let Some(life) = &mut self.life else { return false };
        match life.queued.pop_front() {
            Some(Queued::Frame(frame)) => {
                let (seq, chain) = (frame.header.seq, frame.header.chain);
                self.durable.push(frame);
                assert_eq!(self.durable.len() as u64, seq.0, "a log has no hole and no twin");
                self.step(Input::Flushed { seq, chain }, now, seen);
                true
            }
            Some(Queued::Promise(epoch)) => {
                self.promised = epoch;
                self.step(Input::Promised { epoch }, now, seen);
                true
            }
            None => false,
        }
    }

    pub fn queued(&self) -> usize {
        self.life.as_ref().map_or(0, |life| life.queued.len())
    }

    /// The index's durable flush.
    pub fn checkpoint(&mut self) {
        if let Some(life) = &self.life {
            self.checkpoint = life.index.clone();
        }
    }

    pub fn committed(&self) -> u64 {
        self.life.as_ref().map_or(0, |life| life.replica.marks().committed.0)
    }

    pub fn applied(&self) -> u64 {
        self.life.as_ref().map_or(0, |life| life.index.seq().0)
    }

    /// How many frames it has appended; of a process that is down, how many are on its disk.
    pub fn appended(&self) -> u64 {
        self.life.as_ref().map_or(self.durable.len() as u64, |life| life.replica.marks().appended.0)
    }

    pub fn is_ready(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.replica.is_ready())
    }

    pub fn has_faulted(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.fault.is_some())
    }

    /// As the source's end of a link sees it.
    pub fn source_mark(&self) -> SourceMark {
        let index = self.life.as_ref().map(|life| &life.index);
        SourceMark {
            seq: Seq(self.applied()),
            totals: index.map(|index| index.totals).unwrap_or_default(),
            hlc: index.map(Index::hlc).unwrap_or_default(),
            is_origin_leader: self.is_ready(),
        }
    }

    /// As the copy's end of a link sees it.
    pub fn copy_state(&self) -> Option<CopyState> {
        let life = self.life.as_ref()?;
        let marks = life.replica.marks();
        Some(CopyState {
            appended: marks.appended,
            chain: life.replica.chain(),
            durable: marks.applied,
            is_past: false,
            totals: life.index.totals,
            hlc: life.index.hlc(),
            leads: life.replica.leads(),
            follows: false,
            fault: life.fault.as_ref().map(|fault| ShardFault {
                shard: self.id,
                seq: marks.appended.next(),
                reason: "CHAIN_DIFFERS",
                message: fault.to_string(),
            }),
        })
    }

    /// The chain through an applied frame.
    pub fn chain_at(&self, seq: Seq) -> Option<Chain> {
        match seq.0 {
            0 => Some(Chain::GENESIS),
            n if n <= self.applied() => Some(self.durable[n as usize - 1].header.chain),
            _ => None,
        }
    }

    /// The applied frames from `from` on: at least one, if there is one.
    pub fn read(&self, from: Seq, max_bytes: u64) -> Vec<Frame> {
        let mut bytes = 0;
        let applied = &self.durable[..self.applied() as usize];
        let read = applied.iter().skip(from.0 as usize - 1).take_while(|frame| {
            let fits = bytes == 0 || bytes + frame.encoded_len() as u64 <= max_bytes;
            bytes += frame.encoded_len() as u64;
            fits
        });
        read.cloned().collect()
    }

    /// An operator puts an old disk in place: only the first `keep` frames are left, and what was promised, perhaps not.
    pub fn rewind(&mut self, keep: usize, promises_too: bool) {
        assert!(self.life.is_none());
        self.durable.truncate(keep);
        self.checkpoint = Index::default();
        if promises_too {
            self.promised = LeaderEpoch(0);
        }
    }
}
