//! Durable ack, and mirrored: what was acknowledged is at its offset, in every region.

use std::collections::HashSet;

use super::Evidence;

/// An event, its lane and its offset.
type Place<'a> = (&'a str, &'a str, u64);

pub(super) fn check(evidence: &Evidence) -> Vec<String> {
    let mut breaches = Vec::new();
    let places: Vec<(&str, HashSet<Place<'_>>)> = evidence
        .finals
        .regions
        .iter()
        .map(|(region, lanes)| {
            let rows = lanes.iter().flat_map(|(lane, rows)| {
                rows.iter().map(move |row| (row.id.as_str(), lane.as_str(), row.offset))
            });
            (region.as_str(), rows.collect())
        })
        .collect();
    for ack in evidence.acks() {
        let missing: Vec<&str> =
            places.iter().filter(|(_, places)| !places.contains(&ack)).map(|(region, _)| *region).collect();
        if !missing.is_empty() {
            let (id, lane, offset) = ack;
            breaches
                .push(format!("lost: {id}, acknowledged at {offset} of {lane}, is not there in {missing:?}"));
        }
    }
    breaches
}
