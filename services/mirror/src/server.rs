//! The source's end of links: the gRPC service that executes [`Feed`]'s effects.

use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::Stream;
use meridian_shard::{Progress, Reader, ShardHandle, ShardHost, Totals};
use meridian_storage::Chain;
use meridian_types::{LeaderEpoch, NodeId, RegionName, Seq, ShardId};
use meridian_wire::{ApiError, Reason, v1};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use v1::link_request::Request as In;
use v1::link_response::Response as Out;

use crate::hello::{Identity, PeerHello, Vetting};
use crate::link::RefusedReason;
use crate::{DurableBoard, DurableMark, Feed, FeedEffect, FeedInput, SourceMark, join_frames};

/// How often marks that have moved are told; every tenth time all are.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// A peer that asks without reading the answers is heard no further.
const PENDING_MAX: usize = 64;
/// A peer that asks for shard after shard is heard no further while so many of its questions are looked up.
const READS_MAX: usize = 64;
/// How long a leader may take to find out whether it still leads.
const CONFIRM_WITHIN: Duration = Duration::from_secs(2);
/// What has happened at the shards and is not yet taken up.
const INPUTS: usize = 64;

/// Serves links: pushes this node's frames to whoever mirrors them.
#[derive(Clone)]
pub struct PeerServer {
    me: Identity,
    /// Set once this node has opened its shards.
    host: Arc<OnceLock<Arc<ShardHost>>>,
    vetting: Vetting,
    board: Arc<DurableBoard>,
    neighbours: Arc<dyn Neighbours>,
}

/// The other nodes of this region.
pub trait Neighbours: Send + Sync + 'static {
    /// Tells them what another region has stored: its links lead to one of them each.
    fn share_durable(&self, shard: ShardId, region: &RegionName, mark: DurableMark);

    /// Whether they alone have replicas of a shard.
    fn is_placed_elsewhere(&self, shard: ShardId) -> bool;

    /// The nodes of this region that have replicas of a shard, as far as this one knows.
    fn holders(&self, shard: ShardId) -> Vec<NodeId>;
}

impl PeerServer {
    /// Serves what `host` will hold to peers that pass `vetting`, and notes on `board` what they have stored. Until the
    /// host is set it only greets.
    pub fn new(
        me: Identity,
        host: Arc<OnceLock<Arc<ShardHost>>>,
        vetting: Vetting,
        board: Arc<DurableBoard>,
        neighbours: Arc<dyn Neighbours>,
    ) -> Self {
        Self { me, host, vetting, board, neighbours }
    }

    fn meet(&self, hello: &v1::Hello) -> Result<PeerHello, ApiError> {
        let peer = PeerHello::read(hello)?;
        peer.check(&self.me)?;
        (self.vetting)(&peer)?;
        Ok(peer)
    }
}

#[tonic::async_trait]
impl v1::peer_service_server::PeerService for PeerServer {
    type LinkStream = Pin<Box<dyn Stream<Item = Result<v1::LinkResponse, Status>> + Send>>;

    async fn link(
        &self,
        request: Request<Streaming<v1::LinkRequest>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|message| message.request);
        let Some(In::Hello(hello)) = first else {
            return Err(ApiError::new(Reason::InvalidArgument, "a link begins with a Hello").into());
        };
        let peer = self.meet(&hello)?;
        let host = self.host.get().cloned().ok_or_else(|| {
            ApiError::new(Reason::NotReady, "this node has not opened its shards yet").retry_after(TELL_EVERY)
        })?;
        tracing::info!(node = %peer.identity.node, region = %peer.identity.region, "a mirror is connected");

        let (responses, stream) = mpsc::channel(2);
        let (inputs, inbox) = mpsc::channel(INPUTS);
        let session = Session {
            reader: host.reader(),
            host,
            board: self.board.clone(),
            neighbours: self.neighbours.clone(),
            region: peer.identity.region,
            feed: Feed::default(),
            followers: HashMap::new(),
            inputs,
            pending: VecDeque::from([Out::Hello(self.me.to_hello())]),
            cached: VecDeque::new(),
            reading: Arc::new(()),
        };
        tokio::spawn(session.run(requests, inbox, responses));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn greet(&self, request: Request<v1::Hello>) -> Result<Response<v1::Hello>, Status> {
        self.meet(request.get_ref())?;
        Ok(Response::new(self.me.to_hello()))
    }
}

struct Session {
    host: Arc<ShardHost>,
    reader: Reader,
    board: Arc<DurableBoard>,
    neighbours: Arc<dyn Neighbours>,
    region: RegionName,
    feed: Feed,
    followers: HashMap<ShardId, AbortHandle>,
    inputs: mpsc::Sender<FeedInput>,
    /// Not yet taken by the connection. What would add frames waits while it is not empty, so it stays small.
    pending: VecDeque<Out>,
    /// Frames that were read from memory, taken up once what is pending has gone: or all the credit's worth would
    /// become pending at once.
    cached: VecDeque<FeedInput>,
    /// Held by each read that is under way.
    reading: Arc<()>,
}

impl Session {
    async fn run(
        mut self,
        mut requests: Streaming<v1::LinkRequest>,
        mut inbox: mpsc::Receiver<FeedInput>,
        responses: mpsc::Sender<Result<v1::LinkResponse, Status>>,
    ) {
        let mut ticks = tokio::time::interval(TELL_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut count = 0u64;
        loop {
            // Whatever else has happened first: a long run of frames from memory must not hold it up.
            for _ in 0..INPUTS {
                let Some(input) = self.pending.is_empty().then(|| inbox.try_recv().ok()).flatten() else {
                    break;
                };
                self.step(input);
            }
            while self.pending.is_empty()
                && let Some(input) = self.cached.pop_front()
            {
                self.step(input);
            }
            let idle = self.pending.is_empty();
            let listening = self.pending.len() < PENDING_MAX && self.reads_under_way() < READS_MAX;
            tokio::select! {
                permit = responses.reserve(), if !idle => {
                    let Ok(permit) = permit else { break };
                    if let Some(response) = self.pending.pop_front() {
                        permit.send(Ok(v1::LinkResponse { response: Some(response) }));
                    }
                }
                message = requests.message(), if listening => match message {
                    Ok(Some(v1::LinkRequest { request: Some(request) })) => {
                        if let Err(error) = self.request(request) {
                            let _ = responses.send(Err(error.into())).await;
                            break;
                        }
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(status) => {
                        tracing::info!(region = %self.region, %status, "a mirror's connection ended");
                        break;
                    }
                },
                Some(input) = inbox.recv(), if idle => self.step(input),
                _ = ticks.tick(), if listening => {
                    count += 1;
                    self.end_what_has_left();
                    self.step(FeedInput::TellMarks { all: count.is_multiple_of(10) });
                }
            }
        }
        for follower in self.followers.into_values() {
            follower.abort();
        }
    }

    fn request(&mut self, request: In) -> Result<(), ApiError> {
        match request {
            In::Hello(_) => return Err(ApiError::new(Reason::InvalidArgument, "a second Hello")),
            In::Fetch(fetch) => {
                let shard = shard_of(fetch.shard.as_ref())?;
                let chain: [u8; 16] = fetch.chain_before[..]
                    .try_into()
                    .map_err(|_| ApiError::new(Reason::InvalidArgument, "chain_before must have 16 bytes"))?;
                let from = Seq(fetch.from_seq.max(1));
                let handle = self.host.get(shard);
                if fetch.through_seq > 0 {
                    self.fetch_some(shard, from..=Seq(fetch.through_seq), Chain(chain), handle);
                    return Ok(());
                }
                // A replica that has left the set may still be here: nothing new will ever come of it.
                let handle = handle.filter(|_| !self.neighbours.is_placed_elsewhere(shard));
                let mark = handle.as_ref().map(|handle| mark_of(handle, &self.host));
                if let Some(handle) = &handle {
                    self.follow(handle.clone());
                }
                let fetch = move |mark| FeedInput::Fetch {
                    shard,
                    from,
                    through: None,
                    chain_before: Chain(chain),
                    mark,
                };
                match (handle, mark) {
                    (Some(handle), Some(mark)) if mark.is_origin_leader && from.prev() > mark.seq => {
                        self.confirm(handle, mark, from.prev(), fetch);
                    }
                    _ => self.step(fetch(mark)),
                }
            }
            In::Stop(stop) => {
                let shard = shard_of(stop.shard.as_ref())?;
                self.unfollow(shard);
                self.step(FeedInput::Stop(shard));
            }
            In::Credit(credit) => self.step(FeedInput::Credit(credit.bytes)),
            In::Withdraw(credit) => self.step(FeedInput::Withdraw(credit.bytes)),
            In::Durable(mark) => {
                let shard = shard_of(mark.shard.as_ref())?;
                let totals = Totals { events: mark.events, bytes: mark.bytes };
                let hosting = (mark.hosting_incarnation, LeaderEpoch(mark.leader_epoch));
                if self.host.get(shard).is_none() {
                    // Not worth remembering, and a peer could make up any number of them.
                    return Ok(());
                }
                let mark = DurableMark { seq: Seq(mark.seq), totals, hosting };
                if self.board.report(shard, &self.region, mark) {
                    self.neighbours.share_durable(shard, &self.region, mark);
                }
            }
            In::Ping(ping) => self.pending.push_back(Out::Pong(ping)),
        }
        Ok(())
    }

    /// Frames that are damaged where they are asked for. What is applied here stays what it is, wherever the shard is placed now;
    /// nothing new is to follow, so the shard is not watched, and [`Session::end_what_has_left`] does not end it.
    fn fetch_some(
        &mut self,
        shard: ShardId,
        frames: RangeInclusive<Seq>,
        chain_before: Chain,
        handle: Option<ShardHandle>,
    ) {
        self.unfollow(shard);
        let mark = handle.map(|handle| mark_of(&handle, &self.host));
        let mark = mark.map(|mark| SourceMark { is_origin_leader: false, ..mark });
        let (from, through) = (*frames.start(), Some(*frames.end()));
        self.step(FeedInput::Fetch { shard, from, through, chain_before, mark });
    }

    /// A copy holds more than this leader, which is grave if it is true: so a majority is asked first whether it still
    /// leads. One that was deposed without having heard of it never gets an answer, and is only behind.
    fn confirm(
        &self,
        handle: ShardHandle,
        mark: SourceMark,
        held: Seq,
        fetch: impl FnOnce(Option<SourceMark>) -> FeedInput + Send + 'static,
    ) {
        let (inputs, reading) = (self.inputs.clone(), self.reading.clone());
        tokio::spawn(async move {
            let confirmed = tokio::time::timeout(CONFIRM_WITHIN, handle.read()).await;
            let is_origin_leader = matches!(confirmed, Ok(Ok(committed)) if committed < held);
            let _ = inputs.send(fetch(Some(SourceMark { is_origin_leader, ..mark }))).await;
            drop(reading);
        });
    }

    /// Passes on that a shard has advanced, as often as there is room for it.
    fn follow(&mut self, handle: ShardHandle) {
        let shard = handle.id;
        let (inputs, host) = (self.inputs.clone(), self.host.clone());
        let mut watch = handle.watch();
        let follower = tokio::spawn(async move {
            let mut last = None;
            while watch.changed().await.is_ok() {
                let mark = mark_from(&watch.borrow_and_update().clone(), shard, &host);
                if last == Some(mark) {
                    continue;
                }
                last = Some(mark);
                if inputs.send(FeedInput::Advanced(shard, mark)).await.is_err() {
                    return;
                }
            }
        });
        if let Some(old) = self.followers.insert(shard, follower.abort_handle()) {
            old.abort();
        }
    }

    fn unfollow(&mut self, shard: ShardId) {
        if let Some(follower) = self.followers.remove(&shard) {
            follower.abort();
        }
    }

    /// A replica may leave the set after it was asked for: the link is to turn to a node that still has one.
    fn end_what_has_left(&mut self) {
        let watched = self.feed.wanted().filter(|shard| self.followers.contains_key(shard));
        let left = watched.filter(|shard| self.neighbours.is_placed_elsewhere(*shard));
        for shard in left.collect::<Vec<_>>() {
            self.unfollow(shard);
            self.step(FeedInput::Left(shard));
        }
    }

    fn step(&mut self, input: FeedInput) {
        let mut effects = Vec::new();
        self.feed.step(input, &mut effects);
        for effect in effects {
            self.execute(effect);
        }
    }

    fn execute(&mut self, effect: FeedEffect) {
        match effect {
            FeedEffect::LookUp { shard, turn, seq } => {
                self.blocking(move |reader| {
                    let chain = reader.chain_at(shard, seq).map_err(|error| error.to_string());
                    FeedInput::LookedUp { shard, turn, chain }
                });
            }
            FeedEffect::Read { shard, turn, from, max_bytes } => {
                let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
                if let Some(frames) = self.reader.cached(shard, from, max_bytes) {
                    self.cached.push_back(FeedInput::Read { shard, turn, frames: Ok(frames) });
                    return;
                }
                self.blocking(move |reader| {
                    let frames = reader.frames(shard, from, max_bytes).map_err(|error| error.to_string());
                    FeedInput::Read { shard, turn, frames }
                });
            }
            FeedEffect::Push { shard, frames } => {
                let first_seq = frames.first().map_or(0, |frame| frame.header.seq.0);
                self.pending.push_back(Out::Frames(v1::Frames {
                    shard: Some(shard.into()),
                    first_seq,
                    count: frames.len() as u32,
                    frames: join_frames(&frames),
                }));
            }
            FeedEffect::Withdrawn(bytes) => {
                self.pending.push_back(Out::Withdrawn(v1::LinkCredit { bytes }));
            }
            FeedEffect::Mark(shard, mark) => self.pending.push_back(Out::Mark(v1::ShardMark {
                shard: Some(shard.into()),
                committed_seq: mark.seq.0,
                events: mark.totals.events,
                bytes: mark.totals.bytes,
                hlc: mark.hlc.0,
            })),
            FeedEffect::Refuse { shard, reason, last, message } => {
                let is_elsewhere = reason == RefusedReason::UnknownShard;
                let holders = if is_elsewhere { self.neighbours.holders(shard) } else { Vec::new() };
                let reason = match reason {
                    RefusedReason::ChainDiffers => v1::shard_refused::Reason::ChainDiffers,
                    RefusedReason::OriginShorter => v1::shard_refused::Reason::OriginShorter,
                    RefusedReason::Behind => v1::shard_refused::Reason::Behind,
                    RefusedReason::UnknownShard => v1::shard_refused::Reason::UnknownShard,
                    RefusedReason::Damaged => v1::shard_refused::Reason::Damaged,
                };
                self.pending.push_back(Out::Refused(v1::ShardRefused {
                    shard: Some(shard.into()),
                    reason: reason.into(),
                    last_seq: last.0,
                    message,
                    holders: holders.into_iter().map(|node| node.0).collect(),
                }));
            }
        }
    }

    /// Reads from the disk without holding up the connection.
    fn blocking(&self, read: impl FnOnce(&Reader) -> FeedInput + Send + 'static) {
        let (inputs, reader, reading) = (self.inputs.clone(), self.reader.clone(), self.reading.clone());
        tokio::spawn(async move {
            let ahead = reader.clone();
            if let Ok(input) = tokio::task::spawn_blocking(move || read(&reader)).await
                && inputs.send(input).await.is_ok()
            {
                // What follows, while that is on its way.
                let _ = tokio::task::spawn_blocking(move || ahead.read_ahead()).await;
            }
            drop(reading);
        });
    }

    fn reads_under_way(&self) -> usize {
        Arc::strong_count(&self.reading) - 1
    }
}

fn shard_of(shard: Option<&v1::ShardRef>) -> Result<ShardId, ApiError> {
    let shard = shard.ok_or_else(|| ApiError::new(Reason::InvalidArgument, "the message names no shard"))?;
    Ok(ShardId::try_from(shard)?)
}

fn mark_of(handle: &ShardHandle, host: &ShardHost) -> SourceMark {
    mark_from(&handle.progress(), handle.id, host)
}

fn mark_from(progress: &Progress, shard: ShardId, host: &ShardHost) -> SourceMark {
    SourceMark {
        seq: progress.applied,
        totals: progress.totals,
        hlc: progress.hlc,
        is_origin_leader: shard.origin == host.home() && progress.ready,
    }
}
