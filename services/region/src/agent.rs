//! What a node of a region does all the time: it says that it is there, tells its shards who was elected, and drives
//! placement while it leads that group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meridian_metadata::driver::{FenceAnswer, Heartbeat, Input, Led};
use meridian_metadata::placement::Placement;
use meridian_metadata::{GroupHandle, Role};
use meridian_mirror::{Dialer, DurableBoard, Identity, Vetting};
use meridian_types::{Boot, NodeId, Seq, ShardId, Timestamp};
use meridian_wire::v1::word::Word;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::convert::heartbeat_to_wire;
use crate::driving::Driving;
use crate::elections;
use crate::region::{Region, RegionConfig};

const TICK: Duration = Duration::from_millis(20);
/// A learner that lacks at most so many frames is as good as there.
const WITHIN_REACH: u64 = 1024;
/// A new leader of the group first catches up with what its predecessor has had answered.
const BARRIER_WITHIN: Duration = Duration::from_secs(1);

/// What the agent is told.
#[derive(Debug)]
pub(crate) enum Event {
    Heard(Heartbeat),
    Fenced {
        node: NodeId,
        boot: Boot,
        answers: Vec<FenceAnswer>,
    },
    Suspect(NodeId),
    /// A proposal was ordered, or not.
    Proposed(bool),
}

/// What the catalog says of a region's shards, as it is known now.
pub trait Shards: Send + Sync + 'static {
    /// Those that the region shall have.
    fn wanted(&self) -> Vec<ShardId>;

    /// The same shard of earlier incarnations, and how much of each the region must hold again before this one takes publishes:
    /// a retry of what was acknowledged then is to be found.
    fn held_before(&self, shard: ShardId) -> Vec<(ShardId, Seq)>;

    /// Who of this region held something of a past shard when it was restored, and how far.
    fn holders(&self) -> BTreeMap<ShardId, BTreeMap<NodeId, Seq>>;
}

/// See the module.
pub struct Agent {
    region: Region,
    events: mpsc::UnboundedReceiver<Event>,
    began: Instant,
    driving: Option<Driving>,
    heartbeat_due: Instant,
    /// What the driver was last told of the shards that the region shall have.
    wanted: Vec<ShardId>,
    /// The last heartbeat of each node, and when it came: for the day on which this node drives.
    heard: BTreeMap<NodeId, (Heartbeat, Timestamp)>,
}

impl Agent {
    /// The region of a node, and its agent, which does nothing before it runs.
    pub fn new(
        me: Identity,
        config: RegionConfig,
        placement: GroupHandle<Placement>,
        dialer: Arc<dyn Dialer>,
        vetting: Vetting,
        board: Arc<DurableBoard>,
        shards: Arc<dyn Shards>,
    ) -> (Region, Self) {
        let (region, events) = Region::new(me, config, placement, dialer, vetting, board, shards);
        let now = Instant::now();
        let agent = Self {
            region: region.clone(),
            events,
            began: now,
            driving: None,
            heartbeat_due: now,
            wanted: Vec::new(),
            heard: BTreeMap::new(),
        };
        (region, agent)
    }

    /// For ever. The region's host must be set.
    pub async fn run(mut self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut changed = self.region.0.placement.changed();
        self.region.reach_all();
        elections::tell_all(&self.region).await;
        loop {
            tokio::select! {
                Some(event) = self.events.recv() => self.on_event(event),
                result = changed.changed() => {
                    if result.is_err() {
                        return;
                    }
                    self.region.reach_all();
                    elections::tell_all(&self.region).await;
                    self.region.leave_deposed();
                    self.step(Input::Changed);
                }
                _ = ticks.tick() => {
                    self.follow_role().await;
                    self.step(Input::Tick);
                    if Instant::now() >= self.heartbeat_due {
                        self.heartbeat_due = Instant::now() + self.region.0.config.heartbeat;
                        self.look_for_shards();
                        self.beat().await;
                    }
                }
            }
        }
    }

    /// Milliseconds of this process's monotonic clock.
    fn now(&self) -> Timestamp {
        Timestamp(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn step(&mut self, input: Input) {
        let now = self.now();
        if let Some(driving) = &mut self.driving {
            driving.step(input, now);
        }
    }

    /// Drives exactly while this node leads the group, as far as it knows: one that does not know yet that it was deposed
    /// proposes in vain.
    async fn follow_role(&mut self) {
        let leads = self.region.0.placement.status().role == Role::Leader;
        if !leads {
            self.driving = None;
        } else if self.driving.is_none() {
            match self.region.0.placement.barrier(BARRIER_WITHIN).await {
                Ok(()) => {
                    tracing::info!("this node drives the region's placement");
                    // What came meanwhile, or those who said it would look silent.
                    while let Ok(event) = self.events.try_recv() {
                        self.on_event(event);
                    }
                    let (region, now) = (self.region.clone(), self.now());
                    self.wanted = region.0.shards.wanted();
                    let heard = self.heard.values().cloned();
                    self.driving = Some(Driving::new(region, self.wanted.clone(), heard, now));
                }
                Err(error) => tracing::debug!(%error, "the placement group is not ready to be driven"),
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Heard(heartbeat) => {
                self.heard.insert(heartbeat.node, (heartbeat.clone(), self.now()));
                self.step(Input::Heard(heartbeat));
            }
            Event::Fenced { node, boot, answers } => self.step(Input::Fenced { node, boot, answers }),
            Event::Proposed(true) => self.step(Input::Changed),
            Event::Proposed(false) => self.step(Input::Refused),
            Event::Suspect(node) if self.driving.is_some() => self.step(Input::Suspect { node }),
            Event::Suspect(node) => {
                if let Some(leader) = self.region.0.placement.status().leader
                    && leader != node
                {
                    self.region.0.say(leader, Word::Suspect(node.0));
                }
            }
        }
    }

    /// A region that was restored writes shards that nobody had before.
    fn look_for_shards(&mut self) {
        if self.driving.is_none() {
            return;
        }
        let wanted = self.region.0.shards.wanted();
        if wanted != self.wanted {
            self.wanted.clone_from(&wanted);
            self.step(Input::Wanted(wanted));
        }
    }

    async fn beat(&mut self) {
        let heartbeat = self.heartbeat().await;
        // To all: whoever drives next knows at once who is there.
        self.region.0.say_all(&Word::Heartbeat(heartbeat_to_wire(&heartbeat)));
        self.on_event(Event::Heard(heartbeat));
        self.region.leave_deposed();
    }

    async fn heartbeat(&self) -> Heartbeat {
        let inner = &self.region.0;
        let (node, boot) = (inner.me.node, inner.me.boot);
        let mut leads = Vec::new();
        let mut full = false;
        if let Some(host) = inner.host.get() {
            full = host.is_full();
            let state = inner.placement.state();
            for handle in host.all() {
                let progress = handle.progress();
                let Some(epoch) = progress.leads else { continue };
                let learner = state.shard(handle.id).and_then(|row| row.learner);
                let mut caught_up = None;
                if let Some(learner) = learner
                    && let Some(flushed) = handle.flushed_by(learner).await
                    && flushed.0 + WITHIN_REACH >= progress.appended.0
                {
                    caught_up = Some(learner);
                }
                let (shard, settled, durable) = (handle.id, progress.settled, progress.durable);
                leads.push(Led { shard, epoch, settled, durable, caught_up });
            }
        }
        Heartbeat { node, boot, full, leads }
    }
}
