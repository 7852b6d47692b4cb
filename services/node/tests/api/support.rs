//! A node, and callers that see its statuses as they are.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use meridian_batch::{BatchBuilder, Codec, Event, Producer, Sequence};
use meridian_node::config::{
    ByteSize, ClusterSection, ListenSection, LogSection, NodeConfig, NodeEntry, NodeSection, RaftSection,
    RegionEntry, Span, StorageSection,
};
use meridian_node::{ServeError, folder, serve_on};
use meridian_types::{ClusterUuid, NodeId, ProducerEpoch, ProducerId, RegionId, RegionName, Timestamp};
use meridian_wire::v1::event_service_client::EventServiceClient;
use meridian_wire::v1::stream_service_client::StreamServiceClient;
use meridian_wire::v1::{self, cluster_service_client::ClusterServiceClient};
use meridian_wire::{ApiError, Reason};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::held_disk::Hold;

pub const WITHIN: Duration = Duration::from_secs(60);
const MESSAGE: usize = 32 << 20;

/// Where this run's nodes keep their folders. They stay until the next run, which removes those of all that have ended:
/// what a node still has under way when it has been told to stop ends the process if its folder is gone.
static FOLDERS: LazyLock<PathBuf> = LazyLock::new(|| {
    let runs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("node-api");
    std::fs::create_dir_all(&runs).unwrap();
    let own = runs.join(std::process::id().to_string());
    for run in std::fs::read_dir(&runs).unwrap().map(|run| run.unwrap().path()) {
        let goes_on = Path::new("/proc").join(run.file_name().unwrap()).exists();
        if run == own || !goes_on {
            // Another run that begins just now may have been faster.
            let _ = std::fs::remove_dir_all(&run);
        }
    }
    std::fs::create_dir_all(&own).unwrap();
    own
});

/// A running node.
pub struct TestNode {
    pub config: NodeConfig,
    pub channel: Channel,
    /// Holds up its volume's disk.
    pub disk: Hold,
    stop: CancellationToken,
    served: Option<JoinHandle<Result<(), ServeError>>>,
}

impl TestNode {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// With other settings.
    pub async fn start_with(change: impl Fn(&mut NodeConfig)) -> Self {
        // Once is enough, and a node that ends the process should be heard.
        let quiet = LogSection { level: "error".to_owned(), ..LogSection::default() };
        let _ = meridian_node::log::init(&quiet);
        // Another process may take a port between our look at it and the node's.
        for _ in 0..10 {
            let folder = tempfile::tempdir_in(&*FOLDERS).unwrap().keep();
            let mut config = config(&folder);
            change(&mut config);
            config.check().unwrap();
            folder::format(&config).unwrap();
            let channel = endpoint(&config).connect_lazy();
            let stop = CancellationToken::new();
            let mut node = Self { config, channel, disk: Hold::default(), stop, served: None };
            if node.run().await {
                return node;
            }
        }
        panic!("no free ports");
    }

    /// Starts it on its folder; false: a port is taken.
    async fn run(&mut self) -> bool {
        self.stop = CancellationToken::new();
        let disk = self.disk.clone();
        let served = serve_on(self.config.clone(), self.stop.clone(), move |real| disk.over(real));
        let served = tokio::spawn(Box::pin(served));
        let begun = std::time::Instant::now();
        loop {
            if served.is_finished() {
                match served.await.unwrap() {
                    Err(ServeError::Listen { .. }) => return false,
                    other => panic!("the node ended: {other:?}"),
                }
            }
            if self.health().await == Some(ServingStatus::Serving) {
                self.served = Some(served);
                return true;
            }
            assert!(begun.elapsed() < WITHIN, "the node is not ready in time");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn health(&self) -> Option<ServingStatus> {
        let request = HealthCheckRequest { service: String::new() };
        let answer = HealthClient::new(self.channel.clone()).check(request).await.ok()?;
        Some(answer.into_inner().status())
    }

    /// Tells it to stop, without waiting.
    pub fn tell_to_stop(&self) {
        self.stop.cancel();
    }

    /// Waits until it has stopped.
    pub async fn stopped(&mut self) {
        let served = self.served.take().expect("it runs");
        tokio::time::timeout(WITHIN, served).await.expect("it stops in time").unwrap().unwrap();
    }

    /// Starts it again after it has stopped.
    pub async fn again(&mut self) {
        assert!(self.run().await, "its ports are its own");
    }

    pub fn events(&self) -> EventServiceClient<Channel> {
        events(self.channel.clone())
    }

    pub fn streams(&self) -> StreamServiceClient<Channel> {
        StreamServiceClient::new(self.channel.clone()).max_encoding_message_size(MESSAGE)
    }

    pub fn cluster(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel.clone())
    }

    /// A connection of its own.
    pub fn connect(&self) -> Channel {
        endpoint(&self.config).connect_lazy()
    }

    pub async fn create(&self, stream: &str, partitions: u32) -> v1::Stream {
        let settings = v1::StreamSettings { partitions, ..v1::StreamSettings::default() };
        let request = v1::CreateStreamRequest { stream: Some(named(stream)), settings: Some(settings) };
        self.streams().create_stream(request).await.unwrap().into_inner().stream.unwrap()
    }

    pub async fn producer(&self) -> i64 {
        let request = v1::InitProducerRequest { tenant: "default".into() };
        self.events().init_producer(request).await.unwrap().into_inner().id
    }

    /// Publishes one batch over a stream of its own.
    pub async fn batch(&self, request: v1::PublishBatchesRequest) -> Result<v1::PublishedBatch, ApiError> {
        let requests = tokio_stream::once(request.clone());
        let mut answers = self.events().publish_batches(requests).await.unwrap().into_inner();
        let answer = match answers.message().await {
            Ok(answer) => answer.expect("an answer"),
            Err(status) => return Err(refusal(status)),
        };
        assert_eq!(answer.request_id, request.request_id);
        assert!(answers.message().await.unwrap().is_none(), "one answer a batch");
        match answer.result.expect("a result") {
            v1::publish_batches_response::Result::Published(published) => Ok(published),
            v1::publish_batches_response::Result::Error(error) => {
                let parsed = ApiError::from_message(&error);
                assert_eq!(Code::from_i32(error.code as i32), parsed.reason.code(), "{error:?}");
                Err(parsed)
            }
        }
    }

    pub async fn publish(&self, request: v1::PublishRequest) -> Result<Vec<v1::EventResult>, ApiError> {
        let answer = self.events().publish(request).await;
        answer.map(|answer| answer.into_inner().results).map_err(refusal)
    }

    /// Publishes values to a partition, in one batch each.
    pub async fn fill(&self, stream: &str, partition: u32, values: &[&str]) {
        for value in values {
            let event = v1::Event { partition: Some(partition), ..value_event(value) };
            let results = self.publish(publish_of(stream, vec![event])).await.unwrap();
            assert!(position(&results[0]).is_some());
        }
    }

    /// What the admin listener shows under this name and these labels; 0 for labels that were not counted yet.
    pub async fn metric(&self, name: &str) -> u64 {
        let text = self.http_get("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        match line {
            Some(value) => value.parse().unwrap(),
            None => {
                assert!(name.contains('{'), "there is no {name} in:\n{text}");
                0
            }
        }
    }

    async fn http_get(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(self.config.listen.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    /// Where a partition's lane ends.
    pub async fn end(&self, stream: &str, partition: u32) -> u64 {
        let request = v1::ListLanesRequest { stream: Some(named(stream)) };
        let lanes = self.cluster().list_lanes(request).await.unwrap().into_inner().lanes;
        let of = |lane: &&v1::LaneEnds| lane.lane.is_some_and(|lane| lane.partition == partition);
        lanes.iter().find(of).map_or(0, |lane| lane.end)
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(served) = self.served.take() {
            // Its folder goes next, and a node without its folder ends the process.
            let ended = async { tokio::time::timeout(WITHIN, served).await };
            let _ = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(ended));
        }
    }
}

/// Looks again and again until it is so.
pub async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !so().await {
        assert!(begun.elapsed() < WITHIN, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn endpoint(config: &NodeConfig) -> Endpoint {
    Endpoint::from_shared(format!("http://{}", config.listen.client)).unwrap()
}

pub fn events(channel: Channel) -> EventServiceClient<Channel> {
    EventServiceClient::new(channel).max_encoding_message_size(MESSAGE).max_decoding_message_size(MESSAGE)
}

/// Ports below the range that the system gives to outgoing connections.
fn free_ports() -> [u16; 3] {
    let mut port = 16_000 + (uuid::Uuid::new_v4().as_u128() % 14_000) as u16;
    let mut found = Vec::new();
    while found.len() < 3 {
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            found.push(port);
        }
        port += 1;
    }
    [found[0], found[1], found[2]]
}

fn config(folder: &Path) -> NodeConfig {
    let [client, peer, admin] = free_ports();
    let region = RegionName::new("us").unwrap();
    let local = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    NodeConfig {
        node: NodeSection {
            id: NodeId(1),
            region: region.clone(),
            data: ".".into(),
            advertise_peer: None,
            advertise_client: None,
        },
        cluster: ClusterSection {
            uuid: ClusterUuid(uuid::Uuid::new_v4()),
            regions: vec![RegionEntry { id: RegionId(1), name: region.clone(), shards: 4 }],
            nodes: vec![NodeEntry {
                id: NodeId(1),
                region,
                peer: format!("http://127.0.0.1:{peer}"),
                client: format!("http://127.0.0.1:{client}"),
            }],
        },
        listen: ListenSection {
            client: local(client),
            peer: local(peer),
            admin: local(admin),
            insecure_non_loopback: false,
        },
        tls: Default::default(),
        limits: Default::default(),
        storage: StorageSection { file_bytes: ByteSize::mib(32), stock: 1, ..StorageSection::default() },
        raft: RaftSection {
            heartbeat: Span::millis(100),
            election_min: Span::millis(300),
            election_max: Span::millis(600),
            test_switch: false,
        },
        placement: Default::default(),
        wan: Default::default(),
        log: Default::default(),
        runtime: Default::default(),
        file: folder.join("node.toml"),
    }
}

pub fn named(stream: &str) -> v1::StreamRef {
    v1::StreamRef { tenant: "default".into(), stream: stream.into() }
}

pub fn value_event(value: &str) -> v1::Event {
    v1::Event { value: Some(Bytes::copy_from_slice(value.as_bytes())), ..v1::Event::default() }
}

pub fn publish_of(stream: &str, events: Vec<v1::Event>) -> v1::PublishRequest {
    v1::PublishRequest { stream: Some(named(stream)), events, ..v1::PublishRequest::default() }
}

pub fn position(result: &v1::EventResult) -> Option<&v1::Position> {
    match result.result.as_ref()? {
        v1::event_result::Result::Position(position) => Some(position),
        v1::event_result::Result::Error(_) => None,
    }
}

/// The ApiError of a status, which must be whole: a known reason under its own code.
#[track_caller]
pub fn refusal(status: Status) -> ApiError {
    let error = ApiError::from_status(&status).unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(status.code(), error.reason.code(), "{status:?}");
    error
}

#[track_caller]
pub fn assert_reason<T: std::fmt::Debug>(
    result: Result<T, ApiError>,
    reason: Reason,
    what: &str,
) -> ApiError {
    let error = result.expect_err(what);
    assert_eq!(error.reason, reason, "{what}: {error}");
    assert!(!error.message.is_empty());
    error
}

pub fn event(value: impl Into<Bytes>) -> Event {
    Event { value: Some(value.into()), timestamp: Timestamp(1_700_000_000_000), ..Event::default() }
}

/// A batch of values, of a producer: (id, epoch, sequence).
pub fn batch_of(values: &[&str], producer: Option<(i64, i16, i32)>) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    if let Some((id, epoch, sequence)) = producer {
        let sequence = Sequence::new(sequence).unwrap();
        builder =
            builder.with_producer(Producer { id: ProducerId(id), epoch: ProducerEpoch(epoch), sequence });
    }
    for value in values {
        builder.push(&event(value.to_string())).unwrap();
    }
    builder.build().unwrap()
}

pub fn batch_request(stream: &str, partition: u32, batch: Bytes) -> v1::PublishBatchesRequest {
    v1::PublishBatchesRequest {
        request_id: 7,
        stream: Some(named(stream)),
        partition,
        batch,
        ..v1::PublishBatchesRequest::default()
    }
}
