//! Reads a stream from its first message on, by an ordered push consumer: JetStream pushes within a window of bytes that
//! the reader's answers move on, and nothing is acknowledged message by message.

use std::net::SocketAddr;

use async_nats::{Client, ConnectOptions, Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::json;

use super::api::{Api, connect};
use crate::error::BenchError;

/// Room for what JetStream may have under way to a reader (32 MiB), however small its messages are: the client throws
/// away what it has no room for.
const ROOM: usize = 1 << 20;
/// How often JetStream says that it is there, in nanoseconds. Only then does it notice that it waits for an answer that
/// was lost, so that it cannot be left out.
const HEARTBEAT: u64 = 5_000_000_000;
const STALLED: &str = "Nats-Consumer-Stalled";

/// Reads one stream.
#[derive(Debug)]
pub struct Reader {
    client: Client,
    messages: Subscriber,
    read: u64,
}

impl Reader {
    /// Connects, and begins.
    pub async fn new(address: SocketAddr, api: &Api, stream: &str) -> Result<Self, BenchError> {
        let client = connect(ConnectOptions::new().subscription_capacity(ROOM), address).await?;
        let inbox = client.new_inbox();
        let messages = client.subscribe(inbox.clone()).await.map_err(wrong)?;
        // The consumer is made by another connection: this one's interest has to be known by then.
        client.flush().await.map_err(wrong)?;
        let config = json!({
            "deliver_subject": inbox,
            "deliver_policy": "all",
            "ack_policy": "none",
            "max_deliver": 1,
            "flow_control": true,
            "idle_heartbeat": HEARTBEAT,
            "mem_storage": true,
            "num_replicas": 1,
        });
        api.create_consumer(stream, &config).await?;
        Ok(Self { client, messages, read: 0 })
    }

    /// The next message's payload.
    ///
    /// # Errors
    /// The connection is gone, or a message was lost on the way.
    pub async fn next(&mut self) -> Result<Bytes, BenchError> {
        loop {
            let message = self.messages.next().await;
            let message = message.ok_or_else(|| BenchError::wrong("the reader's connection is gone"))?;
            if message.status.is_some() {
                self.answer(message).await?;
                continue;
            }
            self.read += 1;
            let number = message.reply.as_deref().and_then(number);
            if number != Some(self.read) {
                let (read, reply) = (self.read, message.reply);
                return Err(BenchError::wrong(format!(
                    "message {read} was due to be read, and {reply:?} came"
                )));
            }
            return Ok(message.payload);
        }
    }

    /// Moves JetStream's window on where it asks for that: by a message between others, or by a heartbeat.
    async fn answer(&self, message: Message) -> Result<(), BenchError> {
        let stalled = message.headers.as_ref().and_then(|headers| headers.get(STALLED));
        let window = message.reply.or_else(|| stalled.map(|subject| subject.as_str().into()));
        match window {
            Some(subject) => self.client.publish(subject, Bytes::new()).await.map_err(wrong),
            None => Ok(()),
        }
    }
}

/// A message's number among those that the consumer was sent. The reply subject ends in it, the time, and how many wait.
fn number(reply: &str) -> Option<u64> {
    reply.rsplit('.').nth(2)?.parse().ok()
}

fn wrong(error: impl std::error::Error) -> BenchError {
    BenchError::wrong(format!("the reader's connection: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_its_number() {
        assert_eq!(number("$JS.ACK.stream.consumer.1.900.17.1790000000000000000.3"), Some(17));
        assert_eq!(number("$JS.ACK"), None);
    }
}
