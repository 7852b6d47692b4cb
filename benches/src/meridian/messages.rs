//! `PublishBatches` as it is, without the SDK: one event in each message, acknowledged by itself, as many under way as the
//! row says. Without a producer's number: who sends an event again may double it, as with JetStream without message ids.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_batch::{BatchBuilder, Codec, Event};
use meridian_sdk::types::{Timestamp, partition_for_key};
use meridian_sdk::v1::publish_batches_response::Result as Answer;
use meridian_sdk::v1::{PublishBatchesRequest, PublishBatchesResponse, StreamRef};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;

use super::Region;
use super::calls::connect;
use crate::error::BenchError;
use crate::plan::PARTITIONS;
use crate::tally::Tally;

/// When each event without an answer was due, by its request.
type UnderWay = Arc<Mutex<HashMap<u64, Duration>>>;

/// A stream of requests, and a task that takes the answers.
pub struct Messages {
    stream: StreamRef,
    next: u64,
    requests: mpsc::UnboundedSender<PublishBatchesRequest>,
    under_way: UnderWay,
    answered: JoinHandle<()>,
}

impl Messages {
    /// Connects.
    pub async fn new(region: &Region, stream: &str, tally: Arc<Tally>) -> Result<Self, BenchError> {
        let mut client = connect(region).await?;
        let (requests, taken) = mpsc::unbounded_channel();
        let answers = client.publish_batches(UnboundedReceiverStream::new(taken)).await?.into_inner();
        let under_way = UnderWay::default();
        let answered = tokio::spawn(take_answers(answers, Arc::clone(&under_way), tally));
        let stream = StreamRef { tenant: "default".to_owned(), stream: stream.to_owned() };
        Ok(Self { stream, next: 0, requests, under_way, answered })
    }

    /// Hands an event over.
    pub async fn send(&mut self, key: Bytes, value: Bytes, due: Duration) -> Result<(), BenchError> {
        let partition = partition_for_key(&key, PARTITIONS);
        let event = Event { key: Some(key), value: Some(value), timestamp: Timestamp(0), ..Event::default() };
        let mut batch = BatchBuilder::new(Codec::None);
        let wrong = |error| BenchError::wrong(format!("an event makes no batch: {error}"));
        batch.push(&event).map_err(wrong)?;
        let request = PublishBatchesRequest {
            request_id: self.next,
            stream: Some(self.stream.clone()),
            partition: partition.0,
            batch: batch.build().map_err(wrong)?,
            ..PublishBatchesRequest::default()
        };
        self.under_way.lock().insert(self.next, due);
        self.next += 1;
        // Nobody takes it any more once something failed; what failed is said there.
        let _ = self.requests.send(request);
        Ok(())
    }

    /// Waits until all are acknowledged.
    pub async fn finish(self) -> Result<(), BenchError> {
        drop(self.requests);
        Ok(self.answered.await?)
    }
}

async fn take_answers(
    mut answers: Streaming<PublishBatchesResponse>,
    under_way: UnderWay,
    tally: Arc<Tally>,
) {
    loop {
        let answer = match answers.message().await {
            Ok(Some(answer)) => answer,
            Ok(None) if under_way.lock().is_empty() => return,
            Ok(None) => return tally.failed(BenchError::wrong("the stream ended before all was answered")),
            Err(status) => return tally.failed(status.into()),
        };
        let due = under_way.lock().remove(&answer.request_id);
        match (answer.result, due) {
            (Some(Answer::Published(_)), Some(due)) => tally.acked(due),
            (Some(Answer::Error(error)), _) => {
                return tally.failed(BenchError::wrong(format!("refused: {}", error.message)));
            }
            _ => return tally.failed(BenchError::wrong("an answer says nothing, or of no request of ours")),
        }
    }
}
