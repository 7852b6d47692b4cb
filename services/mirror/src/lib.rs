//! Mirroring between regions: streams of a shard's committed frames, pushed within credit (DESIGN §6).
//!
//! Sans-IO cores. [`Feed`] is the source's end of a link: it answers where a shard may be read from, and which frames
//! to push. [`LinkCore`] is the copy's end of a connection: it asks, checks, hands frames to the shard copies, gives
//! credit, notices one that makes no progress. [`Legs`] are the connections of a link: it decides which carries what. Their shells ([`PeerServer`], [`Links`]) speak gRPC. Neither touches the volume: frames
//! are appended through the shard and read through its reader.

mod credit;
mod durable;
mod feed;
mod frames;
mod hello;
mod homeward;
mod legs;
mod link;
mod links;
mod repair;
mod server;
mod session;
mod sources;
mod stall;
mod status;
mod task;
#[cfg(test)]
mod tests_support;

pub use durable::{DurableBoard, DurableMark};
pub use feed::{Feed, FeedEffect, FeedInput, SourceMark};
pub use frames::{FramesError, join_frames, split_frames};
pub use hello::{Identity, PeerHello, Vetting};
pub use legs::{LegId, Legs, LegsEffect, LegsInput};
pub use link::{CopyState, LinkConfig, LinkCore, LinkEffect, LinkInput, RefusedReason};
pub use links::{Dialer, Elsewhere, Links, copy_state};
pub use repair::{RepairSources, Repairs};
pub use server::{Neighbours, PeerServer};
pub use sources::{Source, Whereabouts};
pub use status::{LinkState, LinkStatus, ShardFault};
