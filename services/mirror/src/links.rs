//! The copy's end of links: one task a source region, which executes [`LinkCore`]'s effects.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use meridian_shard::{Progress, ShardHandle, Totals};
use meridian_types::{Clock, Hlc, NodeId, RegionName, Seq, ShardId, Timestamp};
use meridian_wire::{ApiError, v1};
use parking_lot::Mutex;
use rand::RngExt as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use v1::link_request::Request as Out;
use v1::link_response::Response as In;

use crate::hello::{Identity, PeerHello, Vetting};
use crate::link::{COPY_DAMAGED, CopyState, LinkConfig, LinkCore, LinkEffect, LinkInput, RefusedReason};
use crate::sources::{Source, Sources, Whereabouts};
use crate::status::{LinkStatus, ShardFault};
use crate::{SourceMark, split_frames};

const TICK: Duration = Duration::from_millis(100);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// Messages shorter than this are copied out of what they came in.
const COPIED: usize = 64 * 1024;
/// How often the origin is tried while frames come through a relay.
const RETURN_AFTER: Duration = Duration::from_secs(5);
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A frame may be as large as a batch, and a message holds at least one.
const MESSAGE_BYTES: usize = 32 * 1024 * 1024;

/// Connects to a peer's peer listener, with windows and a connection fit for bulk.
pub trait Dialer: Send + Sync + 'static {
    /// A connection of its own.
    fn dial(&self, node: NodeId) -> BoxFuture<'static, Result<Channel, String>>;
}

/// The links into this region.
pub struct Links {
    me: Identity,
    config: LinkConfig,
    dialer: Arc<dyn Dialer>,
    clock: Arc<dyn Clock>,
    vetting: Vetting,
    nodes: Whereabouts,
    links: Mutex<BTreeMap<RegionName, Link>>,
}

/// A link, from outside.
struct Link {
    status: watch::Receiver<LinkStatus>,
    events: mpsc::Sender<(ShardHandle, CopyState)>,
    task: JoinHandle<()>,
    /// What tells how each copy is, and whether it is told as a past incarnation's.
    followers: BTreeMap<ShardId, (bool, JoinHandle<()>)>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
        for (_, follower) in self.followers.values() {
            follower.abort();
        }
    }
}

impl Links {
    /// No links yet. Nodes of a region are asked one at a time; those of other regions, which have its frames too, while it is
    /// out of reach.
    pub fn new(
        me: Identity,
        config: LinkConfig,
        dialer: Arc<dyn Dialer>,
        clock: Arc<dyn Clock>,
        vetting: Vetting,
        nodes: Whereabouts,
    ) -> Self {
        Self { me, config, dialer, clock, vetting, nodes, links: Mutex::default() }
    }

    /// A link to a region, if there is none yet. It carries nothing before [`Links::carry`].
    pub fn start(&self, region: &RegionName) {
        let mut links = self.links.lock();
        if links.contains_key(region) {
            return;
        }
        let (status, watcher) = watch::channel(LinkStatus::default());
        let (events, inbox) = mpsc::channel(1024);
        // Not all of this region's nodes at the same one of that region.
        let first = self.me.node.0 as usize;
        let link = LinkTask {
            sources: Sources::new(region.clone(), self.nodes.clone(), first),
            me: self.me.clone(),
            dialer: self.dialer.clone(),
            clock: self.clock.clone(),
            vetting: self.vetting.clone(),
            core: LinkCore::new(self.config),
            copies: HashMap::new(),
            region: region.clone(),
            status,
            session: None,
            opened: Instant::now(),
        };
        let task = tokio::spawn(link.run(inbox));
        links.insert(region.clone(), Link { status: watcher, events, task, followers: BTreeMap::new() });
    }

    /// Mirrors a shard from a region, for ever; `is_past`: its origin writes no more under this incarnation. Again with the same is
    /// nothing.
    pub fn carry(&self, region: &RegionName, copy: &ShardHandle, is_past: bool) {
        let mut links = self.links.lock();
        let Some(link) = links.get_mut(region) else { return };
        if link.followers.get(&copy.id).is_some_and(|(known, _)| *known == is_past) {
            return;
        }
        let follower = follow(copy.clone(), is_past, link.events.clone());
        if let Some((_, old)) = link.followers.insert(copy.id, (is_past, follower)) {
            old.abort();
        }
    }

    /// How each link is.
    pub fn statuses(&self) -> Vec<LinkStatus> {
        self.links
            .lock()
            .iter()
            .map(|(region, link)| LinkStatus { source: Some(region.clone()), ..link.status.borrow().clone() })
            .collect()
    }

    /// Ends all links.
    pub fn stop(&self) {
        self.links.lock().clear();
    }
}

/// Tells how a copy is, now and whenever it changes.
fn follow(
    copy: ShardHandle,
    is_past: bool,
    events: mpsc::Sender<(ShardHandle, CopyState)>,
) -> JoinHandle<()> {
    let mut watch = copy.watch();
    tokio::spawn(async move {
        loop {
            let state = copy_state(copy.id, &watch.borrow_and_update().clone(), is_past);
            if events.send((copy.clone(), state)).await.is_err() || watch.changed().await.is_err() {
                return;
            }
        }
    })
}

/// What a link is told of a copy; `is_past`: its origin writes no more under this incarnation.
pub fn copy_state(shard: ShardId, progress: &Progress, is_past: bool) -> CopyState {
    let fault = progress.fault.as_ref().map(|fault| ShardFault {
        shard,
        seq: progress.appended.next(),
        reason: "CHAIN_DIFFERS",
        message: fault.to_string(),
    });
    // One that leads or follows takes what it lacks; one that holds nothing is perhaps no replica at all.
    let stands = progress.damaged && progress.follows.is_none() && progress.appended > Seq::ZERO;
    let damaged = stands.then(|| ShardFault {
        shard,
        seq: progress.applied.next(),
        reason: COPY_DAMAGED,
        message: "this node's copy is damaged, and no leader that it could follow is known".into(),
    });
    CopyState {
        appended: progress.appended,
        chain: progress.chain,
        durable: progress.applied,
        totals: progress.totals,
        hlc: progress.hlc,
        leads: progress.leads,
        follows: progress.follows.is_some(),
        is_past,
        fault: fault.or(damaged),
    }
}

type Connecting = BoxFuture<'static, Result<Session, String>>;

pub(crate) struct Session {
    source: Source,
    requests: mpsc::UnboundedSender<v1::LinkRequest>,
    pub responses: Streaming<v1::LinkResponse>,
}

impl Session {
    /// A connection that is gone says so on its other half.
    pub fn ask(&self, request: Out) {
        let _ = self.requests.send(v1::LinkRequest { request: Some(request) });
    }
}

struct LinkTask {
    me: Identity,
    dialer: Arc<dyn Dialer>,
    clock: Arc<dyn Clock>,
    vetting: Vetting,
    core: LinkCore,
    copies: HashMap<ShardId, ShardHandle>,
    region: RegionName,
    status: watch::Sender<LinkStatus>,
    session: Option<Session>,
    /// Pings carry the time since then: a clock that steps measures nothing.
    opened: Instant,
    sources: Sources,
}

impl LinkTask {
    async fn run(mut self, mut events: mpsc::Receiver<(ShardHandle, CopyState)>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let first = self.sources.next();
        let mut connecting: Option<Connecting> = Some(self.connect(first, Duration::ZERO));
        // While frames come through a relay, their origin is tried again.
        let mut returning: Option<Connecting> = None;
        loop {
            let mut effects = Vec::new();
            let mut lost = None;
            let clock = self.clock.clone();
            tokio::select! {
                Some((copy, state)) = events.recv() => {
                    let shard = copy.id;
                    self.copies.entry(shard).or_insert(copy);
                    self.core.step(LinkInput::Copy(shard, state), clock.now(), &mut effects);
                }
                _ = ticks.tick() => {
                    let now = clock.now();
                    self.core.step(LinkInput::Tick, now, &mut effects);
                    self.show(now);
                }
                connected = async { connecting.as_mut().expect("checked by the guard").await }, if connecting.is_some() => {
                    connecting = None;
                    match connected {
                        Ok(session) => {
                            tracing::info!(region = %self.region, node = %session.source.node, through = %session.source.region, "the link is connected");
                            if !self.sources.is_direct(&session.source) {
                                returning = Some(self.connect_directly());
                            }
                            self.session = Some(session);
                            self.core.step(LinkInput::Connected, clock.now(), &mut effects);
                        }
                        Err(why) => {
                            // Not the first failure, which a start is full of, but the second and every tenth from there: a
                            // region that is down for an hour is one story.
                            if self.sources.failures() % 10 == 1 {
                                tracing::warn!(region = %self.region, why, "the link cannot connect; it goes on trying");
                            }
                            self.sources.failed();
                            connecting = Some(self.connect_next());
                        }
                    }
                }
                connected = async { returning.as_mut().expect("checked by the guard").await }, if returning.is_some() => {
                    returning = None;
                    match connected {
                        Ok(session) => {
                            tracing::info!(region = %self.region, node = %session.source.node, "the origin is in reach again: no relay any more");
                            self.core.step(LinkInput::Disconnected, clock.now(), &mut Vec::new());
                            self.session = Some(session);
                            self.core.step(LinkInput::Connected, clock.now(), &mut effects);
                        }
                        Err(_) => returning = Some(self.connect_directly()),
                    }
                }
                message = async { self.session.as_mut().expect("checked by the guard").responses.message().await },
                    if self.session.is_some() =>
                {
                    match message {
                        Ok(Some(v1::LinkResponse { response: Some(response) })) => {
                            if let Err(why) = self.response(response, clock.now(), &mut effects) {
                                lost = Some(why);
                            }
                        }
                        Ok(Some(_)) => {}
                        Ok(None) => lost = Some("the peer ended it".to_owned()),
                        Err(status) => lost = Some(describe(&status)),
                    }
                }
            }
            if let Some(why) = self.execute(effects).await {
                lost = Some(why);
            }
            if let Some(why) = lost {
                tracing::warn!(region = %self.region, why, "the link is lost; it will be connected anew");
                self.session = None;
                let now = clock.now();
                self.core.step(LinkInput::Disconnected, now, &mut Vec::new());
                self.sources.failed();
                self.show(now);
                returning = None;
                connecting = Some(self.connect_next());
            }
        }
    }

    /// Exponential, with full jitter, so that a region that comes back is not met by everyone at once.
    fn backoff(&self) -> Duration {
        let ceiling = BACKOFF_MAX.min(BACKOFF_MIN * 2u32.saturating_pow(self.sources.failures().min(10)));
        rand::rng().random_range(BACKOFF_MIN / 2..=ceiling)
    }

    fn connect_next(&mut self) -> Connecting {
        let (source, wait) = (self.sources.next(), self.backoff());
        self.connect(source, wait)
    }

    fn connect_directly(&mut self) -> Connecting {
        let source = self.sources.next_direct();
        self.connect(source, RETURN_AFTER)
    }

    fn show(&self, now: Timestamp) {
        let through = self.session.as_ref().map(|session| session.source.region.clone());
        let relay = through.filter(|region| *region != self.region);
        self.status.send_replace(LinkStatus { relay, ..self.core.status(now) });
    }

    fn connect(&self, source: Option<Source>, wait: Duration) -> Connecting {
        let (dialer, me, vetting) = (self.dialer.clone(), self.me.clone(), self.vetting.clone());
        Box::pin(async move {
            tokio::time::sleep(wait).await;
            let source = source.ok_or("no node of that region is known")?;
            tokio::time::timeout(CONNECT_WITHIN, open(dialer, me, vetting, source))
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {} s", CONNECT_WITHIN.as_secs())))
        })
    }

    fn response(
        &mut self,
        response: In,
        now: Timestamp,
        effects: &mut Vec<LinkEffect>,
    ) -> Result<(), String> {
        let shard_of = |shard: Option<&v1::ShardRef>| {
            let shard = shard.ok_or("a message names no shard")?;
            ShardId::try_from(shard).map_err(|error| error.to_string())
        };
        let input = match response {
            In::Hello(_) => return Err("a second Hello".to_owned()),
            In::Frames(message) => {
                let shard = shard_of(message.shard.as_ref())?;
                // A few small frames lie in a buffer with others' bytes, which they would keep alive in the tail.
                let bytes = message.frames;
                let bytes = if bytes.len() < COPIED { Bytes::copy_from_slice(&bytes) } else { bytes };
                // Damaged on the way: nothing of it is used, and a new connection brings it again.
                let frames = split_frames(bytes, message.count).map_err(|error| error.to_string())?;
                // Only now: a peer whose every message ends the connection is not dialled ten times a second.
                self.sources.progressed();
                LinkInput::Frames { shard, frames }
            }
            In::Mark(mark) => {
                let shard = shard_of(mark.shard.as_ref())?;
                let totals = Totals { events: mark.events, bytes: mark.bytes };
                let (seq, hlc) = (Seq(mark.committed_seq), Hlc(mark.hlc));
                LinkInput::Mark(shard, SourceMark { seq, totals, hlc, is_origin_leader: false })
            }
            In::Refused(refused) => {
                let shard = shard_of(refused.shard.as_ref())?;
                let reason = match refused.reason() {
                    v1::shard_refused::Reason::ChainDiffers => RefusedReason::ChainDiffers,
                    v1::shard_refused::Reason::OriginShorter => RefusedReason::OriginShorter,
                    v1::shard_refused::Reason::Damaged => RefusedReason::Damaged,
                    v1::shard_refused::Reason::UnknownShard => RefusedReason::UnknownShard,
                    v1::shard_refused::Reason::Behind | v1::shard_refused::Reason::Unspecified => {
                        RefusedReason::Behind
                    }
                };
                LinkInput::Refused { shard, reason, last: Seq(refused.last_seq), message: refused.message }
            }
            In::Pong(pong) => {
                let sent = Duration::from_micros(pong.nonce);
                let round_trip = self.opened.elapsed().checked_sub(sent);
                LinkInput::Pong(round_trip.ok_or("an echo of a ping that was never sent")?)
            }
        };
        self.core.step(input, now, effects);
        Ok(())
    }

    fn is_direct(&self) -> bool {
        self.session.as_ref().is_some_and(|session| self.sources.is_direct(&session.source))
    }

    /// The one place where a link's effects happen. Says why the connection is to be given up, if it is.
    async fn execute(&mut self, effects: Vec<LinkEffect>) -> Option<String> {
        for effect in effects {
            let request = match effect {
                LinkEffect::Append(shard, frames) => {
                    if let Some(copy) = self.copies.get(&shard)
                        && !copy.copy(frames).await
                    {
                        return Some("the node is stopping".to_owned());
                    }
                    continue;
                }
                LinkEffect::Reconnect => {
                    return Some("there is something to read, and no progress".to_owned());
                }
                LinkEffect::Fetch { shard, from, chain_before } => Out::Fetch(v1::FetchShard {
                    shard: Some(shard.into()),
                    from_seq: from.0,
                    chain_before: chain_before.0.to_vec().into(),
                }),
                LinkEffect::Credit(bytes) => Out::Credit(v1::LinkCredit { bytes }),
                // The origin alone keeps account of it, and asks on its own links.
                LinkEffect::Durable(..) if !self.is_direct() => continue,
                LinkEffect::Durable(shard, mark) => Out::Durable(v1::DurableMark {
                    shard: Some(shard.into()),
                    seq: mark.seq.0,
                    events: mark.totals.events,
                    bytes: mark.totals.bytes,
                    hosting_incarnation: mark.hosting.0,
                    leader_epoch: mark.hosting.1.0,
                }),
                LinkEffect::Stop(shard) => Out::Stop(v1::StopShard { shard: Some(shard.into()) }),
                LinkEffect::Ping => Out::Ping(v1::Ping { nonce: self.opened.elapsed().as_micros() as u64 }),
            };
            if let Some(session) = &self.session {
                session.ask(request);
            }
        }
        None
    }
}

pub(crate) async fn open(
    dialer: Arc<dyn Dialer>,
    me: Identity,
    vetting: Vetting,
    source: Source,
) -> Result<Session, String> {
    let channel = dialer.dial(source.node).await?;
    let mut client = v1::peer_service_client::PeerServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES);
    let (requests, stream) = mpsc::unbounded_channel();
    let hello = v1::LinkRequest { request: Some(Out::Hello(me.to_hello())) };
    requests.send(hello).map_err(|_| "the request stream is closed".to_owned())?;
    let response =
        client.link(UnboundedReceiverStream::new(stream)).await.map_err(|status| describe(&status))?;
    let mut responses = response.into_inner();
    let first = responses.message().await.map_err(|status| describe(&status))?;
    let Some(v1::LinkResponse { response: Some(In::Hello(hello)) }) = first else {
        return Err("the peer did not say Hello".to_owned());
    };
    let peer = PeerHello::read(&hello).map_err(|error| error.to_string())?;
    peer.check(&me).map_err(|error| error.to_string())?;
    vetting(&peer).map_err(|error| error.to_string())?;
    if peer.identity.region != source.region || peer.identity.node != source.node {
        return Err(format!(
            "dialled node {} of {}, reached node {} of {}",
            source.node, source.region, peer.identity.node, peer.identity.region
        ));
    }
    Ok(Session { source, requests, responses })
}

fn describe(status: &Status) -> String {
    ApiError::from_status(status).map_or_else(|| status.to_string(), |error| error.to_string())
}
