//! What a caller may set. Every default is meant to be kept.

use std::time::Duration;

use meridian_batch::Codec;
use meridian_types::{Cursor, TenantName, Timestamp};

/// How a [`Client`](crate::Client) talks to its region.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Whose streams are meant.
    pub tenant: TenantName,
    /// Whether the region's other nodes are learned and dialled, besides those that were named: at the addresses that they
    /// go by in the cluster.
    pub discover: bool,
    /// How long a TCP connection may take to come up.
    pub connect_timeout: Duration,
    /// How long one try of a call may take before another one is made.
    pub attempt_timeout: Duration,
    /// How long a call is tried again while no node answers.
    pub retry_for: Duration,
    /// The first wait between tries; it doubles with each.
    pub min_backoff: Duration,
    /// The longest wait between tries.
    pub max_backoff: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            tenant: TenantName::default(),
            discover: true,
            connect_timeout: Duration::from_secs(5),
            attempt_timeout: Duration::from_secs(30),
            retry_for: Duration::from_secs(30),
            min_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(2),
        }
    }
}

/// How a [`Publisher`](crate::Publisher) batches and waits.
#[derive(Clone, Debug)]
pub struct PublisherOptions {
    /// A batch is closed at this size, in bytes before compression. A larger event travels alone. Five batches of a partition are under way
    /// at most, so this bounds what a partition takes in the time that one takes.
    pub batch_bytes: usize,
    /// How many bytes of events may be without an answer before `send` waits. At least 4 MiB are taken.
    pub memory_bytes: usize,
    /// How batches are compressed.
    pub codec: Codec,
    /// Time without a single acknowledgement, while something waits for one, after which the publisher gives up.
    pub progress_timeout: Duration,
    /// A connection on which nothing was answered for so long, while something waits, is replaced.
    pub answer_timeout: Duration,
    /// A partition that was idle for so long starts a new producer session, well before a server forgets the old one.
    pub session_idle: Duration,
}

impl Default for PublisherOptions {
    fn default() -> Self {
        Self {
            batch_bytes: 256 * 1024,
            memory_bytes: 32 * 1024 * 1024,
            codec: Codec::Lz4,
            progress_timeout: Duration::from_secs(120),
            answer_timeout: Duration::from_secs(40),
            session_idle: Duration::from_secs(30 * 60),
        }
    }
}

/// Where reading begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// The first event that the region holds.
    Start,
    /// What comes from now on.
    End,
    /// The first event of each lane at or after this time.
    Time(Timestamp),
    /// A position, from whichever region.
    Cursor(Cursor),
}

/// How a [`Consumer`](crate::Consumer) reads.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// Where it begins.
    pub from: StartFrom,
    /// How many bytes of batches may be under way.
    pub credit_bytes: u64,
    /// How long it tries to come back to a region of which no node answers.
    pub timeout: Duration,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self { from: StartFrom::Start, credit_bytes: 8 * 1024 * 1024, timeout: Duration::from_secs(120) }
    }
}
