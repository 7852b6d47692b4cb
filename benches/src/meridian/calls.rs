//! The unary `Publish`: one event a call.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_sdk::v1::event_result::Result as EventResult;
use meridian_sdk::v1::event_service_client::EventServiceClient;
use meridian_sdk::v1::{self, PublishRequest, StreamRef};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use super::Region;
use crate::PATIENCE;
use crate::error::BenchError;
use crate::tally::Tally;

/// Calls, each in a task of its own.
pub struct Calls {
    client: EventServiceClient<Channel>,
    stream: StreamRef,
    tally: Arc<Tally>,
    under_way: JoinSet<()>,
}

/// A plain client.
pub async fn connect(region: &Region) -> Result<EventServiceClient<Channel>, BenchError> {
    let wrong = |e: tonic::transport::Error| BenchError::wrong(format!("{}: {e}", region.endpoint));
    let endpoint = Endpoint::from_shared(region.endpoint.clone()).map_err(wrong)?.tcp_nodelay(true);
    Ok(EventServiceClient::new(endpoint.connect().await.map_err(wrong)?))
}

impl Calls {
    /// Connects.
    pub async fn new(region: &Region, stream: &str, tally: Arc<Tally>) -> Result<Self, BenchError> {
        let stream = StreamRef { tenant: "default".to_owned(), stream: stream.to_owned() };
        Ok(Self { client: connect(region).await?, stream, tally, under_way: JoinSet::new() })
    }

    /// Hands an event over.
    pub async fn send(&mut self, key: Bytes, value: Bytes, due: Duration) -> Result<(), BenchError> {
        let event = v1::Event { key: Some(key), value: Some(value), ..v1::Event::default() };
        let request = PublishRequest {
            stream: Some(self.stream.clone()),
            events: vec![event],
            ..PublishRequest::default()
        };
        let (mut client, tally) = (self.client.clone(), Arc::clone(&self.tally));
        // Once, and not again.
        self.under_way.spawn(async move {
            let late = || BenchError::wrong("a unary publish was not answered in time");
            let answer = match timeout(PATIENCE, client.publish(request)).await {
                Ok(Ok(answer)) => answer.into_inner(),
                Ok(Err(status)) => return tally.failed(status.into()),
                Err(_) => return tally.failed(late()),
            };
            match answer.results.into_iter().next().and_then(|result| result.result) {
                Some(EventResult::Position(_)) => tally.acked(due),
                Some(EventResult::Error(error)) => {
                    tally.failed(BenchError::wrong(format!("refused: {}", error.message)));
                }
                None => tally.failed(BenchError::wrong("an answer says nothing of its event")),
            }
        });
        while self.under_way.try_join_next().is_some() {}
        Ok(())
    }

    /// Waits until all are acknowledged.
    pub async fn finish(mut self) -> Result<(), BenchError> {
        while let Some(ended) = self.under_way.join_next().await {
            ended?;
        }
        Ok(())
    }
}
