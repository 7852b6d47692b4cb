//! No twin: an event is stored once, and only what was published is stored.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::Evidence;
use crate::record::What;

pub(super) fn check(evidence: &Evidence) -> Vec<String> {
    let called: HashSet<&str> = evidence
        .entries
        .iter()
        .filter_map(|entry| match &entry.what {
            What::Call { id, .. } => Some(id.as_str()),
            _ => None,
        })
        .collect();
    let mut breaches = BTreeSet::new();
    for lanes in evidence.finals.regions.values() {
        let mut first: BTreeMap<&str, (&str, u64)> = BTreeMap::new();
        for (lane, rows) in lanes {
            for row in rows {
                if let Some((other, offset)) = first.insert(&row.id, (lane, row.offset)) {
                    breaches.insert(format!(
                        "doubled: {} is at {offset} of {other} and at {} of {lane}",
                        row.id, row.offset
                    ));
                }
                if !called.contains(row.id.as_str()) {
                    breaches.insert(format!("{} at {} of {lane} was never published", row.id, row.offset));
                }
            }
        }
    }
    breaches.into_iter().collect()
}
