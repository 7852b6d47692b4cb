//! Connections to the nodes of one region, and calls that are tried again.

mod learn;
mod nodes;
mod routes;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use meridian_types::limits::BATCH_BYTES;
use meridian_types::{Partition, StreamId, StreamName};
use meridian_wire::v1::cluster_service_client::ClusterServiceClient;
use meridian_wire::v1::event_service_client::EventServiceClient;
use meridian_wire::v1::stream_service_client::StreamServiceClient;
use meridian_wire::v1::{self, StreamRef};
use meridian_wire::{HTTP_FRAME, Reason};
use parking_lot::Mutex;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::StdError;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use self::learn::Learning;
pub(crate) use self::nodes::NodeIndex;
use self::nodes::Nodes;
use self::routes::Routes;
use crate::backoff::Backoff;
use crate::fault::{self, Fault};
use crate::{
    Admin, ClientOptions, ConsumeError, Consumer, ConsumerOptions, PublishError, Publisher, PublisherOptions,
    SdkError,
};

/// What may be in flight to us on one connection; the defaults of HTTP/2 (64 KiB) would cap a WAN at a trickle.
const WINDOW: u32 = 8 * 1024 * 1024;
/// What HTTP/2 allows.
const MOST_WINDOW: u32 = (1 << 31) - 1;
/// A batch and the message around it.
const MESSAGE_BYTES: usize = BATCH_BYTES + 1024 * 1024;
/// What the last try of a call gets.
const LAST_TRY: Duration = Duration::from_millis(250);
/// A node that is gone without a word is noticed within twice this.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// A region, as seen from outside: cheap to clone. Connects when it is first used, and again whenever it must; learns
/// which other nodes the region has, and goes to the next one when one does not answer.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    /// For messages.
    names: String,
    state: Mutex<State>,
    learning: Mutex<Learning>,
    learned: watch::Sender<u64>,
    options: ClientOptions,
}

/// What the client knows of the region, and how it reaches it.
struct State {
    nodes: Nodes,
    /// As many as there are nodes.
    dials: Vec<Dial>,
    routes: Routes,
}

struct Dial {
    endpoint: Endpoint,
    /// For single calls. Long streams get connections of their own, so that none waits behind another's window.
    channel: Option<Channel>,
}

/// The nodes that a stream's partitions are sent to.
pub(crate) struct Targets {
    /// By partition.
    pub(crate) nodes: Vec<NodeIndex>,
    /// When a leader that is passed over just now is worth another try.
    pub(crate) until: Option<Instant>,
}

/// What a call came to.
pub(crate) struct Answer<T> {
    pub(crate) value: T,
    /// An earlier try broke off: its effect may be there already.
    pub(crate) retried: bool,
}

impl Client {
    /// A client of the region of which at least one node is named, each as `http://HOST:PORT` or `HOST:PORT`; one text may
    /// name several, separated by commas. Does not connect yet.
    ///
    /// # Errors
    /// [`SdkError::NoEndpoints`] or [`SdkError::Endpoint`].
    pub fn connect(endpoints: Vec<String>, options: ClientOptions) -> Result<Self, SdkError> {
        if endpoints.is_empty() {
            return Err(SdkError::NoEndpoints);
        }
        let endpoints: Vec<String> =
            endpoints.iter().flat_map(|text| text.split(',')).map(|text| text.trim().to_owned()).collect();
        let names = endpoints.join(", ");
        let dials =
            endpoints.iter().map(|text| Dial::new(text, &options)).collect::<Result<Vec<_>, SdkError>>()?;
        let state = State { nodes: Nodes::new(endpoints), dials, routes: Routes::default() };
        let inner = Inner {
            names,
            state: Mutex::new(state),
            learning: Mutex::new(Learning::default()),
            learned: watch::Sender::new(0),
            options,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Streams, topology, lag, what a region holds.
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// Begins to publish to a stream.
    ///
    /// # Errors
    /// [`PublishError::Client`] if the stream is not known or no node answers.
    pub async fn publisher(
        &self,
        stream: &str,
        options: PublisherOptions,
    ) -> Result<Publisher, PublishError> {
        Publisher::open(self.clone(), stream, options).await
    }

    /// Begins to read a stream. Connects with the first [`Consumer::next`].
    ///
    /// # Errors
    /// [`ConsumeError::Client`] if the name is no stream name.
    pub fn consumer(&self, stream: &str, options: ConsumerOptions) -> Result<Consumer, ConsumeError> {
        Consumer::new(self.clone(), stream, options)
    }

    /// The nodes that were named, for messages.
    pub fn endpoints(&self) -> &str {
        &self.inner.names
    }

    pub(crate) fn options(&self) -> &ClientOptions {
        &self.inner.options
    }

    pub(crate) fn stream_ref(&self, stream: &str) -> Result<StreamRef, SdkError> {
        let stream = StreamName::new(stream)?;
        Ok(StreamRef { tenant: self.inner.options.tenant.as_str().to_owned(), stream: stream.into() })
    }

    pub(crate) fn backoff(&self) -> Backoff {
        let options = &self.inner.options;
        Backoff::new(options.min_backoff, options.max_backoff, StdRng::from_rng(&mut rand::rng()))
    }

    /// A connection of its own to a node.
    pub(crate) fn dedicated(&self, node: NodeIndex) -> Channel {
        self.dedicated_for(node, 0)
    }

    /// The same, with a window in which `bytes` of batches and one more fit: who gives so much credit can take it
    /// without reading on, and is never the slow reader that holds a server's memory.
    pub(crate) fn dedicated_for(&self, node: NodeIndex, bytes: u64) -> Channel {
        let bytes = u32::try_from(bytes).unwrap_or(MOST_WINDOW).saturating_mul(2);
        let window = bytes.saturating_add(MESSAGE_BYTES as u32).clamp(WINDOW, MOST_WINDOW);
        let endpoint = self.inner.state.lock().dials[node.0].endpoint.clone();
        endpoint.initial_stream_window_size(window).initial_connection_window_size(window).connect_lazy()
    }

    /// The connection for single calls to a node.
    fn channel(&self, node: NodeIndex) -> Channel {
        let dial = &mut self.inner.state.lock().dials[node.0];
        dial.channel.get_or_insert_with(|| dial.endpoint.connect_lazy()).clone()
    }

    /// The node for what any node can do.
    pub(crate) fn current(&self) -> NodeIndex {
        self.discover();
        self.inner.state.lock().nodes.current(Instant::now())
    }

    /// Where the batches of a stream's partitions go: to the leaders of their shards as last heard of, and where none is
    /// known or within reach to the node in use, which passes them on.
    pub(crate) fn targets(&self, stream: StreamId, partitions: u32) -> Targets {
        let now = Instant::now();
        let mut state = self.inner.state.lock();
        let current = state.nodes.current(now);
        let mut until: Option<Instant> = None;
        let target = |partition| {
            let leader = state.routes.leader(stream, Partition(partition));
            let Some(leader) = leader.and_then(|id| state.nodes.of(id)) else { return current };
            if state.nodes.is_usable(leader, now) {
                return leader;
            }
            let again = state.nodes.avoided_until(leader);
            until = until.into_iter().chain(again).min();
            current
        };
        let nodes = (0..partitions).map(target).collect();
        Targets { nodes, until }
    }

    /// Whether the region has more than one node.
    pub(crate) fn has_several_nodes(&self) -> bool {
        self.inner.state.lock().nodes.are_several()
    }

    /// What a node is dialled by, for messages.
    pub(crate) fn endpoint_of(&self, node: NodeIndex) -> String {
        self.inner.state.lock().nodes.endpoint(node).to_owned()
    }

    /// That node could not be reached, or said nothing: for a while others are asked, if there are any.
    pub(crate) fn failed(&self, node: NodeIndex) {
        self.inner.state.lock().nodes.failed(node, Instant::now());
    }

    /// That node answered.
    pub(crate) fn worked(&self, node: NodeIndex) {
        self.inner.state.lock().nodes.worked(node);
    }

    /// Judges the node by how a call or a stream ended, and asks the region who is left.
    pub(crate) fn broke_off(&self, node: NodeIndex, fault: Option<&Fault>) {
        let now = Instant::now();
        match fault {
            // It is there, and cannot do this one thing just now.
            Some(Fault::Retry { reason: Some(reason), .. }) if *reason != Reason::NotReady => {
                self.inner.state.lock().nodes.unhelpful(node, now);
                if *reason == Reason::NotLeader {
                    self.refresh();
                }
            }
            Some(Fault::Retry { .. }) | None => {
                self.inner.state.lock().nodes.failed(node, now);
                self.refresh();
            }
            // No other node would say otherwise.
            Some(Fault::Refused(_) | Fault::Foreign { .. }) => {}
        }
    }

    /// Calls until it is answered or the options' time is over.
    pub(crate) async fn call<T, F>(
        &self,
        attempt_timeout: Duration,
        call: impl Fn(Channel) -> F,
    ) -> Result<Answer<T>, SdkError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let begun = Instant::now();
        let give_up = begun + self.inner.options.retry_for;
        let mut backoff = self.backoff();
        let mut retried = false;
        let mut said: Option<String> = None;
        loop {
            let node = self.current();
            let channel = self.channel(node);
            // The last try begins when time is over, and gets a moment all the same.
            let until = (Instant::now() + attempt_timeout).min(give_up.max(Instant::now() + LAST_TRY));
            let fault = match tokio::time::timeout_at(until, call(channel)).await {
                Ok(Ok(response)) => {
                    self.worked(node);
                    return Ok(Answer { value: response.into_inner(), retried });
                }
                Ok(Err(status)) => fault::of_status(&status),
                // The last try is cut short by the caller's patience: what an earlier one was told says more.
                Err(_) => {
                    let text = said.take().unwrap_or_else(|| "no answer in time".to_owned());
                    Fault::broken(text)
                }
            };
            let Fault::Retry { after, ref text, .. } = fault else {
                return Err(fault.give_up(self.endpoints(), begun.elapsed()));
            };
            said = Some(text.clone());
            retried = true;
            tracing::debug!(endpoints = self.endpoints(), fault = text, "call failed, trying again");
            if Instant::now() >= give_up {
                return Err(fault.give_up(self.endpoints(), begun.elapsed()));
            }
            self.broke_off(node, Some(&fault));
            let wait = backoff.next().max(after.unwrap_or_default());
            tokio::time::sleep_until((Instant::now() + wait).min(give_up)).await;
        }
    }

    /// One try at a fresh idempotent producer.
    pub(crate) async fn init_producer_once(&self) -> Result<v1::InitProducerResponse, Fault> {
        let node = self.current();
        let channel = self.channel(node);
        let request = v1::InitProducerRequest { tenant: self.inner.options.tenant.as_str().to_owned() };
        let mut events = events(channel);
        let call = events.init_producer(request);
        let fault = match tokio::time::timeout(self.inner.options.attempt_timeout, call).await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) => fault::of_status(&status),
            Err(_) => Fault::broken("no answer in time"),
        };
        self.broke_off(node, Some(&fault));
        Err(fault)
    }
}

impl Dial {
    fn new(text: &str, options: &ClientOptions) -> Result<Self, SdkError> {
        Ok(Self { endpoint: endpoint(text, options)?, channel: None })
    }
}

impl State {
    /// Takes what a node says of its region.
    fn learn(
        &mut self,
        asked: NodeIndex,
        mut topology: v1::GetTopologyResponse,
        shards: Option<&v1::ListShardsResponse>,
        options: &ClientOptions,
    ) {
        // What cannot be dialled is as good as not there.
        topology.nodes.retain(|row| endpoint(&row.endpoint, options).is_ok());
        self.nodes.worked(asked);
        for node in self.nodes.learn(asked, &topology) {
            let Ok(dial) = Dial::new(self.nodes.endpoint(node), options) else { continue };
            match self.dials.get_mut(node.0) {
                Some(known) => *known = dial,
                None => self.dials.push(dial),
            }
        }
        self.routes.learn(&topology, shards);
    }
}

fn endpoint(text: &str, options: &ClientOptions) -> Result<Endpoint, SdkError> {
    let refuse = |reason: String| SdkError::Endpoint { endpoint: text.to_owned(), reason };
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let endpoint = Endpoint::from_shared(url).map_err(|error| refuse(error.to_string()))?;
    if endpoint.uri().scheme_str() != Some("http") {
        return Err(refuse("only http:// is spoken for now".to_owned()));
    }
    if endpoint.uri().port_u16().is_none() {
        return Err(refuse("it has no port".to_owned()));
    }
    Ok(endpoint
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(HTTP_FRAME)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true))
}

pub(crate) fn events(channel: Channel) -> EventServiceClient<Channel> {
    events_over(channel)
}

/// The same over what stands before a channel.
pub(crate) fn events_over<S>(service: S) -> EventServiceClient<S>
where
    S: GrpcService<Body, ResponseBody = Body, Error: Into<StdError>>,
{
    EventServiceClient::new(service)
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES)
}

pub(crate) fn streams(channel: Channel) -> StreamServiceClient<Channel> {
    StreamServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES)
}

pub(crate) fn cluster(channel: Channel) -> ClusterServiceClient<Channel> {
    ClusterServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_checked_before_anything_is_dialled() {
        let connect =
            |text: &str| Client::connect(vec![text.to_owned()], ClientOptions::default()).map(|_| ());
        assert_eq!(connect("http://127.0.0.1:7401"), Ok(()));
        assert_eq!(connect("localhost:7401"), Ok(()));
        assert_eq!(connect("localhost:7401, http://localhost:7402"), Ok(()));
        for bad in ["", "localhost", "http://localhost", "https://localhost:1", "http://a b:1", "a:1,"] {
            assert!(matches!(connect(bad), Err(SdkError::Endpoint { .. })), "{bad:?}");
        }
        assert!(matches!(
            Client::connect(vec![], ClientOptions::default()).map(|_| ()),
            Err(SdkError::NoEndpoints)
        ));
    }
}
