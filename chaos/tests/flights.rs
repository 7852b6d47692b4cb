//! Every flight out of New York in 2013: three airports publish at once in three regions, each region's process is
//! killed once on the way, and every region gives back exactly the lines of the three files.
//!
//! What is compared, in each region: for each origin and partition the offsets are 0, 1, 2, … in the order in which they
//! come; the lines of an origin, over its four partitions, are the lines of its file, each once (no file has a line
//! twice); within a partition they stand in the file's order, and so per key too; a key is in one partition, the one that
//! Kafka's partitioner gives; the event's key is the line's `tailnum`. A lane is the same sequence in every region. What is
//! not there to be compared is the order of lines of different partitions: the bus promises none.

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use meridian_chaos::{Background, Seed, Setup, World, consume, say, skip, until};
use meridian_sdk::{Client, ClientOptions};
use meridian_types::partition_for_key;
use rand::RngExt as _;

const STREAM: &str = "flights";
const PARTITIONS: u32 = 4;
const AIRPORTS: [(&str, &str, u64); 3] =
    [("us", "EWR", 120_835), ("eu", "JFK", 111_279), ("ap", "LGA", 104_662)];
const EVENTS: u64 = 336_776;
/// Events a second and airport, so that each publishes for long enough to be killed on the way.
const RATE: &str = "12000";
const AGREE_WITHIN: Duration = Duration::from_secs(120);
const PUBLISH_WITHIN: Duration = Duration::from_secs(300);

/// An airport's file.
struct Airport {
    region: &'static str,
    file: PathBuf,
    lines: Vec<String>,
}

impl Airport {
    /// The key of a line, which is JSON.
    fn key(line: &str) -> Option<String> {
        let line: serde_json::Value = serde_json::from_str(line).expect("a line of the data is JSON");
        line["tailnum"].as_str().map(str::to_owned)
    }
}

fn airports() -> Option<Vec<Airport>> {
    let here = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let folder = std::env::var_os("MERIDIAN_DATA").map_or_else(here, PathBuf::from);
    AIRPORTS
        .iter()
        .map(|(region, code, events)| {
            let file = folder.join(format!("flights-{code}.ndjson.gz"));
            let packed = match std::fs::File::open(&file) {
                Ok(packed) => packed,
                Err(error) => {
                    skip("flights", &format!("no data at {}: {error}", file.display()));
                    return None;
                }
            };
            let mut text = String::new();
            let mut unpacked = flate2::read::MultiGzDecoder::new(packed);
            unpacked.read_to_string(&mut text).expect("the data can be unpacked");
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            assert_eq!(lines.len() as u64, *events, "{} is not the file this test knows", file.display());
            Some(Airport { region, file, lines })
        })
        .collect()
}

/// How many events of its own a region has stored; none while it does not answer.
fn stored(runtime: &tokio::runtime::Runtime, client: &Client, region: &str) -> Option<u64> {
    let lanes = runtime.block_on(async { client.admin().list_lanes(STREAM).await }).ok()?;
    Some(lanes.iter().filter(|lane| lane.origin == region).map(|lane| lane.end.0).sum())
}

#[test]
fn every_region_gives_back_the_lines_of_all_airports() {
    let Some(airports) = airports() else { return };
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

    let first = read_back(&world, "us", &airports);
    for region in ["eu", "ap"] {
        assert!(read_back(&world, region, &airports) == first, "{region} gives other lanes than us");
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

/// Reads all of the stream in one region and holds it against the files; gives each lane as numbers of lines.
fn read_back(world: &World, region: &str, airports: &[Airport]) -> BTreeMap<(String, u32), Vec<u32>> {
    let numbers: BTreeMap<&str, HashMap<&str, u32>> = airports
        .iter()
        .map(|airport| {
            let lines = airport.lines.iter().map(String::as_str);
            let numbers: HashMap<&str, u32> = lines.zip(0..).collect();
            assert_eq!(numbers.len(), airport.lines.len(), "no line is there twice");
            (airport.region, numbers)
        })
        .collect();
    let mut lanes: BTreeMap<(String, u32), Vec<u32>> = BTreeMap::new();
    consume(world, region, STREAM, Duration::from_secs(120), |row| {
        let lane = lanes.entry((row.origin.clone(), row.partition)).or_default();
        assert_eq!(
            row.offset,
            lane.len() as u64,
            "an offset is missing or out of order in {region}: {row:?}"
        );
        let number = numbers.get(row.origin.as_str()).and_then(|lines| lines.get(row.value.as_str()));
        let Some(&number) = number else {
            panic!("{region} gives what {} did not publish: {row:?}", row.origin)
        };
        if let Some(&last) = lane.last() {
            assert!(last < number, "{region}: line {number} after line {last} of the file: {row:?}");
        }
        assert_eq!(row.key, Airport::key(&row.value), "{row:?}");
        if let Some(key) = &row.key {
            assert_eq!(partition_for_key(key.as_bytes(), PARTITIONS).0, row.partition, "{row:?}");
        }
        lane.push(number);
    });
    for airport in airports {
        let of_airport = lanes.iter().filter(|((origin, _), _)| origin == airport.region);
        let mut all: Vec<u32> = of_airport.flat_map(|(_, lane)| lane.iter().copied()).collect();
        all.sort_unstable();
        assert!(
            all.iter().copied().eq(0..airport.lines.len() as u32),
            "{region} has {} of {} lines of {}, or one twice",
            all.len(),
            airport.lines.len(),
            airport.region
        );
    }
    lanes
}
