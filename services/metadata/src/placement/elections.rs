//! A shard's row and its epochs: begun, elected, settled.
//!
//! Between `Begin(e)` and `Elect(e)` the sets that elect stay as they are: a change of the set begins an epoch of its
//! own, and settling needs a leader. So whoever counted answers for `e` counted them over the right sets.

use meridian_types::{Boot, LeaderEpoch, NodeId, SetVersion, ShardId};

use super::apply::no_node;
use super::reply::{Outcome, RefusalCode as Code, refuse};
use super::rows::{Elected, ShardRow};
use super::sets::sorted;
use super::state::Placement;

impl Placement {
    pub(super) fn create(&mut self, shard: ShardId, members: Vec<NodeId>) -> Outcome {
        if self.shards.contains_key(&shard) {
            return Err(refuse(
                Code::AlreadyThere,
                format!("shard {shard} is placed already; nothing to do"),
            ));
        }
        let members = sorted(shard, members)?;
        if members.len() > self.replication() {
            return Err(refuse(
                Code::BadSet,
                format!(
                    "shard {shard} shall have {} replicas; name no more than that, not {}",
                    self.replication(),
                    members.len()
                ),
            ));
        }
        if let Some(unknown) = members.iter().find(|node| !self.nodes.contains_key(node)) {
            return Err(no_node(*unknown));
        }
        let row = ShardRow {
            version: SetVersion(1),
            members,
            learner: None,
            previous: None,
            changed_in: LeaderEpoch(0),
            begun: LeaderEpoch(0),
            elected: None,
            moving: None,
        };
        self.shards.insert(shard, row);
        Ok(())
    }

    pub(super) fn begin(&mut self, shard: ShardId, epoch: LeaderEpoch) -> Outcome {
        let row = self.shard_mut(shard)?;
        if epoch <= row.begun {
            return Err(refuse(
                Code::StaleEpoch,
                format!("shard {shard} has begun epoch {}; begin a higher one than {epoch}", row.begun),
            ));
        }
        row.begun = epoch;
        Ok(())
    }

    pub(super) fn elect(&mut self, shard: ShardId, epoch: LeaderEpoch, node: NodeId, boot: Boot) -> Outcome {
        let row = self.shard_mut(shard)?;
        if epoch != row.begun || epoch == LeaderEpoch(0) {
            return Err(refuse(
                Code::StaleEpoch,
                format!("shard {shard} has begun epoch {}; nobody is elected in {epoch}", row.begun),
            ));
        }
        let elected = Elected { epoch, node, boot };
        match row.leader() {
            Some(leader) if leader == elected => return Ok(()),
            Some(leader) => {
                return Err(refuse(
                    Code::AlreadyElected,
                    format!(
                        "node {} was elected for shard {shard} in epoch {epoch}; begin the next one",
                        leader.node
                    ),
                ));
            }
            None => {}
        }
        if !row.members.contains(&node) {
            return Err(refuse(
                Code::NotMember,
                format!("node {node} has no replica of shard {shard} and cannot lead it; elect a member"),
            ));
        }
        row.elected = Some(elected);
        Ok(())
    }

    pub(super) fn settle(&mut self, shard: ShardId, epoch: LeaderEpoch) -> Outcome {
        let row = self.shard_mut(shard)?;
        if row.leader().is_none_or(|leader| leader.epoch != epoch) || epoch < row.changed_in {
            return Err(refuse(
                Code::StaleEpoch,
                format!(
                    "shard {shard} has begun epoch {}; the leader of that epoch settles the set, not that of {epoch}",
                    row.begun
                ),
            ));
        }
        row.previous = None;
        Ok(())
    }
}
