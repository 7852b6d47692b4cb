//! What scenarios of damaged files need: which events lie where, what a node says of its damage, and what it gives out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use meridian_sdk::types::{Lane, Offset};
use meridian_sdk::{Codec, LaneExtent, RangeDigest};
use rand::seq::IndexedRandom as _;

use crate::disk::{Words, find_words};
use crate::record::{Load, Reading, What, lane_name, read_node};
use crate::scenario::Stage;
use crate::scenario::stage::STREAM;
use crate::trouble::{Context as _, Trouble};

/// What is acknowledged for so long is applied everywhere that is well.
const SETTLED: Duration = Duration::from_secs(4);
const READ_WITHIN: Duration = Duration::from_secs(30);
const REPAIRED_WITHIN: Duration = Duration::from_secs(90);
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Events whose bytes can be found on a disk.
pub(super) fn plain() -> Load {
    Load { codec: Codec::None, ..Load::default() }
}

/// What a node counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// Shards that may have lost their ends.
    pub shards: u64,
    /// Frames that it does not give out.
    pub quarantined: u64,
    /// Frames that it has stored again.
    pub repaired: u64,
}

/// An event, and where it lies on one node's disk.
#[derive(Clone, Debug)]
pub(super) struct Lying {
    pub id: String,
    pub number: u64,
    pub lane: String,
    pub offset: u64,
    pub file: PathBuf,
    pub at: u64,
}

impl Stage {
    /// Whose files are damaged: a follower's, a leader's, and those of the region that mirrors, on one node.
    pub(super) fn victim(&mut self, number: u32) -> Result<usize, Trouble> {
        let leader = self.leader()?;
        match number {
            0 => {
                let others = self.others(leader);
                others.choose(&mut self.rng).copied().ok_or_else(|| Trouble::tool("no follower"))
            }
            1 => Ok(leader),
            _ => self.world.first_of("eu"),
        }
    }

    /// So many more events of `us` are acknowledged, and applied wherever they ever will be; gives when they were.
    pub(super) fn settle(&self, more: u64) -> Result<Duration, Trouble> {
        self.wait_acks_of("us", more, Duration::from_secs(60))?;
        let acknowledged = self.recorder.elapsed();
        std::thread::sleep(SETTLED);
        Ok(acknowledged)
    }

    /// The events of `us` that were acknowledged before and that a node's volume holds in one place, file by file.
    pub(super) fn lying(&self, index: usize, before: Duration) -> Result<Vec<Lying>, Trouble> {
        let until = before.as_micros() as u64;
        let words: Words = find_words(&self.world.node(index).data().join("volume"), b"us/0/")?;
        let mut lying = Vec::new();
        for entry in self.recorder.entries()? {
            let What::Ack { id, lane, offset, .. } = entry.what else { continue };
            let number = id.strip_prefix("us/0/").and_then(|number| number.parse().ok());
            if let (Some(number), Some([(file, at)])) = (number, words.get(&id).map(Vec::as_slice))
                && entry.at < until
            {
                lying.push(Lying { id, number, lane, offset, file: file.clone(), at: *at });
            }
        }
        lying.sort_unstable_by(|a, b| (&a.file, a.at).cmp(&(&b.file, b.at)));
        Ok(lying)
    }

    /// What a node counts now; none: it does not answer.
    pub(super) fn counts(&self, index: usize) -> Option<Counts> {
        let count = |name| self.world.metric(index, name, "").map(|value| value as u64);
        Some(Counts {
            shards: count("meridian_damaged_shards")?,
            quarantined: count("meridian_quarantined_frames")?,
            repaired: count("meridian_repaired_frames")?,
        })
    }

    /// What a node gives to a reader, of which every event is where it was acknowledged, and as it was published.
    ///
    /// # Errors
    /// One is not.
    pub(super) fn gives(&self, index: usize, within: Duration) -> Result<Reading, Trouble> {
        let reading = read_node(&self.world, index, STREAM, within)?;
        let mut places: BTreeMap<String, (String, u64)> = BTreeMap::new();
        let mut called = std::collections::BTreeSet::new();
        for entry in self.recorder.entries()? {
            match entry.what {
                What::Call { id, .. } => drop(called.insert(id)),
                What::Ack { id, lane, offset, .. } => drop(places.insert(id, (lane, offset))),
                _ => {}
            }
        }
        for (lane, rows) in &reading.lanes {
            for row in rows {
                let here = places.get(&row.id).is_none_or(|place| *place == (lane.clone(), row.offset));
                if !called.contains(&row.id) || !here {
                    let name = self.name(index);
                    return Err(Trouble::broken(format!(
                        "{name} gives {} at {} of {lane}",
                        row.id, row.offset
                    )));
                }
            }
        }
        Ok(reading)
    }

    /// Whether a node's region has no other.
    pub(super) fn is_single(&self, index: usize) -> bool {
        self.world.nodes_of(self.world.node(index).place().0).len() == 1
    }

    /// Waits until a node gives everything, and nothing of it is damaged any more. But where a region's own shards have a
    /// single replica: those stay closed that may have had something, hidden in the damage, of which nothing follows it.
    pub(super) fn wait_repaired(&self, index: usize) -> Result<Counts, Trouble> {
        let until = Instant::now() + REPAIRED_WITHIN;
        loop {
            let (reading, counts) = (self.gives(index, READ_WITHIN)?, self.counts(index));
            if let (None, Some(counts)) = (&reading.ended, counts)
                && counts.quarantined == 0
                && (counts.shards == 0 || self.is_single(index))
            {
                return Ok(counts);
            }
            if Instant::now() > until {
                return Err(Trouble::broken(format!(
                    "{} is not repaired within {REPAIRED_WITHIN:?}: {counts:?}, {:?}\n{}",
                    self.name(index),
                    reading.ended,
                    self.world.node(index).log_tail()
                )));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// How far a node's lanes go, as soon as it says so.
    pub(super) fn extents(&self, index: usize) -> Result<BTreeMap<String, LaneExtent>, Trouble> {
        let endpoint = self.world.endpoint(index);
        let lanes = self.world.clients.run(async move {
            let admin = crate::world::client_of_one(endpoint, ANSWER_WITHIN)?.admin();
            admin.list_lanes(STREAM).await.context("listing lanes")
        })??;
        Ok(lanes.into_iter().map(|extent| (lane_name(&extent.lane), extent)).collect())
    }

    /// Reads a part of a lane on a node's disk.
    pub(super) fn digest(
        &self,
        index: usize,
        lane: Lane,
        from: u64,
        end: Offset,
    ) -> Result<RangeDigest, Trouble> {
        let endpoint = self.world.endpoint(index);
        self.world.clients.run(async move {
            let admin = crate::world::client_of_one(endpoint, ANSWER_WITHIN)?.admin();
            admin.digest(STREAM, lane, Offset(from), end).await.context("reading a part of a lane")
        })?
    }
}
