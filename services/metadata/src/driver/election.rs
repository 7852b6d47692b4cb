//! One election of one shard: who was fenced, what was answered, who wins.
//!
//! The rule is Raft's (Ongaro 2014, §3.6 and §4.3), taken over answers: a member wins only if those whose logs end no later
//! than its own, and are sure to, are so many of the set, and of the one before, that the rest is no majority of it. A
//! committed frame is at a majority of one of them, so the winner has it. An answer that is unsure counts for nobody. A copy
//! of another origin's shard loses nothing by a short leader, for its origin has the rest: once all have answered, its longest
//! log wins, unsure or not. But of a copy's new set a majority may hold nothing, where a region was founded anew:
//! the first election there waits for all that live, and the longest wins. (Raft asks a majority for this, which in an even set
//! is one more than the intersection needs; a set of two that shrinks to the shorter of both would then wait for ever.)

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_types::mutant::{self, Mutant};
use meridian_types::{Boot, LeaderEpoch, LogEnd, NodeId, Seq, ShardId, Timestamp};

use super::config::{Config, passed};
use super::rank::{For, rank};
use crate::placement::{ShardRow, majority};

/// How often a replica is fenced before the tries grow rarer.
const QUICK_TRIES: u32 = 4;

/// An election under way.
#[derive(Clone, Debug)]
pub(super) struct Round {
    pub epoch: LeaderEpoch,
    answers: BTreeMap<NodeId, Answer>,
    asked: BTreeMap<NodeId, Asked>,
    /// Since when somebody can be elected.
    electable: Option<Timestamp>,
    /// A replica has promised so high an epoch to others: this one cannot be won.
    pub above: Option<LeaderEpoch>,
}

/// What a replica promised, and with which end. Good for the process that gave it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub boot: Boot,
    pub end: LogEnd,
    pub unsure_from: Option<Seq>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    at: Timestamp,
    tries: u32,
}

/// What is known of a member besides its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fitness {
    /// It is heard: only such a node is elected.
    pub live: bool,
    /// It is not draining, and has room.
    pub active: bool,
    /// It was elected last, and did not lead.
    pub avoided: bool,
}

impl Round {
    pub fn new(epoch: LeaderEpoch) -> Self {
        Self { epoch, answers: BTreeMap::new(), asked: BTreeMap::new(), electable: None, above: None }
    }

    pub fn answer(&mut self, node: NodeId, answer: Answer) {
        self.answers.insert(node, answer);
    }

    /// The node runs as that process: what an earlier one answered counts no more, and it is asked at once.
    pub fn runs(&mut self, node: NodeId, boot: Boot) {
        if self.answers.get(&node).is_some_and(|answer| answer.boot < boot) {
            self.answers.remove(&node);
            self.asked.remove(&node);
        }
    }

    /// The node is back: it is asked at once.
    pub fn ask_again(&mut self, node: NodeId) {
        self.asked.remove(&node);
    }

    /// Whether it is time to ask the node. Answering `true` counts as asking.
    pub fn ask(&mut self, node: NodeId, config: &Config, now: Timestamp) -> bool {
        let wait = match self.answers.get(&node) {
            Some(answer) if answer.unsure_from.is_none() => return false,
            // It may be mended meanwhile.
            Some(_) => config.fence_retry_max,
            None => self.asked.get(&node).map_or(Duration::ZERO, |asked| {
                let doubled = asked.tries.saturating_sub(QUICK_TRIES).min(16);
                config.fence_retry.saturating_mul(1 << doubled).min(config.fence_retry_max)
            }),
        };
        if self.asked.get(&node).is_some_and(|asked| !passed(asked.at, now, wait)) {
            return false;
        }
        let tries = self.asked.get(&node).map_or(0, |asked| asked.tries);
        self.asked.insert(node, Asked { at: now, tries: tries.saturating_add(1) });
        true
    }

    /// Who is to be elected now; `None`: wait.
    pub fn winner(
        &mut self,
        shard: ShardId,
        row: &ShardRow,
        fitness: impl Fn(NodeId) -> Fitness,
        config: &Config,
        now: Timestamp,
    ) -> Option<(NodeId, Boot)> {
        let is_copy = config.home.is_some_and(|home| home != shard.origin);
        let is_first = is_copy && row.elected.is_none();
        let may_win =
            |answer: &Answer| self.can_win(row, answer) || (is_copy && self.is_longest_of_all(row, answer));
        let best = row
            .members
            .iter()
            .filter_map(|node| Some((*node, *self.answers.get(node)?)))
            .filter(|(node, answer)| fitness(*node).live && may_win(answer))
            .max_by_key(|(node, answer)| {
                let end = if mutant::is(Mutant::ShortestWins) { LogEnd::default() } else { answer.end };
                let Fitness { active, avoided, .. } = fitness(*node);
                // A copy's longest log may be the only one that has what it has, even if its node shall go.
                let preferred =
                    if is_copy { (!avoided, end, active) } else { (active && !avoided, end, true) };
                (preferred, rank(For::Leading, shard, *node))
            });
        let Some((node, answer)) = best else {
            self.electable = None;
            return None;
        };
        let since = *self.electable.get_or_insert(now);
        let voters = row.voters();
        let open = |node: &&NodeId| !self.answers.contains_key(*node);
        let longer = |node: &&NodeId| self.answers.get(*node).is_some_and(|other| other.end > answer.end);
        let is_awaited = voters.iter().filter(open).any(|node| fitness(*node).live);
        let wait = if is_first && is_awaited {
            config.first_leader_wait
        } else if voters.iter().any(|node| longer(&node)) && voters.iter().any(|node| open(&node)) {
            config.longer_wait
        } else if is_awaited && is_copy {
            // Nobody waits for a copy's leader but the copy, and the longest may be the only one that is of use.
            config.longer_wait
        } else if is_awaited {
            config.prefer_wait
        } else {
            Duration::ZERO
        };
        passed(since, now, wait).then_some((node, answer.boot))
    }

    /// Whether all that live have answered and no member can win, but one of the set before could, were that the set again.
    pub fn is_lost_to_the_set_before(&self, row: &ShardRow, is_live: impl Fn(NodeId) -> bool) -> bool {
        let can_win = |row: &ShardRow| {
            let answers = row.members.iter().filter_map(|node| Some((*node, self.answers.get(node)?)));
            answers.into_iter().any(|(node, answer)| is_live(node) && self.can_win(row, answer))
        };
        let Some(before) = row.previous.clone() else { return false };
        let taken_back = ShardRow { members: before, previous: Some(row.members.clone()), ..row.clone() };
        let all_answered = row.voters().iter().all(|node| !is_live(*node) || self.answers.contains_key(node));
        all_answered && !can_win(row) && can_win(&taken_back)
    }

    /// Whether everybody has answered, and nobody has more.
    fn is_longest_of_all(&self, row: &ShardRow, candidate: &Answer) -> bool {
        let shorter =
            |node: &NodeId| self.answers.get(node).is_some_and(|answer| answer.end <= candidate.end);
        row.voters().iter().all(shorter)
    }

    /// Whether the answers say that one with this end has every committed frame.
    fn can_win(&self, row: &ShardRow, candidate: &Answer) -> bool {
        let backed = |set: &[NodeId]| {
            let behind = set.iter().filter(|node| {
                self.answers.get(node).is_some_and(|answer| is_sure(answer) && is_behind(answer, candidate))
            });
            // What must not be is a frame that the candidate lacks and a majority may have: those that may have it, longer,
            // unsure or silent, must be fewer than a majority. Of an even set half are enough for that; and those counted
            // have promised, so the rest cannot commit in a lower epoch either.
            behind.count() + majority(set) > set.len()
        };
        let both = row.previous.as_deref().is_none_or(backed) || mutant::is(Mutant::OneMajority);
        is_sure(candidate) && backed(&row.members) && both
    }
}

/// Whether a replica has all that it ever said to have flushed.
fn is_sure(answer: &Answer) -> bool {
    answer.unsure_from.is_none() || mutant::is(Mutant::DoubtCounts)
}

/// Whether a replica has nothing that the candidate lacks.
fn is_behind(answer: &Answer, candidate: &Answer) -> bool {
    answer.end <= candidate.end || mutant::is(Mutant::ShortestWins)
}
