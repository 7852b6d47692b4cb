//! The nodes of a region among themselves (DESIGN §5): the replicas of a shard talk, placement is driven, a publish that
//! meets the wrong node finds the leader.
//!
//! Flows in: words of the region's other nodes, the placement group's state, what the shards want said. Flows out: words,
//! proposals, elections told to the shards. Must never decide what is appended, committed or acknowledged: that is the
//! shard's core; nor who leads: that is placement's machine and its driver.

mod agent;
mod convert;
mod driving;
mod elections;
mod feeds;
mod forward;
mod holders;
mod nodes;
mod region;
mod restoring;
mod server;
mod way;
mod wishes;

pub use agent::{Agent, Shards};
pub use holders::Holders;
pub use nodes::keep_nodes;
pub use region::{Region, RegionConfig, Route};
pub use restoring::{answers, keep_restored};
pub use server::RegionServer;
pub use wishes::WishError;
