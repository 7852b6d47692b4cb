//! How a shard's set comes to be what it should: dead, draining and moved replicas are replaced one at a time, through a
//! learner. The new one is in before the old one is out, so that the set is never smaller than it was.

use std::collections::BTreeMap;

use meridian_types::{NodeId, ShardId, Timestamp};

use super::core::Driver;
use super::input::Led;
use super::rank::{For, rank};
use super::watch::{At, Plan, Watch};
use crate::placement::{Change, Move, Placement, ShardRow, majority};

/// What a set needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    Nothing,
    /// Another replica, on that node where one is named.
    Add(Option<NodeId>),
    /// That replica is too many.
    Drop(NodeId),
    /// What the operator asked for is done or cannot be done.
    CancelMove,
}

impl Driver {
    /// For a shard whose leader leads and whose last change has settled.
    pub(super) fn repair(&self, at: At<'_>, led: Led, watch: &mut Watch, plan: &mut Plan) {
        let At { state, shard, row, now } = at;
        let goal = match row.moving {
            // It follows the present one's set.
            Some(_) if self.present_of(shard).is_some() => Goal::CancelMove,
            Some(moving) => self.goal_of_move(at, moving, led, plan),
            None => self.goal(at, led, plan),
        };
        if let Some(learner) = row.learner {
            let named = |to: Option<NodeId>| to.is_none_or(|to| to == learner);
            let is_wanted = match goal {
                Goal::Add(to) if named(to) => true,
                // Where an operator's move waits for a repair, the repair goes on.
                Goal::Add(_) => self.goal(at, led, plan) == Goal::Add(None),
                _ => false,
            };
            let given_up = !state.is_active(learner)
                || self.liveness.is_full(learner)
                || self.liveness.is_dead_for(learner, self.config.learner_grace, now);
            if !is_wanted || given_up {
                plan.propose(
                    watch,
                    Some(row),
                    now,
                    Change::Learner { shard, version: row.version, node: None },
                );
            } else if led.caught_up == Some(learner) {
                let mut members = row.members.clone();
                members.push(learner);
                members.sort_unstable();
                self.change(at, members, watch, plan);
            }
            return;
        }
        match goal {
            Goal::Nothing => {}
            Goal::CancelMove => {
                plan.propose(watch, Some(row), now, Change::CancelMove { shard });
            }
            Goal::Drop(node) => {
                let members = row.members.iter().filter(|member| **member != node).copied().collect();
                self.change(at, members, watch, plan);
            }
            Goal::Add(to) => {
                if plan.changing >= self.config.changes_at_once {
                    return;
                }
                let Some(node) = to.or_else(|| self.newcomer(at, plan)) else { return };
                if !self.has_room(state, node, now) {
                    return;
                }
                let version = row.version;
                if plan.propose(watch, Some(row), now, Change::Learner { shard, version, node: Some(node) }) {
                    plan.changing += 1;
                    *load(state, plan).entry(node).or_default() += 1;
                }
            }
        }
    }

    /// Proposes a set, unless it or the present one has no live majority: the election that follows could not end.
    fn change(&self, at: At<'_>, members: Vec<NodeId>, watch: &mut Watch, plan: &mut Plan) {
        let At { state, shard, row, now } = at;
        let can_elect = |set: &[NodeId]| {
            set.iter().filter(|node| self.is_live(state, **node, now)).count() >= majority(set)
        };
        if can_elect(&members) && can_elect(&row.members) {
            plan.propose(watch, Some(row), now, Change::Change { shard, version: row.version, members });
        }
    }

    fn goal_of_move(&self, at: At<'_>, moving: Move, led: Led, plan: &mut Plan) -> Goal {
        let At { state, row, now, .. } = at;
        let Move { from, to } = moving;
        if !row.members.contains(&from) {
            return Goal::CancelMove;
        }
        if row.members.contains(&to) {
            return Goal::Drop(from);
        }
        if !state.is_active(to)
            || self.liveness.is_full(to)
            || self.liveness.is_dead_for(to, self.config.learner_grace, now)
        {
            return Goal::CancelMove;
        }
        match self.goal(at, led, plan) {
            Goal::Drop(node) => Goal::Drop(node),
            _ => Goal::Add(Some(to)),
        }
    }

    fn goal(&self, at: At<'_>, led: Led, plan: &mut Plan) -> Goal {
        let At { state, shard, row, .. } = at;
        let active = state.nodes().filter(|(id, _)| state.is_active(*id)).count();
        let target = state.replication().min(active).max(1);
        if let Some(present) = self.present_of(shard) {
            return self.goal_of_the_past(at, present, led, target);
        }
        if row.members.len() > target {
            return Goal::Drop(self.superfluous(at, led, plan));
        }
        let lacks_one = row.members.len() < target || row.members.iter().any(|node| self.must_go(at, *node));
        if lacks_one { Goal::Add(None) } else { Goal::Nothing }
    }

    /// Whether a member has to be replaced.
    fn must_go(&self, at: At<'_>, node: NodeId) -> bool {
        !at.state.is_active(node) || self.liveness.is_dead_for(node, self.config.grace, at.now)
    }

    /// The shard that is written now, of one of a past incarnation.
    fn present_of(&self, shard: ShardId) -> Option<ShardId> {
        let origin = self.config.home.filter(|home| shard.origin.is_past(*home))?;
        Some(ShardId { origin, ..shard })
    }

    /// The set of a shard of a past incarnation follows that of the one which is written now: who goes is replaced there first.
    fn goal_of_the_past(&self, at: At<'_>, present: ShardId, led: Led, target: usize) -> Goal {
        let At { state, row, now, .. } = at;
        let Some(present) = state.shard(present) else { return Goal::Nothing };
        if let Some(node) = self.wanted_beside(at, present) {
            return Goal::Add(Some(node));
        }
        let may_go = self.superfluous_of_the_past(at, present, led);
        // Who has to go and may not is beside those who count: else another one would come and go for ever.
        let is_stuck = |node: &&NodeId| self.must_go(at, **node) && !may_go.contains(node);
        let stuck = row.members.iter().filter(is_stuck).count();
        if row.members.len() - stuck > target.max(present.members.len()) {
            return may_go.first().map_or(Goal::Nothing, |node| Goal::Drop(*node));
        }
        // Where none of those beside which it should be has room, it is elsewhere until one has.
        let is_shut_out = present.members.iter().any(|node| {
            !row.members.contains(node) && self.is_live(state, *node, now) && self.liveness.is_full(*node)
        });
        let sound = row.members.iter().filter(|node| !self.must_go(at, **node)).count();
        if is_shut_out && sound < target { Goal::Add(None) } else { Goal::Nothing }
    }

    /// A replica of the present shard that lacks one of the past one: whoever leads the present shard looks its producers up there, and
    /// takes no publish before it can. Its leader first.
    fn wanted_beside(&self, at: At<'_>, present: &ShardRow) -> Option<NodeId> {
        let At { state, row, now, .. } = at;
        let lacks = |node: &NodeId| {
            present.members.contains(node) && !row.members.contains(node) && self.has_room(state, *node, now)
        };
        // A learner that is wanted is not changed for another.
        let first = [row.learner, present.elected.map(|elected| elected.node)];
        let mut all = first.into_iter().flatten().chain(present.members.iter().copied());
        all.find(lacks)
    }

    /// Who may be dropped from a past shard's set that is too large, the first of them first: nobody who has the present one, and nobody who is known to hold more
    /// than a majority has now, unless an operator drains it and it is dead for long. What was committed by the incarnation that is over
    /// may be on one node alone, whatever a majority of this set says.
    fn superfluous_of_the_past(&self, at: At<'_>, present: &ShardRow, led: Led) -> Vec<NodeId> {
        let At { state, shard, row, now } = at;
        let held = |node: &NodeId| self.config.holders.get(&shard).and_then(|held| held.get(node)).copied();
        let may_go = |node: &&NodeId| {
            let is_dead = self.liveness.is_dead_for(**node, self.config.grace, now);
            let is_copied = led.settled && held(node).is_none_or(|held| held <= led.durable);
            let is_given_up = is_dead && !state.is_active(**node);
            !present.members.contains(node)
                && (is_given_up || (is_copied && (is_dead || self.is_live(state, **node, now))))
        };
        let mut may_go: Vec<NodeId> = row.members.iter().filter(may_go).copied().collect();
        may_go.sort_by_key(|node| {
            let leads = row.elected.is_some_and(|elected| elected.node == *node);
            (state.is_active(*node), self.is_live(state, *node, now), leads)
        });
        may_go
    }

    /// Who is dropped from a set that is too large: a draining one, else the longest dead, else one of the fullest node
    /// that does not lead.
    fn superfluous(&self, at: At<'_>, led: Led, plan: &mut Plan) -> NodeId {
        let At { state, shard, row, now } = at;
        let load = load(state, plan);
        let key = |node: &NodeId| {
            let live = self.is_live(state, *node, now);
            let leads = self.liveness.led(*node, shard).is_some_and(|other| other.epoch == led.epoch);
            let moves = row.moving.is_some_and(|moving| moving.from == *node);
            (
                state.is_active(*node),
                live,
                if live { Timestamp(0) } else { self.liveness.last_heard(*node) },
                leads,
                moves,
                std::cmp::Reverse(load.get(node).copied().unwrap_or(0)),
                rank(For::Holding, shard, *node),
            )
        };
        row.members.iter().copied().min_by_key(key).unwrap_or_default()
    }

    /// The node with the fewest replicas among those that can take one.
    fn newcomer(&self, at: At<'_>, plan: &mut Plan) -> Option<NodeId> {
        let At { state, shard, row, now } = at;
        let load = load(state, plan);
        state
            .nodes()
            .map(|(id, _)| id)
            .filter(|id| !row.members.contains(id) && self.has_room(state, *id, now))
            .min_by_key(|id| {
                (load.get(id).copied().unwrap_or(0), std::cmp::Reverse(rank(For::Holding, shard, *id)))
            })
    }
}

/// How many replicas each node has or is getting.
fn load<'a>(state: &Placement, plan: &'a mut Plan) -> &'a mut BTreeMap<NodeId, usize> {
    plan.load.get_or_insert_with(|| {
        let mut load = BTreeMap::new();
        for (_, row) in state.shards() {
            for node in row.members.iter().chain(row.learner.iter()) {
                *load.entry(*node).or_default() += 1;
            }
        }
        load
    })
}
