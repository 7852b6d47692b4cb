//! What the parts of a region's shell share, and what the rest of the node uses of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use meridian_metadata::catalog::has_recovered;
use meridian_metadata::placement::{Placement, majority};
use meridian_metadata::{GroupHandle, Standing};
use meridian_mirror::{Dialer, DurableBoard, DurableMark, Identity, Neighbours, PeerHello, Vetting};
use meridian_shard::{Ack, Message, Peers, Publish, PublishError, Reject, ShardHandle, ShardHost};
use meridian_types::{LeaderEpoch, NodeId, Origin, RegionName, Seq, ShardId};
use meridian_wire::{ApiError, v1};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::{Event, Shards};
use crate::convert::replica_to_wire;
use crate::feeds::{Feed, Feeds};
use crate::forward::Forwards;
use crate::way::{Maker, Way, WayEvent};

/// A node is sent no publishes once it has missed so many heartbeats: it may stand still, and so would they.
const MISSED_BEATS: u32 = 4;

/// How a region's nodes treat each other.
#[derive(Clone, Debug)]
pub struct RegionConfig {
    /// How often a node says that it is there.
    pub heartbeat: Duration,
    /// A node that was not heard for so long is dead.
    pub dead_after: Duration,
    /// A replica on a node that is dead for longer is made elsewhere.
    pub grace: Duration,
    /// Bytes of frames that other nodes may push ahead of what is stored here.
    pub replication_bytes: u64,
}

/// Where a shard's publishes go.
#[derive(Clone)]
pub enum Route {
    /// This node leads it.
    Here(ShardHandle),
    /// That node leads it, as far as is known here.
    There(NodeId),
    /// Nobody leads it, as far as is known here: an election is under way.
    Nowhere,
}

/// The nodes of this region. Cheap to clone.
#[derive(Clone)]
pub struct Region(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub me: Identity,
    pub config: RegionConfig,
    pub placement: GroupHandle<Placement>,
    pub vetting: Vetting,
    pub board: Arc<DurableBoard>,
    pub shards: Arc<dyn Shards>,
    pub host: OnceLock<Arc<ShardHost>>,
    pub forwards: Forwards,
    pub events: mpsc::UnboundedSender<Event>,
    pub closed: CancellationToken,
    maker: OnceLock<Maker>,
    ways: RwLock<BTreeMap<NodeId, Arc<Way>>>,
    feeds: Feeds,
    heard: RwLock<BTreeMap<NodeId, Heard>>,
    /// Damaged shards for which placement is being asked.
    pub asking: Mutex<BTreeSet<ShardId>>,
}

/// What a node last said of itself.
#[derive(Clone, Copy)]
struct Heard {
    at: Instant,
    full: bool,
}

impl Region {
    /// The region of `me`, and what its agent is to hear. Nothing is dialled before that runs, and nothing is answered before
    /// [`Region::set_host`].
    pub(crate) fn new(
        me: Identity,
        config: RegionConfig,
        placement: GroupHandle<Placement>,
        dialer: Arc<dyn Dialer>,
        vetting: Vetting,
        board: Arc<DurableBoard>,
        shards: Arc<dyn Shards>,
    ) -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (events, heard) = mpsc::unbounded_channel();
        let region = Self(Arc::new(Inner {
            me: me.clone(),
            config,
            placement,
            vetting: vetting.clone(),
            board,
            shards,
            host: OnceLock::new(),
            forwards: Forwards::of(me.boot),
            events,
            closed: CancellationToken::new(),
            maker: OnceLock::new(),
            ways: RwLock::default(),
            feeds: Feeds::default(),
            heard: RwLock::default(),
            asking: Mutex::default(),
        }));
        let weak = Arc::downgrade(&region.0);
        let events = Arc::new(move |node, event| {
            if let Some(inner) = weak.upgrade() {
                inner.on_way(node, event);
            }
        });
        let _ = region.0.maker.set(Maker { me, dialer, vetting, events });
        (region, heard)
    }

    /// What the shards talk through.
    pub fn peers(&self) -> Arc<dyn Peers> {
        Arc::new(Mouth(Arc::downgrade(&self.0)))
    }

    /// Says nothing and hears nothing any more.
    pub fn close(&self) {
        self.0.closed.cancel();
        self.0.ways.write().clear();
        self.0.feeds.stop_all();
    }

    /// The shards are open: from now on they are spoken for.
    pub fn set_host(&self, host: Arc<ShardHost>) {
        let _ = self.0.host.set(host);
    }

    /// Keeps a way open to each node that placement knows, and to no other.
    pub(crate) fn reach_all(&self) {
        let Some(maker) = self.0.maker.get() else { return };
        let state = self.placement();
        let mut ways = self.0.ways.write();
        let mut old = std::mem::take(&mut *ways);
        for (node, _) in state.nodes().filter(|(node, _)| *node != self.0.me.node) {
            let way = old.remove(&node).unwrap_or_else(|| Arc::new(Way::new(maker, node)));
            ways.insert(node, way);
        }
    }

    /// Who leads a shard.
    pub fn route(&self, shard: ShardId) -> Route {
        let handle = self.0.host.get().and_then(|host| host.get(shard));
        let progress = handle.as_ref().map(ShardHandle::progress);
        let placed = self.0.placement.state().shard(shard).and_then(|row| row.leader());
        let placed_in = placed.map_or(LeaderEpoch(0), |elected| elected.epoch);
        if let (Some(handle), Some(progress)) = (handle, &progress) {
            if progress.leads.is_some_and(|epoch| epoch >= placed_in) {
                // Not yet ready: the caller waits for it, as for an election.
                let takes = progress.ready && self.has_recovered(shard);
                return if takes { Route::Here(handle) } else { Route::Nowhere };
            }
            if let Some((leader, epoch)) = progress.follows
                && epoch >= placed_in
            {
                return self.there(leader);
            }
            if progress.promised > placed_in {
                return Route::Nowhere;
            }
        }
        match placed {
            Some(elected) if elected.node != self.0.me.node => self.there(elected.node),
            _ => Route::Nowhere,
        }
    }

    /// Whether this region holds again what its incarnations before are known to have had of a shard.
    pub(crate) fn has_recovered(&self, shard: ShardId) -> bool {
        let held = |before| Some(self.0.host.get()?.get(before)?.progress().applied);
        has_recovered(&self.0.shards.held_before(shard), held)
    }

    /// A leader on another node; while that is not heard nobody knows, and the caller waits as for an election.
    fn there(&self, node: NodeId) -> Route {
        if self.is_heard(node) { Route::There(node) } else { Route::Nowhere }
    }

    /// Whether a node's last heartbeats came.
    fn is_heard(&self, node: NodeId) -> bool {
        let heard = self.0.heard.read().get(&node).copied();
        heard.is_some_and(|heard| heard.at.elapsed() < MISSED_BEATS * self.0.config.heartbeat)
    }

    /// Waits no longer for publishes that were handed to nodes which lead no more.
    pub(crate) fn leave_deposed(&self) {
        let state = self.placement();
        let leader = |shard| state.shard(shard).and_then(|row| row.leader()).map(|elected| elected.node);
        self.0.forwards.leave(Instant::now(), leader, |node| self.is_heard(node));
    }

    /// Hands a batch to a shard's leader on another node. Batches of one caller for one node keep the order of these
    /// calls. What it comes to arrives at the receiver, which ends without an answer where that may be lost.
    ///
    /// # Errors
    /// The node is not reached: nothing was sent.
    pub async fn forward(
        &self,
        to: NodeId,
        shard: ShardId,
        publish: Publish,
    ) -> Result<oneshot::Receiver<Result<Ack, Reject>>, PublishError> {
        let way = self.0.way(to).filter(|way| way.is_connected());
        let way = way.ok_or(PublishError::Rejected(Reject::NotLeader))?;
        let (id, answer) = self.0.forwards.begin(to, shard);
        let word = v1::Word {
            word: Some(v1::word::Word::Publish(v1::ForwardPublish {
                id,
                tenant: publish.tenant.0,
                stream_id: publish.stream.0,
                partition: publish.partition.0,
                batch: publish.batch,
            })),
        };
        // A node that stands still takes nothing more at some point, and another may lead by now: whoever waits looks again.
        let said =
            tokio::time::timeout(MISSED_BEATS * self.0.config.heartbeat, way.say_bulk(word, None)).await;
        if !matches!(said, Ok(Some(_))) {
            self.0.forwards.answered(to, id, None);
            return Err(PublishError::Rejected(Reject::NotLeader));
        }
        Ok(answer)
    }

    /// Whether the disk of a node of the region is at its reserve: this one's, or as another has said.
    pub fn is_full(&self, node: NodeId) -> bool {
        if node == self.0.me.node {
            return self.0.host.get().is_some_and(|host| host.is_full());
        }
        self.0.heard.read().get(&node).is_some_and(|heard| heard.full)
    }

    /// Whether what is published to a shard would be kept by no majority for want of room, or not by its leader, as far as is known here.
    pub fn is_out_of_room(&self, shard: ShardId) -> bool {
        let state = self.placement();
        let Some(row) = state.shard(shard) else { return false };
        let has_room = |node: &&NodeId| !self.is_full(**node);
        row.leader().is_some_and(|elected| self.is_full(elected.node))
            || row.members.iter().filter(has_room).count() < majority(&row.members)
    }

    /// Reads the Hello of another node of this region.
    ///
    /// # Errors
    /// It is none: another cluster, another region or incarnation of it, or what the catalog knows against it.
    pub fn meet(&self, hello: &v1::Hello) -> Result<NodeId, ApiError> {
        let peer = PeerHello::read(hello)?;
        peer.check(&self.0.me)?;
        (self.0.vetting)(&peer)?;
        peer.check_neighbour(&self.0.me)?;
        Ok(peer.identity.node)
    }

    /// Whether a node of the region has said lately that it is there.
    pub fn is_live(&self, node: NodeId) -> bool {
        let heard = self.0.heard.read().get(&node).copied();
        node == self.0.me.node || heard.is_some_and(|heard| heard.at.elapsed() < self.0.config.dead_after)
    }

    /// Whether the placement group's log and votes are done with a node, as this one knows it.
    pub fn has_let_go_of(&self, node: NodeId) -> bool {
        let status = self.0.placement.status();
        !status.voters.contains(&node) && !status.learners.contains(&node)
    }

    /// Changes whenever the placement group has done something.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.placement.changed()
    }

    /// Who votes in the placement group and who leads it, as this node's Raft knows it, committed or not; none: it is stopped.
    pub async fn standing(&self) -> Option<Standing> {
        self.0.placement.standing_of(self.0.me.node, Duration::ZERO).await
    }

    /// The placement group's state, as this node knows it.
    pub fn placement(&self) -> Arc<Placement> {
        self.0.placement.state()
    }
}

impl Inner {
    pub fn way(&self, node: NodeId) -> Option<Arc<Way>> {
        self.ways.read().get(&node).cloned()
    }

    /// Says something short to another node.
    pub fn say(&self, to: NodeId, word: v1::word::Word) {
        if let Some(way) = self.way(to) {
            way.say(word);
        }
    }

    /// Says something short to every other node.
    pub fn say_all(&self, word: &v1::word::Word) {
        for way in self.ways.read().values() {
            way.say(word.clone());
        }
    }

    /// What this region writes as; none before its shards are open.
    pub fn home(&self) -> Option<Origin> {
        Some(self.host.get()?.home())
    }

    /// A node says that it is there.
    pub fn heard(&self, node: NodeId, full: bool) {
        self.heard.write().insert(node, Heard { at: Instant::now(), full });
    }

    fn on_way(&self, node: NodeId, event: WayEvent) {
        match event {
            WayEvent::Connected => {
                self.lead_again(node);
                self.ask_again(node);
            }
            WayEvent::Broken => {
                self.forwards.lost(node);
                let _ = self.events.send(Event::Suspect(node));
            }
        }
    }

    /// What was said to a node may be lost, answers with it: a way is open at its other end before it is here, and who follows
    /// asks as soon as it is there. Those that still wait ask again.
    fn lead_again(&self, node: NodeId) {
        let Some(host) = self.host.get() else { return };
        for shard in host.all() {
            if let Some(epoch) = shard.progress().leads
                && let Some(word) = replica_to_wire(shard.id, &Message::Leads { epoch }).word
            {
                self.say(node, word);
            }
        }
    }

    /// What was said to or by a node may be lost: the shards that follow it ask again where they agree.
    pub fn ask_again(&self, node: NodeId) {
        let Some(host) = self.host.get() else { return };
        let shards = host.all();
        tokio::spawn(async move {
            for shard in shards {
                if shard.progress().follows.is_some_and(|(leader, _)| leader == node) {
                    shard.connected(node).await;
                }
            }
        });
    }
}

impl Neighbours for Region {
    fn share_durable(&self, shard: ShardId, region: &RegionName, mark: DurableMark) {
        let mark = v1::DurableMark {
            shard: Some(shard.into()),
            seq: mark.seq.0,
            events: mark.totals.events,
            bytes: mark.totals.bytes,
            hosting_incarnation: mark.hosting.0,
            leader_epoch: mark.hosting.1.0,
        };
        let durable = v1::RegionDurable { region: region.to_string(), mark: Some(mark) };
        self.0.say_all(&v1::word::Word::Durable(durable));
    }

    fn is_placed_elsewhere(&self, shard: ShardId) -> bool {
        let (state, me) = (self.0.placement.state(), self.0.me.node);
        state.shard(shard).is_some_and(|row| !row.is_voter(me) && row.learner != Some(me))
    }

    fn holders(&self, shard: ShardId) -> Vec<NodeId> {
        let (state, me) = (self.0.placement.state(), self.0.me.node);
        let mut holders = state.shard(shard).map(|row| row.voters()).unwrap_or_default();
        holders.retain(|node| *node != me);
        // One that does not answer here is not worth a try from afar, unless it is all there is.
        if holders.iter().any(|node| self.is_heard(*node)) {
            holders.retain(|node| self.is_heard(*node));
        }
        holders
    }
}

/// What the shards say goes through this. It keeps no region alive: the region's host keeps the shards, and they this.
struct Mouth(Weak<Inner>);

impl Peers for Mouth {
    fn send(&self, shard: ShardId, to: NodeId, message: Message) {
        if let Some(inner) = self.0.upgrade()
            && let Some(word) = replica_to_wire(shard, &message).word
        {
            inner.say(to, word);
        }
    }

    fn feed(&self, shard: ShardId, to: NodeId, epoch: LeaderEpoch, after: Seq) {
        let Some(inner) = self.0.upgrade() else { return };
        let Some(host) = inner.host.get() else { return };
        if let (Some(way), Some(handle)) = (inner.way(to), host.get(shard)) {
            inner.feeds.start(to, Feed { shard: handle, reader: host.reader(), way, epoch, after });
        }
    }

    fn stop_feeding(&self, shard: ShardId) {
        if let Some(inner) = self.0.upgrade() {
            inner.feeds.stop(shard);
        }
    }
}
