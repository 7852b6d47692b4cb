//! Publishes into the first cluster. Flows in: events. Flows out: acknowledgements, from the client's own thread.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::server::PATIENCE;
use crate::error::BenchError;
use crate::tally::Tally;

/// How long a full queue is left alone. It holds many times what is sent in that time.
const FULL: Duration = Duration::from_micros(500);

/// How events become requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each event a request of its own, five under way: more would not be idempotent.
    Single,
    /// As the client batches.
    Batched,
    /// The same, of at most so many bytes each.
    Batches(usize),
}

/// Publishes into one topic.
pub struct Publisher {
    producer: ThreadedProducer<Reports>,
    topic: String,
    tally: Arc<Tally>,
}

/// Takes the delivery reports. An event's due time travels as the client's own pointer-wide tag: nothing is allocated.
struct Reports {
    tally: Arc<Tally>,
}

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, due: usize) {
        match result {
            Ok(_) => self.tally.acked(Duration::from_nanos(due as u64)),
            Err((error, _)) => self.tally.failed(BenchError::Kafka(error.clone())),
        }
    }
}

impl Publisher {
    /// Connects, and learns of the topic's partitions before anything is counted.
    pub async fn new(config: ClientConfig, topic: &str, tally: Arc<Tally>) -> Result<Self, BenchError> {
        let topic = topic.to_owned();
        spawn_blocking(move || {
            let reports = Reports { tally: Arc::clone(&tally) };
            let producer: ThreadedProducer<Reports> = config.create_with_context(reports)?;
            producer.client().fetch_metadata(Some(&topic), PATIENCE)?;
            Ok(Self { producer, topic, tally })
        })
        .await?
    }

    /// Hands an event over, as fast as the client takes it: waits while its queue is full.
    ///
    /// # Errors
    /// What the client says. What becomes of the event is told to the tally.
    pub async fn send(&mut self, key: Bytes, value: Bytes, due: Duration) -> Result<(), BenchError> {
        let due = due.as_nanos() as usize;
        let record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(&self.topic, due)
            .key(&key[..])
            .payload(&value[..]);
        let Err((mut error, mut record)) = self.producer.send(record) else { return Ok(()) };
        while error == KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
            // What failed is said there.
            if self.tally.has_failed() {
                return Ok(());
            }
            sleep(FULL).await;
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err(again) => (error, record) = again,
            }
        }
        Err(error.into())
    }

    /// Waits until all are acknowledged, or one failed: that is told to the tally.
    ///
    /// # Errors
    /// For a long time none is acknowledged any more.
    pub async fn finish(self) -> Result<(), BenchError> {
        spawn_blocking(move || {
            let mut left = self.producer.in_flight_count();
            while left > 0 {
                // All within that time, or at least some of them.
                let flushed = self.producer.flush(PATIENCE);
                let now = self.producer.in_flight_count();
                if now >= left {
                    flushed?;
                }
                left = now;
            }
            Ok(())
        })
        .await?
    }
}
