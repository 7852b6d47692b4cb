//! Nodes that come, move to other addresses, and go.

use std::sync::Arc;

use meridian_types::NodeId;

use super::NODES_CHANGE;
use super::apply::{malformed, refuse};
use super::reply::{Outcome, Refusal, RefusalCode as Code, Reply};
use super::rows::{NodeRow, RegionRow};
use super::state::Catalog;

/// The longest address in bytes: a DNS name, a scheme and a port.
const ADDRESS_BYTES: usize = 300;

impl Catalog {
    pub(super) fn register_node(&mut self, node: NodeRow) -> Reply {
        check_node(&node)?;
        if self.region(node.region).is_none() {
            return Err(refuse(Code::RegionNotFound, format!("there is no region {}", node.region)));
        }
        if node.max_feature_level < self.feature_level {
            return Err(refuse(
                Code::FeatureLevel,
                format!(
                    "node {} knows feature level {} at most, the cluster is at {}; upgrade the node",
                    node.id, node.max_feature_level, self.feature_level
                ),
            ));
        }
        self.check_id_and_disk(&node)?;
        self.check_addresses(&node)?;
        let (added, known) = match self.node(node.id) {
            Some(known) => (known.added, known.replaces),
            None => (true, None),
        };
        let replaces = self.check_replaced(&node, known)?;
        let node = Arc::new(NodeRow { added, replaces, ..node });
        self.nodes.insert_mut(node.id, Arc::clone(&node));
        Ok(Outcome::NodeRegistered(node))
    }

    fn check_id_and_disk(&self, node: &NodeRow) -> Result<(), Refusal> {
        if self.is_removed(node.id) {
            return Err(refuse(
                Code::NodeRemoved,
                format!("node {} was removed for ever; format an empty folder under a new id", node.id),
            ));
        }
        if let Some((removed, _)) = self.removed.iter().find(|(_, disk)| **disk == node.disk) {
            return Err(refuse(
                Code::NodeRemoved,
                format!(
                    "disk {} is that of node {removed}, which was removed for ever; format an empty folder",
                    node.disk
                ),
            ));
        }
        if let Some(other) = self.nodes().find(|other| other.disk == node.disk && other.id != node.id) {
            return Err(refuse(
                Code::NodeChanged,
                format!("disk {} is that of node {}; start the node under that id", node.disk, other.id),
            ));
        }
        match self.node(node.id) {
            Some(known) if known.disk != node.disk => Err(refuse(
                Code::NodeChanged,
                format!(
                    "node {} is known by disk {}, not {}: a node that lost its disk is another node; give it a new id",
                    node.id, known.disk, node.disk
                ),
            )),
            Some(known) if known.region != node.region => Err(refuse(
                Code::NodeChanged,
                format!("node {} is in region {}; a node does not move to another", node.id, known.region),
            )),
            Some(_) => Ok(()),
            None if self.feature_level < NODES_CHANGE => Err(refuse(
                Code::FeatureLevel,
                format!(
                    "to add a node needs feature level {NODES_CHANGE}, the cluster is at {}; upgrade every node, then \
                     raise the level",
                    self.feature_level
                ),
            )),
            None => Ok(()),
        }
    }

    /// In whose place the node came: once said, it stays.
    fn check_replaced(&self, node: &NodeRow, known: Option<NodeId>) -> Result<Option<NodeId>, Refusal> {
        let Some(old) = node.replaces.filter(|old| known != Some(*old)) else { return Ok(known) };
        if let Some(known) = known {
            let message = format!("node {} came in the place of node {known}, not of {old}", node.id);
            return Err(refuse(Code::NodeChanged, message));
        }
        match self.node(old) {
            Some(row) if old != node.id && row.region == node.region => {}
            _ if self.is_removed(old) => {
                let message = format!("node {old} was removed already; add node {} without it", node.id);
                return Err(refuse(Code::NodeRemoved, message));
            }
            _ => {
                let message = format!("node {old} is no other node of that region; list the nodes");
                return Err(refuse(Code::NodeNotFound, message));
            }
        }
        if let Some(other) = self.nodes().find(|other| other.replaces == Some(old)) {
            return Err(refuse(
                Code::NodeChanged,
                format!("node {} replaces node {old}; add node {} without it", other.id, node.id),
            ));
        }
        Ok(Some(old))
    }

    /// Two nodes under one address would answer for each other.
    fn check_addresses(&self, node: &NodeRow) -> Result<(), Refusal> {
        // Builds that know no higher level apply what is below it without this check.
        if self.feature_level < NODES_CHANGE {
            return Ok(());
        }
        if node.peer_address == node.client_address {
            return Err(malformed(format!(
                "node {} has {} as its peer and its client address; give each listener its own port",
                node.id, node.peer_address
            )));
        }
        for address in [&node.peer_address, &node.client_address] {
            let has = |other: &&Arc<NodeRow>| {
                other.id != node.id && [&other.peer_address, &other.client_address].contains(&address)
            };
            if let Some(other) = self.nodes().find(has) {
                return Err(refuse(
                    Code::AddressTaken,
                    format!("{address} is the address of node {}; give node {} its own", other.id, node.id),
                ));
            }
        }
        Ok(())
    }

    pub(super) fn remove_node(&mut self, id: NodeId) -> Reply {
        if self.is_removed(id) {
            return Ok(Outcome::NodeRemoved(id));
        }
        let Some(node) = self.node(id).cloned() else {
            return Err(refuse(Code::NodeNotFound, format!("there is no node {id}; list the nodes")));
        };
        if self.nodes().count() == 1 {
            return Err(refuse(Code::LastNode, format!("node {id} is the only one of the cluster")));
        }
        self.nodes.remove_mut(&id);
        self.removed.insert_mut(id, node.disk);
        // What it alone held of the past is given up, and waited for no more.
        if let Some(region) =
            self.region(node.region).filter(|row| row.past.iter().any(|past| past.held.contains_key(&id)))
        {
            let mut row = RegionRow::clone(region);
            row.past.iter_mut().for_each(|past| drop(past.held.remove(&id)));
            self.regions.insert_mut(row.id, Arc::new(row));
        }
        Ok(Outcome::NodeRemoved(id))
    }
}

pub(super) fn check_node(node: &NodeRow) -> Result<(), Refusal> {
    if node.id.0 == 0 || node.disk.0.is_nil() {
        return Err(malformed("a node has an id from 1 on and a disk uuid"));
    }
    for address in [&node.peer_address, &node.client_address] {
        if address.is_empty() || address.len() > ADDRESS_BYTES {
            return Err(malformed(format!(
                "node {} has no peer or client address, or one over {ADDRESS_BYTES} bytes",
                node.id
            )));
        }
    }
    Ok(())
}
