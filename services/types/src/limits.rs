//! The limits of the interface, each with an error that names it.

/// The largest event: key, value and headers together, in bytes.
pub const EVENT_BYTES: usize = 1024 * 1024;
/// The largest batch as it is sent, and the cap on what it may decompress to, in bytes.
pub const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// The most partitions that a stream may have.
pub const PARTITIONS: u32 = 1024;
/// The longest stream, tenant or region name, in bytes.
pub const NAME_BYTES: usize = 249;
/// The most events in a batch: offset deltas are 31 bits, and so many are never useful.
pub const BATCH_EVENTS: usize = 1_000_000;
/// The highest number of a node: producer ids have 15 bits for it.
pub const NODE_IDS: u32 = (1 << 15) - 1;
/// The most shards of a region's incarnation.
pub const SHARDS: u16 = 1024;
/// Shards of a region, unless set.
pub const DEFAULT_SHARDS: u16 = 16;
/// The most lanes in a cursor: partitions times origins, with room for incarnations.
pub const CURSOR_LANES: usize = 64 * 1024;
