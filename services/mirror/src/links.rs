//! The links into this region, from outside: one a source region, each a task.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use meridian_shard::{Progress, ShardHandle};
use meridian_types::{Clock, NodeId, RegionName, Seq, ShardId};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use crate::hello::{Identity, Vetting};
use crate::legs::Legs;
use crate::link::{COPY_DAMAGED, CopyState, LinkConfig};
use crate::sources::{Sources, Whereabouts};
use crate::status::{LinkStatus, ShardFault};
use crate::task::{LinkParts, LinkTask};

/// How often it is looked whether a shard's replica has come to this node, or left it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Connects to a peer's peer listener, with windows and a connection fit for bulk.
pub trait Dialer: Send + Sync + 'static {
    /// A connection of its own.
    fn dial(&self, node: NodeId) -> BoxFuture<'static, Result<Channel, String>>;
}

/// Whether a shard's replicas in this region are on other nodes alone.
pub type Elsewhere = Arc<dyn Fn(ShardId) -> bool + Send + Sync>;

/// The links into this region.
pub struct Links {
    me: Identity,
    config: LinkConfig,
    dialer: Arc<dyn Dialer>,
    clock: Arc<dyn Clock>,
    vetting: Vetting,
    nodes: Whereabouts,
    elsewhere: Elsewhere,
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
        elsewhere: Elsewhere,
    ) -> Self {
        Self { me, config, dialer, clock, vetting, nodes, elsewhere, links: Mutex::default() }
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
        let parts = LinkParts {
            me: self.me.clone(),
            region: region.clone(),
            dialer: self.dialer.clone(),
            clock: self.clock.clone(),
            vetting: self.vetting.clone(),
            sources: Sources::new(region.clone(), self.nodes.clone(), first),
            legs: Legs::new(self.config, self.me.node),
            status,
        };
        let link = LinkTask::new(parts);
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
        let follower = follow(copy.clone(), is_past, self.elsewhere.clone(), link.events.clone());
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
    elsewhere: Elsewhere,
    events: mpsc::Sender<(ShardHandle, CopyState)>,
) -> JoinHandle<()> {
    let mut watch = copy.watch();
    tokio::spawn(async move {
        loop {
            let is_elsewhere = elsewhere(copy.id);
            let mut state = copy_state(copy.id, &watch.borrow_and_update().clone(), is_past);
            // One that has no replica here follows nobody, and another node mirrors it all the same.
            state.follows |= is_elsewhere && state.leads.is_none();
            if events.send((copy.clone(), state)).await.is_err() {
                return;
            }
            let moved = async {
                while elsewhere(copy.id) == is_elsewhere {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            };
            tokio::select! {
                changed = watch.changed() => if changed.is_err() { return },
                () = moved => {}
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
        // What is applied is summed up, and no less.
        durable: if progress.durable == progress.applied { progress.durable } else { Seq::ZERO },
        totals: progress.totals,
        hlc: progress.hlc,
        leads: progress.leads,
        follows: progress.follows.is_some(),
        is_past,
        fault: fault.or(damaged),
    }
}
