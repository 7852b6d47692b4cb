//! What clients leave behind, or never end, takes no memory and no room from others.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Body as _;
use meridian_node::config::ByteSize;
use meridian_types::limits::{BATCH_BYTES, CURSOR_LANES, PARTITIONS};
use meridian_types::{Cursor, Incarnation, Offset, Origin, Partition, RegionId, StreamId};
use meridian_wire::Reason::*;
use meridian_wire::{framed, v1};
use tokio::sync::mpsc;
use tonic::Status;
use tonic::client::GrpcService as _;
use v1::subscribe_request::Request as In;
use v1::subscribe_start::From;

use crate::support::*;

const STREAM: &str = "orders";
const IN_HAND: &str = "meridian_request_bytes_in_hand";
const MIB: usize = 1 << 20;

/// What a client sends, without an end.
struct Open(VecDeque<Bytes>);

impl http_body::Body for Open {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        match self.0.pop_front() {
            Some(part) => Poll::Ready(Some(Ok(http_body::Frame::data(part)))),
            None => Poll::Pending,
        }
    }
}

/// Calls past tonic's client, whose buffers would be among what is measured here.
async fn call(
    node: &TestNode,
    method: &str,
    parts: impl IntoIterator<Item = Bytes>,
) -> http::Response<tonic::body::Body> {
    let mut channel = node.connect();
    let request = http::Request::post(format!("/meridian.v1.EventService/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(Open(parts.into_iter().collect())))
        .unwrap();
    std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    channel.call(request).await.unwrap()
}

/// Reads so many bytes of an answer, and keeps none.
async fn skip(answer: &mut http::Response<tonic::body::Body>, bytes: usize) {
    let mut got = 0;
    while got < bytes {
        let frame = std::future::poll_fn(|context| Pin::new(answer.body_mut()).poll_frame(context)).await;
        got += frame.expect("it goes on").unwrap().into_data().expect("no end").len();
    }
}

fn small_node() -> impl Future<Output = TestNode> {
    TestNode::start_with(|config| {
        config.limits.publish_bytes_in_flight = ByteSize::mib(16);
        config.limits.delivery_bytes_in_flight = ByteSize::mib(16);
    })
}

fn start(from: From, credit_bytes: u64) -> v1::SubscribeRequest {
    let start = v1::SubscribeStart { stream: Some(named(STREAM)), from: Some(from), credit_bytes };
    v1::SubscribeRequest { request: Some(In::Start(start)) }
}

/// A request that came whole and is never ended keeps its room for a while, and not for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_that_is_never_ended_gives_its_room_back() {
    let node = small_node().await;
    node.create(STREAM, 1).await;
    let publish = publish_of(STREAM, vec![value_event(&"x".repeat(MIB - 1000))]);
    let answers = futures::future::join_all((0..8).map(|_| call(&node, "Publish", [framed(&publish)])));
    let taken = until("all have come", async || node.metric(IN_HAND).await > 8 * (MIB as u64 - 1000));
    let (answers, ()) = tokio::join!(answers, taken);
    for answer in answers {
        let status = Status::from_header_map(answer.headers()).expect("a refusal");
        assert_eq!(refusal(status).reason, Overloaded);
    }
    until("all room is given back", async || node.metric(IN_HAND).await == 0).await;
    assert_eq!(node.end(STREAM, 0).await, 0, "what was not ended was not taken");
    node.fill(STREAM, 0, &["after"]).await;
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Streams that once carried a large message and are idle since: its memory is not theirs for as long as they live.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_streams_keep_nothing_of_their_largest_message() {
    const STREAMS: usize = 64;
    let node = small_node().await;
    node.create(STREAM, 1).await;
    let values = vec!["y".repeat(MIB - 1000); 7];
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    node.batch(batch_request(STREAM, 0, batch_of(&values, None))).await.unwrap();
    let batch = framed(&batch_request(STREAM, 0, Bytes::from(vec![7; BATCH_BYTES])));
    let begin = framed(&start(From::Earliest(v1::Earliest {}), 1 << 30));

    let before = resident();
    let mut idle = Vec::new();
    for _ in 0..STREAMS {
        let mut publisher = call(&node, "PublishBatches", [batch.clone()]).await;
        skip(&mut publisher, 1).await;
        let mut reader = call(&node, "Subscribe", [begin.clone()]).await;
        skip(&mut reader, 7 * (MIB - 1000)).await;
        idle.push((publisher, reader));
    }
    let grown = resident().saturating_sub(before) as usize;
    let largest = STREAMS * (BATCH_BYTES + 7 * MIB);
    assert!(grown < largest / 3, "{} MiB more for {STREAMS} idle pairs of streams", grown / MIB);
    until("no room is theirs", async || node.metric(IN_HAND).await == 0).await;
}

/// While publishes take all room there is, readers give credit and operators look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_budget_stops_publishers_alone() {
    let node = small_node().await;
    node.create(STREAM, 1).await;
    node.fill(STREAM, 0, &["first"]).await;
    let (requests, outgoing) = mpsc::channel(4);
    requests.send(start(From::Earliest(v1::Earliest {}), 0)).await.unwrap();
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut answers = node.events().subscribe(outgoing).await.unwrap().into_inner();
    // Two messages are announced that take all of it.
    let mut announced = vec![0];
    announced.extend_from_slice(&(8 * MIB as u32 - 64 * 1024).to_be_bytes());
    let announced = Bytes::from(announced);
    let halves = futures::future::join_all((0..2).map(|_| call(&node, "Publish", [announced.clone()])));
    let others = async {
        until("all room is taken", async || node.metric(IN_HAND).await == 16 << 20).await;
        requests
            .send(v1::SubscribeRequest { request: Some(In::Credit(v1::Credit { bytes: 1 << 20 })) })
            .await
            .unwrap();
        loop {
            let answer =
                answers.message().await.expect("the subscription goes on").expect("and does not end");
            if let Some(v1::subscribe_response::Response::Batch(_)) = answer.response {
                break;
            }
        }
        node.cluster().get_lag(v1::GetLagRequest {}).await.unwrap();
        assert!(node.health().await.is_some());
        assert_eq!(node.metric(IN_HAND).await, 16 << 20, "all of that while it was full");
        let publish = node.publish(publish_of(STREAM, vec![value_event("x")])).await;
        assert_reason(publish, Overloaded, "a publish");
    };
    tokio::select! {
        () = others => {}
        _ = halves => panic!("they were given up before the others were done"),
    }
    // A request that is refused ends the subscription with its reason.
    let long = v1::SubscribeStart {
        stream: Some(v1::StreamRef { tenant: "x".repeat(3 * MIB), stream: "x".into() }),
        ..Default::default()
    };
    requests.send(v1::SubscribeRequest { request: Some(In::Start(long)) }).await.unwrap();
    let refused = loop {
        match answers.message().await {
            Ok(answer) => assert!(answer.is_some(), "it ended as if all had been read"),
            Err(status) => break refusal(status),
        }
    };
    assert_eq!(refused.reason, InvalidArgument);
}

/// As many events, and as many partitions, as one publish may have; and nothing of their room stays behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_widest_publishes_are_taken_and_give_all_back() {
    let node = small_node().await;
    node.create(STREAM, PARTITIONS).await;
    let to_all =
        (0..PARTITIONS).map(|partition| v1::Event { partition: Some(partition), ..value_event("x") });
    let publishes = [
        publish_of(STREAM, to_all.collect()),
        publish_of(STREAM, vec![v1::Event { partition: Some(3), ..v1::Event::default() }; 10_000]),
    ];
    for publish in publishes {
        let events = publish.events.len();
        let results = node.publish(publish).await.unwrap();
        assert_eq!(results.iter().filter_map(position).count(), events);
    }
    until("all room is given back", async || node.metric(IN_HAND).await == 0).await;
}

/// A cursor of as many lanes as there can be takes memory for as long as it is read from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_cursors_are_counted() {
    let node = small_node().await;
    let stream = node.create(STREAM, 1).await.id;
    let mut cursor = Cursor::start(StreamId(stream));
    for lane in 0..CURSOR_LANES as u32 {
        let origin = Origin { region: RegionId(1 + (lane >> 10) as u16), incarnation: Incarnation(1) };
        cursor.set(origin, Partition(lane & 1023), Offset(5));
    }
    let cursor = Bytes::from(cursor.to_bytes());
    let open = async || {
        let (requests, outgoing) = mpsc::channel(1);
        requests.send(start(From::Cursor(cursor.clone()), 1 << 20)).await.unwrap();
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
        let mut answers = node.events().subscribe(outgoing).await.map_err(refusal)?.into_inner();
        // It starts, and has caught up.
        for _ in 0..2 {
            answers.message().await.unwrap().unwrap();
        }
        Ok::<_, meridian_wire::ApiError>((requests, answers))
    };
    let mut readers = Vec::new();
    // Each takes 6 MiB of 48, and a little for its first bytes.
    for _ in 0..7 {
        readers.push(open().await.unwrap());
    }
    assert_reason(open().await.map(|_| ()), Overloaded, "one too many");
    readers.pop();
    until("its room is another's", async || open().await.is_ok()).await;
}
