//! Replicas that follow: two to three cores, wired by hand.

use meridian_types::{LogEpoch, SetVersion};

use super::*;
use crate::tests_support::{SHARD, publish};
use crate::{Election, ReplicaSet, RequestId};

const NOW: Timestamp = Timestamp(1_000_000);

/// A replica, what is in its volume, and what it said that was not heard yet.
struct Node {
    replica: Replica,
    volume: Vec<Frame>,
    said: Vec<(NodeId, Message)>,
    feeds: Vec<(NodeId, LeaderEpoch, Seq)>,
    acked: Vec<RequestId>,
    readable: Vec<Seq>,
    faults: Vec<CopyFault>,
    cuts: Vec<Seq>,
    doubts: Vec<Option<Seq>>,
}

impl Node {
    fn new(id: u32, home: Home) -> Self {
        let replica = Replica::recover(SHARD, NodeId(id), Boot(1), home, Recovery::default(), 16);
        let (volume, said, feeds, cuts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (acked, readable, faults) = (Vec::new(), Vec::new(), Vec::new());
        Self { replica, volume, said, feeds, acked, readable, faults, cuts, doubts: Vec::new() }
    }

    fn step(&mut self, input: Input) {
        let mut out = Vec::new();
        self.replica.step(input, NOW, &mut out);
        for effect in out {
            match effect {
                Effect::Append(frame) => self.volume.push(frame),
                Effect::Cut { after } => {
                    self.cuts.push(after.seq);
                    self.volume.retain(|frame| frame.header.seq <= after.seq);
                }
                Effect::Promise(promise) => self.step(Input::Promised { epoch: promise.epoch }),
                Effect::Apply { through } => self.step(Input::Applied(through)),
                Effect::Send { to, message } => self.said.push((to, message)),
                Effect::Feed { to, epoch, after } => self.feeds.push((to, epoch, after)),
                Effect::StopFeeding => self.feeds.clear(),
                Effect::Ack { request, .. } => self.acked.push(request),
                Effect::Readable { committed, .. } => self.readable.push(committed),
                Effect::Fault(fault) => self.faults.push(fault),
                Effect::Doubt { from } => self.doubts.push(from),
                Effect::Answer(_) | Effect::Reject { .. } => {}
            }
        }
    }

    fn hear(&mut self, node: NodeId, message: Message) {
        let held = self.replica.must_look_up(&message).map(|(seq, epoch)| {
            let fits = |frame: &&Frame| frame.header.seq <= seq && frame.header.log_epoch <= epoch;
            self.volume.iter().rev().find(fits).map_or(LogPoint::START, |frame| {
                let header = &frame.header;
                LogPoint { seq: header.seq, epoch: header.log_epoch, chain: header.chain }
            })
        });
        self.step(Input::From { node, message, held });
    }

    fn copy(&mut self, frame: Frame) {
        let epoch = self.replica.leads().unwrap_or_default();
        self.step(Input::Copy { epoch, frame });
    }

    fn sync(&mut self) {
        let LogPoint { seq, chain, .. } = self.replica.end();
        self.step(Input::Flushed { seq, chain });
    }

    fn elected(&mut self, epoch: u32, leader: u32) {
        let set = ReplicaSet { version: SetVersion(1), members: vec![NodeId(1), NodeId(2), NodeId(3)] };
        let election = Election { epoch: LeaderEpoch(epoch), leader: NodeId(leader), boot: Boot(1), set };
        self.step(Input::Elected(election));
    }

    fn fence(&mut self, epoch: u32) {
        self.step(Input::Fence { epoch: LeaderEpoch(epoch) });
    }
}

/// Delivers until nobody has anything to say; nodes that are not `on` hear and say nothing.
fn talk(nodes: &mut [Node; 3], on: &[u32]) {
    for _ in 0..100 {
        let mut quiet = true;
        for at in 0..3 {
            let from = NodeId(at as u32 + 1);
            let said = std::mem::take(&mut nodes[at].said);
            let feeds = std::mem::take(&mut nodes[at].feeds);
            let mut words: Vec<(NodeId, Message)> = said;
            for (to, epoch, after) in feeds {
                let frames = nodes[at].volume.iter().filter(|f| f.header.seq > after).cloned().collect();
                let committed = nodes[at].replica.marks().committed;
                words.push((to, Message::Frames { epoch, frames, committed }));
            }
            for (to, message) in words {
                if on.contains(&from.0) && on.contains(&to.0) {
                    quiet = false;
                    nodes[to.0 as usize - 1].hear(from, message);
                    nodes[to.0 as usize - 1].sync();
                }
            }
        }
        if quiet {
            return;
        }
    }
    panic!("they never stop talking");
}

fn three(home: Home) -> [Node; 3] {
    [1, 2, 3].map(|id| Node::new(id, home))
}

/// Node 1 leads in epoch 1, all follow, and `batches` are committed.
fn led(batches: u64) -> [Node; 3] {
    let mut nodes = three(Home::Origin);
    for node in &mut nodes {
        node.fence(1);
        node.elected(1, 1);
    }
    nodes[0].sync();
    talk(&mut nodes, &[1, 2, 3]);
    for i in 0..batches {
        nodes[0].step(Input::Publish(publish(i, 1, None)));
    }
    nodes[0].sync();
    feed(&mut nodes, &[1, 2, 3]);
    nodes
}

/// What a live feed does: followers ask again, which gives them all that is new.
fn feed(nodes: &mut [Node; 3], on: &[u32]) {
    for _ in 0..2 {
        for node in nodes.iter_mut() {
            node.step(Input::Connected);
        }
        talk(nodes, on);
    }
}

#[test]
fn followers_hold_the_leaders_bytes_and_its_commit() {
    let nodes = led(5);
    for node in &nodes {
        assert_eq!(node.volume, nodes[0].volume);
        let marks = node.replica.marks();
        assert_eq!((marks.committed, marks.applied), (Seq(6), Seq(6)));
    }
    assert_eq!(nodes[0].acked.len(), 5);
}

#[test]
fn what_no_majority_had_is_cut_and_the_new_leaders_log_follows() {
    let mut nodes = led(2);
    // Cut off from the others, the leader appends what nobody else gets.
    for i in 10..14 {
        nodes[0].step(Input::Publish(publish(i, 1, None)));
    }
    nodes[0].sync();
    for node in &mut nodes[1..] {
        node.fence(2);
        node.elected(2, 2);
    }
    nodes[1].sync();
    talk(&mut nodes, &[2, 3]);
    nodes[1].step(Input::Publish(publish(20, 1, None)));
    nodes[1].sync();
    feed(&mut nodes, &[2, 3]);
    assert_eq!(nodes[1].acked, [RequestId(20)]);
    assert_eq!(nodes[0].replica.marks().appended, Seq(7));
    // It comes back.
    nodes[0].elected(2, 2);
    talk(&mut nodes, &[1, 2, 3]);
    assert_eq!(nodes[0].cuts, [Seq(3)]);
    assert_eq!(nodes[0].volume, nodes[1].volume);
    assert_eq!(nodes[0].acked.len(), 2, "what was cut was never acknowledged");
    assert_eq!(nodes[0].replica.marks().applied, Seq(5));
}

#[test]
fn a_flush_of_a_frame_that_was_cut_does_not_count_for_the_one_in_its_place() {
    let mut nodes = led(1);
    nodes[0].step(Input::Publish(publish(10, 1, None)));
    let lost = nodes[0].replica.end();
    for node in &mut nodes[1..] {
        node.fence(2);
        node.elected(2, 2);
    }
    nodes[1].sync();
    nodes[0].elected(2, 2);
    // The leader's frames reach node 1, whose volume still works on the frame that was cut.
    let (mut to_leader, mut to_follower) = (std::mem::take(&mut nodes[0].said), Vec::new());
    for _ in 0..4 {
        for (_, message) in to_leader.drain(..) {
            nodes[1].step(Input::From { node: NodeId(1), message, held: None });
        }
        to_follower.append(&mut nodes[1].said);
        for (to, epoch, after) in std::mem::take(&mut nodes[1].feeds) {
            let frames = nodes[1].volume.iter().filter(|f| f.header.seq > after).cloned().collect();
            to_follower.push((to, Message::Frames { epoch, frames, committed: Seq::ZERO }));
        }
        for (_, message) in to_follower.drain(..).filter(|(to, _)| *to == NodeId(1)) {
            nodes[0].step(Input::From { node: NodeId(2), message, held: None });
        }
        to_leader = std::mem::take(&mut nodes[0].said);
    }
    assert_eq!((nodes[0].replica.end().seq, nodes[0].replica.marks().flushed), (lost.seq, Seq(2)));
    nodes[0].step(Input::Flushed { seq: lost.seq, chain: lost.chain });
    assert_eq!(nodes[0].replica.marks().flushed, Seq(2), "it was another frame");
    nodes[0].sync();
    assert_eq!(nodes[0].replica.marks().flushed, Seq(3));
}

#[test]
fn an_answer_to_an_earlier_question_cuts_nothing() {
    let mut nodes = led(1);
    let early = Message::Match { epoch: LeaderEpoch(1), attempt: 1, at: LogPoint::START, end: None };
    nodes[1].step(Input::Connected);
    nodes[1].step(Input::From { node: NodeId(1), message: early, held: None });
    assert_eq!(nodes[1].replica.marks().appended, Seq(2));
    assert!(nodes[1].cuts.is_empty());
}

#[test]
fn a_read_waits_for_a_majority_and_a_fenced_one_is_never_answered() {
    let mut nodes = led(1);
    nodes[0].step(Input::Read { request: RequestId(1) });
    assert!(nodes[0].readable.is_empty());
    talk(&mut nodes, &[1, 2]);
    assert_eq!(nodes[0].readable, [Seq(2)]);
    for node in &mut nodes[1..] {
        node.fence(2);
    }
    nodes[0].step(Input::Read { request: RequestId(2) });
    talk(&mut nodes, &[1, 2, 3]);
    assert_eq!(nodes[0].readable.len(), 1);
    assert_eq!(nodes[0].replica.leads(), None, "it has heard that it is over");
}

#[test]
fn a_fenced_follower_takes_and_reports_nothing_of_the_old_leader() {
    let mut nodes = led(1);
    nodes[1].fence(2);
    nodes[2].fence(2);
    nodes[0].step(Input::Publish(publish(9, 1, None)));
    nodes[0].sync();
    let (epoch, frame) = (LeaderEpoch(1), nodes[0].volume.last().unwrap().clone());
    for node in &mut nodes[1..] {
        let message = Message::Frames { epoch, frames: vec![frame.clone()], committed: Seq(2) };
        node.step(Input::From { node: NodeId(1), message, held: None });
        assert_eq!(node.replica.marks().appended, Seq(2));
    }
    talk(&mut nodes, &[1, 2, 3]);
    assert_eq!(nodes[0].acked.len(), 1);
}

/// A fence that comes late, of the epoch in which a leader led until it heard of a higher one: what it has appended since is not
/// synced.
#[test]
fn a_fence_of_an_epoch_that_was_led_in_is_refused() {
    let mut nodes = led(1);
    nodes[0].step(Input::Publish(publish(9, 1, None)));
    nodes[0].step(Input::From {
        node: NodeId(2),
        message: Message::Fenced { promised: LeaderEpoch(2) },
        held: None,
    });
    assert_eq!(nodes[0].replica.leads(), None);
    let mut out = Vec::new();
    nodes[0].replica.step(Input::Fence { epoch: LeaderEpoch(1) }, NOW, &mut out);
    assert!(matches!(out[..], [Effect::Answer(FenceAnswer::Refused { .. })]), "{out:?}");
}

#[test]
fn an_elected_process_that_has_restarted_leads_nothing() {
    let mut node = Node::new(1, Home::Origin);
    node.fence(3);
    let set = ReplicaSet { version: SetVersion(1), members: vec![NodeId(1)] };
    let election = Election { epoch: LeaderEpoch(3), leader: NodeId(1), boot: Boot(0), set };
    node.step(Input::Elected(election));
    assert_eq!(node.replica.leads(), None);
    node.elected(3, 1);
    assert_eq!(node.replica.leads(), Some(LeaderEpoch(3)));
}

#[test]
fn a_copys_longer_follower_is_not_cut_and_counts_only_what_is_in_common() {
    let origin = led(4);
    let mut nodes = three(Home::Copy);
    for node in &mut nodes {
        node.fence(7);
    }
    nodes[0].elected(7, 1);
    for frame in &origin[0].volume {
        nodes[0].copy(frame.clone());
    }
    nodes[0].sync();
    // Node 1 had all of it, and nobody else; node 2 leads next with what there is.
    for node in &mut nodes {
        node.fence(8);
    }
    for node in &mut nodes[1..] {
        node.elected(8, 2);
    }
    for frame in &origin[0].volume[..2] {
        nodes[1].copy(frame.clone());
    }
    nodes[1].sync();
    nodes[0].elected(8, 2);
    talk(&mut nodes, &[1, 2]);
    assert_eq!(nodes[0].replica.marks().appended, Seq(5));
    assert!(nodes[0].cuts.is_empty() && nodes[0].faults.is_empty());
    assert_eq!(nodes[1].replica.marks().committed, Seq(2));
    for frame in &origin[0].volume[2..] {
        nodes[1].copy(frame.clone());
    }
    nodes[1].sync();
    feed(&mut nodes, &[1, 2]);
    assert_eq!(nodes[1].replica.marks().committed, Seq(5));
    assert_eq!(nodes[0].volume, nodes[1].volume);
}

/// A set that is new, of which the majority holds nothing, may elect one that holds nothing. What another has applied is perhaps
/// nowhere else.
#[test]
fn a_copys_leader_gives_way_to_who_has_more_applied() {
    let origin = led(4);
    let mut nodes = three(Home::Copy);
    for node in &mut nodes {
        node.fence(7);
    }
    let alone = ReplicaSet { version: SetVersion(1), members: vec![NodeId(1)] };
    let election = Election { epoch: LeaderEpoch(7), leader: NodeId(1), boot: Boot(1), set: alone };
    nodes[0].step(Input::Elected(election));
    for frame in &origin[0].volume {
        nodes[0].copy(frame.clone());
    }
    nodes[0].sync();
    assert_eq!((nodes[0].replica.marks().applied, nodes[0].replica.durable()), (Seq(5), Seq(5)));
    // As a learner it is let in, for it lacks nothing that the leader has.
    for node in &mut nodes[1..] {
        node.fence(8);
    }
    let others = ReplicaSet { version: SetVersion(1), members: vec![NodeId(2), NodeId(3)] };
    let election = Election { epoch: LeaderEpoch(8), leader: NodeId(2), boot: Boot(1), set: others };
    for node in [1, 0] {
        nodes[node].step(Input::Elected(election.clone()));
    }
    talk(&mut nodes, &[1, 2]);
    assert_eq!(
        (nodes[1].replica.leads(), nodes[1].replica.flushed_by(NodeId(1))),
        (Some(LeaderEpoch(8)), Some(Seq(0)))
    );
    let said = |node: &Node| node.said.iter().filter(|(to, _)| *to == NodeId(1)).count();
    let before = said(&nodes[1]);
    for frame in &origin[0].volume {
        nodes[1].copy(frame.clone());
    }
    assert_eq!(said(&nodes[1]), before + 1, "once the leader has as much, it is asked again");
    talk(&mut nodes, &[1, 2]);
    assert_eq!(nodes[0].replica.follows(), Some((NodeId(2), LeaderEpoch(8))));
    nodes[1] = Node::new(2, Home::Copy);
    // As a member it is to lead.
    for node in &mut nodes {
        node.fence(9);
        node.elected(9, 2);
    }
    talk(&mut nodes, &[1, 2, 3]);
    assert!(nodes[0].faults.is_empty());
    assert_eq!((nodes[1].replica.leads(), nodes[1].replica.follows()), (None, None));
    for node in &mut nodes {
        node.fence(10);
        node.elected(10, 1);
    }
    assert_eq!(nodes[0].replica.durable(), Seq(0), "of the set that it leads, nobody else has any");
    talk(&mut nodes, &[1, 2, 3]);
    feed(&mut nodes, &[1, 2, 3]);
    assert_eq!((nodes[0].replica.durable(), nodes[1].volume.len()), (Seq(5), 5));
}

#[test]
fn a_follower_far_behind_is_found_by_what_the_leader_looks_up() {
    let mut nodes = led(3);
    let probe = Message::Probe {
        epoch: LeaderEpoch(1),
        attempt: 9,
        at: LogPoint { seq: Seq(2), epoch: LogEpoch(1), chain: nodes[0].volume[1].header.chain },
        doubt: false,
    };
    assert_eq!(nodes[0].replica.must_look_up(&probe), Some((Seq(2), LogEpoch(1))));
    nodes[0].said.clear();
    let held = LogPoint { seq: Seq(2), epoch: LogEpoch(1), chain: nodes[0].volume[1].header.chain };
    nodes[0].step(Input::From { node: NodeId(3), message: probe.clone(), held: None });
    assert!(nodes[0].said.is_empty(), "nothing is said of what cannot be read");
    nodes[0].step(Input::From { node: NodeId(3), message: probe, held: Some(held) });
    assert!(matches!(nodes[0].said[0].1, Message::Match { attempt: 9, .. }));
}

#[test]
fn a_follower_that_hears_of_the_election_first_is_matched_all_the_same() {
    let mut nodes = three(Home::Origin);
    for node in &mut nodes {
        node.fence(1);
    }
    nodes[1].elected(1, 1);
    nodes[2].elected(1, 1);
    talk(&mut nodes, &[1, 2, 3]);
    nodes[0].elected(1, 1);
    nodes[0].sync();
    talk(&mut nodes, &[1, 2, 3]);
    assert!(nodes[0].replica.is_ready(), "{:?}", nodes[0].replica.marks());
}

#[test]
fn frames_and_marks_that_overtake_the_answer_are_not_lost() {
    let mut nodes = led(0);
    nodes[0].step(Input::Publish(publish(1, 1, None)));
    nodes[0].sync();
    let epoch = LeaderEpoch(1);
    let frame = nodes[0].volume[1].clone();
    nodes[1].step(Input::Connected);
    let committed = Message::Committed { epoch, seq: Seq(2) };
    nodes[1].step(Input::From { node: NodeId(1), message: committed, held: None });
    let frames = Message::Frames { epoch, frames: vec![frame], committed: Seq(1) };
    nodes[1].step(Input::From { node: NodeId(1), message: frames, held: None });
    nodes[1].sync();
    let marks = nodes[1].replica.marks();
    assert_eq!((marks.appended, marks.committed, marks.applied), (Seq(2), Seq(2), Seq(2)));
}

/// Node 3's process ends, and its disk has lost what is above frame `kept` and the promise.
fn lose(nodes: &mut [Node; 3], kept: usize) {
    let volume: Vec<Frame> = nodes[2].volume[..kept].to_vec();
    nodes[2] = Node::new(3, Home::Origin);
    for frame in &volume {
        nodes[2].replica.replay(frame).unwrap();
    }
    nodes[2].volume = volume;
    nodes[2].replica.set_unsure(Seq(kept as u64 + 1));
}

#[test]
fn a_damaged_replica_follows_nobody_before_it_knows_what_was_begun() {
    let mut nodes = led(3);
    // It answered the fence of an election whose outcome it never heard.
    nodes[2].fence(2);
    lose(&mut nodes, 2);
    nodes[2].elected(1, 1);
    talk(&mut nodes, &[1, 2, 3]);
    assert_eq!(nodes[2].replica.follows(), None, "it may have promised more");
    nodes[2].step(Input::Begun { epoch: LeaderEpoch(2), untouched: false });
    assert_eq!(nodes[2].replica.promised(), LeaderEpoch(2), "and it had");
    nodes[2].elected(1, 1);
    assert_eq!(nodes[2].replica.follows(), None);
    nodes[1].fence(2);
    nodes[1].elected(2, 2);
    nodes[1].sync();
    nodes[2].elected(2, 2);
    talk(&mut nodes, &[2, 3]);
    assert_eq!(nodes[2].replica.follows(), Some((NodeId(2), LeaderEpoch(2))));
    assert_eq!(nodes[2].volume, nodes[1].volume);
}

/// Its log is sound: once it knows what was begun, it counts as ever, and where it is the only one, it leads again.
#[test]
fn a_replica_whose_promise_may_be_hidden_answers_once_it_knows_what_was_begun() {
    let mut nodes = led(3);
    let answers = |node: &mut Node, input: Input| {
        let mut out = Vec::new();
        node.replica.step(input, NOW, &mut out);
        let promised = |effect: &Effect| matches!(effect, Effect::Promise(_));
        let answered = |effect: &Effect| matches!(effect, Effect::Answer(_));
        (out.iter().filter(|effect| promised(effect)).count(), out.iter().any(answered))
    };
    for (begun, fence) in [(2, 2), (3, 2), (2, 4)] {
        lose(&mut nodes, 4);
        nodes[2].replica = Replica::recover(SHARD, NodeId(3), Boot(2), Home::Origin, Recovery::default(), 16);
        for frame in &nodes[2].volume.clone() {
            nodes[2].replica.replay(frame).unwrap();
        }
        nodes[2].replica.set_promise_hidden();
        assert_eq!(answers(&mut nodes[2], Input::Fence { epoch: LeaderEpoch(fence) }), (0, false));
        nodes[2].elected(fence, 1);
        assert!(nodes[2].replica.awaits_begun() && nodes[2].replica.follows().is_none());
        let (promises, refused) =
            answers(&mut nodes[2], Input::Begun { epoch: LeaderEpoch(begun), untouched: false });
        assert_eq!(refused, fence < begun, "{begun} {fence}");
        assert!(promises > 0 && !nodes[2].replica.awaits_begun());
        assert_eq!(nodes[2].replica.promised(), LeaderEpoch(begun.max(fence)));
        let epoch = LeaderEpoch(begun.max(fence));
        let mut out = Vec::new();
        nodes[2].replica.step(Input::Promised { epoch }, NOW, &mut out);
        let sure = |effect: &Effect| {
            matches!(effect, Effect::Answer(FenceAnswer::Promised { unsure_from: None, .. }))
        };
        assert_eq!(out.iter().any(sure), fence >= begun, "{out:?}");
    }
}

#[test]
fn what_the_volume_says_was_applied_is_applied_again_as_far_as_the_log_is_sound() {
    for (unsure, said, through) in [(None, 3, 3), (None, 9, 4), (Some(3), 4, 2), (None, 0, 0)] {
        let mut nodes = led(3);
        lose(&mut nodes, 4);
        nodes[2].replica = Replica::recover(SHARD, NodeId(3), Boot(2), Home::Origin, Recovery::default(), 16);
        for frame in &nodes[2].volume.clone() {
            nodes[2].replica.replay(frame).unwrap();
        }
        if let Some(from) = unsure {
            nodes[2].replica.set_unsure(Seq(from));
        }
        nodes[2].step(Input::WasApplied(Seq(said)));
        assert_eq!(nodes[2].replica.marks().applied, Seq(through), "{unsure:?} {said}");
    }
}

#[test]
fn a_doubt_ends_with_what_the_leader_had_when_they_first_agreed_and_once_that_is_synced() {
    let mut nodes = led(3);
    lose(&mut nodes, 2);
    nodes[2].step(Input::Begun { epoch: LeaderEpoch(1), untouched: false });
    nodes[2].elected(1, 1);
    assert_eq!(nodes[2].doubts, [Some(Seq(3))]);
    assert_eq!(nodes[2].cuts, [Seq(2)], "whatever is beyond it in the volume goes");
    talk(&mut nodes, &[1, 3]);
    assert_eq!(nodes[2].volume, nodes[0].volume);
    assert_eq!(nodes[2].doubts, [Some(Seq(3)), None]);
    assert_eq!(nodes[2].replica.unsure_from(), Some(Seq(3)), "not before it is synced");
    nodes[2].step(Input::Sure);
    assert_eq!(nodes[2].replica.unsure_from(), None);
    // What it had reported before it lost it, the leader does not count any more.
    assert_eq!(nodes[0].replica.flushed_by(NodeId(3)), Some(Seq(4)));
}

#[test]
fn what_was_reported_before_it_was_lost_counts_no_more() {
    let mut nodes = led(3);
    assert_eq!(nodes[0].replica.flushed_by(NodeId(3)), Some(Seq(4)));
    lose(&mut nodes, 2);
    nodes[2].step(Input::Begun { epoch: LeaderEpoch(1), untouched: false });
    nodes[2].elected(1, 1);
    let (_, probe) = nodes[2].said.remove(0);
    nodes[0].hear(NodeId(3), probe);
    assert_eq!(nodes[0].replica.flushed_by(NodeId(3)), Some(Seq::ZERO));
}

#[test]
fn a_doubt_that_frames_have_answered_asks_again_once_its_leader_speaks_anew() {
    let mut nodes = led(3);
    lose(&mut nodes, 2);
    nodes[2].step(Input::Begun { epoch: LeaderEpoch(1), untouched: false });
    nodes[2].elected(1, 1);
    // The answer to its question is lost; frames come all the same.
    nodes[2].said.clear();
    let epoch = LeaderEpoch(1);
    let frames = Message::Frames { epoch, frames: nodes[0].volume[2..].to_vec(), committed: Seq(4) };
    nodes[2].hear(NodeId(1), frames);
    nodes[2].sync();
    assert_eq!(nodes[2].volume, nodes[0].volume);
    assert_eq!(nodes[2].doubts, [Some(Seq(3))], "how far its leader's log went, nobody has said");
    nodes[2].hear(NodeId(1), Message::Leads { epoch });
    talk(&mut nodes, &[1, 3]);
    assert_eq!(nodes[2].doubts, [Some(Seq(3)), None]);
}
