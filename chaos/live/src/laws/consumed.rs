//! What a consumer was given stands: each lane from its start without hole or twin, and the same events as in the end.

use std::collections::BTreeMap;

use super::Evidence;
use crate::record::What;

pub(super) fn check(evidence: &Evidence) -> Vec<String> {
    let mut breaches = Vec::new();
    let mut next: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for entry in &evidence.entries {
        match &entry.what {
            What::Seen { consumer, lane, offset, id } => {
                let wanted = next.entry((consumer, lane)).or_default();
                if offset != wanted {
                    breaches.push(format!(
                        "consumer {consumer} was given {offset} of {lane} where {wanted} should come"
                    ));
                }
                *wanted = offset + 1;
                if evidence.was_given_up_in(consumer, lane, *offset) {
                    continue;
                }
                for (region, lanes) in &evidence.finals.regions {
                    let rows = lanes.get(lane).map_or(&[][..], Vec::as_slice);
                    if rows.get(*offset as usize).is_none_or(|row| row.id != *id) {
                        breaches.push(format!(
                            "consumer {consumer} was given {id} at {offset} of {lane}, and {region} does not hold it there"
                        ));
                    }
                }
            }
            What::Missing { consumer, reason } => breaches.push(format!("consumer {consumer}: {reason}")),
            _ => {}
        }
    }
    breaches
}
