//! Whom a link asks: a node of the origin, or, while none of those answers, a node of any other region, for that has the
//! frames too (relay).

use meridian_types::{NodeId, RegionName};

/// A node that can be asked for a region's frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The region that it is in.
    pub region: RegionName,
    /// Which node.
    pub node: NodeId,
}

/// The sources of a link, and whose turn it is.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    direct: Vec<Source>,
    relays: Vec<Source>,
    turn: usize,
    relay_turn: usize,
    /// Tries in a row that came to nothing.
    failures: usize,
}

impl Sources {
    /// `direct` is not empty.
    pub fn new(direct: Vec<Source>, relays: Vec<Source>) -> Self {
        Self { direct, relays, turn: 0, relay_turn: 0, failures: 0 }
    }

    /// The next to be asked: the origin's nodes in turn, and once a connection was lost and all of them have failed, a relay
    /// every second time.
    pub fn next(&mut self) -> Source {
        let past = self.failures.checked_sub(self.direct.len() + 1);
        if let Some(past) = past
            && past.is_multiple_of(2)
            && !self.relays.is_empty()
        {
            let relay = self.relays[self.relay_turn % self.relays.len()].clone();
            self.relay_turn = self.relay_turn.wrapping_add(1);
            return relay;
        }
        self.next_direct()
    }

    /// The next of the origin's nodes.
    pub fn next_direct(&mut self) -> Source {
        let next = self.direct[self.turn % self.direct.len()].clone();
        self.turn = self.turn.wrapping_add(1);
        next
    }

    /// A try came to nothing, or a connection was lost.
    pub fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
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
        self.direct.contains(source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(region: &str, node: u32) -> Source {
        Source { region: RegionName::new(region).unwrap(), node: NodeId(node) }
    }

    fn asked(sources: &mut Sources, tries: usize) -> Vec<u32> {
        let mut asked = Vec::new();
        for _ in 0..tries {
            asked.push(sources.next().node.0);
            sources.failed();
        }
        asked
    }

    #[test]
    fn relays_are_asked_once_every_node_of_the_origin_has_failed() {
        let direct = vec![source("us", 1), source("us", 2)];
        let relays = vec![source("eu", 4), source("ap", 7)];
        let mut sources = Sources::new(direct, relays);
        assert_eq!(asked(&mut sources, 8), [1, 2, 1, 4, 2, 7, 1, 4]);
        sources.progressed();
        assert_eq!(asked(&mut sources, 2), [2, 1], "from the start again");
        assert!(sources.is_direct(&source("us", 2)) && !sources.is_direct(&source("eu", 4)));
    }

    #[test]
    fn without_relays_the_origin_is_asked_again_and_again() {
        let mut sources = Sources::new(vec![source("us", 1)], Vec::new());
        assert_eq!(asked(&mut sources, 4), [1, 1, 1, 1]);
    }
}
