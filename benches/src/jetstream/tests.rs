//! All of it against real servers, where their binary has been built.

use std::io::Write as _;

use bytes::Bytes;

use super::*;
use crate::latency::Latencies;
use crate::pace::{Events, Stamp};
use crate::plan::Spans;

const MESSAGES: u64 = 2_000;
const WINDOW: usize = 256;

/// What `fetch.sh` built, whichever version.
fn binary() -> Option<PathBuf> {
    let build = std::env::var_os("MERIDIAN_BUILD").map(PathBuf::from)?;
    let built = std::fs::read_dir(build.join("peers")).ok()?.flatten().map(|entry| entry.path());
    built
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("jetstream-")))
        .map(|path| path.join("nats-server"))
        .find(|path| path.is_file())
}

fn binary_or_skip(test: &str) -> Option<PathBuf> {
    let binary = binary();
    if binary.is_none() {
        let why = "there is no nats-server; build it by benches/peers/jetstream/fetch.sh";
        writeln!(std::io::stderr(), "SKIPPED: {test}: {why}").ok();
    }
    binary
}

async fn publish(jetstream: &JetStream, stream: &str, mode: Mode) {
    let tally = Arc::new(Tally::new(Spans::QUICK, Some(WINDOW)));
    let mut publisher = jetstream.publisher(stream, mode, Arc::clone(&tally)).await.unwrap();
    let events = Events::new(1024);
    for index in 0..MESSAGES {
        tally.room().await;
        let due = tally.clock().now();
        publisher.send(events.value(Stamp { index, due }), due).await.unwrap();
    }
    publisher.finish().await.unwrap();
    let published = tally.end(Latencies::new(), Duration::ZERO).unwrap();
    assert_eq!(published.total, MESSAGES);
}

async fn read(jetstream: &JetStream, region: usize, stream: &str) {
    let mut reader = jetstream.reader(region, stream).await.unwrap();
    for index in 0..MESSAGES {
        let value = reader.next().await.unwrap();
        assert_eq!(Stamp::of(&value).unwrap().index, index);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_mirrored_and_read_in_both_regions() {
    let Some(binary) = binary_or_skip("what_is_published_is_mirrored_and_read_in_both_regions") else {
        return;
    };
    let sites = [Site::loopback("us"), Site::loopback("eu")];
    for sync in [Sync::Lazy, Sync::Always] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("jetstream");
        let jetstream = JetStream::start(&binary, Options { sync }, &sites, dir.clone()).await.unwrap();
        assert_eq!(jetstream.nodes().iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["us", "eu"]);

        // A mirror from the beginning, and one that has to catch up.
        jetstream.create("live").await.unwrap();
        jetstream.mirror("live").await.unwrap();
        publish(&jetstream, "live", Mode::Single).await;
        jetstream.create("backlog").await.unwrap();
        publish(&jetstream, "backlog", Mode::Batched).await;
        assert_eq!(jetstream.stored(0, "backlog").await.unwrap(), MESSAGES);
        jetstream.mirror("backlog").await.unwrap();

        for stream in ["live", "backlog"] {
            jetstream.verify(stream, MESSAGES).await.unwrap();
            read(&jetstream, 0, stream).await;
            read(&jetstream, 1, stream).await;
        }
        let pids: Vec<u32> = jetstream.nodes().iter().map(|node| node.pid).collect();
        jetstream.end().await.unwrap();
        assert!(!dir.exists() && pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
    }
}

#[tokio::test]
async fn one_region_needs_no_other_and_an_unknown_stream_is_an_error() {
    let Some(binary) = binary_or_skip("one_region_needs_no_other_and_an_unknown_stream_is_an_error") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (options, sites) = (Options { sync: Sync::Lazy }, [Site::loopback("us")]);
    let jetstream = JetStream::start(&binary, options, &sites, dir.path().join("jetstream")).await.unwrap();
    assert!(jetstream.stored(0, "nosuch").await.is_err());
    assert!(jetstream.reader(0, "nosuch").await.is_err());
    assert!(jetstream.mirror("nosuch").await.is_err());
    // Nobody listens on the subject: that is a failure of the row, not a wait without an end.
    let tally = Arc::new(Tally::new(Spans::QUICK, Some(1)));
    let mut publisher = jetstream.publisher("nosuch", Mode::Single, Arc::clone(&tally)).await.unwrap();
    publisher.send(Bytes::from_static(b"x"), Duration::ZERO).await.unwrap();
    publisher.finish().await.unwrap();
    assert!(tally.has_failed());
    jetstream.create("empty").await.unwrap();
    jetstream.verify("empty", 0).await.unwrap();
    jetstream.end().await.unwrap();
}
