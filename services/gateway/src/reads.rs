//! What this node's own replicas give the other nodes of the region, for their clients. It never asks a third: two nodes that
//! see placement differently do not ask each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use meridian_types::{Lane, NodeId, Offset, ShardId, StreamId, Timestamp};
use meridian_wire::{ApiError, Reason, v1};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::budget::{ByteBudget, Taken};
use crate::call::MESSAGE_BYTES;
use crate::following::Run;
use crate::held::{Extent, read_with_room};
use crate::news::{Grown, ShardNews};
use crate::shared::Gateway;

/// Bytes on their way to another node of the region at most: what its subscriptions wait for there, they wait for here. Each
/// has its own, so that one that takes nothing holds up nobody else; and nobody who has room here waits for room elsewhere.
pub const READ_BYTES: u64 = 16 << 20;
/// How often it is looked whether what is watched is still served here.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Lanes that have grown and are not told yet, before their shards are told of as wholes.
const GROWN_MAX: usize = 512;

/// Answers the other nodes' reads. Until the gateway is there, and ready, it refuses.
#[derive(Clone)]
pub struct ReadServer {
    gateway: Arc<OnceLock<Gateway>>,
    budgets: Arc<Mutex<BTreeMap<NodeId, Arc<ByteBudget>>>>,
}

impl ReadServer {
    /// Answers from what `gateway` will serve.
    pub fn new(gateway: Arc<OnceLock<Gateway>>) -> Self {
        Self { gateway, budgets: Arc::default() }
    }

    /// The tonic service, with room for a batch.
    pub fn into_service(self) -> v1::read_service_server::ReadServiceServer<Self> {
        v1::read_service_server::ReadServiceServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(2 * MESSAGE_BYTES)
    }

    fn meet(&self, call: Option<&v1::ReadCall>) -> Result<(Gateway, NodeId), ApiError> {
        let not_ready = || ApiError::new(Reason::NotReady, "this node has not opened its shards yet");
        let gateway = self.gateway.get().cloned().ok_or_else(not_ready)?;
        let call = call.ok_or_else(|| refused("the request does not say who asks whom"))?;
        let hello = call.from.as_ref().ok_or_else(|| refused("the request has no Hello"))?;
        let node = gateway.region().meet(hello)?;
        if call.to_node != gateway.me().node.0 {
            return Err(refused(format!("this is node {}, not node {}", gateway.me().node, call.to_node)));
        }
        gateway.check_readable()?;
        Ok((gateway, node))
    }

    fn budget(&self, node: NodeId) -> Arc<ByteBudget> {
        self.budgets.lock().entry(node).or_insert_with(|| ByteBudget::new(READ_BYTES)).clone()
    }
}

fn refused(message: impl Into<String>) -> ApiError {
    ApiError::new(Reason::PeerRefused, message)
}

fn not_served(shard: ShardId) -> ApiError {
    ApiError::new(Reason::ShardUnreachable, format!("this node does not serve shard {shard}"))
}

fn shards_of(shards: &[v1::ShardRef]) -> Result<Vec<ShardId>, ApiError> {
    Ok(shards.iter().map(ShardId::try_from).collect::<Result<_, _>>()?)
}

impl Gateway {
    /// Those of some shards that readers are served from here, and those that are not.
    fn split_served(&self, shards: Vec<ShardId>) -> (Vec<ShardId>, Vec<v1::ShardRef>) {
        let (here, not_here): (Vec<_>, Vec<_>) =
            shards.into_iter().partition(|shard| self.region().serves(*shard));
        (here, not_here.into_iter().map(v1::ShardRef::from).collect())
    }

    /// A lane that is read from this node's own replica.
    fn served_lane(&self, lane: Option<&v1::Lane>) -> Result<Lane, ApiError> {
        let lane = lane.ok_or_else(|| ApiError::new(Reason::InvalidArgument, "the request names no lane"))?;
        let lane = Lane::try_from(lane)?;
        // A catalog that is behind does not know all writers.
        let unknown =
            || ApiError::new(Reason::NotReady, format!("the writer of lane {lane} is not known here"));
        let shard = self.shard_of(lane).ok_or_else(unknown)?;
        if self.region().serves(shard) { Ok(lane) } else { Err(not_served(shard)) }
    }
}

#[tonic::async_trait]
impl v1::read_service_server::ReadService for ReadServer {
    type WatchLanesStream = Pin<Box<dyn Stream<Item = Result<v1::WatchLanesResponse, Status>> + Send>>;
    type ReadLaneStream = Pin<Box<dyn Stream<Item = Result<v1::ReadLaneResponse, Status>> + Send>>;

    async fn watch_lanes(
        &self,
        request: Request<Streaming<v1::WatchLanesRequest>>,
    ) -> Result<Response<Self::WatchLanesStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.unwrap_or_default();
        let (gateway, node) = self.meet(first.call.as_ref())?;
        let stream = StreamId(first.stream_id);
        let (answers, queued) = mpsc::channel(1);
        let watching = Watching {
            news: ShardNews::new(stream, gateway.host()),
            gateway,
            here: BTreeSet::new(),
            not_here: BTreeSet::new(),
            grown: BTreeSet::new(),
        };
        tokio::spawn(async move {
            if let Err(error) = watching.run(first, requests, &answers).await {
                tracing::debug!(%node, %error, "a node's watch of lanes ends");
                let _ = answers.send(Err(error.into())).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(queued).boxed()))
    }

    async fn read_lane(
        &self,
        request: Request<v1::ReadLaneRequest>,
    ) -> Result<Response<Self::ReadLaneStream>, Status> {
        let request = request.into_inner();
        let (gateway, node) = self.meet(request.call.as_ref())?;
        let lane = gateway.served_lane(request.lane.as_ref())?;
        let budget = self.budget(node);
        let most = request.max_bytes.min(gateway.config().subscriber_buffer_bytes as u64).max(1);
        let limit = usize::try_from(most.min(budget.capacity())).unwrap_or(usize::MAX);
        let from = Offset(request.from);
        let read = || gateway.read_here(lane, from, limit);
        let (runs, end, room) = read_with_room(&budget, limit, read).await?;
        Ok(Response::new(futures::stream::iter(answers(runs, end, room)).boxed()))
    }

    async fn read_extents(
        &self,
        request: Request<v1::ReadExtentsRequest>,
    ) -> Result<Response<v1::ReadExtentsResponse>, Status> {
        let request = request.into_inner();
        let (gateway, _) = self.meet(request.call.as_ref())?;
        let (here, not_here) = gateway.split_served(shards_of(&request.shards)?);
        let time = request.time_ms.map(Timestamp);
        let extents = gateway.extents_here(StreamId(request.stream_id), here, time).await?;
        Ok(Response::new(v1::ReadExtentsResponse { lanes: lanes_of(extents), not_here }))
    }

    async fn read_latest(
        &self,
        request: Request<v1::ReadLatestRequest>,
    ) -> Result<Response<v1::ReadExtentsResponse>, Status> {
        let request = request.into_inner();
        let (gateway, _) = self.meet(request.call.as_ref())?;
        let shards = shards_of(&request.shards)?;
        let (extents, others) = gateway.confirmed_here(StreamId(request.stream_id), &shards).await?;
        let not_here = others.into_iter().map(v1::ShardRef::from).collect();
        Ok(Response::new(v1::ReadExtentsResponse { lanes: lanes_of(extents), not_here }))
    }

    async fn read_digest(
        &self,
        request: Request<v1::ReadDigestRequest>,
    ) -> Result<Response<v1::DigestLaneResponse>, Status> {
        let request = request.into_inner();
        let (gateway, _) = self.meet(request.call.as_ref())?;
        let lane = gateway.served_lane(request.lane.as_ref())?;
        let digest = gateway.digest_here(lane, Offset(request.start), Offset(request.end)).await?;
        Ok(Response::new(digest))
    }

    async fn read_at_risk(
        &self,
        request: Request<v1::ReadAtRiskRequest>,
    ) -> Result<Response<v1::ReadAtRiskResponse>, Status> {
        let request = request.into_inner();
        let (gateway, _) = self.meet(request.call.as_ref())?;
        let (here, not_here) = gateway.split_served(shards_of(&request.shards)?);
        let (outbound, at_risk) = gateway.at_risk_here(here).await?;
        Ok(Response::new(v1::ReadAtRiskResponse { outbound, at_risk: Some(at_risk), not_here }))
    }
}

fn lanes_of(extents: Vec<Extent>) -> Vec<v1::ReadExtent> {
    let lanes = extents.into_iter().map(|extent| v1::ReadExtent {
        lane: Some(extent.lane.into()),
        start: extent.start.0,
        end: extent.end.0,
        bytes: extent.bytes,
        at: Some(extent.at.0),
    });
    lanes.collect()
}

/// The messages of a read; the room of all of it is held until the last was asked for.
fn answers(
    runs: Vec<Run>,
    end: Offset,
    room: Taken,
) -> impl Iterator<Item = Result<v1::ReadLaneResponse, Status>> + Send {
    let batches = runs.into_iter().map(|run| v1::ReadLaneResponse {
        base_offset: run.base.0,
        events: run.events,
        hlc: run.hlc,
        batch: run.batch,
        end: None,
    });
    let last = std::iter::once_with(move || {
        drop(room);
        v1::ReadLaneResponse { end: Some(end.0), ..v1::ReadLaneResponse::default() }
    });
    batches.chain(last).map(Ok)
}

/// A node's watch of a stream's lanes.
struct Watching {
    gateway: Gateway,
    news: ShardNews,
    /// To be told, once the node takes it.
    here: BTreeSet<ShardId>,
    not_here: BTreeSet<ShardId>,
    grown: BTreeSet<Lane>,
}

type Answers = mpsc::Sender<Result<v1::WatchLanesResponse, Status>>;

impl Watching {
    async fn run(
        mut self,
        first: v1::WatchLanesRequest,
        mut requests: Streaming<v1::WatchLanesRequest>,
        answers: &Answers,
    ) -> Result<(), ApiError> {
        self.hear(&first)?;
        let gateway = self.gateway.clone();
        let draining = gateway.until_draining();
        tokio::pin!(draining);
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let has_news = !(self.here.is_empty() && self.not_here.is_empty() && self.grown.is_empty());
            tokio::select! {
                () = &mut draining => return Err(self.gateway.not_ready()),
                () = answers.closed() => return Ok(()),
                message = requests.message() => match message {
                    Ok(Some(request)) => self.hear(&request)?,
                    Ok(None) => return Ok(()),
                    Err(status) => return Err(refused(status.message())),
                },
                permit = answers.reserve(), if has_news => {
                    let Ok(permit) = permit else { return Ok(()) };
                    permit.send(Ok(self.told()));
                }
                Some(grown) = self.news.next() => self.note(grown),
                _ = looks.tick() => self.look(),
            }
        }
    }

    fn hear(&mut self, request: &v1::WatchLanesRequest) -> Result<(), ApiError> {
        for shard in shards_of(&request.watch)? {
            let handle = self.gateway.host().get(shard);
            match handle.filter(|_| self.gateway.region().serves(shard)) {
                Some(handle) => {
                    self.news.watch(&handle);
                    self.not_here.remove(&shard);
                    self.here.insert(shard);
                }
                None => self.leave(shard),
            }
        }
        for shard in shards_of(&request.leave)? {
            self.news.leave(shard);
            self.here.remove(&shard);
        }
        Ok(())
    }

    fn leave(&mut self, shard: ShardId) {
        self.news.leave(shard);
        self.here.remove(&shard);
        self.not_here.insert(shard);
    }

    fn note(&mut self, grown: Grown) {
        match grown {
            Grown::AnyOf(shard) => drop(self.here.insert(shard)),
            Grown::Lanes(lanes) => self.grown.extend(lanes),
        }
        if self.grown.len() > GROWN_MAX {
            let lanes = std::mem::take(&mut self.grown);
            self.here.extend(lanes.into_iter().filter_map(|lane| self.gateway.shard_of(lane)));
        }
    }

    /// A replica may leave the set, or be found damaged, after it was asked for.
    fn look(&mut self) {
        for shard in self.news.watched() {
            if !self.gateway.region().serves(shard) {
                self.leave(shard);
            }
        }
    }

    fn told(&mut self) -> v1::WatchLanesResponse {
        let shards = |set: &mut BTreeSet<ShardId>| {
            std::mem::take(set).into_iter().map(v1::ShardRef::from).collect::<Vec<_>>()
        };
        v1::WatchLanesResponse {
            here: shards(&mut self.here),
            not_here: shards(&mut self.not_here),
            grown: std::mem::take(&mut self.grown).into_iter().map(v1::Lane::from).collect(),
        }
    }
}
