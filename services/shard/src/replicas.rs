//! Whose flushes count, and how far a majority has flushed.

use std::collections::BTreeMap;

use meridian_types::mutant::{self, Mutant};
use meridian_types::{NodeId, Seq, SetVersion};

/// The nodes that replicate a shard in its hosting region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSet {
    /// Rises with each change. Flush reports carry it, so that one of another set is not counted.
    pub version: SetVersion,
    /// Its members, the leader among them.
    pub members: Vec<NodeId>,
}

/// What a leader knows of the logs that follow it, in its epoch.
#[derive(Clone, Debug)]
pub(crate) struct Majority {
    set: ReplicaSet,
    /// By node, members and learners alike: how far it has flushed of what it is known to have in common with the
    /// leader. A node that was not matched in this epoch has no row (fault 32).
    flushed: BTreeMap<NodeId, Seq>,
}

impl Majority {
    /// A new leadership knows nothing of the others' logs; its own matches by definition.
    pub fn new(me: NodeId, set: ReplicaSet, flushed: Seq) -> Self {
        assert!(set.members.contains(&me), "a leader is a member of its replica set");
        Self { set, flushed: [(me, flushed)].into() }
    }

    pub fn set(&self) -> &ReplicaSet {
        &self.set
    }

    /// The log of this node agrees with the leader's as far as it will be fed.
    pub fn matched(&mut self, node: NodeId) {
        self.flushed.entry(node).or_insert(Seq::ZERO);
    }

    /// The node has lost what it had flushed: it counts for nothing before it is matched again.
    pub fn forget(&mut self, node: NodeId) {
        self.flushed.remove(&node);
    }

    /// Counts a flush, but only of a node whose log has been matched.
    pub fn flushed(&mut self, node: NodeId, seq: Seq) {
        if mutant::is(Mutant::BeyondMatched) {
            self.matched(node);
        }
        if let Some(flushed) = self.flushed.get_mut(&node) {
            *flushed = (*flushed).max(seq);
        }
    }

    /// How far a node that follows has flushed; none: it was not matched.
    pub fn of(&self, node: NodeId) -> Option<Seq> {
        self.flushed.get(&node).copied()
    }

    /// The highest seq that a majority of the members has flushed.
    pub fn agreed(&self) -> Seq {
        self.lowest_of_majority(|node| self.of(node).unwrap_or(Seq::ZERO))
    }

    /// The highest value that a majority of the members has reached.
    pub fn lowest_of_majority<T: Ord + Copy>(&self, value: impl Fn(NodeId) -> T) -> T {
        let mut values: Vec<T> = self.set.members.iter().map(|&node| value(node)).collect();
        values.sort_unstable();
        // Of 2k+1 in rising order, k+1 have at least the k-th; of 2k, k+1 have at least the (k-1)-th.
        values[(values.len() - 1) / 2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(nodes: &[u32]) -> Majority {
        let members = nodes.iter().map(|&n| NodeId(n)).collect();
        Majority::new(NodeId(nodes[0]), ReplicaSet { version: SetVersion(1), members }, Seq(0))
    }

    #[test]
    fn a_majority_is_more_than_half() {
        for (nodes, needed) in [(1u32, 1u32), (2, 2), (3, 2), (4, 3), (5, 3)] {
            let all: Vec<u32> = (1..=nodes).collect();
            let mut majority = of(&all);
            for node in 1..=nodes {
                let expected = if node > needed { Seq(5) } else { Seq(0) };
                assert_eq!(majority.agreed(), expected, "{nodes} nodes, {node}");
                majority.matched(NodeId(node));
                majority.flushed(NodeId(node), Seq(5));
            }
            assert_eq!(majority.agreed(), Seq(5));
        }
    }

    #[test]
    fn an_unmatched_log_and_a_learner_count_for_nothing() {
        let mut majority = of(&[1, 2, 3]);
        majority.flushed(NodeId(1), Seq(9));
        majority.flushed(NodeId(2), Seq(9));
        majority.matched(NodeId(4));
        majority.flushed(NodeId(4), Seq(9));
        assert_eq!(majority.agreed(), Seq(0));
        majority.matched(NodeId(2));
        assert_eq!(majority.agreed(), Seq(0), "what was reported before the match stays uncounted");
        majority.flushed(NodeId(2), Seq(2));
        assert_eq!(majority.agreed(), Seq(2));
        assert_eq!(majority.of(NodeId(4)), Some(Seq(9)), "a learner's progress is known all the same");
    }
}
