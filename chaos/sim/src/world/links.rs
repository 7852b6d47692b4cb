//! The copy's end of links: what `mirror/src/links.rs` does around the real core.

use std::time::Duration;

use meridian_mirror::{
    FeedEffect, LegId, LegsEffect, LegsInput, LinkConfig, LinkEffect, LinkInput, RefusedReason, copy_state,
};
use meridian_shard::{Home, Input, Progress};
use meridian_types::{NodeId, Origin, ShardId};

use super::catalog::region_id;
use super::{At, Event, Reply, World, names};
use crate::check::Law;
use crate::node::Session;

/// Read and pushed at a time, and the largest frame: so little that links of little credit read two shards at once.
const CHUNK_BYTES: u64 = 4_000;
const LARGEST_BYTES: u64 = 8_000;

/// A connection of a link.
pub struct Connection {
    pub sink: At,
    pub source: At,
    /// Which of the link's it is.
    pub leg: LegId,
    /// When the last message of each direction arrives: it keeps their order.
    pub arrivals: [u64; 2],
}

impl World {
    pub(super) fn link_config(credit: u64, home: Origin) -> LinkConfig {
        let hosting_incarnation = u32::from(home.incarnation.0);
        LinkConfig { credit_bytes: credit, stall_ms: 2_000, retry_ms: 200, hosting_incarnation }
    }

    pub(super) fn link_tick(&mut self, at: At) {
        let Some(process) = self.process(at) else { return };
        let regions: Vec<usize> = process.links.keys().copied().collect();
        for region in regions {
            self.link(at, region, LegsInput::Tick);
        }
        self.after(100_000, Event::LinkTick(at));
    }

    pub(super) fn link_connect(&mut self, at: At, region: usize) {
        let ids: Vec<NodeId> =
            self.nodes.values().filter(|node| node.region == region).map(|node| node.id).collect();
        let Some(link) = self.process(at).and_then(|process| process.links.get_mut(&region)) else { return };
        if link.ways.contains_key(&LegId::Main) {
            return;
        }
        let Some(source) = ids.get(link.attempts as usize % ids.len().max(1)).copied() else {
            // Nobody is left there; others may come.
            return self.after(200_000, Event::LinkConnect(at, region));
        };
        link.attempts = link.attempts.wrapping_add(1);
        if !self.connect_leg(at, region, LegId::Main, source) {
            let delay = 50_000 + self.some(400_000);
            self.after(delay, Event::LinkConnect(at, region));
        }
    }

    /// An attempt at one more leg comes to something, or to nothing.
    pub(super) fn open_leg(&mut self, at: At, region: usize, node: NodeId, attempt: u64) {
        let Some(link) = self.process(at).and_then(|process| process.links.get_mut(&region)) else { return };
        if link.opening.get(&node) != Some(&attempt) {
            return;
        }
        link.opening.remove(&node);
        if self.connect_leg(at, region, LegId::To(node), node) {
            self.met.met("link: one more leg");
        } else {
            self.link(at, region, LegsInput::Lost(LegId::To(node)));
        }
    }

    /// Whether the source can be reached.
    fn connect_leg(&mut self, at: At, region: usize, leg: LegId, source: NodeId) -> bool {
        let open = self.network.is_connected(at.node, source);
        let Some(there) = self.here(source).filter(|_| open) else { return false };
        let connection = self.number();
        let to_region = Self::region_of(at.node);
        if let Some(link) = self.process(at).and_then(|process| process.links.get_mut(&region)) {
            link.ways.insert(leg, connection);
        }
        if let Some(process) = self.process(there) {
            process.sessions.insert(
                connection,
                Session {
                    feed: meridian_mirror::Feed::of(CHUNK_BYTES, LARGEST_BYTES),
                    to: at.node,
                    to_region,
                },
            );
        }
        self.connections.insert(connection, Connection { sink: at, source: there, leg, arrivals: [0, 0] });
        self.met.met("link: connected");
        let delay = 500 + self.some(self.swarm.wan);
        self.after(delay, Event::LinkConnected(connection));
        self.after(delay, Event::SessionTick(connection, 1));
        true
    }

    pub(super) fn link_connected(&mut self, connection: u64) {
        let Some(it) = self.connections.get(&connection) else { return };
        let (sink, source, leg) = (it.sink, it.source.node, it.leg);
        let region = Self::region_of(source);
        let what = format_args!("a link of {} to region {region} is connected to {source}", sink.node);
        self.trace.line(self.now, what);
        self.link(sink, region, LegsInput::Connected(leg));
    }

    /// A step of a link's core, and its effects.
    pub(super) fn link(&mut self, at: At, region: usize, input: LegsInput) {
        let now = self.clock(at.node);
        let Some(link) = self.process(at).and_then(|process| process.links.get_mut(&region)) else { return };
        let mut effects = Vec::new();
        let name = names::legs_input(&input);
        link.legs.step(input, now, &mut effects);
        self.met.met(name);
        let mut given_up = None;
        for effect in effects {
            let (leg, effect) = match effect {
                LegsEffect::On(leg, effect) => (leg, effect),
                LegsEffect::Open(node, within) => {
                    let attempt = self.number();
                    if let Some(link) = self.process(at).and_then(|process| process.links.get_mut(&region)) {
                        link.opening.insert(node, attempt);
                    }
                    let delay = self.some(within.as_micros() as u64) + self.some(50_000);
                    self.after(delay, Event::LinkLeg(at, region, node, attempt));
                    continue;
                }
                LegsEffect::Close(node) => {
                    self.close_leg(at, region, node);
                    continue;
                }
            };
            let link = self.process(at).and_then(|process| process.links.get(&region));
            let connection = link.and_then(|link| link.ways.get(&leg)).copied();
            match effect {
                LinkEffect::Append(shard, epoch, frames) => {
                    self.met.met("link: Append");
                    let (first, last) = (frames.first(), frames.last());
                    let run = first.zip(last).map(|(first, last)| (first.header.seq, last.header.seq));
                    self.trace
                        .line(self.now, format_args!("the link of {} appends {run:?} of {shard}", at.node));
                    for frame in frames {
                        self.step(at.node, shard, Input::Copy { epoch, frame });
                    }
                }
                LinkEffect::Reconnect => {
                    self.met.met("link: Reconnect");
                    given_up = connection;
                }
                request => {
                    self.met.met(names::request(&request));
                    if let LinkEffect::Fetch { shard, from, .. } = &request {
                        self.trace.line(
                            self.now,
                            format_args!("the link of {} asks for {shard} from {from}", at.node),
                        );
                    }
                    if let Some(connection) = connection {
                        self.send_on_link(connection, 0, Err(request));
                    }
                }
            }
        }
        if let Some(connection) = given_up {
            self.end_link(connection);
        }
    }

    /// The link has given it up itself.
    fn close_leg(&mut self, at: At, region: usize, node: NodeId) {
        let Some(link) = self.process(at).and_then(|process| process.links.get_mut(&region)) else { return };
        link.opening.remove(&node);
        let Some(connection) = link.ways.remove(&LegId::To(node)) else { return };
        self.forget_connection(connection);
    }

    fn forget_connection(&mut self, connection: u64) -> Option<Connection> {
        let it = self.connections.remove(&connection)?;
        if let Some(process) = self.process(it.source) {
            process.sessions.remove(&connection);
        }
        Some(it)
    }

    /// `way` 0: to the source; 1: to the copy.
    pub(super) fn send_on_link(&mut self, connection: u64, way: usize, what: Result<Reply, LinkEffect>) {
        let delay = 100 + self.some(self.swarm.wan);
        let time = self.now + delay;
        let Some(it) = self.connections.get_mut(&connection) else { return };
        let (from, to) = if way == 0 { (it.sink, it.source) } else { (it.source, it.sink) };
        if !self.network.is_open(from.node, to.node) {
            // It goes nowhere, and nobody is told: the watchdog's case.
            self.met.met("link: swallowed");
            return;
        }
        it.arrivals[way] = it.arrivals[way].max(time);
        let time = it.arrivals[way];
        let event = match what {
            Ok(reply) => Event::LinkReply(connection, Box::new(reply)),
            Err(request) => Event::LinkRequest(connection, Box::new(request)),
        };
        self.at(time, event);
    }

    pub(super) fn link_reply(&mut self, connection: u64, reply: Reply) {
        let Some(it) = self.connections.get(&connection) else { return };
        let (at, source, leg) = (it.sink, it.source.node, it.leg);
        let region = Self::region_of(source);
        let link = self.process(at).and_then(|process| process.links.get(&region));
        if link.and_then(|link| link.ways.get(&leg)) != Some(&connection) {
            return;
        }
        let input = match reply {
            Reply::Pong => LinkInput::Pong(Duration::from_millis(1)),
            Reply::Feed(FeedEffect::Push { shard, frames }) => LinkInput::Frames { shard, frames },
            Reply::Feed(FeedEffect::Withdrawn(bytes)) => LinkInput::Withdrawn(bytes),
            Reply::Feed(FeedEffect::Mark(shard, mark)) => LinkInput::Mark(shard, mark),
            Reply::Refused { shard, reason, last, message, holders } => {
                let flipped = self.nodes.get(&source).is_some_and(|node| node.flipped);
                let is_fault = match reason {
                    RefusedReason::ChainDiffers | RefusedReason::OriginShorter => true,
                    RefusedReason::Damaged => !flipped,
                    RefusedReason::Behind | RefusedReason::UnknownShard => false,
                };
                if is_fault {
                    let what = format!(
                        "the source {region} refuses {shard} to node {}: {reason:?}, {message}",
                        at.node
                    );
                    self.judge(Law::NoFault, Err(what));
                }
                let refused = LegsInput::Refused { leg, shard, reason, last, message, holders };
                return self.link(at, region, refused);
            }
            Reply::Feed(_) => return,
        };
        self.link(at, region, LegsInput::Heard(leg, input));
    }

    /// A link's connection ends; the copy's end learns of it and connects anew.
    pub(super) fn end_link(&mut self, connection: u64) {
        let Some(it) = self.forget_connection(connection) else { return };
        let region = Self::region_of(it.source.node);
        if let Some(link) = self.process(it.sink).and_then(|process| process.links.get_mut(&region)) {
            link.ways.remove(&it.leg);
            self.link(it.sink, region, LegsInput::Lost(it.leg));
            if it.leg == LegId::Main {
                let delay = 20_000 + self.some(300_000);
                self.after(delay, Event::LinkConnect(it.sink, region));
            }
        }
    }

    pub(super) fn end_links_of(&mut self, id: NodeId) {
        self.end_links(|a, b| a == id || b == id);
    }

    pub(super) fn end_links_between(&mut self, a: NodeId, b: NodeId) {
        self.end_links(|one, other| (one, other) == (a, b) || (one, other) == (b, a));
    }

    fn end_links(&mut self, which: impl Fn(NodeId, NodeId) -> bool) {
        let ended: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, it)| which(it.sink.node, it.source.node))
            .map(|(connection, _)| *connection)
            .collect();
        for connection in ended {
            self.end_link(connection);
        }
    }

    /// The link that feeds a copy is about to be told how that is.
    pub(super) fn show_soon(&mut self, at: At, shard: ShardId) {
        let Some(host) = self.process(at).and_then(|process| process.hosts.get_mut(&shard)) else { return };
        if host.home == Home::Copy && !host.showing {
            host.showing = true;
            let delay = self.some(3_000);
            self.after(delay, Event::ShowCopy(at, shard));
        }
    }

    pub(super) fn show_copy(&mut self, at: At, shard: ShardId) {
        let Some(node) = self.nodes.get(&at.node) else { return };
        // As `serve.rs::look_for_copies`.
        let others = (0..self.swarm.regions).filter(|region| *region != node.region);
        let carries = |region: usize| {
            let carried = node.catalog.carried_from(region_id(region));
            carried.into_iter().find(|(carried, _)| *carried == shard).map(|(_, is_past)| (region, is_past))
        };
        let links: Vec<(usize, bool)> = others.filter_map(carries).collect();
        let Some(host) = self.process(at).and_then(|process| process.hosts.get_mut(&shard)) else { return };
        host.showing = false;
        let progress =
            Progress::of(&host.replica, host.applied_hlc, host.totals, host.marked, host.fault.clone());
        for (region, is_past) in links {
            if is_past {
                self.met.met("link: carries a past incarnation's shard");
            }
            let state = copy_state(shard, &progress, is_past);
            self.trace.line(
                self.now,
                format_args!(
                    "the link of {} hears that {shard} ends at {}, leads {:?}",
                    at.node, state.appended, state.leads
                ),
            );
            self.link(at, region, LegsInput::Copy(shard, state));
        }
    }
}
