//! The catalog's machine: regions, nodes, tenants, streams.
//!
//! Flows in: commands, in the order that Raft gives them. Flows out: a reply for each, and the state to read. Must never
//! do I/O, read a clock or draw a random number: time and request ids are fields of the commands. Maps are persistent
//! (shared between versions), so that a reader keeps its version while the next is made, however many streams there are.

mod apply;
mod command;
mod convert;
mod machine;
mod nodes;
mod past;
mod reply;
mod restore;
mod rows;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use machine::reply_from_bytes;

pub use command::{Change, Command, CreateStream, Genesis, RequestId, RestoreRegion, UpdateStream};
pub use past::Past;
pub use reply::{Outcome, Refusal, RefusalCode, Reply};
pub use restore::has_recovered;
pub use rows::{NodeRow, RegionRow, StreamRow, StreamSettings, TenantRow};
pub use state::Catalog;

/// The highest feature level that this build knows. A new command, or a new field that changes what one does, takes the
/// next level and is refused below it.
pub const MAX_FEATURE_LEVEL: u32 = 2;

/// From this feature level on nodes are added to a founded cluster and removed from it.
pub const NODES_CHANGE: u32 = 2;
