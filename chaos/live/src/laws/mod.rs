//! The laws, one a file, each over what was recorded and what the lanes hold in the end.
//!
//! Flows in: [`Evidence`]. Flows out: breaches in words; none: the law held. Must never wait, ask or guess: the same
//! evidence gives the same answer.

mod consumed;
mod contiguous;
mod doubled;
mod durable;
mod order;
mod same_bytes;
mod silence;
mod time;
mod unbothered;

#[cfg(test)]
mod tests;

use crate::record::{Entry, Finals, What};

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
    /// Events that are stored more than once.
    pub doubled: u64,
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

    /// Checks all laws.
    pub fn judge(&self) -> Verdict {
        let (lost, doubled) = (durable::check(self), doubled::check(self));
        let others = [
            order::check(self),
            contiguous::check(self),
            same_bytes::check(self),
            consumed::check(self),
            time::check(self),
            unbothered::check(self),
        ];
        let injected =
            self.entries.iter().filter(|entry| matches!(entry.what, What::Fault { counts: true, .. }));
        Verdict {
            injected: injected.count() as u64,
            acknowledged: self.acks().count() as u64,
            lost: lost.len() as u64,
            doubled: doubled.len() as u64,
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
