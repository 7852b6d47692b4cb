//! What is measured: which system does which work where, for how long, and how often. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Partitions of each stream, where a system has them; what `meridian stream create` gives.
pub const PARTITIONS: u32 = 4;
/// Bytes of an event's value unless a row says otherwise.
pub const VALUE_BYTES: usize = 1024;
/// Events without an acknowledgement where one is sent with each call: what NATS's clients allow by default is 4,000, and
/// 1,024 is where JetStream was fastest on this kind of machine.
pub const WINDOW: usize = 1024;

/// A bus, in one of its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum System {
    /// This project. Every acknowledged event is on stable storage: there is no other setting.
    Meridian,
    /// NATS JetStream. Lazily: it syncs every two minutes, its default.
    JetStream(Sync),
    /// Apache Kafka with MirrorMaker 2.
    Kafka(Flush, Tuned),
}

/// When JetStream syncs its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Sync {
    /// Every two minutes, its default: an acknowledged message may be in memory only.
    Lazy,
    /// `sync_interval: always`: with every write.
    Always,
}

/// When Kafka syncs its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Flush {
    /// As the operating system likes, its default.
    Default,
    /// `log.flush.interval.messages=1`.
    EachMessage,
}

/// What MirrorMaker and the clients of Kafka are tuned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Tuned {
    /// Small batches, sent at once.
    Latency,
    /// Large ones.
    Throughput,
}

impl System {
    /// Its name in tables and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Meridian => "meridian",
            Self::JetStream(Sync::Lazy) => "jetstream-lazy",
            Self::JetStream(Sync::Always) => "jetstream-always",
            Self::Kafka(Flush::Default, Tuned::Latency) => "kafka-latency",
            Self::Kafka(Flush::Default, Tuned::Throughput) => "kafka-throughput",
            Self::Kafka(Flush::EachMessage, Tuned::Latency) => "kafka-latency-flush",
            Self::Kafka(Flush::EachMessage, Tuned::Throughput) => "kafka-throughput-flush",
        }
    }
}

/// Where the servers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// One region of one node: nothing is mirrored.
    Alone,
    /// One region of three nodes, each event on two of them before it is acknowledged.
    Trio,
    /// Two regions of one node each on the loopback; the second mirrors the first.
    Two,
    /// Two regions in networks of their own, with the project's WAN relay between them.
    Wan(Line),
}

/// The line between two regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// There and back, in milliseconds.
    pub round_trip_ms: u64,
    /// Packets of a million that vanish, in each direction.
    pub lost_of_million: u32,
}

impl Line {
    /// There and back.
    pub const fn round_trip(self) -> Duration {
        Duration::from_millis(self.round_trip_ms)
    }
}

impl Place {
    /// Its regions. Events are published in the first, and mirrored to the second if there is one.
    pub const fn regions(self) -> &'static [&'static str] {
        match self {
            Self::Alone | Self::Trio => &["us"],
            Self::Two | Self::Wan(_) => &["us", "eu"],
        }
    }

    /// Whether there is a second region.
    pub const fn mirrors(self) -> bool {
        self.regions().len() > 1
    }

    /// How long an event is under way at least.
    pub fn one_way(self) -> Duration {
        match self {
            Self::Wan(line) => line.round_trip() / 2,
            Self::Alone | Self::Trio | Self::Two => Duration::ZERO,
        }
    }
}

/// How a client hands events over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Each event in a message of its own, acknowledged by itself. Meridian: `PublishBatches`, a batch of one event each.
    Single,
    /// Each event in a call of its own. Meridian alone: the unary `Publish`. For the others as `Single`.
    Call,
    /// As the system's client batches by its defaults (JetStream: its batched ingest).
    Batched,
    /// In batches of about so many bytes.
    Batches(usize),
}

/// What is done in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Publish, and read if anybody reads.
    Publish(Publish),
    /// Mirror so many events that were published while the second region could not.
    CatchUp(u64),
    /// Start again on a volume of so many bytes after a SIGKILL.
    Recover(u64),
    /// Read a file of so many bytes once from the beginning to the end: what a recovery is measured by.
    ReadFile(u64),
    /// Copy a file of so many bytes: what a catch-up is measured by.
    CopyFile(u64),
    /// Append blocks of this size to a file of written zeros, each followed by fdatasync: what publishing is measured by.
    Append(usize),
}

/// A load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish {
    /// How.
    pub shape: Shape,
    /// Bytes of each value.
    pub size: usize,
    /// So many events a second whatever happens; none: as fast as acknowledgements allow.
    pub pace: Option<u64>,
    /// The most events without an acknowledgement; none: the client's own bounds.
    pub window: Option<usize>,
    /// Ends after so many events; none: after the spans.
    pub most: Option<u64>,
    /// Consumers that read everything, in the last region.
    pub readers: usize,
    /// What is there before.
    pub before: Before,
}

/// What is there before a load begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing.
    Nothing,
    /// So many other streams, in which nothing happens.
    Streams(u64),
    /// So many bytes in another stream.
    Bytes(u64),
}

impl Publish {
    /// As fast as it goes, without readers.
    pub const fn max(shape: Shape, window: Option<usize>) -> Self {
        Self { shape, size: VALUE_BYTES, pace: None, window, most: None, readers: 0, before: Before::Nothing }
    }

    /// At a fixed rate, each event by itself, with one reader.
    pub const fn paced(rate: u64) -> Self {
        Self { pace: Some(rate), readers: 1, ..Self::max(Shape::Single, None) }
    }
}

/// One system at one work: a line of a row's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Its name within the row.
    pub name: String,
    /// Who.
    pub system: System,
    /// Where.
    pub place: Place,
    /// What.
    pub work: Work,
}

/// Cases that are measured in alternation, and what is to come of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What `--only` takes.
    pub name: &'static str,
    /// In words.
    pub title: &'static str,
    /// In the order of each turn.
    pub cases: Vec<Case>,
    /// What is compared.
    pub figures: Vec<Figure>,
    /// Whether `make bench` measures it, or `make bench-full` alone.
    pub quick: bool,
}

/// A figure to reach: ours against theirs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// What is compared.
    pub measure: Measure,
    /// The case that is judged.
    pub ours: &'static str,
    /// The case that it is judged by; none: the bound stands by itself.
    pub theirs: Option<&'static str>,
    /// What it is to be.
    pub bound: Bound,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Events a second.
    Rate,
    /// Bytes a second.
    Bytes,
    /// Events for each CPU second of the servers.
    RatePerCpu,
    /// CPU of the servers for an event.
    Cpu,
    /// From due to acknowledged.
    AckP50,
    /// The same, one of a hundred.
    AckP99,
    /// From due to read in the other region.
    LagP50,
    /// The same, one of a hundred.
    LagP99,
    /// The lag's p50 less half of a round trip, in milliseconds.
    AboveOneWay,
    /// The most memory that any node took.
    Memory,
    /// How long it took.
    Seconds,
    /// How much of the disk was read for it.
    Read,
}

/// What a ratio, or a value, is to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Bound {
    /// Whether it is so.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

/// For how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spans {
    /// Of each load, before anything is counted.
    pub warm: Duration,
    /// Of each load, counted.
    pub counted: Duration,
    /// Of each of the machine's limits.
    pub limit: Duration,
    /// How often cases take turns.
    pub turns: usize,
}

impl Spans {
    /// What `make bench-full` takes.
    pub const FULL: Self = Self {
        warm: Duration::from_secs(3),
        counted: Duration::from_secs(10),
        limit: Duration::from_secs(2),
        turns: 5,
    };
    /// What `make bench` takes.
    pub const SHORT: Self = Self {
        warm: Duration::from_secs(1),
        counted: Duration::from_secs(4),
        limit: Duration::from_secs(1),
        turns: 3,
    };
    /// For a look.
    pub const QUICK: Self = Self {
        warm: Duration::from_millis(500),
        counted: Duration::from_secs(2),
        limit: Duration::from_millis(400),
        turns: 1,
    };
}
