//! What a link shows of itself.

use std::time::Duration;

use meridian_types::{RegionName, Seq, ShardId};

/// How a link is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkState {
    /// No connection, no Hello yet, or the source has not yet said how far it is: the backlog is what was last known.
    #[default]
    Connecting,
    /// Frames flow, or there is nothing to read.
    Live,
    /// Connected, something to read, no progress.
    Stalled,
    /// At least one copy differs from its origin; it takes nothing more.
    Faulted,
}

/// Why a shard's copy takes nothing more from a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardFault {
    /// Which.
    pub shard: ShardId,
    /// Where.
    pub seq: Seq,
    /// Stable.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// A link's state, for lag and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkStatus {
    /// The other end's region: where the frames come from.
    pub source: Option<RegionName>,
    /// The region that the frames come through, where that is not their origin.
    pub relay: Option<RegionName>,
    /// How it is.
    pub state: LinkState,
    /// Events that the source has committed and this region has not.
    pub events: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// How long ago the oldest of them was published, as far as this end can tell.
    pub oldest: Duration,
    /// Measured.
    pub round_trip: Option<Duration>,
    /// What is faulted.
    pub faults: Vec<ShardFault>,
    /// How often it was connected anew.
    pub reconnects: u64,
    /// How often it was connected anew because it made no progress.
    pub stalls: u64,
    /// For how long there was something to read and no progress, in all, over reconnects too.
    pub stalled: Duration,
    /// Connections besides the first, to nodes that hold what that one's does not.
    pub legs: u32,
}
