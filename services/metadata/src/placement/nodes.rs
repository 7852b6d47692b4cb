//! The founding, and what happens to nodes.

use std::collections::BTreeSet;

use meridian_types::NodeId;

use super::apply::no_node;
use super::command::{Found, Join};
use super::reply::{Outcome, Refusal, RefusalCode as Code, malformed, refuse};
use super::rows::{Founded, NodeRow, NodeState, ShardRow};
use super::state::Placement;

/// The longest address in bytes: a DNS name, a scheme and a port.
const ADDRESS_BYTES: usize = 300;

impl Placement {
    pub(super) fn found(&mut self, found: Found) -> Outcome {
        if let Some(founded) = self.founded {
            return Err(refuse(
                Code::AlreadyFounded,
                format!(
                    "region {} of cluster {} is founded already; join it",
                    founded.region, founded.cluster
                ),
            ));
        }
        if found.cluster.0.is_nil() || found.replication == 0 || found.nodes.is_empty() {
            return Err(malformed(
                "a region is founded with a cluster uuid, a replication from 1 on and a node",
            ));
        }
        let mut ids = BTreeSet::new();
        let mut disks = BTreeSet::new();
        for node in &found.nodes {
            check_join(node)?;
            if !ids.insert(node.node) || !disks.insert(node.disk) {
                return Err(malformed(format!("node {} or its disk is named twice", node.node)));
            }
        }
        let Found { cluster, region, replication, nodes } = found;
        self.founded = Some(Founded { cluster, region, replication });
        self.nodes = nodes.into_iter().map(|join| (join.node, row(join, NodeState::Active))).collect();
        Ok(())
    }

    pub(super) fn join(&mut self, join: Join) -> Outcome {
        check_join(&join)?;
        if self.removed_nodes.contains(&join.node) {
            return Err(refuse(
                Code::UsedId,
                format!("node {} was removed for ever; format its folder under a new id", join.node),
            ));
        }
        if self.removed_disks.contains(&join.disk) {
            return Err(refuse(
                Code::UsedDisk,
                format!(
                    "disk {} is that of a node that was removed for ever; format an empty folder",
                    join.disk
                ),
            ));
        }
        if let Some((other, _)) = self.nodes().find(|(id, row)| row.disk == join.disk && *id != join.node) {
            return Err(refuse(
                Code::UsedDisk,
                format!("disk {} is that of node {other}; start the node under that id", join.disk),
            ));
        }
        let state = match self.nodes.get(&join.node) {
            Some(known) if known.disk != join.disk => {
                return Err(refuse(
                    Code::UsedId,
                    format!(
                        "node {} is known by disk {}, not {}: a node that lost its disk is another node; give it a new id",
                        join.node, known.disk, join.disk
                    ),
                ));
            }
            Some(known) => known.state,
            None => NodeState::Active,
        };
        self.nodes.insert(join.node, row(join, state));
        Ok(())
    }

    pub(super) fn drain(&mut self, node: NodeId) -> Outcome {
        if self.known_node(node)?.state == NodeState::Draining {
            return Ok(());
        }
        let others = self.nodes().filter(|(id, row)| *id != node && row.state == NodeState::Active).count();
        let replication = self.replication();
        let held = || self.shards.iter().filter(|(_, row)| row.members.contains(&node));
        let stuck = held().filter(|(_, row)| row.members.len().min(replication) > others);
        if let Some((shard, row)) = stuck.min_by_key(|(_, row)| row.members.len()) {
            return Err(if row.members.len() == 1 {
                refuse(
                    Code::LastReplica,
                    format!(
                        "node {node} has the only replica of shard {shard} and no other node is active; add one first"
                    ),
                )
            } else {
                refuse(
                    Code::NoRoom,
                    format!(
                        "shard {shard} has {} replicas, and without node {node} there are {others} active nodes; add one first",
                        row.members.len()
                    ),
                )
            });
        }
        self.known_node(node)?.state = NodeState::Draining;
        Ok(())
    }

    pub(super) fn set_replication(&mut self, replicas: u8) -> Outcome {
        let active = self.nodes().filter(|(_, row)| row.state == NodeState::Active).count();
        if replicas == 0 {
            return Err(malformed(
                "a shard has at least one replica; three survive the loss of any one node",
            ));
        }
        if usize::from(replicas) > active.max(self.replication()) {
            return Err(refuse(
                Code::NoRoom,
                format!(
                    "{replicas} replicas need as many active nodes, and there are {active}; add nodes first"
                ),
            ));
        }
        if let Some(founded) = &mut self.founded {
            founded.replication = replicas;
        }
        Ok(())
    }

    pub(super) fn undrain(&mut self, node: NodeId) -> Outcome {
        self.known_node(node)?.state = NodeState::Active;
        Ok(())
    }

    pub(super) fn remove(&mut self, node: NodeId) -> Outcome {
        if self.removed_nodes.contains(&node) {
            return Ok(());
        }
        let row = self.nodes.get(&node).ok_or_else(|| no_node(node))?;
        let (state, disk) = (row.state, row.disk);
        if self.shards.values().any(|row| row.members == [node]) {
            let shards = self.shards.values().filter(|row| row.members == [node]).count();
            return Err(refuse(
                Code::OnlyCopy,
                format!("node {node} has the only replica of {shards} shards; drain it and wait"),
            ));
        }
        let held = self.shards.values().filter(|row| uses(row, node)).count();
        if held > 0 {
            return Err(refuse(
                Code::InUse,
                format!("node {node} still has a part in {held} shards; drain it and wait"),
            ));
        }
        if state != NodeState::Draining {
            return Err(refuse(
                Code::NotDraining,
                format!("node {node} is active and may be given replicas at any time; drain it first"),
            ));
        }
        self.nodes.remove(&node);
        self.removed_nodes.insert(node);
        self.removed_disks.insert(disk);
        Ok(())
    }
}

/// Whether the node has or shall have a part in the shard. The set before counts: elections may still need it.
pub(super) fn uses(row: &ShardRow, node: NodeId) -> bool {
    row.is_voter(node)
        || row.learner == Some(node)
        || row.moving.is_some_and(|moving| moving.from == node || moving.to == node)
}

fn row(join: Join, state: NodeState) -> NodeRow {
    let Join { node: _, disk, peer_address, client_address } = join;
    NodeRow { disk, peer_address, client_address, state }
}

fn check_join(join: &Join) -> Result<(), Refusal> {
    if join.node.0 == 0 || join.disk.0.is_nil() {
        return Err(malformed("a node has an id from 1 on and a disk uuid"));
    }
    for address in [&join.peer_address, &join.client_address] {
        if address.is_empty() || address.len() > ADDRESS_BYTES {
            return Err(malformed(format!(
                "node {} has no peer or client address, or one over {ADDRESS_BYTES} bytes",
                join.node
            )));
        }
    }
    Ok(())
}
