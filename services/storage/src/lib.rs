//! The volume, which is the truth, and the index, which is derived from it (DESIGN §4).
//!
//! In: entries (frames and volume records) that shards want to append, and places to read. Out: acknowledgements once
//! a round is synced, frames whose CRCs were checked, and after a crash what stands. Must never know a protocol, read a
//! clock to decide anything, or change a byte that it has acknowledged.

mod aligned;
pub mod disk;
pub mod frame;
pub mod identity;
pub mod index;
mod place;
pub mod record;
pub mod round;
mod seq_ranges;
pub mod volume;
mod writer;

pub use aligned::BLOCK;
pub use disk::{Disk, DiskFile, PowerLoss, RealDisk, SimDisk};
pub use frame::{
    Chain, FRAME_HEADER_BYTES, FRAME_PAYLOAD_BYTES_MAX, Frame, FrameError, FrameHeader, FrameKind,
};
pub use identity::{DISK_FORMAT, Identity, IdentityError, Secret};
pub use index::{
    AppliedMark, FrameEffects, Index, IndexError, LaneState, Located, ProducerBatch, ProducerState,
};
pub use place::Place;
pub use record::{Entry, Promise};
pub use seq_ranges::SeqRanges;
pub use volume::{
    Among, Damage, DamageKind, InOrder, ReadError, Recovered, RecoveredShard, Restart, Restarts, TornTail,
    Volume, VolumeConfig, VolumeError, VolumeReader, WriteError,
};
pub use writer::{Flushed, Submission, VolumeWriter, WriterConfig, WriterHandle};
