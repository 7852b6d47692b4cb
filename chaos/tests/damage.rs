//! Bytes flipped in volumes: `verify` reads what is on the disk and says where, and what is damaged is repaired from a
//! node that has it whole: of the same region, or of another (faults 4 and 6).

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use meridian_chaos::{Report, Setup, World, get, until};
use meridian_sdk::{Client, ClientOptions, LaneExtent};
use meridian_types::Lane;
use tokio::runtime::Runtime;

const STREAM: &str = "flipped";
const WITHIN: Duration = Duration::from_secs(60);
const EVENTS: u64 = 400;
const HIT: u64 = 250;

fn line(number: u64) -> String {
    format!(r#"{{"number":{number},"marker":"event-{number}-of-the-damage-test"}}"#)
}

/// Where the volume's files hold these bytes.
fn places(folder: &Path, bytes: &[u8]) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder.join("volume")).expect("a node has a volume") {
        let path = entry.expect("an entry").path();
        let content = match std::fs::read(&path) {
            Ok(content) => content,
            // One that is being made ready for later has just got its name; there is nothing in it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => panic!("{} cannot be read: {error}", path.display()),
        };
        let hits = content.windows(bytes.len()).enumerate().filter(|(_, window)| *window == bytes);
        found.extend(hits.map(|(at, _)| (path.clone(), at as u64)));
    }
    found
}

/// The one place that an event has in a node's volume.
fn place_of(world: &World, node: &str, number: u64) -> (PathBuf, u64) {
    let found = places(world.node_folder(node), line(number).as_bytes());
    let [place] = &found[..] else {
        panic!("event {number} should be in one place of {node}'s volume: {found:?}")
    };
    place.clone()
}

fn flip(place: &(PathBuf, u64)) {
    let file = OpenOptions::new().read(true).write(true).open(&place.0).expect("a file of the volume");
    let mut byte = [0];
    file.read_exact_at(&mut byte, place.1).expect("it holds the byte");
    file.write_all_at(&[byte[0] ^ 0x20], place.1).expect("it can be written");
    file.sync_all().expect("it can be synced");
}

/// The damaged copy is named, with the frame that holds the event; the others agree.
fn names_the_damage(report: &Report) {
    assert!(!report.agree);
    let damaged = report.copy(0, "us", "eu");
    assert!(matches!(damaged.status.as_str(), "damaged" | "differs"), "{report:#?}");
    let at = damaged.damaged_at.or(damaged.differs_at).expect("it says where");
    // A frame holds some ten events; the first offset of the one that is hit is named.
    assert!(at <= HIT && HIT < at + 50, "offset {at} is named, {HIT} was hit: {report:#?}");
    let (us, ap) = (report.copy(0, "us", "us"), report.copy(0, "us", "ap"));
    assert!(us.status == "ok" && ap.status == "ok" && us.digest == ap.digest, "{report:#?}");
    for lane in report.lanes.iter().filter(|lane| lane.partition != 0 || lane.origin != "us") {
        assert!(lane.agree, "{lane:?}");
    }
}

/// A number of a node's metrics.
fn metric(world: &World, node: &str, name: &str) -> u64 {
    let (_, text) = get(world.admin(node), "/metrics").expect("the node runs");
    let value = text.lines().find_map(|line| line.strip_prefix(&format!("meridian_{name} ")));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("{name} of {node}: {text}"))
}

/// Waits until nothing is damaged on a node any more; how many frames it has repaired.
fn repaired(world: &World, node: &str) -> u64 {
    until(&format!("what is damaged on {node} is repaired"), WITHIN, || {
        let [damaged, quarantined] =
            ["damaged_shards", "quarantined_frames"].map(|name| metric(world, node, name));
        match metric(world, node, "repaired_frames") {
            repaired if (damaged, quarantined) == (0, 0) => Ok(repaired),
            _ => Err(format!("{damaged} damaged shards, {quarantined} frames in quarantine")),
        }
    })
}

/// What is on a node's own disk, lane by lane: how far, and which bytes.
fn digests(runtime: &Runtime, world: &World, node: &str) -> BTreeMap<Lane, (u64, [u8; 32])> {
    let client = {
        let _inside = runtime.enter();
        let options = ClientOptions { discover: false, ..ClientOptions::default() };
        Client::connect(vec![world.endpoint(node).to_owned()], options).expect("an endpoint")
    };
    let lanes = runtime.block_on(client.admin().list_lanes(STREAM)).expect("the node runs");
    let digest = |LaneExtent { lane, start, end, .. }: LaneExtent| {
        let digest = runtime.block_on(client.admin().digest(STREAM, lane, start, end));
        let digest = digest.expect("it can be read");
        assert_eq!(digest.damaged, None, "{node}, {lane}");
        (lane, (end.0, digest.blake3))
    };
    lanes.into_iter().map(digest).collect()
}

fn publish(world: &World) {
    world.create_stream(STREAM, 1);
    let lines: Vec<String> = (0..EVENTS).map(line).collect();
    // Not compressed, so that the bytes can be found; in many frames, so that one can be named.
    world.publish("us", STREAM, &lines, &["--codec", "none", "--batch-bytes", "1KiB"]);
}

#[test]
fn verify_says_where_a_byte_is_flipped_and_the_frame_is_fetched_from_another_region() {
    let mut world = World::start(Setup::default());
    publish(&world);
    let more: Vec<String> = (0..10).map(line).collect();
    world.publish("eu", STREAM, &more, &[]);
    assert_eq!(world.agree(STREAM, WITHIN).events, EVENTS + 10);

    let place = place_of(&world, "eu", HIT);
    flip(&place);
    let (code, report) = world.verify(STREAM);
    assert_eq!(code, Some(1));
    names_the_damage(&report);
    assert_eq!(repaired(&world, "eu"), 1);
    assert_eq!(world.agree(STREAM, WITHIN).events, EVENTS + 10);

    // Where it lies now is no safer than where it lay; and this time it is said to people.
    let again = place_of(&world, "eu", HIT);
    assert_ne!(again, place);
    flip(&again);
    let said = world.cli(&["verify", STREAM]);
    assert_eq!(said.code, Some(1));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("region eu") && said.contains("offset"), "it is said for people too:\n{said}");
    assert_eq!(repaired(&world, "eu"), 2);

    // Also in the next run, and also after a run that was not ended in order.
    for ending in [World::terminate, World::kill9] {
        ending(&mut world, "eu");
        world.start_again("eu");
        repaired(&world, "eu");
        assert_eq!(world.agree(STREAM, WITHIN).events, EVENTS + 10);
    }
}

#[test]
fn a_follower_whose_disk_was_damaged_while_it_was_down_is_repaired_by_its_region() {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build().expect("a runtime");
    let setup = Setup { regions: &["us", "eu"], wan: "us-eu=10ms", settings: None };
    let mut world = World::start_with(setup, 3);
    publish(&world);
    let leaders: Vec<u32> = world.settled_shards("us").iter().filter_map(|row| row.leader).collect();
    // One that leads least: more of its shards follow.
    let nodes = world.nodes_of("us");
    let led = |node: &String| leaders.iter().filter(|id| **id == world.id_of(node)).count();
    let victim = nodes.iter().min_by_key(|node| led(node)).expect("three nodes").clone();
    let other = nodes.iter().find(|node| **node != victim).expect("three nodes").clone();
    let whole = digests(&runtime, &world, &other);

    // Ended in order, all of it is applied: the frame alone is damaged.
    world.terminate(&victim);
    flip(&place_of(&world, &victim, HIT));
    world.start_again(&victim);
    assert_eq!(repaired(&world, &victim), 1);
    assert_eq!(digests(&runtime, &world, &victim), whole);
}
