//! The comparison. Pure but for the two questions that it asks each copy.

use std::collections::{BTreeMap, HashMap};

use futures::future::join_all;
use futures::stream::{self, StreamExt as _};
use meridian_types::{Lane, Offset, Origin, Partition};

use super::report::{CopyReport, CopyStatus, LaneReport, RegionReport, RegionStatus, Report};
use super::{Copies, ReadError};
use crate::LaneExtent;

/// Lanes that are read at once, so that several disks are busy and none is swamped.
const LANES_AT_ONCE: usize = 4;

/// A lane and who holds what of it: one entry a region, none where the region could not be asked.
struct Found {
    lane: Lane,
    origin: String,
    extents: Vec<Option<Extent>>,
}

#[derive(Clone, Copy)]
struct Extent {
    start: Offset,
    end: Offset,
}

/// What a copy's range came to.
enum Reading {
    Digest([u8; 32]),
    Damaged { at: Option<Offset>, damage: String, digest: Option<[u8; 32]> },
    Failed(ReadError),
    NotAsked,
}

/// Asks every copy what it holds of the stream, and compares lane by lane over the range that all hold.
pub async fn verify<C: Copies>(stream: &str, copies: &[C]) -> Report {
    let answers = join_all(copies.iter().map(Copies::lanes)).await;
    let regions: Vec<RegionReport> = copies
        .iter()
        .zip(&answers)
        .map(|(copy, answer)| RegionReport {
            region: copy.region().to_owned(),
            status: match answer {
                Ok(_) => RegionStatus::Answered,
                Err(ReadError::Unreachable(error)) => RegionStatus::Unreachable { error: error.clone() },
                Err(error) => RegionStatus::Refused { error: error.to_string() },
            },
        })
        .collect();
    let found = gather(&answers);
    let checked: Vec<(LaneReport, u64)> = stream::iter(found)
        .map(|found| check_lane(stream, copies, &regions, found))
        .buffered(LANES_AT_ONCE)
        .collect()
        .await;
    let events = checked.iter().map(|(_, events)| events).sum();
    let lanes: Vec<LaneReport> = checked.into_iter().map(|(lane, _)| lane).collect();
    let all_answered = regions.iter().all(|region| region.status == RegionStatus::Answered);
    let agree = all_answered && lanes.iter().all(|lane| lane.agree);
    Report { agree, events, stream: stream.to_owned(), regions, lanes }
}

/// Every lane that anyone holds. A region that answered without naming it holds nothing of it.
fn gather(answers: &[Result<Vec<LaneExtent>, ReadError>]) -> Vec<Found> {
    let nothing = Extent { start: Offset::ZERO, end: Offset::ZERO };
    let unnamed: Vec<Option<Extent>> = answers.iter().map(|a| a.as_ref().ok().map(|_| nothing)).collect();
    let mut lanes: BTreeMap<(Partition, Origin), Found> = BTreeMap::new();
    for (region, extents) in answers.iter().enumerate() {
        for extent in extents.as_ref().map_or(&[][..], Vec::as_slice) {
            let found = lanes.entry((extent.lane.partition, extent.lane.origin)).or_insert_with(|| Found {
                lane: extent.lane,
                origin: extent.origin.clone(),
                extents: unnamed.clone(),
            });
            found.extents[region] = Some(Extent { start: extent.start, end: extent.end });
        }
    }
    lanes.into_values().collect()
}

async fn check_lane<C: Copies>(
    stream: &str,
    copies: &[C],
    regions: &[RegionReport],
    found: Found,
) -> (LaneReport, u64) {
    let held = || found.extents.iter().flatten();
    let start = held().map(|extent| extent.start).max().unwrap_or_default();
    let longest = held().map(|extent| extent.end).max().unwrap_or_default();
    // Where starts and ends do not overlap, nothing is common: the range is empty.
    let end = held().map(|extent| extent.end).min().unwrap_or_default().max(start);

    let readings = join_all(copies.iter().zip(&found.extents).map(|(copy, extent)| async move {
        match extent {
            Some(_) => read(copy, found.lane, start, end).await,
            None => Reading::NotAsked,
        }
    }))
    .await;

    let reference = reference(copies, &readings, &found.origin);
    let mut reports = Vec::with_capacity(copies.len());
    for (index, reading) in readings.iter().enumerate() {
        let extent = found.extents[index];
        let lacks = extent.map_or(0, |extent| longest.0 - extent.end.0);
        let (digest, status) = match reading {
            Reading::Digest(digest) => {
                let status = match reference {
                    Some((other, wanted)) if wanted != *digest => CopyStatus::Differs {
                        differs_at: first_difference(&copies[index], &copies[other], found.lane, start, end)
                            .await
                            .0,
                        from: copies[other].region().to_owned(),
                    },
                    _ if lacks > 0 => CopyStatus::Behind { behind_by: lacks },
                    _ => CopyStatus::Ok,
                };
                (Some(*digest), status)
            }
            Reading::Damaged { at, damage, digest } => {
                let damaged_at = at.map(|at| at.0);
                (*digest, CopyStatus::Damaged { damaged_at, damage: damage.clone() })
            }
            Reading::Failed(ReadError::Unreachable(_)) => (None, CopyStatus::Unreachable),
            Reading::Failed(error) => (None, CopyStatus::Refused { error: error.to_string() }),
            Reading::NotAsked => (None, not_asked(&regions[index].status)),
        };
        reports.push(CopyReport {
            region: copies[index].region().to_owned(),
            start: extent.map(|extent| extent.start.0),
            end: extent.map(|extent| extent.end.0),
            digest: digest.map(hex),
            status,
        });
    }
    let agree = reports.iter().all(|copy| copy.status == CopyStatus::Ok);
    let report = LaneReport {
        stream: stream.to_owned(),
        partition: found.lane.partition.0,
        origin: found.origin,
        incarnation: found.lane.origin.incarnation.0,
        agree,
        copies: reports,
    };
    (report, end.0 - start.0)
}

fn not_asked(region: &RegionStatus) -> CopyStatus {
    match region {
        RegionStatus::Refused { error } => CopyStatus::Refused { error: error.clone() },
        RegionStatus::Unreachable { .. } | RegionStatus::Answered => CopyStatus::Unreachable,
    }
}

async fn read<C: Copies>(copy: &C, lane: Lane, start: Offset, end: Offset) -> Reading {
    match copy.digest(lane, start, end).await {
        Ok(digest) => match digest.damaged {
            Some((at, damage)) => Reading::Damaged { at: Some(at), damage, digest: Some(digest.blake3) },
            // A copy has an event at each offset that it says it holds. It may read back more, where its last frame
            // goes on past the end: that of the shortest copy, which is then framed otherwise. That is a difference.
            None if digest.events < end.0 - start.0 => Reading::Damaged {
                at: None,
                damage: format!(
                    "{} events read back from offsets {start} to {end}, where {} should be",
                    digest.events,
                    end.0 - start.0
                ),
                digest: Some(digest.blake3),
            },
            None => Reading::Digest(digest.blake3),
        },
        Err(ReadError::Damaged(damage)) => Reading::Damaged { at: None, damage, digest: None },
        Err(error) => Reading::Failed(error),
    }
}

/// Which copy the others are measured by: the origin's own, or one of the largest group that is alike.
fn reference<C: Copies>(copies: &[C], readings: &[Reading], origin: &str) -> Option<(usize, [u8; 32])> {
    let digests = || {
        readings.iter().enumerate().filter_map(|(index, reading)| match reading {
            Reading::Digest(digest) => Some((index, *digest)),
            _ => None,
        })
    };
    if let Some(own) = digests().find(|(index, _)| copies[*index].region() == origin) {
        return Some(own);
    }
    let mut alike: HashMap<[u8; 32], usize> = HashMap::new();
    digests().for_each(|(_, digest)| *alike.entry(digest).or_default() += 1);
    let most = alike.values().copied().max()?;
    digests().find(|(_, digest)| alike[digest] == most)
}

/// The first offset of the first frame in `[start, end)` that two copies, whose digests differ there, do not share:
/// halving the range until one offset is left. Each copy reads its range about twice. Where a copy stops answering,
/// the answer is the start of what is left.
async fn first_difference<C: Copies>(a: &C, b: &C, lane: Lane, start: Offset, end: Offset) -> Offset {
    let (mut low, mut high) = (start.0, end.0);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        let (left, right) = futures::join!(
            a.digest(lane, Offset(low), Offset(middle)),
            b.digest(lane, Offset(low), Offset(middle))
        );
        match (left, right) {
            (Ok(left), Ok(right)) if left.blake3 == right.blake3 => low = middle,
            (Ok(_), Ok(_)) => high = middle,
            _ => break,
        }
    }
    Offset(low)
}

fn hex(digest: [u8; 32]) -> String {
    use std::fmt::Write as _;
    digest.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
