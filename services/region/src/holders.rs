//! Which nodes have a replica of a shard that readers may be served from.

use meridian_shard::Progress;
use meridian_types::{NodeId, ShardId};

use crate::region::Region;

/// Who serves a shard's readers, as far as this node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// This node does.
    pub here: bool,
    /// Who leads, if it is another node and was heard lately.
    pub leader: Option<NodeId>,
    /// The other members that were heard lately, in the order in which this node asks them.
    pub others: Vec<NodeId>,
    /// All members, for errors; empty: the shard has no place that is known here.
    pub members: Vec<NodeId>,
}

impl Region {
    /// Who serves a shard's readers.
    pub fn holders(&self, shard: ShardId) -> Holders {
        let state = self.placement();
        let Some(row) = state.shard(shard) else { return Holders::default() };
        let me = self.0.me.node;
        let in_reach = |node: &NodeId| *node != me && self.is_live(*node);
        let mut others: Vec<NodeId> = row.members.iter().copied().filter(in_reach).collect();
        if !others.is_empty() {
            // Not all nodes' readers at the same member.
            let first = (me.0 as usize + usize::from(shard.no.0)) % others.len();
            others.rotate_left(first);
        }
        let leader = row.leader().map(|elected| elected.node).filter(|leader| others.contains(leader));
        Holders { here: self.serves(shard), leader, others, members: row.members.clone() }
    }

    /// Whether this node's own replica serves readers: not one that is being built up, nor one that has left the set, of
    /// which nothing new will ever come. One whose log has lost its end stands still unless it leads, so readers get it only
    /// where there is no other.
    pub fn serves(&self, shard: ShardId) -> bool {
        let (state, me) = (self.placement(), self.0.me.node);
        let Some(row) = state.shard(shard).filter(|row| row.members.contains(&me)) else { return false };
        let here = self.0.host.get().and_then(|host| host.get(shard));
        // A copy that faulted takes nothing any more.
        let is_whole =
            |progress: Progress| progress.fault.is_none() && (!progress.damaged || progress.leads.is_some());
        here.is_some_and(|replica| row.members.len() == 1 || is_whole(replica.progress()))
    }
}
