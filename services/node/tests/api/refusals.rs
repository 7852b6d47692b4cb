//! Bad input: each has its code, its reason and, where waiting helps, its time; and leaves no trace.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use meridian_batch::layout::{ATTRIBUTES, CRC, LAST_OFFSET_DELTA, RECORDS_COUNT};
use meridian_batch::{BatchBuilder, Codec, Limits};
use meridian_types::limits::{BATCH_BYTES, EVENT_BYTES, PARTITIONS};
use meridian_types::{Cursor, StreamId};
use meridian_wire::Reason::{self, *};
use meridian_wire::v1;
use tonic::Code;
use tonic::client::GrpcService as _;

use crate::support::*;

const STREAM: &str = "orders";

/// A node with a stream of 2 partitions, that holds one event in partition 0.
async fn node() -> TestNode {
    let node = TestNode::start().await;
    node.create(STREAM, 2).await;
    node.fill(STREAM, 0, &["first"]).await;
    node
}

async fn assert_unchanged(node: &TestNode, what: &str) {
    assert_eq!((node.end(STREAM, 0).await, node.end(STREAM, 1).await), (1, 0), "{what} left a trace");
}

fn regions(k: u32) -> v1::Durability {
    v1::Durability { level: v1::durability::Level::Regions.into(), regions: k }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_none() {
    let node = node().await;
    let of =
        |tenant: &str, stream: &str| Some(v1::StreamRef { tenant: tenant.into(), stream: stream.into() });
    let long = "x".repeat(250);
    let cases: &[(Option<v1::StreamRef>, Reason)] = &[
        (of("default", "nope"), StreamNotFound),
        (of("default", ""), BadName),
        (of("default", "a/b"), BadName),
        (of("default", "-x"), BadName),
        (of("default", ".."), BadName),
        (of("default", "é"), BadName),
        (of("default", &long), BadName),
        (of("", STREAM), BadName),
        (of("a b", STREAM), BadName),
        (of("nobody", STREAM), TenantNotFound),
        (None, InvalidArgument),
    ];
    for (stream, reason) in cases {
        let what = format!("{stream:?}");
        let events = vec![value_event("x")];
        let publish = v1::PublishRequest { stream: stream.clone(), events, ..v1::PublishRequest::default() };
        assert_reason(node.publish(publish).await, *reason, &what);
        let batch = v1::PublishBatchesRequest {
            stream: stream.clone(),
            ..batch_request(STREAM, 0, batch_of(&["x"], None))
        };
        assert_reason(node.batch(batch).await, *reason, &what);
        let start = v1::SubscribeStart { stream: stream.clone(), ..v1::SubscribeStart::default() };
        let start = v1::SubscribeRequest { request: Some(v1::subscribe_request::Request::Start(start)) };
        let opened = node.events().subscribe(tokio_stream::once(start)).await;
        assert_reason(opened.map(|_| ()).map_err(refusal), *reason, &what);
        let got = node.streams().get_stream(v1::GetStreamRequest { stream: stream.clone() }).await;
        assert_reason(got.map_err(refusal), *reason, &what);
        let lanes = node.cluster().list_lanes(v1::ListLanesRequest { stream: stream.clone() }).await;
        assert_reason(lanes.map_err(refusal), *reason, &what);
        let deleted = node.streams().delete_stream(v1::DeleteStreamRequest { stream: stream.clone() }).await;
        assert_reason(deleted.map_err(refusal), *reason, &what);
        if *reason != StreamNotFound {
            let settings = Some(v1::StreamSettings { partitions: 1, ..v1::StreamSettings::default() });
            let create = v1::CreateStreamRequest { stream: stream.clone(), settings };
            assert_reason(node.streams().create_stream(create).await.map_err(refusal), *reason, &what);
        }
        assert_unchanged(&node, &what).await;
    }
    let error = node.publish(publish_of("nope", vec![value_event("x")])).await.unwrap_err();
    assert_eq!(error.metadata["stream"], "nope");
    assert!(error.message.contains("meridian stream create nope"), "{error}");
    for (tenant, reason) in [("", BadName), ("nobody", TenantNotFound)] {
        let request = v1::InitProducerRequest { tenant: tenant.into() };
        assert_reason(node.events().init_producer(request).await.map_err(refusal), reason, tenant);
        let request = v1::ListStreamsRequest { tenant: tenant.into(), ..v1::ListStreamsRequest::default() };
        assert_reason(node.streams().list_streams(request).await.map_err(refusal), reason, tenant);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_cannot_be() {
    let node = node().await;
    for partitions in [0, PARTITIONS + 1, u32::MAX] {
        let settings = Some(v1::StreamSettings { partitions, ..v1::StreamSettings::default() });
        let create = v1::CreateStreamRequest { stream: Some(named("new")), settings: settings.clone() };
        let refused = node.streams().create_stream(create).await.map_err(refusal);
        let error = assert_reason(refused, BadPartitionCount, "create");
        assert_eq!(error.metadata["limit"], "1024");
        let update = v1::UpdateStreamRequest { stream: Some(named(STREAM)), settings, expected_version: 0 };
        assert_reason(
            node.streams().update_stream(update).await.map_err(refusal),
            BadPartitionCount,
            "update",
        );
    }
    let create = v1::CreateStreamRequest { stream: Some(named("new")), settings: None };
    assert_reason(
        node.streams().create_stream(create).await.map_err(refusal),
        InvalidArgument,
        "no settings",
    );
    let get = v1::GetStreamRequest { stream: Some(named("new")) };
    assert_reason(
        node.streams().get_stream(get).await.map_err(refusal),
        StreamNotFound,
        "it was not created",
    );
    node.create("widest", PARTITIONS).await;

    for partition in [2, u32::MAX] {
        let error = assert_reason(
            node.batch(batch_request(STREAM, partition, batch_of(&["x"], None))).await,
            NoSuchPartition,
            "batch",
        );
        assert_eq!((error.reason.code(), error.metadata["partitions"].as_str()), (Code::OutOfRange, "2"));
        let event = v1::Event { partition: Some(partition), ..value_event("x") };
        assert_reason(node.publish(publish_of(STREAM, vec![event])).await, NoSuchPartition, "publish");
    }
    assert_unchanged(&node, "a partition that is not there").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_and_batches_over_the_limit() {
    let node = node().await;
    let at_limit = "x".repeat(EVENT_BYTES);
    let over = format!("{at_limit}x");
    let mut wide = Limits {
        event_bytes: 64 << 20,
        batch_bytes: 64 << 20,
        uncompressed_bytes: 64 << 20,
        ..Limits::DEFAULT
    };
    let build = |codec, limits: Limits, values: &[usize]| {
        let mut builder = BatchBuilder::new(codec).with_limits(limits);
        for &size in values {
            builder.push(&event(vec![b'x'; size])).unwrap();
        }
        builder.build().unwrap()
    };
    let error = assert_reason(
        node.publish(publish_of(STREAM, vec![value_event(&over)])).await,
        EventTooLarge,
        "publish",
    );
    assert!(error.message.contains("1048576"), "{error}");
    let with_header =
        v1::Event { headers: vec![v1::Header { key: "h".into(), value: None }], ..value_event(&at_limit) };
    assert_reason(node.publish(publish_of(STREAM, vec![with_header])).await, EventTooLarge, "headers count");
    let batch = build(Codec::None, wide, &[EVENT_BYTES + 1]);
    assert_reason(node.batch(batch_request(STREAM, 0, batch)).await, EventTooLarge, "in a batch");

    // Just over the limit: the walk finds it. Far over: the message is refused before it has come.
    for last in [1 << 10, EVENT_BYTES] {
        let mut sizes = vec![EVENT_BYTES; BATCH_BYTES / EVENT_BYTES];
        sizes.push(last);
        let batch = build(Codec::None, wide, &sizes);
        assert!(batch.len() > BATCH_BYTES);
        assert_reason(node.batch(batch_request(STREAM, 0, batch)).await, BatchTooLarge, "a batch");
        let events =
            sizes.iter().map(|&size| v1::Event { partition: Some(0), ..value_event(&"x".repeat(size)) });
        let refused = node.publish(publish_of(STREAM, events.collect())).await;
        assert_reason(refused, BatchTooLarge, "a publish");
    }
    wide.uncompressed_bytes = 512 << 20;
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let bomb = build(codec, wide, &[33 << 20]);
        assert!(bomb.len() < 4 << 20, "{codec} packs it into {}", bomb.len());
        assert_reason(node.batch(batch_request(STREAM, 0, bomb)).await, BatchTooLarge, "a bomb");
    }
    // Two bytes an event: what is small on the wire must not be large in memory.
    let many = publish_of(STREAM, vec![v1::Event::default(); 10_001]);
    assert_reason(node.publish(many).await, InvalidArgument, "too many events");
    let headers = vec![v1::Header::default(); 1_000_000];
    let many = publish_of(STREAM, vec![v1::Event { headers, ..v1::Event::default() }]);
    assert_reason(node.publish(many).await, InvalidArgument, "too many headers");
    let labels = (0..200_000).map(|n| (n.to_string(), String::new())).collect();
    let settings = Some(v1::StreamSettings { partitions: 1, labels, ..v1::StreamSettings::default() });
    let create = v1::CreateStreamRequest { stream: Some(named("labels")), settings };
    node.streams().create_stream(create).await.expect_err("too many labels");
    assert_unchanged(&node, "something too large").await;

    let event = v1::Event { partition: Some(1), ..value_event(&at_limit) };
    assert!(node.publish(publish_of(STREAM, vec![event])).await.is_ok(), "at the limit");
    assert!(
        node.batch(batch_request(STREAM, 1, build(Codec::Zstd, Limits::DEFAULT, &[EVENT_BYTES; 7])))
            .await
            .is_ok()
    );
    assert_eq!(node.end(STREAM, 1).await, 8);
}

/// Makes the CRC right again, as a liar would.
fn seal(batch: &mut [u8]) {
    let crc = crc32c::crc32c(&batch[ATTRIBUTES..]);
    batch[CRC..CRC + 4].copy_from_slice(&crc.to_be_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_are_cut_or_lie() {
    let node = node().await;
    let good = batch_of(&["a", "b", "c"], None);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut batch = good.to_vec();
        change(&mut batch);
        Bytes::from(batch)
    };
    let cases = [
        ("nothing at all", Bytes::new()),
        ("cut in the header", good.slice(..40)),
        ("cut at the end", good.slice(..good.len() - 1)),
        ("one byte more", with(&|b| b.push(0))),
        ("two batches", with(&|b| b.extend_from_slice(&good))),
        ("a flipped bit", with(&|b| *b.last_mut().unwrap() ^= 1)),
        (
            "a wrong count",
            with(&|b| {
                b[RECORDS_COUNT + 3] = 4;
                b[LAST_OFFSET_DELTA + 3] = 3;
                seal(b);
            }),
        ),
        (
            "no events",
            with(&|b| {
                b[RECORDS_COUNT + 3] = 0;
                seal(b);
            }),
        ),
        (
            "an unknown codec",
            with(&|b| {
                b[ATTRIBUTES + 1] = 7;
                seal(b);
            }),
        ),
        (
            "a codec that it is not packed with",
            with(&|b| {
                b[ATTRIBUTES + 1] = 4;
                seal(b);
            }),
        ),
        (
            "a transaction",
            with(&|b| {
                b[ATTRIBUTES + 1] = 1 << 4;
                seal(b);
            }),
        ),
        (
            "a control batch",
            with(&|b| {
                b[ATTRIBUTES + 1] = 1 << 5;
                seal(b);
            }),
        ),
        (
            "half a producer",
            with(&|b| {
                b[meridian_batch::layout::PRODUCER_ID..][..8].copy_from_slice(&5i64.to_be_bytes());
                seal(b);
            }),
        ),
        ("no batch", Bytes::from(vec![0xff; 300])),
    ];
    for (what, batch) in cases {
        assert_reason(node.batch(batch_request(STREAM, 0, batch)).await, BadBatch, what);
        assert_unchanged(&node, what).await;
    }
    // One bad batch stops nothing: what comes after it on the same stream is taken.
    let requests = [good.slice(..20), good.clone(), good.slice(..70), good.clone()];
    let requests: Vec<_> = (0..)
        .zip(requests)
        .map(|(id, batch)| v1::PublishBatchesRequest { request_id: id, ..batch_request(STREAM, 0, batch) })
        .collect();
    let mut answers = node.events().publish_batches(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut ok = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        if let Some(v1::publish_batches_response::Result::Published(published)) = answer.result {
            ok.push((answer.request_id, published.first.unwrap().offset));
        }
    }
    ok.sort_unstable();
    assert_eq!(ok, [(1, 1), (3, 4)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn durability_that_is_not_offered_is_not_ignored() {
    let node = node().await;
    for durability in [regions(1), regions(2), regions(0)] {
        let publish =
            v1::PublishRequest { durability: Some(durability), ..publish_of(STREAM, vec![value_event("x")]) };
        let error = assert_reason(node.publish(publish).await, DurabilityUnavailable, "publish");
        assert_eq!(error.reason.code(), Code::Unimplemented);
        let batch = v1::PublishBatchesRequest {
            durability: Some(durability),
            ..batch_request(STREAM, 0, batch_of(&["x"], None))
        };
        assert_reason(node.batch(batch).await, DurabilityUnavailable, "batch");
    }
    for durability in [
        v1::Durability { level: v1::durability::Level::Region.into(), regions: 2 },
        v1::Durability { level: 9, regions: 0 },
        v1::Durability { level: 0, regions: 3 },
    ] {
        let publish =
            v1::PublishRequest { durability: Some(durability), ..publish_of(STREAM, vec![value_event("x")]) };
        let error = node.publish(publish).await.expect_err("what is asked for is not what would be done");
        assert!(matches!(error.reason, InvalidArgument | DurabilityUnavailable), "{error}");
    }
    assert_unchanged(&node, "a durability").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursors_of_something_else() {
    let node = node().await;
    let other = node.create("other", 1).await.id;
    let mine = Cursor::start(StreamId(other - 1)).to_bytes();
    let mut flipped = mine.clone();
    flipped[3] ^= 1;
    let mut newer = mine.clone();
    newer[0] = 9;
    let cases = [
        ("of another stream", Cursor::start(StreamId(other)).to_bytes()),
        ("cut", mine[..mine.len() - 1].to_vec()),
        ("flipped", flipped),
        ("newer", newer),
        ("none", Vec::new()),
        ("garbage", vec![1; 4000]),
    ];
    for (what, cursor) in cases {
        let start = v1::SubscribeStart {
            stream: Some(named(STREAM)),
            from: Some(v1::subscribe_start::From::Cursor(cursor.into())),
            credit_bytes: 1,
        };
        let start = v1::SubscribeRequest { request: Some(v1::subscribe_request::Request::Start(start)) };
        let opened = node.events().subscribe(tokio_stream::once(start)).await;
        assert_reason(opened.map(|_| ()).map_err(refusal), BadCursor, what);
    }
    let token = v1::ListStreamsRequest { tenant: "default".into(), page_size: 1, page_token: "a/b".into() };
    assert_reason(node.streams().list_streams(token).await.map_err(refusal), InvalidArgument, "page token");
    let credit = v1::subscribe_request::Request::Credit(v1::Credit { bytes: 5 });
    let first = v1::SubscribeRequest { request: Some(credit) };
    let opened = node.events().subscribe(tokio_stream::once(first)).await;
    assert_reason(opened.map(|_| ()).map_err(refusal), InvalidArgument, "credit before the start");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producers_out_of_turn() {
    let node = node().await;
    let id = node.producer().await;
    assert_ne!(id, node.producer().await, "each gets its own");
    let send = |values: &'static [&'static str], epoch, sequence| {
        node.batch(batch_request(STREAM, 1, batch_of(values, Some((id, epoch, sequence)))))
    };
    assert_reason(send(&["x"], 0, 3).await, ProducerExpired, "nothing is known of it");
    assert_unchanged(&node, "an unknown producer").await;

    let first = send(&["a", "b"], 0, 0).await.unwrap();
    assert_eq!((first.first.as_ref().unwrap().offset, first.events, first.duplicate), (0, 2, false));
    let second = send(&["c"], 0, 2).await.unwrap();
    assert_eq!(second.first.as_ref().unwrap().offset, 2);
    for sequence in [0, 1, 4, i32::MAX] {
        let error =
            assert_reason(send(&["x", "y", "z"], 0, sequence).await, OutOfSequence, "a gap or an overlap");
        assert_eq!(
            (error.reason.code(), error.metadata["expected"].as_str()),
            (Code::FailedPrecondition, "3")
        );
    }
    let again = send(&["a", "b"], 0, 0).await.unwrap();
    assert!(again.duplicate && again.first == first.first, "{again:?}");
    assert_eq!(node.end(STREAM, 1).await, 3);

    assert_reason(send(&["x"], 1, 3).await, OutOfSequence, "a new epoch begins at 0");
    assert_eq!(send(&["d"], 1, 0).await.unwrap().first.unwrap().offset, 3);
    let error = assert_reason(send(&["x"], 0, 3).await, ProducerFenced, "an older epoch");
    assert_eq!((error.reason.code(), error.metadata["epoch"].as_str()), (Code::FailedPrecondition, "1"));
    assert_eq!(node.end(STREAM, 1).await, 4);

    // The same over Publish.
    let producer = |epoch, sequence| Some(v1::Producer { id, epoch, sequence });
    let publish = |producer, events: Vec<v1::Event>| {
        node.publish(v1::PublishRequest { producer, ..publish_of(STREAM, events) })
    };
    let to = |partition: u32| v1::Event { partition: Some(partition), ..value_event("e") };
    assert_reason(publish(producer(0, 3), vec![to(1)]).await, ProducerFenced, "publish");
    assert_reason(publish(producer(1, 9), vec![to(1)]).await, OutOfSequence, "publish");
    assert_reason(publish(producer(1, 1), vec![to(0), to(1)]).await, InvalidArgument, "two partitions");
    for bad in [(id, 40_000, 0), (id, -1, 0), (id, 1, -1), (-5, 0, 0)] {
        let producer = Some(v1::Producer { id: bad.0, epoch: bad.1, sequence: bad.2 });
        assert_reason(publish(producer, vec![to(1)]).await, InvalidArgument, "no producer");
    }
    assert_eq!((node.end(STREAM, 0).await, node.end(STREAM, 1).await), (1, 4));
    let taken = publish(producer(1, 1), vec![to(1)]).await.unwrap();
    let again = publish(producer(1, 1), vec![to(1)]).await.unwrap();
    assert_eq!(position(&taken[0]), position(&again[0]));
    assert_eq!(node.end(STREAM, 1).await, 5);
}

/// Past its deadline a publish is neither forgotten nor doubled: only the answer is given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_the_deadline_only_the_answer_is_lost() {
    let node = node().await;
    let id = node.producer().await;
    // So much is written by the thread that is held up.
    let value = "x".repeat(100_000);
    for sequence in 0..3 {
        let request = |deadline_ms| v1::PublishRequest {
            deadline_ms,
            producer: Some(v1::Producer { id, epoch: 0, sequence }),
            ..publish_of(STREAM, vec![v1::Event { partition: Some(1), ..value_event(&value) }])
        };
        let held = node.disk.hold();
        for attempt in ["the first", "a retry of it"] {
            assert_reason(node.publish(request(20)).await, DeadlineExceeded, attempt);
        }
        let patient = request(0);
        let (results, ()) = tokio::join!(node.publish(patient), async { drop(held) });
        assert_eq!(position(&results.unwrap()[0]).unwrap().offset, sequence as u64);
    }
    assert_eq!(node.end(STREAM, 1).await, 3, "each once");
}

/// More than the node has places for, and more than it has room for: told to come back, and when.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_there_is_room_for_is_told_when_to_come_back() {
    let node = TestNode::start_with(|config| {
        config.limits.requests = 3;
        config.limits.subscribers = 1;
    })
    .await;
    node.create(STREAM, 1).await;
    let open = || async {
        let (requests, outgoing) = tokio::sync::mpsc::channel(1);
        let start = v1::SubscribeStart { stream: Some(named(STREAM)), ..v1::SubscribeStart::default() };
        let start = v1::SubscribeRequest { request: Some(v1::subscribe_request::Request::Start(start)) };
        requests.send(start).await.unwrap();
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
        node.events().subscribe(outgoing).await.map(|answers| (requests, answers)).map_err(refusal)
    };
    let first = open().await.unwrap();
    let error = assert_reason(open().await.map(|_| ()), Overloaded, "a second subscriber");
    assert_eq!(
        (error.reason.code(), error.retry_after),
        (Code::ResourceExhausted, Some(Duration::from_secs(5)))
    );
    // Streams that say nothing take the places that are left.
    let mut idle = Vec::new();
    until("two more places", async || {
        let (requests, outgoing) = tokio::sync::mpsc::channel::<v1::PublishBatchesRequest>(1);
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
        match node.events().publish_batches(outgoing).await {
            Ok(answers) => idle.push((requests, answers)),
            // The place of the one that was refused is given back in a moment.
            Err(status) => assert_eq!(refusal(status).reason, Overloaded),
        }
        idle.len() == 2
    })
    .await;
    let error =
        assert_reason(node.publish(publish_of(STREAM, vec![value_event("x")])).await, Overloaded, "a place");
    assert!(error.retry_after.is_some_and(|wait| wait > Duration::ZERO), "{error:?}");
    idle.pop();
    drop(first);
    let begun = std::time::Instant::now();
    while let Err(error) = node.publish(publish_of(STREAM, vec![value_event("x")])).await {
        assert_eq!(error.reason, Overloaded);
        assert!(begun.elapsed() < WITHIN, "places are never given back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Announces a message of 8 MiB, sends the beginning of it, and no more.
struct Half(Option<Bytes>);

impl http_body::Body for Half {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, tonic::Status>>> {
        match self.0.take() {
            Some(begin) => Poll::Ready(Some(Ok(http_body::Frame::data(begin)))),
            None => Poll::Pending,
        }
    }
}

/// Room that was taken by announcing a message is given to others if the message does not come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_never_comes_whole_does_not_keep_its_room() {
    let node = TestNode::start_with(|config| {
        config.limits.publish_bytes_in_flight = meridian_node::config::ByteSize::mib(16);
    })
    .await;
    node.create(STREAM, 1).await;
    let mut begin = vec![0];
    // With what is taken for the batches that may be made of it: half of all there is.
    begin.extend_from_slice(&(8 * 1024 * 1024 - 64 * 1024u32).to_be_bytes());
    begin.resize(1000, 7);
    let mut halves = Vec::new();
    for _ in 0..2 {
        let mut channel = node.connect();
        let request = http::Request::post("/meridian.v1.EventService/Publish")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(tonic::body::Body::new(Half(Some(Bytes::from(begin.clone())))))
            .unwrap();
        halves.push(tokio::spawn(async move {
            std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
            let answer = channel.call(request).await.unwrap();
            tonic::Status::from_header_map(answer.headers()).expect("a refusal")
        }));
    }
    let publish = || node.publish(publish_of(STREAM, vec![value_event("x")]));
    until("both have announced their messages", async || {
        node.metric("meridian_request_bytes_in_hand").await == 16 << 20
    })
    .await;
    let error = assert_reason(publish().await, Overloaded, "all room is taken");
    assert_eq!(error.retry_after, Some(Duration::from_millis(250)));
    assert_eq!(error.metadata["limit_bytes"], (16 << 20).to_string());
    for half in halves {
        let status = tokio::time::timeout(WITHIN, half).await.expect("it is given up").unwrap();
        assert_eq!(refusal(status).reason, Overloaded);
    }
    assert!(publish().await.is_ok());
}
