//! Metadata: the pure machines of the catalog and of placement, the openraft group that orders their commands, and the
//! driver of placement.
//!
//! Flows in: commands of any node, Raft's messages between nodes. Flows out: the state, at once and without a quorum
//! from the local copy; linearizable where a barrier is asked for. Must never be on the way of an event: publishing,
//! subscribing and mirroring run on the last known state.

pub mod catalog;
pub mod driver;
mod group;
mod machine;
pub mod members;
pub mod placement;
mod raft;
mod store;
#[cfg(test)]
mod testing;

pub use group::{
    BootstrapError, CatalogGroup, CatalogHandle, Config, Group, GroupHandle, NoChannel, OnFatal,
    PeerChannels, PlacementGroup, PlacementHandle, ProposeError, RaftServer, RaftServers, Role, Standing,
    StartError, Status, WantedNodes, abort,
};
pub use machine::{Machine, Unsupported};
pub use store::{Identity, StoreError};
