//! Time goes forward: a lane's hybrid logical time never falls.

use super::Evidence;

pub(super) fn check(evidence: &Evidence) -> Vec<String> {
    let mut breaches = Vec::new();
    for (region, lanes) in &evidence.finals.regions {
        for (lane, rows) in lanes {
            let fall = rows.windows(2).find(|pair| pair[1].hlc < pair[0].hlc);
            if let Some([before, after]) = fall {
                breaches.push(format!(
                    "time: {lane} in {region} falls from {} at {} to {} at {}",
                    before.hlc, before.offset, after.hlc, after.offset
                ));
            }
        }
    }
    breaches
}
