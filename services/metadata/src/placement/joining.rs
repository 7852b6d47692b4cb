//! What the catalog's nodes mean for a region's placement: who is to join it, and of whom the catalog is to be told that they
//! are gone.

use meridian_types::NodeId;

use super::command::{Change, Join};
use super::nodes::uses;
use super::rows::NodeState;
use super::state::Placement;
use crate::catalog::Catalog;
use crate::members::Seen;

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Changes of placement: nodes that join, or have moved to other addresses.
    pub joins: Vec<Change>,
    /// Changes of placement: nodes that were replaced are emptied, and removed once they are empty.
    pub leaves: Vec<Change>,
    /// Nodes that placement has removed for ever and the catalog still has.
    pub gone: Vec<NodeId>,
}

impl Placement {
    /// What is to be done, as the leader of the group sees its members. A node joins once it has the group's log: one that was
    /// admitted and never came is counted on by nobody.
    pub fn due(&self, catalog: &Catalog, seen: &Seen) -> Due {
        let Some(founded) = self.founded() else { return Due::default() };
        let mut due = Due::default();
        for node in catalog.nodes().filter(|node| node.region == founded.region) {
            if self.is_removed(node.id) {
                due.gone.push(node.id);
                continue;
            }
            let joins = match self.node(node.id) {
                None => seen.is_there(node.id),
                Some(row) => {
                    (&row.peer_address, &row.client_address) != (&node.peer_address, &node.client_address)
                }
            };
            if joins {
                due.joins.push(Change::Join(Join {
                    node: node.id,
                    disk: node.disk,
                    peer_address: node.peer_address.clone(),
                    client_address: node.client_address.clone(),
                }));
            }
        }
        due.leaves = self.replaced(catalog).filter_map(|node| self.leave(node)).collect();
        due
    }

    /// Nodes in whose place others have joined.
    fn replaced(&self, catalog: &Catalog) -> impl Iterator<Item = NodeId> {
        let joined = catalog.nodes().filter(|row| self.node(row.id).is_some());
        joined.filter_map(|row| row.replaces).filter(|old| self.node(*old).is_some())
    }

    /// The next step out of the region; none: others are at work.
    fn leave(&self, node: NodeId) -> Option<Change> {
        if self.node(node)?.state != NodeState::Draining {
            return Some(Change::Drain { node });
        }
        let is_used = self.shards().any(|(_, row)| uses(row, node));
        (!is_used).then_some(Change::Remove { node })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use meridian_types::{Incarnation, Origin, RegionId, ShardId, ShardNo, Timestamp};

    use super::*;
    use crate::catalog::{self, MAX_FEATURE_LEVEL, NodeRow};
    use crate::members::Reach;
    use crate::placement::Found;
    use crate::testing::{CLUSTER, disk, genesis};

    fn row(id: u32, region: u16) -> NodeRow {
        NodeRow {
            id: NodeId(id),
            region: RegionId(region),
            disk: disk(id),
            peer_address: format!("127.0.0.1:{}", 7000 + id),
            client_address: format!("http://127.0.0.1:{}", 8000 + id),
            max_feature_level: MAX_FEATURE_LEVEL,
            added: false,
            replaces: None,
        }
    }

    fn join(node: &NodeRow) -> Join {
        Join {
            node: node.id,
            disk: node.disk,
            peer_address: node.peer_address.clone(),
            client_address: node.client_address.clone(),
        }
    }

    #[test]
    fn nodes_join_once_they_are_there_move_and_are_told_of_once_they_are_gone() {
        let mut catalog = Catalog::default();
        let apply = |catalog: &mut Catalog, change| {
            catalog.apply(catalog::Command::new(Timestamp(1), change)).unwrap();
        };
        apply(&mut catalog, catalog::Change::Genesis(genesis(&[1, 2])));
        let mut placement = Placement::default();
        let mut seen = Seen::default();
        assert_eq!(placement.due(&catalog, &seen), Due::default(), "the region is not founded");
        let found =
            Found { cluster: CLUSTER, region: RegionId(1), replication: 3, nodes: vec![join(&row(1, 1))] };
        placement.change(Change::Found(found)).unwrap();
        assert_eq!(placement.due(&catalog, &seen), Due::default(), "node 2 is another region's");

        let mut third = row(3, 1);
        apply(&mut catalog, catalog::Change::RegisterNode(third.clone()));
        for reach in [Reach::Silent, Reach::Behind] {
            seen.members = BTreeMap::from([(NodeId(3), reach)]);
            assert_eq!(placement.due(&catalog, &seen), Due::default(), "{reach:?}");
        }
        seen.members = BTreeMap::from([(NodeId(3), Reach::There)]);
        let due = placement.due(&catalog, &seen);
        assert_eq!(due, Due { joins: vec![Change::Join(join(&third))], ..Due::default() });
        placement.change(due.joins[0].clone()).unwrap();
        assert_eq!(placement.due(&catalog, &seen), Due::default());

        placement.change(Change::Drain { node: NodeId(3) }).unwrap();
        third.client_address = "http://127.0.0.1:1".to_owned();
        apply(&mut catalog, catalog::Change::RegisterNode(third.clone()));
        let due = placement.due(&catalog, &Seen::default());
        assert_eq!(due.joins, [Change::Join(join(&third))], "where it is counts, also while it is silent");
        placement.change(due.joins[0].clone()).unwrap();
        assert_eq!(placement.node(NodeId(3)).unwrap().state, NodeState::Draining, "it drains all the same");

        placement.change(Change::Remove { node: NodeId(3) }).unwrap();
        assert_eq!(placement.due(&catalog, &seen), Due { gone: vec![NodeId(3)], ..Due::default() });
        apply(&mut catalog, catalog::Change::RemoveNode(NodeId(3)));
        assert_eq!(placement.due(&catalog, &seen), Due::default());
    }

    #[test]
    fn a_node_that_was_replaced_is_emptied_once_the_other_is_there_and_then_removed() {
        let mut catalog = Catalog::default();
        let apply = |catalog: &mut Catalog, change| {
            catalog.apply(catalog::Command::new(Timestamp(1), change)).unwrap();
        };
        apply(&mut catalog, catalog::Change::Genesis(genesis(&[1, 2])));
        let old = NodeRow { region: RegionId(1), ..row(3, 1) };
        let new = NodeRow { replaces: Some(NodeId(3)), ..row(4, 1) };
        apply(&mut catalog, catalog::Change::RegisterNode(old.clone()));
        let mut placement = Placement::default();
        let nodes = [row(1, 1), old].iter().map(join).collect();
        let found = Found { cluster: CLUSTER, region: RegionId(1), replication: 1, nodes };
        placement.change(Change::Found(found)).unwrap();
        apply(&mut catalog, catalog::Change::RegisterNode(new.clone()));
        let seen = Seen { members: BTreeMap::from([(NodeId(4), Reach::Behind)]), ..Seen::default() };
        assert_eq!(
            placement.due(&catalog, &seen),
            Due::default(),
            "nothing is given up before the new node is there"
        );

        placement.change(Change::Join(join(&new))).unwrap();
        let due = placement.due(&catalog, &seen);
        assert_eq!(due.leaves, [Change::Drain { node: NodeId(3) }]);
        placement.change(due.leaves[0].clone()).unwrap();
        let mut holding = placement.clone();
        let origin = Origin { region: RegionId(1), incarnation: Incarnation(1) };
        let shard = ShardId { origin, no: ShardNo(0) };
        holding.change(Change::Undrain { node: NodeId(3) }).unwrap();
        holding.change(Change::Create { shard, members: vec![NodeId(3)] }).unwrap();
        holding.change(Change::Drain { node: NodeId(3) }).unwrap();
        assert_eq!(holding.due(&catalog, &seen).leaves, [], "its replica is to move first");
        let due = placement.due(&catalog, &seen);
        assert_eq!(due.leaves, [Change::Remove { node: NodeId(3) }], "it holds nothing");
        placement.change(due.leaves[0].clone()).unwrap();
        let due = placement.due(&catalog, &seen);
        assert_eq!((due.leaves, due.gone), (vec![], vec![NodeId(3)]));
        apply(&mut catalog, catalog::Change::RemoveNode(NodeId(3)));
        assert_eq!(placement.due(&catalog, &seen), Due::default());
    }
}
