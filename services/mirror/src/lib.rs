//! Mirroring between regions: streams of a shard's committed frames, pushed within credit (DESIGN §6).
//!
//! Two sans-IO cores. [`Feed`] is the source's end of a link: it answers where a shard may be read from, and which frames
//! to push. [`LinkCore`] is the copy's end: it asks, checks, hands frames to the shard copies, gives credit, notices a
//! link that makes no progress. Their shells ([`PeerServer`], [`Links`]) speak gRPC. Neither touches the volume: frames
//! are appended through the shard and read through its reader.

mod durable;
mod feed;
mod frames;
mod hello;
mod link;
mod links;
mod repair;
mod server;
mod sources;
mod status;
#[cfg(test)]
mod tests_support;

pub use durable::{DurableBoard, DurableMark};
pub use feed::{Feed, FeedEffect, FeedInput, SourceMark};
pub use frames::{FramesError, join_frames, split_frames};
pub use hello::{Identity, PeerHello, Vetting};
pub use link::{CopyState, LinkConfig, LinkCore, LinkEffect, LinkInput, RefusedReason};
pub use links::{Dialer, Links, copy_state};
pub use repair::{RepairSources, Repairs};
pub use server::{Neighbours, PeerServer};
pub use sources::{Source, Whereabouts};
pub use status::{LinkState, LinkStatus, ShardFault};
