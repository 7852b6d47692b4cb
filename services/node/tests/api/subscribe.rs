//! What a reader gets: from where it asked, within its credit, and when it has all.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use meridian_types::{Cursor, Offset, Origin, Partition, RegionId, StreamId};
use meridian_wire::Reason::*;
use meridian_wire::v1::subscribe_response::Response;
use meridian_wire::v1::subscribe_start::From;
use meridian_wire::{ApiError, v1};
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::support::*;

const PLENTY: u64 = 1 << 30;
const QUIET: Duration = Duration::from_millis(400);

struct Reader {
    requests: mpsc::Sender<v1::SubscribeRequest>,
    answers: Streaming<v1::SubscribeResponse>,
    started: v1::SubscribeStarted,
}

impl Reader {
    async fn open(node: &TestNode, stream: &str, from: From, credit_bytes: u64) -> Self {
        let (requests, outgoing) = mpsc::channel(16);
        let start = v1::SubscribeStart { stream: Some(named(stream)), from: Some(from), credit_bytes };
        requests
            .send(v1::SubscribeRequest { request: Some(v1::subscribe_request::Request::Start(start)) })
            .await
            .unwrap();
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
        let answers = node.events().subscribe(outgoing).await.unwrap().into_inner();
        let mut reader = Self { requests, answers, started: v1::SubscribeStarted::default() };
        let Ok(Response::Started(started)) = reader.next().await else { panic!("first of all it starts") };
        reader.started = started;
        reader
    }

    async fn next(&mut self) -> Result<Response, ApiError> {
        let answer = tokio::time::timeout(WITHIN, self.answers.message()).await.expect("an answer in time");
        answer.map(|answer| answer.expect("the stream goes on").response.unwrap()).map_err(refusal)
    }

    async fn batch(&mut self) -> v1::Batch {
        loop {
            match self.next().await.unwrap() {
                Response::Batch(batch) => return batch,
                Response::Mark(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Everything until it has caught up, and the cursor there.
    async fn all(&mut self) -> (Vec<v1::Batch>, Vec<u8>) {
        let mut batches = Vec::new();
        loop {
            match self.next().await.unwrap() {
                Response::Batch(batch) => batches.push(batch),
                Response::Mark(mark) if mark.caught_up => return (batches, mark.cursor.to_vec()),
                Response::Mark(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn is_quiet(&mut self) -> bool {
        tokio::time::timeout(QUIET, self.answers.message()).await.is_err()
    }

    async fn credit(&self, bytes: u64) {
        let credit = v1::subscribe_request::Request::Credit(v1::Credit { bytes });
        self.requests.send(v1::SubscribeRequest { request: Some(credit) }).await.unwrap();
    }
}

fn earliest() -> From {
    From::Earliest(v1::Earliest {})
}

fn values(batches: &[v1::Batch]) -> BTreeMap<u32, Vec<String>> {
    let mut values: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for batch in batches {
        let records = meridian_batch::decode(batch.batch.clone(), &meridian_batch::Limits::DEFAULT).unwrap();
        for record in records.filter(|record| record.offset.0 >= batch.first_wanted) {
            let text = String::from_utf8(record.event.value.unwrap().to_vec()).unwrap();
            values.entry(batch.lane.unwrap().partition).or_default().push(text);
        }
    }
    values
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_the_earliest_the_latest_a_time_and_a_cursor() {
    let node = TestNode::start().await;
    let stream = node.create("a", 2).await;
    for (time, value) in [(1000, "one"), (2000, "two"), (3000, "three"), (2500, "late")] {
        let event = v1::Event { partition: Some(0), timestamp_ms: Some(time), ..value_event(value) };
        node.publish(publish_of("a", vec![event])).await.unwrap();
    }
    node.fill("a", 1, &["other"]).await;

    let mut reader = Reader::open(&node, "a", earliest(), PLENTY).await;
    assert_eq!((reader.started.stream_id, reader.started.partitions), (stream.id, 2));
    let (batches, end) = reader.all().await;
    let all = BTreeMap::from([
        (0, vec!["one".to_owned(), "two".into(), "three".into(), "late".into()]),
        (1, vec!["other".to_owned()]),
    ]);
    assert_eq!(values(&batches), all);
    for batch in &batches {
        assert!(batch.hlc > 0 && batch.events == 1 && batch.first_wanted == batch.base_offset, "{batch:?}");
    }

    // The mark's cursor is where it goes on; and so is that of `started`.
    let mut reader = Reader::open(&node, "a", From::Cursor(end.clone().into()), PLENTY).await;
    assert_eq!(reader.all().await.0.len(), 0);
    let cursor = Cursor::from_bytes(&end).unwrap();
    let us = Origin::first(RegionId(1));
    assert_eq!((cursor.next(us, Partition(0)), cursor.next(us, Partition(1))), (Offset(4), Offset(1)));
    assert_eq!(Cursor::from_bytes(&reader.started.cursor).unwrap(), cursor);

    let mut latest = Reader::open(&node, "a", From::Latest(v1::Latest {}), PLENTY).await;
    assert_eq!(latest.all().await.0.len(), 0);
    node.fill("a", 0, &["five"]).await;
    let batch = latest.batch().await;
    assert_eq!((batch.base_offset, values(&[batch])), (4, BTreeMap::from([(0, vec!["five".to_owned()])])));

    // By time: from the first batch on that holds an event of then or later.
    let mut reader = Reader::open(&node, "a", From::TimeMs(2001), PLENTY).await;
    let (batches, _) = reader.all().await;
    assert_eq!(values(&batches)[&0], ["three", "late", "five"]);
    let mut reader = Reader::open(&node, "a", From::TimeMs(u64::MAX >> 16), PLENTY).await;
    assert_eq!(reader.all().await.0.len(), 0, "nothing is so late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_no_more_still_reads_as_far_as_its_credit_goes() {
    let node = TestNode::start().await;
    node.create("a", 1).await;
    node.fill("a", 0, &["before"]).await;
    let Reader { requests, mut answers, .. } = Reader::open(&node, "a", earliest(), 100).await;
    drop(requests);
    let mut got = Vec::new();
    for value in ["one", "two", "three", "four"] {
        node.fill("a", 0, &[value]).await;
    }
    while let Some(answer) = tokio::time::timeout(WITHIN, answers.message()).await.expect("it ends").unwrap()
    {
        if let Some(Response::Batch(batch)) = answer.response {
            got.push(batch);
        }
    }
    assert!(values(&got)[&0].starts_with(&["before".to_owned()]), "{got:?}");
    let bytes: usize = got.iter().map(|batch| batch.batch.len()).sum();
    assert!(bytes >= 100, "all of its credit was used: {bytes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_begins_before_what_is_wanted_comes_whole_and_says_so() {
    let node = TestNode::start().await;
    let stream = node.create("a", 1).await;
    node.batch(batch_request("a", 0, batch_of(&["0", "1", "2", "3", "4"], None))).await.unwrap();
    node.batch(batch_request("a", 0, batch_of(&["5", "6"], None))).await.unwrap();
    for wanted in 0..7u64 {
        let mut cursor = Cursor::start(StreamId(stream.id));
        cursor.set(Origin::first(RegionId(1)), Partition(0), Offset(wanted));
        let mut reader = Reader::open(&node, "a", From::Cursor(cursor.to_bytes().into()), PLENTY).await;
        let (batches, _) = reader.all().await;
        assert_eq!(batches[0].first_wanted, wanted);
        assert!(
            batches[0].base_offset <= wanted
                && wanted < batches[0].base_offset + u64::from(batches[0].events)
        );
        let expected: Vec<String> = (wanted..7).map(|n| n.to_string()).collect();
        assert_eq!(values(&batches)[&0], expected);
    }
    // Beyond the end it waits, and starts where it was told.
    let mut cursor = Cursor::start(StreamId(stream.id));
    cursor.set(Origin::first(RegionId(1)), Partition(0), Offset(8));
    let mut reader = Reader::open(&node, "a", From::Cursor(cursor.to_bytes().into()), PLENTY).await;
    assert_eq!(reader.all().await.0.len(), 0);
    node.batch(batch_request("a", 0, batch_of(&["7", "8"], None))).await.unwrap();
    assert_eq!(values(&[reader.batch().await])[&0], ["8"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_than_the_credit_and_one_batch() {
    let node = TestNode::start().await;
    node.create("a", 3).await;
    let value = "x".repeat(10_000);
    for n in 0..30 {
        node.batch(batch_request("a", n % 3, batch_of(&[&value], None))).await.unwrap();
    }
    let one = batch_of(&[&value], None).len() as u64;
    for credit in [1, one - 1, one, one + 1, 7 * one] {
        let mut reader = Reader::open(&node, "a", earliest(), credit).await;
        for _ in 0..3 {
            let mut got = 0;
            while got < credit {
                got += reader.batch().await.batch.len() as u64;
            }
            assert!(got < credit + one, "{got} bytes for a credit of {credit}");
            assert!(
                reader.is_quiet().await,
                "without credit nothing comes, nor a mark that all has been sent"
            );
            reader.credit(got).await;
        }
    }
    // What a batch took beyond the credit has to be given back too: else the window would be wider for each of them.
    let mut reader = Reader::open(&node, "a", earliest(), 1).await;
    assert_eq!(reader.batch().await.batch.len() as u64, one);
    reader.credit(one - 1).await;
    assert!(reader.is_quiet().await);
    reader.credit(1).await;
    reader.batch().await;
    // Nothing given, nothing sent; what is given later is as good.
    let mut reader = Reader::open(&node, "a", earliest(), 0).await;
    assert!(reader.is_quiet().await);
    reader.credit(PLENTY).await;
    assert_eq!(reader.all().await.0.len(), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_larger_than_what_is_read_at_once_comes_whole() {
    let node = TestNode::start_with(|config| {
        config.limits.delivery_bytes_in_flight = meridian_node::config::ByteSize::mib(16);
    })
    .await;
    node.create("a", 2).await;
    let value = "y".repeat(1 << 20);
    let values: Vec<&str> = vec![&value; 7];
    for n in 0..8 {
        node.batch(batch_request("a", n % 2, batch_of(&values, None))).await.unwrap();
        node.fill("a", n % 2, &["small"]).await;
    }
    // More readers than there is room for at once: each gets all in its turn.
    let mut readers = Vec::new();
    for _ in 0..6 {
        let mut reader = Reader::open(&node, "a", earliest(), PLENTY).await;
        readers.push(tokio::spawn(async move {
            let (batches, _) = reader.all().await;
            batches.iter().map(|batch| u64::from(batch.events)).sum::<u64>()
        }));
    }
    for reader in readers {
        assert_eq!(tokio::time::timeout(WITHIN, reader).await.expect("in time").unwrap(), 8 * 8);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_follows_the_catalog_and_starts_once() {
    let node = TestNode::start().await;
    node.create("a", 1).await;
    let mut reader = Reader::open(&node, "a", From::Latest(v1::Latest {}), PLENTY).await;
    reader.all().await;
    let settings = Some(v1::StreamSettings { partitions: 2, ..v1::StreamSettings::default() });
    let update = v1::UpdateStreamRequest { stream: Some(named("a")), settings, expected_version: 0 };
    node.streams().update_stream(update).await.unwrap();
    node.fill("a", 1, &["new"]).await;
    assert_eq!(
        values(&[reader.batch().await])[&1],
        ["new"],
        "a partition that came later is read from its start"
    );

    let mut twice = Reader::open(&node, "a", earliest(), PLENTY).await;
    let start = v1::SubscribeStart { stream: Some(named("a")), ..v1::SubscribeStart::default() };
    let start = v1::SubscribeRequest { request: Some(v1::subscribe_request::Request::Start(start)) };
    twice.requests.send(start).await.unwrap();
    let error = loop {
        if let Err(error) = twice.next().await {
            break error;
        }
    };
    assert_eq!(error.reason, InvalidArgument);

    node.streams().delete_stream(v1::DeleteStreamRequest { stream: Some(named("a")) }).await.unwrap();
    let error = loop {
        if let Err(error) = reader.next().await {
            break error;
        }
    };
    assert_eq!(error.reason, StreamNotFound);
}

const SLOW_READER: Duration = Duration::from_secs(3);

async fn until_cut_off(node: &TestNode, readers: u64) {
    let cut_off = r#"meridian_refused_requests_total{reason="SLOW_READER"}"#;
    until("slow readers are cut off", async || node.metric(cut_off).await == readers).await;
}

/// A reader that takes nothing is cut off, and told so if it ever reads again; its batches are still there for others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_takes_nothing_is_cut_off() {
    let node = TestNode::start_with(|config| {
        config.limits.slow_reader = meridian_node::config::Span::millis(SLOW_READER.as_millis() as u64);
        config.limits.subscribers = 1;
    })
    .await;
    node.create("a", 1).await;
    let value = "z".repeat(1 << 20);
    for _ in 0..8 {
        node.batch(batch_request("a", 0, batch_of(&[&value], None))).await.unwrap();
    }
    let mut slow = Reader::open(&node, "a", earliest(), PLENTY).await;
    until_cut_off(&node, 1).await;
    let error = loop {
        if let Err(error) = slow.next().await {
            break error;
        }
    };
    assert_eq!(error.reason, SlowReader, "{error}");
    // Its place is free again.
    let mut reader = Reader::open(&node, "a", earliest(), PLENTY).await;
    assert_eq!(reader.all().await.0.len(), 8);
    // One that does not even take that news loses its connection.
    drop(reader);
    let deaf = node.connect();
    let mut opened = None;
    until("a place", async || {
        let outgoing = tokio_stream::StreamExt::chain(
            tokio_stream::once(start_again(PLENTY)),
            tokio_stream::pending::<v1::SubscribeRequest>(),
        );
        match events(deaf.clone()).subscribe(outgoing).await {
            Ok(answers) => opened = Some(answers.into_inner()),
            // The last one's place is given back in a moment.
            Err(status) => assert_eq!(refusal(status).reason, Overloaded),
        }
        opened.is_some()
    })
    .await;
    let mut answers = opened.expect("a place");
    until_cut_off(&node, 2).await;
    // It has as long again to take the news, and some more for the connection to end.
    tokio::time::sleep(2 * SLOW_READER).await;
    let status = loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended as if all had been sent"),
            Err(status) => break status,
        }
    };
    assert!(ApiError::from_status(&status).is_none(), "the connection is closed: {status:?}");
}

fn start_again(credit_bytes: u64) -> v1::SubscribeRequest {
    let start = v1::SubscribeStart { stream: Some(named("a")), from: Some(earliest()), credit_bytes };
    v1::SubscribeRequest { request: Some(v1::subscribe_request::Request::Start(start)) }
}

/// Where a node's volume holds these bytes, once.
fn place_of(node: &TestNode, bytes: &[u8]) -> (PathBuf, u64) {
    let volume = node.config.file.parent().unwrap().join("volume");
    let files = std::fs::read_dir(volume).unwrap().map(|file| file.unwrap().path());
    let places = files.flat_map(|path| {
        let content = std::fs::read(&path).unwrap();
        let places = content.windows(bytes.len()).enumerate().filter(|(_, window)| *window == bytes);
        places.map(|(at, _)| (path.clone(), at as u64)).collect::<Vec<_>>()
    });
    let places: Vec<_> = places.collect();
    let [place] = &places[..] else { panic!("in one place, not {places:?}") };
    place.clone()
}

fn flip((path, at): &(PathBuf, u64)) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, *at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], *at).unwrap();
    file.sync_all().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_frame_is_waited_for_and_said_if_it_stays_so() {
    let mut node = TestNode::start().await;
    node.create("a", 2).await;
    node.fill("a", 0, &["one", "two-is-to-be-damaged", "three"]).await;
    // Nothing of it is in memory then.
    node.tell_to_stop();
    node.stopped().await;
    let place = place_of(&node, b"two-is-to-be-damaged");
    flip(&place);
    node.again().await;

    let mut reader = Reader::open(&node, "a", earliest(), PLENTY).await;
    assert_eq!(values(&[reader.batch().await])[&0], ["one"]);
    assert!(reader.is_quiet().await, "neither an error nor that this is all");
    // Other lanes go on.
    node.fill("a", 1, &["other"]).await;
    assert_eq!(values(&[reader.batch().await])[&1], ["other"]);
    assert!(reader.is_quiet().await);
    flip(&place);
    let (batches, cursor) = reader.all().await;
    assert_eq!(values(&batches)[&0], ["two-is-to-be-damaged", "three"]);
    assert_eq!(
        Cursor::from_bytes(&cursor).unwrap().next(Origin::first(RegionId(1)), Partition(0)),
        Offset(3)
    );

    flip(&place);
    let mut reader = Reader::open(&node, "a", earliest(), PLENTY).await;
    let begun = std::time::Instant::now();
    let error = loop {
        match reader.next().await {
            Ok(Response::Batch(_)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.reason, Damaged, "{error}");
    assert!(begun.elapsed() > Duration::from_secs(5), "after {:?}", begun.elapsed());
}
