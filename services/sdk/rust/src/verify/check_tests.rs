//! The comparison on copies made up of frames.

use meridian_types::{Lane, Offset, Origin, Partition, RegionId, StreamId};

use super::{Copies, CopyStatus, ReadError, RegionStatus, Report, verify};
use crate::{LaneExtent, RangeDigest};

/// (first offset, events, content).
type Frame = (u64, u64, u8);

/// A region whose copies are lists of frames, with the name of each lane's origin.
#[derive(Clone)]
struct Fake {
    region: &'static str,
    lanes: Vec<(Lane, &'static str, Vec<Frame>)>,
    /// Offset of the frame that does not read back.
    damaged: Option<u64>,
    down: Option<ReadError>,
}

fn lane(region: u16, partition: u32) -> Lane {
    Lane { stream: StreamId(1), partition: Partition(partition), origin: Origin::first(RegionId(region)) }
}

/// `frames` frames of three events each.
fn frames(frames: u64) -> Vec<Frame> {
    (0..frames).map(|frame| (frame * 3, 3, frame as u8)).collect()
}

fn region(name: &'static str) -> Fake {
    let lanes = vec![(lane(1, 0), "us", frames(40)), (lane(2, 0), "eu", frames(20))];
    Fake { region: name, lanes, damaged: None, down: None }
}

impl Copies for Fake {
    fn region(&self) -> &str {
        self.region
    }

    async fn lanes(&self) -> Result<Vec<LaneExtent>, ReadError> {
        if let Some(error) = &self.down {
            return Err(error.clone());
        }
        let extent = |(lane, origin, frames): &(Lane, &str, Vec<Frame>)| LaneExtent {
            lane: *lane,
            origin: (*origin).to_owned(),
            start: Offset(frames.first().map_or(0, |frame| frame.0)),
            end: Offset(frames.last().map_or(0, |frame| frame.0 + frame.1)),
            bytes: 0,
        };
        Ok(self.lanes.iter().map(extent).collect())
    }

    async fn digest(&self, lane: Lane, start: Offset, end: Offset) -> Result<RangeDigest, ReadError> {
        // As a digest does: a fold that any difference in any frame changes.
        let mut digest = RangeDigest { blake3: [0; 32], events: 0, frames: 0, bytes: 0, damaged: None };
        let mut state = 7u64;
        let held = self.lanes.iter().find(|held| held.0 == lane).map_or(&[][..], |held| &held.2);
        for &(first, events, content) in held.iter().filter(|f| (start.0..end.0).contains(&f.0)) {
            if self.damaged == Some(first) {
                digest.damaged = Some((Offset(first), "crc".to_owned()));
                break;
            }
            for part in [first, events, u64::from(content)] {
                state = (state ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
            }
            digest.events += events;
            digest.frames += 1;
        }
        digest.blake3[..8].copy_from_slice(&state.to_le_bytes());
        Ok(digest)
    }
}

fn check(copies: &[Fake]) -> Report {
    futures::executor::block_on(verify("s", copies))
}

fn statuses(report: &Report, lane: usize) -> Vec<CopyStatus> {
    report.lanes[lane].copies.iter().map(|copy| copy.status.clone()).collect()
}

#[test]
fn equal_copies_agree() {
    let report = check(&[region("us"), region("eu"), region("ap")]);
    assert!(report.agree);
    assert_eq!((report.events, report.lanes.len()), (180, 2));
    let digests: Vec<_> = report.lanes[0].copies.iter().map(|copy| copy.digest.clone()).collect();
    assert!(digests[0].as_ref().is_some_and(|digest| digest.len() == 64));
    assert!(digests.iter().all(|digest| *digest == digests[0]));
}

#[test]
fn nothing_anywhere_agrees() {
    let empty = Fake { lanes: vec![], ..region("us") };
    let report = check(&[empty.clone(), Fake { region: "eu", ..empty }]);
    assert!(report.agree);
    assert_eq!(report.events, 0);
}

#[test]
fn a_shorter_copy_is_behind_and_no_more_than_that() {
    let mut eu = region("eu");
    eu.lanes[0].2.truncate(30);
    let report = check(&[region("us"), eu, region("ap")]);
    assert!(!report.agree);
    assert_eq!(statuses(&report, 0), [CopyStatus::Ok, CopyStatus::Behind { behind_by: 30 }, CopyStatus::Ok]);
    assert!(report.lanes[1].agree);
    assert_eq!(report.events, 90 + 60);
}

#[test]
fn a_lane_that_a_region_does_not_name_is_wholly_missing_there() {
    let mut eu = region("eu");
    eu.lanes.remove(0);
    let report = check(&[region("us"), eu]);
    assert_eq!(statuses(&report, 0), [CopyStatus::Ok, CopyStatus::Behind { behind_by: 120 }]);
}

#[test]
fn any_difference_is_found_at_its_frame() {
    for frame in 0..40 {
        let mut eu = region("eu");
        eu.lanes[0].2[frame].2 ^= 1;
        let report = check(&[eu, region("us"), region("ap")]);
        let differs = CopyStatus::Differs { differs_at: frame as u64 * 3, from: "us".to_owned() };
        assert_eq!(statuses(&report, 0), [differs, CopyStatus::Ok, CopyStatus::Ok]);
        assert!(!report.agree);
    }
}

#[test]
fn without_the_origin_the_larger_group_is_the_measure() {
    let mut eu = region("eu");
    eu.lanes[0].2[5].2 ^= 1;
    let us = Fake { down: Some(ReadError::Unreachable("refused".into())), ..region("us") };
    let report = check(&[us, eu, region("ap"), region("sa")]);
    let differs = CopyStatus::Differs { differs_at: 15, from: "ap".to_owned() };
    assert_eq!(statuses(&report, 0), [CopyStatus::Unreachable, differs, CopyStatus::Ok, CopyStatus::Ok]);
}

#[test]
fn a_region_that_does_not_answer_is_told_from_one_that_refuses() {
    let ap = Fake { down: Some(ReadError::Unreachable("timeout".into())), ..region("ap") };
    let eu = Fake { down: Some(ReadError::Refused("no such stream".into())), ..region("eu") };
    let report = check(&[region("us"), eu, ap]);
    assert!(!report.agree);
    assert_eq!(report.silent_regions(), 2);
    assert_eq!(report.regions[2].status, RegionStatus::Unreachable { error: "timeout".into() });
    assert!(matches!(
        &statuses(&report, 0)[..],
        [CopyStatus::Ok, CopyStatus::Refused { .. }, CopyStatus::Unreachable]
    ));
}

#[test]
fn damage_is_told_from_difference() {
    let ap = Fake { damaged: Some(33), ..region("ap") };
    let report = check(&[region("us"), region("eu"), ap]);
    assert!(!report.agree);
    let damaged = CopyStatus::Damaged { damaged_at: Some(33), damage: "crc".into() };
    assert_eq!(statuses(&report, 0), [CopyStatus::Ok, CopyStatus::Ok, damaged]);
}

#[test]
fn a_copy_that_reads_back_fewer_events_than_it_claims_is_damaged() {
    let copies: Vec<Fake> = ["us", "eu"]
        .into_iter()
        .map(|name| {
            let mut copy = region(name);
            // The same frame is missing everywhere: digests agree, the proof must not.
            copy.lanes[0].2.remove(10);
            copy
        })
        .collect();
    let report = check(&copies);
    assert!(!report.agree);
    assert!(matches!(statuses(&report, 0)[0], CopyStatus::Damaged { damaged_at: None, .. }));
}

#[test]
fn another_history_that_is_longer_and_framed_otherwise_differs_and_is_not_damaged() {
    // Alike up to 60, then frames of seven: one of them lies across the end of what the others hold.
    let mut us = region("us");
    us.lanes[0].2.truncate(20);
    us.lanes[0].2.extend((0..20).map(|frame| (60 + frame * 7, 7, 99)));
    let report = check(&[us, region("eu"), region("ap")]);
    let differs = CopyStatus::Differs { differs_at: 60, from: "us".to_owned() };
    assert_eq!(statuses(&report, 0), [CopyStatus::Ok, differs.clone(), differs]);
}

#[test]
fn only_what_all_hold_is_compared() {
    let mut us = region("us");
    us.lanes[0].2.drain(..4);
    let report = check(&[us, region("eu")]);
    assert!(report.agree, "retention may have begun in one region first: {report:?}");
    assert_eq!(report.events, 120 - 12 + 60);
}

#[test]
fn the_report_is_the_json_that_was_promised() {
    let mut eu = region("eu");
    eu.lanes[0].2.truncate(39);
    let report = check(&[region("us"), eu]);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["agree"], false);
    assert_eq!(json["events"], 117 + 60);
    let lane = &json["lanes"][0];
    assert_eq!(
        (&lane["stream"], &lane["partition"], &lane["origin"]),
        (&"s".into(), &0.into(), &"us".into())
    );
    let copy = &lane["copies"][1];
    assert_eq!((&copy["region"], &copy["start"], &copy["end"]), (&"eu".into(), &0.into(), &117.into()));
    assert_eq!((&copy["status"], &copy["behind_by"]), (&"behind".into(), &3.into()));
    assert!(copy["digest"].is_string());
}
