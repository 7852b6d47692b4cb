//! Same bytes: every region holds the same of every lane, on its disk and to its readers.

use meridian_sdk::verify::RegionStatus;

use super::Evidence;

pub(super) fn check(evidence: &Evidence) -> Vec<String> {
    let (finals, report) = (&evidence.finals, &evidence.finals.report);
    let mut breaches = Vec::new();
    for region in report.regions.iter().filter(|region| region.status != RegionStatus::Answered) {
        breaches.push(format!("bytes: {} does not say what it holds: {:?}", region.region, region.status));
    }
    for lane in report.disagreeing() {
        breaches.push(format!(
            "bytes: partition {} of {} is not alike: {:?}",
            lane.partition, lane.origin, lane.copies
        ));
    }
    let mut regions = finals.regions.iter();
    if let Some((first, wanted)) = regions.next() {
        for (region, lanes) in regions.filter(|(_, lanes)| *lanes != wanted) {
            let count = |lanes: &std::collections::BTreeMap<String, Vec<_>>| {
                lanes.values().map(Vec::len).sum::<usize>()
            };
            breaches.push(format!(
                "bytes: {region} gives other events ({}) than {first} ({})",
                count(lanes),
                count(wanted)
            ));
        }
    }
    breaches
}
