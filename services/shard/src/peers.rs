//! The way from a shard's task to the shard's other replicas.

use meridian_types::{LeaderEpoch, NodeId, Seq, ShardId};

use crate::Message;

/// Carries what a replica says to others. Nothing here waits: what cannot be sent now is lost, and the follower asks
/// again once its leader is reached.
pub trait Peers: Send + Sync + 'static {
    /// Says one word.
    fn send(&self, shard: ShardId, to: NodeId, message: Message);

    /// Feeds a node this shard's log after `after`, and the committed mark, in the name of this leadership, until it
    /// ends. Replaces an earlier feed of that node.
    fn feed(&self, shard: ShardId, to: NodeId, epoch: LeaderEpoch, after: Seq);

    /// The leadership has ended: feeds nobody of this shard any more.
    fn stop_feeding(&self, shard: ShardId);
}

/// A region with one node: there is nobody to talk to.
#[derive(Clone, Copy, Debug)]
pub struct NoPeers;

impl Peers for NoPeers {
    fn send(&self, _: ShardId, _: NodeId, _: Message) {}
    fn feed(&self, _: ShardId, _: NodeId, _: LeaderEpoch, _: Seq) {}
    fn stop_feeding(&self, _: ShardId) {}
}
