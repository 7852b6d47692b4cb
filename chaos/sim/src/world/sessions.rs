//! The source's end of links: what `mirror/src/server.rs` does around the real core. It shows what is applied, alone.

use meridian_mirror::{DurableMark, FeedEffect, FeedInput, LinkEffect, SourceMark};
use meridian_shard::{Home, Input, ReplicaSet, RequestId};
use meridian_storage::Frame;
use meridian_types::mutant::{self, Mutant};
use meridian_types::{LeaderEpoch, NodeId, RegionName, Seq, ShardId};

use super::placement::Group;
use super::{At, Event, Reply, World, names};
use crate::check::durable_ack::DurableAck;
use crate::check::{Law, committed_leaves};
use crate::host::{Host, Waiting};

impl World {
    pub(super) fn link_request(&mut self, connection: u64, request: LinkEffect) {
        let Some(at) = self.connections.get(&connection).map(|it| it.source) else { return };
        let frozen = self.nodes.get(&at.node).map_or(0, |node| node.frozen_until);
        if frozen > self.now {
            return self.at(frozen, Event::LinkRequest(connection, Box::new(request)));
        }
        let elsewhere = match &request {
            LinkEffect::Fetch { shard, .. } => self.is_placed_elsewhere(at, *shard),
            _ => false,
        };
        let Some(process) = self.process(at) else { return };
        let input = match request {
            LinkEffect::Fetch { shard, from, chain_before } => {
                let mark = process.hosts.get(&shard).map(mark_of).filter(|_| !elsewhere);
                if mark.is_some_and(|mark| mark.is_origin_leader && from.prev() > mark.seq) {
                    return self.confirm(at, shard, Waiting::Confirm { connection, from, chain_before });
                }
                FeedInput::Fetch { shard, from, through: None, chain_before, mark }
            }
            LinkEffect::Credit(bytes) => FeedInput::Credit(bytes),
            LinkEffect::Withdraw(bytes) => FeedInput::Withdraw(bytes),
            LinkEffect::Stop(shard) => FeedInput::Stop(shard),
            LinkEffect::Durable(shard, mark) => {
                let Some(session) = process.sessions.get(&connection) else { return };
                let region = session.to_region;
                let name = RegionName::new(format!("r{region}")).expect("a short name");
                process.board.report(shard, &name, mark);
                let shown = process.board.of(shard).into_iter().find(|(known, _)| *known == name);
                let shown = shown.map(|(_, mark)| mark).unwrap_or_default();
                let verdict = self.laws.marks.told((at.node, at.life, shard, region), mark, shown);
                self.judge(Law::DurableAck, verdict);
                return self.told_durable(at, shard, region, shown);
            }
            LinkEffect::Ping => return self.send_on_link(connection, 1, Ok(Reply::Pong)),
            LinkEffect::Append(..) | LinkEffect::Reconnect => return,
        };
        self.session(connection, input);
    }

    /// As `region.rs::is_placed_elsewhere`.
    pub(super) fn is_placed_elsewhere(&self, at: At, shard: ShardId) -> bool {
        let row = self.nodes.get(&at.node).and_then(|node| node.placement.shard(shard));
        row.is_some_and(|row| !row.is_voter(at.node) && row.learner != Some(at.node))
    }

    /// As `region.rs::holders`, without a look at who was heard of.
    fn holders(&self, id: NodeId, shard: ShardId) -> Vec<NodeId> {
        let row = self.nodes.get(&id).and_then(|node| node.placement.shard(shard));
        let mut holders = row.map(|row| row.voters()).unwrap_or_default();
        holders.retain(|holder| *holder != id && self.nodes.contains_key(holder));
        holders
    }

    /// As `server.rs::confirm`.
    fn confirm(&mut self, at: At, shard: ShardId, waiting: Waiting) {
        let Some(process) = self.process(at) else { return };
        process.next_request += 1;
        let request = RequestId(process.next_request);
        if let Some(host) = process.hosts.get_mut(&shard) {
            host.answers.insert(request, waiting);
        }
        self.met.met("feed: a copy holds more than a leader");
        self.after(1_000_000, Event::ConfirmEnds(at, shard, request));
        self.step(at.node, shard, Input::Read { request });
    }

    /// What came of it; `committed`: a majority confirms that this node leads.
    pub(super) fn confirmed(&mut self, at: At, shard: ShardId, request: RequestId, committed: Option<Seq>) {
        let Some(host) = self.process(at).and_then(|process| process.hosts.get_mut(&shard)) else { return };
        let mark = mark_of(host);
        if let Some(Waiting::Confirm { connection, from, chain_before }) = host.answers.remove(&request) {
            let is_origin_leader = committed.is_some_and(|committed| committed < from.prev());
            let mark = Some(SourceMark { is_origin_leader, ..mark });
            self.session(connection, FeedInput::Fetch { shard, from, through: None, chain_before, mark });
        }
    }

    /// What a source says is durable in another region is, at a majority of the copy there.
    fn told_durable(&mut self, at: At, shard: ShardId, region: usize, mark: DurableMark) {
        let Some(chain) = self.laws.truth.chain(shard, mark.seq) else { return };
        // Until its set has settled, a leader speaks of what the set before has committed.
        let hosted_by =
            |group: &Group| group.region == region && u32::from(group.origin.incarnation.0) == mark.hosting.0;
        let Some(group) = self.groups.iter().position(hosted_by) else { return };
        let sets = self.sets.range((group, shard, LeaderEpoch(0))..=(group, shard, mark.hosting.1));
        let sets: Vec<&ReplicaSet> = sets.map(|(_, set)| set).collect();
        let Some(newest) = sets.last().map(|set| set.version) else { return };
        let stored = |id: NodeId| self.stored(id, shard);
        let what = format!("durable in region {region}, by node {}", at.node);
        let of = |set: &ReplicaSet| DurableAck::at_majority(&what, shard, (mark.seq, chain), set, stored);
        let mut last_two = sets.into_iter().filter(|set| set.version.next() >= newest);
        let verdict = if last_two.any(|set| of(set).is_ok()) {
            Ok(())
        } else {
            Err(format!("{what}: frame {} of shard {shard} is at no majority of the last sets", mark.seq))
        };
        self.judge(Law::DurableAck, verdict);
    }

    /// A step of a feed's core, and its effects.
    pub(super) fn session(&mut self, connection: u64, input: FeedInput) {
        let Some(at) = self.connections.get(&connection).map(|it| it.source) else { return };
        let Some(session) = self.process(at).and_then(|process| process.sessions.get_mut(&connection)) else {
            return;
        };
        let to = session.to;
        let mut effects = Vec::new();
        let name = names::feed_input(&input);
        session.feed.step(input, &mut effects);
        self.met.met(name);
        for effect in effects {
            let delay = self.some(2_000);
            match effect {
                FeedEffect::LookUp { shard, turn, seq } => {
                    let Some(process) = self.process(at) else { return };
                    let chain = process.reader.chain_at(shard, seq).map_err(|error| error.to_string());
                    let input = FeedInput::LookedUp { shard, turn, chain };
                    self.after(delay, Event::SessionLooks(connection, Box::new(input)));
                }
                FeedEffect::Read { shard, turn, from, max_bytes } => {
                    let Some(process) = self.process(at) else { return };
                    let read =
                        process.reader.frames(shard, from, usize::try_from(max_bytes).unwrap_or(usize::MAX));
                    let read = read.map_err(|error| error.to_string());
                    let frames = read.map(|read| {
                        process.hosts.get(&shard).map_or_else(Vec::new, |host| shown(host, from, read))
                    });
                    let input = FeedInput::Read { shard, turn, frames };
                    self.after(delay, Event::SessionLooks(connection, Box::new(input)));
                }
                reply => {
                    self.met.met(match &reply {
                        FeedEffect::Push { .. } => "feed: Push",
                        FeedEffect::Mark(..) => "feed: Mark",
                        _ => "feed: Refuse",
                    });
                    if let FeedEffect::Push { frames, .. } = &reply {
                        let name = format!("node {to}");
                        let verdict = committed_leaves::leave(&self.laws.truth, at.node, &name, frames);
                        self.judge(Law::OnlyCommittedLeaves, verdict);
                    }
                    let reply = match reply {
                        FeedEffect::Refuse { shard, reason, last, message } => {
                            let holders = self.holders(at.node, shard);
                            Reply::Refused { shard, reason, last, message, holders }
                        }
                        reply => Reply::Feed(reply),
                    };
                    self.send_on_link(connection, 1, Ok(reply));
                }
            }
        }
    }

    pub(super) fn session_tick(&mut self, connection: u64, count: u64) {
        let Some(at) = self.connections.get(&connection).map(|it| it.source) else { return };
        let Some(process) = self.process(at) else { return };
        let marks: Vec<(ShardId, SourceMark)> =
            process.hosts.iter().map(|(shard, host)| (*shard, mark_of(host))).collect();
        for (shard, mark) in marks {
            self.session(connection, FeedInput::Advanced(shard, mark));
        }
        let session = self.process(at).and_then(|process| process.sessions.get(&connection));
        let wanted: Vec<ShardId> = session.map(|session| session.feed.wanted().collect()).unwrap_or_default();
        for shard in wanted {
            // As `server.rs::end_what_has_left`.
            if self.is_placed_elsewhere(at, shard) {
                self.session(connection, FeedInput::Left(shard));
            }
        }
        self.session(connection, FeedInput::TellMarks { all: count.is_multiple_of(10) });
        self.after(100_000, Event::SessionTick(connection, count + 1));
    }

    /// A shard has applied more.
    pub(super) fn tell_sessions(&mut self, at: At, shard: ShardId) {
        let Some(process) = self.process(at) else { return };
        let Some(mark) = process.hosts.get(&shard).map(mark_of) else { return };
        let sessions: Vec<u64> = process.sessions.keys().copied().collect();
        for connection in sessions {
            self.session(connection, FeedInput::Advanced(shard, mark));
        }
    }
}

/// How far a source shows a shard.
fn mark_of(host: &Host) -> SourceMark {
    let marks = host.replica.marks();
    let leaks = mutant::is(Mutant::UncommittedLeaves);
    SourceMark {
        seq: if leaks { marks.appended } else { marks.applied },
        totals: host.totals,
        hlc: host.applied_hlc,
        is_origin_leader: host.home == Home::Origin && host.replica.is_ready(),
    }
}

/// What a reader is shown of what it read.
pub(super) fn shown(host: &Host, from: Seq, read: Vec<Frame>) -> Vec<Frame> {
    if mutant::is(Mutant::UncommittedLeaves) { host.log_from(from, 8) } else { read }
}
