//! One case, from servers that start to copies that agree.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::PATIENCE;
use crate::cluster::Cluster;
use crate::error::BenchError;
use crate::load;
use crate::plan::{Before, Case, Place, Publish, Shape, Spans, VALUE_BYTES, WINDOW, Work};
use crate::read::{self, Read};
use crate::record::Outcome;
use crate::site::Site;
use crate::tally::{Published, Tally};
use crate::tools::Tools;
use crate::usage::{Snapshot, Usage};
use crate::wan::Wan;

/// A sender that is later than this, once in a hundred, offered another load than the row says.
const LATE_P99_MICROS: u64 = 5_000;
/// And so did one that took longer for it by more than this.
const LEAST_HELD: f64 = 0.99;
/// The stream of the load that is measured.
const STREAM: &str = "measured";
/// The stream of what is there before.
const OTHER: &str = "before";
const LOOK: Duration = Duration::from_millis(5);
/// Servers that use no more than this part of a core for so long have nothing left to do.
const QUIET: Duration = Duration::from_secs(2);
const QUIET_PART: f64 = 0.05;

/// What measuring needs.
#[derive(Debug)]
pub struct Bench<'a> {
    /// The binaries.
    pub tools: &'a Tools,
    /// For how long.
    pub spans: Spans,
    /// A folder that is not there yet.
    pub dir: &'a Path,
}

impl Bench<'_> {
    /// Measures a case.
    ///
    /// # Errors
    /// What came is no figure, and why.
    pub async fn measure(&self, case: &Case) -> Result<Outcome, BenchError> {
        let outcome = match case.place {
            Place::Wan(line) => tokio::task::block_in_place(|| {
                let wan = Wan::make(line)?;
                wan.run(|| self.measure_at(case, &wan.sites))
            }),
            Place::Alone | Place::Trio | Place::Two => {
                self.measure_at(case, &crate::site::loopback(case.place)).await
            }
        };
        // What a failed case left.
        let _ = std::fs::remove_dir_all(self.dir);
        outcome
    }

    async fn measure_at(&self, case: &Case, sites: &[Site]) -> Result<Outcome, BenchError> {
        match case.work {
            Work::Append(bytes) => crate::files::append(self.dir, bytes, self.spans.counted).await,
            Work::ReadFile(bytes) => crate::files::read_once(self.dir, bytes).await,
            Work::CopyFile(bytes) => crate::files::copy(self.dir, bytes).await,
            Work::Recover(bytes) => crate::recovery::recover(self, bytes).await,
            Work::CatchUp(events) => {
                let cluster = self.start(case, sites).await?;
                let outcome = self.catch_up(&cluster, events).await?;
                cluster.end().await?;
                Ok(outcome)
            }
            Work::Publish(load) => {
                let cluster = self.start(case, sites).await?;
                self.prepare(&cluster, load.before).await?;
                let outcome = self.publish(&cluster, case.place, load).await?;
                cluster.end().await?;
                Ok(outcome)
            }
        }
    }

    async fn start(&self, case: &Case, sites: &[Site]) -> Result<Cluster, BenchError> {
        Cluster::start(case.system, case.place, sites, self.tools, self.dir.to_path_buf()).await
    }

    /// What is there before the load.
    async fn prepare(&self, cluster: &Cluster, before: Before) -> Result<(), BenchError> {
        match before {
            Before::Nothing => return Ok(()),
            Before::Streams(streams) => {
                let Cluster::Meridian(world) = cluster else {
                    return Err(BenchError::wrong("only Meridian is measured beside idle streams"));
                };
                world.create_many(streams).await?;
            }
            Before::Bytes(bytes) => {
                cluster.create(OTHER).await?;
                self.fill(cluster, OTHER, bytes / VALUE_BYTES as u64).await?;
            }
        }
        self.settle(cluster).await
    }

    /// Until the servers are done with what that left for them to do: it is not the load that is measured.
    async fn settle(&self, cluster: &Cluster) -> Result<(), BenchError> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let before = Snapshot::take(&cluster.nodes())?;
            sleep(QUIET).await;
            if before.usage(&cluster.nodes())?.servers() < QUIET.as_secs_f64() * QUIET_PART {
                break;
            }
        }
        Ok(())
    }

    /// Publishes so many events, as fast as they go.
    pub async fn fill(&self, cluster: &Cluster, stream: &str, events: u64) -> Result<(), BenchError> {
        let load = match cluster {
            // It refuses what comes while more than some ten thousand messages wait for it.
            Cluster::JetStream(_) => Publish::max(Shape::Single, Some(WINDOW)),
            Cluster::Meridian(_) | Cluster::Kafka(_) => Publish::max(Shape::Batched, None),
        };
        let published = self.send(cluster, stream, Publish { most: Some(events), ..load }).await?;
        if published.total == events {
            return Ok(());
        }
        Err(BenchError::wrong(format!("{} events of {events} were published", published.total)))
    }

    async fn send(&self, cluster: &Cluster, stream: &str, load: Publish) -> Result<Published, BenchError> {
        let tally = Arc::new(Tally::new(self.spans, load.window));
        let sender = cluster.sender(stream, load.shape, Arc::clone(&tally)).await?;
        load::publish(sender, load, self.spans, tally).await
    }

    async fn publish(&self, cluster: &Cluster, place: Place, load: Publish) -> Result<Outcome, BenchError> {
        cluster.create(STREAM).await?;
        if place.mirrors() {
            cluster.mirror(STREAM).await?;
        }
        let (start, started) = watch::channel(None);
        let (publish, published_all) = watch::channel(None);
        let mut readers: Vec<JoinHandle<Result<Read, BenchError>>> = Vec::new();
        for _ in 0..load.readers {
            let reader = cluster.reader(place.regions().len() - 1, STREAM).await?;
            let reading = read::read(reader, self.spans.warm, started.clone(), published_all.clone());
            readers.push(tokio::spawn(reading));
        }
        let nodes = cluster.nodes();
        let tally = Arc::new(Tally::new(self.spans, load.window));
        let sender = cluster.sender(STREAM, load.shape, Arc::clone(&tally)).await?;
        let before = Snapshot::take(&nodes)?;
        let _ = start.send(Some(tally.clock()));
        let published = load::publish(sender, load, self.spans, Arc::clone(&tally)).await?;
        let _ = publish.send(Some(published.total));
        let mut read: Option<Read> = None;
        for reader in readers {
            let one = timeout(PATIENCE, reader).await;
            let one =
                one.map_err(|_| BenchError::wrong("the stream was not read to its end in time"))???;
            read = Some(match read {
                Some(all) => Read::and(all, &one),
                None => one,
            });
        }
        let mirrored = if place.mirrors() {
            self.until_mirrored(cluster, STREAM, published.total).await?;
            Some(published.total as f64 / tally.clock().now().as_secs_f64())
        } else {
            None
        };
        let usage = before.usage(&nodes)?;
        cluster.verify(STREAM, published.total).await?;
        let outcome = outcome(&self.spans, place, load, &published, read.as_ref(), usage);
        Ok(Outcome { mirrored, ..outcome })
    }

    /// Events that the second region could not take are mirrored as soon as it can.
    async fn catch_up(&self, cluster: &Cluster, events: u64) -> Result<Outcome, BenchError> {
        cluster.create(STREAM).await?;
        cluster.hold()?;
        self.fill(cluster, STREAM, events).await?;
        let nodes = cluster.nodes();
        let before = Snapshot::take(&nodes)?;
        let begun = Instant::now();
        let had = cluster.let_go(STREAM).await?;
        self.until_mirrored(cluster, STREAM, events).await?;
        let seconds = begun.elapsed().as_secs_f64();
        let usage = before.usage(&nodes)?;
        cluster.verify(STREAM, events).await?;
        let rate = (events - had) as f64 / seconds;
        Ok(Outcome {
            events,
            rate,
            bytes: rate * VALUE_BYTES as f64,
            seconds: Some(seconds),
            usage,
            ..Outcome::default()
        })
    }

    async fn until_mirrored(&self, cluster: &Cluster, stream: &str, events: u64) -> Result<(), BenchError> {
        let (mut held, mut moved) = (0, Instant::now());
        loop {
            let now = cluster.mirrored(stream).await?;
            if now >= events {
                return Ok(());
            }
            if now > held {
                (held, moved) = (now, Instant::now());
            } else if moved.elapsed() > PATIENCE {
                let what = format!("the second region holds {now} events of {events}, and gets no more");
                return Err(BenchError::wrong(what));
            }
            sleep(LOOK).await;
        }
    }
}

fn outcome(
    spans: &Spans,
    place: Place,
    load: Publish,
    published: &Published,
    read: Option<&Read>,
    usage: Usage,
) -> Outcome {
    let held = load.pace.map(|rate| {
        let least = published.total.saturating_sub(1) as f64 / rate as f64;
        (least / published.last_sent.as_secs_f64().max(least)).min(1.0)
    });
    let rate = published.counted as f64 / spans.counted.as_secs_f64();
    let lag = read.and_then(|read| read.lag.quantiles());
    let late = published.late.quantiles();
    let one_way = u64::try_from(place.one_way().as_micros()).unwrap_or(u64::MAX);
    Outcome {
        events: published.total,
        rate,
        bytes: rate * load.size as f64,
        ack: published.ack.quantiles(),
        above_one_way: lag.as_ref().map(|lag| lag.p50.saturating_sub(one_way)),
        lag,
        drained: read.map(|read| read.last.saturating_sub(published.last_ack).as_secs_f64()),
        invalid: invalid(held, late.as_ref().map(|late| late.p99)),
        late,
        held,
        usage,
        ..Outcome::default()
    }
}

/// Why this is no figure of the load it names, if so.
fn invalid(held: Option<f64>, late_p99: Option<u64>) -> Option<String> {
    let held = held?;
    if held < LEAST_HELD {
        return Some(format!("sent at {:.0} % of the rate", held * 100.0));
    }
    let late = late_p99.filter(|late| *late > LATE_P99_MICROS)?;
    Some(format!("sender late by {:.0} ms at p99", late as f64 / 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Latencies;

    #[test]
    fn a_sender_that_is_late_offered_another_load() {
        assert_eq!(invalid(Some(1.0), Some(100)), None);
        assert_eq!(invalid(Some(0.9), Some(100)).as_deref(), Some("sent at 90 % of the rate"));
        assert_eq!(invalid(Some(1.0), Some(7_000)).as_deref(), Some("sender late by 7 ms at p99"));
        assert_eq!(invalid(None, Some(7_000)), None);
    }

    #[test]
    fn a_rate_is_held_if_the_last_event_is_sent_when_due() {
        let of = |last_sent| {
            let published = Published {
                total: 1201,
                counted: 1000,
                ack: Latencies::new(),
                last_ack: Duration::ZERO,
                late: Latencies::new(),
                last_sent: Duration::from_secs(last_sent),
            };
            let (load, usage) = (Publish::paced(100), Usage::default());
            outcome(&Spans::FULL, Place::Two, load, &published, None, usage)
        };
        assert!((of(12).held.unwrap() - 1.0).abs() < 1e-9 && (of(24).held.unwrap() - 0.5).abs() < 1e-9);
        assert!(of(12).invalid.is_none() && of(24).invalid.is_some());
        assert!((of(12).rate - 100.0).abs() < 1e-9 && (of(12).bytes - 102_400.0).abs() < 1e-9);
    }
}
