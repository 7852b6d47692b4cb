//! The gRPC face of the fake region.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use meridian_types::{Cursor, Lane, Offset, Origin, Partition, RegionId, StreamId};
use meridian_wire::v1::cluster_service_server::{ClusterService, ClusterServiceServer};
use meridian_wire::v1::event_service_server::{EventService, EventServiceServer};
use meridian_wire::v1::publish_batches_response::Result as Answer;
use meridian_wire::v1::stream_service_server::{StreamService, StreamServiceServer};
use meridian_wire::v1::subscribe_response::Response as Message;
use meridian_wire::v1::{self, subscribe_request, subscribe_start};
use meridian_wire::{ApiError, Reason};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::store::{Faults, REGION, SHARDS, Store};

/// The longest that an answer is held back.
const LATE: Duration = Duration::from_millis(5);
/// How long a killed server's port may take until it is free.
const REBIND_WITHIN: Duration = Duration::from_secs(60);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A server on a runtime of its own, so that killing it kills its connections too.
pub struct FakeServer {
    pub address: SocketAddr,
    pub store: Arc<Mutex<Store>>,
    id: u32,
    appended: watch::Sender<u64>,
    runtime: Option<tokio::runtime::Runtime>,
    seed: u64,
}

#[derive(Clone)]
struct Node {
    store: Arc<Mutex<Store>>,
    appended: watch::Sender<u64>,
    seed: u64,
    id: u32,
}

impl FakeServer {
    /// A region of one node with one stream, `s`.
    pub fn start(seed: u64, partitions: u32) -> Self {
        Self::region(seed, partitions, 1).remove(0)
    }

    /// A region of so many nodes, counted from 1, with one stream, `s`. They keep everything together, and none leads.
    pub fn region(seed: u64, partitions: u32, nodes: u32) -> Vec<Self> {
        let store = Arc::new(Mutex::new(Store::default()));
        let settings = v1::StreamSettings { partitions, ..v1::StreamSettings::default() };
        store.lock().create("s", settings).unwrap();
        let (appended, _) = watch::channel(0);
        let start = |id| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let (store, appended) = (Arc::clone(&store), appended.clone());
            store.lock().placement.endpoints.insert(id, format!("http://{address}"));
            let mut server = Self { address, store, id, appended, runtime: None, seed: seed + u64::from(id) };
            server.run(listener);
            server
        };
        (1..=nodes).map(start).collect()
    }

    /// Waits until the region is so; looked at again whenever a node has dealt with a batch.
    pub async fn until(&self, so: impl Fn(&Store) -> bool) {
        let mut appended = self.appended.subscribe();
        while !so(&self.store.lock()) {
            appended.changed().await.unwrap();
        }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn faults(&self, faults: Faults) {
        self.store.lock().faults = faults;
    }

    /// Tells readers of what was put into the store by hand.
    pub fn appended(&self) {
        self.appended.send_modify(|count| *count += 1);
    }

    /// How many subscriptions wait for what comes.
    pub fn readers(&self) -> usize {
        self.appended.receiver_count()
    }

    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            self.store.lock().placement.down.insert(self.id);
            runtime.shutdown_background();
        }
    }

    /// On the same port, with the same store.
    pub fn restart(&mut self) {
        self.kill();
        let give_up = Instant::now() + REBIND_WITHIN;
        let listener = loop {
            match TcpListener::bind(self.address) {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < give_up, "no way back to {}: {error}", self.address),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.run(listener);
    }

    fn run(&mut self, listener: TcpListener) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let node = Node {
            store: Arc::clone(&self.store),
            appended: self.appended.clone(),
            seed: self.seed,
            id: self.id,
        };
        self.store.lock().placement.down.remove(&self.id);
        listener.set_nonblocking(true).unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            const MESSAGE: usize = 16 * 1024 * 1024;
            let events = EventServiceServer::new(node.clone()).max_decoding_message_size(MESSAGE);
            tonic::transport::Server::builder()
                .add_service(events)
                .add_service(StreamServiceServer::new(node.clone()))
                .add_service(ClusterServiceServer::new(node))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        self.runtime = Some(runtime);
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.kill();
    }
}

#[tonic::async_trait]
impl StreamService for Node {
    async fn create_stream(
        &self,
        request: Request<v1::CreateStreamRequest>,
    ) -> Result<Response<v1::CreateStreamResponse>, Status> {
        let request = request.into_inner();
        let name = request.stream.unwrap_or_default().stream;
        let (stream, created) = self.store.lock().create(&name, request.settings.unwrap_or_default())?;
        Ok(Response::new(v1::CreateStreamResponse { stream: Some(stream), created }))
    }

    async fn get_stream(
        &self,
        request: Request<v1::GetStreamRequest>,
    ) -> Result<Response<v1::GetStreamResponse>, Status> {
        let mut store = self.store.lock();
        let stream = store.stream(request.into_inner().stream.as_ref())?;
        Ok(Response::new(v1::GetStreamResponse { stream: Some(stream.row.clone()) }))
    }

    async fn list_streams(
        &self,
        request: Request<v1::ListStreamsRequest>,
    ) -> Result<Response<v1::ListStreamsResponse>, Status> {
        // Two a page, so that clients must turn pages.
        let from: usize = request.into_inner().page_token.parse().unwrap_or(0);
        let all: Vec<v1::Stream> = self.store.lock().streams.values().map(|s| s.row.clone()).collect();
        let next = from + 2;
        let next_page_token = if next < all.len() { next.to_string() } else { String::new() };
        let streams = all.into_iter().skip(from).take(2).collect();
        Ok(Response::new(v1::ListStreamsResponse { streams, next_page_token }))
    }

    async fn update_stream(
        &self,
        request: Request<v1::UpdateStreamRequest>,
    ) -> Result<Response<v1::UpdateStreamResponse>, Status> {
        let request = request.into_inner();
        let mut store = self.store.lock();
        let row = &mut store.stream(request.stream.as_ref())?.row;
        if request.expected_version != 0 && request.expected_version != row.version {
            return Err(ApiError::new(Reason::VersionConflict, "changed meanwhile").into());
        }
        row.settings = request.settings;
        row.version += 1;
        Ok(Response::new(v1::UpdateStreamResponse { stream: Some(row.clone()) }))
    }

    async fn delete_stream(
        &self,
        request: Request<v1::DeleteStreamRequest>,
    ) -> Result<Response<v1::DeleteStreamResponse>, Status> {
        let name = request.into_inner().stream;
        let mut store = self.store.lock();
        store.stream(name.as_ref())?;
        store.streams.remove(&name.unwrap_or_default().stream);
        Ok(Response::new(v1::DeleteStreamResponse {}))
    }
}

#[tonic::async_trait]
impl EventService for Node {
    type PublishBatchesStream = Answers<v1::PublishBatchesResponse>;
    type SubscribeStream = Answers<v1::SubscribeResponse>;

    async fn publish(&self, _: Request<v1::PublishRequest>) -> Result<Response<v1::PublishResponse>, Status> {
        Err(Status::unimplemented("the SDK encodes batches itself"))
    }

    async fn init_producer(
        &self,
        _: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        let id = self.store.lock().init_producer();
        Ok(Response::new(v1::InitProducerResponse { id, epoch: 0 }))
    }

    async fn latest(
        &self,
        request: Request<v1::LatestRequest>,
    ) -> Result<Response<v1::LatestResponse>, Status> {
        let mut store = self.store.lock();
        let stream = store.stream(request.into_inner().stream.as_ref())?;
        let mut cursor = Cursor::start(StreamId(stream.row.id));
        for (&(partition, origin), log) in &stream.lanes {
            cursor.set(origin, partition, Offset(log.end));
        }
        let partitions = stream.row.settings.as_ref().map_or(0, |settings| settings.partitions);
        Ok(Response::new(v1::LatestResponse {
            stream_id: stream.row.id,
            partitions,
            cursor: cursor.to_bytes().into(),
            confirmed: Some(Origin::first(RegionId(1)).into()),
        }))
    }

    async fn publish_batches(
        &self,
        request: Request<Streaming<v1::PublishBatchesRequest>>,
    ) -> Result<Response<Self::PublishBatchesStream>, Status> {
        let mut requests = request.into_inner();
        let (answers, receiver) = mpsc::channel(64);
        let node = self.clone();
        tokio::spawn(async move {
            let mut rng = StdRng::seed_from_u64(node.seed);
            let mut held: Vec<v1::PublishBatchesResponse> = Vec::new();
            // What arrived is stored, also when its connection is gone by then.
            loop {
                // Late, not never: nothing else may come that would take the held answers along.
                let wait = if held.is_empty() { Duration::MAX } else { LATE };
                let request = match tokio::time::timeout(wait, requests.next()).await {
                    Ok(Some(Ok(request))) => request,
                    Ok(_) => break,
                    Err(_) => {
                        for answer in held.drain(..).rev() {
                            let _ = answers.send(Ok(answer)).await;
                        }
                        continue;
                    }
                };
                let faults = node.store.lock().faults.clone();
                if let Some(after) = faults.refuse_first
                    && request.partition == 0
                {
                    let error = ApiError::new(Reason::Overloaded, "too much").retry_after(after);
                    let result = Some(Answer::Error(error.into()));
                    let answer = v1::PublishBatchesResponse { request_id: request.request_id, result };
                    let _ = answers.send(Ok(answer)).await;
                    continue;
                }
                if faults.mute {
                    node.store.lock().unanswered += 1;
                    continue;
                }
                let result = if rng.random_bool(faults.overloaded) {
                    let error = ApiError::new(Reason::Overloaded, "too much");
                    Answer::Error(error.retry_after(Duration::from_millis(2)).into())
                } else {
                    let result = node.store.lock().append_at(node.id, &request);
                    result.map_or_else(|error| Answer::Error(error.into()), Answer::Published)
                };
                let is_silent = {
                    let mut store = node.store.lock();
                    let is_silent = store.placement.silent.contains(&node.id);
                    store.unanswered += u64::from(is_silent);
                    is_silent
                };
                node.appended.send_modify(|count| *count += 1);
                if is_silent {
                    continue;
                }
                tokio::time::sleep(faults.delay).await;
                let answer =
                    v1::PublishBatchesResponse { request_id: request.request_id, result: Some(result) };
                held.push(answer);
                if rng.random_bool(faults.late) && held.len() < 4 {
                    continue;
                }
                for answer in held.drain(..).rev() {
                    let _ = answers.send(Ok(answer)).await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let mut requests = request.into_inner();
        let Some(Ok(v1::SubscribeRequest { request: Some(subscribe_request::Request::Start(start)) })) =
            requests.next().await
        else {
            return Err(ApiError::new(Reason::InvalidArgument, "no start").into());
        };
        let next = begin(&mut self.store.lock(), &start)?;
        let (messages, receiver) = mpsc::channel(1);
        tokio::spawn(feed(self.clone(), start, next, requests, messages));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

fn begin(store: &mut Store, start: &v1::SubscribeStart) -> Result<Cursor, ApiError> {
    let stream = store.stream(start.stream.as_ref())?;
    let mut cursor = Cursor::start(StreamId(stream.row.id));
    match &start.from {
        Some(subscribe_start::From::Cursor(bytes)) => {
            cursor = Cursor::from_bytes(bytes)
                .map_err(|error| ApiError::new(Reason::BadCursor, error.to_string()))?;
        }
        Some(subscribe_start::From::Latest(_)) => {
            for ((partition, origin), log) in &stream.lanes {
                cursor.set(*origin, *partition, Offset(log.end));
            }
        }
        _ => {}
    }
    Ok(cursor)
}

async fn feed(
    node: Node,
    start: v1::SubscribeStart,
    mut next: Cursor,
    mut requests: Streaming<v1::SubscribeRequest>,
    messages: mpsc::Sender<Result<v1::SubscribeResponse, Status>>,
) -> Option<()> {
    let send =
        async |message| messages.send(Ok(v1::SubscribeResponse { response: Some(message) })).await.ok();
    let partitions = node.store.lock().stream(start.stream.as_ref()).ok()?.row.settings.as_ref()?.partitions;
    let cursor = next.to_bytes().into();
    send(Message::Started(v1::SubscribeStarted { stream_id: next.stream.0, partitions, cursor })).await?;
    let mut credit = i64::try_from(start.credit_bytes).ok()?;
    let mut appended = node.appended.subscribe();
    let mut told: Option<Cursor> = None;
    let mut sent = 0;
    loop {
        appended.mark_unchanged();
        while credit > 0 {
            let Some(batch) = next_batch(&node.store, start.stream.as_ref(), &mut next) else { break };
            credit -= batch.batch.len() as i64;
            send(Message::Batch(batch)).await?;
            sent += 1;
            if sent == WHOLE && is_damaged(&node.store) {
                let error = ApiError::new(Reason::Damaged, "what comes next does not read back");
                messages.send(Err(error.into())).await.ok()?;
                return None;
            }
        }
        if credit > 0 && told.as_ref() != Some(&next) {
            send(Message::Mark(v1::Mark { cursor: next.to_bytes().into(), caught_up: true })).await?;
            told = Some(next.clone());
        }
        tokio::select! {
            request = requests.next() => match request?.ok()?.request? {
                subscribe_request::Request::Credit(more) => credit += more.bytes as i64,
                subscribe_request::Request::Start(_) => return None,
            },
            changed = appended.changed() => changed.ok()?,
        }
    }
}

/// Batches before the damage.
const WHOLE: u32 = 5;

/// Whether this subscription is one of those that find damage.
fn is_damaged(store: &Mutex<Store>) -> bool {
    let left = &mut store.lock().faults.damaged;
    let is_damaged = *left > 0;
    *left = left.saturating_sub(1);
    is_damaged
}

fn next_batch(store: &Mutex<Store>, stream: Option<&v1::StreamRef>, next: &mut Cursor) -> Option<v1::Batch> {
    let mut store = store.lock();
    let stream = store.stream(stream).ok()?;
    for (&(partition, origin), log) in &stream.lanes {
        let wanted = next.next(origin, partition);
        let Some(batch) = log.batches.iter().find(|b| b.base + u64::from(b.events) > wanted.0) else {
            continue;
        };
        next.set(origin, partition, Offset(batch.base + u64::from(batch.events)));
        let lane = Lane { stream: StreamId(stream.row.id), partition, origin };
        return Some(v1::Batch {
            lane: Some(lane.into()),
            base_offset: batch.base,
            events: batch.events,
            hlc: batch.hlc,
            batch: batch.bytes.clone(),
            first_wanted: wanted.0.max(batch.base),
        });
    }
    None
}

#[tonic::async_trait]
impl ClusterService for Node {
    async fn get_topology(
        &self,
        _: Request<v1::GetTopologyRequest>,
    ) -> Result<Response<v1::GetTopologyResponse>, Status> {
        let region = v1::Region { id: 1, name: REGION.into(), incarnation: 1, shards: SHARDS.into() };
        let store = self.store.lock();
        let nodes = store.placement.endpoints.iter().map(|(id, endpoint)| v1::Node {
            id: *id,
            region: REGION.into(),
            endpoint: endpoint.clone(),
            live: Some(true),
            draining: Some(false),
            ..v1::Node::default()
        });
        Ok(Response::new(v1::GetTopologyResponse {
            regions: vec![region],
            nodes: nodes.collect(),
            node: self.id,
            region: REGION.into(),
            ..v1::GetTopologyResponse::default()
        }))
    }

    async fn list_shards(
        &self,
        _: Request<v1::ListShardsRequest>,
    ) -> Result<Response<v1::ListShardsResponse>, Status> {
        use v1::shard::Role;
        let store = self.store.lock();
        if store.placement.is_old {
            return Err(Status::unimplemented(""));
        }
        let members: Vec<u32> = store.placement.endpoints.keys().copied().collect();
        let shards = store.placement.leaders.iter().map(|(&number, &(epoch, leader))| v1::Shard {
            origin: Some(v1::Origin { region: 1, incarnation: 1 }),
            number: number.into(),
            epoch,
            leader,
            members: members.clone(),
            version: 1,
            role: if leader == Some(self.id) { Role::Leader } else { Role::Follower }.into(),
            appended: 7,
            committed: 6,
            applied: 5,
            ..v1::Shard::default()
        });
        let shards = shards.collect();
        Ok(Response::new(v1::ListShardsResponse { node: self.id, region: REGION.into(), shards }))
    }

    async fn add_node(
        &self,
        request: Request<v1::AddNodeRequest>,
    ) -> Result<Response<v1::AddNodeResponse>, Status> {
        let v1::AddNodeRequest { node, region, disk_uuid, peer, client, .. } = request.into_inner();
        let mut store = self.store.lock();
        let added = !store.placement.endpoints.contains_key(&node);
        store.placement.asked.push(format!("add {node} in {region} with {disk_uuid} at {peer} {client}"));
        Ok(Response::new(v1::AddNodeResponse { added }))
    }

    async fn drain_node(
        &self,
        request: Request<v1::DrainNodeRequest>,
    ) -> Result<Response<v1::DrainNodeResponse>, Status> {
        let v1::DrainNodeRequest { node, undo } = request.into_inner();
        self.store.lock().placement.asked.push(format!("drain {node} undo {undo}"));
        Ok(Response::new(v1::DrainNodeResponse {}))
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::RemoveNodeResponse>, Status> {
        let node = request.into_inner().node;
        let mut store = self.store.lock();
        if !store.placement.endpoints.contains_key(&node) {
            return Err(ApiError::new(Reason::InvalidArgument, format!("there is no node {node}")).into());
        }
        store.placement.asked.push(format!("remove {node}"));
        Ok(Response::new(v1::RemoveNodeResponse {}))
    }

    async fn move_shard(
        &self,
        request: Request<v1::MoveShardRequest>,
    ) -> Result<Response<v1::MoveShardResponse>, Status> {
        let v1::MoveShardRequest { origin, number, from, to } = request.into_inner();
        let origin = origin.map(|origin| (origin.region, origin.incarnation));
        let text = format!("move {origin:?}/{number} {from} to {to}");
        self.store.lock().placement.asked.push(text);
        Ok(Response::new(v1::MoveShardResponse {}))
    }

    async fn set_replication(
        &self,
        request: Request<v1::SetReplicationRequest>,
    ) -> Result<Response<v1::SetReplicationResponse>, Status> {
        let replicas = request.into_inner().replicas;
        self.store.lock().placement.asked.push(format!("replicas {replicas}"));
        Ok(Response::new(v1::SetReplicationResponse {}))
    }

    async fn restore_region(
        &self,
        request: Request<v1::RestoreRegionRequest>,
    ) -> Result<Response<v1::RestoreRegionResponse>, Status> {
        let v1::RestoreRegionRequest { region, incarnation, lost, .. } = request.into_inner();
        self.store.lock().placement.asked.push(format!("restore {region} {incarnation} without {lost:?}"));
        Ok(Response::new(v1::RestoreRegionResponse { incarnation: incarnation + 1 }))
    }

    async fn get_lag(&self, _: Request<v1::GetLagRequest>) -> Result<Response<v1::GetLagResponse>, Status> {
        let at_risk = Some(v1::AtRisk { events: 7, bytes: 70, oldest_ms: 700, unknown_shards: 0 });
        Ok(Response::new(v1::GetLagResponse { at_risk, ..v1::GetLagResponse::default() }))
    }

    async fn list_lanes(
        &self,
        request: Request<v1::ListLanesRequest>,
    ) -> Result<Response<v1::ListLanesResponse>, Status> {
        let mut store = self.store.lock();
        let stream = store.stream(request.into_inner().stream.as_ref())?;
        let stream_id = stream.row.id;
        let name = |origin: Origin| match origin.region.0 {
            1 => REGION.to_owned(),
            other => format!("r{other}"),
        };
        let lanes: BTreeMap<_, _> = stream.lanes.iter().collect();
        let lanes = lanes.into_iter().map(|(&(partition, origin), log)| v1::LaneEnds {
            lane: Some(Lane { stream: StreamId(stream_id), partition, origin }.into()),
            origin_region: name(origin),
            start: 0,
            end: log.end,
            bytes: log.batches.iter().map(|batch| batch.bytes.len() as u64).sum(),
        });
        let lanes = lanes.collect();
        let partitions = stream.row.settings.as_ref().map_or(0, |settings| settings.partitions);
        Ok(Response::new(v1::ListLanesResponse { stream_id, partitions, lanes }))
    }

    async fn digest_lane(
        &self,
        request: Request<v1::DigestLaneRequest>,
    ) -> Result<Response<v1::DigestLaneResponse>, Status> {
        let request = request.into_inner();
        let mut store = self.store.lock();
        let stream = store.stream(request.stream.as_ref())?;
        let lane = request.lane.as_ref().and_then(|lane| Lane::try_from(lane).ok());
        let lane = lane.ok_or_else(|| ApiError::new(Reason::InvalidArgument, "no lane"))?;
        let mut answer = v1::DigestLaneResponse::default();
        let mut hasher = blake3::Hasher::new();
        let log = stream.lanes.get(&(Partition(lane.partition.0), lane.origin));
        for batch in log.iter().flat_map(|log| &log.batches) {
            if (request.start..request.end).contains(&batch.base) {
                hasher.update(&batch.bytes);
                answer.events += u64::from(batch.events);
                answer.frames += 1;
                answer.bytes += batch.bytes.len() as u64;
            }
        }
        answer.blake3 = hasher.finalize().as_bytes().to_vec().into();
        Ok(Response::new(answer))
    }
}
