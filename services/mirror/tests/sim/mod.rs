//! A link between two sites in simulated time: everything that can happen to it comes from one seed.
//!
//! The cores are the real ones (`Replica` at both ends, `Feed`, `Legs`). The source's region has one node or some, of which each
//! holds some of the shards: one replica stands for all of a shard's, as if they were never apart. Simulated are what their
//! shells do: channels
//! that keep an order and take their time, a disk that does so too, a network like TCP (in order, cut at any message,
//! what was on its way gone; or silent for ever), processes that end at any moment, clocks that jump.

mod ends;
mod laws;
mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use bytes::Bytes;
use meridian_batch::{BatchBuilder, Codec, Event as BatchEvent};
use meridian_mirror::{
    CopyState, Feed, FeedEffect, FeedInput, LegId, Legs, LegsInput, LinkConfig, LinkEffect, SourceMark,
};
use meridian_shard::{Home, Input, Publish, RequestId};
use meridian_storage::Frame;
use meridian_types::{
    LeaderEpoch, NodeId, Origin, Partition, RegionId, Seq, ShardId, ShardNo, StreamId, TenantId, Timestamp,
};
use rand::rngs::Xoshiro256PlusPlus as Rng;
use rand::{RngExt, SeedableRng};

use laws::Laws;
use site::{Seen, Shard};

pub const SHARDS: usize = 3;
/// For how long faults happen, in milliseconds.
const CHAOS: u64 = 2_500;
/// How long it may then take until all is well.
const HEALING: u64 = 600_000;
/// The clocks' zero, so that they can jump back.
const EPOCH: u64 = 10_000_000;

/// What the seeds have met, so that a test knows that it tested.
#[derive(Debug, Default)]
pub struct Met {
    pub mirrored: u64,
    pub source_crashes: u64,
    pub sink_crashes: u64,
    pub cuts: u64,
    pub silences: u64,
    pub jumps: u64,
    pub lost_reads: u64,
    pub stalls: u64,
    pub behind: u64,
    pub differing: u64,
    pub shorter: u64,
    pub overdrawn: u64,
    pub dropped: u64,
    pub legs: u64,
    pub legs_lost: u64,
    pub moves: u64,
    pub nodes_down: u64,
    pub withdrawn: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Source,
    Sink,
}

/// What goes to the sink.
enum Reply {
    Feed(FeedEffect),
    Pong(Duration),
}

enum Event {
    Publish,
    Flush(Side, usize),
    Checkpoint(Side),
    Start(Side),
    /// On its way to the source.
    Request(u64, LinkEffect),
    /// On its way to the sink.
    Response(u64, Reply),
    /// A disk read of the source.
    Look(u64, FeedEffect),
    Advanced(u64, usize, SourceMark),
    Tell(u64, u64),
    /// The sink's follower of a shard looks at it.
    Show(u64, usize),
    Copy(u64, usize, Box<CopyState>),
    Append(u64, usize, LeaderEpoch, Vec<Frame>),
    Tick(u64),
    Connect(u64),
    /// An attempt at a leg comes to something.
    OpenLeg(u64, NodeId, u64),
    /// The sink hears that a connection is gone.
    Lost(u64),
    Fault,
}

/// The source's end of a connection.
struct Session {
    feed: Feed,
    followed: BTreeSet<usize>,
    given: u64,
    pushed: u64,
}

/// A connection, as the network sees it.
struct Conn {
    leg: LegId,
    node: NodeId,
    open: bool,
    /// It swallows everything.
    swallows: bool,
    session: Option<Session>,
    /// By the sink: what was given and not given back, and what came.
    given: u64,
    received: u64,
}

pub struct World {
    pub seed: u64,
    rng: Rng,
    now: u64,
    skew: [i64; 2],
    events: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    /// When the last message of each channel arrives: they keep their order.
    channels: BTreeMap<(&'static str, u64), u64>,
    source: Vec<Shard>,
    sink: Vec<Shard>,
    source_up: bool,
    sink_up: bool,
    boot: u64,
    /// Counts the sink's processes: what was on its way in one that ended is gone.
    sink_life: u64,
    legs: Legs,
    config: LinkConfig,
    /// The connections that either end believes in.
    conns: BTreeMap<u64, Conn>,
    next_conn: u64,
    /// Those that the sink believes in.
    believes: BTreeMap<LegId, u64>,
    /// Legs that are being opened, and which attempt counts.
    opening: BTreeMap<NodeId, u64>,
    /// The nodes of the source's region, which of them hold each shard, and until when one is out of reach.
    nodes: u32,
    holders: Vec<BTreeSet<NodeId>>,
    down: (NodeId, u64),
    turn: u32,
    showing: Vec<bool>,
    flushing: [Vec<bool>; 2],
    board: BTreeMap<ShardId, Seq>,
    quiet: bool,
    rewritten: Option<usize>,
    batches: Vec<(Bytes, u32)>,
    slow_disk: [u64; 2],
    /// The source's next disk read never answers.
    loses_a_read: bool,
    way: u64,
    laws: Laws,
    trace: DefaultHasher,
    pub met: Met,
}

impl World {
    pub fn new(seed: u64, met: Met) -> Self {
        let mut rng = Rng::seed_from_u64(seed);
        let id = |no| ShardId { origin: Origin::first(RegionId(1)), no: ShardNo(no as u16) };
        let config = LinkConfig {
            credit_bytes: [600, 4_000, 30_000][rng.random_range(0..3)],
            stall_ms: 3_000,
            retry_ms: 200,
            hosting_incarnation: 1,
        };
        let nodes = rng.random_range(1..=3);
        let holders = (0..SHARDS).map(|_| some_nodes(&mut rng, nodes)).collect();
        let batches =
            [(1, 10), (3, 40), (1, 900), (7, 300)].map(|(events, bytes)| (batch(events, bytes), events));
        let mut world = Self {
            seed,
            now: 0,
            skew: [0, 0],
            events: BTreeMap::new(),
            next_event: 0,
            channels: BTreeMap::new(),
            source: (0..SHARDS).map(|no| Shard::new(id(no), Home::Origin)).collect(),
            sink: (0..SHARDS).map(|no| Shard::new(id(no), Home::Copy)).collect(),
            source_up: false,
            sink_up: false,
            boot: 0,
            sink_life: 0,
            legs: Legs::new(config, NodeId(9)),
            config,
            conns: BTreeMap::new(),
            next_conn: 0,
            believes: BTreeMap::new(),
            opening: BTreeMap::new(),
            nodes,
            holders,
            down: (NodeId(0), 0),
            turn: 0,
            showing: vec![false; SHARDS],
            flushing: [vec![false; SHARDS], vec![false; SHARDS]],
            board: BTreeMap::new(),
            quiet: false,
            rewritten: None,
            batches: batches.into(),
            slow_disk: [0, 0],
            loses_a_read: false,
            way: [1, 10, 60][rng.random_range(0..3)],
            laws: Laws::new(seed),
            trace: DefaultHasher::new(),
            met,
            rng,
        };
        world.start(Side::Source);
        world.start(Side::Sink);
        world.after(0, Event::Publish);
        world.after(100, Event::Fault);
        world.after(50, Event::Checkpoint(Side::Source));
        world.after(50, Event::Checkpoint(Side::Sink));
        world
    }

    /// Runs a world in which the faults end, and everything then gets well. Returns its trace.
    pub fn heal(mut self) -> (u64, Met) {
        self.chaos();
        self.calm();
        self.until_well();
        (self.trace.finish(), self.met)
    }

    /// Runs a world in which the source comes back with another history of one shard.
    pub fn rewrite(mut self) -> (u64, Met) {
        self.chaos();
        // Something must be there to differ from.
        while self.sink.iter().all(|shard| shard.durable.is_empty()) {
            self.next();
        }
        let no = self.rng.random_range(0..SHARDS);
        let no = if self.sink[no].durable.is_empty() {
            self.sink.iter().position(|shard| !shard.durable.is_empty()).unwrap_or(no)
        } else {
            no
        };
        self.crash(Side::Source);
        let keep = self.rng.random_range(0..self.sink[no].durable.len());
        let promises_too = self.rng.random_bool(0.5);
        self.source[no].rewind(keep, promises_too);
        self.rewritten = Some(no);
        self.laws.freeze(no);
        // Some more of the new history, so that it is now shorter, now longer than the copy.
        for _ in 0..self.rng.random_range(0..200) {
            self.next();
        }
        self.calm();
        self.until_well();
        let status = self.legs.status(self.time(Side::Sink));
        let fault = status.faults.iter().find(|fault| fault.shard == self.sink[no].id);
        match fault.map(|fault| fault.reason) {
            Some("CHAIN_DIFFERS") => self.met.differing += 1,
            Some("ORIGIN_SHORTER") => self.met.shorter += 1,
            other => panic!("seed {}: the link should be faulted, and is {other:?}", self.seed),
        }
        assert_eq!(status.faults.len(), 1, "seed {}: {:?}", self.seed, status.faults);
        (self.trace.finish(), self.met)
    }

    fn chaos(&mut self) {
        while self.now < CHAOS {
            self.next();
        }
    }

    /// No more faults; what is down comes back.
    fn calm(&mut self) {
        self.quiet = true;
        self.slow_disk = [0, 0];
    }

    fn until_well(&mut self) {
        let deadline = self.now + HEALING;
        while !self.is_well() {
            assert!(self.now < deadline, "seed {}: it does not get well: {}", self.seed, self.describe());
            self.next();
        }
        for no in (0..SHARDS).filter(|no| Some(*no) != self.rewritten) {
            self.laws.caught_up(no, &self.sink[no]);
            self.met.mirrored += self.sink[no].durable.len() as u64;
        }
        let status = self.legs.status(self.time(Side::Sink));
        if self.rewritten.is_none() {
            assert_eq!((status.events, status.bytes), (0, 0), "seed {}", self.seed);
            assert!(status.faults.is_empty(), "seed {}: {:?}", self.seed, status.faults);
        }
        self.met.stalls += status.stalls;
    }

    /// Caught up, everything durable, told so, and all credit given back.
    fn is_well(&self) -> bool {
        let believed = || self.believes.values().filter_map(|conn| self.conns.get(conn)?.session.as_ref());
        if believed().count() != self.believes.len() || !self.believes.contains_key(&LegId::Main) {
            return false;
        }
        let caught_up = (0..SHARDS).filter(|no| Some(*no) != self.rewritten).all(|no| {
            let (source, sink) = (&self.source[no], &self.sink[no]);
            let end = source.appended();
            source.is_ready()
                && source.applied() == end
                && sink.applied() == end
                && self.board.get(&sink.id) == Some(&Seq(end))
        });
        let faulted = self.rewritten.is_none_or(|no| {
            let status = self.legs.status(self.time(Side::Sink));
            self.source[no].is_ready() && status.faults.iter().any(|fault| fault.shard == self.sink[no].id)
        });
        let out: i64 = believed().map(|session| session.given as i64 - session.pushed as i64).sum();
        caught_up && faulted && self.opening.is_empty() && out == self.config.credit_bytes as i64
    }

    fn describe(&self) -> String {
        let logs: Vec<String> = (0..SHARDS)
            .map(|no| {
                let (source, sink) = (&self.source[no], &self.sink[no]);
                format!("{}/{} → {}/{}", source.applied(), source.appended(), sink.applied(), sink.appended())
            })
            .collect();
        let session = |conn: &Conn| conn.session.as_ref().map(|session| (session.given, session.pushed));
        let credit: Vec<_> = self.conns.values().map(|conn| (conn.leg, conn.node, session(conn))).collect();
        format!(
            "applied/appended {logs:?}, given and pushed {credit:?} of {}, board {:?}, holders {:?}, link {:?}",
            self.config.credit_bytes, self.board, self.holders, self.legs
        )
    }

    /// The time at a site.
    fn time(&self, side: Side) -> Timestamp {
        Timestamp((EPOCH + self.now).saturating_add_signed(self.skew[side as usize]))
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.events.insert((self.now + delay, self.next_event), event);
        self.next_event += 1;
    }

    /// After what was sent on the same channel before.
    fn in_order(&mut self, channel: (&'static str, u64), delay: u64, event: Event) {
        let at = (self.now + delay).max(self.channels.get(&channel).copied().unwrap_or(0));
        self.channels.insert(channel, at);
        self.events.insert((at, self.next_event), event);
        self.next_event += 1;
    }

    fn some(&mut self, most: u64) -> u64 {
        self.rng.random_range(0..=most)
    }

    fn next(&mut self) {
        let ((at, number), event) = self.events.pop_first().expect("there is always a publish or a tick");
        self.now = at;
        (at, number, std::mem::discriminant(&event)).hash(&mut self.trace);
        match event {
            Event::Publish => self.publish(),
            Event::Flush(side, no) => self.flush(side, no),
            Event::Checkpoint(side) => {
                let no = self.rng.random_range(0..SHARDS);
                self.shards(side)[no].checkpoint();
                let delay = self.some(300);
                self.after(delay, Event::Checkpoint(side));
            }
            Event::Start(side) if !self.is_up(side) => self.start(side),
            Event::Request(conn, request) => self.request(conn, request),
            Event::Response(conn, response) => self.response(conn, response),
            Event::Look(conn, effect) => self.look(conn, effect),
            Event::Advanced(conn, no, mark) => {
                let shard = self.source[no].id;
                self.feed(conn, FeedInput::Advanced(shard, mark));
            }
            Event::OpenLeg(life, node, attempt) if life == self.sink_life => self.open_leg(node, attempt),
            Event::Tell(conn, count) => {
                if self.has_session(conn) {
                    self.end_what_has_left(conn);
                    self.feed(conn, FeedInput::TellMarks { all: count.is_multiple_of(10) });
                    self.after(100, Event::Tell(conn, count + 1));
                }
            }
            Event::Show(life, no) if life == self.sink_life => {
                self.showing[no] = false;
                if let Some(state) = self.sink[no].copy_state() {
                    let delay = self.some(8);
                    self.in_order(("copies", life), delay, Event::Copy(life, no, Box::new(state)));
                }
            }
            Event::Copy(life, no, state) if life == self.sink_life => {
                let shard = self.sink[no].id;
                (shard.no.0, state.appended.0, state.durable.0).hash(&mut self.trace);
                self.link(LegsInput::Copy(shard, *state));
            }
            Event::Append(life, no, epoch, frames) if life == self.sink_life => {
                for frame in frames {
                    self.on_shard(Side::Sink, no, Input::Copy { epoch, frame });
                }
            }
            Event::Tick(life) if life == self.sink_life => {
                self.link(LegsInput::Tick);
                self.after(100, Event::Tick(life));
            }
            Event::Connect(life) if life == self.sink_life => self.connect(),
            Event::Lost(conn) => self.lost(conn),
            Event::Fault => self.fault(),
            _ => self.met.dropped += 1,
        }
        self.check();
    }

    fn check(&mut self) {
        for no in 0..SHARDS {
            self.laws.follow(no, &self.source[no]);
        }
        if !self.believes.is_empty() && self.rewritten.is_none() {
            let believed = self.believes.values().filter_map(|conn| self.conns.get(conn));
            let may_come: Vec<i64> = believed.map(|conn| conn.given as i64 - conn.received as i64).collect();
            // The main one, and one to each node: the main one's node may have had a leg before.
            let most_legs = 1 + u64::from(self.nodes);
            self.laws.credit(self.config.credit_bytes, &may_come, most_legs, &self.sink);
        }
    }

    fn is_up(&self, side: Side) -> bool {
        match side {
            Side::Source => self.source_up,
            Side::Sink => self.sink_up,
        }
    }

    fn shards(&mut self, side: Side) -> &mut Vec<Shard> {
        match side {
            Side::Source => &mut self.source,
            Side::Sink => &mut self.sink,
        }
    }

    // ---- the sites

    fn start(&mut self, side: Side) {
        self.boot += 1;
        let boot = self.boot;
        let now = self.time(side).0;
        for no in 0..SHARDS {
            let mut seen = Vec::new();
            self.shards(side)[no].start(boot, now, &mut seen);
            self.saw(side, no, seen);
        }
        match side {
            Side::Source => self.source_up = true,
            Side::Sink => {
                self.sink_up = true;
                self.legs = Legs::new(self.config, NodeId(9));
                let life = self.sink_life;
                self.after(0, Event::Tick(life));
                let delay = self.some(100);
                self.after(delay, Event::Connect(life));
            }
        }
    }

    fn crash(&mut self, side: Side) {
        for no in 0..SHARDS {
            let queued = self.shards(side)[no].queued() as u64;
            let keep = self.some(queued) as usize;
            self.shards(side)[no].crash(keep);
            self.flushing[side as usize][no] = false;
        }
        match side {
            Side::Source => {
                self.source_up = false;
                self.board.clear();
                for conn in self.conns.keys().copied().collect::<Vec<_>>() {
                    self.end_connection(conn);
                }
            }
            Side::Sink => {
                self.sink_up = false;
                self.sink_life += 1;
                self.believes.clear();
                self.opening.clear();
                self.showing = vec![false; SHARDS];
                self.laws.hand_over_nothing();
                self.met.stalls += self.legs.status(self.time(Side::Sink)).stalls;
                self.conns.clear();
            }
        }
        let delay = self.some(400);
        self.after(delay, Event::Start(side));
    }

    fn on_shard(&mut self, side: Side, no: usize, input: Input) {
        let now = self.time(side).0;
        let mut seen = Vec::new();
        self.shards(side)[no].step(input, now, &mut seen);
        self.saw(side, no, seen);
    }

    /// What follows from a step of a replica.
    fn saw(&mut self, side: Side, no: usize, seen: Vec<Seen>) {
        for one in seen {
            match (side, one) {
                (Side::Sink, Seen::Appended(frame)) => self.laws.copied(no, &frame),
                (Side::Source, Seen::Acked(ack)) => self.laws.acked(no, ack, &self.source[no]),
                (Side::Sink, Seen::Acked(_)) => panic!("seed {}: a copy acknowledges nothing", self.seed),
                (Side::Source, Seen::Appended(_)) => {}
            }
        }
        if self.shards(side)[no].queued() > 0 && !self.flushing[side as usize][no] {
            self.flushing[side as usize][no] = true;
            let slow = self.slow_disk[side as usize];
            let delay = 1 + self.some(10) + slow;
            self.after(delay, Event::Flush(side, no));
        }
        match side {
            Side::Source => self.advanced(no),
            Side::Sink if !self.showing[no] => {
                self.showing[no] = true;
                let delay = self.some(5);
                let life = self.sink_life;
                self.after(delay, Event::Show(life, no));
            }
            Side::Sink => {}
        }
    }

    /// A round is synced: some of what was queued.
    fn flush(&mut self, side: Side, no: usize) {
        if !self.flushing[side as usize][no] {
            return;
        }
        self.flushing[side as usize][no] = false;
        let queued = self.shards(side)[no].queued() as u64;
        let count = 1 + self.some(queued);
        let now = self.time(side).0;
        let mut seen = Vec::new();
        for _ in 0..count {
            if !self.shards(side)[no].flush_one(now, &mut seen) {
                break;
            }
        }
        self.saw(side, no, seen);
    }

    fn publish(&mut self) {
        for _ in 0..=self.some(3) {
            let no = self.rng.random_range(0..SHARDS);
            let (batch, events) = self.batches[self.rng.random_range(0..self.batches.len())].clone();
            let publish = Publish {
                request: RequestId(self.next_event),
                tenant: TenantId(1),
                stream: StreamId(1),
                partition: Partition(no as u32),
                batch,
                events,
                producer: None,
            };
            let now = self.time(Side::Source).0;
            let mut seen = Vec::new();
            self.source[no].publish(publish, now, &mut seen);
            self.saw(Side::Source, no, seen);
        }
        if !self.quiet {
            let delay = self.some(60);
            self.after(delay, Event::Publish);
        }
    }

    // ---- the faults

    fn fault(&mut self) {
        if self.quiet {
            return;
        }
        let conn = self.some_connection();
        match self.rng.random_range(0..15) {
            0 | 1 if self.source_up => {
                self.met.source_crashes += 1;
                self.crash(Side::Source);
            }
            2 | 3 if self.sink_up => {
                self.met.sink_crashes += 1;
                self.crash(Side::Sink);
            }
            4..=6 if conn.is_some() => {
                self.met.cuts += 1;
                self.end_connection(conn.unwrap_or_default());
            }
            7 if conn.is_some() => {
                self.met.silences += 1;
                if let Some(conn) = conn.and_then(|conn| self.conns.get_mut(&conn)) {
                    conn.swallows = true;
                }
            }
            8 => {
                let side = self.rng.random_range(0..2);
                self.slow_disk[side] = [0, 200, 5_000][self.rng.random_range(0..3)];
            }
            9 => {
                self.met.jumps += 1;
                let side = self.rng.random_range(0..2);
                self.skew[side] = self.rng.random_range(-600_000..600_000);
            }
            10 => self.loses_a_read = true,
            11 | 12 if self.nodes > 1 => {
                self.met.moves += 1;
                let no = self.rng.random_range(0..SHARDS);
                self.holders[no] = some_nodes(&mut self.rng, self.nodes);
            }
            13 => {
                self.met.nodes_down += 1;
                let node = NodeId(self.rng.random_range(1..=self.nodes));
                self.down = (node, self.now + self.some(600));
                let of_node = self.conns.iter().filter(|(_, conn)| conn.node == node);
                for conn in of_node.map(|(id, _)| *id).collect::<Vec<_>>() {
                    self.end_connection(conn);
                }
            }
            _ => {}
        }
        let delay = 20 + self.some(400);
        self.after(delay, Event::Fault);
    }

    fn some_connection(&mut self) -> Option<u64> {
        let open: Vec<u64> = self.conns.iter().filter(|(_, conn)| conn.open).map(|(id, _)| *id).collect();
        let one = self.rng.random_range(0..open.len().max(1));
        open.get(one).copied()
    }
}

/// Some of the nodes, one at least.
fn some_nodes(rng: &mut Rng, nodes: u32) -> BTreeSet<NodeId> {
    let mut some: BTreeSet<NodeId> = (1..=nodes).map(NodeId).filter(|_| rng.random_bool(0.4)).collect();
    some.insert(NodeId(rng.random_range(1..=nodes)));
    some
}

fn bytes_of(frames: &[Frame]) -> u64 {
    frames.iter().map(|frame| frame.encoded_len() as u64).sum()
}

fn batch(events: u32, bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    for i in 0..events {
        let value = Some(Bytes::from(vec![i as u8; bytes]));
        builder.push(&BatchEvent { value, ..BatchEvent::default() }).expect("a small event");
    }
    builder.build().expect("a small batch")
}
