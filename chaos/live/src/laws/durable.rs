//! Durable ack, and mirrored: what was acknowledged is at its offset, in every region.

use std::collections::HashSet;

use super::Evidence;

/// An event, its lane and its offset.
type Place<'a> = (&'a str, &'a str, u64);

/// Acknowledged events that are not where they were acknowledged.
#[derive(Debug, Default)]
pub(super) struct Missing {
    /// In words.
    pub lost: Vec<String>,
    /// Those that went with disks that were given up.
    pub given_up: u64,
}

pub(super) fn check(evidence: &Evidence) -> Missing {
    let mut found = Missing::default();
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
        let (id, lane, offset) = ack;
        if missing.len() == places.len() && evidence.is_given_up(lane, offset) {
            found.given_up += 1;
        } else if !missing.is_empty() {
            found
                .lost
                .push(format!("lost: {id}, acknowledged at {offset} of {lane}, is not there in {missing:?}"));
        }
    }
    found
}
