//! Who leads a shard: asked here, answered by the placement group once a region has several nodes.

use meridian_types::{Boot, LeaderEpoch, LogEpoch, NodeId, Seq, ShardId};

use crate::{ReplicaSet, SetVersion};

/// What a replica says of itself when it is fenced: its promise, and the end of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The highest leadership epoch that it has promised.
    pub promised: LeaderEpoch,
    /// The log epoch of its last frame.
    pub last_epoch: LogEpoch,
    /// The seq of its last frame.
    pub last_seq: Seq,
}

/// A leadership that placement has committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Election {
    /// The leadership; higher than any promised before.
    pub epoch: LeaderEpoch,
    /// The elected node.
    pub leader: NodeId,
    /// The replica set under which it leads.
    pub set: ReplicaSet,
}

/// Answers who leads.
pub trait Placement: Send + Sync + 'static {
    /// Begins an election for a shard in this region: a fresh epoch, to be promised by the replicas before the elected
    /// node leads. A restarted process calls it anew: it leads nothing on the word of its earlier life.
    fn begin(&self, shard: ShardId, standing: Standing) -> Election;
}

/// The placement of a region with one node: that node leads every shard, each time in the next epoch. No epoch is below
/// the boot: damage may hide a promise, and an epoch that was led in must not come again.
#[derive(Clone, Copy, Debug)]
pub struct SoleReplica {
    /// The node.
    pub node: NodeId,
    /// How often it has started on its disk.
    pub boot: Boot,
}

impl Placement for SoleReplica {
    fn begin(&self, _shard: ShardId, standing: Standing) -> Election {
        let highest = standing.promised.max(LeaderEpoch(standing.last_epoch.0));
        let set = ReplicaSet { version: SetVersion(1), members: vec![self.node] };
        let boot = LeaderEpoch(u32::try_from(self.boot.0).unwrap_or(0));
        Election { epoch: highest.next().max(boot), leader: self.node, set }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_is_a_new_epoch() {
        let standing = Standing { promised: LeaderEpoch(4), last_epoch: LogEpoch(6), last_seq: Seq(9) };
        for (boot, epoch) in [(1, 7), (7, 7), (30, 30)] {
            let sole = SoleReplica { node: NodeId(1), boot: Boot(boot) };
            let election = sole.begin(ShardId::default(), standing);
            assert_eq!((election.epoch, election.leader), (LeaderEpoch(epoch), NodeId(1)));
        }
    }
}
