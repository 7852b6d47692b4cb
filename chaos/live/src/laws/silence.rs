//! How long a publisher went without an acknowledgement while it was waiting for one. Measured, not judged.

use std::collections::BTreeMap;
use std::time::Duration;

use super::parts;
use crate::record::{Entry, What};

/// The longest time, over all publishers, between two acknowledgements (or from the oldest unanswered call to the next
/// acknowledgement) while at least one call had no answer.
pub fn longest_silence(entries: &[Entry]) -> Duration {
    let mut longest = 0;
    // By publisher: calls without an answer, and since when nothing came.
    let mut waiting: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for Entry { at, what } in entries {
        let (id, answered) = match what {
            What::Call { id, .. } => (id, false),
            What::Ack { id, .. } | What::Error { id, .. } => (id, true),
            _ => continue,
        };
        let Some((publisher, _)) = parts(id) else { continue };
        let (open, since) = waiting.entry(publisher).or_insert((0, *at));
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
