//! No hole: a lane's offsets are 0, 1, 2, …

use super::Evidence;

pub(super) fn check(evidence: &Evidence) -> Vec<String> {
    let mut breaches = Vec::new();
    for (region, lanes) in &evidence.finals.regions {
        for (lane, rows) in lanes {
            let hole = rows.iter().zip(0..).find(|(row, wanted)| row.offset != *wanted);
            if let Some((row, wanted)) = hole {
                breaches.push(format!(
                    "hole: {lane} in {region} goes on at {} where {wanted} should come",
                    row.offset
                ));
            }
        }
    }
    breaches
}
