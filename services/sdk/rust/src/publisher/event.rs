//! What a caller publishes, and what it gets for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_batch::Header;
use meridian_types::{Hlc, Lane, Offset, Partition, Timestamp};

/// An event to publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// What orders it: events of one key go to one partition. Without one, batch after batch goes to the next.
    pub key: Option<Bytes>,
    /// What it says. None is a tombstone, and not the same as empty.
    pub value: Option<Bytes>,
    /// Its headers, in order.
    pub headers: Vec<Header>,
    /// When it happened; now, if absent.
    pub timestamp: Option<Timestamp>,
    /// Where it goes, whatever its key.
    pub partition: Option<Partition>,
}

impl Event {
    /// An event without a key.
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    /// With a key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// With one more header.
    #[must_use]
    pub fn with_header(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push(Header { key: key.into(), value: Some(value.into()) });
        self
    }

    /// That happened at a time.
    #[must_use]
    pub fn at(mut self, timestamp: Timestamp) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// Its bytes, as limits and memory count them.
    pub(super) fn bytes(&self) -> usize {
        let length = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.headers.iter().map(|h| h.key.len() + length(&h.value)).sum();
        length(&self.key) + length(&self.value) + headers
    }

    /// Into a certain partition.
    #[must_use]
    pub fn to_partition(mut self, partition: Partition) -> Self {
        self.partition = Some(partition);
        self
    }
}

/// An event is stored: where, and who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Its lane.
    pub lane: Lane,
    /// Its offset there.
    pub offset: Offset,
    /// Its hybrid logical time.
    pub hlc: Hlc,
    /// The regions in which it is known to be durable.
    pub regions: Arc<[String]>,
    /// An earlier try, whose answer was lost, had stored it.
    pub duplicate: bool,
    /// From `send` to the acknowledgement.
    pub latency: Duration,
}
