//! Every flight out of New York in 2013: three airports publish at once in three regions, each region's process is
//! killed once on the way, and every region gives back exactly the lines of the three files.
//!
//! What is compared, in each region: for each origin and partition the offsets are 0, 1, 2, … in the order in which they
//! come; the lines of an origin, over its four partitions, are the lines of its file, each once (no file has a line
//! twice); within a partition they stand in the file's order, and so per key too; a key is in one partition, the one that
//! Kafka's partitioner gives; the event's key is the line's `tailnum`. A lane is the same sequence in every region. What is
//! not there to be compared is the order of lines of different partitions: the bus promises none.

mod support {
    pub mod airports;
}

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use meridian_chaos::{Background, Seed, Setup, World, say, until};
use meridian_sdk::{Client, ClientOptions};
use rand::RngExt as _;

use support::airports::{Airport, PARTITIONS, airports, read_back};

const STREAM: &str = "flights";
const EVENTS: u64 = 336_776;
/// Events a second and airport, so that each publishes for long enough to be killed on the way.
const RATE: &str = "12000";
const AGREE_WITHIN: Duration = Duration::from_secs(120);
const PUBLISH_WITHIN: Duration = Duration::from_secs(300);

/// How many events of its own a region has stored; none while it does not answer.
fn stored(runtime: &tokio::runtime::Runtime, client: &Client, region: &str) -> Option<u64> {
    let lanes = runtime.block_on(async { client.admin().list_lanes(STREAM).await }).ok()?;
    Some(lanes.iter().filter(|lane| lane.origin == region).map(|lane| lane.end.0).sum())
}

#[test]
fn every_region_gives_back_the_lines_of_all_airports() {
    let Some(airports) = airports("flights") else { return };
    let mut rng = Seed::of("flights").rng();
    let mut world = World::start(Setup { wan: "us-eu=80ms,us-ap=150ms,eu-ap=120ms", ..Setup::default() });
    world.create_stream(STREAM, PARTITIONS);

    let begun = Instant::now();
    let mut publishers: Vec<Background> = airports
        .iter()
        .map(|airport| {
            let file = airport.file.to_str().expect("a plain name");
            let options = ["--key-field", "tailnum", "--json", "--rate", RATE];
            world.begin(
                &[&["publish", STREAM, "--region", airport.region, "--file", file], &options[..]].concat(),
            )
        })
        .collect();
    kill_each_once(&mut world, &airports, &mut publishers, &mut rng);
    for (publisher, airport) in publishers.into_iter().zip(&airports) {
        let summary: serde_json::Value = publisher.finish(PUBLISH_WITHIN).ok().json();
        assert_eq!(summary["events"], airport.lines.len(), "{summary}");
        assert_eq!(summary["not_published"], 0, "{summary}");
        assert_eq!(summary["unanswered"], 0, "{summary}");
    }
    let published = begun.elapsed();
    let report = world.agree(STREAM, AGREE_WITHIN);
    say(&format!("flights: published after {published:.1?}, all copies agree after {:.1?}", begun.elapsed()));
    assert_eq!((report.events, report.lanes.len()), (EVENTS, 12), "{report:#?}");
    for lane in &report.lanes {
        assert!(lane.agree && lane.copies.len() == 3, "{lane:?}");
    }

    let first = read_back(&world, "us", STREAM, &airports);
    for region in ["eu", "ap"] {
        assert!(read_back(&world, region, STREAM, &airports) == first, "{region} gives other lanes than us");
    }
}

/// SIGKILLs each region's process at some point of its own file, and starts it again.
fn kill_each_once(
    world: &mut World,
    airports: &[Airport],
    publishers: &mut [Background],
    rng: &mut rand::rngs::StdRng,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    // How far each region shall be when it dies, and for how long it stays dead.
    let mut plan: BTreeMap<&str, (u64, Duration)> = airports
        .iter()
        .map(|airport| {
            let share = rng.random_range(0.1..0.5);
            let dead = Duration::from_millis(rng.random_range(100..2000));
            (airport.region, ((airport.lines.len() as f64 * share) as u64, dead))
        })
        .collect();
    let clients: BTreeMap<&str, Client> = airports
        .iter()
        .map(|airport| {
            let _inside = runtime.enter();
            let options = ClientOptions { retry_for: Duration::from_secs(1), ..ClientOptions::default() };
            let endpoint = world.endpoint(airport.region).to_owned();
            (airport.region, Client::connect(vec![endpoint], options).expect("an endpoint"))
        })
        .collect();
    let mut down: Vec<(&str, Instant)> = Vec::new();
    until("each region's process was killed and started again", PUBLISH_WITHIN, || {
        for (airport, publisher) in airports.iter().zip(publishers.iter_mut()) {
            let region = airport.region;
            if let Some((at, dead)) = plan.get(region).copied()
                && let Some(events) = stored(&runtime, &clients[region], region)
                && events >= at
            {
                assert!(
                    !publisher.has_ended(),
                    "{region} was too fast to be killed on the way ({events} events)"
                );
                world.kill9(region);
                say(&format!("flights: {region} killed at {events} events, for {dead:.1?}"));
                plan.remove(region);
                down.push((region, Instant::now() + dead));
            }
        }
        down.retain(|(region, until)| {
            let again = Instant::now() >= *until;
            if again {
                world.launch(region);
            }
            !again
        });
        if plan.is_empty() && down.is_empty() {
            Ok(())
        } else {
            Err(format!("left: {plan:?}, down: {down:?}"))
        }
    });
    for airport in airports {
        world.wait_ready(airport.region);
    }
}
