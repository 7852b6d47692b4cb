//! What the catalog's nodes mean for a region's placement: who is to join it, and of whom the catalog is to be told that they
//! are gone.

use meridian_types::NodeId;

use super::command::{Change, Join};
use super::state::Placement;
use crate::catalog::Catalog;
use crate::members::Seen;

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Changes of placement: nodes that join, or have moved to other addresses.
    pub joins: Vec<Change>,
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
        due
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use meridian_types::{RegionId, Timestamp};

    use super::*;
    use crate::catalog::{self, MAX_FEATURE_LEVEL, NodeRow};
    use crate::members::Reach;
    use crate::placement::{Found, NodeState};
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
        assert_eq!(due, Due { joins: vec![Change::Join(join(&third))], gone: vec![] });
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
        assert_eq!(placement.due(&catalog, &seen), Due { joins: vec![], gone: vec![NodeId(3)] });
        apply(&mut catalog, catalog::Change::RemoveNode(NodeId(3)));
        assert_eq!(placement.due(&catalog, &seen), Due::default());
    }
}
