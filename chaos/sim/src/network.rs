//! The network between nodes: one connection a pair, which is cut in one direction or both, or reset.

use std::collections::{BTreeMap, BTreeSet};

use meridian_types::NodeId;

/// Which ways are open.
#[derive(Debug, Default)]
pub struct Network {
    /// Cut in this direction, and how often.
    cuts: BTreeMap<(NodeId, NodeId), u32>,
    /// The number of the connection of a pair, the lower node first.
    connections: BTreeMap<(NodeId, NodeId), u64>,
    next: u64,
    /// When the last message of each direction arrives, for those that keep their order.
    arrivals: BTreeMap<(NodeId, NodeId, bool), u64>,
    /// Pairs that have been reset and not connected again.
    pub down: BTreeSet<(NodeId, NodeId)>,
}

/// A pair, the lower node first.
pub fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

impl Network {
    /// Whether what `from` sends reaches `to`.
    pub fn is_open(&self, from: NodeId, to: NodeId) -> bool {
        from == to || !self.cuts.contains_key(&(from, to))
    }

    /// Whether both ways are open.
    pub fn is_connected(&self, a: NodeId, b: NodeId) -> bool {
        self.is_open(a, b) && self.is_open(b, a)
    }

    /// The connection of a pair.
    pub fn connection(&self, a: NodeId, b: NodeId) -> u64 {
        self.connections.get(&pair(a, b)).copied().unwrap_or(0)
    }

    /// Ends the connection of a pair; a new one takes its number.
    pub fn reset(&mut self, a: NodeId, b: NodeId) -> u64 {
        self.next += 1;
        self.connections.insert(pair(a, b), self.next);
        self.arrivals.retain(|&(from, to, _), _| pair(from, to) != pair(a, b));
        self.next
    }

    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        *self.cuts.entry((from, to)).or_default() += 1;
    }

    pub fn mend(&mut self, from: NodeId, to: NodeId) {
        if let Some(times) = self.cuts.get_mut(&(from, to)) {
            *times -= 1;
            if *times == 0 {
                self.cuts.remove(&(from, to));
            }
        }
    }

    pub fn mend_all(&mut self) -> Vec<(NodeId, NodeId)> {
        std::mem::take(&mut self.cuts).into_keys().collect()
    }

    /// When a message that takes so long arrives; after those before it. `reorder`: short words pass each other, and what
    /// is fed has a stream of its own, which keeps its order.
    pub fn arrival(&mut self, from: NodeId, to: NodeId, at: u64, reorder: bool, fed: bool) -> u64 {
        if reorder && !fed {
            return at;
        }
        let last = self.arrivals.entry((from, to, reorder)).or_default();
        *last = (*last).max(at);
        *last
    }
}
