//! One shard's log on one node: a sans-IO replica, and the task that executes its effects.
//!
//! In: batches to publish, frames of other origins' shards to copy, flush reports, leaderships. Out: frames for the
//! volume, frames for the index, acknowledgements. The core ([`Replica`]) never sees a clock, a socket or a file; the
//! task ([`ShardHandle`]) never decides.
//!
//! The order of a replica's marks (DESIGN §3), checked by [`Marks`] after every step:
//!
//! ```text
//! trimmed ≤ checkpointed ≤ applied ≤ min(committed, flushed)        max(committed, flushed) ≤ appended (leader)
//! ```

mod answers;
mod effects;
mod host;
mod io;
mod marks;
mod message;
mod opening;
mod peers;
mod placement;
mod producers;
mod progress;
mod quarantine;
mod read;
mod repair;
mod replica;
mod replicas;
mod tail;
mod task;
#[cfg(test)]
mod tests_support;

pub use effects::frame_effects;
pub use host::{HostConfig, OpenError, ShardHost};
pub use io::{Ack, CopyFault, Effect, Election, FenceAnswer, Input, Publish, Reject, RequestId};
pub use marks::Marks;
pub use message::{LogPoint, Message};
pub use opening::Opening;
pub use peers::{NoPeers, Peers};
pub use placement::{ByGroup, Placement, SoleReplica};
pub use producers::{Producers, Verdict};
pub use progress::{Progress, Totals};
pub use quarantine::Quarantine;
pub use read::{LaneDigest, LaneFrames, ReadError, Reader};
pub use repair::{Proof, Proven, RepairError, Stretch};
pub use replica::{Home, Recovery, Replica};
pub use replicas::ReplicaSet;
pub use tail::{Tail, Tails};
pub use task::{PublishError, QueuePlace, Reply, ShardHandle, past_producer};
