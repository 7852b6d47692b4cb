//! The server side of `RaftService`, on the peer listener: finds the group that is meant, and answers on that group's own
//! runtime, from the check of who speaks to the reply. Only the connection, with all else that comes over it, is the
//! listener's.

use std::sync::Arc;
use std::time::Duration;

use meridian_types::NodeId;
use meridian_wire::v1;
use meridian_wire::v1::raft_append_response::Result as AppendResult;
use meridian_wire::v1::raft_barrier_response::Result as BarrierResult;
use meridian_wire::v1::raft_propose_response::Result as ProposeResult;
use meridian_wire::v1::raft_service_server::{RaftService, RaftServiceServer};
use meridian_wire::v1::raft_snapshot_chunk::Chunk;
use meridian_wire::{ApiError, Reason};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::handle::GroupHandle;
use super::peers::MESSAGE_BYTES;
use super::propose::Attempt;
use super::session::{GroupRaft, Shared};
use crate::catalog::Catalog;
use crate::machine::Machine;
use crate::placement::Placement;
use crate::raft::{
    BadMessage, Snapshot, entry_from_wire, log_id_from_wire, log_id_to_wire, meta_from_wire, vote_from_wire,
    vote_to_wire,
};

/// The largest snapshot that is taken in: it is held in memory until it is whole.
const SNAPSHOT_BYTES: u64 = 1024 * 1024 * 1024;
/// The longest that a caller may have this node wait for it.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Answers the other nodes of a group.
pub struct RaftServer<M: Machine>(GroupHandle<M>);

impl<M: Machine> Clone for RaftServer<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M: Machine> RaftServer<M> {
    pub(super) fn new(handle: GroupHandle<M>) -> Self {
        Self(handle)
    }

    async fn run<T, F>(&self, work: impl FnOnce(Arc<Shared<M>>) -> F) -> Result<Response<T>, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send + 'static,
    {
        match self.0.run(work).await {
            Ok(answer) => answer.map(Response::new),
            Err(_) => Err(stopped::<M>()),
        }
    }
}

fn stopped<M: Machine>() -> Status {
    ApiError::new(Reason::NotReady, format!("the {} group is stopped on this node", M::GROUP)).into()
}

fn bad(error: BadMessage) -> Status {
    ApiError::new(Reason::InvalidArgument, error.0).into()
}

fn failed(error: impl std::fmt::Display) -> Status {
    ApiError::new(Reason::NotReady, format!("Raft on this node: {error}")).into()
}

/// Raft, for a caller that is who it says it is.
fn admit<M: Machine>(shared: &Shared<M>, header: Option<&v1::RaftHeader>) -> Result<GroupRaft<M>, Status> {
    let raft = shared.raft().ok_or_else(stopped::<M>)?;
    shared.peers.check(header)?;
    Ok(raft)
}

fn deadline(timeout_ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(timeout_ms).min(LONGEST_WAIT)
}

impl<M: Machine> RaftServer<M> {
    async fn append(
        &self,
        request: Request<v1::RaftAppendRequest>,
    ) -> Result<Response<v1::RaftAppendResponse>, Status> {
        self.run(|shared| async move {
            let request = request.into_inner();
            let raft = admit(&shared, request.header.as_ref())?;
            let from = NodeId(request.header.as_ref().map_or(0, |header| header.from_node));
            let rpc = AppendEntriesRequest {
                vote: vote_from_wire(request.vote.as_ref()).map_err(bad)?,
                prev_log_id: request.prev_log_id.as_ref().map(log_id_from_wire),
                entries: request
                    .entries
                    .into_iter()
                    .map(entry_from_wire)
                    .collect::<Result<_, _>>()
                    .map_err(bad)?,
                leader_commit: request.leader_commit.as_ref().map(log_id_from_wire),
            };
            let answer = raft.append_entries(rpc).await.map_err(failed)?;
            if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                *shared.followed.lock() = Some((from, std::time::Instant::now()));
            }
            let result = match answer {
                AppendEntriesResponse::Success => AppendResult::Success(v1::RaftEmpty {}),
                AppendEntriesResponse::PartialSuccess(matched) => {
                    AppendResult::Partial(v1::RaftMatched { log_id: matched.as_ref().map(log_id_to_wire) })
                }
                AppendEntriesResponse::Conflict => AppendResult::Conflict(v1::RaftEmpty {}),
                AppendEntriesResponse::HigherVote(vote) => AppendResult::HigherVote(vote_to_wire(&vote)),
            };
            Ok(v1::RaftAppendResponse { result: Some(result) })
        })
        .await
    }

    async fn vote(
        &self,
        request: Request<v1::RaftVoteRequest>,
    ) -> Result<Response<v1::RaftVoteResponse>, Status> {
        self.run(|shared| async move {
            let request = request.into_inner();
            let raft = admit(&shared, request.header.as_ref())?;
            let mut rpc = VoteRequest::new(
                vote_from_wire(request.vote.as_ref()).map_err(bad)?,
                request.last_log_id.as_ref().map(log_id_from_wire),
            );
            rpc.leadership_transfer = request.leadership_transfer;
            let response = match request.pre_vote {
                true => raft.pre_vote(rpc).await,
                false => raft.vote(rpc).await,
            }
            .map_err(failed)?;
            Ok(v1::RaftVoteResponse {
                vote: Some(vote_to_wire(&response.vote)),
                granted: response.vote_granted,
                last_log_id: response.last_log_id.as_ref().map(log_id_to_wire),
            })
        })
        .await
    }

    async fn install_snapshot(
        &self,
        begin: v1::RaftSnapshotBegin,
        mut chunks: Streaming<v1::RaftSnapshotChunk>,
    ) -> Result<Response<v1::RaftSnapshotResponse>, Status> {
        self.run(|shared| async move {
            let raft = admit(&shared, begin.header.as_ref())?;
            let _one = shared.installing.try_acquire().map_err(|_| {
                Status::from(
                    ApiError::new(Reason::Overloaded, "another snapshot is being taken in")
                        .retry_after(Duration::from_secs(1)),
                )
            })?;
            let snapshot = receive(&mut chunks, &begin).await?;
            let meta =
                meta_from_wire(begin.meta.ok_or(BadMessage("a snapshot without its place")).map_err(bad)?)
                    .map_err(bad)?;
            let vote = vote_from_wire(begin.vote.as_ref()).map_err(bad)?;
            let snapshot = Snapshot { meta, snapshot: snapshot.into() };
            let response = raft.install_full_snapshot(vote, snapshot).await.map_err(failed)?;
            Ok(v1::RaftSnapshotResponse { vote: Some(vote_to_wire(&response.vote)) })
        })
        .await
    }

    async fn propose(
        &self,
        request: Request<v1::RaftProposeRequest>,
    ) -> Result<Response<v1::RaftProposeResponse>, Status> {
        self.run(|shared| async move {
            let request = request.into_inner();
            let raft = admit(&shared, request.header.as_ref())?;
            M::check(&request.command)
                .map_err(|error| Status::from(ApiError::new(Reason::VersionUnsupported, error.0)))?;
            let attempt = shared.propose_here(&raft, request.command, deadline(request.timeout_ms)).await;
            let result = match attempt {
                Attempt::Done((index, reply)) => ProposeResult::Proposed(v1::RaftProposed { index, reply }),
                Attempt::NotLeader(leader) => {
                    ProposeResult::NotLeader(v1::RaftNotLeader { leader: leader.map(|node| node.0) })
                }
                Attempt::Failed(what) | Attempt::Unknown(what) => return Err(failed(what)),
            };
            Ok(v1::RaftProposeResponse { result: Some(result) })
        })
        .await
    }

    async fn barrier(
        &self,
        request: Request<v1::RaftBarrierRequest>,
    ) -> Result<Response<v1::RaftBarrierResponse>, Status> {
        self.run(|shared| async move {
            let request = request.into_inner();
            let raft = admit(&shared, request.header.as_ref())?;
            let result = match shared.read_index_here(&raft, deadline(request.timeout_ms)).await {
                Attempt::Done(index) => BarrierResult::ReadIndex(index),
                Attempt::NotLeader(leader) => {
                    BarrierResult::NotLeader(v1::RaftNotLeader { leader: leader.map(|node| node.0) })
                }
                Attempt::Failed(what) | Attempt::Unknown(what) => return Err(failed(what)),
            };
            Ok(v1::RaftBarrierResponse { result: Some(result) })
        })
        .await
    }
}

impl<M: Machine> RaftServer<M> {
    async fn standing(
        &self,
        request: Request<v1::RaftStandingRequest>,
    ) -> Result<Response<v1::RaftStandingResponse>, Status> {
        self.run(|shared| async move {
            let raft = admit(&shared, request.get_ref().header.as_ref())?;
            Ok(shared.standing(&raft).to_wire())
        })
        .await
    }
}

/// Answers for all of a node's groups, each by its name in the message's header.
#[derive(Clone)]
pub struct RaftServers {
    catalog: RaftServer<Catalog>,
    placement: Option<RaftServer<Placement>>,
}

impl RaftServers {
    /// For these.
    pub fn new(catalog: RaftServer<Catalog>, placement: Option<RaftServer<Placement>>) -> Self {
        Self { catalog, placement }
    }

    /// The placement group, if a message is for that. One for a group that is not here is refused by the catalog's check.
    fn placement(&self, header: Option<&v1::RaftHeader>) -> Option<&RaftServer<Placement>> {
        self.placement.as_ref().filter(|_| header.is_some_and(|header| header.group == Placement::GROUP))
    }

    /// The tonic service, with room for Raft's messages.
    pub fn into_service(self) -> RaftServiceServer<Self> {
        RaftServiceServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES)
    }
}

#[tonic::async_trait]
impl RaftService for RaftServers {
    async fn append(
        &self,
        request: Request<v1::RaftAppendRequest>,
    ) -> Result<Response<v1::RaftAppendResponse>, Status> {
        match self.placement(request.get_ref().header.as_ref()) {
            Some(placement) => placement.append(request).await,
            None => self.catalog.append(request).await,
        }
    }

    async fn vote(
        &self,
        request: Request<v1::RaftVoteRequest>,
    ) -> Result<Response<v1::RaftVoteResponse>, Status> {
        match self.placement(request.get_ref().header.as_ref()) {
            Some(placement) => placement.vote(request).await,
            None => self.catalog.vote(request).await,
        }
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<v1::RaftSnapshotChunk>>,
    ) -> Result<Response<v1::RaftSnapshotResponse>, Status> {
        let mut chunks = request.into_inner();
        let Some(Chunk::Begin(begin)) = chunks.message().await?.and_then(|message| message.chunk) else {
            return Err(bad(BadMessage("a snapshot does not begin with its head")));
        };
        match self.placement(begin.header.as_ref()) {
            Some(placement) => placement.install_snapshot(begin, chunks).await,
            None => self.catalog.install_snapshot(begin, chunks).await,
        }
    }

    async fn propose(
        &self,
        request: Request<v1::RaftProposeRequest>,
    ) -> Result<Response<v1::RaftProposeResponse>, Status> {
        match self.placement(request.get_ref().header.as_ref()) {
            Some(placement) => placement.propose(request).await,
            None => self.catalog.propose(request).await,
        }
    }

    async fn barrier(
        &self,
        request: Request<v1::RaftBarrierRequest>,
    ) -> Result<Response<v1::RaftBarrierResponse>, Status> {
        match self.placement(request.get_ref().header.as_ref()) {
            Some(placement) => placement.barrier(request).await,
            None => self.catalog.barrier(request).await,
        }
    }

    async fn standing(
        &self,
        request: Request<v1::RaftStandingRequest>,
    ) -> Result<Response<v1::RaftStandingResponse>, Status> {
        match self.placement(request.get_ref().header.as_ref()) {
            Some(placement) => placement.standing(request).await,
            None => self.catalog.standing(request).await,
        }
    }
}

/// A snapshot's bytes, as long and as whole as its head says.
async fn receive(
    chunks: &mut Streaming<v1::RaftSnapshotChunk>,
    begin: &v1::RaftSnapshotBegin,
) -> Result<Vec<u8>, Status> {
    if begin.length > SNAPSHOT_BYTES {
        return Err(bad(BadMessage("a snapshot over 1 GiB")));
    }
    let mut bytes = Vec::new();
    while let Some(message) = chunks.message().await? {
        let Some(Chunk::Data(data)) = message.chunk else {
            return Err(bad(BadMessage("a snapshot's piece without bytes")));
        };
        if (bytes.len() + data.len()) as u64 > begin.length {
            return Err(bad(BadMessage("a snapshot longer than it says")));
        }
        bytes.extend_from_slice(&data);
    }
    if bytes.len() as u64 != begin.length || crc32c::crc32c(&bytes) != begin.crc32c {
        return Err(bad(BadMessage("a snapshot that was cut or mangled on the way")));
    }
    Ok(bytes)
}
