//! Steps of replicas, and the one place where their effects happen: what `shard/src/task.rs` does.

use meridian_metadata::driver;
use meridian_metadata::placement::Elected;
use meridian_shard::{Effect, Election, FenceAnswer, Input, LogPoint, ReplicaSet, frame_effects};
use meridian_storage::{Entry, FrameEffects, FrameKind, Place};
use meridian_types::{NodeId, Seq, SetVersion, ShardId};

use super::messages::epoch_of;
use super::{At, Event, Packet, World, names};
use crate::check::Law;
use crate::check::{marks, promises};
use crate::host::{Pump, Unapplied};

/// As `serve.rs` has it.
const MARK_AFTER: u64 = 250_000;

impl World {
    pub(super) fn step(&mut self, id: NodeId, shard: ShardId, input: Input) {
        if self.is_over() {
            return;
        }
        let now = self.clock(id);
        let Some(at) = self.here(id) else { return };
        let Some(process) = self.nodes.get_mut(&id).and_then(|node| node.process.as_mut()) else { return };
        let Some(host) = process.hosts.get_mut(&shard) else { return };
        let before = host.replica.marks();
        self.met.met(format!("{} takes {}", names::role(host), names::replica_input(&input)));
        let mut effects = Vec::new();
        host.replica.step(input, now, &mut effects);
        // What the replica has dropped, whether it has its disk do so or not.
        let new = effects.iter().filter(|effect| matches!(effect, Effect::Append(_))).count() as u64;
        let kept = host.replica.end().seq.0 - new;
        host.view.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        for effect in effects {
            self.execute(at, shard, effect);
            if self.is_over() || self.process(at).is_none() {
                return;
            }
        }
        if let Some(process) = self.process(at) {
            process.submit(shard);
        }
        self.mark_later(at, shard);
        self.counts(at, shard);
        self.observe(at, shard);
        let (stored, Some(process)) = (self.stored_end(id, shard), self.process(at)) else { return };
        let after = process.hosts.get(&shard).map(|host| host.replica.marks()).unwrap_or(before);
        let indexed = if after.applied == before.applied {
            after.applied
        } else {
            process.index.applied(shard).ok().flatten().map_or(Seq::ZERO, |mark| mark.seq)
        };
        let verdict = marks::stepped(id, shard, before, after, stored, indexed);
        self.judge(Law::MarksInOrder, verdict);
        self.wake_disk(at);
        self.wake_pumps(at, shard);
        self.show_soon(at, shard);
    }

    fn execute(&mut self, at: At, shard: ShardId, effect: Effect) {
        let me = at.node;
        self.met.met(names::effect(&effect));
        match effect {
            Effect::Append(frame) => {
                self.appends(at, shard, &frame);
                let Some(host) = self.process(at).and_then(|process| process.hosts.get_mut(&shard)) else {
                    return;
                };
                let effects = frame_effects(&frame, Place { file: 0, at: 0, len: 0 });
                host.unapplied.push_back(Unapplied { effects, flushed: false });
                host.view.push(frame.clone());
                host.to_submit.push(Entry::Frame(frame));
            }
            Effect::Cut { after } => self.cut_log(at, shard, after),
            Effect::Promise(promise) => {
                self.trace.line(self.now, format_args!("{me} promises {} of {shard}", promise.epoch));
                if let Some(process) = self.process(at) {
                    process.submit(shard);
                    process.queue.promise(promise);
                }
            }
            Effect::Doubt { from } => {
                self.trace.line(self.now, format_args!("{me} is in doubt of {shard} from {from:?}"));
                if let Some(process) = self.process(at) {
                    process.submit(shard);
                    process.queue.doubt(shard, from);
                }
            }
            Effect::Answer(answer) => self.answer_fence(at, shard, answer),
            Effect::Send { to, message } => {
                if let Some(epoch) = epoch_of(&message) {
                    self.acts(at, shard, "speaks", epoch);
                }
                self.send(me, to, Packet::Replica(shard, message));
            }
            Effect::Feed { to, epoch, after } => {
                let connection = self.network.connection(me, to);
                if let Some(host) = self.process(at).and_then(|process| process.hosts.get_mut(&shard)) {
                    let pump = Pump { epoch, next: after.next(), told: Seq::ZERO, connection, awake: false };
                    host.pumps.insert(to, pump);
                    self.wake_pump(at, shard, to);
                }
            }
            Effect::StopFeeding => {
                if let Some(host) = self.process(at).and_then(|process| process.hosts.get_mut(&shard)) {
                    host.pumps.clear();
                }
            }
            Effect::Apply { through } => self.apply(at, shard, through),
            Effect::Ack { request, ack } => {
                self.observe(at, shard);
                self.acks(at, shard, request, ack);
            }
            Effect::Reject { request, reject } => self.rejects(at, shard, request, reject),
            Effect::Readable { request, committed } => self.readable(at, shard, request, committed),
            Effect::Fault(fault) => {
                if let Some(host) = self.process(at).and_then(|process| process.hosts.get_mut(&shard)) {
                    host.fault = Some(fault.clone());
                }
                self.judge(Law::NoFault, Err(format!("node {me} faults shard {shard}: {fault}")));
            }
        }
    }

    /// What is applied is written down a while later, unless frames take it along.
    fn mark_later(&mut self, at: At, shard: ShardId) {
        let Some(host) = self.process(at).and_then(|process| process.hosts.get_mut(&shard)) else { return };
        if host.replica.marks().applied > host.marked && !host.marking {
            host.marking = true;
            self.after(MARK_AFTER, Event::Mark(at, shard));
        }
    }

    pub(super) fn mark(&mut self, at: At, shard: ShardId) {
        let Some(process) = self.process(at) else { return };
        let Some(host) = process.hosts.get_mut(&shard) else { return };
        host.marking = false;
        host.mark(shard);
        process.submit(shard);
        self.met.met("disk: an applied mark written");
        self.wake_disk(at);
    }

    fn cut_log(&mut self, at: At, shard: ShardId, after: LogPoint) {
        self.trace
            .line(self.now, format_args!("{} cuts {shard} after {}:{}", at.node, after.epoch, after.seq));
        let Some(process) = self.process(at) else { return };
        process.submit(shard);
        if let Some(host) = process.hosts.get_mut(&shard) {
            while host.unapplied.pop_back_if(|frame| frame.effects.header.seq > after.seq).is_some() {}
        }
        process.queue.cut(shard, after);
    }

    fn answer_fence(&mut self, at: At, shard: ShardId, answer: FenceAnswer) {
        let stored = self.nodes.get(&at.node).and_then(|node| node.stored.get(&shard));
        let verdict = promises::answered(at.node, shard, &answer, stored);
        self.judge(Law::PromisesHold, verdict);
        self.trace.line(self.now, format_args!("{} answers a fence of {shard}: {answer:?}", at.node));
        let (asked, promised) = match answer {
            FenceAnswer::Promised { epoch, .. } => (epoch, epoch),
            FenceAnswer::Refused { epoch, promised } => (epoch, promised),
        };
        let Some(process) = self.process(at) else { return };
        let boot = process.boot;
        let Some(host) = process.hosts.get_mut(&shard) else { return };
        let mut out = Vec::new();
        for (epoch, asker) in std::mem::take(&mut host.fences) {
            let outcome = match answer {
                FenceAnswer::Promised { end, unsure_from, .. } if epoch == asked => {
                    driver::FenceOutcome::Promised { end, unsure_from }
                }
                _ if epoch == asked || epoch < promised => driver::FenceOutcome::Refused { promised },
                _ => {
                    host.fences.push((epoch, asker));
                    continue;
                }
            };
            out.push((asker, driver::FenceAnswer { shard, epoch, outcome }));
        }
        for (asker, answer) in out {
            self.send(at.node, asker, Packet::Fenced(boot, vec![answer]));
        }
        if matches!(answer, FenceAnswer::Promised { .. }) {
            self.ambush(at.node);
        }
    }

    fn apply(&mut self, at: At, shard: ShardId, through: Seq) {
        let me = at.node;
        self.observe(at, shard);
        let Some(process) = self.process(at) else { return };
        let index = process.index.clone();
        let Some(host) = process.hosts.get_mut(&shard) else { return };
        let applied = host.replica.marks().applied;
        let count = usize::try_from(through.0 - applied.0).unwrap_or(usize::MAX).min(host.unapplied.len());
        let run: Vec<Unapplied> = host.unapplied.drain(..count).collect();
        if run.iter().any(|frame| !frame.flushed) {
            let what = format!("node {me} applies frames of {shard} up to {through} before they are flushed");
            return self.judge(Law::MarksInOrder, Err(what));
        }
        for frame in &run {
            let header = frame.effects.header;
            if header.kind == FrameKind::Events {
                host.totals.events += u64::from(header.events);
                host.totals.bytes += u64::from(header.payload_len);
            }
            host.applied_hlc = header.hlc;
        }
        let effects: Vec<FrameEffects> = run.iter().map(|frame| frame.effects).collect();
        if let Err(error) = index.apply(shard, &effects) {
            return self.judge(Law::OwnChecks, Err(format!("node {me}: the index takes nothing: {error}")));
        }
        if run.is_empty() {
            return;
        }
        self.step(me, shard, Input::Applied(through));
        self.tell_sessions(at, shard);
    }

    /// Placement has elected: by a driver's word, or by the node's own copy of the state.
    pub(super) fn elected(
        &mut self,
        me: NodeId,
        shard: ShardId,
        elected: Elected,
        version: SetVersion,
        members: &[NodeId],
        learner: Option<NodeId>,
    ) {
        let Some(at) = self.here(me) else { return };
        let set = ReplicaSet { version, members: members.to_vec() };
        self.sets.insert((self.group_of(me), shard, elected.epoch), set.clone());
        if !members.contains(&me) && learner != Some(me) {
            return;
        }
        let home = self.home(me);
        let Some(process) = self.process(at) else { return };
        let host = process.ensure(me, shard, home);
        if host.replica.awaits_begun() && elected.node != me {
            return self.ask_placement(at, shard);
        }
        let led = host.replica.leads();
        let election =
            Election { epoch: elected.epoch, leader: elected.node, boot: elected.boot, set: set.clone() };
        let earlier = host.set.clone();
        if elected.node == me && led != Some(elected.epoch) {
            // Before the step: a set of one commits within it.
            host.set = Some(set);
        }
        self.step(me, shard, Input::Elected(election));
        let host = self.process(at).and_then(|process| process.hosts.get_mut(&shard));
        let leads = host.and_then(|host| {
            if host.replica.leads() != Some(elected.epoch) {
                host.set = earlier;
            }
            host.replica.leads()
        });
        if leads.is_some() && leads != led {
            self.met.met("replica: begins to lead");
            self.trace.line(self.now, format_args!("{me} leads {shard} in {:?} over {members:?}", leads));
            self.ambush(me);
        }
    }

    pub(super) fn acts(&mut self, at: At, shard: ShardId, what: &str, epoch: meridian_types::LeaderEpoch) {
        let Some(host) = self.process(at).and_then(|process| process.hosts.get(&shard)) else { return };
        let mut promised = host.replica.promised();
        // What was synced once holds, whatever damage has made of it.
        if let Some(log) = self.nodes.get(&at.node).and_then(|node| node.stored.get(&shard)) {
            promised = promised.max(log.ever_promised());
        }
        let verdict = promises::acts(at.node, shard, what, epoch, promised);
        self.judge(Law::PromisesHold, verdict);
    }
}
