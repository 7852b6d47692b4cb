//! How much a batch may hold.

use meridian_types::limits;

/// What a batch may hold. The default is what the interface promises ([`meridian_types::limits`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest batch as it is sent and stored, in bytes.
    pub batch_bytes: usize,
    /// The most bytes that its records may decompress to. What decoding allocates is bounded by this.
    pub uncompressed_bytes: usize,
    /// The largest event: key, value, header keys and header values together, in bytes.
    pub event_bytes: usize,
    /// The most headers of an event. Empty headers weigh nothing in `event_bytes` but do in memory.
    pub event_headers: usize,
    /// The most events in a batch.
    pub events: usize,
}

impl Limits {
    /// Those of the interface.
    pub const DEFAULT: Self = Self {
        batch_bytes: limits::BATCH_BYTES,
        uncompressed_bytes: limits::BATCH_BYTES,
        event_bytes: limits::EVENT_BYTES,
        event_headers: 1024,
        events: limits::BATCH_EVENTS,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
