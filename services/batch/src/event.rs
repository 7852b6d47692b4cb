//! What users publish and read.

use bytes::Bytes;
use meridian_types::{Offset, Timestamp};

/// The latest timestamp that an event may carry: what fits the 48 bits of an hlc, in the year 10889. Microseconds
/// taken for milliseconds are beyond it, which is how they are noticed.
pub const MAX_TIMESTAMP: i64 = (1 << 48) - 1;

/// A header of an event. Keys may repeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Header {
    /// Its name.
    pub key: String,
    /// Its value; null is not the same as empty.
    pub value: Option<Bytes>,
}

/// An event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Event {
    /// What orders it: events of one key go to one partition. Null is not the same as empty.
    pub key: Option<Bytes>,
    /// What it says. Null is a tombstone, and not the same as empty.
    pub value: Option<Bytes>,
    /// Its headers, in order.
    pub headers: Vec<Header>,
    /// When its producer says that it happened.
    pub timestamp: Timestamp,
}

impl Event {
    /// What counts towards the limit of an event: key, value, header keys and header values together, in bytes.
    pub fn bytes(&self) -> usize {
        let length = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.headers.iter().map(|h| h.key.len() + length(&h.value)).sum();
        length(&self.key) + length(&self.value) + headers
    }
}

/// An event in its place in a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it is.
    pub offset: Offset,
    /// What is there.
    pub event: Event,
}
