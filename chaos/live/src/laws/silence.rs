//! How long a publisher's lane went without an acknowledgement while it was waiting for one. Measured, not judged.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::parts;
use crate::record::{Entry, What};

/// What the SDK's publishers are called. The others ask what the SDK does not, and wait where it would not.
const OF_THE_SDK: &str = "/0";

/// The longest time, over all lanes of all of the SDK's publishers, between two acknowledgements (or from the oldest
/// unanswered call to the next acknowledgement) while at least one call had no answer. A lane is its own measure: while
/// one leader is gone, others acknowledge what is theirs.
pub fn longest_silence(entries: &[Entry]) -> Duration {
    let lanes: HashMap<&str, &str> = entries
        .iter()
        .filter_map(|entry| match &entry.what {
            What::Ack { id, lane, .. } => Some((id.as_str(), lane.as_str())),
            _ => None,
        })
        .collect();
    let mut longest = 0;
    // By publisher and lane: calls without an answer, and since when nothing came.
    let mut waiting: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
    for Entry { at, what } in entries {
        let (id, answered) = match what {
            What::Call { id, .. } => (id, false),
            What::Ack { id, .. } | What::Error { id, .. } => (id, true),
            _ => continue,
        };
        let publisher = parts(id).map(|(publisher, _)| publisher).filter(|name| name.ends_with(OF_THE_SDK));
        let Some(publisher) = publisher else { continue };
        // What was never acknowledged counts for itself.
        let lane = lanes.get(id.as_str()).copied().unwrap_or_default();
        let (open, since) = waiting.entry((publisher, lane)).or_insert((0, *at));
        if answered {
            longest = longest.max(at - *since);
            *open = open.saturating_sub(1);
            *since = *at;
        } else {
            if *open == 0 {
                *since = *at;
            }
            *open += 1;
        }
    }
    Duration::from_micros(longest)
}

/// The longest time, over all lanes that this publisher's events lie in, without an acknowledgement in the lane: of those
/// times that end after `since`, the one up to `now` among them. Means something for a publisher that always waits for
/// answers in all of its lanes.
pub fn longest_stall(entries: &[Entry], publisher: &str, since: Duration, now: Duration) -> Duration {
    let (since, now) = (since.as_micros() as u64, now.as_micros() as u64);
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    let mut longest = 0;
    for Entry { at, what } in entries {
        let What::Ack { id, lane, .. } = what else { continue };
        if parts(id).is_none_or(|(name, _)| name != publisher) {
            continue;
        }
        let before = last.insert(lane, *at);
        if let Some(before) = before.filter(|_| *at > since) {
            longest = longest.max(at - before);
        }
    }
    let open = last.values().map(|last| now.saturating_sub(*last)).max();
    Duration::from_micros(longest.max(open.unwrap_or_default()))
}
