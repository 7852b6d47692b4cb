//! The driver: takes an input, then looks at every shard anew. Nothing is remembered that the state can tell.

use std::collections::{BTreeMap, BTreeSet};

use meridian_types::{Boot, Incarnation, LeaderEpoch, NodeId, Origin, Seq, ShardId, Timestamp};

use super::config::{Config, passed};
use super::effect::Effect;
use super::election::{Answer, Fitness, Round};
use super::input::{FenceAnswer, FenceOutcome, Heartbeat, Input};
use super::liveness::Liveness;
use super::rank::{For, rank};
use super::watch::{At, Plan, Watch};
use crate::placement::{Change, Placement, ShardRow};

/// Drives a region's placement while this node leads its group. Made anew with each leadership, dropped with its loss.
///
/// Times are milliseconds of a monotonic clock, from any start: not the wall clock, though the type is the same.
#[derive(Debug)]
pub struct Driver {
    pub(super) config: Config,
    pub(super) liveness: Liveness,
    watches: BTreeMap<ShardId, Watch>,
    wanted: BTreeSet<ShardId>,
    /// Nodes that were taken for dead, or are another process now, as of this step.
    pub(super) back: BTreeSet<NodeId>,
    refused_at: Option<Timestamp>,
}

impl Driver {
    /// A driver that has heard nobody yet; see [`Driver::heard_before`].
    pub fn new(config: Config, now: Timestamp) -> Self {
        let liveness = Liveness::new(&config, now);
        Self {
            config,
            liveness,
            watches: BTreeMap::new(),
            wanted: BTreeSet::new(),
            back: BTreeSet::new(),
            refused_at: None,
        }
    }

    /// Takes what this node has heard since before it drove: a node that fell silent then needs no second wait.
    pub fn heard_before(&mut self, heartbeat: Heartbeat, at: Timestamp) {
        self.liveness.heard(heartbeat, at);
    }

    /// Who is alive.
    #[cfg(test)]
    pub(super) fn liveness(&self) -> &Liveness {
        &self.liveness
    }

    /// Takes an input and adds what is to be done to `out`. `state` is the newest that this node has applied; `now` is
    /// in milliseconds of a monotonic clock.
    pub fn step(&mut self, state: &Placement, input: Input, now: Timestamp, out: &mut Vec<Effect>) {
        self.take(state, input, now);
        let mut plan = self.plan(now);
        let mut watches = std::mem::take(&mut self.watches);
        watches.retain(|shard, _| state.shard(*shard).is_some() || self.wanted.contains(shard));
        for (shard, watch) in &mut watches {
            watch.land(state.shard(*shard), &self.config, now);
        }
        plan.changing = changing(state, &watches);
        for (shard, row) in state.shards() {
            let watch = watches.entry(shard).or_default();
            let at = At { state, shard, row, now };
            match row.leader() {
                None => self.elect(at, watch, &mut plan),
                Some(elected) => {
                    watch.round = None;
                    self.lead(at, elected, watch, &mut plan);
                }
            }
        }
        self.create(state, &mut watches, now, &mut plan);
        self.watches = watches;
        self.back.clear();
        plan.into_effects(out);
    }

    fn take(&mut self, state: &Placement, input: Input, now: Timestamp) {
        match input {
            Input::Tick | Input::Changed => {}
            Input::Heard(heartbeat) => {
                let (node, boot) = (heartbeat.node, heartbeat.boot);
                if state.node(node).is_some() {
                    if self.liveness.heard(heartbeat, now) {
                        self.back.insert(node);
                    }
                    self.runs(node, boot);
                }
            }
            Input::Suspect { node } => {
                if state.node(node).is_some() {
                    self.liveness.suspect(node, now);
                }
            }
            Input::Fenced { node, boot, answers } => {
                let known = self.liveness.boot(node);
                if state.node(node).is_some() && self.liveness.saw_boot(node, boot) {
                    if known != Boot(0) && known < boot {
                        self.back.insert(node);
                    }
                    self.runs(node, boot);
                    for answer in answers {
                        self.fenced(node, boot, answer);
                    }
                }
            }
            Input::Refused => {
                self.refused_at = Some(now);
                for watch in self.watches.values_mut() {
                    watch.flight = None;
                }
            }
            Input::Wanted(shards) => self.wanted = shards.into_iter().collect(),
        }
    }

    fn runs(&mut self, node: NodeId, boot: Boot) {
        for round in self.watches.values_mut().filter_map(|watch| watch.round.as_mut()) {
            round.runs(node, boot);
        }
    }

    /// Answers for another epoch than the one last begun are of an election that is over.
    fn fenced(&mut self, node: NodeId, boot: Boot, answer: FenceAnswer) {
        let round = self.watches.get_mut(&answer.shard).and_then(|watch| watch.round.as_mut());
        let Some(round) = round.filter(|round| round.epoch == answer.epoch) else { return };
        match answer.outcome {
            FenceOutcome::Promised { end, unsure_from } => {
                round.answer(node, Answer { boot, end, unsure_from });
            }
            FenceOutcome::Refused { promised } if promised >= round.epoch => {
                round.above = round.above.max(Some(promised));
            }
            FenceOutcome::Refused { .. } => {}
        }
    }

    fn plan(&mut self, now: Timestamp) -> Plan {
        self.refused_at = self.refused_at.filter(|at| !passed(*at, now, self.config.propose_pause));
        Plan::new(self.refused_at.is_some())
    }

    /// Fences whoever counts, and ends the election once the answers allow it. An epoch that an earlier driver has begun
    /// is taken over: it is still to be won. Slow answers never begin another.
    fn elect(&mut self, at: At<'_>, watch: &mut Watch, plan: &mut Plan) {
        let At { state, shard, row, now } = at;
        watch.told = None;
        watch.missing_since = None;
        if row.begun == LeaderEpoch(0) {
            // Above all that was promised under incarnations that are over: whoever holds such a promise follows nobody below it.
            let after = self.config.home.map_or(row.begun, Origin::epochs_after);
            self.begin(at, after, watch, plan);
            return;
        }
        let mut round =
            watch.round.take().filter(|round| round.epoch == row.begun).unwrap_or(Round::new(row.begun));
        if let Some(above) = round.above {
            self.begin(at, above, watch, plan);
            watch.round = Some(round);
            return;
        }
        for node in row.voters() {
            if self.back.contains(&node) {
                round.ask_again(node);
            }
            if round.ask(node, &self.config, now) {
                plan.fence(node, shard, row.begun);
            }
        }
        let avoid = watch.avoid.map(|(_, node)| node);
        let fitness = |node| Fitness {
            live: self.is_live(state, node, now),
            active: self.may_be_preferred(state, node),
            avoided: avoid == Some(node),
        };
        if let Some((node, boot)) = round.winner(shard, row, fitness, &self.config, now) {
            plan.propose(watch, Some(row), now, Change::Elect { shard, epoch: row.begun, node, boot });
        } else if round.is_lost_to_the_set_before(row, |node| self.is_live(state, node, now)) {
            // A change that was begun a moment too early must not end the shard.
            let members = row.previous.clone().unwrap_or_default();
            plan.propose(watch, Some(row), now, Change::Change { shard, version: row.version, members });
        }
        watch.round = Some(round);
    }

    /// Begins the epoch after `after` and after the one last begun.
    pub(super) fn begin(&self, at: At<'_>, after: LeaderEpoch, watch: &mut Watch, plan: &mut Plan) -> bool {
        let At { shard, row, now, .. } = at;
        let epoch = LeaderEpoch(after.max(row.begun).0.saturating_add(1));
        plan.propose(watch, Some(row), now, Change::Begin { shard, epoch })
    }

    /// Whether the region knows the node and it is heard.
    pub(super) fn is_live(&self, state: &Placement, node: NodeId, now: Timestamp) -> bool {
        state.node(node).is_some() && self.liveness.is_live(node, now)
    }

    /// Whether the node is to lead, where another could too.
    pub(super) fn may_be_preferred(&self, state: &Placement, node: NodeId) -> bool {
        state.is_active(node) && !self.liveness.is_full(node)
    }

    /// Whether the node can be given a replica.
    pub(super) fn has_room(&self, state: &Placement, node: NodeId, now: Timestamp) -> bool {
        state.is_active(node) && self.could_hold(node, now)
    }

    /// Whether the node could, were it not for a drain.
    fn could_hold(&self, node: NodeId, now: Timestamp) -> bool {
        self.liveness.was_heard(node) && self.liveness.is_live(node, now) && !self.liveness.is_full(node)
    }

    /// Creates the rows that are wanted and not there, once it is known which nodes are.
    fn create(
        &self,
        state: &Placement,
        watches: &mut BTreeMap<ShardId, Watch>,
        now: Timestamp,
        plan: &mut Plan,
    ) {
        let all_heard = state.nodes().all(|(id, _)| self.liveness.was_heard(id));
        if !all_heard && !self.liveness.has_listened(now) {
            return;
        }
        let nodes = || state.nodes().map(|(id, _)| id);
        let mut with_room: Vec<NodeId> = nodes().filter(|id| self.has_room(state, *id, now)).collect();
        if nodes().all(|id| !state.is_active(id)) {
            // All are drained, which nothing stood against while nothing was placed. A shard at a node that is to go moves once
            // there is another; one that is nowhere takes nothing.
            with_room = nodes().filter(|id| self.could_hold(*id, now)).collect();
        }
        for shard in self.wanted.iter().filter(|shard| state.shard(**shard).is_none()) {
            if let Some(members) = self.first_set(state, *shard, &with_room, now) {
                let watch = watches.entry(*shard).or_default();
                plan.propose(watch, None, now, Change::Create { shard: *shard, members });
            }
        }
    }

    /// The set that a shard begins with. Of a past one those who hold something come first, for it may be nowhere else, and the more
    /// they hold the sooner. What the region writes now lies where the same shard of the incarnation before does: whoever leads it is
    /// asked about producers of that time. None: somebody is waited for, or nobody can take it.
    fn first_set(
        &self,
        state: &Placement,
        shard: ShardId,
        with_room: &[NodeId],
        now: Timestamp,
    ) -> Option<Vec<NodeId>> {
        let is_heard = |node: &NodeId| self.liveness.was_heard(*node) && self.is_live(state, *node, now);
        let before = self.before(shard).filter(|before| self.wanted.contains(before));
        let first: Vec<(NodeId, Seq)> = match before {
            Some(before) => {
                let members = &state.shard(before)?.members;
                members.iter().filter(|node| is_heard(node)).map(|node| (*node, Seq::ZERO)).collect()
            }
            None => self.holders_of(state, shard, is_heard, now)?,
        };
        let held_by = |node: &NodeId| first.iter().find(|(holder, _)| holder == node).map(|(_, seq)| *seq);
        // A full disk takes what it has already.
        let mut members: Vec<NodeId> =
            first.iter().map(|(node, _)| *node).chain(with_room.iter().copied()).collect();
        members.sort_by_key(|node| std::cmp::Reverse((held_by(node), rank(For::Holding, shard, *node))));
        members.dedup();
        members.truncate(state.replication());
        members.sort_unstable();
        (!members.is_empty()).then_some(members)
    }

    /// The same shard of the incarnation before, where the region writes it now.
    fn before(&self, shard: ShardId) -> Option<ShardId> {
        let home =
            self.config.home.filter(|home| *home == shard.origin && home.incarnation > Incarnation(1))?;
        let incarnation = Incarnation(home.incarnation.0 - 1);
        Some(ShardId { origin: Origin { incarnation, ..home }, ..shard })
    }

    /// Who holds something of a past shard and is heard; none: somebody is waited for. Who was removed meanwhile is not.
    fn holders_of(
        &self,
        state: &Placement,
        shard: ShardId,
        is_heard: impl Fn(&NodeId) -> bool,
        now: Timestamp,
    ) -> Option<Vec<(NodeId, Seq)>> {
        let held = self.config.holders.get(&shard).into_iter().flatten();
        let held = held.map(|(node, seq)| (*node, *seq)).filter(|(node, _)| state.node(*node).is_some());
        let (heard, silent): (Vec<_>, Vec<_>) = held.partition(|(node, _)| is_heard(node));
        let most = heard.iter().map(|(_, seq)| *seq).max().unwrap_or_default();
        let is_awaited = !self.liveness.has_listened_for(self.config.holders_wait, now);
        let waits = silent.iter().any(|(_, seq)| is_awaited || *seq > most);
        (!waits).then_some(heard)
    }
}

impl Watch {
    /// A proposal has landed when the row is another than it was; one that nothing is heard of is given up.
    fn land(&mut self, row: Option<&ShardRow>, config: &Config, now: Timestamp) {
        let open = |flight: &super::watch::Flight| {
            flight.row.as_ref() == row && !passed(flight.since, now, config.propose_timeout)
        };
        self.flight = self.flight.take().filter(open);
    }
}

/// How many shards change their sets, or will once what is in flight has landed.
fn changing(state: &Placement, watches: &BTreeMap<ShardId, Watch>) -> usize {
    let starting = |shard: &ShardId| {
        watches.get(shard).and_then(|watch| watch.flight.as_ref()).is_some_and(|flight| flight.starts)
    };
    state
        .shards()
        .filter(|(shard, row)| row.learner.is_some() || row.previous.is_some() || starting(shard))
        .count()
}
