//! Who is alive, as far as one driver has heard.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_types::{Boot, NodeId, ShardId, Timestamp};

use super::config::{Config, passed};
use super::input::{Heartbeat, Led};

/// What a driver has heard of each node. Only heartbeats show that a node lives: one that can answer but not be heard
/// would be elected and given up again and again.
#[derive(Clone, Debug)]
pub struct Liveness {
    dead_after: Duration,
    first_wait: Duration,
    suspect_after: Duration,
    started: Timestamp,
    nodes: BTreeMap<NodeId, Seen>,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    boot: Boot,
    heard_at: Option<Timestamp>,
    suspected: Option<Timestamp>,
    full: bool,
    leads: BTreeMap<ShardId, Led>,
}

impl Liveness {
    pub(super) fn new(config: &Config, now: Timestamp) -> Self {
        Self {
            dead_after: config.dead_after,
            first_wait: config.first_wait,
            suspect_after: config.suspect_after,
            started: now,
            nodes: BTreeMap::new(),
        }
    }

    /// Takes a heartbeat; one of an older process than is known says nothing. Answers whether the node is back: it was
    /// taken for dead, or is another process now.
    pub(super) fn heard(&mut self, heartbeat: Heartbeat, now: Timestamp) -> bool {
        let was_live = self.is_live(heartbeat.node, now);
        let seen = self.nodes.entry(heartbeat.node).or_default();
        if heartbeat.boot < seen.boot {
            return false;
        }
        let known = seen.boot != Boot(0);
        let back = !was_live || (known && seen.boot != heartbeat.boot);
        *seen = Seen {
            boot: heartbeat.boot,
            heard_at: Some(now),
            suspected: None,
            full: heartbeat.full,
            leads: heartbeat.leads.into_iter().map(|led| (led.shard, led)).collect(),
        };
        back
    }

    /// Learns a process from another message than a heartbeat. `false`: a message of an older process.
    pub(super) fn saw_boot(&mut self, node: NodeId, boot: Boot) -> bool {
        let seen = self.nodes.entry(node).or_default();
        if boot > seen.boot {
            seen.boot = boot;
            seen.leads.clear();
        }
        boot == seen.boot
    }

    pub(super) fn suspect(&mut self, node: NodeId, now: Timestamp) {
        self.nodes.entry(node).or_default().suspected.get_or_insert(now);
    }

    /// Whether the node was heard lately. One that was never heard is given [`Config::first_wait`].
    pub fn is_live(&self, node: NodeId, now: Timestamp) -> bool {
        let seen = self.nodes.get(&node);
        let suspected = seen.and_then(|seen| seen.suspected);
        if suspected.is_some_and(|since| passed(since, now, self.suspect_after)) {
            return false;
        }
        match seen.and_then(|seen| seen.heard_at) {
            Some(at) => !passed(at, now, self.dead_after),
            None => !passed(self.started, now, self.first_wait),
        }
    }

    /// Whether this driver has heard the node at all.
    pub fn was_heard(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|seen| seen.heard_at.is_some())
    }

    /// Whether the node is dead and was not heard for so long; where it never was, counted from the driver's start.
    pub fn is_dead_for(&self, node: NodeId, wait: Duration, now: Timestamp) -> bool {
        !self.is_live(node, now) && passed(self.last_heard(node), now, wait)
    }

    /// When the node was heard last; where never, when the driver started.
    pub fn last_heard(&self, node: NodeId) -> Timestamp {
        self.nodes.get(&node).and_then(|seen| seen.heard_at).unwrap_or(self.started)
    }

    /// Whether the node's disk is at its reserve.
    pub fn is_full(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|seen| seen.full)
    }

    /// The latest process of the node; 0 where it is not known.
    pub fn boot(&self, node: NodeId) -> Boot {
        self.nodes.get(&node).map_or(Boot(0), |seen| seen.boot)
    }

    /// What the node's last heartbeat said of a shard that it leads.
    pub fn led(&self, node: NodeId, shard: ShardId) -> Option<&Led> {
        self.nodes.get(&node)?.leads.get(&shard)
    }

    /// Whether the driver has listened long enough to know who is there.
    pub fn has_listened(&self, now: Timestamp) -> bool {
        self.has_listened_for(self.first_wait, now)
    }

    /// Whether the driver has listened for so long.
    pub(super) fn has_listened_for(&self, wait: Duration, now: Timestamp) -> bool {
        passed(self.started, now, wait)
    }
}
