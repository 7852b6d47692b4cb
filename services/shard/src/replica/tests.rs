//! The replica's laws, each in a few steps.

use meridian_storage::FrameHeader;
use meridian_types::{Incarnation, LogEpoch, Origin, RegionId, SetVersion, ShardNo};

use super::*;
use crate::tests_support::{SHARD, publish};
use crate::{Ack, Publish, ReplicaSet};

const ME: NodeId = NodeId(1);
const NOW: Timestamp = Timestamp(1_000_000);

/// A replica and what it wanted so far.
struct Rig {
    replica: Replica,
    frames: Vec<Frame>,
    effects: Vec<Effect>,
}

impl Rig {
    fn new(home: Home) -> Self {
        let replica = Replica::recover(SHARD, ME, Boot(1), home, Recovery::default(), 16);
        Self { replica, frames: Vec::new(), effects: Vec::new() }
    }

    fn leading(home: Home, members: &[u32]) -> Self {
        let mut rig = Self::new(home);
        rig.lead(1, members);
        rig
    }

    fn step(&mut self, input: Input) -> Vec<Effect> {
        if let Input::Publish(Publish { stream, partition, producer: Some(producer), .. }) = &input
            && self.replica.must_learn(*stream, *partition, producer.id)
        {
            self.replica.learn(*stream, *partition, producer.id, None, None);
        }
        let mut out = Vec::new();
        self.replica.step(input, NOW, &mut out);
        for effect in &out {
            if let Effect::Append(frame) = effect {
                self.frames.push(frame.clone());
            }
        }
        self.effects.extend(out.iter().cloned());
        out
    }

    /// Fenced, promised, elected.
    fn lead(&mut self, epoch: u32, members: &[u32]) -> Vec<Effect> {
        let epoch = LeaderEpoch(epoch);
        let mut out = self.step(Input::Fence { epoch });
        out.extend(self.step(Input::Promised { epoch }));
        out.extend(self.step(elected(epoch.0, 1, members)));
        out
    }

    /// The volume syncs up to there.
    fn flushed(&mut self, seq: u64) -> Vec<Effect> {
        let chain = self.replica.log.point(Seq(seq)).map_or(Chain::GENESIS, |point| point.chain);
        self.step(Input::Flushed { seq: Seq(seq), chain })
    }

    /// A link hands over a frame that it asked for under the leadership there is.
    fn copy(&mut self, frame: Frame) -> Vec<Effect> {
        let epoch = self.replica.leads().unwrap_or_default();
        self.step(Input::Copy { epoch, frame })
    }

    fn hears(&mut self, node: u32, message: Message) -> Vec<Effect> {
        self.step(Input::From { node: NodeId(node), message, held: None })
    }

    /// The volume syncs everything, and the index takes what it may.
    fn flush(&mut self) -> Vec<Effect> {
        let mut out = self.flushed(self.replica.marks().appended.0);
        if let Some(through) = applies(&out) {
            out.extend(self.step(Input::Applied(through)));
        }
        out
    }
}

fn set(members: &[u32]) -> ReplicaSet {
    ReplicaSet { version: SetVersion(1), members: members.iter().map(|&n| NodeId(n)).collect() }
}

fn elected(epoch: u32, leader: u32, members: &[u32]) -> Input {
    let (epoch, leader) = (LeaderEpoch(epoch), NodeId(leader));
    Input::Elected(Election { epoch, leader, boot: Boot(1), set: set(members) })
}

fn applies(effects: &[Effect]) -> Option<Seq> {
    effects.iter().rev().find_map(|e| if let Effect::Apply { through } = e { Some(*through) } else { None })
}

fn acks(effects: &[Effect]) -> Vec<(u64, Ack)> {
    effects
        .iter()
        .filter_map(|e| if let Effect::Ack { request, ack } = e { Some((request.0, *ack)) } else { None })
        .collect()
}

fn rejects(effects: &[Effect]) -> Vec<Reject> {
    effects
        .iter()
        .filter_map(|e| if let Effect::Reject { reject, .. } = e { Some(reject.clone()) } else { None })
        .collect()
}

#[test]
fn a_promise_comes_before_a_leadership_and_an_epoch_start_before_publishes() {
    let mut rig = Rig::new(Home::Origin);
    assert_eq!(rejects(&rig.step(Input::Publish(publish(1, 1, None)))), [Reject::NotLeader]);
    rig.step(elected(1, 1, &[1]));
    assert!(rig.frames.is_empty(), "nothing is led that was not promised");
    let effects = rig.step(Input::Fence { epoch: LeaderEpoch(1) });
    assert!(matches!(effects[..], [Effect::Promise(p)] if p.epoch == LeaderEpoch(1) && p.boot == Boot(1)));
    rig.step(elected(1, 1, &[1]));
    assert!(rig.frames.is_empty(), "nor what is not synced");
    let effects = rig.step(Input::Promised { epoch: LeaderEpoch(1) });
    let [Effect::Answer(FenceAnswer::Promised { epoch: LeaderEpoch(1), unsure_from: None, .. })] =
        effects[..]
    else {
        panic!("{effects:?}")
    };
    rig.step(elected(1, 1, &[1]));
    assert_eq!(rig.frames[0].header.kind, FrameKind::EpochStart);
    assert_eq!(
        rejects(&rig.step(Input::Publish(publish(2, 1, None)))),
        [Reject::NotLeader],
        "not applied yet"
    );
    rig.flush();
    rig.step(Input::Publish(publish(3, 2, None)));
    assert_eq!(rig.frames[1].header.seq, Seq(2));
}

#[test]
fn an_ack_waits_for_the_flush() {
    let mut rig = Rig::leading(Home::Origin, &[1]);
    rig.flush();
    assert!(acks(&rig.step(Input::Publish(publish(1, 3, None)))).is_empty());
    assert!(acks(&rig.step(Input::Publish(publish(2, 2, None)))).is_empty());
    let first = acks(&rig.flushed(2));
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].0, first[0].1.base_offset), (1, Offset(0)));
    let second = acks(&rig.flushed(3));
    assert_eq!((second[0].0, second[0].1.base_offset), (2, Offset(3)));
    assert!(second[0].1.hlc > first[0].1.hlc);
}

#[test]
fn a_majority_commits_and_only_what_this_node_flushed_is_applied() {
    let mut rig = Rig::leading(Home::Origin, &[1, 2, 3]);
    let epoch = LeaderEpoch(1);
    let flushed = |seq| Message::Flushed { epoch, set: SetVersion(1), seq: Seq(seq) };
    rig.hears(2, flushed(1));
    rig.hears(3, flushed(1));
    assert_eq!(rig.replica.marks().committed, Seq(0), "unmatched logs are not counted (fault 32)");
    for node in [2, 3] {
        let out = rig.hears(node, Message::Probe { epoch, attempt: 1, at: LogPoint::START, doubt: false });
        assert!(matches!(out[1], Effect::Feed { after: Seq::ZERO, .. }));
    }
    assert!(applies(&rig.hears(2, flushed(1))).is_none());
    let out = rig.hears(3, flushed(1));
    assert_eq!(rig.replica.marks().committed, Seq(1), "two of three");
    assert!(applies(&out).is_none(), "committed elsewhere, not flushed here: not applied (fault 31)");
    assert_eq!(applies(&rig.flushed(1)), Some(Seq(1)));
}

#[test]
fn reports_of_another_epoch_or_set_are_not_counted() {
    let mut rig = Rig::leading(Home::Origin, &[1, 2, 3]);
    let epoch = LeaderEpoch(1);
    rig.hears(2, Message::Probe { epoch, attempt: 1, at: LogPoint::START, doubt: false });
    rig.flushed(1);
    let flushed = |epoch, set| Message::Flushed { epoch, set: SetVersion(set), seq: Seq(1) };
    rig.hears(2, flushed(LeaderEpoch(0), 1));
    rig.hears(2, flushed(epoch, 0));
    rig.hears(9, flushed(epoch, 1));
    assert_eq!(rig.replica.marks().committed, Seq(0));
    rig.hears(2, flushed(epoch, 1));
    assert_eq!(rig.replica.marks().committed, Seq(1));
}

#[test]
fn frames_of_an_old_epoch_commit_only_with_one_of_this_epoch() {
    // A log with one flushed, uncommitted frame of epoch 1; this node then leads in epoch 2.
    let mut old = Rig::leading(Home::Origin, &[1]);
    old.flush();
    old.step(Input::Publish(publish(1, 1, None)));
    let mut rig = Rig::new(Home::Origin);
    for frame in &old.frames {
        rig.replica.replay(frame).unwrap();
    }
    let out = rig.lead(2, &[1]);
    assert!(applies(&out).is_none());
    rig.flushed(2);
    assert_eq!(rig.replica.marks().committed, Seq(0), "all of epoch 1 is flushed, none of epoch 2");
    assert_eq!(applies(&rig.flushed(3)), Some(Seq(3)));
    assert_eq!(rig.frames[0].header.log_epoch, LogEpoch(2));
    assert!(rig.frames[0].follows(old.frames[1].header.chain));
}

#[test]
fn a_retry_is_answered_once_its_original_commits_and_at_its_offset() {
    let mut rig = Rig::leading(Home::Origin, &[1]);
    rig.flush();
    rig.step(Input::Publish(publish(1, 4, Some((7, 0)))));
    rig.step(Input::Publish(publish(2, 2, Some((7, 4)))));
    let retry = rig.step(Input::Publish(publish(3, 4, Some((7, 0)))));
    assert!(retry.is_empty(), "the original is not committed (fault 17)");
    let answered = acks(&rig.flush());
    assert_eq!(answered.len(), 3);
    let retried = answered.iter().find(|(request, _)| *request == 3).unwrap().1;
    assert!(retried.duplicate && retried.base_offset == Offset(0));
    let late = acks(&rig.step(Input::Publish(publish(4, 2, Some((7, 4))))));
    assert!(late[0].1.duplicate && late[0].1.base_offset == Offset(4));
    assert_eq!(rig.frames.len(), 3, "one epoch start, two batches, no twin");
}

#[test]
fn a_retry_after_a_restart_is_found_in_replayed_frames() {
    let mut old = Rig::leading(Home::Origin, &[1]);
    old.flush();
    old.step(Input::Publish(publish(1, 4, Some((7, 0)))));
    let mut rig = Rig::new(Home::Origin);
    for frame in &old.frames {
        rig.replica.replay(frame).unwrap();
    }
    rig.lead(2, &[1]);
    rig.replica.learn(StreamId(1), Partition(0), ProducerId(7), None, None);
    rig.flush();
    let answered = acks(&rig.step(Input::Publish(publish(1, 4, Some((7, 0))))));
    assert!(answered[0].1.duplicate && answered[0].1.seq == Seq(2));
}

#[test]
fn a_fenced_leader_stops_counting_and_answers_not_leader() {
    let mut rig = Rig::leading(Home::Origin, &[1]);
    rig.flush();
    rig.step(Input::Publish(publish(1, 1, None)));
    let out = rig.step(Input::Fence { epoch: LeaderEpoch(5) });
    assert_eq!(rejects(&out), [Reject::NotLeader]);
    assert!(acks(&rig.flushed(2)).is_empty(), "a fenced leader acknowledges nothing (fault 38)");
    assert_eq!(rig.replica.marks().committed, Seq(1));
    assert_eq!(rejects(&rig.step(Input::Publish(publish(2, 1, None)))), [Reject::NotLeader]);
    let out = rig.step(Input::Fence { epoch: LeaderEpoch(4) });
    let refused = FenceAnswer::Refused { epoch: LeaderEpoch(4), promised: LeaderEpoch(5) };
    assert!(
        matches!(out[..], [Effect::Answer(answer)] if answer == refused),
        "a lower fence changes nothing"
    );
    rig.step(elected(4, 1, &[1]));
    assert_eq!(rig.replica.leads(), None);
}

#[test]
fn a_copy_takes_frame_after_frame_or_faults_and_takes_nothing() {
    let mut origin = Rig::leading(Home::Origin, &[1]);
    origin.flush();
    for i in 0..4 {
        origin.step(Input::Publish(publish(i, 2, Some((7, i as i32 * 2)))));
    }
    let mut copy = Rig::leading(Home::Copy, &[1]);
    for frame in &origin.frames[..3] {
        copy.copy(frame.clone());
    }
    copy.copy(origin.frames[1].clone());
    assert_eq!(copy.frames, origin.frames[..3], "byte for byte, nothing of its own, nothing twice");
    assert_eq!(applies(&copy.flush()), Some(Seq(3)));

    // The origin came back with another history from frame 4 on.
    let mut other = Rig::leading(Home::Origin, &[1]);
    other.flush();
    for i in 0..4 {
        other.step(Input::Publish(publish(i + 10, 1, None)));
    }
    let out = copy.copy(other.frames[3].clone());
    assert!(matches!(out[..], [Effect::Fault(CopyFault::ChainDiffers { seq: Seq(4), last: Seq(3) })]));
    assert!(copy.copy(origin.frames[3].clone()).is_empty(), "a faulted copy takes nothing");
}

/// What comes between two leaderships of one node is dropped. A link that has not heard of it, for the process stood still, goes on
/// with what follows: seed 13006.
#[test]
fn what_was_asked_for_under_an_earlier_leadership_is_no_hole() {
    let mut origin = Rig::leading(Home::Origin, &[1]);
    origin.flush();
    for i in 0..3 {
        origin.step(Input::Publish(publish(i, 1, None)));
    }
    let mut copy = Rig::leading(Home::Copy, &[1]);
    let before = copy.replica.leads().expect("it leads");
    copy.copy(origin.frames[0].clone());
    copy.step(Input::Fence { epoch: LeaderEpoch(9) });
    copy.step(Input::Copy { epoch: before, frame: origin.frames[1].clone() });
    copy.step(Input::Promised { epoch: LeaderEpoch(9) });
    copy.step(elected(9, 1, &[1]));
    assert_eq!(copy.replica.leads(), Some(LeaderEpoch(9)));
    assert!(copy.step(Input::Copy { epoch: before, frame: origin.frames[2].clone() }).is_empty());
    for frame in &origin.frames[1..] {
        copy.copy(frame.clone());
    }
    assert_eq!(copy.frames, origin.frames, "asked for anew");
}

#[test]
fn a_copy_refuses_a_hole() {
    let mut origin = Rig::leading(Home::Origin, &[1]);
    origin.flush();
    origin.step(Input::Publish(publish(1, 1, None)));
    let mut copy = Rig::leading(Home::Copy, &[1]);
    let out = copy.copy(origin.frames[1].clone());
    assert!(matches!(out[..], [Effect::Fault(CopyFault::OutOfOrder { .. })]));
    assert!(copy.frames.is_empty());
}

#[test]
fn a_copy_refuses_a_frame_that_no_index_takes() {
    let mut origin = Rig::leading(Home::Origin, &[1]);
    origin.flush();
    origin.step(Input::Publish(publish(1, 1, None)));
    for events in [0, 1] {
        let mut copy = Rig::leading(Home::Copy, &[1]);
        copy.copy(origin.frames[0].clone());
        let fields = FrameHeader { events, ..origin.frames[1].header };
        let frame = Frame::build(fields, origin.frames[0].header.chain, origin.frames[1].payload.clone());
        let out = copy.copy(frame);
        let refused = matches!(out[..], [Effect::Fault(CopyFault::OutOfOrder { seq: Seq(2), .. })]);
        assert_eq!(refused, events == 0, "it would end the process at each start");
    }
}

#[test]
fn a_copy_accepts_no_publish_and_another_shards_frame_neither() {
    let mut copy = Rig::leading(Home::Copy, &[1]);
    assert_eq!(rejects(&copy.step(Input::Publish(publish(1, 1, None)))), [Reject::NotLeader]);
    let stranger =
        ShardId { origin: Origin { region: RegionId(1), incarnation: Incarnation(2) }, no: ShardNo(3) };
    let mut origin = Replica::recover(stranger, ME, Boot(1), Home::Origin, Recovery::default(), 16);
    let mut out = Vec::new();
    origin.step(Input::Fence { epoch: LeaderEpoch(1) }, NOW, &mut out);
    origin.step(Input::Promised { epoch: LeaderEpoch(1) }, NOW, &mut out);
    origin.step(elected(1, 1, &[1]), NOW, &mut out);
    let Some(Effect::Append(frame)) = out.pop() else { panic!("an epoch start") };
    assert!(matches!(copy.copy(frame)[..], [Effect::Fault(CopyFault::OutOfOrder { .. })]));
}

#[test]
fn a_damaged_replica_leads_nothing() {
    let mut rig = Rig::new(Home::Origin);
    rig.replica.set_unsure(Seq(4));
    let out = rig.lead(1, &[1]);
    let unsure = out.iter().any(|effect| {
        matches!(effect, Effect::Answer(FenceAnswer::Promised { unsure_from: Some(Seq(4)), .. }))
    });
    assert!(unsure, "it says so to whoever elects");
    assert!(rig.frames.is_empty());
    assert_eq!(rejects(&rig.step(Input::Publish(publish(1, 1, None)))), [Reject::Damaged]);
}

#[test]
fn of_a_shard_that_nobody_ever_led_nothing_is_missing() {
    for (home, held, untouched, leads) in
        [(Home::Origin, 0, true, true), (Home::Origin, 0, false, false), (Home::Origin, 1, true, false)]
    {
        let mut rig = Rig::new(home);
        if held > 0 {
            let mut old = Rig::leading(Home::Origin, &[1]);
            old.flush();
            rig.replica.replay(&old.frames[0]).unwrap();
        }
        rig.replica.set_unsure(Seq(held + 1));
        let out = rig.step(Input::Begun { epoch: LeaderEpoch(1), untouched });
        let ends = |effect: &Effect| matches!(effect, Effect::Doubt { from: None });
        assert_eq!(out.iter().any(ends), leads, "the volume is told, for it is damaged still");
        rig.lead(2, &[1]);
        assert_eq!(rig.replica.leads().is_some(), leads, "{home:?} {held} {untouched}");
    }
    let mut copy = Rig::new(Home::Copy);
    copy.replica.set_unsure(Seq(1));
    copy.step(Input::Begun { epoch: LeaderEpoch(1), untouched: true });
    assert_eq!(copy.replica.unsure_from(), Some(Seq(1)), "another group may have had it written");
}

#[test]
fn time_goes_forward_over_a_leader_change_with_an_earlier_clock() {
    let mut old = Rig::leading(Home::Origin, &[1]);
    old.flush();
    old.step(Input::Publish(publish(1, 1, None)));
    let mut next = Rig::new(Home::Origin);
    for frame in &old.frames {
        next.replica.replay(frame).unwrap();
    }
    let mut out = Vec::new();
    next.replica.step(Input::Fence { epoch: LeaderEpoch(2) }, Timestamp(5), &mut out);
    next.replica.step(Input::Promised { epoch: LeaderEpoch(2) }, Timestamp(5), &mut out);
    next.replica.step(elected(2, 1, &[1]), Timestamp(5), &mut out);
    let Some(Effect::Append(frame)) = out.pop() else { panic!("an epoch start") };
    assert!(frame.header.hlc > old.frames[1].header.hlc);
}
