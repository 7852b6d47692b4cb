//! One row, from an empty stream to copies that agree.

use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::error::BenchError;
use crate::latency::Quantiles;
use crate::load::{Published, Ready};
use crate::pace::Clock;
use crate::plan::{Row, Spans};
use crate::reader::{self, Read};
use crate::usage::{Snapshot, Usage};
use crate::world::{PATIENCE, World};

/// A sender that is later than this, once in a hundred, offered another load than the row says.
const LATE_P99_MICROS: u64 = 5_000;
/// And so did one that took longer for it by more than this.
const LEAST_HELD: f64 = 0.99;

/// What a row came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Which.
    pub row: Row,
    /// Acknowledged, the warm-up included; `verify` found so many in each region.
    pub total: u64,
    /// Acknowledged a second, within the counted span.
    pub rate: f64,
    /// From when an event was due (closed loop: sent) to its acknowledgement.
    pub ack: Quantiles,
    /// From when an event was due to when the other region's reader had it.
    pub lag: Option<Quantiles>,
    /// How much after the last acknowledgement that reader had everything.
    pub drained: Option<Duration>,
    /// How late the sender was, in an open loop.
    pub late: Option<Quantiles>,
    /// The rate at which it sent, as a part of the one it should hold.
    pub held: Option<f64>,
    /// What it took, from the first event to the last one read.
    pub usage: Usage,
}

impl Outcome {
    fn new(
        row: Row,
        spans: &Spans,
        published: &Published,
        read: Option<&Read>,
        usage: Usage,
    ) -> Result<Self, BenchError> {
        let nothing = || BenchError::wrong(format!("{}: nothing was counted", row.name()));
        let held = row.load.rate().map(|rate| {
            let least = published.total.saturating_sub(1) as f64 / rate as f64;
            (least / published.last_sent.as_secs_f64().max(least)).min(1.0)
        });
        Ok(Self {
            row,
            total: published.total,
            rate: published.counted as f64 / spans.counted.as_secs_f64(),
            ack: published.ack.quantiles().ok_or_else(nothing)?,
            lag: read.map(|read| read.lag.quantiles().ok_or_else(nothing)).transpose()?,
            drained: read.map(|read| read.last.saturating_sub(published.last_ack)),
            late: published.late.quantiles(),
            held,
            usage,
        })
    }

    /// Why this is no figure of the load it names, if so.
    pub fn invalid(&self) -> Option<String> {
        let held = self.held?;
        if held < LEAST_HELD {
            return Some(format!("sent at {:.0} % of the rate", held * 100.0));
        }
        let late = self.late.filter(|late| late.p99 > LATE_P99_MICROS)?;
        Some(format!("sender late by {:.0} ms at p99", late.p99 as f64 / 1000.0))
    }

    /// CPU seconds of all nodes for a million events.
    pub fn cpu_per_million(&self) -> f64 {
        let cpu: f64 = self.usage.nodes.iter().map(|(_, seconds)| seconds).sum();
        cpu / self.total.max(1) as f64 * 1e6
    }
}

/// Measures a row.
pub async fn measure(world: &World, row: Row, spans: Spans) -> Result<Outcome, BenchError> {
    let stream = row.name();
    world.create(&stream).await?;
    let (start, started) = watch::channel(None);
    let (publish, published_all) = watch::channel(None);
    let reading = match world.second() {
        Some(region) => {
            let (tell, ready) = oneshot::channel();
            let client = region.client.clone();
            let mut task =
                tokio::spawn(reader::read(client, stream.clone(), spans.warm, tell, started, published_all));
            tokio::select! {
                Ok(()) = ready => {}
                // Only an error ends it before it is ready.
                ended = &mut task => { ended??; }
            }
            Some(task)
        }
        None => None,
    };
    let ready = Ready::new(world.first(), &stream, row.load, spans).await?;
    let nodes = world.nodes();
    let before = Snapshot::take(&nodes)?;
    let clock = Clock::start();
    let _ = start.send(Some(clock));
    let published = ready.run(clock).await?;
    let _ = publish.send(Some(published.total));
    let read = match reading {
        Some(task) => {
            let read = timeout(PATIENCE, task).await;
            Some(read.map_err(|_| BenchError::wrong(format!("{stream} was not read to its end in time")))???)
        }
        None => None,
    };
    let usage = before.usage(&nodes)?;
    world.verify(&stream, published.total).await?;
    Outcome::new(row, &spans, &published, read.as_ref(), usage)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::plan::{Load, World};

    /// A row as it may come out.
    pub fn outcome(world: World, load: Load) -> Outcome {
        let times = |p50| Quantiles { p50, p99: 2 * p50, max: 3 * p50 };
        Outcome {
            row: Row { world, load },
            total: 12_000,
            rate: 1000.0,
            ack: times(2_000),
            lag: (world != World::Alone).then(|| times(45_000)),
            drained: (world != World::Alone).then(|| Duration::from_millis(1500)),
            late: load.rate().map(|_| times(100)),
            held: load.rate().map(|_| 1.0),
            usage: Usage {
                nodes: vec![("us-1".to_owned(), 1.5), ("eu-2".to_owned(), 0.5)],
                peak_rss: vec![100 << 20, 90 << 20],
                own: 1.0,
                others: 0.1,
                stolen: 0.0,
                took: Duration::from_secs(12),
            },
        }
    }

    #[test]
    fn a_sender_that_is_late_offered_another_load() {
        let mut late = outcome(World::Two, Load::SdkRate(1000));
        assert_eq!(late.invalid(), None);
        late.held = Some(0.9);
        assert_eq!(late.invalid().as_deref(), Some("sent at 90 % of the rate"));
        late.held = Some(1.0);
        late.late = Some(Quantiles { p50: 10, p99: 7_000, max: 8_000 });
        assert_eq!(late.invalid().as_deref(), Some("sender late by 7 ms at p99"));
        assert_eq!(outcome(World::Two, Load::SdkMax).invalid(), None);
    }

    #[test]
    fn a_rate_is_held_if_the_last_event_is_sent_when_due() {
        let (row, spans) = (Row { world: World::Two, load: Load::SdkRate(100) }, Spans::FULL);
        let of = |last_sent| {
            let mut published = blank(1201);
            published.last_sent = Duration::from_secs(last_sent);
            Outcome::new(row, &spans, &published, None, Usage::default()).unwrap().held.unwrap()
        };
        assert!((of(12) - 1.0).abs() < 1e-9 && (of(24) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn cpu_is_for_a_million_events() {
        let cpu = outcome(World::Two, Load::SdkMax).cpu_per_million();
        assert!((cpu - 2.0 / 0.012).abs() < 1e-9, "{cpu}");
    }

    fn blank(total: u64) -> Published {
        let mut ack = crate::latency::Latencies::new();
        ack.record(Duration::from_millis(1));
        let late = ack.clone();
        let zero = Duration::ZERO;
        Published { total, counted: 1, ack, last_ack: zero, late, last_sent: zero }
    }
}
