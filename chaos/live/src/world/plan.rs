//! What a world is like before it starts.

use std::time::Duration;

/// What nodes store on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskKind {
    /// A folder.
    Plain,
    /// A file system that loses power on command.
    Power,
    /// A file system of so many MiB, for the first region's nodes; the others get folders.
    Small(u64),
}

/// A world to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The regions' names.
    pub regions: Vec<String>,
    /// Nodes in each; the last number stands for all regions from there on.
    pub nodes_each: Vec<u8>,
    /// Nodes of the first region beyond those: no founders, not formatted and not in use until a scenario takes them.
    pub spares: u8,
    /// Half a round trip between any two regions.
    pub delay: Duration,
    /// What nodes store on.
    pub disk: DiskKind,
    /// Whether each node has a clock that can be stepped.
    pub clocks: bool,
    /// For the chances of the WAN.
    pub seed: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            regions: ["us", "eu", "ap"].map(str::to_owned).into(),
            nodes_each: vec![1],
            spares: 0,
            delay: Duration::from_millis(10),
            disk: DiskKind::Plain,
            clocks: false,
            seed: 1,
        }
    }
}

impl Plan {
    /// A region of so many nodes, and another that mirrors it with one.
    pub fn quorum(nodes: u8, disk: DiskKind) -> Self {
        Self {
            regions: ["us", "eu"].map(str::to_owned).into(),
            nodes_each: vec![nodes, 1],
            disk,
            ..Self::default()
        }
    }

    /// Founders by region.
    pub fn nodes(&self) -> Vec<u8> {
        let last = self.nodes_each.last().copied().unwrap_or(1);
        let each = self.nodes_each.iter().copied().chain(std::iter::repeat(last));
        each.take(self.regions.len()).collect()
    }

    /// Where all are, founders first, in the order of their ids.
    pub(super) fn places(&self) -> Vec<(u8, u8)> {
        let nodes = self.nodes();
        let founders =
            (1..).zip(&nodes).flat_map(|(region, nodes)| (1..=*nodes).map(move |node| (region, node)));
        let first = nodes.first().copied().unwrap_or(0);
        founders.chain((1..=self.spares).map(|spare| (1, first + spare))).collect()
    }

    /// How many places each region has, spares with them.
    pub(super) fn room(&self) -> Vec<u8> {
        let mut nodes = self.nodes();
        if let Some(first) = nodes.first_mut() {
            *first += self.spares;
        }
        nodes
    }
}
