//! What the rest of the node uses of a group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_types::{ClusterUuid, NodeId};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{InitializeError, RaftError};
use openraft::{BasicNode, ServerState};
use tokio::sync::watch;

use super::StartError;
use super::propose::{BootstrapError, ProposeError};
use super::session::Shared;
use crate::catalog::{self, Catalog, Change, Command, RefusalCode, Reply};
use crate::machine::Machine;
use crate::placement::{self, Placement};

/// The catalog, as the rest of the node uses it.
pub type CatalogHandle = GroupHandle<Catalog>;

/// A region's placement, as the rest of the node uses it.
pub type PlacementHandle = GroupHandle<Placement>;

/// A group, from any runtime.
pub struct GroupHandle<M: Machine>(pub(super) Arc<Shared<M>>);

impl<M: Machine> Clone for GroupHandle<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// What this node is in a group now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Orders the commands.
    Leader,
    /// Has a vote.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Has a copy and no vote, or was never spoken to.
    Learner,
    /// Raft does not run.
    Stopped,
}

/// How a group stands, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// What it is.
    pub role: Role,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// The term.
    pub term: u64,
    /// The index of the last entry in its log.
    pub last_index: Option<u64>,
    /// The index of the last entry that is in [`GroupHandle::state`].
    pub applied_index: Option<u64>,
    /// The index of the last entry in its snapshot.
    pub snapshot_index: Option<u64>,
    /// Who votes.
    pub voters: Vec<NodeId>,
    /// Who has a copy and no vote.
    pub learners: Vec<NodeId>,
}

impl<M: Machine> GroupHandle<M> {
    pub(super) fn new(shared: Arc<Shared<M>>) -> Self {
        Self(shared)
    }

    /// The last state that this node has applied. At once, whatever Raft does; may be behind.
    pub fn state(&self) -> Arc<M> {
        Arc::clone(&self.0.store.published.version().machine)
    }

    /// How many log entries the state has seen; changes after the state has.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.store.published.applied()
    }

    /// Whether Raft has ever kept anything here: if not, the cluster may not be founded yet.
    pub fn is_initialized(&self) -> bool {
        self.0.store.is_initialized()
    }

    /// The cluster that this store belongs to: known a little before the state says so.
    pub fn cluster(&self) -> Option<ClusterUuid> {
        self.0.peers.cluster()
    }

    /// Has a command, as the machine reads it, ordered and applied.
    ///
    /// # Errors
    /// [`ProposeError`] where no leader answered in time.
    pub async fn propose_bytes(&self, command: Bytes, within: Duration) -> Result<Bytes, ProposeError> {
        self.run(move |shared| async move { shared.propose(command, within).await }).await?
    }

    /// Waits until [`GroupHandle::state`] shows all that was answered anywhere before this was called.
    ///
    /// # Errors
    /// [`ProposeError`] where no leader with a majority answered in time.
    pub async fn barrier(&self, within: Duration) -> Result<(), ProposeError> {
        self.run(move |shared| async move { shared.barrier(within).await }).await?
    }

    /// How the group stands.
    pub fn status(&self) -> Status {
        let version = self.0.store.published.version();
        let applied_index = version.applied.map(|id| id.index);
        let narrow = |id: u64| u32::try_from(id).ok().map(NodeId);
        let voters = version.membership.voter_ids().filter_map(narrow).collect();
        let learners = version.membership.membership().learner_ids().filter_map(narrow).collect();
        let Some(raft) = self.0.raft() else {
            return Status {
                node: self.0.config.node,
                role: Role::Stopped,
                leader: None,
                term: 0,
                last_index: None,
                applied_index,
                snapshot_index: None,
                voters,
                learners,
            };
        };
        // Cloned at once: the core waits for whoever holds the reference.
        let metrics = raft.metrics().borrow_watched().clone();
        Status {
            node: self.0.config.node,
            role: match metrics.state {
                ServerState::Leader => Role::Leader,
                ServerState::Follower => Role::Follower,
                ServerState::Candidate => Role::Candidate,
                ServerState::Learner => Role::Learner,
                ServerState::Shutdown => Role::Stopped,
            },
            leader: metrics.current_leader.and_then(|id| u32::try_from(id).ok().map(NodeId)),
            term: metrics.current_term,
            last_index: metrics.last_log_index,
            applied_index,
            snapshot_index: metrics.snapshot.map(|id| id.index),
            voters,
            learners,
        }
    }

    /// Stops Raft alone, for tests: it answers nobody, asks nobody, and waits for nothing. The state stays.
    pub async fn stop(&self) {
        let _ = self.run(|shared| async move { shared.stop().await }).await;
    }

    /// Starts Raft again after [`GroupHandle::stop`].
    ///
    /// # Errors
    /// [`StartError`] where Raft finds its storage wanting.
    pub async fn start(&self) -> Result<(), StartError> {
        self.run(|shared| async move { shared.start().await })
            .await
            .map_err(|error| StartError::Raft(error.to_string()))?
    }

    /// Runs on the group's runtime, whichever the caller is on.
    pub(super) async fn run<T, F>(&self, work: impl FnOnce(Arc<Shared<M>>) -> F) -> Result<T, ProposeError>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let task = self.0.runtime.spawn(work(Arc::clone(&self.0)));
        task.await.map_err(|_| ProposeError::Stopped { group: M::GROUP })
    }
}

impl GroupHandle<Catalog> {
    /// Has a command ordered and applied, wherever the leader is, and tries again while there is none. The state here
    /// shows it when this returns. The same [`catalog::RequestId`] again is answered and not repeated.
    ///
    /// # Errors
    /// [`ProposeError`] where no leader answered in time; a command that the catalog refuses is a [`Reply`].
    pub async fn propose(&self, command: Command, within: Duration) -> Result<Reply, ProposeError> {
        let reply = self.propose_bytes(command.to_bytes(), within).await?;
        Ok(catalog::reply_from_bytes(&reply)?)
    }

    /// Founds the cluster: its nodes become the voters, and the genesis the first command. To be called on one node, the
    /// lowest of the founders, once it has spoken to all of them; and again after a crash until the state names the
    /// cluster, with the same genesis or one for [`GroupHandle::cluster`].
    ///
    /// # Errors
    /// [`BootstrapError`].
    pub async fn bootstrap(&self, command: Command, within: Duration) -> Result<(), BootstrapError> {
        let Change::Genesis(genesis) = &command.change else {
            return Err(BootstrapError::NotAFounder { node: self.0.config.node });
        };
        let cluster = genesis.cluster;
        if self.state().cluster() == Some(cluster) {
            return Ok(());
        }
        let me = &self.0.config;
        if !genesis.nodes.iter().any(|node| node.id == me.node && node.disk == me.disk) {
            return Err(BootstrapError::NotAFounder { node: me.node });
        }
        // A genesis that the catalog would refuse must not make voters.
        let trial = Command::new(meridian_types::Timestamp(0), Change::Genesis(genesis.clone()));
        Catalog::default().apply(trial)?;
        let founders = genesis.nodes.iter().map(|node| (node.id, node.peer_address.clone())).collect();
        self.run(move |shared| async move { initialize(&shared, cluster, founders).await }).await??;
        match self.propose(command, within).await? {
            Ok(_) => Ok(()),
            Err(refusal)
                if refusal.code == RefusalCode::AlreadyFounded && self.state().cluster() == Some(cluster) =>
            {
                Ok(())
            }
            Err(refusal) => Err(refusal.into()),
        }
    }
}

impl GroupHandle<Placement> {
    /// Founds the region's placement: the nodes that it names become the voters. To be called once the cluster is founded,
    /// and again after a crash until the state says that it is; on one node, or on several that name the same nodes: each makes the
    /// same voters of them, and one of them leads.
    ///
    /// # Errors
    /// [`BootstrapError`].
    pub async fn bootstrap(&self, found: placement::Found, within: Duration) -> Result<(), BootstrapError> {
        if self.state().founded().is_some() {
            return Ok(());
        }
        let me = &self.0.config;
        if !found.nodes.iter().any(|node| node.node == me.node && node.disk == me.disk) {
            return Err(BootstrapError::NotAFounder { node: me.node });
        }
        let cluster = found.cluster;
        // What the machine would refuse must not make voters.
        Placement::default().change(placement::Change::Found(found.clone()))?;
        let members = found.nodes.iter().map(|node| (node.node, node.peer_address.clone())).collect();
        self.run(move |shared| async move { initialize(&shared, cluster, members).await }).await??;
        let command = placement::Command { changes: vec![placement::Change::Found(found)] };
        let reply = self.propose_bytes(command.to_bytes(), within).await?;
        let outcomes = placement::reply_from_bytes(&reply).map_err(ProposeError::from)?;
        match outcomes.into_iter().next() {
            Some(Err(refusal)) if refusal.code != placement::RefusalCode::AlreadyFounded => {
                Err(refusal.into())
            }
            _ => Ok(()),
        }
    }
}

/// Makes the founders the voters, where that was not done before.
async fn initialize<M: Machine>(
    shared: &Shared<M>,
    cluster: ClusterUuid,
    founders: Vec<(NodeId, String)>,
) -> Result<(), BootstrapError> {
    shared.store.bind(cluster)?;
    let members: BTreeMap<u64, BasicNode> =
        founders.into_iter().map(|(node, addr)| (u64::from(node.0), BasicNode { addr })).collect();
    let Some(raft) = shared.raft() else {
        return Err(ProposeError::Stopped { group: M::GROUP }.into());
    };
    match raft.initialize(members).await {
        // Done before, by a process that crashed on the way to the founding.
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(BootstrapError::Raft(error.to_string())),
    }
}
