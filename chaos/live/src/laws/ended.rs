//! An incarnation that ended has one history: what anybody who was left held of it stands, and nothing is added to it.

use super::{Evidence, GivenUp};
use crate::record::What;

pub(super) fn check(evidence: &Evidence) -> Vec<String> {
    evidence.given_up.iter().flat_map(|gone| check_one(evidence, gone)).collect()
}

fn check_one(evidence: &Evidence, gone: &GivenUp) -> Vec<String> {
    let mut breaches = Vec::new();
    for (region, lanes) in &evidence.finals.regions {
        for (lane, held) in &gone.held {
            if !lanes.get(lane).is_some_and(|rows| rows.starts_with(held)) {
                breaches.push(format!(
                    "ended: {region} does not hold what was left of {lane} when {} ended, {} events",
                    gone.origin,
                    held.len()
                ));
            }
        }
    }
    for entry in &evidence.entries {
        let What::Ack { id, lane, offset, duplicate, .. } = &entry.what else { continue };
        // A retry of what was stored before is told where that is.
        if entry.at > gone.at && !duplicate && gone.is_of(lane) {
            breaches.push(format!(
                "ended: {id} was acknowledged at {offset} of {lane}, {:.1} s after that was over",
                (entry.at - gone.at) as f64 / 1e6
            ));
        }
    }
    breaches
}
