//! The vocabulary of Meridian: ids, offsets, epochs, clocks, cursors, names and limits.
//!
//! Flows in: nothing. Flows out: value types that every other crate shares. Must never do I/O, read a clock or know a
//! protocol; a time is always passed in.

mod clock;
mod cursor;
mod hlc;
mod ids;
pub mod limits;
pub mod mutant;
mod names;
mod partitioner;
mod principal;
mod shard_of;

pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use cursor::{Cursor, CursorError};
pub use hlc::Hlc;
pub use ids::{
    Boot, ClusterUuid, DiskUuid, Incarnation, Lane, LeaderEpoch, LogEnd, LogEpoch, NodeId, Offset, Origin,
    Partition, ProducerEpoch, ProducerId, RegionId, Seq, SetVersion, ShardId, ShardNo, StreamId, TenantId,
};
pub use names::{NameError, RegionName, StreamName, TenantName};
pub use partitioner::{murmur2, partition_for_key};
pub use principal::Principal;
pub use shard_of::shard_of;
