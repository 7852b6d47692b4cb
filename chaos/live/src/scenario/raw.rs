//! Calls that the SDK does not let its users make: a producer's own numbers, a batch sent twice.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meridian_sdk::ApiError;
use meridian_sdk::v1::event_result::Result as EventAnswer;
use meridian_sdk::v1::event_service_client::EventServiceClient;
use meridian_sdk::v1::{Event, InitProducerRequest, Producer, PublishRequest, StreamRef};
use meridian_types::Lane;
use tokio::task::JoinHandle;
use tonic::transport::Endpoint;

use crate::record::{RAW, Recorder, What, lane_name};
use crate::scenario::Stage;
use crate::scenario::stage::STREAM;
use crate::trouble::{Context as _, Trouble};

const ANSWER_WITHIN: Duration = Duration::from_secs(40);
/// The raw publisher's number, beside the SDK's.
const NUMBER: u32 = 1;

/// Where an event is.
pub type At = (String, u64);
/// Where a batch's events are, or what it was refused with.
pub type Answered = Result<Vec<At>, String>;

/// A client of one region that says what it likes.
pub struct Raw {
    endpoint: String,
    name: String,
    next: AtomicU64,
}

/// Events with ids of their own, to be sent as often as one likes.
#[derive(Clone, Debug)]
pub struct Batch {
    ids: Vec<String>,
    request: PublishRequest,
}

impl Raw {
    /// A client of a region.
    pub fn new(stage: &Stage, region: u8) -> Result<Self, Trouble> {
        let endpoint = stage.world.endpoints(region).into_iter().next();
        let endpoint = endpoint.ok_or_else(|| Trouble::tool("a region without nodes"))?;
        let at = stage.recorder.entries()?.len();
        let name = format!("{}/{NUMBER}-{at}", stage.world.regions()[usize::from(region) - 1]);
        Ok(Self { endpoint, name, next: AtomicU64::new(0) })
    }

    /// A client of one node.
    pub fn of_node(stage: &Stage, index: usize) -> Result<Self, Trouble> {
        let raw = Self::new(stage, stage.world.node(index).place().0)?;
        Ok(Self { endpoint: stage.world.endpoint(index), ..raw })
    }

    /// Another node is talked to from here on.
    pub fn turn_to(&mut self, stage: &Stage, index: usize) {
        self.endpoint = stage.world.endpoint(index);
    }

    /// A fresh producer: id and epoch.
    pub fn init_producer(&self, stage: &Stage) -> Result<(i64, i32), Trouble> {
        let endpoint = self.endpoint.clone();
        stage.world.clients.run(async move {
            let mut client = connect(endpoint).await?;
            let request = InitProducerRequest { tenant: "default".to_owned() };
            let answer = client.init_producer(request).await.context("init producer")?.into_inner();
            Ok((answer.id, answer.epoch))
        })?
    }

    /// Events of partition 0, noted as calls.
    pub fn batch(&self, recorder: &Recorder, producer: Option<Producer>, events: u64) -> Batch {
        self.batch_in(recorder, 0, producer, events)
    }

    /// Events of a partition, noted as calls.
    pub fn batch_in(
        &self,
        recorder: &Recorder,
        partition: u32,
        producer: Option<Producer>,
        events: u64,
    ) -> Batch {
        let first = self.next.fetch_add(events, Ordering::Relaxed);
        let ids: Vec<String> =
            (first..first + events).map(|number| format!("{}/{number}", self.name)).collect();
        for id in &ids {
            recorder.note(What::Call { id: id.clone(), key: String::new() });
        }
        let events = ids.iter().map(|id| Event {
            value: Some(format!("{id} {RAW}").into()),
            partition: Some(partition),
            ..Event::default()
        });
        let stream = StreamRef { tenant: "default".to_owned(), stream: STREAM.to_owned() };
        let request = PublishRequest {
            stream: Some(stream),
            events: events.collect(),
            deadline_ms: ANSWER_WITHIN.as_millis() as u64,
            producer,
            ..PublishRequest::default()
        };
        Batch { ids, request }
    }

    /// Sends a batch; the answer comes later.
    pub fn send(
        &self,
        stage: &Stage,
        batch: &Batch,
    ) -> Result<JoinHandle<Result<Answered, Trouble>>, Trouble> {
        let (endpoint, batch, recorder) = (self.endpoint.clone(), batch.clone(), stage.recorder.clone());
        stage.world.clients.spawn(async move {
            let client = connect(endpoint).await?;
            Ok(publish(client, batch, recorder).await)
        })
    }

    /// Sends so many events to a partition, each a batch and a publisher of its own, over one connection and all at once.
    /// Whether each is acknowledged comes later.
    pub fn flood(
        &self,
        stage: &Stage,
        partition: u32,
        events: u64,
    ) -> Result<Vec<JoinHandle<Result<bool, Trouble>>>, Trouble> {
        let endpoint = Endpoint::from_shared(self.endpoint.clone()).context("an endpoint")?;
        let channel = stage
            .world
            .clients
            .run(async move { endpoint.timeout(ANSWER_WITHIN).connect().await.context("connecting") })??;
        let mut sent = Vec::new();
        for number in 0..events {
            let name = format!("{}-{partition}-{number}", self.name);
            let one = Self { endpoint: self.endpoint.clone(), name, next: AtomicU64::new(0) };
            let batch = one.batch_in(&stage.recorder, partition, None, 1);
            let (client, recorder) = (EventServiceClient::new(channel.clone()), stage.recorder.clone());
            sent.push(
                stage
                    .world
                    .clients
                    .spawn(async move { Ok(publish(client, batch, recorder).await.is_ok()) })?,
            );
        }
        Ok(sent)
    }

    /// Sends a batch and waits for its answer.
    pub fn publish(&self, stage: &Stage, batch: &Batch) -> Result<Answered, Trouble> {
        stage.world.clients.join(self.send(stage, batch)?)?
    }

    /// One event without a producer.
    pub fn publish_plain(&self, stage: &Stage) -> Result<Answered, Trouble> {
        let batch = self.batch(&stage.recorder, None, 1);
        self.publish(stage, &batch)
    }
}

async fn publish(
    mut client: EventServiceClient<tonic::transport::Channel>,
    batch: Batch,
    recorder: Recorder,
) -> Answered {
    let answered: Answered = match client.publish(batch.request).await {
        Ok(answer) => answer.into_inner().results.into_iter().map(|result| place(result.result)).collect(),
        Err(status) => {
            Err(ApiError::from_status(&status).map_or_else(|| status.to_string(), |error| error.to_string()))
        }
    };
    if let Ok(places) = &answered {
        for (id, (lane, offset)) in batch.ids.into_iter().zip(places.clone()) {
            recorder.note(What::Ack { id, lane, offset, hlc: 0, duplicate: false });
        }
    }
    answered
}

async fn connect(endpoint: String) -> Result<EventServiceClient<tonic::transport::Channel>, Trouble> {
    let endpoint = Endpoint::from_shared(endpoint).context("an endpoint")?;
    let channel = endpoint.timeout(ANSWER_WITHIN).connect().await.context("connecting")?;
    Ok(EventServiceClient::new(channel))
}

fn place(answer: Option<EventAnswer>) -> Result<At, String> {
    match answer {
        Some(EventAnswer::Position(position)) => {
            let lane = position.lane.as_ref().map(Lane::try_from);
            match lane {
                Some(Ok(lane)) => Ok((lane_name(&lane), position.offset)),
                _ => Err("a position without a lane".to_owned()),
            }
        }
        Some(EventAnswer::Error(error)) => Err(format!("{}: {}", error.reason, error.message)),
        None => Err("an answer that says nothing".to_owned()),
    }
}
