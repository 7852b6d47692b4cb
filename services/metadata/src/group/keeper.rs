//! Keeps a group's members true while this node leads it: executes the steps that [`crate::members`] decides on, one at a
//! time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use meridian_types::NodeId;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{BasicNode, ChangeMembers, Instant as _, ServerState};
use tokio::time::timeout;

use super::handle::GroupHandle;
use super::session::Shared;
use crate::machine::Machine;
use crate::members::{Reach, Rule, Seen, Step, Wanted, next};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// How long one change may take. What is late goes on by itself, and the next look sees how far it is.
const CHANGE_WITHIN: Duration = Duration::from_secs(10);
/// A member that lacks at most so many entries is as good as there.
const WITHIN_REACH: u64 = 64;

/// Names the nodes that a group should have, as they are known now.
pub type WantedNodes = Arc<dyn Fn() -> BTreeMap<NodeId, Wanted> + Send + Sync>;

impl<M: Machine> GroupHandle<M> {
    /// Keeps the group's members what `wanted` says, whenever this node leads it; for ever.
    pub async fn keep_members(self, rule: Rule, wanted: WantedNodes) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let Some(seen) = self.seen() else { continue };
            let wanted = wanted();
            let Some(step) = next(rule, &wanted, &seen) else { continue };
            let address = match &step {
                Step::Learn(node) => wanted.get(node).map(|row| row.address.clone()).unwrap_or_default(),
                _ => String::new(),
            };
            tracing::info!(group = M::GROUP, ?step, "changing who has the log and who votes");
            let done = self.run(move |shared| async move { shared.take(step, address).await }).await;
            if let Err(why) = done.unwrap_or_else(|stopped| Err(stopped.to_string())) {
                tracing::warn!(group = M::GROUP, why, "the change was not made; looking again");
            }
        }
    }

    /// The group as its leader sees it; none while another node leads it, or a change is under way.
    pub fn seen(&self) -> Option<Seen> {
        let shared = &self.0;
        // Cloned at once: the core waits for whoever holds the reference.
        let metrics = shared.raft()?.metrics().borrow_watched().clone();
        if metrics.state != ServerState::Leader
            || metrics.membership_config != metrics.committed_membership_config
        {
            return None;
        }
        let membership = metrics.membership_config.membership();
        let (matched, heard) = (metrics.replication.as_ref()?, metrics.heartbeat.as_ref()?);
        let silent_after = shared.config.election_max * 2;
        let reach = |id: &u64| {
            if *id == metrics.id {
                return Reach::There;
            }
            let heard = heard.get(id).and_then(Option::as_ref);
            if heard.is_none_or(|at| at.elapsed() > silent_after) {
                return Reach::Silent;
            }
            let has = matched.get(id).and_then(Option::as_ref).map_or(0, |log_id| log_id.index);
            let is_there = has + WITHIN_REACH >= metrics.last_log_index.unwrap_or(0) && has > 0;
            if is_there { Reach::There } else { Reach::Behind }
        };
        let narrow = |id: u64| u32::try_from(id).ok().map(NodeId);
        Some(Seen {
            voters: membership.voter_ids().filter_map(narrow).collect(),
            members: membership.nodes().filter_map(|(id, _)| Some((narrow(*id)?, reach(id)))).collect(),
            is_joint: membership.get_joint_config().len() > 1,
        })
    }
}

impl<M: Machine> Shared<M> {
    async fn take(&self, step: Step, address: String) -> Result<(), String> {
        let raft = self.raft().ok_or("Raft is stopped")?;
        let wide = |node: NodeId| u64::from(node.0);
        let change = match step {
            Step::Settle => ChangeMembers::AddVoterIds(BTreeSet::new()),
            Step::Learn(node) => {
                ChangeMembers::AddNodes(BTreeMap::from([(wide(node), BasicNode { addr: address })]))
            }
            Step::Vote(voters) => ChangeMembers::ReplaceAllVoters(voters.into_iter().map(wide).collect()),
            Step::Forget(node) => ChangeMembers::RemoveNodes(BTreeSet::from([wide(node)])),
        };
        // Who voted and does so no more is no learner either.
        match timeout(CHANGE_WITHIN, raft.change_membership(change, false)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("not done within {CHANGE_WITHIN:?}")),
        }
    }
}
