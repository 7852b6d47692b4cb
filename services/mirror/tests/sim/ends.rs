//! Both ends of a link's connections, and the network between them: what the shells of `Legs` and `Feed` do.

use std::collections::BTreeSet;
use std::time::Duration;

use meridian_mirror::{
    Feed, FeedEffect, FeedInput, LegId, LegsEffect, LegsInput, LinkEffect, LinkInput, RefusedReason,
};
use meridian_types::NodeId;
use rand::RngExt;

use super::laws::FRAME_MAX;
use super::{Conn, Event, Reply, SHARDS, Session, Side, World, bytes_of};

/// Read and pushed at a time.
const CHUNK: u64 = 2_000;

impl World {
    // ---- the network

    pub(super) fn connect(&mut self) {
        let life = self.sink_life;
        self.turn += 1;
        let node = NodeId(1 + self.turn % self.nodes);
        if !self.reach(node) {
            let delay = 50 + self.some(300);
            return self.after(delay, Event::Connect(life));
        }
        self.connected(LegId::Main, node);
    }

    pub(super) fn reach(&self, node: NodeId) -> bool {
        self.source_up && !(self.down.0 == node && self.now < self.down.1)
    }

    pub(super) fn connected(&mut self, leg: LegId, node: NodeId) {
        self.next_conn += 1;
        let id = self.next_conn;
        let session =
            Session { feed: Feed::of(CHUNK, FRAME_MAX), followed: BTreeSet::new(), given: 0, pushed: 0 };
        let (open, swallows, session) = (true, false, Some(session));
        self.conns.insert(id, Conn { leg, node, open, swallows, session, given: 0, received: 0 });
        self.believes.insert(leg, id);
        self.after(100, Event::Tell(id, 1));
        self.link(LegsInput::Connected(leg));
    }

    pub(super) fn open_leg(&mut self, node: NodeId, attempt: u64) {
        if self.opening.get(&node) != Some(&attempt) {
            return;
        }
        self.opening.remove(&node);
        if self.reach(node) {
            self.met.legs += 1;
            self.connected(LegId::To(node), node);
        } else {
            self.link(LegsInput::Lost(LegId::To(node)));
        }
    }

    /// The connection is gone. The sink hears of it soon; or never, if the network swallows that too.
    pub(super) fn end_connection(&mut self, id: u64) {
        let told = self.rng.random_bool(0.7);
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let told = told && conn.open && !conn.swallows;
        conn.open = false;
        conn.session = None;
        if told {
            let delay = self.some(80);
            self.after(delay, Event::Lost(id));
        }
    }

    pub(super) fn lost(&mut self, id: u64) {
        let Some(conn) = self.conns.remove(&id) else { return };
        self.believes.remove(&conn.leg);
        self.met.legs_lost += u64::from(conn.leg != LegId::Main);
        if conn.leg == LegId::Main {
            let (delay, life) = (50 + self.some(200), self.sink_life);
            self.after(delay, Event::Connect(life));
        }
        self.link(LegsInput::Lost(conn.leg));
    }

    pub(super) fn reaches(&self, conn: u64) -> bool {
        self.conns.get(&conn).is_some_and(|conn| conn.open && !conn.swallows)
    }

    pub(super) fn has_session(&self, conn: u64) -> bool {
        self.conns.get(&conn).is_some_and(|conn| conn.session.is_some())
    }

    pub(super) fn session(&mut self, conn: u64) -> Option<&mut Session> {
        self.conns.get_mut(&conn).and_then(|conn| conn.session.as_mut())
    }

    pub(super) fn link(&mut self, input: LegsInput) {
        let mut effects = Vec::new();
        self.legs.step(input, self.time(Side::Sink), &mut effects);
        let mut given_up = None;
        for effect in effects {
            match effect {
                LegsEffect::On(_, LinkEffect::Append(shard, epoch, frames)) => {
                    let no = usize::from(shard.no.0);
                    self.laws.handed(no, &frames);
                    let (delay, life) = (self.some(8), self.sink_life);
                    self.in_order(("inbox", no as u64), delay, Event::Append(life, no, epoch, frames));
                }
                LegsEffect::On(leg, LinkEffect::Reconnect) => given_up = self.believes.get(&leg).copied(),
                LegsEffect::On(leg, request) => {
                    let Some(id) = self.believes.get(&leg).copied() else {
                        panic!("seed {}: {request:?} without a connection", self.seed)
                    };
                    if let (LinkEffect::Credit(bytes), Some(conn)) = (&request, self.conns.get_mut(&id)) {
                        conn.given += bytes;
                    }
                    let delay = self.way / 2 + self.some(self.way);
                    self.in_order(("to source", id), delay, Event::Request(id, request));
                }
                LegsEffect::Open(node, within) => {
                    self.next_conn += 1;
                    self.opening.insert(node, self.next_conn);
                    let delay = self.some(within.as_millis() as u64) + self.some(100);
                    self.after(delay, Event::OpenLeg(self.sink_life, node, self.next_conn));
                }
                LegsEffect::Close(node) => {
                    self.opening.remove(&node);
                    if let Some(id) = self.believes.remove(&LegId::To(node)) {
                        self.conns.remove(&id);
                    }
                }
            }
        }
        if let Some(id) = given_up {
            self.lost(id);
        }
    }

    // ---- the source's end

    pub(super) fn request(&mut self, conn: u64, request: LinkEffect) {
        if !self.reaches(conn) {
            return;
        }
        match request {
            LinkEffect::Fetch { shard, from, chain_before } => {
                let no = usize::from(shard.no.0);
                let holds = self.conns.get(&conn).is_some_and(|conn| self.holders[no].contains(&conn.node));
                let mark = holds.then(|| self.source[no].source_mark());
                if let Some(session) = self.session(conn).filter(|_| holds) {
                    session.followed.insert(no);
                }
                self.feed(conn, FeedInput::Fetch { shard, from, through: None, chain_before, mark });
                self.advanced(no);
            }
            LinkEffect::Credit(bytes) => {
                if let Some(session) = self.session(conn) {
                    session.given += bytes;
                }
                self.feed(conn, FeedInput::Credit(bytes));
            }
            LinkEffect::Withdraw(bytes) => self.feed(conn, FeedInput::Withdraw(bytes)),
            LinkEffect::Durable(shard, mark) => {
                let copy = &self.sink[usize::from(shard.no.0)];
                assert!(
                    mark.seq.0 <= copy.durable.len() as u64,
                    "seed {}: told durable too early",
                    self.seed
                );
                self.board.insert(shard, mark.seq);
            }
            LinkEffect::Ping => {
                let delay = self.way / 2 + self.some(self.way);
                let took = Duration::from_millis(delay);
                self.in_order(("to sink", conn), delay, Event::Response(conn, Reply::Pong(took)));
            }
            LinkEffect::Stop(shard) => self.feed(conn, FeedInput::Stop(shard)),
            LinkEffect::Append(..) | LinkEffect::Reconnect => {}
        }
    }

    /// The follower of a shard looks at it, and says so some time later.
    pub(super) fn advanced(&mut self, no: usize) {
        let follows =
            |conn: &Conn| conn.session.as_ref().is_some_and(|session| session.followed.contains(&no));
        let conns: Vec<u64> =
            self.conns.iter().filter(|(_, conn)| follows(conn)).map(|(id, _)| *id).collect();
        for conn in conns {
            let mark = self.source[no].source_mark();
            let delay = self.some(5);
            self.in_order(("followers", conn << 8 | no as u64), delay, Event::Advanced(conn, no, mark));
        }
    }

    /// A replica has left the node after it was asked for.
    pub(super) fn end_what_has_left(&mut self, conn: u64) {
        let Some(node) = self.conns.get(&conn).map(|conn| conn.node) else { return };
        for no in 0..SHARDS {
            if self.holders[no].contains(&node) {
                continue;
            }
            let Some(session) = self.session(conn) else { return };
            if session.followed.remove(&no) {
                let shard = self.source[no].id;
                self.feed(conn, FeedInput::Left(shard));
            }
        }
    }

    pub(super) fn feed(&mut self, conn: u64, input: FeedInput) {
        if !self.has_session(conn) {
            return;
        }
        let Some(session) = self.session(conn) else { return };
        let mut effects = Vec::new();
        session.feed.step(input, &mut effects);
        for effect in effects {
            match effect {
                FeedEffect::LookUp { .. } | FeedEffect::Read { .. } => {
                    let delay = if self.rng.random_bool(0.5) { 0 } else { self.some(15) };
                    self.after(delay, Event::Look(conn, effect));
                }
                effect => {
                    match &effect {
                        FeedEffect::Push { shard, frames } => {
                            let seed = self.seed;
                            let Some(session) = self.session(conn) else { return };
                            assert!(session.given > session.pushed, "seed {seed}: pushed without credit");
                            session.pushed += bytes_of(frames);
                            let overdrawn = session.pushed > session.given;
                            self.met.overdrawn += u64::from(overdrawn);
                            self.laws.pushed(usize::from(shard.no.0), frames);
                        }
                        FeedEffect::Withdrawn(bytes) => {
                            let Some(session) = self.session(conn) else { return };
                            session.given -= bytes;
                            self.met.withdrawn += u64::from(*bytes > 0);
                        }
                        _ => {}
                    }
                    let delay = self.way / 2 + self.some(self.way);
                    self.in_order(("to sink", conn), delay, Event::Response(conn, Reply::Feed(effect)));
                }
            }
        }
    }

    pub(super) fn look(&mut self, conn: u64, effect: FeedEffect) {
        if std::mem::take(&mut self.loses_a_read) {
            self.met.lost_reads += 1;
            return;
        }
        let input = match effect {
            FeedEffect::LookUp { shard, turn, seq } => {
                let chain = Ok(self.source[usize::from(shard.no.0)].chain_at(seq));
                FeedInput::LookedUp { shard, turn, chain }
            }
            FeedEffect::Read { shard, turn, from, max_bytes } => {
                let frames = Ok(self.source[usize::from(shard.no.0)].read(from, max_bytes));
                FeedInput::Read { shard, turn, frames }
            }
            _ => return,
        };
        self.feed(conn, input);
    }

    // ---- the sink's end

    pub(super) fn response(&mut self, id: u64, reply: Reply) {
        if !self.reaches(id) {
            return;
        }
        let Some((leg, node)) = self.conns.get(&id).map(|conn| (conn.leg, conn.node)) else { return };
        let effect = match reply {
            Reply::Pong(took) => return self.link(LegsInput::Heard(leg, LinkInput::Pong(took))),
            Reply::Feed(effect) => effect,
        };
        let input = match effect {
            FeedEffect::Mark(shard, mark) => LinkInput::Mark(shard, mark),
            FeedEffect::Push { shard, frames } => {
                if let Some(conn) = self.conns.get_mut(&id) {
                    conn.received += bytes_of(&frames);
                }
                LinkInput::Frames { shard, frames }
            }
            FeedEffect::Withdrawn(bytes) => {
                if let Some(conn) = self.conns.get_mut(&id) {
                    conn.given -= bytes;
                }
                LinkInput::Withdrawn(bytes)
            }
            FeedEffect::Refuse { shard, reason, last, message } => {
                self.met.behind += u64::from(reason == RefusedReason::Behind);
                let holders = &self.holders[usize::from(shard.no.0)];
                let holders = holders.iter().copied().filter(|holder| *holder != node).collect();
                return self.link(LegsInput::Refused { leg, shard, reason, last, message, holders });
            }
            FeedEffect::LookUp { .. } | FeedEffect::Read { .. } => return,
        };
        self.link(LegsInput::Heard(leg, input));
    }
}
