//! The nodes of a region that a client knows, and which of them to ask. Pure: time is an input.
//!
//! A node keeps its index for ever, so that whoever talks to it can name it. Endpoints that the caller gave are dialled
//! as they were given, even where the node behind one calls itself otherwise: a proxy may stand between.

use std::time::Duration;

use meridian_types::NodeId;
use meridian_wire::v1::GetTopologyResponse;
use tokio::time::Instant;

use crate::backoff::step;

/// How long a node that failed is avoided while another can be asked: first, and after many times in a row.
const AVOID: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));

/// A node, as this client counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeIndex(pub(crate) usize);

/// What is known of a node.
#[derive(Debug)]
struct Known {
    endpoint: String,
    /// As the node behind the endpoint says.
    id: Option<NodeId>,
    /// By the caller; what was learned can be gone again.
    given: bool,
    gone: bool,
    /// Its region says that it is not alive.
    dead: bool,
    avoid_until: Option<Instant>,
    failures: u32,
}

impl Known {
    fn new(endpoint: String, id: Option<NodeId>) -> Self {
        let given = id.is_none();
        Self { endpoint, id, given, gone: false, dead: false, avoid_until: None, failures: 0 }
    }
}

/// All nodes that are known.
#[derive(Debug)]
pub(crate) struct Nodes {
    all: Vec<Known>,
    current: NodeIndex,
}

impl Nodes {
    /// The nodes that the caller names, at least one.
    pub(crate) fn new(given: impl IntoIterator<Item = String>) -> Self {
        let all = given.into_iter().map(|endpoint| Known::new(endpoint, None)).collect();
        Self { all, current: NodeIndex(0) }
    }

    /// Whether there is more than one to ask.
    pub(crate) fn are_several(&self) -> bool {
        self.all.iter().filter(|node| !node.gone).count() > 1
    }

    /// What to dial.
    pub(crate) fn endpoint(&self, node: NodeIndex) -> &str {
        &self.all[node.0].endpoint
    }

    /// Where the node with that id is.
    pub(crate) fn of(&self, id: NodeId) -> Option<NodeIndex> {
        let is = |node: &Known| node.id == Some(id) && !node.gone;
        let given = self.all.iter().position(|node| is(node) && node.given);
        given.or_else(|| self.all.iter().position(is)).map(NodeIndex)
    }

    /// Whether it is worth asking.
    pub(crate) fn is_usable(&self, node: NodeIndex, now: Instant) -> bool {
        let node = &self.all[node.0];
        !node.gone && node.avoid_until.is_none_or(|until| now >= until)
    }

    /// Until when it is avoided.
    pub(crate) fn avoided_until(&self, node: NodeIndex) -> Option<Instant> {
        self.all[node.0].avoid_until
    }

    /// Every node that is not gone, the one in use first, those that failed last.
    pub(crate) fn candidates(&mut self, now: Instant) -> Vec<NodeIndex> {
        let current = self.current(now).0;
        let mut order: Vec<NodeIndex> = (0..self.all.len())
            .map(|step| NodeIndex((current + step) % self.all.len()))
            .filter(|node| !self.all[node.0].gone)
            .collect();
        order.sort_by_key(|node| !self.is_usable(*node, now));
        order
    }

    /// The node for what any node can do. It stays the same as long as it does not fail.
    pub(crate) fn current(&mut self, now: Instant) -> NodeIndex {
        if !self.is_usable(self.current, now) {
            self.current = self.after(self.current, now).unwrap_or_else(|| self.least_bad());
        }
        self.current
    }

    /// The next one that is worth asking, those that are said to be dead last.
    fn after(&self, node: NodeIndex, now: Instant) -> Option<NodeIndex> {
        let ring = || (1..self.all.len()).map(|step| NodeIndex((node.0 + step) % self.all.len()));
        let alive = ring().find(|next| self.is_usable(*next, now) && !self.all[next.0].dead);
        alive.or_else(|| ring().find(|next| self.is_usable(*next, now)))
    }

    /// All failed just now: the one whose turn comes first.
    fn least_bad(&self) -> NodeIndex {
        let left = (0..self.all.len()).filter(|index| !self.all[*index].gone);
        left.min_by_key(|index| self.all[*index].avoid_until).map_or(self.current, NodeIndex)
    }

    /// It could not be reached, or answered nothing.
    pub(crate) fn failed(&mut self, node: NodeIndex, now: Instant) {
        let node = &mut self.all[node.0];
        node.avoid_until = Some(now + step(AVOID.0, AVOID.1, node.failures));
        node.failures = node.failures.saturating_add(1);
    }

    /// It answered, and could not help just now: another is asked next, unless one is in use already.
    pub(crate) fn unhelpful(&mut self, node: NodeIndex, now: Instant) {
        if self.current == node {
            self.current = self.after(node, now).unwrap_or(node);
        }
    }

    /// It answered.
    pub(crate) fn worked(&mut self, node: NodeIndex) {
        let node = &mut self.all[node.0];
        (node.avoid_until, node.failures) = (None, 0);
    }

    /// Takes what `asked` says of its region. The nodes whose endpoints are new are in the answer.
    pub(crate) fn learn(&mut self, asked: NodeIndex, topology: &GetTopologyResponse) -> Vec<NodeIndex> {
        self.all[asked.0].id = Some(NodeId(topology.node));
        let rows = || topology.nodes.iter().filter(|row| row.region == topology.region);
        let mut changed = Vec::new();
        for row in rows() {
            let id = NodeId(row.id);
            let same = |node: &Known| is_same(&node.endpoint, &row.endpoint);
            let place =
                self.of(id).or_else(|| self.all.iter().position(|n| n.given && same(n)).map(NodeIndex));
            let place = place.unwrap_or_else(|| {
                self.all.push(Known::new(row.endpoint.clone(), Some(id)));
                changed.push(NodeIndex(self.all.len() - 1));
                NodeIndex(self.all.len() - 1)
            });
            let node = &mut self.all[place.0];
            (node.id, node.dead) = (Some(id), row.live == Some(false));
            if !node.given && !is_same(&node.endpoint, &row.endpoint) {
                node.endpoint.clone_from(&row.endpoint);
                changed.push(place);
            }
        }
        for node in self.all.iter_mut().filter(|node| !node.given) {
            node.gone = !rows().any(|row| node.id == Some(NodeId(row.id)));
        }
        changed
    }
}

fn is_same(a: &str, b: &str) -> bool {
    let bare = |text: &str| text.trim_start_matches("http://").trim_end_matches('/').to_ascii_lowercase();
    bare(a) == bare(b)
}

#[cfg(test)]
mod tests {
    use meridian_wire::v1;

    use super::*;

    fn topology(node: u32, nodes: &[(u32, &str, &str)]) -> GetTopologyResponse {
        let row = |&(id, region, endpoint): &(u32, &str, &str)| v1::Node {
            id,
            region: region.into(),
            endpoint: endpoint.into(),
            ..v1::Node::default()
        };
        let nodes = nodes.iter().map(row).collect();
        GetTopologyResponse { node, region: "us".into(), nodes, ..GetTopologyResponse::default() }
    }

    #[test]
    fn learns_the_nodes_of_its_own_region() {
        let mut nodes = Nodes::new(["a:1".to_owned()]);
        let us = topology(1, &[(1, "us", "http://A:1/"), (2, "us", "b:1"), (9, "eu", "c:1")]);
        assert_eq!(nodes.learn(NodeIndex(0), &us), [NodeIndex(1)]);
        assert_eq!((nodes.of(NodeId(1)), nodes.of(NodeId(2))), (Some(NodeIndex(0)), Some(NodeIndex(1))));
        assert_eq!(nodes.of(NodeId(9)), None);
        assert!(nodes.learn(NodeIndex(1), &topology(2, &[(1, "us", "a:1"), (2, "us", "b:1")])).is_empty());
        // It moved to another address, and later it was removed.
        assert_eq!(nodes.learn(NodeIndex(0), &topology(1, &[(2, "us", "b:2")])), [NodeIndex(1)]);
        assert_eq!(nodes.endpoint(NodeIndex(1)), "b:2");
        nodes.learn(NodeIndex(0), &topology(1, &[(1, "us", "a:1")]));
        assert_eq!(nodes.of(NodeId(2)), None);
        assert!(!nodes.are_several());
    }

    #[test]
    fn a_given_endpoint_is_dialled_as_it_was_given() {
        let mut nodes = Nodes::new(["proxy:1".to_owned()]);
        assert!(nodes.learn(NodeIndex(0), &topology(1, &[(1, "us", "inside:1")])).is_empty());
        assert_eq!(nodes.of(NodeId(1)), Some(NodeIndex(0)));
        assert_eq!(nodes.endpoint(NodeIndex(0)), "proxy:1");
    }

    #[test]
    fn goes_to_the_next_that_did_not_fail_and_stays_there() {
        let mut nodes = Nodes::new(["a:1", "b:1", "c:1"].map(str::to_owned));
        let mut now = Instant::now();
        assert_eq!(nodes.current(now), NodeIndex(0));
        nodes.failed(NodeIndex(0), now);
        nodes.failed(NodeIndex(1), now);
        assert_eq!(nodes.current(now), NodeIndex(2));
        now += AVOID.1;
        assert_eq!(nodes.current(now), NodeIndex(2), "it works: no reason to go back");
        nodes.failed(NodeIndex(2), now);
        nodes.failed(NodeIndex(0), now);
        nodes.failed(NodeIndex(1), now);
        assert_eq!(nodes.current(now), NodeIndex(2), "all failed; it failed least often");
        nodes.worked(NodeIndex(0));
        assert_eq!(nodes.current(now), NodeIndex(0));
        nodes.unhelpful(NodeIndex(1), now);
        assert_eq!(nodes.current(now), NodeIndex(0), "that one was not in use");
        now += AVOID.1;
        nodes.unhelpful(NodeIndex(0), now);
        assert_eq!(nodes.current(now), NodeIndex(1));
    }

    #[test]
    fn one_node_is_asked_again_and_again() {
        let mut nodes = Nodes::new(["a:1".to_owned()]);
        let now = Instant::now();
        nodes.failed(NodeIndex(0), now);
        nodes.unhelpful(NodeIndex(0), now);
        assert_eq!(nodes.current(now), NodeIndex(0));
        assert_eq!(nodes.candidates(now), [NodeIndex(0)]);
    }

    #[test]
    fn who_is_said_to_be_dead_comes_last() {
        let mut nodes = Nodes::new(["a:1".to_owned()]);
        let mut said = topology(1, &[(1, "us", "a:1"), (2, "us", "b:1"), (3, "us", "c:1")]);
        said.nodes[1].live = Some(false);
        nodes.learn(NodeIndex(0), &said);
        let now = Instant::now();
        nodes.failed(NodeIndex(0), now);
        assert_eq!(nodes.current(now), NodeIndex(2));
        nodes.failed(NodeIndex(2), now);
        assert_eq!(nodes.current(now), NodeIndex(1));
    }
}
