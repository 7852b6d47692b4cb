//! The consumer over real sockets to a fake region.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use meridian_batch::{BatchBuilder, Codec};
use meridian_sdk::types::{Cursor, Origin, RegionId, Timestamp};
use meridian_sdk::{ConsumeError, Consumer, ConsumerOptions, Item, Reason, SdkError, StartFrom};
use support::{CutProxy, FakeServer, Faults, client};

const PARTITIONS: u32 = 2;

/// Batches of 1 to 20 numbered events from three origins in each partition: what each lane holds.
fn fill(server: &FakeServer, batches: u64, from: u64) -> BTreeMap<(u32, u16), Vec<u64>> {
    let mut lanes: BTreeMap<(u32, u16), Vec<u64>> = BTreeMap::new();
    let mut number = from;
    for batch in 0..batches {
        let (partition, region) = ((batch % 2) as u32, 1 + (batch % 3) as u16);
        let mut builder = BatchBuilder::new(Codec::Lz4);
        for _ in 0..=batch % 20 {
            let value = Some(Bytes::from(format!("{number:0100}")));
            let event = meridian_batch::Event { value, timestamp: Timestamp(1), ..Default::default() };
            builder.push(&event).unwrap();
            lanes.entry((partition, region)).or_default().push(number);
            number += 1;
        }
        server.store.lock().mirror("s", region, partition, &builder.build().unwrap());
    }
    server.appended();
    lanes
}

/// Reads until caught up, and checks that offsets follow each other.
async fn read(consumer: &mut Consumer) -> BTreeMap<(u32, u16), Vec<u64>> {
    let mut lanes: BTreeMap<(u32, u16), Vec<u64>> = BTreeMap::new();
    let mut tries = false;
    loop {
        // What has come already is taken without waiting, every other time.
        tries = !tries;
        let at_hand = if tries { consumer.try_next().map(Item::Event) } else { None };
        let item = match at_hand {
            Some(item) => item,
            None => consumer.next().await.unwrap(),
        };
        match item {
            Item::Event(event) => {
                let text = String::from_utf8(event.value.unwrap().to_vec()).unwrap();
                let key = (event.lane.partition.0, event.lane.origin.region.0);
                lanes.entry(key).or_default().push(text.parse().unwrap());
            }
            Item::Gap(gap) => panic!("{gap:?}"),
            Item::Mark(mark) if mark.caught_up => return lanes,
            Item::Mark(_) => {}
        }
    }
}

fn options(from: StartFrom, credit_bytes: u64) -> ConsumerOptions {
    ConsumerOptions { from, credit_bytes, timeout: Duration::from_secs(10) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_cut_anywhere_skip_nothing_and_repeat_nothing() {
    let mut cuts = 0;
    for seed in 0..12 {
        let server = FakeServer::start(seed, PARTITIONS);
        let expected = fill(&server, 600, 0);
        let proxy = CutProxy::start(server.address, seed, 30_000).await;
        // So little credit that it must be given again and again.
        let credit = if seed % 2 == 0 { 4_000 } else { 8 << 20 };
        let client = client(std::slice::from_ref(&proxy.endpoint));
        let mut consumer = client.consumer("s", options(StartFrom::Start, credit)).unwrap();
        assert_eq!(read(&mut consumer).await, expected, "seed {seed}");
        cuts += proxy.cuts();
    }
    assert!(cuts > 20, "{cuts} cuts");
}

#[tokio::test]
async fn the_latest_position_is_reached_with_the_last_event_before_it() {
    let server = FakeServer::start(1, PARTITIONS);
    let client = client(&[server.endpoint()]);
    let empty = client.latest("s").await.unwrap();
    assert!(Cursor::start(empty.cursor.stream).has_reached(&empty.cursor), "nothing is before it");
    assert_eq!(empty.confirmed, Origin::first(RegionId(1)));
    let expected = fill(&server, 60, 0);
    let latest = client.latest("s").await.unwrap();
    fill(&server, 60, 100_000);
    let mut consumer = client.consumer("s", options(StartFrom::Start, 1 << 20)).unwrap();
    let mut seen: BTreeMap<(u32, u16), u64> = BTreeMap::new();
    while !consumer.cursor().is_some_and(|cursor| cursor.has_reached(&latest.cursor)) {
        if let Item::Event(event) = consumer.next().await.unwrap() {
            *seen.entry((event.lane.partition.0, event.lane.origin.region.0)).or_default() += 1;
        }
    }
    for (lane, values) in expected {
        assert!(seen[&lane] >= values.len() as u64, "{lane:?}: {} of {}", seen[&lane], values.len());
    }
    let absent = client.latest("absent").await.unwrap_err();
    let SdkError::Refused(refused) = &absent else { panic!("{absent}") };
    assert_eq!(refused.reason, Reason::StreamNotFound);
}

#[tokio::test]
async fn what_is_damaged_is_asked_for_again_until_the_time_is_over() {
    let server = FakeServer::start(1, PARTITIONS);
    let expected = fill(&server, 60, 0);
    let client = client(&[server.endpoint()]);
    server.faults(Faults { damaged: 2, ..Faults::default() });
    let mut consumer = client.consumer("s", options(StartFrom::Start, 1 << 20)).unwrap();
    assert_eq!(read(&mut consumer).await, expected, "repaired meanwhile");

    server.faults(Faults { damaged: u32::MAX, ..Faults::default() });
    let begun = std::time::Instant::now();
    let timeout = Duration::from_secs(1);
    let mut consumer =
        client.consumer("s", ConsumerOptions { timeout, ..options(StartFrom::Start, 1 << 20) }).unwrap();
    let error = loop {
        if let Err(error) = consumer.next().await {
            break error;
        }
    };
    let ConsumeError::Client(SdkError::Refused(refused)) = &error else { panic!("{error}") };
    assert_eq!(refused.reason, Reason::Damaged);
    assert!(begun.elapsed() >= timeout);
}

#[tokio::test]
async fn a_cursor_goes_on_where_it_was_taken() {
    let server = FakeServer::start(1, PARTITIONS);
    let mut expected = fill(&server, 100, 0);
    let client = client(&[server.endpoint()]);
    let mut consumer = client.consumer("s", options(StartFrom::Start, 1 << 20)).unwrap();
    let mut seen: BTreeMap<(u32, u16), Vec<u64>> = BTreeMap::new();
    let mut add = |lanes: BTreeMap<(u32, u16), Vec<u64>>| {
        lanes.into_iter().for_each(|(lane, numbers)| seen.entry(lane).or_default().extend(numbers));
    };
    for _ in 0..137 {
        let Item::Event(event) = consumer.next().await.unwrap() else { continue };
        let text = String::from_utf8(event.value.unwrap().to_vec()).unwrap();
        let key = (event.lane.partition.0, event.lane.origin.region.0);
        add(BTreeMap::from([(key, vec![text.parse().unwrap()])]));
    }
    // In the middle of a batch, through text, into another consumer.
    let cursor: Cursor = consumer.cursor().unwrap().to_string().parse().unwrap();
    let mut consumer = client.consumer("s", options(StartFrom::Cursor(cursor), 1 << 20)).unwrap();
    add(read(&mut consumer).await);
    for (lane, numbers) in fill(&server, 50, 10_000) {
        expected.entry(lane).or_default().extend(numbers);
    }
    add(read(&mut consumer).await);
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn the_end_is_what_comes_from_now_on() {
    let server = FakeServer::start(2, PARTITIONS);
    fill(&server, 30, 0);
    let client = client(&[server.endpoint()]);
    let mut consumer = client.consumer("s", options(StartFrom::End, 1 << 20)).unwrap();
    assert!(read(&mut consumer).await.is_empty());
    let expected = fill(&server, 30, 500);
    assert_eq!(read(&mut consumer).await, expected);
}

#[tokio::test]
async fn a_node_that_is_killed_and_comes_back_is_read_on() {
    let mut server = FakeServer::start(3, PARTITIONS);
    let mut expected = fill(&server, 60, 0);
    let client = client(&[server.endpoint()]);
    let mut consumer = client.consumer("s", options(StartFrom::Start, 1 << 20)).unwrap();
    let mut seen = read(&mut consumer).await;
    server.kill();
    for (lane, numbers) in fill(&server, 60, 1000) {
        expected.entry(lane).or_default().extend(numbers);
    }
    server.restart();
    for (lane, numbers) in read(&mut consumer).await {
        seen.entry(lane).or_default().extend(numbers);
    }
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn refusals_and_silence_are_told_apart() {
    let mut server = FakeServer::start(4, PARTITIONS);
    let client = client(&[server.endpoint()]);
    let mut consumer = client.consumer("nope", options(StartFrom::Start, 1 << 20)).unwrap();
    let refused = consumer.next().await;
    assert!(
        matches!(&refused, Err(ConsumeError::Client(SdkError::Refused(e))) if e.reason == Reason::StreamNotFound),
        "{refused:?}"
    );
    server.kill();
    let patience = ConsumerOptions { timeout: Duration::from_millis(200), ..ConsumerOptions::default() };
    let mut consumer = client.consumer("s", patience).unwrap();
    let silent = consumer.next().await;
    assert!(matches!(silent, Err(ConsumeError::Client(SdkError::Unreachable { .. }))), "{silent:?}");
}

#[tokio::test]
async fn a_node_that_listens_and_takes_nobody_in_is_silent() {
    // Connections come up in its backlog, and nothing ever answers on them.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = client(&[listener.local_addr().unwrap().to_string()]);
    let patience = ConsumerOptions { timeout: Duration::from_millis(300), ..ConsumerOptions::default() };
    let mut consumer = client.consumer("s", patience).unwrap();
    let begun = std::time::Instant::now();
    let silent = consumer.next().await;
    assert!(matches!(silent, Err(ConsumeError::Client(SdkError::Unreachable { .. }))), "{silent:?}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_damaged_batch_is_an_error_and_not_skipped() {
    let server = FakeServer::start(5, PARTITIONS);
    fill(&server, 10, 0);
    for log in server.store.lock().streams.get_mut("s").unwrap().lanes.values_mut() {
        for batch in &mut log.batches {
            let mut bytes = batch.bytes.to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            batch.bytes = bytes.into();
        }
    }
    let client = client(&[server.endpoint()]);
    let mut consumer = client.consumer("s", options(StartFrom::Start, 1 << 20)).unwrap();
    assert!(matches!(consumer.next().await, Err(ConsumeError::Damaged { .. })));
}
