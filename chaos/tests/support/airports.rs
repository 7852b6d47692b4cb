//! The flights out of New York: what they are, and whether a region gives them back.

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use meridian_chaos::{World, consume, skip};
use meridian_types::partition_for_key;

/// Partitions of a stream of flights.
pub const PARTITIONS: u32 = 4;
const AIRPORTS: [(&str, &str, u64); 3] =
    [("us", "EWR", 120_835), ("eu", "JFK", 111_279), ("ap", "LGA", 104_662)];

/// An airport's file.
pub struct Airport {
    /// Where it publishes.
    pub region: &'static str,
    /// Its file, packed.
    pub file: PathBuf,
    /// What that says.
    pub lines: Vec<String>,
}

impl Airport {
    /// The key of a line, which is JSON.
    pub fn key(line: &str) -> Option<String> {
        let line: serde_json::Value = serde_json::from_str(line).expect("a line of the data is JSON");
        line["tailnum"].as_str().map(str::to_owned)
    }
}

/// All airports; none where the data is not there, which is said.
pub fn airports(test: &str) -> Option<Vec<Airport>> {
    // Cargo runs tests in their crate's folder.
    let here = || PathBuf::from("../../shared/data");
    let folder = std::env::var_os("MERIDIAN_DATA").map_or_else(here, PathBuf::from);
    AIRPORTS
        .iter()
        .map(|(region, code, events)| {
            let file = folder.join(format!("flights-{code}.ndjson.gz"));
            let packed = match std::fs::File::open(&file) {
                Ok(packed) => packed,
                Err(error) => {
                    skip(test, &format!("no data at {}: {error}", file.display()));
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

/// Reads all of the stream in one region and holds it against the files; gives each lane as numbers of lines.
pub fn read_back(
    world: &World,
    region: &str,
    stream: &str,
    airports: &[Airport],
) -> BTreeMap<(String, u32), Vec<u32>> {
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
    consume(world, region, stream, Duration::from_secs(120), |row| {
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
