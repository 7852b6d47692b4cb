//! The laws, one a file, each over what was recorded and what the lanes hold in the end.
//!
//! Flows in: [`Evidence`]. Flows out: breaches in words; none: the law held. Must never wait, ask or guess: the same
//! evidence gives the same answer.

mod consumed;
mod contiguous;
mod doubled;
mod durable;
mod ended;
mod fresh;
mod order;
mod same_bytes;
mod silence;
mod time;
mod unbothered;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::record::{Entry, Finals, Row, What};

pub use silence::{longest_silence, longest_stall};

/// What the laws are checked over.
#[derive(Debug)]
pub struct Evidence {
    /// What clients did and were told.
    pub entries: Vec<Entry>,
    /// What the lanes hold.
    pub finals: Finals,
    /// Whether publishers may have been told errors: a scenario that closes every way to store events says so.
    pub errors_allowed: bool,
    /// What was given up with disks, one for each incarnation that ended.
    pub given_up: Vec<GivenUp>,
}

/// A region lost a majority of its disks: what they alone had of its incarnation is given up, and no more than that.
#[derive(Clone, Debug)]
pub struct GivenUp {
    /// The incarnation that ended, as in the names of its lanes.
    pub origin: String,
    /// Its region: only there may a consumer have been given what is gone.
    pub region: String,
    /// What those who were left held together, by lane.
    pub held: BTreeMap<String, Vec<Row>>,
    /// From when on it was over, in microseconds of the record.
    pub at: u64,
}

impl GivenUp {
    fn is_of(&self, lane: &str) -> bool {
        lane.split_once('@').is_some_and(|(_, origin)| origin == self.origin)
    }
}

/// What came of it, for the table.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Verdict {
    /// Faults injected.
    pub injected: u64,
    /// Events acknowledged.
    pub acknowledged: u64,
    /// Acknowledged events that are not where they were acknowledged, in any region.
    pub lost: u64,
    /// Acknowledged events that went with the disks of a region's majority.
    #[serde(default)]
    pub given_up: u64,
    /// Events that are stored more than once.
    pub doubled: u64,
    /// Linearizable reads that were answered.
    #[serde(default)]
    pub reads: u64,
    /// The longest time without an acknowledgement in a lane of a publisher that waited for one, in milliseconds.
    pub silence_ms: u64,
    /// Everything that broke a law, in words.
    pub breaches: Vec<String>,
}

impl Evidence {
    /// Acknowledged events: id, lane and offset, in the order of their answers.
    fn acks(&self) -> impl Iterator<Item = (&str, &str, u64)> {
        self.entries.iter().filter_map(|entry| match &entry.what {
            What::Ack { id, lane, offset, .. } => Some((id.as_str(), lane.as_str(), *offset)),
            _ => None,
        })
    }

    /// Whether a place may be empty: it is behind the end of what is left, everywhere, and nobody who was left held it.
    fn is_given_up(&self, lane: &str, offset: u64) -> bool {
        let held = |gone: &GivenUp| gone.held.get(lane).map_or(0, Vec::len) as u64;
        let ends = |lanes: &BTreeMap<String, Vec<Row>>| lanes.get(lane).map_or(0, Vec::len) as u64;
        self.given_up.iter().any(|gone| gone.is_of(lane) && offset >= held(gone))
            && self.finals.regions.values().all(|lanes| offset >= ends(lanes))
    }

    /// Whether a region's consumer may have been given what is gone.
    fn was_given_up_in(&self, region: &str, lane: &str, offset: u64) -> bool {
        self.given_up.iter().any(|gone| gone.region == region && gone.is_of(lane))
            && self.is_given_up(lane, offset)
    }

    /// What consumers were given of what is there in the end.
    pub fn seen(&self) -> u64 {
        let seen = self.entries.iter().filter(|entry| match &entry.what {
            What::Seen { consumer, lane, offset, .. } => !self.was_given_up_in(consumer, lane, *offset),
            _ => false,
        });
        seen.count() as u64
    }

    /// Checks all laws.
    pub fn judge(&self) -> Verdict {
        let (durable::Missing { lost, given_up }, doubled) = (durable::check(self), doubled::check(self));
        let (stale, reads) = fresh::check(self);
        let others = [
            stale,
            order::check(self),
            contiguous::check(self),
            same_bytes::check(self),
            consumed::check(self),
            time::check(self),
            unbothered::check(self),
            ended::check(self),
        ];
        let injected =
            self.entries.iter().filter(|entry| matches!(entry.what, What::Fault { counts: true, .. }));
        Verdict {
            injected: injected.count() as u64,
            acknowledged: self.acks().count() as u64,
            lost: lost.len() as u64,
            given_up,
            doubled: doubled.len() as u64,
            reads,
            silence_ms: longest_silence(&self.entries).as_millis() as u64,
            breaches: lost.into_iter().chain(doubled).chain(others.into_iter().flatten()).collect(),
        }
    }
}

/// A publisher's name and an event's number, from its id.
fn parts(id: &str) -> Option<(&str, u64)> {
    let (publisher, number) = id.rsplit_once('/')?;
    Some((publisher, number.parse().ok()?))
}
