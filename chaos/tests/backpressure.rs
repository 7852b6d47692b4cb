//! Memory stays within what the configuration says, whatever clients do: readers that never read, a flood of publishes,
//! publishers that never fetch their answers, messages that never come whole. What was acknowledged is kept, who has to
//! wait is told so, and afterwards the node serves as before.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_batch::{BatchBuilder, Codec};
use meridian_chaos::{Setup, World, get, say};
use meridian_sdk::v1::event_service_client::EventServiceClient;
use meridian_sdk::{
    ApiError, Client, ClientOptions, ConsumerOptions, Event, Item, PublisherOptions, Reason, v1,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::client::GrpcService as _;
use tonic::transport::{Channel, Endpoint};

const STREAM: &str = "flood";
const MIB: usize = 1 << 20;
/// How long the flood lasts.
const FLOOD: Duration = Duration::from_secs(6);
/// As configured below.
const SLOW_READER: Duration = Duration::from_secs(2);
/// Connections that flood, and the publishes of 4 MiB that each has under way: a gigabyte on the doorstep.
const FLOODERS: usize = 32;
const AT_ONCE: usize = 8;
const READERS: usize = 8;

fn settings(table: &mut toml::Table) {
    let limits: toml::Table = r#"
        publish_bytes_in_flight = "16MiB"
        delivery_bytes_in_flight = "16MiB"
        tail_bytes = "8MiB"
        index_memory_bytes = "16MiB"
        connections = 96
        connection_window_bytes = "512KiB"
        requests = 200
        subscribers = 8
        slow_reader = "2s"
    "#
    .parse()
    .expect("settings");
    table.insert("limits".to_owned(), limits.into());
}

fn connect(endpoint: &str) -> EventServiceClient<Channel> {
    // Little fits between: who does not read is soon noticed.
    let endpoint =
        Endpoint::from_shared(endpoint.to_owned()).expect("an endpoint").initial_stream_window_size(65_535);
    EventServiceClient::new(endpoint.connect_lazy()).max_encoding_message_size(16 * MIB)
}

fn stream() -> Option<v1::StreamRef> {
    Some(v1::StreamRef { tenant: "default".to_owned(), stream: STREAM.to_owned() })
}

/// A line of `/proc/PID/status`, in bytes.
fn memory(pid: u32, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the node runs");
    let found = status.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':')).expect(line);
    found.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") << 10
}

/// What the node shows under this name and these labels; 0 for labels that were not counted yet.
fn metric(world: &World, name: &str) -> u64 {
    let (status, text) = get(world.admin("us"), "/metrics").expect("metrics");
    assert_eq!(status, 200);
    match text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')) {
        Some(value) => value.parse().unwrap_or_else(|_| panic!("{name}: {value}")),
        None => {
            assert!(name.contains('{'), "there is no {name} in:\n{text}");
            0
        }
    }
}

/// What the flood came to.
#[derive(Default)]
struct Flood {
    /// By partition: the offsets that were acknowledged, and the number of each event.
    acknowledged: BTreeMap<u32, BTreeMap<u64, u64>>,
    refused: u64,
}

/// Publishes 4 MiB at a time, as many at once as it may, and asks no one whether that is wanted.
async fn flood(endpoint: String, numbers: Arc<AtomicU64>, until: Instant) -> Flood {
    let mut tasks = Vec::new();
    let client = connect(&endpoint);
    let payload = Bytes::from(vec![b'x'; MIB - 1024]);
    for _ in 0..AT_ONCE {
        let (mut client, payload, numbers) = (client.clone(), payload.clone(), numbers.clone());
        tasks.push(tokio::spawn(async move {
            let mut flood = Flood::default();
            while Instant::now() < until {
                let first = numbers.fetch_add(4, Ordering::Relaxed);
                let events = (first..first + 4).map(|number| v1::Event {
                    key: Some(Bytes::from(number.to_string())),
                    value: Some(payload.clone()),
                    partition: Some((first / 4 % 4) as u32),
                    ..v1::Event::default()
                });
                let request = v1::PublishRequest {
                    stream: stream(),
                    events: events.collect(),
                    ..v1::PublishRequest::default()
                };
                match client.publish(request).await {
                    Ok(answer) => {
                        for (number, result) in (first..).zip(answer.into_inner().results) {
                            let Some(v1::event_result::Result::Position(position)) = result.result else {
                                panic!("{result:?}")
                            };
                            let partition = position.lane.expect("a lane").partition;
                            let lane = flood.acknowledged.entry(partition).or_default();
                            assert!(lane.insert(position.offset, number).is_none(), "an offset given twice");
                        }
                    }
                    Err(status) => {
                        let error = ApiError::from_status(&status).unwrap_or_else(|| panic!("{status:?}"));
                        assert_eq!(error.reason, Reason::Overloaded, "{error}");
                        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
                        assert!(error.retry_after.is_some_and(|wait| wait > Duration::ZERO), "{error:?}");
                        flood.refused += 1;
                    }
                }
            }
            flood
        }));
    }
    let mut all = Flood::default();
    for task in tasks {
        let one = task.await.expect("a flooder");
        all.refused += one.refused;
        for (partition, lane) in one.acknowledged {
            all.acknowledged.entry(partition).or_default().extend(lane);
        }
    }
    all
}

/// Opens a subscription with all the credit there is, and never reads it. Gives what keeps it open.
async fn never_reads(endpoint: &str) -> tonic::Streaming<v1::SubscribeResponse> {
    let start =
        v1::SubscribeStart { stream: stream(), credit_bytes: 1 << 40, ..v1::SubscribeStart::default() };
    let start = v1::SubscribeRequest { request: Some(v1::subscribe_request::Request::Start(start)) };
    let requests = tokio_stream::StreamExt::chain(
        tokio_stream::once(start),
        tokio_stream::pending::<v1::SubscribeRequest>(),
    );
    connect(endpoint).subscribe(requests).await.expect("a place").into_inner()
}

/// A stream of batches, and that of their answers.
struct Batches {
    requests: mpsc::Sender<v1::PublishBatchesRequest>,
    answers: tonic::Streaming<v1::PublishBatchesResponse>,
}

impl Batches {
    async fn open(endpoint: &str) -> Self {
        let (requests, outgoing) = mpsc::channel(16);
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
        let answers = connect(endpoint).publish_batches(outgoing).await.expect("a place").into_inner();
        Self { requests, answers }
    }
}

/// Sends batches as fast as they are taken, and never fetches an answer. How many it has sent, if the node has not had
/// enough of it in time.
async fn never_fetches(Batches { requests, answers }: Batches, until: Instant) -> Result<(), u64> {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(&meridian_batch::Event::default()).expect("an event");
    let batch = builder.build().expect("a batch");
    let mut request_id = 0;
    loop {
        let request = v1::PublishBatchesRequest {
            request_id,
            stream: stream(),
            // A partition of its own: the others hold what is counted.
            partition: 4,
            batch: batch.clone(),
            ..v1::PublishBatchesRequest::default()
        };
        request_id += 1;
        match tokio::time::timeout_at(until.into(), requests.send(request)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => break Ok(()),
            Err(_) => {
                drop(answers);
                break Err(request_id);
            }
        }
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

/// Begins messages that never come whole; gives how many were given up by the node.
async fn never_comes_whole(endpoint: String, until: Instant) -> u64 {
    let mut given_up = 0;
    let endpoint = Endpoint::from_shared(endpoint).expect("an endpoint");
    let mut begin = vec![0];
    begin.extend_from_slice(&(8 * MIB as u32).to_be_bytes());
    begin.resize(100_000, 7);
    let begin = Bytes::from(begin);
    while Instant::now() < until {
        // In the flood a connection may be turned away.
        let Ok(mut channel) = endpoint.connect().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let request = http::Request::post("/meridian.v1.EventService/Publish")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(tonic::body::Body::new(Half(Some(begin.clone()))))
            .expect("a request");
        if std::future::poll_fn(|context| channel.poll_ready(context)).await.is_err() {
            continue;
        }
        if let Ok(Ok(answer)) = tokio::time::timeout_at(until.into(), channel.call(request)).await {
            let code = answer.headers().get("grpc-status").and_then(|code| code.to_str().ok());
            assert_eq!(code, Some("8"), "RESOURCE_EXHAUSTED: {:?}", answer.headers());
            given_up += 1;
        }
    }
    given_up
}

/// Ends all that it started when the flood is over.
struct Watch(Arc<AtomicBool>, Option<std::thread::JoinHandle<u64>>);

impl Watch {
    /// Looks at the process's memory all the time.
    fn start(pid: u32) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        let looking = std::thread::spawn(move || {
            let mut most = 0;
            while !ended.load(Ordering::Relaxed) {
                most = memory(pid, "VmRSS").max(most);
                std::thread::sleep(Duration::from_millis(10));
            }
            most
        });
        Self(over, Some(looking))
    }

    fn most(mut self) -> u64 {
        self.0.store(true, Ordering::Relaxed);
        self.1.take().expect("once").join().expect("the node runs")
    }
}

#[test]
fn memory_stays_within_what_is_configured_whatever_clients_do() {
    let world = World::start(Setup { regions: &["us"], wan: "", settings: Some(settings) });
    world.create_stream(STREAM, 5);
    let bound = metric(&world, "meridian_memory_bound_bytes");
    let pid = world.pid("us");
    let idle = memory(pid, "VmRSS");
    assert!(bound > 0 && idle < bound / 2, "{} MiB of {} when idle", idle >> 20, bound >> 20);

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let watch = Watch::start(pid);
    let flood = runtime.block_on(attack(world.endpoint("us").to_owned()));
    let (most, high) = (watch.most(), memory(pid, "VmHWM"));
    let acknowledged: usize = flood.acknowledged.values().map(BTreeMap::len).sum();
    say(&format!(
        "backpressure: {acknowledged} events of 1 MiB taken, {} publishes refused; memory {} MiB idle, {} MiB at most, {} MiB allowed",
        flood.refused,
        idle >> 20,
        high >> 20,
        bound >> 20
    ));
    assert!(most.max(high) <= bound, "{} MiB of {} MiB", high >> 20, bound >> 20);
    assert!(flood.refused > 0, "nobody had to wait: the flood was none");
    assert!(acknowledged > 0, "nothing was taken");

    // All is given back, and others are served at once.
    meridian_chaos::until("all room is given back", Duration::from_secs(30), || {
        let (bytes, readers) =
            (metric(&world, "meridian_request_bytes_in_hand"), metric(&world, "meridian_subscribers"));
        if (bytes, readers) == (0, 0) { Ok(()) } else { Err(format!("{bytes} bytes, {readers} readers")) }
    });
    runtime.block_on(others_go_on(world.endpoint("us")));
    let slow = r#"meridian_refused_requests_total{reason="SLOW_READER"}"#;
    assert!(metric(&world, slow) > 0, "nobody was cut off");
    runtime.block_on(nothing_acknowledged_is_lost(world.endpoint("us"), &flood));
    let high = memory(pid, "VmHWM");
    assert!(high <= bound, "{} MiB of {} MiB after reading it all", high >> 20, bound >> 20);
}

/// Everything at once.
async fn attack(endpoint: String) -> Flood {
    // Something to read, for those who do not.
    let client = Client::connect(vec![endpoint.clone()], ClientOptions::default()).expect("a client");
    let publisher = client.publisher(STREAM, PublisherOptions::default()).await.expect("a publisher");
    let large = Bytes::from(vec![b'y'; MIB - 1024]);
    for _ in 0..32 {
        let event = Event::new(large.clone()).to_partition(meridian_sdk::types::Partition(4));
        publisher.send(event).await.expect("it is taken");
    }
    publisher.flush().await.expect("it is stored");
    drop(publisher);
    let mut deaf = Vec::new();
    for _ in 0..READERS {
        deaf.push(never_reads(&endpoint).await);
    }
    // Opened before the flood takes all places.
    let mut batches = Vec::new();
    for _ in 0..4 {
        batches.push(Batches::open(&endpoint).await);
    }
    let until = Instant::now() + FLOOD;
    let mute: Vec<JoinHandle<Result<(), u64>>> = batches
        .into_iter()
        .map(|batches| tokio::spawn(never_fetches(batches, until + 20 * SLOW_READER)))
        .collect();
    let halves = tokio::spawn(never_comes_whole(endpoint.clone(), until));
    let numbers = Arc::new(AtomicU64::new(0));
    let floods: Vec<JoinHandle<Flood>> =
        (0..FLOODERS).map(|_| tokio::spawn(flood(endpoint.clone(), numbers.clone(), until))).collect();
    let mut all = Flood::default();
    for flood in floods {
        let one = flood.await.expect("a flooder");
        all.refused += one.refused;
        for (partition, lane) in one.acknowledged {
            all.acknowledged.entry(partition).or_default().extend(lane);
        }
    }
    for mute in mute {
        let cut_off = mute.await.expect("a publisher");
        assert_eq!(
            cut_off,
            Ok(()),
            "one that never fetches an answer was never cut off, after so many batches"
        );
    }
    let given_up = halves.await.expect("a client");
    say(&format!("backpressure: {given_up} messages that never came whole were given up"));
    // Those who never read were cut off long ago, and their connections with them.
    for mut answers in deaf {
        let read = async {
            let mut bytes = 0;
            loop {
                match answers.message().await {
                    Ok(Some(message)) => {
                        if let Some(v1::subscribe_response::Response::Batch(batch)) = message.response {
                            bytes += batch.batch.len();
                        }
                    }
                    Ok(None) => panic!("it ended as if all had been read"),
                    Err(_) => break bytes,
                }
            }
        };
        let bytes = tokio::time::timeout(Duration::from_secs(20), read).await.expect("it was cut off");
        assert!(bytes < 32 * MIB, "{bytes}");
    }
    all
}

/// A publisher that asks nicely is served.
async fn others_go_on(endpoint: &str) {
    let client = Client::connect(vec![endpoint.to_owned()], ClientOptions::default()).expect("a client");
    let publisher = client.publisher(STREAM, PublisherOptions::default()).await.expect("a publisher");
    let mut deliveries = Vec::new();
    for number in 0..2000 {
        let event = Event::new(format!("after {number}")).to_partition(meridian_sdk::types::Partition(4));
        deliveries.push(publisher.send(event).await.expect("it is taken"));
    }
    for delivery in deliveries {
        tokio::time::timeout(Duration::from_secs(20), delivery)
            .await
            .expect("in time")
            .expect("it is stored");
    }
}

/// Every event that was acknowledged is where that said, and no offset is missing.
async fn nothing_acknowledged_is_lost(endpoint: &str, flood: &Flood) {
    let client = Client::connect(vec![endpoint.to_owned()], ClientOptions::default()).expect("a client");
    let mut consumer = client.consumer(STREAM, ConsumerOptions::default()).expect("a consumer");
    let mut missing = flood.acknowledged.clone();
    let mut numbers = BTreeSet::new();
    loop {
        match consumer.next().await.expect("it reads") {
            Item::Event(event) => {
                let Some(key) = event.key else { continue };
                let number: u64 = String::from_utf8_lossy(&key).parse().expect("a number");
                assert!(numbers.insert(number), "event {number} is there twice");
                if let Some(lane) = missing.get_mut(&event.lane.partition.0)
                    && let Some(expected) = lane.remove(&event.offset.0)
                {
                    assert_eq!(number, expected, "at {} {}", event.lane, event.offset);
                }
            }
            Item::Mark(mark) if mark.caught_up => break,
            Item::Mark(_) => {}
            Item::Gap(gap) => panic!("{gap:?}"),
        }
    }
    missing.retain(|_, lane| !lane.is_empty());
    assert!(missing.is_empty(), "acknowledged, and not there: {missing:?}");
}
