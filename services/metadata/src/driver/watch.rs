//! What a driver remembers of one shard, and what one step has gathered.

use std::collections::BTreeMap;

use meridian_types::{LeaderEpoch, NodeId, ShardId, Timestamp};

use super::effect::{Effect, Election};
use super::election::Round;
use crate::placement::{Change, Placement, ShardRow};

/// The most changes of one command: it must fit a message of the group.
const BATCH: usize = 500;

/// What a driver remembers of a shard. Losing it, with the driver, costs time and never safety.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    pub flight: Option<Flight>,
    pub round: Option<Round>,
    pub told: Option<Told>,
    /// Since when the elected node's heartbeats do not show that it leads.
    pub missing_since: Option<Timestamp>,
    /// How many elected in a row did not lead.
    pub failures: u32,
    /// Who did not lead although elected in that epoch.
    pub avoid: Option<(LeaderEpoch, NodeId)>,
    /// When a draining leader was last asked to give way.
    pub transferred: Option<Timestamp>,
}

/// A change that was proposed. Nothing more is proposed for the shard until its row changes, or the time is up.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub since: Timestamp,
    /// The row as it was.
    pub row: Option<ShardRow>,
    /// Begins a change of the set.
    pub starts: bool,
}

/// What was told last, and when.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub election: Election,
    pub at: Timestamp,
}

/// A shard as a step looks at it.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub state: &'a Placement,
    pub shard: ShardId,
    pub row: &'a ShardRow,
    pub now: Timestamp,
}

/// What one step has gathered.
#[derive(Debug, Default)]
pub(super) struct Plan {
    changes: Vec<Change>,
    fences: BTreeMap<NodeId, Vec<(ShardId, LeaderEpoch)>>,
    tells: BTreeMap<NodeId, Vec<Election>>,
    /// Nothing is proposed in this step.
    paused: bool,
    /// How many shards change their sets.
    pub changing: usize,
    /// How many replicas each node has or is getting; made when first asked for.
    pub load: Option<BTreeMap<NodeId, usize>>,
}

impl Plan {
    pub fn new(paused: bool) -> Self {
        Self { paused, ..Self::default() }
    }

    /// Proposes a change of a shard, unless one is in flight or the batch is full. `true`: it is on its way.
    pub fn propose(
        &mut self,
        watch: &mut Watch,
        row: Option<&ShardRow>,
        now: Timestamp,
        change: Change,
    ) -> bool {
        if self.paused || watch.flight.is_some() || self.changes.len() >= BATCH {
            return false;
        }
        let starts = matches!(change, Change::Learner { node: Some(_), .. });
        watch.flight = Some(Flight { since: now, row: row.cloned(), starts });
        self.changes.push(change);
        true
    }

    pub fn fence(&mut self, node: NodeId, shard: ShardId, epoch: LeaderEpoch) {
        self.fences.entry(node).or_default().push((shard, epoch));
    }

    pub fn tell(&mut self, node: NodeId, election: &Election) {
        self.tells.entry(node).or_default().push(election.clone());
    }

    pub fn into_effects(self, out: &mut Vec<Effect>) {
        if !self.changes.is_empty() {
            out.push(Effect::Propose(self.changes));
        }
        out.extend(self.fences.into_iter().map(|(node, epochs)| Effect::Fence { node, epochs }));
        out.extend(self.tells.into_iter().map(|(node, elections)| Effect::Tell { node, elections }));
    }
}
