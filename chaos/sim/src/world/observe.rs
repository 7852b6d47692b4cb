//! Hands the checkers what replicas do, as they do it.

use std::collections::BTreeMap;

use meridian_shard::{Ack, Home, Reject, RequestId};
use meridian_storage::Frame;
use meridian_types::{NodeId, Seq, ShardId};

use super::{At, Event, World};
use crate::check::durable_ack::DurableAck;
use crate::check::hlc_rises::HlcRises;
use crate::check::no_hole_no_twin::NoHoleNoTwin;
use crate::check::{Law, committed_leaves, reads, same_bytes};
use crate::host::Waiting;

impl World {
    /// A replica is about to append a frame.
    pub(super) fn appends(&mut self, at: At, shard: ShardId, frame: &Frame) {
        let Some(host) = self.process(at).and_then(|process| process.hosts.get(&shard)) else { return };
        let (leads, follows) = (host.replica.leads(), host.replica.follows().map(|(_, epoch)| epoch));
        let (home, before) = (host.home, host.view.last().cloned());
        let own = leads.is_some() && home == Home::Origin;
        let boot = self.process(at).map(|process| process.boot).unwrap_or_default();
        if let Some(epoch) = leads.or(follows) {
            self.acts(at, shard, "appends", epoch);
        }
        let verdict = NoHoleNoTwin::appended(at.node, before.as_ref(), frame);
        self.judge(Law::NoHoleNoTwin, verdict);
        if own {
            let verdict = self.laws.one_writer.wrote((at.node, boot), home == Home::Origin, leads, frame);
            self.judge(Law::OneWriter, verdict);
            let verdict = DurableAck::appended(&self.laws.truth, at.node, frame);
            self.judge(Law::DurableAck, verdict);
            let verdict = HlcRises::appended(before.as_ref(), frame);
            self.judge(Law::HlcRises, verdict);
        }
        if home == Home::Copy {
            let verdict =
                committed_leaves::leave(&self.laws.truth, at.node, "a copy", std::slice::from_ref(frame));
            self.judge(Law::OnlyCommittedLeaves, verdict);
        }
    }

    /// Looks at what a leader counts as flushed elsewhere, and here.
    pub(super) fn counts(&mut self, at: At, shard: ShardId) {
        let region = Self::region_of(at.node);
        let ids: Vec<NodeId> =
            self.nodes.values().filter(|node| node.region == region).map(|node| node.id).collect();
        let Some(host) = self.process(at).and_then(|process| process.hosts.get_mut(&shard)) else { return };
        let Some(epoch) = host.replica.leads() else { return };
        if host.counted.0 != epoch {
            host.counted = (epoch, BTreeMap::new());
        }
        let mut risen = Vec::new();
        for node in ids {
            let seq = host.replica.flushed_by(node).unwrap_or_default();
            if seq > host.counted.1.get(&node).copied().unwrap_or_default()
                && let Some(point) = host.point(seq)
            {
                host.counted.1.insert(node, seq);
                risen.push((node, (seq, point.chain)));
            }
        }
        for (node, point) in risen {
            let stored = self.stored(node, shard);
            let verdict = DurableAck::counted(at.node, (shard, epoch), node, point, stored);
            self.judge(Law::DurableAck, verdict);
        }
    }

    /// Looks at a replica's committed mark.
    pub(super) fn observe(&mut self, at: At, shard: ShardId) {
        let Some(host) = self.process(at).and_then(|process| process.hosts.get_mut(&shard)) else { return };
        // Of a step with several effects some may be to come: what they append is looked at after them.
        let committed = host.replica.marks().committed.min(Seq(host.view.len() as u64));
        if committed <= host.seen {
            return;
        }
        let seen = std::mem::replace(&mut host.seen, committed);
        let epoch = host.replica.leads();
        let leads = epoch.is_some();
        let home = host.home;
        let index = |seq: Seq| usize::try_from(seq.0 - 1).unwrap_or(usize::MAX);
        let last = host.view.get(index(committed)).cloned();
        let set = host.set.clone();
        if leads && let (Some(set), Some(last)) = (&set, &last) {
            let point = (committed, last.header.chain);
            let stored = |id| self.stored(id, shard);
            let verdict = DurableAck::at_majority("committed", shard, point, set, stored);
            self.judge(Law::DurableAck, verdict);
        }
        if let (Some(epoch), Home::Origin, Some(last)) = (epoch, home, &last) {
            let verdict = DurableAck::counts(at.node, epoch, last);
            self.judge(Law::DurableAck, verdict);
        }
        let end = self.laws.truth.end(shard);
        if leads && home == Home::Origin && committed > end {
            let Some(host) = self.process(at).and_then(|process| process.hosts.get(&shard)) else { return };
            let fresh: Vec<Frame> = host
                .view
                .get(index(end.next())..=index(committed))
                .map(<[Frame]>::to_vec)
                .unwrap_or_default();
            self.trace
                .line(self.now, format_args!("{} commits {shard} from {seen} up to {committed}", at.node));
            for frame in fresh {
                let verdict = self.laws.lanes.committed(&frame);
                self.judge(Law::NoHoleNoTwin, verdict);
                let verdict = self.laws.hlc.committed(&frame);
                self.judge(Law::HlcRises, verdict);
                if self.past.made.get(&shard).is_some_and(|made| !made.contains(&frame.header.chain.0)) {
                    let seq = frame.header.seq;
                    let what = format!(
                        "node {} commits frame {seq} of shard {shard}, whose incarnation was over",
                        at.node
                    );
                    self.judge(Law::OneWriter, Err(what));
                }
                self.laws.truth.push(shard, frame, epoch.unwrap_or_default());
            }
        }
        let law = if home == Home::Copy { Law::OnlyCommittedLeaves } else { Law::SameBytes };
        let verdict = same_bytes::committed(&self.laws.truth, at.node, shard, committed, last.as_ref());
        self.judge(law, verdict);
    }

    pub(super) fn acks(&mut self, at: At, shard: ShardId, request: RequestId, ack: Ack) {
        let Some(process) = self.process(at) else { return };
        let Some(host) = process.hosts.get_mut(&shard) else { return };
        let waiting = host.answers.remove(&request);
        let (leads, set) = (host.replica.leads(), host.set.clone());
        let chain = host.point(ack.seq).map(|point| point.chain);
        self.trace.line(
            self.now,
            format_args!("{} acknowledges {}+{} at {}", at.node, ack.lane, ack.base_offset, ack.seq),
        );
        if let Some(epoch) = leads {
            self.acts(at, shard, "acknowledges", epoch);
        }
        let is_past = ack.lane.origin != shard.origin;
        if is_past {
            self.met.met("effect: Ack of what a past incarnation wrote");
        }
        if let (Some(set), Some(chain), false) = (&set, chain, is_past) {
            let stored = |id| self.stored(id, shard);
            let verdict = DurableAck::at_majority("acknowledged", shard, (ack.seq, chain), set, stored);
            self.judge(Law::DurableAck, verdict);
        }
        let Some(Waiting::Publish { client, ticket: batch, publish }) = waiting else { return };
        let written = ShardId { origin: ack.lane.origin, ..shard };
        let verdict = self.laws.durable.acked(&self.laws.truth, written, &ack, &publish.batch);
        self.judge(Law::DurableAck, verdict);
        self.answer_client(client, batch, Ok(ack));
    }

    pub(super) fn rejects(&mut self, at: At, shard: ShardId, request: RequestId, reject: Reject) {
        self.met.met(match &reject {
            Reject::NotLeader => "reject: NotLeader",
            Reject::ProducerFenced { .. } => "reject: ProducerFenced",
            Reject::ProducerExpired => "reject: ProducerExpired",
            Reject::OutOfSequence { .. } => "reject: OutOfSequence",
            Reject::Damaged => "reject: Damaged",
        });
        let Some(host) = self.process(at).and_then(|process| process.hosts.get_mut(&shard)) else { return };
        match host.answers.get(&request) {
            Some(Waiting::Publish { client, ticket: batch, .. }) => {
                let (client, batch) = (*client, *batch);
                host.answers.remove(&request);
                self.answer_client(client, batch, Err(reject));
            }
            Some(Waiting::Confirm { .. }) => self.confirmed(at, shard, request, None),
            Some(Waiting::Read { .. }) | None => drop(host.answers.remove(&request)),
        }
    }

    pub(super) fn readable(&mut self, at: At, shard: ShardId, request: RequestId, committed: Seq) {
        let Some(host) = self.process(at).and_then(|process| process.hosts.get_mut(&shard)) else { return };
        if let Some(Waiting::Confirm { .. }) = host.answers.get(&request) {
            return self.confirmed(at, shard, request, Some(committed));
        }
        if let Some(Waiting::Read { acknowledged }) = host.answers.remove(&request) {
            let verdict = reads::answered(at.node, shard, committed, acknowledged);
            self.judge(Law::LinearizableReads, verdict);
        }
    }

    fn answer_client(&mut self, client: usize, batch: u64, answer: Result<Ack, Reject>) {
        let doomed = self.doomed.contains_key(&self.clients.region_of(client));
        if doomed || self.chance(if self.calm { 0 } else { 4 }) {
            self.met.met("network: answer lost");
            return;
        }
        let delay = 100 + self.some(self.swarm.way);
        self.after(delay, Event::Answer { client, batch, answer });
    }
}
