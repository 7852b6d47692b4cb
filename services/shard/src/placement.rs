//! Who leads a shard: the region's placement group decides it, and tells the shards; or, where a region has one node and
//! no group, that node does.

use meridian_types::{Boot, LeaderEpoch, LogEnd, NodeId, SetVersion, ShardId};

use crate::{Election, ReplicaSet};

/// Whom a shard asks when it starts.
pub trait Placement: Send + Sync + 'static {
    /// The election that this shard begins by itself, in an epoch above what it has promised and written; none: it waits
    /// for a fence from elsewhere. A restarted process asks anew: it leads nothing on the word of its earlier life.
    fn begin(&self, shard: ShardId, promised: LeaderEpoch, end: LogEnd) -> Option<Election>;
}

/// The region's placement group decides, and says so when it has: a shard begins nothing by itself.
#[derive(Clone, Copy, Debug)]
pub struct ByGroup;

impl Placement for ByGroup {
    fn begin(&self, _: ShardId, _: LeaderEpoch, _: LogEnd) -> Option<Election> {
        None
    }
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
    fn begin(&self, _shard: ShardId, promised: LeaderEpoch, end: LogEnd) -> Option<Election> {
        let highest = promised.max(LeaderEpoch(end.epoch.0));
        let set = ReplicaSet { version: SetVersion(1), members: vec![self.node] };
        let boot = LeaderEpoch(u32::try_from(self.boot.0).unwrap_or(0));
        Some(Election { epoch: highest.next().max(boot), leader: self.node, boot: self.boot, set })
    }
}

#[cfg(test)]
mod tests {
    use meridian_types::{LogEpoch, Seq};

    use super::*;

    #[test]
    fn each_start_is_a_new_epoch() {
        let end = LogEnd { epoch: LogEpoch(6), seq: Seq(9) };
        for (boot, epoch) in [(1, 7), (7, 7), (30, 30)] {
            let sole = SoleReplica { node: NodeId(1), boot: Boot(boot) };
            let election = sole.begin(ShardId::default(), LeaderEpoch(4), end).unwrap();
            assert_eq!((election.epoch, election.leader), (LeaderEpoch(epoch), NodeId(1)));
        }
    }
}
