//! Connections to the nodes of one region, and calls that are tried again.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use meridian_types::StreamName;
use meridian_types::limits::BATCH_BYTES;
use meridian_wire::v1::cluster_service_client::ClusterServiceClient;
use meridian_wire::v1::event_service_client::EventServiceClient;
use meridian_wire::v1::stream_service_client::StreamServiceClient;
use meridian_wire::v1::{self, StreamRef};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

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
const KEEPALIVE: Duration = Duration::from_secs(10);

/// A region, as seen from outside: cheap to clone. Connects when it is first used, and again whenever it must; goes
/// to the next node of the region when one does not answer.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    endpoints: Vec<Endpoint>,
    /// For messages.
    names: String,
    /// For single calls. Long streams get connections of their own, so that none waits behind another's window.
    channels: Vec<OnceLock<Channel>>,
    /// Which endpoint is in use.
    current: AtomicUsize,
    options: ClientOptions,
}

/// What a call came to.
pub(crate) struct Answer<T> {
    pub(crate) value: T,
    /// An earlier try broke off: its effect may be there already.
    pub(crate) retried: bool,
}

impl Client {
    /// A client of the region whose nodes are named, each as `http://HOST:PORT` or `HOST:PORT`. Does not connect yet.
    ///
    /// # Errors
    /// [`SdkError::NoEndpoints`] or [`SdkError::Endpoint`].
    pub fn connect(endpoints: Vec<String>, options: ClientOptions) -> Result<Self, SdkError> {
        if endpoints.is_empty() {
            return Err(SdkError::NoEndpoints);
        }
        let names = endpoints.join(", ");
        let endpoints: Vec<Endpoint> =
            endpoints.into_iter().map(|text| endpoint(text, &options)).collect::<Result<_, _>>()?;
        let channels = endpoints.iter().map(|_| OnceLock::new()).collect();
        let current = AtomicUsize::new(0);
        Ok(Self { inner: Arc::new(Inner { endpoints, names, channels, current, options }) })
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

    /// The nodes, for messages.
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

    /// A connection of its own to the node in use, and that node's number for [`Client::failed`].
    pub(crate) fn dedicated(&self) -> (usize, Channel) {
        self.dedicated_for(0)
    }

    /// The same, with a window in which `bytes` of batches and one more fit: who gives so much credit can take it
    /// without reading on, and is never the slow reader that holds a server's memory.
    pub(crate) fn dedicated_for(&self, bytes: u64) -> (usize, Channel) {
        let current = self.inner.current.load(Ordering::Relaxed);
        let bytes = u32::try_from(bytes).unwrap_or(MOST_WINDOW).saturating_mul(2);
        let window = bytes.saturating_add(MESSAGE_BYTES as u32).clamp(WINDOW, MOST_WINDOW);
        let endpoint = self.inner.endpoints[current]
            .clone()
            .initial_stream_window_size(window)
            .initial_connection_window_size(window);
        (current, endpoint.connect_lazy())
    }

    fn shared(&self) -> (usize, Channel) {
        let current = self.inner.current.load(Ordering::Relaxed);
        let channel =
            self.inner.channels[current].get_or_init(|| self.inner.endpoints[current].connect_lazy());
        (current, channel.clone())
    }

    /// That node did not help: the next one is in use from now on, unless another task moved on already.
    pub(crate) fn failed(&self, node: usize) {
        let next = (node + 1) % self.inner.endpoints.len();
        let _ = self.inner.current.compare_exchange(node, next, Ordering::Relaxed, Ordering::Relaxed);
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
            let (node, channel) = self.shared();
            // The last try begins when time is over, and gets a moment all the same.
            let until = (Instant::now() + attempt_timeout).min(give_up.max(Instant::now() + LAST_TRY));
            let fault = match tokio::time::timeout_at(until, call(channel)).await {
                Ok(Ok(response)) => return Ok(Answer { value: response.into_inner(), retried }),
                Ok(Err(status)) => fault::of_status(&status),
                // The last try is cut short by the caller's patience: what an earlier one was told says more.
                Err(_) => {
                    let text = said.take().unwrap_or_else(|| "no answer in time".to_owned());
                    Fault::Retry { after: None, text }
                }
            };
            let Fault::Retry { after, text } = fault else {
                return Err(fault.give_up(self.endpoints(), begun.elapsed()));
            };
            said = Some(text.clone());
            retried = true;
            tracing::debug!(endpoints = self.endpoints(), fault = text, "call failed, trying again");
            if Instant::now() >= give_up {
                return Err(Fault::Retry { after, text }.give_up(self.endpoints(), begun.elapsed()));
            }
            self.failed(node);
            let wait = backoff.next().max(after.unwrap_or_default());
            tokio::time::sleep_until((Instant::now() + wait).min(give_up)).await;
        }
    }

    /// One try at a fresh idempotent producer.
    pub(crate) async fn init_producer_once(&self) -> Result<v1::InitProducerResponse, Fault> {
        let (node, channel) = self.shared();
        let request = v1::InitProducerRequest { tenant: self.inner.options.tenant.as_str().to_owned() };
        let mut events = events(channel);
        let call = events.init_producer(request);
        let fault = match tokio::time::timeout(self.inner.options.attempt_timeout, call).await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) => fault::of_status(&status),
            Err(_) => Fault::Retry { after: None, text: "no answer in time".to_owned() },
        };
        self.failed(node);
        Err(fault)
    }
}

fn endpoint(text: String, options: &ClientOptions) -> Result<Endpoint, SdkError> {
    let refuse = |reason: String| SdkError::Endpoint { endpoint: text.clone(), reason };
    let url = if text.contains("://") { text.clone() } else { format!("http://{text}") };
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
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true))
}

pub(crate) fn events(channel: Channel) -> EventServiceClient<Channel> {
    EventServiceClient::new(channel)
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
        for bad in ["", "localhost", "http://localhost", "https://localhost:1", "http://a b:1"] {
            assert!(matches!(connect(bad), Err(SdkError::Endpoint { .. })), "{bad:?}");
        }
        assert!(matches!(
            Client::connect(vec![], ClientOptions::default()).map(|_| ()),
            Err(SdkError::NoEndpoints)
        ));
    }
}
