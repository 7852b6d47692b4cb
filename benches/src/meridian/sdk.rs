//! The SDK's publisher.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_sdk::{Delivery, Event, Publisher, PublisherOptions};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Region;
use crate::PATIENCE;
use crate::error::BenchError;
use crate::tally::Tally;

/// A publisher of the SDK; a task beside it takes the acknowledgements.
pub struct Sdk {
    publisher: Publisher,
    tally: Arc<Tally>,
    deliveries: mpsc::UnboundedSender<Sent>,
    acknowledged: JoinHandle<()>,
}

/// An event under way.
struct Sent {
    due: Duration,
    /// After the SDK took it, on the row's clock.
    taken: Duration,
    delivery: Delivery,
}

impl Sdk {
    /// Connects. Batches close at the SDK's default size, or at another.
    pub async fn new(
        region: &Region,
        stream: &str,
        batch_bytes: Option<usize>,
        tally: Arc<Tally>,
    ) -> Result<Self, BenchError> {
        let mut options = PublisherOptions::default();
        options.batch_bytes = batch_bytes.unwrap_or(options.batch_bytes);
        let publisher = region.client.publisher(stream, options).await?;
        let (deliveries, taken) = mpsc::unbounded_channel();
        let acknowledged = tokio::spawn(acknowledge(taken, Arc::clone(&tally)));
        Ok(Self { publisher, tally, deliveries, acknowledged })
    }

    /// Hands an event over.
    pub async fn send(&mut self, key: Bytes, value: Bytes, due: Duration) -> Result<(), BenchError> {
        let delivery = self.publisher.send(Event::new(value).with_key(key)).await?;
        // Nobody takes it any more once something failed; what failed is said there.
        let _ = self.deliveries.send(Sent { due, taken: self.tally.clock().now(), delivery });
        Ok(())
    }

    /// Waits until all are acknowledged.
    pub async fn finish(self) -> Result<(), BenchError> {
        drop(self.deliveries);
        Ok(self.acknowledged.await?)
    }
}

/// In the order of sending; each acknowledgement carries its own time, so that none is late for waiting here.
async fn acknowledge(mut taken: mpsc::UnboundedReceiver<Sent>, tally: Arc<Tally>) {
    let mut some = Vec::new();
    while taken.recv_many(&mut some, 1024).await > 0 {
        for Sent { due, taken, mut delivery } in some.drain(..) {
            // A timer for each event would cost more than the event.
            let answer = match futures::poll!(&mut delivery) {
                std::task::Poll::Ready(answer) => Ok(answer),
                std::task::Poll::Pending => timeout(PATIENCE, delivery).await,
            };
            match answer {
                Ok(Ok(ack)) if ack.duplicate => {
                    let what = "an event was sent twice: a connection broke, so this is no figure";
                    return tally.failed(BenchError::wrong(what));
                }
                Ok(Ok(ack)) => tally.acked_at(due, taken + ack.latency),
                Ok(Err(error)) => return tally.failed(error.into()),
                Err(_) => {
                    return tally.failed(BenchError::wrong("an event was not acknowledged in time"));
                }
            }
        }
    }
}
