//! The index: where each frame lies, and what the frames so far add up to.
//!
//! Flows in: runs of committed and flushed frames of one shard, in the order of their seqs. Flows out: places of frames
//! by seq, offset and time, the state of lanes and producers, usage, and each shard's applied mark. All effects of a run
//! and the mark are one atomic batch, so the mark always says exactly what the rows hold. The index is derived from the
//! volume: it has no log of its own, a crash takes it back to its last flush, and the shard replays from the mark found
//! there. It must never read a clock, the catalog or a payload, and never hold a place of a frame that is not flushed.
//!
//! [`keys`] is the on-disk format on one screen. [`KeyValue`] is the floor it stands on: [`RocksKeyValue`] in a node,
//! [`MemoryKeyValue`] in simulations; one conformance suite is run by both.

mod apply;
#[cfg(test)]
mod conformance;
mod error;
pub mod keys;
mod known;
mod kv;
mod memory;
mod rocks;
mod rows;
mod typed;

pub use apply::{FrameEffects, ProducerBatch};
pub use error::IndexError;
pub use keys::Family;
pub use kv::{Batch, Change, Direction, KeyRange, KeyValue, KvError, Pair};
pub use memory::MemoryKeyValue;
pub use rocks::{RocksConfig, RocksKeyValue};
pub use rows::{AppliedMark, LaneState, PRODUCER_BATCHES, ProducerState, RememberedBatch, RowError, Usage};
pub use typed::{CursorKind, Index, Located};
