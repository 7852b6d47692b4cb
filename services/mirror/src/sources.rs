//! Whom a link asks: a node of the origin, or, while none of those answers, a node of any other region, for that has the
//! frames too (relay).

use std::sync::Arc;

use meridian_types::{NodeId, RegionName};

/// A node that can be asked for a region's frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The region that it is in.
    pub region: RegionName,
    /// Which node.
    pub node: NodeId,
}

/// Names every node of the other regions, as they are known now.
pub type Whereabouts = Arc<dyn Fn() -> Vec<Source> + Send + Sync>;

/// The sources of a link, and whose turn it is.
#[derive(Clone)]
pub(crate) struct Sources {
    region: RegionName,
    nodes: Whereabouts,
    turn: usize,
    relay_turn: usize,
    /// Tries in a row that came to nothing.
    failures: usize,
}

impl Sources {
    /// Of a region's frames. Where to begin is the caller's: not all nodes of a region at the same one of another.
    pub fn new(region: RegionName, nodes: Whereabouts, first: usize) -> Self {
        Self { region, nodes, turn: first, relay_turn: 0, failures: 0 }
    }

    /// The next to be asked: the origin's nodes in turn, and once a connection was lost and all of them have failed, a relay
    /// every second time. None while no node is known.
    pub fn next(&mut self) -> Option<Source> {
        let (direct, relays): (Vec<_>, Vec<_>) =
            (self.nodes)().into_iter().partition(|source| self.is_direct(source));
        let past = self.failures.checked_sub(direct.len() + 1);
        if !relays.is_empty() && (direct.is_empty() || past.is_some_and(|past| past.is_multiple_of(2))) {
            return turn(relays, &mut self.relay_turn);
        }
        turn(direct, &mut self.turn)
    }

    /// The next of the origin's nodes.
    pub fn next_direct(&mut self) -> Option<Source> {
        let direct = (self.nodes)().into_iter().filter(|source| self.is_direct(source)).collect();
        turn(direct, &mut self.turn)
    }

    /// A try came to nothing, or a connection was lost.
    pub fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// A line to the origin was tried beside a relay that works, and carried nothing: the relay's turn is next.
    pub fn relapse(&mut self) {
        let direct = (self.nodes)().iter().filter(|source| self.is_direct(source)).count();
        self.failures = direct + 1;
    }

    /// Another node of the same region, if it is known.
    pub fn node_beside(&self, source: &Source, node: NodeId) -> Option<Source> {
        (self.nodes)().into_iter().find(|known| known.region == source.region && known.node == node)
    }

    /// How many tries in a row have come to nothing.
    pub fn failures(&self) -> u32 {
        u32::try_from(self.failures).unwrap_or(u32::MAX)
    }

    /// Frames came.
    pub fn progressed(&mut self) {
        self.failures = 0;
    }

    /// Whether this is a node of the origin.
    pub fn is_direct(&self, source: &Source) -> bool {
        source.region == self.region
    }
}

fn turn(sources: Vec<Source>, turn: &mut usize) -> Option<Source> {
    // Where nobody is known, it is nobody's turn.
    let place = turn.checked_rem(sources.len())?;
    *turn = turn.wrapping_add(1);
    sources.into_iter().nth(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(region: &str, node: u32) -> Source {
        Source { region: RegionName::new(region).unwrap(), node: NodeId(node) }
    }

    fn of(all: Vec<Source>) -> Sources {
        Sources::new(RegionName::new("us").unwrap(), Arc::new(move || all.clone()), 0)
    }

    fn asked(sources: &mut Sources, tries: usize) -> Vec<u32> {
        let mut asked = Vec::new();
        for _ in 0..tries {
            asked.push(sources.next().unwrap().node.0);
            sources.failed();
        }
        asked
    }

    #[test]
    fn relays_are_asked_once_every_node_of_the_origin_has_failed() {
        let mut sources = of(vec![source("us", 1), source("us", 2), source("eu", 4), source("ap", 7)]);
        assert_eq!(asked(&mut sources, 8), [1, 2, 1, 4, 2, 7, 1, 4]);
        sources.progressed();
        assert_eq!(asked(&mut sources, 2), [2, 1], "from the start again");
        assert!(sources.is_direct(&source("us", 2)) && !sources.is_direct(&source("eu", 4)));
    }

    #[test]
    fn without_relays_the_origin_is_asked_again_and_again() {
        assert_eq!(asked(&mut of(vec![source("us", 1)]), 4), [1, 1, 1, 1]);
    }

    #[test]
    fn after_a_relapse_a_relay_is_next() {
        let mut sources = of(vec![source("us", 1), source("us", 2), source("eu", 4)]);
        let _ = sources.next();
        sources.failed();
        sources.relapse();
        assert_eq!(asked(&mut sources, 2), [4, 2]);
    }

    #[test]
    fn a_node_beside_is_one_of_the_same_region() {
        let sources = of(vec![source("us", 1), source("us", 2), source("eu", 4)]);
        assert_eq!(sources.node_beside(&source("us", 1), NodeId(2)), Some(source("us", 2)));
        assert_eq!(sources.node_beside(&source("us", 1), NodeId(4)), None, "another region's");
        assert_eq!(sources.node_beside(&source("us", 1), NodeId(9)), None, "nobody's");
    }

    #[test]
    fn nodes_that_come_are_asked_and_those_that_are_gone_are_not() {
        let known = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let shared = known.clone();
        let nodes: Whereabouts = Arc::new(move || shared.lock().clone());
        let mut sources = Sources::new(RegionName::new("us").unwrap(), nodes, 0);
        assert_eq!((sources.next(), sources.next_direct()), (None, None));
        *known.lock() = vec![source("eu", 4)];
        assert_eq!((sources.next(), sources.next_direct()), (Some(source("eu", 4)), None));
        *known.lock() = vec![source("us", 1), source("us", 3)];
        assert_eq!(asked(&mut sources, 2), [1, 3]);
        *known.lock() = vec![source("us", 3)];
        assert_eq!(asked(&mut sources, 2), [3, 3]);
    }
}
