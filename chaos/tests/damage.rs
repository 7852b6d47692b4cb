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
    digests_or_damage(runtime, world, node).unwrap_or_else(|at| panic!("{node} is damaged at offset {at}"))
}

/// The same, or the first offset that cannot be read as it was written.
fn digests_or_damage(
    runtime: &Runtime,
    world: &World,
    node: &str,
) -> Result<BTreeMap<Lane, (u64, [u8; 32])>, u64> {
    let client = {
        let _inside = runtime.enter();
        let options = ClientOptions { discover: false, ..ClientOptions::default() };
        Client::connect(vec![world.endpoint(node).to_owned()], options).expect("an endpoint")
    };
    let lanes = runtime.block_on(client.admin().list_lanes(STREAM)).expect("the node runs");
    let digest = |LaneExtent { lane, start, end, .. }: LaneExtent| {
        let digest = runtime.block_on(client.admin().digest(STREAM, lane, start, end));
        let digest = digest.expect("it can be read");
        match digest.damaged {
            Some((offset, _)) => Err(offset.0),
            None => Ok((lane, (end.0, digest.blake3))),
        }
    };
    lanes.into_iter().map(digest).collect()
}

/// So many events after those that are there, in `us`.
fn publish(world: &World, after: u64) {
    let lines: Vec<String> = (after..after + EVENTS).map(line).collect();
    // Not compressed, so that the bytes can be found; in many frames, so that one can be named.
    world.publish("us", STREAM, &lines, &["--codec", "none", "--batch-bytes", "1KiB"]);
}

#[test]
fn verify_says_where_a_byte_is_flipped_and_the_frame_is_fetched_from_another_region() {
    let mut world = World::start(Setup::default());
    world.create_stream(STREAM, 1);
    publish(&world, 0);
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

    // A copy on a single node that has lost its end asks its origin for it again, whether the index had it or not.
    publish(&world, EVENTS);
    assert_eq!(world.agree(STREAM, WITHIN).events, 2 * EVENTS + 10);
    world.kill9("eu");
    flip(&place_of(&world, "eu", 2 * EVENTS - 1));
    world.start_again("eu");
    repaired(&world, "eu");
    assert_eq!(world.agree(STREAM, WITHIN).events, 2 * EVENTS + 10);
}

/// A region of three nodes and one of three that mirrors it, and what looks into single nodes.
fn two_regions() -> (World, Runtime) {
    let setup = Setup { regions: &["us", "eu"], wan: "us-eu=10ms", settings: None };
    let world = World::start_with(setup, 3);
    world.create_stream(STREAM, 1);
    (world, runtime())
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().expect("a runtime")
}

/// The node of `us` that leads least, so that more of its shards follow; and another one.
fn follower(world: &World) -> (String, String) {
    let leaders: Vec<u32> = world.settled_shards("us").iter().filter_map(|row| row.leader).collect();
    let mut nodes = world.nodes_of("us");
    nodes.sort_by_key(|node| leaders.iter().filter(|id| **id == world.id_of(node)).count());
    (nodes[0].clone(), nodes[2].clone())
}

#[test]
fn a_follower_whose_disk_was_damaged_while_it_was_down_is_repaired_by_its_region() {
    let (mut world, runtime) = two_regions();
    publish(&world, 0);
    let (victim, other) = follower(&world);
    let whole = digests(&runtime, &world, &other);

    // Ended in order, all of it is applied: the frame alone is damaged.
    world.terminate(&victim);
    flip(&place_of(&world, &victim, HIT));
    world.start_again(&victim);
    assert_eq!(repaired(&world, &victim), 1);
    assert_eq!(digests(&runtime, &world, &victim), whole);
    let log = std::fs::read_to_string(world.node_folder(&victim).join("log")).expect("a log");
    let line = log.lines().find(|line| line.contains("damaged frames are repaired")).expect("it is said");
    assert!(line.contains("region=us"), "its own region is nearest: {line}");
}

#[test]
fn a_replica_that_has_left_its_set_still_repairs_what_it_holds_alone() {
    let runtime = runtime();
    let world = World::start_with(Setup { regions: &["us"], wan: "", settings: None }, 2);
    world.create_stream(STREAM, 1);
    publish(&world, 0);
    let nodes = world.nodes_of("us");
    let whole = until("both nodes hold it", WITHIN, || {
        let (one, two) = (digests(&runtime, &world, &nodes[0]), digests(&runtime, &world, &nodes[1]));
        if one == two { Ok(one) } else { Err(format!("{one:?}, {two:?}")) }
    });
    world.set_replication("us", 1);
    // Only one of them has what comes now.
    publish(&world, EVENTS);
    let has_all =
        |node: &String| !places(world.node_folder(node), line(2 * EVENTS - 1).as_bytes()).is_empty();
    let holders: Vec<&String> = nodes.iter().filter(|node| has_all(node)).collect();
    let [holder] = holders[..] else { panic!("one node holds the shard: {holders:?}") };

    flip(&place_of(&world, holder, HIT));
    let report = digests_or_damage(&runtime, &world, holder);
    assert!(report.is_err_and(|at| at <= HIT), "the digest reads what is on the disk");
    assert_eq!(repaired(&world, holder), 1);
    let after = digests(&runtime, &world, holder);
    for (lane, (end, _)) in whole {
        assert_eq!(after[&lane].0, end + EVENTS, "all of it is whole again");
    }
}

#[test]
fn a_replica_that_lost_the_end_of_its_log_catches_up_and_is_in_doubt_until_then() {
    let (mut world, runtime) = two_regions();
    let mut published = 0;
    // The index is flushed now and then: what was flushed is not lost by the flip. The next try is as good as new.
    for _ in 0..5 {
        let (victim, other) = follower(&world);
        publish(&world, published);
        published += EVENTS;
        let whole = until("the replicas agree", WITHIN, || {
            let (one, two) = (digests(&runtime, &world, &victim), digests(&runtime, &world, &other));
            if one == two { Ok(one) } else { Err(format!("{one:?}, {two:?}")) }
        });
        world.kill9(&victim);
        flip(&place_of(&world, &victim, published - EVENTS / 2));
        world.start_again(&victim);
        repaired(&world, &victim);
        until("the replicas agree again", WITHIN, || {
            let again = digests(&runtime, &world, &victim);
            if again == whole { Ok(()) } else { Err(format!("{again:?}, not {whole:?}")) }
        });
        let log = std::fs::read_to_string(world.node_folder(&victim).join("log")).expect("a log");
        if log.contains("its doubt is over") {
            // Nothing of it is left for the next start.
            world.kill9(&victim);
            world.start_again(&victim);
            repaired(&world, &victim);
            let log = std::fs::read_to_string(world.node_folder(&victim).join("log")).expect("a log");
            assert_eq!(log.matches("its doubt is over").count(), 1, "it was not in doubt again");
            assert_eq!(world.agree(STREAM, WITHIN).events, published);
            return;
        }
    }
    panic!("the index was flushed before each kill");
}
