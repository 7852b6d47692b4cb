//! The way to one other node: two streams of words, one for what is short and one for bulk, so that a heartbeat never waits
//! behind frames. Each is connected again and again for as long as the node is known.

use std::sync::Arc;
use std::time::Duration;

use meridian_mirror::{Dialer, Identity, PeerHello, Vetting};
use meridian_types::NodeId;
use meridian_wire::v1;
use meridian_wire::v1::region_service_client::RegionServiceClient;
use rand::RngExt as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Words that wait for the connection; of bulk each is up to a batch.
const SHORT_QUEUE: usize = 16 * 1024;
const BULK_QUEUE: usize = 4;
/// A word holds a chunk of frames, or one as large as a batch.
pub(crate) const WORD_BYTES: usize = 32 * 1024 * 1024;
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// What happens on a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WayEvent {
    /// What was said before may be lost; what is said from now on arrives, until it is lost.
    Connected,
    /// It broke, or could not be made.
    Broken,
}

/// A connection's queue, and which connection it is.
#[derive(Clone)]
struct Session {
    number: u64,
    words: mpsc::Sender<v1::Word>,
}

/// One of the two streams.
pub(crate) struct Pipe {
    session: watch::Receiver<Option<Session>>,
    task: JoinHandle<()>,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How pipes are made.
#[derive(Clone)]
pub(crate) struct Maker {
    pub me: Identity,
    pub dialer: Arc<dyn Dialer>,
    pub vetting: Vetting,
    pub events: Arc<dyn Fn(NodeId, WayEvent) + Send + Sync>,
}

/// The way to a node.
pub(crate) struct Way {
    short: Pipe,
    bulk: Pipe,
}

impl Way {
    pub fn new(maker: &Maker, node: NodeId) -> Self {
        Self { short: Pipe::new(maker, node, SHORT_QUEUE), bulk: Pipe::new(maker, node, BULK_QUEUE) }
    }

    /// Says something short, or loses it: whoever waits for an answer asks again.
    pub fn say(&self, word: v1::word::Word) {
        let session = self.short.session.borrow().clone();
        if let Some(session) = session {
            // A full queue is a node that takes nothing: its connection's keep-alive will end it.
            let _ = session.words.try_send(v1::Word { word: Some(word) });
        }
    }

    /// Says something large, once there is room. `session` is the connection that it must be said on, where there was an
    /// earlier word that must not be missing before it; the first word waits for a connection. The connection's number, or
    /// none: it is gone, and what was said on it may be lost.
    pub async fn say_bulk(&self, word: v1::Word, session: Option<u64>) -> Option<u64> {
        let mut watch = self.bulk.session.clone();
        let current = match session {
            None => watch.wait_for(Option::is_some).await.ok()?.clone()?,
            Some(number) => watch.borrow_and_update().clone().filter(|current| current.number == number)?,
        };
        current.words.send(word).await.ok()?;
        Some(current.number)
    }

    /// Whether bulk can be said now.
    pub fn is_connected(&self) -> bool {
        self.bulk.session.borrow().is_some()
    }
}

impl Pipe {
    fn new(maker: &Maker, node: NodeId, queue: usize) -> Self {
        let (sessions, session) = watch::channel(None);
        let task = tokio::spawn(run(maker.clone(), node, queue, sessions));
        Self { session, task }
    }
}

async fn run(maker: Maker, node: NodeId, queue: usize, sessions: watch::Sender<Option<Session>>) {
    let mut failures = 0u32;
    for number in 1.. {
        let (words, queued) = mpsc::channel(queue);
        let opened = tokio::time::timeout(CONNECT_WITHIN, open(&maker, node, queued)).await;
        match opened.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            Ok(mut answers) => {
                failures = 0;
                sessions.send_replace(Some(Session { number, words }));
                (maker.events)(node, WayEvent::Connected);
                let why = match answers.message().await {
                    Ok(_) => "it was ended".to_owned(),
                    Err(status) => status.message().to_owned(),
                };
                tracing::info!(%node, why, "the way to a node of this region broke");
                sessions.send_replace(None);
            }
            Err(why) => {
                if failures % 20 == 2 {
                    tracing::warn!(%node, why, "a node of this region cannot be reached");
                }
                failures = failures.saturating_add(1);
            }
        }
        (maker.events)(node, WayEvent::Broken);
        let ceiling = BACKOFF_MAX.min(BACKOFF_MIN * 2u32.saturating_pow(failures.min(6)));
        let wait = rand::rng().random_range(BACKOFF_MIN / 2..=ceiling);
        tokio::time::sleep(wait).await;
    }
}

async fn open(
    maker: &Maker,
    node: NodeId,
    queued: mpsc::Receiver<v1::Word>,
) -> Result<Streaming<v1::Hello>, String> {
    use tokio_stream::StreamExt as _;
    let channel = maker.dialer.dial(node).await?;
    let mut client = RegionServiceClient::new(channel)
        .max_decoding_message_size(WORD_BYTES)
        .max_encoding_message_size(WORD_BYTES);
    let hello = v1::Word { word: Some(v1::word::Word::Hello(maker.me.to_hello())) };
    let words = tokio_stream::once(hello).chain(ReceiverStream::new(queued));
    let answer = client.speak(words).await.map_err(|status| status.message().to_owned())?;
    let mut answers = answer.into_inner();
    let hello = answers.message().await.map_err(|status| status.message().to_owned())?;
    let peer =
        PeerHello::read(&hello.ok_or("the node did not say Hello")?).map_err(|error| error.to_string())?;
    peer.check(&maker.me).map_err(|error| error.to_string())?;
    (maker.vetting)(&peer).map_err(|error| error.to_string())?;
    peer.check_neighbour(&maker.me).map_err(|error| error.to_string())?;
    if peer.identity.node != node {
        return Err(format!("its address leads to node {}", peer.identity.node));
    }
    Ok(answers)
}
