//! The copy's end of links: what `mirror/src/links.rs` does around the real core.

use std::time::Duration;

use meridian_mirror::{LinkConfig, LinkEffect, LinkInput, RefusedReason, copy_state};
use meridian_shard::{Home, Input, Progress};
use meridian_types::{NodeId, Origin, ShardId};

use super::catalog::region_id;
use super::{At, Event, Reply, World, names};
use crate::check::Law;
use crate::node::Session;

/// A connection of a link.
pub struct Connection {
    pub sink: At,
    pub source: At,
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
            self.link(at, region, LinkInput::Tick);
        }
        self.after(100_000, Event::LinkTick(at));
    }

    pub(super) fn link_connect(&mut self, at: At, region: usize) {
        let ids: Vec<NodeId> =
            self.nodes.values().filter(|node| node.region == region).map(|node| node.id).collect();
        let Some(link) = self.process(at).and_then(|process| process.links.get_mut(&region)) else { return };
        if link.connection.is_some() {
            return;
        }
        let Some(source) = ids.get(link.attempts as usize % ids.len().max(1)).copied() else {
            // Nobody is left there; others may come.
            return self.after(200_000, Event::LinkConnect(at, region));
        };
        link.attempts = link.attempts.wrapping_add(1);
        let open = self.network.is_connected(at.node, source);
        let Some(there) = self.here(source).filter(|_| open) else {
            let delay = 50_000 + self.some(400_000);
            return self.after(delay, Event::LinkConnect(at, region));
        };
        let connection = self.number();
        let to_region = Self::region_of(at.node);
        if let Some(link) = self.process(at).and_then(|process| process.links.get_mut(&region)) {
            link.connection = Some((connection, source));
        }
        if let Some(process) = self.process(there) {
            process.sessions.insert(
                connection,
                Session { feed: meridian_mirror::Feed::default(), to: at.node, to_region },
            );
        }
        self.connections.insert(connection, Connection { sink: at, source: there, arrivals: [0, 0] });
        self.met.met("link: connected");
        let delay = 500 + self.some(self.swarm.wan);
        self.after(delay, Event::LinkConnected(connection));
        self.after(delay, Event::SessionTick(connection, 1));
    }

    pub(super) fn link_connected(&mut self, connection: u64) {
        let Some(sink) =
            self.connections.get(&connection).map(|it| (it.sink, Self::region_of(it.source.node)))
        else {
            return;
        };
        self.trace
            .line(self.now, format_args!("a link of {} to region {} is connected", sink.0.node, sink.1));
        self.link(sink.0, sink.1, LinkInput::Connected);
    }

    /// A step of a link's core, and its effects.
    pub(super) fn link(&mut self, at: At, region: usize, input: LinkInput) {
        let now = self.clock(at.node);
        let Some(link) = self.process(at).and_then(|process| process.links.get_mut(&region)) else { return };
        let connection = link.connection.map(|(connection, _)| connection);
        let mut effects = Vec::new();
        let name = names::link_input(&input);
        link.core.step(input, now, &mut effects);
        self.met.met(name);
        for effect in effects {
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
                    if let Some(connection) = connection {
                        self.end_link(connection);
                    }
                    return;
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
        use meridian_mirror::FeedEffect;
        let Some(it) = self.connections.get(&connection) else { return };
        let (at, source) = (it.sink, it.source.node);
        let region = Self::region_of(source);
        let believed =
            self.process(at).and_then(|process| process.links.get(&region)).and_then(|link| link.connection);
        if believed.map(|(number, _)| number) != Some(connection) {
            return;
        }
        let input = match reply {
            Reply::Pong => LinkInput::Pong(Duration::from_millis(1)),
            Reply::Feed(FeedEffect::Push { shard, frames }) => LinkInput::Frames { shard, frames },
            Reply::Feed(FeedEffect::Withdrawn(bytes)) => LinkInput::Withdrawn(bytes),
            Reply::Feed(FeedEffect::Mark(shard, mark)) => LinkInput::Mark(shard, mark),
            Reply::Feed(FeedEffect::Refuse { shard, reason, last, message }) => {
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
                LinkInput::Refused { shard, reason, last, message }
            }
            Reply::Feed(_) => return,
        };
        self.link(at, region, input);
    }

    /// A link's connection ends; the copy's end learns of it and connects anew.
    pub(super) fn end_link(&mut self, connection: u64) {
        let Some(it) = self.connections.remove(&connection) else { return };
        if let Some(process) = self.process(it.source) {
            process.sessions.remove(&connection);
        }
        let region = Self::region_of(it.source.node);
        if let Some(link) = self.process(it.sink).and_then(|process| process.links.get_mut(&region)) {
            link.connection = None;
            self.link(it.sink, region, LinkInput::Disconnected);
            let delay = 20_000 + self.some(300_000);
            self.after(delay, Event::LinkConnect(it.sink, region));
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
            self.link(at, region, LinkInput::Copy(shard, state));
        }
    }
}
