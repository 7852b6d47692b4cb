//! Order: a publisher's events in one lane lie in the order of its calls, and so those of a key do too.

use std::collections::BTreeMap;

use super::{Evidence, parts};

pub(super) fn check(evidence: &Evidence) -> Vec<String> {
    let mut breaches = Vec::new();
    for (region, lanes) in &evidence.finals.regions {
        for (lane, rows) in lanes {
            let mut last: BTreeMap<&str, u64> = BTreeMap::new();
            for row in rows {
                let Some((publisher, number)) = parts(&row.id) else { continue };
                let before = last.insert(publisher, number);
                if let Some(before) = before.filter(|before| *before >= number) {
                    breaches.push(format!(
                        "order: {} at {} of {lane} in {region} after {before}",
                        row.id, row.offset
                    ));
                }
            }
        }
    }
    breaches
}
