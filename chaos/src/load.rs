//! Publishing beside a test, and where each event was acknowledged, and when.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use meridian_sdk::{Client, ClientOptions, Event, PublisherOptions};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::{World, consume};

/// How long a publisher, or a call, goes on without any answer. Longer than anything here may take: a test says what was
/// lost, not how slow the machine is.
const PATIENCE: Duration = Duration::from_secs(90);
const TICK: Duration = Duration::from_millis(10);

/// An event that was acknowledged: where and when.
pub struct Acked {
    /// What it says.
    pub value: String,
    /// Its partition.
    pub partition: u32,
    /// Its offset there.
    pub offset: u64,
    /// When the answer came.
    pub at: Instant,
}

/// A publisher that runs until its events end, or it is told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: watch::Receiver<Option<Instant>>,
    task: JoinHandle<Vec<Acked>>,
}

impl Load {
    /// Begins to publish in a region, through whichever of its nodes, so many events a second.
    pub fn start(
        runtime: &Runtime,
        world: &World,
        region: &str,
        stream: &str,
        rate: u32,
        events: impl Iterator<Item = (String, Event)> + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (answer, answered) = watch::channel(None);
        let (endpoints, stream, told) = (world.endpoints(region), stream.to_owned(), Arc::clone(&stop));
        let task = runtime.spawn(async move {
            let options = ClientOptions { retry_for: PATIENCE, ..ClientOptions::default() };
            let client = Client::connect(endpoints, options).expect("endpoints");
            let options = PublisherOptions {
                // Small batches: many of them are under way when a node dies.
                batch_bytes: 4096,
                progress_timeout: PATIENCE,
                ..PublisherOptions::default()
            };
            let publisher = client.publisher(&stream, options).await.expect("the stream is known");
            let (sent, mut deliveries) = mpsc::unbounded_channel();
            let counting = tokio::spawn(async move {
                let mut acked = Vec::new();
                while let Some((begun, value, delivery)) = deliveries.recv().await {
                    let delivery: meridian_sdk::Delivery = delivery;
                    let begun: Instant = begun;
                    let ack = delivery.await.expect("every event is acknowledged");
                    // Set after the fact: each partition is answered by itself, and these are taken in order.
                    let at = begun + ack.latency;
                    acked.push(Acked { value, partition: ack.lane.partition.0, offset: ack.offset.0, at });
                    answer.send_replace(Some(begun));
                }
                acked
            });
            let mut events = events;
            let mut ticks = tokio::time::interval(TICK);
            let (begun, mut count) = (Instant::now(), 0.0);
            'all: while !told.load(Ordering::Relaxed) {
                ticks.tick().await;
                while count < begun.elapsed().as_secs_f64() * f64::from(rate) {
                    let Some((value, event)) = events.next() else { break 'all };
                    let now = Instant::now();
                    let delivery = publisher.send(event).await.expect("the publisher goes on");
                    sent.send((now, value, delivery)).expect("they are counted");
                    count += 1.0;
                }
            }
            publisher.flush().await.expect("everything is acknowledged in the end");
            drop(sent);
            counting.await.expect("every event is acknowledged")
        });
        Self { stop, answered, task }
    }

    /// Whether all was published, or went wrong.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits until an event is acknowledged that was sent after this call; gives how long that took.
    ///
    /// # Panics
    /// None is.
    pub fn next_answer(&mut self, runtime: &Runtime) -> Duration {
        let asked = Instant::now();
        let answered = self.answered.wait_for(|sent| sent.is_some_and(|sent| sent > asked));
        runtime.block_on(async {
            let answered = tokio::time::timeout(PATIENCE, answered).await.expect("an answer, in the end");
            answered.expect("the publisher goes on");
        });
        asked.elapsed()
    }

    /// Every event that was sent, in order.
    ///
    /// # Panics
    /// One of them was not acknowledged.
    pub fn finish(self, runtime: &Runtime) -> Vec<Acked> {
        self.stop.store(true, Ordering::Relaxed);
        runtime.block_on(self.task).expect("the publisher acknowledges everything")
    }

    /// The same, once its events have ended.
    ///
    /// # Panics
    /// One of them was not acknowledged.
    pub fn finish_all(self, runtime: &Runtime) -> Vec<Acked> {
        runtime.block_on(self.task).expect("the publisher acknowledges everything")
    }
}

/// Events without an end, each with its number as its value, and few keys.
pub fn numbers() -> impl Iterator<Item = (String, Event)> + Send {
    (0..).map(|number: u64| {
        let value = format!(r#"{{"number":{number}}}"#);
        (value.clone(), Event::new(value).with_key(format!("key-{}", number % 64)))
    })
}

/// The longest time in which no event of a partition was acknowledged, between its first and its last.
pub fn longest_silence(acked: &[Acked]) -> Duration {
    let mut partitions: BTreeMap<u32, Vec<Instant>> = BTreeMap::new();
    for event in acked {
        partitions.entry(event.partition).or_default().push(event.at);
    }
    let longest = partitions.into_values().filter_map(|mut answers| {
        answers.sort_unstable();
        answers.windows(2).map(|pair| pair[1] - pair[0]).max()
    });
    longest.max().unwrap_or_default()
}

/// A region holds exactly what was acknowledged there, in its order, each at its offset, none twice.
///
/// # Panics
/// It does not.
pub fn holds_exactly(world: &World, region: &str, stream: &str, acked: &[Acked]) {
    let mut lanes: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for event in acked {
        let lane = lanes.entry(event.partition).or_default();
        assert_eq!(event.offset, lane.len() as u64, "{} in partition {}", event.value, event.partition);
        lane.push(&event.value);
    }
    let mut read: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    consume(world, region, stream, PATIENCE, |row| {
        assert_eq!(row.origin, region, "{row:?}");
        let lane = read.entry(row.partition).or_default();
        assert_eq!(row.offset, lane.len() as u64, "{row:?}");
        lane.push(row.value);
    });
    let counts = |lanes: &BTreeMap<u32, usize>| format!("{lanes:?}");
    let (stored, sent) = (
        counts(&read.iter().map(|(partition, lane)| (*partition, lane.len())).collect()),
        counts(&lanes.iter().map(|(partition, lane)| (*partition, lane.len())).collect()),
    );
    let same = read.len() == lanes.len()
        && read.iter().all(|(partition, lane)| lanes[partition].iter().eq(lane.iter()));
    assert!(same, "{region} gives other events than were acknowledged: {stored}, {sent}");
}
