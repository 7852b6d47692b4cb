//! An origin that comes back with less than its mirrors have, and goes on with another history.
//!
//! A node stands still while its folder is copied, as a snapshot of a virtual machine would; it goes on and publishes A,
//! which is mirrored; then the old folder is put back. The link is FAULTED for the shards that A is in, with the reason,
//! and nothing more is appended to their copies, also when the origin grows past the old end with other events B. Shards
//! that A is not in go on, and so do the other regions' links.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use meridian_chaos::{Setup, World, until};
use meridian_types::{Partition, StreamId, shard_of};
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(30);
const SHARDS: u16 = 16;

fn lines(name: &str, count: u32) -> Vec<String> {
    (0..count).map(|number| format!(r#"{{"{name}":{number}}}"#)).collect()
}

/// Two streams of one partition whose events go to different shards.
fn two_streams(world: &World) -> (String, String) {
    let mut by_shard = BTreeMap::new();
    for number in 0.. {
        let stream = format!("history-{number}");
        world.create_stream(&stream, 1);
        let row: Value = world.cli(&["stream", "get", &stream, "--json"]).ok().json();
        let id = StreamId(row["id"].as_u64().expect("a stream has a number"));
        by_shard.insert(shard_of(id, Partition(0), SHARDS), stream);
        if by_shard.len() == 2 {
            break;
        }
    }
    let mut streams = by_shard.into_values();
    (streams.next().expect("two"), streams.next().expect("two"))
}

/// The reasons of the faults of a link, and its state.
fn link(world: &World, origin: &str, region: &str) -> (String, Vec<String>) {
    let look: Value = world.cli(&["lag", "--json", "--timeout", "30s"]).ok().json();
    let links = look["links"].as_array().expect("links");
    let row = links.iter().find(|link| link["origin"] == origin && link["region"] == region);
    let row = row.unwrap_or_else(|| panic!("no link {origin} -> {region} in {look}"));
    let faults = row["faults"].as_array().expect("faults");
    let reasons = faults.iter().map(|fault| fault["reason"].as_str().unwrap_or_default().to_owned());
    (row["state"].as_str().unwrap_or_default().to_owned(), reasons.collect())
}

fn wait_faulted(world: &World, region: &str, reason: &str) {
    until(&format!("the link us -> {region} is faulted with {reason}"), WITHIN, || {
        let (state, reasons) = link(world, "us", region);
        let is_so = state == "faulted" && reasons == [reason];
        if is_so { Ok(()) } else { Err(format!("{state} {reasons:?}")) }
    });
}

/// A copy's end and digest.
fn copy_of(world: &World, stream: &str, region: &str) -> (Option<u64>, u64) {
    let (_, report) = world.verify(stream);
    let copy = report.copy(0, "us", region);
    let values = consumed(world, stream, region);
    (copy.end, values)
}

/// A number that stands for what a region gives of a stream.
fn consumed(world: &World, stream: &str, region: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hash = DefaultHasher::new();
    meridian_chaos::consume(world, region, stream, WITHIN, |row| {
        (row.origin, row.partition, row.offset, row.value).hash(&mut hash);
    });
    hash.finish()
}

fn copy_folder(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.is_ok_and(|status| status.success()), "{} cannot be copied", from.display());
}

#[test]
fn an_origin_that_came_back_shorter_faults_the_link_and_appends_nothing() {
    let mut world = World::start(Setup::default());
    let (hit, spared) = two_streams(&world);
    for stream in [&hit, &spared] {
        world.publish("us", stream, &lines("before", 50), &[]);
        assert_eq!(world.agree(stream, WITHIN).events, 50);
    }

    let folder = world.node_folder("us").to_owned();
    let old = world.path("us-old");
    world.pause("us");
    copy_folder(&folder, &old);
    world.resume("us");
    // Many small batches, so that the copies are longer than the origin by more than its next epoch's first frame.
    world.publish("us", &hit, &lines("A", 500), &["--batch-bytes", "512"]);
    assert_eq!(world.agree(&hit, WITHIN).events, 550);
    let before: Vec<_> = ["eu", "ap"].iter().map(|region| copy_of(&world, &hit, region)).collect();

    world.kill9("us");
    std::fs::rename(&folder, world.path("us-new")).expect("a folder can be moved");
    copy_folder(&old, &folder);
    world.start_again("us");
    for region in ["eu", "ap"] {
        wait_faulted(&world, region, "ORIGIN_SHORTER");
    }

    // Another history grows past the end of the first.
    world.publish("us", &hit, &lines("B", 1000), &["--batch-bytes", "512"]);
    // A copy that asks anew is told that the histories differ; one that does not still knows of its fault.
    world.kill9("eu");
    world.start_again("eu");
    wait_faulted(&world, "eu", "CHAIN_DIFFERS");
    wait_faulted(&world, "ap", "ORIGIN_SHORTER");

    // The other shards go on, out of that region and between the others.
    for (origin, count) in [("us", 100), ("eu", 150), ("ap", 200)] {
        world.publish(origin, &spared, &lines(origin, count), &[]);
    }
    assert_eq!(world.agree(&spared, WITHIN).events, 50 + 100 + 150 + 200);
    for (origin, region) in [("eu", "us"), ("ap", "us"), ("eu", "ap"), ("ap", "eu")] {
        until(&format!("the link {origin} -> {region} is live"), WITHIN, || {
            let (state, reasons) = link(&world, origin, region);
            if state == "live" && reasons.is_empty() { Ok(()) } else { Err(format!("{state} {reasons:?}")) }
        });
    }

    // And after all this nothing was appended to the copies, and `verify` names the place.
    for (region, before) in ["eu", "ap"].iter().zip(before) {
        assert_eq!(copy_of(&world, &hit, region), before, "{region} has appended");
    }
    let (code, report) = world.verify(&hit);
    assert_eq!(code, Some(1));
    for region in ["eu", "ap"] {
        let copy = report.copy(0, "us", region);
        assert_eq!((copy.status.as_str(), copy.differs_at), ("differs", Some(50)), "{report:#?}");
    }
}
