//! Whose flushes count, and how far a majority has flushed.

use std::collections::BTreeMap;

use meridian_types::{NodeId, Seq};

/// Which of its replica sets a shard is under. Flush reports carry it, so that one of another set is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetVersion(pub u32);

/// The nodes that replicate a shard in its hosting region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSet {
    /// Rises with each change.
    pub version: SetVersion,
    /// Its members, this node among them.
    pub members: Vec<NodeId>,
}

/// What a leader knows of its replicas' logs, in its epoch.
#[derive(Clone, Debug)]
pub(crate) struct Majority {
    set: ReplicaSet,
    /// By member: how far its log is known to agree with the leader's (none: not yet matched in this epoch), and how
    /// far it has flushed within that.
    members: BTreeMap<NodeId, (Option<Seq>, Seq)>,
}

impl Majority {
    /// A new leadership knows nothing of the others' logs; its own matches by definition.
    pub fn new(me: NodeId, set: ReplicaSet, appended: Seq, flushed: Seq) -> Self {
        assert!(set.members.contains(&me), "a leader is a member of its replica set");
        let mut members: BTreeMap<_, _> = set.members.iter().map(|&node| (node, (None, Seq::ZERO))).collect();
        members.insert(me, (Some(appended), flushed));
        Self { set, members }
    }

    pub fn version(&self) -> SetVersion {
        self.set.version
    }

    /// The logs agree up to `seq`. From there on the leader sends every frame in order, so the prefix only grows.
    pub fn matched(&mut self, node: NodeId, seq: Seq) {
        if let Some((matched, _)) = self.members.get_mut(&node) {
            *matched = Some(matched.map_or(seq, |known| known.max(seq)));
        }
    }

    /// Counts a flush, but only of a member whose log has been matched in this epoch (fault 32).
    pub fn flushed(&mut self, node: NodeId, seq: Seq) {
        if let Some((Some(_), flushed)) = self.members.get_mut(&node) {
            *flushed = (*flushed).max(seq);
        }
    }

    /// The highest seq that a majority has flushed.
    pub fn agreed(&self) -> Seq {
        let mut flushed: Vec<Seq> = self.members.values().map(|&(_, flushed)| flushed).collect();
        flushed.sort_unstable();
        // Of 2k+1 in rising order, k+1 have at least the k-th; of 2k, k+1 have at least the (k-1)-th.
        flushed[(flushed.len() - 1) / 2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(nodes: &[u32]) -> Majority {
        let members = nodes.iter().map(|&n| NodeId(n)).collect();
        let set = ReplicaSet { version: SetVersion(1), members };
        let mut majority = Majority::new(NodeId(nodes[0]), set, Seq(10), Seq(0));
        for &node in &nodes[1..] {
            majority.matched(NodeId(node), Seq(0));
        }
        majority
    }

    #[test]
    fn a_majority_is_more_than_half() {
        for (nodes, needed) in [(1u32, 1u32), (2, 2), (3, 2), (4, 3), (5, 3)] {
            let all: Vec<u32> = (1..=nodes).collect();
            let mut majority = of(&all);
            for node in 1..=nodes {
                assert_eq!(
                    majority.agreed(),
                    if node > needed { Seq(5) } else { Seq(0) },
                    "{nodes} nodes, {node}"
                );
                majority.flushed(NodeId(node), Seq(5));
            }
            assert_eq!(majority.agreed(), Seq(5));
        }
    }

    #[test]
    fn an_unmatched_log_counts_for_nothing() {
        let set = ReplicaSet { version: SetVersion(1), members: vec![NodeId(1), NodeId(2), NodeId(3)] };
        let mut majority = Majority::new(NodeId(1), set, Seq(3), Seq(3));
        majority.flushed(NodeId(2), Seq(9));
        assert_eq!(majority.agreed(), Seq(0));
        majority.matched(NodeId(2), Seq(2));
        assert_eq!(majority.agreed(), Seq(0), "what was reported before the match stays uncounted");
        majority.flushed(NodeId(2), Seq(2));
        assert_eq!(majority.agreed(), Seq(2));
    }
}
