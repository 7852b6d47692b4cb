//! A linearizable read misses nothing: what was acknowledged in a region before one of its nodes was asked is before the end
//! that it tells.

use std::collections::BTreeMap;

use super::Evidence;
use crate::record::What;

/// Ends of lanes.
type Ends = BTreeMap<String, u64>;

/// Breaches, and how many answers were looked at.
pub(super) fn check(evidence: &Evidence) -> (Vec<String>, u64) {
    let (mut breaches, mut answers) = (Vec::new(), 0);
    let mut acked = Ends::new();
    // By node: what was acknowledged when it was asked.
    let mut asked: BTreeMap<&str, Ends> = BTreeMap::new();
    for entry in &evidence.entries {
        match &entry.what {
            What::Ack { lane, offset, .. } if !evidence.is_given_up(lane, *offset) => {
                let end = acked.entry(lane.clone()).or_default();
                *end = (*end).max(offset + 1);
            }
            What::Asked { node } => drop(asked.insert(node, acked.clone())),
            What::Told { node, region, ends } => {
                answers += 1;
                let of_region = format!("@r{region}.");
                let before = asked.remove(node.as_str()).unwrap_or_default();
                for (lane, end) in before.iter().filter(|(lane, _)| lane.contains(&of_region)) {
                    let told = ends.get(lane).copied().unwrap_or_default();
                    if told < *end {
                        breaches.push(format!(
                            "stale: {node} said at {:.3} s that {lane} ends at {told}, and {} was acknowledged before it was asked",
                            entry.at as f64 / 1e6,
                            end - 1
                        ));
                    }
                }
            }
            _ => {}
        }
    }
    (breaches, answers)
}
