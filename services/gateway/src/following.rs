//! What a subscription follows, and where: which replica each shard's lanes are read from, what of a read is new, what is
//! read next, and whether all has been sent. Pure.
//!
//! Reads name offsets, so wherever a shard is read from, its lanes go on where they were: what another replica sends again is
//! left out, what it lacks is waited for, and what it skips is an error. A shard that nobody in reach serves waits, and until
//! it is served again nobody is told that all has been sent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use meridian_region::Holders;
use meridian_types::{Cursor, Lane, NodeId, Offset, Origin, Partition, ShardId, shard_of};

/// Where a shard's lanes are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Seat {
    /// Nowhere: nobody in reach serves it.
    Nowhere,
    /// From this node's own replica.
    Here,
    /// From another node's.
    At(NodeId),
}

/// A batch as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub base: Offset,
    pub events: u32,
    pub hlc: u64,
    pub batch: Bytes,
}

impl Run {
    pub fn next(&self) -> Offset {
        Offset(self.base.0.saturating_add(u64::from(self.events)))
    }
}

/// What a read brings that the reader has not had.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// Batches in order, and the first offset in each that is new.
    pub runs: Vec<(Run, Offset)>,
    /// The lane goes on behind offsets that are not there.
    pub hole: Option<Hole>,
}

/// Offsets that a replica does not have, and should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    pub at: Offset,
    pub next: Offset,
}

/// A lane that is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub lane: Lane,
    pub shard: ShardId,
    pub from: Offset,
    /// Here, or at another node.
    pub seat: Seat,
}

/// Another place to read a shard from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub from: Seat,
    pub to: Seat,
}

/// A shard whose lanes are followed.
#[derive(Debug)]
struct Shard {
    /// The lanes' partitions, in rising order, and the furthest end that any replica has shown of each.
    lanes: Vec<(Partition, Offset)>,
    seat: Seat,
    /// Who led it when a seat was last looked for.
    leader: Option<NodeId>,
    /// Nodes that did not serve it when they were asked.
    shunned: BTreeSet<NodeId>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Following {
    cursor: Cursor,
    /// How many shards each writer has, and how many of its partitions are followed.
    origins: BTreeMap<Origin, (u16, u32)>,
    shards: BTreeMap<ShardId, Shard>,
    /// Shards of which nobody has said yet that they are served where they are to be read.
    waiting: BTreeSet<ShardId>,
    /// Lanes that may hold something to read, each once, all of shards that are served.
    due: VecDeque<Lane>,
    queued: BTreeSet<Lane>,
    /// Lanes of which the present replica has less than another had.
    behind: BTreeSet<Lane>,
}

impl Following {
    /// Follows nothing yet, and starts there.
    pub fn new(cursor: Cursor) -> Self {
        Self {
            cursor,
            origins: BTreeMap::new(),
            shards: BTreeMap::new(),
            waiting: BTreeSet::new(),
            due: VecDeque::new(),
            queued: BTreeSet::new(),
            behind: BTreeSet::new(),
        }
    }

    /// What comes next of each lane.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// Starts elsewhere.
    pub fn start_at(&mut self, cursor: Cursor) {
        self.cursor = cursor;
    }

    /// Follows a writer's lanes of so many partitions; those of more than before are new.
    pub fn follow(&mut self, origin: Origin, shards: u16, partitions: u32) {
        let (_, followed) = self.origins.entry(origin).or_insert((shards, 0));
        let new = *followed..partitions;
        *followed = partitions.max(*followed);
        for partition in new.map(Partition) {
            let lane = Lane { stream: self.cursor.stream, partition, origin };
            let Some(id) = self.shard(lane) else { continue };
            if let Some(shard) = self.shards.get_mut(&id) {
                shard.lanes.push((partition, Offset::ZERO));
                if !self.waiting.contains(&id) {
                    self.make_due(lane);
                }
                continue;
            }
            let lanes = vec![(partition, Offset::ZERO)];
            let shard = Shard { lanes, seat: Seat::Nowhere, leader: None, shunned: BTreeSet::new() };
            self.shards.insert(id, shard);
            self.waiting.insert(id);
        }
    }

    /// The shards whose lanes are followed.
    pub fn shards(&self) -> Vec<ShardId> {
        self.shards.keys().copied().collect()
    }

    /// The other nodes where shards are read.
    pub fn nodes(&self) -> BTreeSet<NodeId> {
        let node = |shard: &Shard| match shard.seat {
            Seat::At(node) => Some(node),
            Seat::Here | Seat::Nowhere => None,
        };
        self.shards.values().filter_map(node).collect()
    }

    /// Whether a shard has no seat.
    pub fn seeks(&self) -> bool {
        self.waiting.iter().any(|shard| self.seat_of(*shard) == Seat::Nowhere)
    }

    fn seat_of(&self, shard: ShardId) -> Seat {
        self.shards.get(&shard).map_or(Seat::Nowhere, |shard| shard.seat)
    }

    /// The shard of a lane; none: it is not followed.
    fn shard(&self, lane: Lane) -> Option<ShardId> {
        let (shards, followed) = self.origins.get(&lane.origin)?;
        let is_followed = lane.stream == self.cursor.stream && lane.partition.0 < *followed;
        let no = shard_of(lane.stream, lane.partition, *shards);
        is_followed.then_some(ShardId { origin: lane.origin, no })
    }

    /// Looks where a shard is to be read; none: where it is read. It is not read at a new seat before [`Following::served`].
    pub fn look(&mut self, id: ShardId, holders: &Holders) -> Option<Moved> {
        let shard = self.shards.get_mut(&id)?;
        if shard.leader != holders.leader {
            shard.leader = holders.leader;
            // It is another time, and it may be ready by now.
            shard.shunned.retain(|node| Some(*node) != holders.leader);
        }
        let to = choose(shard.seat, holders, &shard.shunned);
        if to == Seat::Nowhere {
            // Next time they are asked again.
            shard.shunned.clear();
        }
        let from = std::mem::replace(&mut shard.seat, to);
        (from != to).then(|| {
            self.stop_reading(id);
            Moved { from, to }
        })
    }

    /// A seat says that it serves a shard, or that any of its lanes may have grown.
    pub fn served(&mut self, id: ShardId, by: Seat) {
        let Some(shard) = self.shards.get(&id).filter(|shard| shard.seat == by) else { return };
        self.waiting.remove(&id);
        let lanes: Vec<Partition> = shard.lanes.iter().map(|(partition, _)| *partition).collect();
        for partition in lanes {
            self.make_due(Lane { stream: self.cursor.stream, partition, origin: id.origin });
        }
    }

    /// A seat says that a lane has grown.
    pub fn grown(&mut self, lane: Lane, at: Seat) {
        if let Some(shard) = self.shard(lane)
            && self.seat_of(shard) == at
            && !self.waiting.contains(&shard)
        {
            self.make_due(lane);
        }
    }

    /// A node does not serve a shard, or no more.
    pub fn left(&mut self, id: ShardId, node: NodeId) {
        let Some(shard) = self.shards.get_mut(&id) else { return };
        shard.shunned.insert(node);
        if shard.seat == Seat::At(node) {
            shard.seat = Seat::Nowhere;
            self.stop_reading(id);
        }
    }

    /// A node is out of reach.
    pub fn lost(&mut self, node: NodeId) {
        for id in self.shards() {
            if self.seat_of(id) == Seat::At(node) {
                self.left(id, node);
            }
        }
    }

    fn stop_reading(&mut self, id: ShardId) {
        self.waiting.insert(id);
        let (origins, stream) = (&self.origins, self.cursor.stream);
        let is_of = |lane: &Lane| {
            let shards = origins.get(&lane.origin).map_or(1, |(shards, _)| *shards);
            lane.origin == id.origin && shard_of(stream, lane.partition, shards) == id.no
        };
        self.due.retain(|lane| !is_of(lane));
        self.queued.retain(|lane| !is_of(lane));
    }

    fn make_due(&mut self, lane: Lane) {
        if self.queued.insert(lane) {
            self.due.push_back(lane);
        }
    }

    /// Whether a lane may hold something to read.
    pub fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// The lane whose turn it is.
    pub fn next(&mut self) -> Option<Due> {
        let lane = self.due.pop_front()?;
        self.queued.remove(&lane);
        let shard = self.shard(lane)?;
        let from = self.cursor.next(lane.origin, lane.partition);
        Some(Due { lane, shard, from, seat: self.seat_of(shard) })
    }

    /// What a read of a lane brought, and where the lane ended then. Its turn comes again, behind the other lanes, if there is
    /// more.
    pub fn take(&mut self, lane: Lane, runs: Vec<Run>, end: Offset) -> News {
        let from = self.cursor.next(lane.origin, lane.partition);
        let is_begun = from > Offset::ZERO && self.cursor.has(lane.origin, lane.partition);
        let (mut next, mut news) = (from, News::default());
        for run in runs {
            if run.next() <= next {
                continue;
            }
            if run.base > next && (is_begun || next > from) {
                news.hole = Some(Hole { at: next, next: run.base });
                break;
            }
            let first = run.base.max(next);
            next = run.next();
            news.runs.push((run, first));
        }
        if next > from {
            self.cursor.set(lane.origin, lane.partition, next);
        }
        let is_behind = self.is_behind(lane, end) || (next == from && from < end);
        if is_behind {
            self.behind.insert(lane);
        } else {
            self.behind.remove(&lane);
        }
        if from < next && next < end {
            self.make_due(lane);
        }
        news
    }

    /// What comes next of a lane cannot be read now: not all of it was sent.
    pub fn unreadable(&mut self, lane: Lane) {
        self.behind.insert(lane);
    }

    /// A lane that could not be read is tried again, where it is read now; where nobody serves it, once somebody does.
    pub fn again(&mut self, lane: Lane) {
        if self.shard(lane).is_some_and(|shard| !self.waiting.contains(&shard)) {
            self.make_due(lane);
        }
    }

    /// Whether another replica has shown more of a lane than this end, which is noted.
    fn is_behind(&mut self, lane: Lane, end: Offset) -> bool {
        let Some(shard) = self.shard(lane).and_then(|shard| self.shards.get_mut(&shard)) else {
            return false;
        };
        let Ok(place) = shard.lanes.binary_search_by_key(&lane.partition, |(partition, _)| *partition) else {
            return false;
        };
        let known = &mut shard.lanes[place].1;
        *known = end.max(*known);
        end < *known
    }

    /// All that was held when the seats were last heard has been sent, of every lane.
    pub fn has_caught_up(&self) -> bool {
        self.due.is_empty() && self.behind.is_empty() && self.waiting.is_empty()
    }
}

/// Where a shard is read: here; at its leader, which has all of it; where it is read now; elsewhere.
pub(crate) fn choose(now: Seat, holders: &Holders, shunned: &BTreeSet<NodeId>) -> Seat {
    if holders.here {
        return Seat::Here;
    }
    let mut open = holders.others.iter().copied().filter(|node| !shunned.contains(node));
    let leader = holders.leader.filter(|leader| !shunned.contains(leader));
    let stays = match now {
        Seat::At(node) => open.clone().find(|open| *open == node),
        Seat::Here | Seat::Nowhere => None,
    };
    leader.or(stays).or_else(|| open.next()).map_or(Seat::Nowhere, Seat::At)
}

#[cfg(test)]
#[path = "following_tests.rs"]
mod tests;
