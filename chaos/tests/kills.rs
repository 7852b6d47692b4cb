//! SIGKILL, again and again, of whatever end of whatever link, while every region publishes.
//!
//! After each kill the copies are compared as far as all hold them: one may be behind, none may differ or be damaged. Every
//! so often the publishers pause, the copies must agree to the end, and each lane must hold exactly the acknowledged
//! events of its region, in the order in which they were sent, each at the offset that was acknowledged, none twice.
//! `MERIDIAN_KILLS` sets how many kills there are; unset, as many as fit into a run of all tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use meridian_chaos::{Seed, Setup, World, consume, say};
use meridian_sdk::{Client, ClientOptions, Delivery, Event, PublisherOptions};
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// Each takes the better part of a second, with the restart and the look at all copies.
const KILLS: u32 = 30;
/// After so many the publishers pause, everything is read back, and a new stream begins.
const KILLS_AN_ERA: u32 = 15;
const PARTITIONS: u32 = 4;
const AGREE_WITHIN: Duration = Duration::from_secs(60);

fn small(table: &mut toml::Table) {
    // Small files: a volume grows over many of them.
    let storage = toml::Table::from_iter([
        ("file_bytes".to_owned(), "16MiB".into()),
        ("max_round_bytes".to_owned(), "1MiB".into()),
        ("stock".to_owned(), 1.into()),
    ]);
    table.insert("storage".to_owned(), storage.into());
}

/// An event that was acknowledged: where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    partition: u32,
    offset: u64,
}

/// Publishes without a pause, until it is told to stop.
struct Publishing {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<(String, Place)>>,
}

impl Publishing {
    fn start(runtime: &Runtime, endpoint: &str, region: &str, stream: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (endpoint, region, stream) = (endpoint.to_owned(), region.to_owned(), stream.to_owned());
        let task = runtime.spawn(publish(endpoint, region, stream, Arc::clone(&stop)));
        Self { stop, task }
    }

    /// Every event that was sent, in order, and where it was acknowledged.
    fn pause(self, runtime: &Runtime) -> Vec<(String, Place)> {
        self.stop.store(true, Ordering::Relaxed);
        runtime.block_on(self.task).expect("the publisher acknowledges everything")
    }
}

async fn publish(
    endpoint: String,
    region: String,
    stream: String,
    stop: Arc<AtomicBool>,
) -> Vec<(String, Place)> {
    let options = ClientOptions { retry_for: Duration::from_secs(60), ..ClientOptions::default() };
    let client = Client::connect(vec![endpoint], options).expect("an endpoint");
    // Small batches: many of them are under way when the process dies.
    let options = PublisherOptions {
        batch_bytes: 2048,
        progress_timeout: Duration::from_secs(60),
        ..PublisherOptions::default()
    };
    let publisher = client.publisher(&stream, options).await.expect("the stream is known");
    let mut sent: Vec<(String, Delivery)> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..4 {
            let number = sent.len();
            let value = format!(r#"{{"region":"{region}","number":{number}}}"#);
            let event = Event::new(value.clone()).with_key(format!("key-{}", number % 16));
            let delivery = publisher.send(event).await.expect("the publisher goes on");
            sent.push((value, delivery));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    publisher.flush().await.expect("everything is acknowledged in the end");
    let mut acknowledged = Vec::with_capacity(sent.len());
    for (value, delivery) in sent {
        let ack = delivery.await.expect("it was flushed");
        acknowledged.push((value, Place { partition: ack.lane.partition.0, offset: ack.offset.0 }));
    }
    acknowledged
}

#[test]
fn acknowledged_events_survive_every_kill_once() {
    let kills: u32 = std::env::var("MERIDIAN_KILLS")
        .map_or(KILLS, |text| text.parse().unwrap_or_else(|_| panic!("MERIDIAN_KILLS={text} is no number")));
    let mut rng = Seed::of("kills").rng();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut world = World::start(Setup { settings: Some(small), ..Setup::default() });
    let begun = Instant::now();
    let (mut done, mut events, mut era) = (0, 0, 0);
    while done < kills {
        let stream = format!("kills-{era}");
        world.create_stream(&stream, PARTITIONS);
        let publishing: BTreeMap<String, Publishing> = world
            .regions()
            .into_iter()
            .map(|region| {
                let publishing = Publishing::start(&runtime, world.endpoint(&region), &region, &stream);
                (region, publishing)
            })
            .collect();
        let end = kills.min(done + KILLS_AN_ERA);
        while done < end {
            done += strike(&mut world, &mut rng);
            let (_, report) = world.verify_with(&stream, &["--timeout", "60s"]);
            let broken = report.broken();
            assert!(broken.is_empty(), "after kill {done}: {broken:#?}");
            for region in &report.regions {
                assert_eq!(region.status, "answered", "after kill {done}: {region:?}");
            }
        }
        events += settle(&world, &runtime, &stream, publishing);
        say(&format!("kills: {done} kills, {events} events, {:.0?}", begun.elapsed()));
        era += 1;
    }
}

/// Kills one region's process, or two at once, starts them again, now and then kills one more as it starts, and waits
/// until all are ready. Returns how many were killed.
fn strike(world: &mut World, rng: &mut StdRng) -> u32 {
    let pause = |rng: &mut StdRng, most: u64| {
        std::thread::sleep(Duration::from_millis(rng.random_range(0..most)));
    };
    pause(rng, 400);
    let regions = world.regions();
    let first = rng.random_range(0..regions.len());
    let mut victims = vec![&regions[first]];
    if rng.random_bool(0.15) {
        victims.push(&regions[(first + rng.random_range(1..regions.len())) % regions.len()]);
    }
    let mut killed = 0;
    for victim in &victims {
        world.kill9(victim);
        killed += 1;
    }
    pause(rng, 300);
    for victim in &victims {
        world.launch(victim);
    }
    if rng.random_bool(0.2) {
        pause(rng, 300);
        world.kill9(victims[0]);
        killed += 1;
        world.launch(victims[0]);
    }
    for victim in &victims {
        world.wait_ready(victim);
    }
    killed
}

/// Pauses the publishers, waits until all copies agree, and holds each region's events against what was acknowledged.
fn settle(world: &World, runtime: &Runtime, stream: &str, publishing: BTreeMap<String, Publishing>) -> u64 {
    let mut lanes: BTreeMap<(String, u32), Vec<String>> = BTreeMap::new();
    for (region, publishing) in publishing {
        for (value, place) in publishing.pause(runtime) {
            let lane = lanes.entry((region.clone(), place.partition)).or_default();
            assert_eq!(
                place.offset,
                lane.len() as u64,
                "{value} of {region} in partition {}",
                place.partition
            );
            lane.push(value);
        }
    }
    let acknowledged: u64 = lanes.values().map(|lane| lane.len() as u64).sum();
    let report = world.agree(stream, AGREE_WITHIN);
    assert_eq!(report.events, acknowledged, "exactly what was acknowledged is stored: {report:#?}");
    for region in world.regions() {
        let mut read: BTreeMap<(String, u32), Vec<String>> = BTreeMap::new();
        consume(world, &region, stream, Duration::from_secs(60), |row| {
            let lane = read.entry((row.origin.clone(), row.partition)).or_default();
            assert_eq!(row.offset, lane.len() as u64, "{region}: {row:?}");
            lane.push(row.value);
        });
        assert!(read == lanes, "{region} gives other events than were acknowledged");
    }
    acknowledged
}
