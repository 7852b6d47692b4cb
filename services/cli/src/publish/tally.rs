//! What was acknowledged.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use meridian_sdk::{Ack, Delivery, PublishError, Stored};
use meridian_types::{Lane, Offset};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{Notify, mpsc};

use crate::human;

/// An event under way.
pub struct Counted {
    /// Its line, from 1.
    pub line: u64,
    /// Its size.
    pub bytes: u64,
    /// What will become of it.
    pub delivery: Delivery,
}

/// Counts what becomes of events, in the order in which they were sent, until no more come.
pub async fn count(mut deliveries: mpsc::UnboundedReceiver<Counted>, tally: Arc<Mutex<Tally>>) {
    while let Some(Counted { line, bytes, delivery }) = deliveries.recv().await {
        let result = delivery.await;
        tally.lock().add(line, bytes, result);
    }
}

/// What was acknowledged so far.
pub struct Tally {
    acknowledged: u64,
    bytes: u64,
    duplicates: u64,
    /// Not acknowledged, and not in the log.
    missing: u64,
    /// Not acknowledged; they may be in the log.
    unknown: u64,
    /// Every line up to this one is acknowledged.
    through: u64,
    first_failure: Option<(u64, PublishError)>,
    failed: Arc<Notify>,
    latency: Histogram<u64>,
    lanes: BTreeMap<Lane, LaneTally>,
}

#[derive(Clone, Copy)]
struct LaneTally {
    first: Offset,
    last: Offset,
    events: u64,
}

impl Tally {
    pub fn new() -> Self {
        Self {
            acknowledged: 0,
            bytes: 0,
            duplicates: 0,
            missing: 0,
            unknown: 0,
            through: 0,
            first_failure: None,
            failed: Arc::new(Notify::new()),
            latency: histogram(),
            lanes: BTreeMap::new(),
        }
    }

    fn add(&mut self, line: u64, bytes: u64, result: Result<Ack, PublishError>) {
        let ack = match result {
            Ok(ack) => ack,
            Err(error) => {
                match error.stored() {
                    Stored::No => self.missing += 1,
                    Stored::Unknown => self.unknown += 1,
                }
                self.first_failure.get_or_insert((line, error));
                self.failed.notify_one();
                return;
            }
        };
        self.acknowledged += 1;
        self.bytes += bytes;
        self.duplicates += u64::from(ack.duplicate);
        if self.first_failure.is_none() {
            self.through = line;
        }
        let micros = u64::try_from(ack.latency.as_micros()).unwrap_or(LONGEST);
        self.latency.saturating_record(micros);
        let lane = self.lanes.entry(ack.lane).or_insert(LaneTally {
            first: ack.offset,
            last: ack.offset,
            events: 0,
        });
        lane.first = lane.first.min(ack.offset);
        lane.last = lane.last.max(ack.offset);
        lane.events += 1;
    }

    /// Rings when something failed for good.
    pub fn failed(&self) -> Arc<Notify> {
        Arc::clone(&self.failed)
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub fn first_failure(&self) -> Option<&(u64, PublishError)> {
        self.first_failure.as_ref()
    }

    /// What holds, whatever went wrong.
    pub fn so_far(&self) -> String {
        let mut text = format!("{} acknowledged", human::events(self.acknowledged));
        if self.through > 0 {
            text += &format!(", every one up to line {}", self.through);
        }
        if self.unknown > 0 {
            text += &format!("; {} sent without an answer, which may be stored", human::events(self.unknown));
        }
        if self.missing > 0 {
            text += &format!("; {} not published", human::events(self.missing));
        }
        text
    }

    pub fn summary(&self, stream: &str, took: Duration) -> Summary {
        let micros = |quantile| self.latency.value_at_quantile(quantile) as f64 / 1000.0;
        let seconds = took.as_secs_f64();
        Summary {
            stream: stream.to_owned(),
            events: self.acknowledged,
            bytes: self.bytes,
            duplicates: self.duplicates,
            not_published: self.missing,
            unanswered: self.unknown,
            through_line: self.through,
            seconds,
            events_per_second: self.acknowledged as f64 / seconds.max(0.001),
            ack_ms: (self.acknowledged > 0).then(|| Latency {
                p50: micros(0.5),
                p99: micros(0.99),
                max: self.latency.max() as f64 / 1000.0,
            }),
            lanes: self
                .lanes
                .iter()
                .map(|(lane, tally)| LaneSummary {
                    partition: lane.partition.0,
                    region: lane.origin.region.0,
                    first: tally.first.0,
                    last: tally.last.0,
                    events: tally.events,
                })
                .collect(),
        }
    }
}

/// An hour, in microseconds: what takes longer counts as this.
const LONGEST: u64 = 3_600_000_000;

/// Three digits, from a microsecond to the longest.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LONGEST, 3)
        .unwrap_or_else(|_| unreachable!("three significant digits are allowed"))
}

/// What a run came to.
#[derive(Debug, Serialize)]
pub struct Summary {
    stream: String,
    /// Acknowledged.
    events: u64,
    bytes: u64,
    /// Acknowledged by an earlier try whose answer was lost.
    duplicates: u64,
    not_published: u64,
    unanswered: u64,
    through_line: u64,
    seconds: f64,
    events_per_second: f64,
    ack_ms: Option<Latency>,
    lanes: Vec<LaneSummary>,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct LaneSummary {
    partition: u32,
    region: u16,
    first: u64,
    last: u64,
    events: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "published {} ({}) to {} in {}, {} a second",
            human::events(self.events),
            human::bytes(self.bytes),
            self.stream,
            human::time(Duration::from_secs_f64(self.seconds)),
            human::count(self.events_per_second as u64),
        )?;
        if let Some(ack) = &self.ack_ms {
            let time = |ms: f64| human::time(Duration::from_secs_f64(ms / 1000.0));
            write!(f, "; ack p50 {}, p99 {}, max {}", time(ack.p50), time(ack.p99), time(ack.max))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use meridian_types::{Hlc, Origin, Partition, RegionId, StreamId};

    use super::*;

    fn ack(offset: u64, millis: u64) -> Result<Ack, PublishError> {
        let origin = Origin::first(RegionId(1));
        Ok(Ack {
            lane: Lane { stream: StreamId(1), partition: Partition(0), origin },
            offset: Offset(offset),
            hlc: Hlc::ZERO,
            regions: Arc::new([]),
            duplicate: offset == 2,
            latency: Duration::from_millis(millis),
        })
    }

    #[test]
    fn tells_what_is_acknowledged_from_what_may_be() {
        let mut tally = Tally::new();
        tally.add(1, 10, ack(0, 1));
        tally.add(3, 10, ack(1, 2));
        tally.add(4, 10, Err(PublishError::Closed));
        tally.add(5, 10, ack(2, 50));
        let bad = PublishError::NoSuchPartition { partition: Partition(9), partitions: 4 };
        tally.add(6, 10, Err(bad));
        assert_eq!(
            tally.so_far(),
            "3 events acknowledged, every one up to line 3; 1 event sent without an answer, which may be stored; \
             1 event not published"
        );
        assert_eq!(tally.first_failure(), Some(&(4, PublishError::Closed)));
        let summary = tally.summary("s", Duration::from_secs(1));
        assert_eq!((summary.events, summary.bytes, summary.duplicates), (3, 30, 1));
        assert_eq!((summary.lanes[0].first, summary.lanes[0].last, summary.lanes[0].events), (0, 2, 3));
        let ack = summary.ack_ms.unwrap();
        assert!((ack.p50 - 2.0).abs() < 0.01 && (ack.max - 50.0).abs() < 0.1, "{ack:?}");
    }
}
