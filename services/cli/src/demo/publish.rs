//! A publisher in each region, all at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meridian_sdk::{Client, Delivery, Event, PublishError, PublisherOptions};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::REGIONS;
use super::events::{Events, Source};
use crate::exit::{Exit, Failure};

/// How many events each region has acknowledged.
pub type Acked = Arc<[AtomicU64]>;

/// Publishing under way.
pub struct Publishing {
    acked: Acked,
    totals: Vec<u64>,
    tasks: Vec<JoinHandle<Result<(), Failure>>>,
}

impl Publishing {
    /// Begins in all regions; each spreads its events over `pace`.
    pub fn start(clients: &[Client], source: &Source, stream: &str, pace: Duration) -> Self {
        let acked: Acked = source.counts.iter().map(|_| AtomicU64::new(0)).collect();
        let mut tasks = Vec::new();
        for (region, client) in clients.iter().enumerate() {
            let (client, source, stream) = (client.clone(), source.clone(), stream.to_owned());
            let acked = Arc::clone(&acked);
            tasks.push(tokio::spawn(async move {
                let events = source.read(region, REGIONS[region])?;
                let step = pace.div_f64(source.counts[region].max(1) as f64);
                publish(&client, &stream, events, step, &acked, region).await
            }));
        }
        Self { acked, totals: source.counts.clone(), tasks }
    }

    /// The counters.
    pub fn acked(&self) -> Acked {
        Arc::clone(&self.acked)
    }

    /// What the counters say now.
    pub fn counts(&self) -> Vec<u64> {
        self.acked.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// How many events each region has in all.
    pub fn totals(&self) -> &[u64] {
        &self.totals
    }

    /// Waits until the counters are so.
    pub async fn until(&self, patience: Duration, so: impl Fn(&[u64]) -> bool) -> Result<(), Failure> {
        let mut last = (self.counts(), Instant::now());
        loop {
            let now = self.counts();
            if so(&now) {
                return Ok(());
            }
            if now != last.0 {
                last = (now, Instant::now());
            } else if last.1.elapsed() > patience {
                let message = "publishing makes no progress".to_owned();
                return Err(Failure { exit: Exit::Unreachable, message });
            } else if self.tasks.iter().all(JoinHandle::is_finished) {
                let message = "publishing ended before its time".to_owned();
                return Err(Failure { exit: Exit::NotSo, message });
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until everything is acknowledged.
    pub async fn finish(self) -> Result<(), Failure> {
        for task in self.tasks {
            task.await.map_err(|error| Failure { exit: Exit::NotSo, message: error.to_string() })??;
        }
        let acked: Vec<u64> = self.acked.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        if acked != self.totals {
            let message = format!("acknowledged {acked:?} of {:?}", self.totals);
            return Err(Failure { exit: Exit::NotSo, message });
        }
        Ok(())
    }
}

async fn publish(
    client: &Client,
    stream: &str,
    mut events: Events,
    step: Duration,
    acked: &Acked,
    region: usize,
) -> Result<(), Failure> {
    let publisher = client.publisher(stream, PublisherOptions::default()).await?;
    let (sent, deliveries) = mpsc::unbounded_channel();
    let counting = tokio::spawn(count(deliveries, Arc::clone(acked), region));
    let mut due = Instant::now();
    while let Some(chunk) = events.next().await? {
        for line in chunk {
            due += step;
            // Timers are no finer than a millisecond; what is late is made up for.
            if due > Instant::now() + Duration::from_millis(1) {
                sleep_until(due).await;
            }
            let event = Event { key: line.key, value: Some(line.value), ..Event::default() };
            let delivery = publisher.send(event).await?;
            if sent.send(delivery).is_err() {
                break;
            }
        }
    }
    drop(sent);
    let counted =
        counting.await.map_err(|error| Failure { exit: Exit::NotSo, message: error.to_string() })?;
    counted.map_err(Failure::from)
}

async fn count(
    mut deliveries: mpsc::UnboundedReceiver<Delivery>,
    acked: Acked,
    region: usize,
) -> Result<(), PublishError> {
    while let Some(delivery) = deliveries.recv().await {
        delivery.await?;
        acked[region].fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
