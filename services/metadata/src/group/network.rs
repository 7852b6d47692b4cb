//! The client side of `RaftService`, as openraft wants it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_types::NodeId;
use meridian_wire::v1;
use meridian_wire::v1::raft_append_response::Result as AppendResult;
use meridian_wire::v1::raft_snapshot_chunk::Chunk;
use openraft::BasicNode;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use tonic::{Code, Response, Status};

use super::peers::Peers;
use crate::machine::Machine;
use crate::raft::{
    BadMessage, Snapshot, TypeConfig, Vote, entry_to_wire, log_id_from_wire, log_id_to_wire, meta_to_wire,
    vote_from_wire, vote_to_wire,
};

/// A snapshot travels in pieces of so many bytes.
const PIECE: usize = 512 * 1024;

/// Makes one [`Peer`] for each node that Raft talks to.
pub(super) struct Network<M> {
    peers: Arc<Peers<M>>,
}

impl<M> Network<M> {
    pub(super) fn new(peers: Arc<Peers<M>>) -> Self {
        Self { peers }
    }
}

impl<M: Machine> RaftNetworkFactory<TypeConfig> for Network<M> {
    type Network = Peer<M>;

    async fn new_client(&mut self, target: u64, _node: &BasicNode) -> Peer<M> {
        Peer { peers: Arc::clone(&self.peers), target }
    }
}

/// One node, as Raft talks to it.
pub(super) struct Peer<M> {
    peers: Arc<Peers<M>>,
    target: u64,
}

impl<M: Machine> Peer<M> {
    fn node(&self) -> Result<NodeId, RPCError<TypeConfig>> {
        u32::try_from(self.target).map(NodeId).map_err(|_| unreachable("a node id over 32 bits"))
    }

    async fn within<T>(
        &self,
        action: RPCTypes,
        timeout: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, RPCError<TypeConfig>> {
        match tokio::time::timeout(timeout, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(rpc_error(&status)),
            Err(_) => Err(RPCError::Timeout(Timeout {
                action,
                id: u64::from(self.peers.me().0),
                target: self.target,
                timeout,
            })),
        }
    }

    async fn ask_for_vote(
        &self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
        pre_vote: bool,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let node = self.node()?;
        let mut client = self.peers.client(node).map_err(unreachable)?;
        let request = v1::RaftVoteRequest {
            header: Some(self.peers.header(node)),
            vote: Some(vote_to_wire(&rpc.vote)),
            last_log_id: rpc.last_log_id.as_ref().map(log_id_to_wire),
            leadership_transfer: rpc.leadership_transfer,
            pre_vote,
        };
        let response = self.within(RPCTypes::Vote, option.soft_ttl(), client.vote(request)).await?;
        let vote = vote_from_wire(response.vote.as_ref()).map_err(bad)?;
        let last = response.last_log_id.as_ref().map(log_id_from_wire);
        Ok(VoteResponse::new(vote, last, response.granted))
    }
}

impl<M: Machine> RaftNetworkV2<TypeConfig> for Peer<M> {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let node = self.node()?;
        let mut client = self.peers.client(node).map_err(unreachable)?;
        let request = v1::RaftAppendRequest {
            header: Some(self.peers.header(node)),
            vote: Some(vote_to_wire(&rpc.vote)),
            prev_log_id: rpc.prev_log_id.as_ref().map(log_id_to_wire),
            entries: rpc.entries.iter().map(entry_to_wire).collect(),
            leader_commit: rpc.leader_commit.as_ref().map(log_id_to_wire),
        };
        let response =
            self.within(RPCTypes::AppendEntries, option.soft_ttl(), client.append(request)).await?;
        match response.result.ok_or_else(|| bad(BadMessage("an empty answer")))? {
            AppendResult::Success(_) => Ok(AppendEntriesResponse::Success),
            AppendResult::Partial(matched) => {
                Ok(AppendEntriesResponse::PartialSuccess(matched.log_id.as_ref().map(log_id_from_wire)))
            }
            AppendResult::Conflict(_) => Ok(AppendEntriesResponse::Conflict),
            AppendResult::HigherVote(vote) => {
                Ok(AppendEntriesResponse::HigherVote(vote_from_wire(Some(&vote)).map_err(bad)?))
            }
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_for_vote(rpc, option, false).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_for_vote(rpc, option, true).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let node = self.node()?;
        let mut client = self.peers.client(node).map_err(unreachable)?;
        let data = snapshot.snapshot;
        let begin = v1::RaftSnapshotBegin {
            header: Some(self.peers.header(node)),
            vote: Some(vote_to_wire(&vote)),
            meta: Some(meta_to_wire(&snapshot.meta)),
            length: data.len() as u64,
            crc32c: crc32c::crc32c(&data),
        };
        let pieces = (0..data.len())
            .step_by(PIECE)
            .map(move |at| Chunk::Data(data.slice(at..data.len().min(at + PIECE))));
        let chunks = std::iter::once(Chunk::Begin(begin))
            .chain(pieces)
            .map(|chunk| v1::RaftSnapshotChunk { chunk: Some(chunk) });
        let send = self.within(
            RPCTypes::InstallSnapshot,
            option.soft_ttl(),
            client.install_snapshot(futures::stream::iter(chunks)),
        );
        let response = tokio::select! {
            response = send => response?,
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        let vote =
            vote_from_wire(response.vote.as_ref()).map_err(|error| StreamingError::from(bad(error)))?;
        Ok(SnapshotResponse::new(vote))
    }
}

/// Waits before it is tried again.
fn unreachable(error: impl ToString) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(error))
}

fn bad(error: BadMessage) -> RPCError<TypeConfig> {
    unreachable(error)
}

fn rpc_error(status: &Status) -> RPCError<TypeConfig> {
    match status.code() {
        Code::Cancelled | Code::DeadlineExceeded => RPCError::Network(NetworkError::from_string(status)),
        _ => unreachable(status),
    }
}
