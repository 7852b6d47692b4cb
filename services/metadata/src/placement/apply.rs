//! Gives each change to the function that does it. Every such function checks all, then changes; a refusal leaves the
//! state as it was.

use meridian_types::{NodeId, ShardId};

use super::command::{Change, Command};
use super::reply::{Outcome, Refusal, RefusalCode as Code, Reply, refuse};
use super::rows::{NodeRow, ShardRow};
use super::state::Placement;

impl Placement {
    /// Applies a command. The same commands in the same order give the same state, everywhere.
    pub fn apply(&mut self, command: Command) -> Reply {
        command.changes.into_iter().map(|change| self.change(change)).collect()
    }

    /// Applies one change.
    ///
    /// # Errors
    /// [`Refusal`] where it changed nothing.
    pub fn change(&mut self, change: Change) -> Outcome {
        if self.founded.is_none() && !matches!(change, Change::Found(_)) {
            return Err(refuse(Code::NotFounded, "the region is not founded yet; wait for its first nodes"));
        }
        match change {
            Change::Found(found) => self.found(found),
            Change::Join(join) => self.join(join),
            Change::Drain { node } => self.drain(node),
            Change::Undrain { node } => self.undrain(node),
            Change::Remove { node } => self.remove(node),
            Change::SetReplication { replicas } => self.set_replication(replicas),
            Change::Create { shard, members } => self.create(shard, members),
            Change::Begin { shard, epoch } => self.begin(shard, epoch),
            Change::Elect { shard, epoch, node, boot } => self.elect(shard, epoch, node, boot),
            Change::Learner { shard, version, node } => self.learn(shard, version, node),
            Change::Change { shard, version, members } => self.change_set(shard, version, members),
            Change::Settle { shard, epoch } => self.settle(shard, epoch),
            Change::Move { shard, from, to } => self.begin_move(shard, from, to),
            Change::CancelMove { shard } => self.cancel_move(shard),
        }
    }

    pub(super) fn known_node(&mut self, id: NodeId) -> Result<&mut NodeRow, Refusal> {
        self.nodes.get_mut(&id).ok_or_else(|| no_node(id))
    }

    pub(super) fn known_shard(&self, id: ShardId) -> Result<&ShardRow, Refusal> {
        self.shards.get(&id).ok_or_else(|| no_shard(id))
    }

    /// For writing, after everything was checked.
    pub(super) fn shard_mut(&mut self, id: ShardId) -> Result<&mut ShardRow, Refusal> {
        self.shards.get_mut(&id).ok_or_else(|| no_shard(id))
    }
}

pub(super) fn no_node(id: NodeId) -> Refusal {
    refuse(
        Code::NodeNotFound,
        format!(
            "this region knows no node {id}: add it first, or choose one that `meridian node list` shows"
        ),
    )
}

pub(crate) fn no_shard(id: ShardId) -> Refusal {
    refuse(Code::ShardNotFound, format!("this region places no shard {id}; list its shards"))
}
