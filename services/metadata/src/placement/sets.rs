//! How a shard's replica set changes: by one node, from a learner that has caught up, into a new epoch.

use meridian_types::{LeaderEpoch, NodeId, SetVersion, ShardId};

use super::apply::no_node;
use super::reply::{Outcome, Refusal, RefusalCode as Code, malformed, refuse};
use super::rows::{Move, NodeState, ShardRow};
use super::state::Placement;

impl Placement {
    pub(super) fn learn(&mut self, shard: ShardId, version: SetVersion, node: Option<NodeId>) -> Outcome {
        let row = self.known_shard(shard)?;
        check_version(shard, row, version)?;
        if let Some(node) = node {
            self.check_newcomer(shard, row, node)?;
        }
        self.shard_mut(shard)?.learner = node;
        Ok(())
    }

    pub(super) fn change_set(
        &mut self,
        shard: ShardId,
        version: SetVersion,
        members: Vec<NodeId>,
    ) -> Outcome {
        let members = sorted(shard, members)?;
        let row = self.known_shard(shard)?;
        check_version(shard, row, version)?;
        // Elections go on under both sets, whichever of them is the present one, so a change can be taken back: of the set before
        // there may be one left that can lead where of the new one there is not.
        let is_taken_back = row.previous.as_ref() == Some(&members) && row.leader().is_none();
        if row.previous.is_some() && !is_taken_back {
            return Err(refuse(
                Code::Busy,
                format!(
                    "the last change of shard {shard} has not settled; wait until its leader has committed"
                ),
            ));
        }
        let added: Vec<NodeId> = members.iter().filter(|node| !row.members.contains(node)).copied().collect();
        let gone: Vec<NodeId> = row.members.iter().filter(|node| !members.contains(node)).copied().collect();
        if added.len() + gone.len() != 1 {
            return Err(refuse(
                Code::BadSet,
                format!(
                    "a change adds or removes one replica; this one of shard {shard} adds {} and removes {}",
                    added.len(),
                    gone.len()
                ),
            ));
        }
        if let Some(added) = added.first() {
            if row.learner != Some(*added) && !is_taken_back {
                return Err(refuse(
                    Code::BadSet,
                    format!("node {added} has not learnt shard {shard}; make it the learner first"),
                ));
            }
            if is_taken_back {
                self.node(*added).ok_or_else(|| no_node(*added))?;
            } else {
                self.check_newcomer(shard, row, *added)?;
            }
        }
        if row.begun.0 == u32::MAX || row.version.0 == u32::MAX {
            return Err(malformed(format!(
                "shard {shard} has no epochs left; restore it as a new incarnation"
            )));
        }
        let row = self.shard_mut(shard)?;
        row.version = row.version.next();
        row.begun = LeaderEpoch(row.begun.0 + 1);
        row.changed_in = row.begun;
        row.previous = Some(std::mem::replace(&mut row.members, members));
        row.learner = row.learner.filter(|learner| !added.contains(learner));
        row.moving = row.moving.filter(|moving| !gone.contains(&moving.from));
        Ok(())
    }

    pub(super) fn begin_move(&mut self, shard: ShardId, from: NodeId, to: NodeId) -> Outcome {
        let row = self.known_shard(shard)?;
        let moving = Some(Move { from, to });
        if row.moving == moving {
            return Ok(());
        }
        self.check_move(shard, from, to)?;
        self.shard_mut(shard)?.moving = moving;
        Ok(())
    }

    pub(super) fn cancel_move(&mut self, shard: ShardId) -> Outcome {
        self.shard_mut(shard)?.moving = None;
        Ok(())
    }

    /// What the state alone says against a move; whether the node is alive and has room is the driver's to check.
    pub(crate) fn check_move(&self, shard: ShardId, from: NodeId, to: NodeId) -> Outcome {
        let row = self.known_shard(shard)?;
        if !row.members.contains(&from) {
            return Err(refuse(
                Code::NotMember,
                format!(
                    "node {from} has no replica of shard {shard}; move it from one of {:?}",
                    bare(&row.members)
                ),
            ));
        }
        self.check_newcomer(shard, row, to)?;
        if let Some(other) = row.moving {
            return Err(refuse(
                Code::Busy,
                format!(
                    "shard {shard} is being moved from node {} to {}; wait, or cancel that move",
                    other.from, other.to
                ),
            ));
        }
        if row.previous.is_some() {
            return Err(refuse(
                Code::Busy,
                format!("the last change of shard {shard} has not settled; try again in a moment"),
            ));
        }
        Ok(())
    }

    fn check_newcomer(&self, shard: ShardId, row: &ShardRow, node: NodeId) -> Outcome {
        let known = self.node(node).ok_or_else(|| no_node(node))?;
        if known.state != NodeState::Active {
            return Err(refuse(
                Code::Draining,
                format!(
                    "node {node} is draining and takes no replica of shard {shard}; choose an active one"
                ),
            ));
        }
        if row.members.contains(&node) {
            return Err(refuse(
                Code::AlreadyMember,
                format!("node {node} has a replica of shard {shard} already; choose another"),
            ));
        }
        Ok(())
    }
}

/// A set in rising order.
pub(super) fn sorted(shard: ShardId, mut members: Vec<NodeId>) -> Result<Vec<NodeId>, Refusal> {
    let named = members.len();
    members.sort_unstable();
    members.dedup();
    if members.is_empty() || members.len() != named {
        return Err(refuse(
            Code::BadSet,
            format!("shard {shard} has at least one replica, and a node at most one; name each node once"),
        ));
    }
    Ok(members)
}

fn check_version(shard: ShardId, row: &ShardRow, version: SetVersion) -> Outcome {
    if row.version == version {
        return Ok(());
    }
    Err(refuse(
        Code::VersionConflict,
        format!(
            "the set of shard {shard} is at version {}, not {version}; read it again and decide anew",
            row.version
        ),
    ))
}

fn bare(nodes: &[NodeId]) -> Vec<u32> {
    nodes.iter().map(|node| node.0).collect()
}
