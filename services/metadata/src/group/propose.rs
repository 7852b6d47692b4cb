//! Asking the leader, wherever it is, until it answers or the time is up.

use std::time::Duration;

use bytes::Bytes;
use meridian_types::NodeId;
use meridian_wire::v1;
use meridian_wire::v1::raft_barrier_response::Result as BarrierResult;
use meridian_wire::v1::raft_propose_response::Result as ProposeResult;
use meridian_wire::{ApiError, Reason};
use openraft::ReadPolicy;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use tokio::time::{Instant, timeout_at};

use super::session::{GroupRaft, Shared};
use crate::catalog::Refusal;
use crate::machine::{Machine, Unsupported};
use crate::raft::CommandBytes;
use crate::store::StoreError;

/// The largest command: a batch of them must fit a message.
const COMMAND_BYTES: usize = 48 * 1024;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// Why a command or a barrier got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Raft is stopped on this node.
    #[error("the {group} group is stopped on this node")]
    Stopped {
        /// Which group.
        group: &'static str,
    },
    /// No leader took it: it was not done.
    #[error(
        "the {group} group has no leader within reach after {waited:?} ({last}); a majority of its voters must run and \
         reach each other. Nothing was changed"
    )]
    NoLeader {
        /// Which group.
        group: &'static str,
        /// How long was tried.
        waited: Duration,
        /// What the last try came to.
        last: String,
    },
    /// A leader may have taken it: whether it was or will be done is not known.
    #[error(
        "the {group} group did not answer within {waited:?} ({last}); it may be done all the same: ask again with the \
         same request id, or read the state"
    )]
    Unknown {
        /// Which group.
        group: &'static str,
        /// How long was tried.
        waited: Duration,
        /// What the last try came to.
        last: String,
    },
    /// This build does not know the command.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The command is too large to be logged.
    #[error("a command of {bytes} bytes is too large; at most {COMMAND_BYTES} are taken")]
    TooLarge {
        /// How large it is.
        bytes: usize,
    },
}

impl From<ProposeError> for ApiError {
    fn from(error: ProposeError) -> Self {
        let reason = match &error {
            ProposeError::Unsupported(_) | ProposeError::TooLarge { .. } => Reason::InvalidArgument,
            ProposeError::Stopped { .. } | ProposeError::NoLeader { .. } | ProposeError::Unknown { .. } => {
                Reason::CatalogUnavailable
            }
        };
        let message = error.to_string();
        match reason {
            Reason::CatalogUnavailable => Self::new(reason, message).retry_after(Duration::from_secs(1)),
            _ => Self::new(reason, message),
        }
    }
}

/// Why a cluster was not founded.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The genesis does not name this node as it is.
    #[error("the genesis does not name node {node} with disk and address as configured")]
    NotAFounder {
        /// This node.
        node: NodeId,
    },
    /// The store belongs to a cluster already, or the disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Raft refused.
    #[error("Raft refuses the first members: {0}")]
    Raft(String),
    /// No quorum answered.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The catalog refused.
    #[error("the catalog refuses the genesis: {0}")]
    Refused(#[from] Refusal),
    /// Placement refused.
    #[error("placement refuses the founding of the region: {0}")]
    Placement(#[from] crate::placement::Refusal),
}

/// What one try came to.
pub(super) enum Attempt<T> {
    Done(T),
    /// Not the leader; the one it knows, if any.
    NotLeader(Option<NodeId>),
    /// Nothing was logged.
    Failed(String),
    /// It may have been logged.
    Unknown(String),
}

/// What is asked of the leader.
#[derive(Clone)]
enum Wish {
    Command(Bytes),
    Barrier,
}

/// The leader's answer: how far to have applied, and the reply to a command.
type Answer = (u64, Bytes);

impl<M: Machine> Shared<M> {
    /// Has a command ordered and applied. The state here shows it when this returns.
    pub(super) async fn propose(&self, command: Bytes, within: Duration) -> Result<Bytes, ProposeError> {
        M::check(&command)?;
        if command.len() > COMMAND_BYTES {
            return Err(ProposeError::TooLarge { bytes: command.len() });
        }
        let deadline = Instant::now() + within;
        let (index, reply) = self.ask(Wish::Command(command), within, deadline).await?;
        // It is done; that this copy does not show it yet, the time being up, is no failure.
        let _ = self.applied(index, deadline).await;
        Ok(reply)
    }

    /// Waits until the state here shows all that was answered anywhere before.
    pub(super) async fn barrier(&self, within: Duration) -> Result<(), ProposeError> {
        let deadline = Instant::now() + within;
        let (index, _) = self.ask(Wish::Barrier, within, deadline).await?;
        if self.applied(index, deadline).await {
            return Ok(());
        }
        let last = format!("this node has not yet applied entry {index}");
        Err(ProposeError::NoLeader { group: M::GROUP, waited: within, last })
    }

    async fn applied(&self, index: u64, deadline: Instant) -> bool {
        let mut applied = self.store.published.applied();
        let reached = applied.wait_for(|count| *count > index);
        matches!(timeout_at(deadline, reached).await, Ok(Ok(_)))
    }

    async fn ask(&self, wish: Wish, within: Duration, deadline: Instant) -> Result<Answer, ProposeError> {
        let group = M::GROUP;
        let mut unknown = false;
        let mut last = String::from("none was heard of");
        let mut hint = None;
        loop {
            let Some(raft) = self.raft() else { return Err(ProposeError::Stopped { group }) };
            let leader = hint.take().or_else(|| leader_of(&raft));
            let attempt = match leader {
                None => Attempt::NotLeader(None),
                Some(leader) if leader == self.peers.me() => {
                    self.ask_here(&raft, wish.clone(), deadline).await
                }
                Some(leader) => self.ask_there(leader, wish.clone(), deadline).await,
            };
            match attempt {
                Attempt::Done(answer) => return Ok(answer),
                Attempt::NotLeader(better) => {
                    if let Some(leader) = leader {
                        last = format!("node {leader} leads no more");
                    }
                    // At once to the one it names, but no ping-pong between two that each name the other.
                    hint = better.filter(|_| leader.is_some() && leader == leader_of(&raft));
                }
                Attempt::Failed(what) => last = what,
                Attempt::Unknown(what) => {
                    unknown = true;
                    last = what;
                }
            }
            if Instant::now() + PAUSE >= deadline {
                return Err(match unknown && matches!(wish, Wish::Command(_)) {
                    true => ProposeError::Unknown { group, waited: within, last },
                    false => ProposeError::NoLeader { group, waited: within, last },
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn ask_here(&self, raft: &GroupRaft<M>, wish: Wish, deadline: Instant) -> Attempt<Answer> {
        match wish {
            Wish::Command(command) => self.propose_here(raft, command, deadline).await,
            Wish::Barrier => match self.read_index_here(raft, deadline).await {
                Attempt::Done(index) => Attempt::Done((index, Bytes::new())),
                Attempt::NotLeader(leader) => Attempt::NotLeader(leader),
                Attempt::Failed(what) | Attempt::Unknown(what) => Attempt::Failed(what),
            },
        }
    }

    /// Proposes to the Raft on this node, which answers only as the leader.
    pub(super) async fn propose_here(
        &self,
        raft: &GroupRaft<M>,
        command: Bytes,
        deadline: Instant,
    ) -> Attempt<Answer> {
        let written = timeout_at(deadline, raft.client_write(CommandBytes(command))).await;
        match written {
            Err(_) => Attempt::Unknown("this node leads, but no majority of the voters answers".into()),
            Ok(Ok(written)) => Attempt::Done((written.log_id.index, written.data.0)),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
                Attempt::NotLeader(to.leader_id.and_then(node))
            }
            // Another leader's log decides whether the entry stays.
            Ok(Err(error)) => Attempt::Unknown(error.to_string()),
        }
    }

    /// How far to have applied to see all that was answered before; only the leader knows.
    pub(super) async fn read_index_here(&self, raft: &GroupRaft<M>, deadline: Instant) -> Attempt<u64> {
        match timeout_at(deadline, raft.get_read_log_id(ReadPolicy::ReadIndex)).await {
            Err(_) => Attempt::Failed("this node leads, but no majority of the voters answers".into()),
            Ok(Ok((id, _))) => Attempt::Done(id.index()),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to)))) => {
                Attempt::NotLeader(to.leader_id.and_then(node))
            }
            Ok(Err(error)) => Attempt::Failed(error.to_string()),
        }
    }

    async fn ask_there(&self, leader: NodeId, wish: Wish, deadline: Instant) -> Attempt<Answer> {
        let mut client = match self.peers.client(leader) {
            Ok(client) => client,
            Err(error) => return Attempt::Failed(error.to_string()),
        };
        // A leader that is silent for an election's time is no longer one.
        let deadline = deadline.min(Instant::now() + self.config.election_max);
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let header = Some(self.peers.header(leader));
        let late = || Attempt::Unknown(format!("node {leader}, the last known leader, is silent"));
        let failed = |status: tonic::Status| {
            Attempt::Unknown(format!("node {leader}, the last known leader: {}", status.message()))
        };
        match wish {
            Wish::Command(command) => {
                let call = client.propose(v1::RaftProposeRequest { header, command, timeout_ms });
                match timeout_at(deadline, call).await {
                    Err(_) => late(),
                    Ok(Err(status)) => failed(status),
                    Ok(Ok(response)) => match response.into_inner().result {
                        Some(ProposeResult::Proposed(done)) => Attempt::Done((done.index, done.reply)),
                        Some(ProposeResult::NotLeader(to)) => Attempt::NotLeader(to.leader.map(NodeId)),
                        None => Attempt::Unknown(format!("node {leader} answered nothing")),
                    },
                }
            }
            Wish::Barrier => {
                let call = client.barrier(v1::RaftBarrierRequest { header, timeout_ms });
                match timeout_at(deadline, call).await {
                    Err(_) => late(),
                    Ok(Err(status)) => failed(status),
                    Ok(Ok(response)) => match response.into_inner().result {
                        Some(BarrierResult::ReadIndex(index)) => Attempt::Done((index, Bytes::new())),
                        Some(BarrierResult::NotLeader(to)) => Attempt::NotLeader(to.leader.map(NodeId)),
                        None => Attempt::Failed(format!("node {leader} answered nothing")),
                    },
                }
            }
        }
    }
}

fn node(id: u64) -> Option<NodeId> {
    u32::try_from(id).ok().map(NodeId)
}

/// The leader that this node's Raft knows of.
pub(super) fn leader_of<M: Machine>(raft: &GroupRaft<M>) -> Option<NodeId> {
    raft.metrics().borrow_watched().current_leader.and_then(node)
}
