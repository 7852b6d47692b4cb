//! What runs a link: it executes the effects of [`Legs`], and decides which node the main leg leads to next.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, FuturesUnordered};
use futures::{FutureExt as _, StreamExt as _};
use meridian_shard::{ShardHandle, Totals};
use meridian_types::{Clock, Hlc, NodeId, RegionName, Seq, ShardId, Timestamp};
use meridian_wire::v1;
use rand::RngExt as _;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamMap;
use tonic::Status;
use v1::link_request::Request as Out;
use v1::link_response::Response as In;

use crate::hello::{Identity, Vetting};
use crate::homeward::Homeward;
use crate::legs::{LegId, Legs, LegsEffect, LegsInput};
use crate::link::{CopyState, LinkEffect, LinkInput, RefusedReason};
use crate::links::Dialer;
use crate::session::{Session, describe, open};
use crate::sources::{Source, Sources};
use crate::status::LinkStatus;
use crate::{SourceMark, split_frames};

const TICK: Duration = Duration::from_millis(100);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// Messages shorter than this are copied out of what they came in.
const COPIED: usize = 64 * 1024;
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Shards wait for a leg, and other nodes may hold them too.
const LEG_WITHIN: Duration = Duration::from_secs(5);
/// More nodes than hold any shard. A peer's word.
const HOLDERS_MAX: usize = 64;

/// What a leg's source says, and in the end that it says no more.
type Responses = BoxStream<'static, Result<Option<v1::LinkResponse>, Status>>;
type Connecting = BoxFuture<'static, Result<Session, String>>;
/// An attempt at a leg, by its number.
type Opening = BoxFuture<'static, (NodeId, u64, Result<Session, String>)>;

/// The half of a leg that asks.
struct Way {
    source: Source,
    requests: mpsc::UnboundedSender<v1::LinkRequest>,
}

/// See the module.
pub(crate) struct LinkTask {
    parts: LinkParts,
    copies: HashMap<ShardId, ShardHandle>,
    ways: HashMap<LegId, Way>,
    responses: StreamMap<LegId, Responses>,
    /// Legs that are being opened: where to, and which attempt counts.
    opening: HashMap<NodeId, (u64, Source)>,
    attempts: u64,
    homeward: Homeward,
    /// Pings carry the time since then: a clock that steps measures nothing.
    opened: Instant,
}

/// What a link is made of.
pub(crate) struct LinkParts {
    pub me: Identity,
    /// Where its frames come from.
    pub region: RegionName,
    pub dialer: Arc<dyn Dialer>,
    pub clock: Arc<dyn Clock>,
    pub vetting: Vetting,
    pub sources: Sources,
    pub legs: Legs,
    pub status: watch::Sender<LinkStatus>,
}

impl LinkTask {
    /// A link that is not connected.
    pub fn new(parts: LinkParts) -> Self {
        Self {
            parts,
            copies: HashMap::new(),
            ways: HashMap::new(),
            responses: StreamMap::new(),
            opening: HashMap::new(),
            attempts: 0,
            homeward: Homeward::new(),
            opened: Instant::now(),
        }
    }

    /// For ever: `events` tell how the copies are.
    pub async fn run(mut self, mut events: mpsc::Receiver<(ShardHandle, CopyState)>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let first = self.parts.sources.next();
        let mut connecting: Option<Connecting> = Some(self.connect(first, Duration::ZERO, CONNECT_WITHIN));
        // While frames come through a relay, their origin is tried again.
        let mut returning: Option<Connecting> = None;
        let mut opening: FuturesUnordered<Opening> = FuturesUnordered::new();
        loop {
            let mut effects = Vec::new();
            let mut lost = None;
            let clock = self.parts.clock.clone();
            tokio::select! {
                Some((copy, state)) = events.recv() => {
                    let shard = copy.id;
                    self.copies.entry(shard).or_insert(copy);
                    self.parts.legs.step(LegsInput::Copy(shard, state), clock.now(), &mut effects);
                }
                _ = ticks.tick() => {
                    let now = clock.now();
                    self.parts.legs.step(LegsInput::Tick, now, &mut effects);
                    self.show(now);
                }
                connected = async { connecting.as_mut().expect("checked by the guard").await }, if connecting.is_some() => {
                    connecting = None;
                    match connected {
                        Ok(session) => {
                            tracing::info!(region = %self.parts.region, node = %session.source.node, through = %session.source.region, "the link is connected");
                            if !self.parts.sources.is_direct(&session.source) {
                                returning = Some(self.connect_directly());
                            }
                            self.connected(LegId::Main, session, &mut effects);
                        }
                        Err(why) => {
                            // Not the first failure, which a start is full of, but the second and every tenth from there: a
                            // region that is down for an hour is one story.
                            if self.parts.sources.failures() % 10 == 1 {
                                tracing::warn!(region = %self.parts.region, why, "the link cannot connect; it goes on trying");
                            }
                            self.parts.sources.failed();
                            connecting = Some(self.connect_next());
                        }
                    }
                }
                connected = async { returning.as_mut().expect("checked by the guard").await }, if returning.is_some() => {
                    returning = None;
                    match connected {
                        Ok(session) => {
                            tracing::info!(region = %self.parts.region, node = %session.source.node, "the origin is in reach again: no relay any more");
                            self.leave_relay(&mut effects);
                            self.connected(LegId::Main, session, &mut effects);
                        }
                        Err(_) => returning = Some(self.connect_directly()),
                    }
                }
                Some((node, attempt, result)) = opening.next(), if !opening.is_empty() => {
                    if self.opening.get(&node).is_some_and(|(counts, _)| *counts == attempt) {
                        self.opening.remove(&node);
                        match result {
                            Ok(session) => {
                                tracing::info!(region = %self.parts.region, %node, "the link has one more leg");
                                self.connected(LegId::To(node), session, &mut effects);
                            }
                            Err(why) => {
                                tracing::debug!(region = %self.parts.region, %node, why, "a leg cannot connect");
                                self.parts.legs.step(LegsInput::Lost(LegId::To(node)), clock.now(), &mut effects);
                            }
                        }
                    }
                }
                Some((leg, message)) = self.responses.next(), if !self.responses.is_empty() => {
                    let why = match message {
                        Ok(Some(v1::LinkResponse { response: Some(response) })) => {
                            self.response(leg, response, clock.now(), &mut effects).err()
                        }
                        Ok(Some(_)) => None,
                        Ok(None) => Some("the peer ended it".to_owned()),
                        Err(status) => Some(describe(&status)),
                    };
                    match (leg, why) {
                        (_, None) => {}
                        (LegId::Main, why) => lost = why,
                        (LegId::To(node), Some(why)) => {
                            tracing::info!(region = %self.parts.region, %node, why, "a leg of the link is lost");
                            self.end(leg);
                            self.parts.legs.step(LegsInput::Lost(leg), clock.now(), &mut effects);
                        }
                    }
                }
            }
            if let Some(why) = self.execute(effects, &mut opening).await {
                lost = Some(why);
            }
            if let Some(why) = lost {
                tracing::warn!(region = %self.parts.region, why, "the link is lost; it will be connected anew");
                self.end(LegId::Main);
                let now = clock.now();
                let mut effects = Vec::new();
                self.parts.legs.step(LegsInput::Lost(LegId::Main), now, &mut effects);
                self.parts.sources.failed();
                if self.homeward.lost() {
                    self.parts.sources.relapse();
                }
                self.show(now);
                returning = None;
                connecting = Some(self.connect_next());
                // The main leg is gone, and this gives up no other for it.
                let _ = self.execute(effects, &mut opening).await;
            }
        }
    }

    fn connected(&mut self, leg: LegId, session: Session, effects: &mut Vec<LegsEffect>) {
        let Session { source, requests, responses } = session;
        // The map forgets what has ended without a word.
        let end = stream::once(async { Ok(None) });
        let responses = responses.map(|response| response.map(Some)).chain(end);
        self.responses.insert(leg, responses.boxed());
        self.ways.insert(leg, Way { source, requests });
        self.parts.legs.step(LegsInput::Connected(leg), self.parts.clock.now(), effects);
    }

    fn end(&mut self, leg: LegId) {
        self.ways.remove(&leg);
        self.responses.remove(&leg);
    }

    /// The direct way is there again: what leads through a relay ends, the main leg and all others.
    fn leave_relay(&mut self, effects: &mut Vec<LegsEffect>) {
        let now = self.parts.clock.now();
        self.homeward.tried();
        self.end(LegId::Main);
        self.parts.legs.step(LegsInput::Lost(LegId::Main), now, effects);
        let open = self.ways.iter().filter_map(|(leg, way)| match leg {
            LegId::To(node) => Some((*node, &way.source)),
            LegId::Main => None,
        });
        let all = open.chain(self.opening.iter().map(|(node, (_, source))| (*node, source)));
        let relayed: Vec<NodeId> =
            all.filter(|(_, source)| !self.parts.sources.is_direct(source)).map(|(node, _)| node).collect();
        for node in relayed {
            self.parts.legs.step(LegsInput::Retire(node), now, effects);
        }
    }

    /// Exponential, with full jitter, so that a region that comes back is not met by everyone at once.
    fn backoff(&self) -> Duration {
        let ceiling =
            BACKOFF_MAX.min(BACKOFF_MIN * 2u32.saturating_pow(self.parts.sources.failures().min(10)));
        rand::rng().random_range(BACKOFF_MIN / 2..=ceiling)
    }

    fn connect_next(&mut self) -> Connecting {
        let (source, wait) = (self.parts.sources.next(), self.backoff());
        self.connect(source, wait, CONNECT_WITHIN)
    }

    fn connect_directly(&mut self) -> Connecting {
        let source = self.parts.sources.next_direct();
        self.connect(source, self.homeward.wait(), CONNECT_WITHIN)
    }

    /// One more leg, to a node of the region that the main leg leads to.
    fn open_leg(&mut self, node: NodeId, within: Duration) -> Option<Opening> {
        let source = self.parts.sources.node_beside(&self.ways.get(&LegId::Main)?.source, node)?;
        self.attempts += 1;
        let attempt = self.attempts;
        self.opening.insert(node, (attempt, source.clone()));
        let wait = rand::rng().random_range(Duration::ZERO..=within);
        let connecting = self.connect(Some(source), wait, LEG_WITHIN);
        Some(connecting.map(move |result| (node, attempt, result)).boxed())
    }

    fn show(&mut self, now: Timestamp) {
        if self.homeward.is_on_trial() && self.parts.legs.is_level() {
            self.homeward.delivered();
        }
        let through = self.ways.get(&LegId::Main).map(|way| way.source.region.clone());
        let relay = through.filter(|region| *region != self.parts.region);
        self.parts.status.send_replace(LinkStatus { relay, ..self.parts.legs.status(now) });
    }

    fn connect(&self, source: Option<Source>, wait: Duration, within: Duration) -> Connecting {
        let (dialer, me, vetting) =
            (self.parts.dialer.clone(), self.parts.me.clone(), self.parts.vetting.clone());
        Box::pin(async move {
            tokio::time::sleep(wait).await;
            let source = source.ok_or("no node of that region is known")?;
            tokio::time::timeout(within, open(dialer, me, vetting, source))
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {} s", within.as_secs())))
        })
    }

    fn response(
        &mut self,
        leg: LegId,
        response: In,
        now: Timestamp,
        effects: &mut Vec<LegsEffect>,
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
                if leg == LegId::Main {
                    // Only now: a peer whose every message ends the connection is not dialled ten times a second.
                    self.parts.sources.progressed();
                }
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
                let (last, message) = (Seq(refused.last_seq), refused.message);
                let holders = self.known(leg, &refused.holders);
                let refused = LegsInput::Refused { leg, shard, reason, last, message, holders };
                self.parts.legs.step(refused, now, effects);
                return Ok(());
            }
            In::Withdrawn(credit) => LinkInput::Withdrawn(credit.bytes),
            In::Pong(pong) => {
                let sent = Duration::from_micros(pong.nonce);
                let round_trip = self.opened.elapsed().checked_sub(sent);
                LinkInput::Pong(round_trip.ok_or("an echo of a ping that was never sent")?)
            }
        };
        self.parts.legs.step(LegsInput::Heard(leg, input), now, effects);
        Ok(())
    }

    /// Of the nodes that a leg's source names, those that are known, in its region, and not itself.
    fn known(&self, leg: LegId, named: &[u32]) -> Vec<NodeId> {
        let Some(way) = self.ways.get(&leg) else { return Vec::new() };
        let named = named.iter().take(HOLDERS_MAX).map(|node| NodeId(*node));
        let others = named.filter(|node| *node != way.source.node);
        let mut known: Vec<NodeId> =
            others.filter(|node| self.parts.sources.node_beside(&way.source, *node).is_some()).collect();
        known.sort_unstable();
        known.dedup();
        known
    }

    fn is_direct(&self, leg: LegId) -> bool {
        self.ways.get(&leg).is_some_and(|way| self.parts.sources.is_direct(&way.source))
    }

    /// The one place where a link's effects happen. Says why the main leg is to be given up, if it is.
    async fn execute(
        &mut self,
        effects: Vec<LegsEffect>,
        opening: &mut FuturesUnordered<Opening>,
    ) -> Option<String> {
        let mut lost = None;
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            let (leg, effect) = match effect {
                LegsEffect::On(leg, effect) => (leg, effect),
                LegsEffect::Open(node, within) => {
                    if let Some(attempt) = self.open_leg(node, within) {
                        opening.push(attempt);
                    } else {
                        let mut more = Vec::new();
                        let lost = LegsInput::Lost(LegId::To(node));
                        self.parts.legs.step(lost, self.parts.clock.now(), &mut more);
                        effects.extend(more);
                    }
                    continue;
                }
                LegsEffect::Close(node) => {
                    self.opening.remove(&node);
                    self.end(LegId::To(node));
                    continue;
                }
            };
            let request = match effect {
                LinkEffect::Append(shard, epoch, frames) => {
                    if leg == LegId::Main && self.is_direct(leg) {
                        self.homeward.delivered();
                    }
                    if let Some(copy) = self.copies.get(&shard)
                        && !copy.copy(epoch, frames).await
                    {
                        lost = Some("the node is stopping".to_owned());
                    }
                    continue;
                }
                LinkEffect::Reconnect => {
                    // What is to be done on the other legs is done all the same.
                    lost = Some("there is something to read, and no progress".to_owned());
                    continue;
                }
                LinkEffect::Fetch { shard, from, chain_before } => Out::Fetch(v1::FetchShard {
                    shard: Some(shard.into()),
                    from_seq: from.0,
                    chain_before: chain_before.0.to_vec().into(),
                    through_seq: 0,
                }),
                LinkEffect::Credit(bytes) => Out::Credit(v1::LinkCredit { bytes }),
                LinkEffect::Withdraw(bytes) => Out::Withdraw(v1::LinkCredit { bytes }),
                // The origin alone keeps account of it, and asks on its own links.
                LinkEffect::Durable(..) if !self.is_direct(leg) => continue,
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
            if let Some(way) = self.ways.get(&leg) {
                // A connection that is gone says so on its other half.
                let _ = way.requests.send(v1::LinkRequest { request: Some(request) });
            }
        }
        lost
    }
}
