//! Why an event was not acknowledged.

use std::sync::Arc;
use std::time::Duration;

use meridian_batch::BatchError;
use meridian_types::Partition;
use meridian_wire::ApiError;

use crate::SdkError;

/// Whether an event that was not acknowledged can be in the log all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is not there.
    No,
    /// It may be there: publishing it again may double it.
    Unknown,
}

/// Why an event was not acknowledged. Everything that waiting can heal was waited for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The stream could not be looked up.
    #[error(transparent)]
    Client(#[from] SdkError),
    /// The event breaks a limit; it was not sent.
    #[error(transparent)]
    Event(BatchError),
    /// The event names a partition that the stream did not have when the publisher was opened; it was not sent.
    #[error("partition {partition} is not there: the stream has {partitions} partitions, counted from 0")]
    NoSuchPartition {
        /// Which was named.
        partition: Partition,
        /// How many there are.
        partitions: u32,
    },
    /// The server forgot the producer's session. An event that was sent once before may be stored.
    #[error(
        "the producer's session on partition {partition} has expired ({message}); read the end of the lane before publishing again"
    )]
    ProducerExpired {
        /// Where.
        partition: Partition,
        /// What the server says.
        message: String,
        /// Whether the event may be stored.
        stored: Stored,
    },
    /// Another publisher took over the producer's id. The publisher has ended.
    #[error("a newer epoch of this producer is at work ({message}); only one may be")]
    ProducerFenced {
        /// What the server says.
        message: String,
    },
    /// The server expects another sequence though nothing before this batch was open: one of the two lost something.
    #[error(
        "partition {partition} expects another sequence ({message}); read the end of the lane before publishing again"
    )]
    OutOfSequence {
        /// Where.
        partition: Partition,
        /// What the server says.
        message: String,
        /// Whether the event may be stored.
        stored: Stored,
    },
    /// The server refuses the batch.
    #[error("{error}")]
    Refused {
        /// What it says.
        error: ApiError,
        /// Whether the event may be stored.
        stored: Stored,
    },
    /// An earlier event of the partition failed, and order is kept: nothing that was sent before that was known passes it.
    #[error("not published, because an earlier event of the same partition failed: {earlier}")]
    Abandoned {
        /// Why that one failed.
        earlier: Arc<PublishError>,
        /// Whether the event may be stored.
        stored: Stored,
    },
    /// Nothing at all was acknowledged for as long as was allowed. The publisher has ended.
    #[error(
        "no acknowledgement for {:.1} s (last: {last}); {events} events are without one, {sent} of them were sent and may be stored",
        waited.as_secs_f64()
    )]
    Stalled {
        /// For how long nothing was acknowledged.
        waited: Duration,
        /// Events without an acknowledgement.
        events: u64,
        /// Those of them that were sent at least once.
        sent: u64,
        /// The last trouble.
        last: String,
        /// Whether this event may be stored.
        stored: Stored,
    },
    /// The server answered nonsense. The publisher has ended.
    #[error("the server broke the protocol: {0}; check that client and node are of compatible versions")]
    Protocol(String),
    /// The publisher was closed or dropped before the answer came.
    #[error("the publisher was closed before the event was acknowledged")]
    Closed,
}

impl PublishError {
    /// Whether the event can be in the log all the same.
    pub fn stored(&self) -> Stored {
        match self {
            Self::Client(_) | Self::Event(_) | Self::NoSuchPartition { .. } => Stored::No,
            Self::ProducerExpired { stored, .. }
            | Self::OutOfSequence { stored, .. }
            | Self::Refused { stored, .. }
            | Self::Abandoned { stored, .. }
            | Self::Stalled { stored, .. } => *stored,
            Self::ProducerFenced { .. } | Self::Protocol(_) | Self::Closed => Stored::Unknown,
        }
    }
}
