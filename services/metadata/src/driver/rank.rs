//! Which nodes a shard prefers: rendezvous hashing, so that shards and leaders spread evenly and few of them move when a
//! node comes or goes.

use meridian_types::{NodeId, ShardId};

/// What is ranked for. Two rankings, so that a shard's first replica is not also its first leader.
#[derive(Clone, Copy, Debug)]
pub(super) enum For {
    /// Holding a replica.
    Holding = 1,
    /// Leading.
    Leading = 2,
}

/// The higher, the more the shard prefers the node. Drivers of other builds may rank otherwise: nothing rests on it.
pub(super) fn rank(what: For, shard: ShardId, node: NodeId) -> u64 {
    let shard = (u64::from(shard.origin.to_u32()) << 16) | u64::from(shard.no.0);
    mix(mix(mix(what as u64) ^ shard) ^ u64::from(node.0))
}

/// The finalizer of splitmix64 (Steele, Lea, Flood 2014), after its increment.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
