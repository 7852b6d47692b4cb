//! A link over several connections, sans-IO: which shard comes over which, how the credit is split, when one more is opened.
//!
//! The *main* leg is the link's own: it goes on to another node when it breaks, to a relay, and back. Its node may hold only
//! some of the shards. It says where the others are, and each of those comes over a leg to one of its holders. Whatever goes
//! wrong there gives the shard back to the main leg, whose node tells anew. In: what happens on each leg. Out: what to do on
//! each, and which to open or close. A shard is on one leg at a time, and moves only once nothing of it is in hand.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_types::{NodeId, Seq, ShardId, Timestamp};

use crate::link::{CopyState, LinkConfig, LinkCore, LinkEffect, LinkInput, RefusedReason};
use crate::stall::StallClock;
use crate::status::{LinkState, LinkStatus};

/// A leg that carries nothing is closed after so long, in milliseconds.
const IDLE_MS: u64 = 30_000;
/// The longest wait until a node is tried again, in milliseconds; the shortest is `retry_ms`.
const BACKOFF_MAX_MS: u64 = 6_400;
/// A leg's node that was of no use for so long, in milliseconds, is forgotten.
const FORGET_MS: u64 = 600_000;

/// A connection of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LegId {
    /// The one that is always there, or tried.
    Main,
    /// One more, to this node.
    To(NodeId),
}

/// What happens to a link's legs.
#[derive(Clone, Debug)]
pub enum LegsInput {
    /// A leg's peer was accepted.
    Connected(LegId),
    /// A leg's connection is gone, or did not come about.
    Lost(LegId),
    /// The main leg has left the region that this leg leads to.
    Retire(NodeId),
    /// A shard copy is ready, has stored more, or has faulted.
    Copy(ShardId, CopyState),
    /// A leg's source says something other than that it refuses a shard.
    Heard(LegId, LinkInput),
    /// A leg's source does not push a shard.
    Refused {
        /// On which.
        leg: LegId,
        /// Which shard.
        shard: ShardId,
        /// Why.
        reason: RefusedReason,
        /// The source's last.
        last: Seq,
        /// For people.
        message: String,
        /// Nodes of the source's region that have it, as far as the source knows; all of them known here.
        holders: Vec<NodeId>,
    },
    /// Time has passed. Some ten a second.
    Tick,
}

/// What a link wants done.
#[derive(Clone, Debug)]
pub enum LegsEffect {
    /// On a leg. [`LinkEffect::Reconnect`] comes for the main leg alone.
    On(LegId, LinkEffect),
    /// Connect to a node, at some moment within this time.
    Open(NodeId, Duration),
    /// Give the connection to a node up, or the attempt.
    Close(NodeId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not before then.
    Closed(Timestamp),
    Opening,
    Open,
}

#[derive(Debug)]
struct Leg {
    core: LinkCore,
    state: State,
    /// When something last came over it, or was stored of what it carries.
    progressed: Timestamp,
    /// When it last carried a shard.
    used: Timestamp,
    /// Tries in a row that came to nothing.
    failures: u32,
}

#[derive(Debug)]
struct Place {
    at: LegId,
    /// Where it is to go, and from when on it is asked for there.
    bound_for: Option<(LegId, Timestamp)>,
    /// The holder that had it not, as it said, and since when no holder has had it.
    turned_away: Option<(NodeId, Timestamp)>,
}

/// See the module.
#[derive(Debug)]
pub struct Legs {
    config: LinkConfig,
    /// Where the search for a leg begins: not all nodes of this region at the same.
    seed: u32,
    legs: BTreeMap<LegId, Leg>,
    places: BTreeMap<ShardId, Place>,
    stall: StallClock,
    latest: Timestamp,
    /// Reconnects and stalls of legs that are forgotten.
    forgotten: (u64, u64),
}

impl Legs {
    /// A link that is not connected. `me`: the node that it is a link of.
    pub fn new(config: LinkConfig, me: NodeId) -> Self {
        let mut legs = BTreeMap::new();
        legs.insert(LegId::Main, Leg::new(LinkCore::new(config)));
        Self {
            config,
            seed: me.0,
            legs,
            places: BTreeMap::new(),
            stall: StallClock::default(),
            latest: Timestamp(0),
            forgotten: (0, 0),
        }
    }

    /// Takes one input and appends what is to be done to `out`.
    pub fn step(&mut self, input: LegsInput, now: Timestamp, out: &mut Vec<LegsEffect>) {
        self.notice_a_jump_back(now);
        match input {
            LegsInput::Connected(id) => self.connected(id, now, out),
            LegsInput::Lost(id) => self.lost(id, now, out),
            LegsInput::Retire(node) => self.retire(node, now, out),
            LegsInput::Copy(shard, copy) => self.copy(shard, copy, now, out),
            LegsInput::Heard(id, input) => self.heard(id, input, now, out),
            LegsInput::Refused { leg, shard, reason, last, message, holders } => {
                if self.places.get(&shard).is_some_and(|place| place.at == leg && place.bound_for.is_none()) {
                    let refused = LinkInput::Refused { shard, reason, last, message };
                    if reason == RefusedReason::UnknownShard {
                        // It may have answered an earlier question, and be feeding the shard since the last.
                        out.push(LegsEffect::On(leg, LinkEffect::Stop(shard)));
                        self.elsewhere(leg, shard, &holders, refused, now, out);
                    } else {
                        self.on(leg, refused, now, out);
                    }
                }
            }
            LegsInput::Tick => self.tick(now, out),
        }
        self.split_credit(now, out);
    }

    fn notice_a_jump_back(&mut self, now: Timestamp) {
        if now < self.latest {
            for leg in self.legs.values_mut() {
                leg.progressed = leg.progressed.min(now);
                leg.used = leg.used.min(now);
                if let State::Closed(until) = &mut leg.state {
                    *until = (*until).min(now);
                }
            }
            for place in self.places.values_mut() {
                let turned_away = place.turned_away.iter_mut().map(|(_, since)| since);
                let bound_for = place.bound_for.iter_mut().map(|(_, from)| from);
                turned_away.chain(bound_for).for_each(|time| *time = (*time).min(now));
            }
        }
        self.latest = now;
    }

    fn connected(&mut self, id: LegId, now: Timestamp, out: &mut Vec<LegsEffect>) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        leg.state = State::Open;
        leg.used = now;
        if id == LegId::Main {
            // Another node, which knows better.
            self.places.values_mut().for_each(|place| place.turned_away = None);
        }
        self.on(id, LinkInput::Connected, now, out);
    }

    fn lost(&mut self, id: LegId, now: Timestamp, out: &mut Vec<LegsEffect>) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let was_open = leg.state == State::Open;
        if id != LegId::Main {
            let wait = self.config.retry_ms.max(1) << leg.failures.min(10);
            leg.failures = leg.failures.saturating_add(1);
            leg.state = State::Closed(Timestamp(now.0 + wait.min(BACKOFF_MAX_MS)));
        } else {
            leg.state = State::Closed(now);
        }
        if was_open {
            self.on(id, LinkInput::Disconnected, now, out);
        }
        self.give_back(id, now, out);
    }

    fn retire(&mut self, node: NodeId, now: Timestamp, out: &mut Vec<LegsEffect>) {
        let id = LegId::To(node);
        let Some(leg) = self.legs.get_mut(&id) else { return };
        if !matches!(leg.state, State::Closed(_)) {
            leg.state = State::Closed(now);
            leg.core.close(now);
            out.push(LegsEffect::Close(node));
        }
        self.give_back(id, now, out);
    }

    /// What is on a leg, or on its way there, goes to the main leg.
    fn give_back(&mut self, id: LegId, now: Timestamp, out: &mut Vec<LegsEffect>) {
        if id == LegId::Main {
            return;
        }
        let of_leg = |place: &Place| place.bound_for.map_or(place.at, |(to, _)| to) == id;
        let shards: Vec<ShardId> =
            self.places.iter().filter(|(_, place)| of_leg(place)).map(|(shard, _)| *shard).collect();
        for shard in shards {
            self.send(shard, LegId::Main, now, now, out);
        }
    }

    fn copy(&mut self, shard: ShardId, copy: CopyState, now: Timestamp, out: &mut Vec<LegsEffect>) {
        let place =
            self.places.entry(shard).or_insert(Place { at: LegId::Main, bound_for: None, turned_away: None });
        let (at, leads) = (place.at, copy.leads.is_some());
        let before = self.legs.get(&at).and_then(|leg| leg.core.durable_of(shard));
        if before.is_some_and(|before| copy.durable > before) {
            self.progressed(at, shard, now);
        }
        self.on(at, LinkInput::Copy(shard, copy), now, out);
        if !leads && at != LegId::Main {
            // Another node of this region mirrors it now: it is to keep no leg open.
            self.send(shard, LegId::Main, now, now, out);
        }
        self.move_on(shard, now, out);
    }

    fn heard(&mut self, id: LegId, input: LinkInput, now: Timestamp, out: &mut Vec<LegsEffect>) {
        let Some(leg) = self.legs.get_mut(&id).filter(|leg| leg.state == State::Open) else { return };
        if let LinkInput::Mark(shard, _) | LinkInput::Frames { shard, .. } = &input {
            leg.failures = 0;
            if let Some(place) = self.places.get_mut(shard).filter(|place| place.at == id) {
                place.turned_away = None;
            }
        }
        self.on(id, input, now, out);
    }

    /// A leg's node has not the shard that it is asked for.
    fn elsewhere(
        &mut self,
        id: LegId,
        shard: ShardId,
        holders: &[NodeId],
        refused: LinkInput,
        now: Timestamp,
        out: &mut Vec<LegsEffect>,
    ) {
        let retry = Timestamp(now.0 + self.config.retry_ms);
        let Some(place) = self.places.get_mut(&shard) else { return };
        if let LegId::To(node) = id {
            let since = place.turned_away.map_or(now, |(_, since)| since);
            place.turned_away = Some((node, since));
            return self.send(shard, LegId::Main, retry, now, out);
        }
        // Where those that are named have it not either, this source's word is old.
        let is_old = place.turned_away.is_some_and(|(_, since)| now.0 >= since.0 + self.config.stall_ms);
        self.on(id, refused, now, out);
        if holders.is_empty() || is_old {
            // The main leg turns, in the end: another node may know better.
            return;
        }
        if let Some(leg) = self.legs.get_mut(&id) {
            leg.core.ask_later(shard, retry);
        }
        if let Some(node) = self.choose(shard, holders, now) {
            self.open(node, now, out);
            self.send(shard, LegId::To(node), now, now, out);
        }
    }

    /// Which of a shard's holders to ask: one that a leg leads to, if there is one; rather not the one that had it not; the
    /// one that is asked for least. None while none of them may be tried.
    fn choose(&self, shard: ShardId, holders: &[NodeId], now: Timestamp) -> Option<NodeId> {
        let turned_away = self.places.get(&shard).and_then(|place| place.turned_away).map(|(node, _)| node);
        let rank = |node: NodeId| {
            let id = LegId::To(node);
            let carried = self.places.values().filter(|place| place.at == id).count();
            let is_closed = match self.legs.get(&id).map(|leg| leg.state) {
                Some(State::Closed(until)) if until > now => return None,
                Some(State::Closed(_)) | None => true,
                Some(State::Opening | State::Open) => false,
            };
            let from_seed = node.0.wrapping_sub(self.seed);
            Some((Some(node) == turned_away, is_closed, carried, from_seed, node))
        };
        holders.iter().filter_map(|node| rank(*node)).min().map(|(.., node)| node)
    }

    fn open(&mut self, node: NodeId, now: Timestamp, out: &mut Vec<LegsEffect>) {
        let config = LinkConfig { credit_bytes: 0, ..self.config };
        let leg = self.legs.entry(LegId::To(node)).or_insert_with(|| Leg::new(LinkCore::new(config)));
        leg.used = now;
        if matches!(leg.state, State::Closed(_)) {
            leg.state = State::Opening;
            let within = if leg.failures == 0 { 0 } else { self.config.retry_ms };
            out.push(LegsEffect::Open(node, Duration::from_millis(within)));
        }
    }

    /// A shard shall go to another leg, to be asked for there from then on.
    fn send(
        &mut self,
        shard: ShardId,
        to: LegId,
        from: Timestamp,
        now: Timestamp,
        out: &mut Vec<LegsEffect>,
    ) {
        let Some(place) = self.places.get_mut(&shard) else { return };
        place.bound_for = Some((to, from));
        let at = place.at;
        if let Some(leg) = self.legs.get_mut(&at) {
            let mut effects = Vec::new();
            leg.core.part(shard, &mut effects);
            out.extend(effects.into_iter().map(|effect| LegsEffect::On(at, effect)));
        }
        self.move_on(shard, now, out);
    }

    /// Lets a shard go where it is bound for, once nothing of it is in hand.
    fn move_on(&mut self, shard: ShardId, now: Timestamp, out: &mut Vec<LegsEffect>) {
        let Some(place) = self.places.get_mut(&shard) else { return };
        let Some((to, from)) = place.bound_for else { return };
        let Some(carried) = self.legs.get_mut(&place.at).and_then(|leg| leg.core.take_out(shard)) else {
            return;
        };
        place.bound_for = None;
        place.at = to;
        if let Some(leg) = self.legs.get_mut(&to) {
            leg.used = now;
            let mut effects = Vec::new();
            leg.core.take_in(shard, carried, from, now, &mut effects);
            out.extend(effects.into_iter().map(|effect| LegsEffect::On(to, effect)));
        }
    }

    fn tick(&mut self, now: Timestamp, out: &mut Vec<LegsEffect>) {
        let ids: Vec<LegId> = self.legs.keys().copied().collect();
        for id in ids {
            self.on(id, LinkInput::Tick, now, out);
            self.end_if_idle(id, now, out);
        }
        let in_reach = self.is_open(LegId::Main);
        for leg in self.legs.values() {
            for (shard, waits) in leg.core.waits(in_reach) {
                self.stall.look(shard, waits, leg.progressed, now);
            }
        }
        // Long enough that no turn of a busy link counts, and far below the watchdog's patience.
        self.stall.count(Duration::from_millis(self.config.stall_ms / 5), now);
    }

    fn end_if_idle(&mut self, id: LegId, now: Timestamp, out: &mut Vec<LegsEffect>) {
        let (LegId::To(node), Some(leg)) = (id, self.legs.get_mut(&id)) else { return };
        let is_used = |place: &Place| place.at == id || place.bound_for.is_some_and(|(to, _)| to == id);
        if self.places.values().any(is_used) {
            leg.used = now;
        } else if !matches!(leg.state, State::Closed(_)) && now.0 >= leg.used.0 + IDLE_MS {
            leg.state = State::Closed(now);
            leg.core.close(now);
            out.push(LegsEffect::Close(node));
        } else if matches!(leg.state, State::Closed(_)) && now.0 >= leg.used.0 + FORGET_MS {
            let status = leg.core.status(now);
            self.forgotten.0 += status.reconnects;
            self.forgotten.1 += status.stalls;
            self.legs.remove(&id);
        }
    }

    fn is_open(&self, id: LegId) -> bool {
        self.legs.get(&id).is_some_and(|leg| leg.state == State::Open)
    }

    fn progressed(&mut self, id: LegId, shard: ShardId, now: Timestamp) {
        self.stall.progressed(shard);
        if let Some(leg) = self.legs.get_mut(&id) {
            leg.progressed = now;
        }
    }

    /// A step of a leg's core. A leg that it gives up ends.
    fn on(&mut self, id: LegId, input: LinkInput, now: Timestamp, out: &mut Vec<LegsEffect>) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let mut effects = Vec::new();
        leg.core.step(input, now, &mut effects);
        for effect in effects {
            match (id, effect) {
                (LegId::To(node), LinkEffect::Reconnect) => {
                    out.push(LegsEffect::Close(node));
                    self.lost(id, now, out);
                }
                (_, effect) => {
                    if let LinkEffect::Append(shard, ..) = &effect {
                        self.progressed(id, *shard, now);
                    }
                    out.push(LegsEffect::On(id, effect));
                }
            }
        }
    }

    /// Each leg that is open, or about to be, has an equal share; what one has too much goes to the others as it becomes
    /// free, so that all together never have more than the link.
    fn split_credit(&mut self, now: Timestamp, out: &mut Vec<LegsEffect>) {
        let takes_part = |id: LegId, leg: &Leg| id == LegId::Main || !matches!(leg.state, State::Closed(_));
        let others = self.legs.iter().filter(|(id, leg)| takes_part(**id, leg)).count() as u64 - 1;
        let budget = self.config.credit_bytes;
        let share = budget / (others + 1);
        let target = |id: LegId, leg: &Leg| match id {
            _ if !takes_part(id, leg) => 0,
            LegId::Main => budget - share * others,
            LegId::To(_) => share,
        };
        let mut allot = Vec::new();
        for (&id, leg) in &self.legs {
            let target = target(id, leg);
            if leg.core.wanted() > target {
                allot.push((id, target));
            }
        }
        for (id, bytes) in allot.drain(..) {
            self.on(id, LinkInput::Allot(bytes), now, out);
        }
        let given: u64 = self.legs.values().map(|leg| leg.core.allotted()).sum();
        let mut free = budget.saturating_sub(given);
        for (&id, leg) in &self.legs {
            let (has, target) = (leg.core.allotted(), target(id, leg));
            let more = target.saturating_sub(has).min(free);
            if more > 0 || (leg.core.wanted() < target && has > leg.core.wanted()) {
                free -= more;
                allot.push((id, (has + more).min(target)));
            }
        }
        for (id, bytes) in allot {
            self.on(id, LinkInput::Allot(bytes), now, out);
        }
    }

    /// Whether the main leg is connected, and has all that its source has of what it carries.
    pub fn is_level(&self) -> bool {
        self.legs.get(&LegId::Main).is_some_and(|leg| leg.core.is_level())
    }

    /// What the link shows.
    pub fn status(&self, now: Timestamp) -> LinkStatus {
        let mut all = LinkStatus { stalled: self.stall.total(), ..LinkStatus::default() };
        (all.reconnects, all.stalls) = self.forgotten;
        let mut states = Vec::new();
        for (&id, leg) in &self.legs {
            let status = leg.core.status(now);
            all.events += status.events;
            all.bytes += status.bytes;
            all.oldest = all.oldest.max(status.oldest);
            all.faults.extend(status.faults);
            all.reconnects += status.reconnects;
            all.stalls += status.stalls;
            if id == LegId::Main {
                all.round_trip = status.round_trip;
            } else if leg.state == State::Open {
                all.legs += 1;
            }
            if id == LegId::Main || self.places.values().any(|place| place.at == id) {
                states.push(status.state);
            }
        }
        let worst = [LinkState::Faulted, LinkState::Stalled, LinkState::Connecting];
        all.state = worst.into_iter().find(|state| states.contains(state)).unwrap_or(LinkState::Live);
        all
    }
}

impl Leg {
    fn new(core: LinkCore) -> Self {
        let zero = Timestamp(0);
        Self { core, state: State::Closed(zero), progressed: zero, used: zero, failures: 0 }
    }
}

#[cfg(test)]
#[path = "legs_tests.rs"]
mod tests;
