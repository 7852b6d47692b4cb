//! How a group looks from one of its nodes: for what must be known when nobody leads, and so nothing can be ordered.

use std::collections::BTreeSet;
use std::time::Duration;

use meridian_types::NodeId;
use meridian_wire::v1;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{Instant as _, ServerState};

use super::handle::GroupHandle;
use super::session::{GroupRaft, Shared};
use crate::machine::Machine;

/// A leader that has been silent for so long, or unanswered by a majority, leads nobody: Raft's own word may be old.
const LATELY: Duration = Duration::from_secs(3);

/// Who votes and who leads, as one node's log has it, committed or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Two while one set of voters replaces another, and then both must agree; none: it knows of no members.
    pub configs: Vec<BTreeSet<NodeId>>,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
}

impl Standing {
    /// Whether the group can decide nothing for good without these nodes, if this is how it stands.
    pub fn is_lost_without(&self, lost: &BTreeSet<NodeId>) -> bool {
        self.configs.iter().any(|voters| voters.difference(lost).count() <= voters.len() / 2)
    }

    pub(super) fn to_wire(&self) -> v1::RaftStandingResponse {
        let voters = |voters: &BTreeSet<NodeId>| v1::RaftVoters {
            nodes: voters.iter().map(|node| u64::from(node.0)).collect(),
        };
        v1::RaftStandingResponse {
            configs: self.configs.iter().map(voters).collect(),
            leader: self.leader.map(|node| node.0),
        }
    }

    fn from_wire(wire: v1::RaftStandingResponse) -> Self {
        let voters =
            |voters: v1::RaftVoters| voters.nodes.into_iter().filter_map(|id| u32::try_from(id).ok());
        Self {
            configs: wire.configs.into_iter().map(|config| voters(config).map(NodeId).collect()).collect(),
            leader: wire.leader.map(NodeId),
        }
    }
}

impl<M: Machine> Shared<M> {
    /// How the group looks from here. A leader is one that a majority has answered lately, or that has spoken lately.
    pub(super) fn standing(&self, raft: &GroupRaft<M>) -> Standing {
        let metrics = raft.metrics().borrow_watched().clone();
        let leader = if metrics.state == ServerState::Leader {
            let answered = metrics.last_quorum_acked.is_some_and(|at| at.elapsed() < LATELY);
            answered.then_some(self.config.node)
        } else {
            let followed = *self.followed.lock();
            followed.filter(|(_, at)| at.elapsed() < LATELY).map(|(leader, _)| leader)
        };
        let narrow = |id: &u64| u32::try_from(*id).ok().map(NodeId);
        let sets = metrics.membership_config.get_joint_config().iter();
        Standing { configs: sets.map(|ids| ids.iter().filter_map(narrow).collect()).collect(), leader }
    }
}

impl<M: Machine> GroupHandle<M> {
    /// How the group looks from a node, this one or another; none: that does not answer in time.
    pub async fn standing_of(&self, node: NodeId, within: Duration) -> Option<Standing> {
        let asked = self.run(move |shared| async move {
            if node == shared.config.node {
                return shared.raft().map(|raft| shared.standing(&raft));
            }
            let mut client = shared.peers.client(node).ok()?;
            let header = Some(shared.peers.header(node));
            let answer = client.standing(v1::RaftStandingRequest { header });
            let answer = tokio::time::timeout(within, answer).await.ok()?.ok()?;
            Some(Standing::from_wire(answer.into_inner()))
        });
        asked.await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(configs: &[&[u32]]) -> Standing {
        let config = |ids: &&[u32]| ids.iter().map(|id| NodeId(*id)).collect();
        Standing { configs: configs.iter().map(config).collect(), leader: None }
    }

    #[test]
    fn a_group_is_lost_where_either_set_has_lost_its_majority() {
        let lost = BTreeSet::from([NodeId(1), NodeId(2)]);
        assert!(of(&[&[1, 2, 3]]).is_lost_without(&lost));
        assert!(of(&[&[1, 2, 3, 4]]).is_lost_without(&lost), "half is no majority");
        assert!(!of(&[&[1, 2, 3, 4, 5]]).is_lost_without(&lost));
        assert!(of(&[&[1, 2, 3], &[1, 2, 3, 4, 5]]).is_lost_without(&lost), "both must agree");
        assert!(!of(&[&[3, 4, 5]]).is_lost_without(&lost));
        assert!(!of(&[]).is_lost_without(&lost), "who knows of no members knows nothing");
        let known = Standing { leader: Some(NodeId(7)), ..of(&[&[1], &[2, 3]]) };
        assert_eq!(Standing::from_wire(known.to_wire()), known);
    }
}
