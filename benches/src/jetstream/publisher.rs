//! Publishes to a stream. Messages go out from the caller's task; acknowledgements come in on a task of their own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::subject::Subject;
use async_nats::{Client, ConnectOptions, Event, Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::ack::{self, Ack, Operation};
use super::api::connect;
use crate::PATIENCE;
use crate::error::BenchError;
use crate::tally::Tally;

/// After how many messages a batch is acknowledged. A window of fewer than twice as many would stand still between.
pub const ACK_EVERY: u16 = 64;

/// How messages are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One by one, each with an acknowledgement of its own.
    Single,
    /// By JetStream's fast batched ingest, with an acknowledgement for every [`ACK_EVERY`].
    Batched,
}

/// Publishes to one stream.
#[derive(Debug)]
pub struct Publisher {
    client: Client,
    subject: Subject,
    /// What reply subjects begin with.
    prefix: String,
    mode: Mode,
    sent: u64,
    tally: Arc<Tally>,
    /// When each message of a batch was due, in their order. One by one the reply subject says it.
    dues: mpsc::UnboundedSender<Duration>,
    /// Told how many there are once all are sent.
    all: oneshot::Sender<u64>,
    acks: JoinHandle<()>,
}

impl Publisher {
    /// Connects.
    pub async fn new(
        address: SocketAddr,
        stream: &str,
        mode: Mode,
        tally: Arc<Tally>,
    ) -> Result<Self, BenchError> {
        let failing = Arc::clone(&tally);
        let options = ConnectOptions::new().event_callback(move |event| {
            // It would connect again, and what was under way would never be acknowledged.
            if !matches!(event, Event::Connected | Event::Draining | Event::Closed) {
                failing.failed(BenchError::wrong(format!("the publisher's connection: {event}")));
            }
            std::future::ready(())
        });
        let client = connect(options, address).await?;
        let prefix = client.new_inbox();
        let replies = client.subscribe(format!("{prefix}.>")).await.map_err(wrong)?;
        let (dues, batch) = mpsc::unbounded_channel();
        let (all, total) = oneshot::channel();
        let taker = Taker { tally: Arc::clone(&tally), batch, acked: 0 };
        let acks = tokio::spawn(take(taker, replies, total));
        let subject = Subject::from(stream);
        Ok(Self { client, subject, prefix, mode, sent: 0, tally, dues, all, acks })
    }

    /// Hands a message over; waits while the client has too many to write.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn send(&mut self, value: Bytes, due: Duration) -> Result<(), BenchError> {
        self.sent += 1;
        let reply = match self.mode {
            Mode::Single => ack::reply(&self.prefix, due),
            Mode::Batched => {
                let operation = if self.sent == 1 { Operation::Start } else { Operation::Append };
                // Before the message itself: its acknowledgement may be quick.
                let _ = self.dues.send(due);
                ack::batch_reply(&self.prefix, ACK_EVERY, self.sent, operation)
            }
        };
        self.client.publish_with_reply(self.subject.clone(), reply, value).await.map_err(wrong)
    }

    /// Waits until all are acknowledged, or something failed: the tally knows.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn finish(self) -> Result<(), BenchError> {
        if self.tally.has_failed() {
            return Ok(());
        }
        if self.mode == Mode::Batched && self.sent > 0 {
            let reply = ack::batch_reply(&self.prefix, ACK_EVERY, self.sent + 1, Operation::End);
            self.client.publish_with_reply(self.subject, reply, Bytes::new()).await.map_err(wrong)?;
        }
        // It has gone if something failed.
        let _ = self.all.send(self.sent);
        if timeout(PATIENCE, self.acks).await.is_err() {
            self.tally.failed(BenchError::wrong("not every message was acknowledged in time"));
        }
        Ok(())
    }
}

/// Takes acknowledgements.
struct Taker {
    tally: Arc<Tally>,
    batch: mpsc::UnboundedReceiver<Duration>,
    acked: u64,
}

/// Until all are acknowledged, or something failed.
async fn take(mut taker: Taker, mut replies: Subscriber, mut total: oneshot::Receiver<u64>) {
    let mut known = None;
    while known != Some(taker.acked) && !taker.tally.has_failed() {
        tokio::select! {
            biased;
            reply = replies.next() => {
                let took = reply.as_ref().ok_or_else(|| BenchError::wrong("the publisher's connection is gone"));
                if let Err(error) = took.and_then(|reply| taker.take(reply)) {
                    taker.tally.failed(error);
                }
            }
            all = &mut total, if known.is_none() => match all {
                Ok(all) => known = Some(all),
                Err(_) => return,
            },
        }
    }
}

impl Taker {
    fn take(&mut self, reply: &Message) -> Result<(), BenchError> {
        // Without a payload if nobody listens on the stream's subject.
        match Ack::parse(&reply.payload)? {
            Ack::Stored => {
                let due = ack::due(&reply.subject);
                self.tally
                    .acked(due.ok_or_else(|| BenchError::wrong("an answer came that nobody asked for"))?);
                self.acked += 1;
            }
            Ack::Upto(number) => {
                while self.acked < number {
                    let due = self.batch.try_recv();
                    self.tally.acked(due.map_err(|_| BenchError::wrong("more was acknowledged than sent"))?);
                    self.acked += 1;
                }
            }
        }
        Ok(())
    }
}

fn wrong(error: impl std::error::Error) -> BenchError {
    BenchError::wrong(format!("the publisher's connection: {error}"))
}
