//! A link between two sites in simulated time: everything that can happen to it comes from one seed.
//!
//! The cores are the real ones (`Replica` at both ends, `Feed`, `LinkCore`). Simulated are what their shells do: channels
//! that keep an order and take their time, a disk that does so too, a network like TCP (in order, cut at any message,
//! what was on its way gone; or silent for ever), processes that end at any moment, clocks that jump.

mod laws;
mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use bytes::Bytes;
use meridian_batch::{BatchBuilder, Codec, Event as BatchEvent};
use meridian_mirror::{
    CopyState, Feed, FeedEffect, FeedInput, LinkConfig, LinkCore, LinkEffect, LinkInput, SourceMark,
};
use meridian_shard::{Home, Input, Publish, RequestId};
use meridian_storage::Frame;
use meridian_types::{Origin, Partition, RegionId, Seq, ShardId, ShardNo, StreamId, TenantId, Timestamp};
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
    Append(u64, usize, Vec<Frame>),
    Tick(u64),
    Connect(u64),
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
    link: LinkCore,
    config: LinkConfig,
    /// The connection that stands, as the network sees it, and whether it swallows everything.
    conn: u64,
    open: bool,
    swallows: bool,
    session: Option<Session>,
    /// The connection that the sink believes in.
    believes: Option<u64>,
    given: u64,
    received: u64,
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
            link: LinkCore::new(config),
            config,
            conn: 0,
            open: false,
            swallows: false,
            session: None,
            believes: None,
            given: 0,
            received: 0,
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
        let status = self.link.status(self.time(Side::Sink));
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
        let status = self.link.status(self.time(Side::Sink));
        if self.rewritten.is_none() {
            assert_eq!((status.events, status.bytes), (0, 0), "seed {}", self.seed);
            assert!(status.faults.is_empty(), "seed {}: {:?}", self.seed, status.faults);
        }
        self.met.stalls += status.stalls;
    }

    /// Caught up, everything durable, told so, and all credit given back.
    fn is_well(&self) -> bool {
        let Some(session) = &self.session else { return false };
        let caught_up = (0..SHARDS).filter(|no| Some(*no) != self.rewritten).all(|no| {
            let (source, sink) = (&self.source[no], &self.sink[no]);
            let end = source.appended();
            source.is_ready()
                && source.applied() == end
                && sink.applied() == end
                && self.board.get(&sink.id) == Some(&Seq(end))
        });
        let faulted = self.rewritten.is_none_or(|no| {
            let status = self.link.status(self.time(Side::Sink));
            self.source[no].is_ready() && status.faults.iter().any(|fault| fault.shard == self.sink[no].id)
        });
        caught_up && faulted && session.given == session.pushed + self.config.credit_bytes
    }

    fn describe(&self) -> String {
        let logs: Vec<String> = (0..SHARDS)
            .map(|no| {
                let (source, sink) = (&self.source[no], &self.sink[no]);
                format!("{}/{} → {}/{}", source.applied(), source.appended(), sink.applied(), sink.appended())
            })
            .collect();
        let credit = self.session.as_ref().map(|session| (session.given, session.pushed));
        format!(
            "applied/appended {logs:?}, given and pushed {credit:?} of {}, board {:?}, link {:?}",
            self.config.credit_bytes, self.board, self.link
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
            Event::Tell(conn, count) => {
                if self.has_session(conn) {
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
                self.link(LinkInput::Copy(shard, *state));
            }
            Event::Append(life, no, frames) if life == self.sink_life => {
                for frame in frames {
                    self.on_shard(Side::Sink, no, Input::Copy(frame));
                }
            }
            Event::Tick(life) if life == self.sink_life => {
                self.link(LinkInput::Tick);
                self.after(100, Event::Tick(life));
            }
            Event::Connect(life) if life == self.sink_life => self.connect(),
            Event::Lost(conn) if self.believes == Some(conn) => self.lost(),
            Event::Fault => self.fault(),
            _ => self.met.dropped += 1,
        }
        self.check();
    }

    fn check(&mut self) {
        for no in 0..SHARDS {
            self.laws.follow(no, &self.source[no]);
        }
        if self.believes.is_some() && self.rewritten.is_none() {
            self.laws.credit(self.config.credit_bytes, self.given, self.received, &self.sink);
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
                self.link = LinkCore::new(self.config);
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
                self.session = None;
                self.board.clear();
                self.end_connection();
            }
            Side::Sink => {
                self.sink_up = false;
                self.sink_life += 1;
                self.believes = None;
                self.showing = vec![false; SHARDS];
                self.laws.hand_over_nothing();
                self.met.stalls += self.link.status(self.time(Side::Sink)).stalls;
                // The source's session ends when its machine says so, or when the next one comes.
                self.open = false;
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

    // ---- the network

    fn connect(&mut self) {
        let life = self.sink_life;
        if !self.source_up {
            let delay = 50 + self.some(300);
            return self.after(delay, Event::Connect(life));
        }
        self.conn += 1;
        self.open = true;
        self.swallows = false;
        self.believes = Some(self.conn);
        self.session =
            Some(Session { feed: Feed::default(), followed: BTreeSet::new(), given: 0, pushed: 0 });
        self.given = 0;
        self.received = 0;
        self.after(100, Event::Tell(self.conn, 1));
        self.link(LinkInput::Connected);
    }

    /// The connection is gone. The sink hears of it soon; or never, if the network swallows that too.
    fn end_connection(&mut self) {
        if self.open && !self.swallows && self.rng.random_bool(0.7) {
            let delay = self.some(80);
            self.after(delay, Event::Lost(self.conn));
        }
        self.open = false;
    }

    fn lost(&mut self) {
        self.believes = None;
        self.session = None;
        self.open = false;
        self.link(LinkInput::Disconnected);
        let (delay, life) = (50 + self.some(200), self.sink_life);
        self.after(delay, Event::Connect(life));
    }

    fn reaches(&self, conn: u64) -> bool {
        conn == self.conn && self.open && !self.swallows
    }

    fn has_session(&self, conn: u64) -> bool {
        conn == self.conn && self.session.is_some()
    }

    fn link(&mut self, input: LinkInput) {
        let mut effects = Vec::new();
        self.link.step(input, self.time(Side::Sink), &mut effects);
        for effect in effects {
            match effect {
                LinkEffect::Append(shard, frames) => {
                    let no = usize::from(shard.no.0);
                    self.laws.handed(no, &frames);
                    let (delay, life) = (self.some(8), self.sink_life);
                    self.in_order(("inbox", no as u64), delay, Event::Append(life, no, frames));
                }
                LinkEffect::Reconnect => {
                    self.lost();
                    return;
                }
                request => {
                    let Some(conn) = self.believes else {
                        panic!("seed {}: {request:?} without a connection", self.seed)
                    };
                    if let LinkEffect::Credit(bytes) = request {
                        self.given += bytes;
                    }
                    let delay = self.way / 2 + self.some(self.way);
                    self.in_order(("to source", conn), delay, Event::Request(conn, request));
                }
            }
        }
    }

    // ---- the source's end

    fn request(&mut self, conn: u64, request: LinkEffect) {
        if !self.reaches(conn) {
            return;
        }
        match request {
            LinkEffect::Fetch { shard, from, chain_before } => {
                let no = usize::from(shard.no.0);
                let mark = Some(self.source[no].source_mark());
                if let Some(session) = &mut self.session {
                    session.followed.insert(no);
                }
                self.feed(conn, FeedInput::Fetch { shard, from, chain_before, mark });
                self.advanced(no);
            }
            LinkEffect::Credit(bytes) => {
                if let Some(session) = &mut self.session {
                    session.given += bytes;
                }
                self.feed(conn, FeedInput::Credit(bytes));
            }
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
    fn advanced(&mut self, no: usize) {
        let conn = self.conn;
        if self.session.as_ref().is_some_and(|session| session.followed.contains(&no)) {
            let mark = self.source[no].source_mark();
            let delay = self.some(5);
            self.in_order(("followers", no as u64), delay, Event::Advanced(conn, no, mark));
        }
    }

    fn feed(&mut self, conn: u64, input: FeedInput) {
        if !self.has_session(conn) {
            return;
        }
        let Some(session) = &mut self.session else { return };
        let mut effects = Vec::new();
        session.feed.step(input, &mut effects);
        for effect in effects {
            match effect {
                FeedEffect::LookUp { .. } | FeedEffect::Read { .. } => {
                    let delay = if self.rng.random_bool(0.5) { 0 } else { self.some(15) };
                    self.after(delay, Event::Look(conn, effect));
                }
                effect => {
                    if let (FeedEffect::Push { shard, frames }, Some(session)) = (&effect, &mut self.session)
                    {
                        assert!(session.given > session.pushed, "seed {}: pushed without credit", self.seed);
                        session.pushed += bytes_of(frames);
                        self.met.overdrawn += u64::from(session.pushed > session.given);
                        self.laws.pushed(usize::from(shard.no.0), frames);
                    }
                    let delay = self.way / 2 + self.some(self.way);
                    self.in_order(("to sink", conn), delay, Event::Response(conn, Reply::Feed(effect)));
                }
            }
        }
    }

    fn look(&mut self, conn: u64, effect: FeedEffect) {
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

    fn response(&mut self, conn: u64, reply: Reply) {
        if !self.reaches(conn) || self.believes != Some(conn) {
            return;
        }
        let effect = match reply {
            Reply::Pong(took) => return self.link(LinkInput::Pong(took)),
            Reply::Feed(effect) => effect,
        };
        match effect {
            FeedEffect::Mark(shard, mark) => self.link(LinkInput::Mark(shard, mark)),
            FeedEffect::Push { shard, frames } => {
                self.received += bytes_of(&frames);
                self.link(LinkInput::Frames { shard, frames });
            }
            FeedEffect::Refuse { shard, reason, last, message } => {
                self.met.behind += u64::from(reason == meridian_mirror::RefusedReason::Behind);
                self.link(LinkInput::Refused { shard, reason, last, message });
            }
            FeedEffect::LookUp { .. } | FeedEffect::Read { .. } => {}
        }
    }

    // ---- the faults

    fn fault(&mut self) {
        if self.quiet {
            return;
        }
        match self.rng.random_range(0..12) {
            0 | 1 if self.source_up => {
                self.met.source_crashes += 1;
                self.crash(Side::Source);
            }
            2 | 3 if self.sink_up => {
                self.met.sink_crashes += 1;
                self.crash(Side::Sink);
            }
            4..=6 if self.open => {
                self.met.cuts += 1;
                self.end_connection();
                self.session = None;
            }
            7 if self.open => {
                self.met.silences += 1;
                self.swallows = true;
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
            _ => {}
        }
        let delay = 20 + self.some(400);
        self.after(delay, Event::Fault);
    }
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
