//! EventService: publishing and reading.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::{Stream, StreamExt as _};
use meridian_batch::{BatchBuilder, Codec, Event, Header, Limits, Producer, Sequence};
use meridian_metadata::catalog::StreamRow;
use meridian_types::limits::PARTITIONS;
use meridian_types::{Offset, Partition, ProducerEpoch, ProducerId, Timestamp, partition_for_key};
use meridian_wire::{ApiError, PUBLISH_EVENTS, PublishCounts, Reason, count_publish, decode, v1};
use tonic::{Request, Response, Status, Streaming};

use crate::answered::{AnswerMessages, AnswerRoom};
use crate::batches::take_batches;
use crate::budget::Taken;
use crate::call::{BATCH_OVERHEAD, PUBLISH_BATCHES};
use crate::connections::Connection;
use crate::metered::{PATIENCE, overloaded};
use crate::outgoing::{close_unless_fetched, in_order, outgoing};
use crate::publish::{Room, batch_error, check_durability, deadline};
use crate::received::{Arrived, Incoming, Received};
use crate::shared::Gateway;

/// Batches of one stream of PublishBatches that may be without an answer that was taken; beyond, no more are read.
const ANSWERS: usize = 1024;
/// More than what an event without a key, a value and headers takes in a batch.
const EVENT_OVERHEAD: usize = 32;
/// What an event takes beyond its bytes while it is taken apart and answered, and what a header takes: as little as two
/// bytes bring one.
const EVENT_MEMORY: u64 = 384;
const HEADER_MEMORY: u64 = 192;
/// Up to so much is covered by what is allowed for each request.
const FREE_MEMORY: u64 = 256 * 1024;

/// Implements EventService.
pub(crate) struct Events {
    gateway: Gateway,
    round_robin: AtomicU32,
}

impl Events {
    pub fn new(gateway: Gateway) -> Self {
        Self { gateway, round_robin: AtomicU32::new(0) }
    }

    fn refuse(&self, error: ApiError) -> Status {
        self.gateway.refused(&error);
        error.into()
    }

    /// What the events of a publish take while they are taken apart, beyond what it was let in with.
    async fn room_for_events(&self, counts: PublishCounts) -> Result<Taken, ApiError> {
        let (events, headers) = (counts.events as u64, counts.headers as u64);
        let batches = events.saturating_sub(PUBLISH_BATCHES).min(PARTITIONS.into());
        let bytes = events * EVENT_MEMORY + headers * HEADER_MEMORY + batches * BATCH_OVERHEAD;
        if batches == 0 && bytes <= FREE_MEMORY {
            return Ok(Taken::default());
        }
        let budget = self.gateway.decoded();
        // Who has room here waits for no other room: nobody waits in a circle.
        let room = tokio::time::timeout(PATIENCE, budget.acquire(bytes)).await;
        room.ok().flatten().ok_or_else(|| overloaded("large publishes", budget))
    }

    /// Publishes, and gives the room that the answer takes.
    async fn publish_events(&self, arrived: Arrived) -> Result<(v1::PublishResponse, Taken), ApiError> {
        let gateway = &self.gateway;
        let Arrived { bytes, taken: mut held } = arrived;
        let counts = count_publish(&bytes)?;
        // No more batches than events: what was let in for the rest is others'.
        let batches = PUBLISH_BATCHES.min(counts.events as u64);
        held = held.split(bytes.len() as u64 + batches * BATCH_OVERHEAD);
        let mut decoded = self.room_for_events(counts).await?;
        let request: v1::PublishRequest = decode(bytes)?;
        let (_, stream) = gateway.stream(request.stream.as_ref()).await?;
        check_durability(request.durability.as_ref())?;
        // More than the most are refused before they are decoded.
        if request.events.is_empty() {
            return Err(ApiError::new(
                Reason::InvalidArgument,
                format!("a publish has 1 to {PUBLISH_EVENTS} events, not 0"),
            ));
        }
        let now = gateway.clock().now();
        let keyless = self.round_robin.fetch_add(1, Ordering::Relaxed);
        let by_partition = split(&stream, request.events, keyless, now)?;
        let producer = request.producer.as_ref().map(producer_of).transpose()?;
        if producer.is_some() && by_partition.len() > 1 {
            return Err(ApiError::new(
                Reason::InvalidArgument,
                "a publish with a producer must go to one partition: set `partition`, or send one request a partition",
            ));
        }
        let deadline = deadline(request.deadline_ms);
        let mut begun = Vec::new();
        let mut results: Vec<Option<v1::EventResult>> = Vec::new();
        for (partition, events) in by_partition {
            let places: Vec<usize> = events.iter().map(|(place, _)| *place).collect();
            results.resize(results.len() + places.len(), None);
            let started = match encode(events, producer) {
                Ok(batch) => {
                    let needed = batch.len() as u64 + BATCH_OVERHEAD;
                    let message = held.split(needed);
                    let missing = needed - message.bytes();
                    let room = Room::new(message, decoded.split(missing));
                    match gateway.check_publish(&stream, partition, batch, deadline, room) {
                        Ok(checked) => gateway.queue_in_time(checked).await,
                        Err(error) => Err(error),
                    }
                }
                Err(error) => Err(error),
            };
            begun.push((places, started));
        }
        // The batches have what they need.
        drop(held);
        // A request that fails as a whole is an error; one that fails in part says so event by event.
        let only = begun.len() == 1;
        for (places, started) in begun {
            let published = match started {
                Ok(started) => gateway.finish_publish(started).await,
                Err(error) => Err(error),
            };
            if let (true, Err(error)) = (only, &published) {
                return Err(error.clone());
            }
            for (i, place) in places.into_iter().enumerate() {
                results[place] = Some(event_result(&published, i as u64));
            }
        }
        let answer = v1::PublishResponse { results: results.into_iter().flatten().collect() };
        Ok((answer, decoded.split(counts.events as u64 * EVENT_MEMORY)))
    }
}

/// Events by partition, each with its place in the request.
fn split(
    stream: &StreamRow,
    events: Vec<v1::Event>,
    keyless: u32,
    now: Timestamp,
) -> Result<BTreeMap<Partition, Vec<(usize, Event)>>, ApiError> {
    let partitions = stream.settings.partitions;
    let mut split: BTreeMap<Partition, Vec<(usize, Event)>> = BTreeMap::new();
    for (place, event) in events.into_iter().enumerate() {
        let partition = match (event.partition, &event.key) {
            (Some(partition), _) => Partition(partition),
            (None, Some(key)) => partition_for_key(key, partitions),
            (None, None) => Partition(keyless % partitions),
        };
        let headers = event.headers.into_iter().map(|h| Header { key: h.key, value: h.value }).collect();
        let timestamp = event.timestamp_ms.map_or(now, Timestamp);
        split
            .entry(partition)
            .or_default()
            .push((place, Event { key: event.key, value: event.value, headers, timestamp }));
    }
    Ok(split)
}

fn encode(events: Vec<(usize, Event)>, producer: Option<Producer>) -> Result<bytes::Bytes, ApiError> {
    let room = events.iter().map(|(_, event)| event.bytes() + EVENT_OVERHEAD).sum();
    let mut builder = BatchBuilder::new(Codec::None).with_limits(Limits::DEFAULT).with_room_for(room);
    if let Some(producer) = producer {
        builder = builder.with_producer(producer);
    }
    for (_, event) in &events {
        builder.push(event).map_err(batch_error)?;
    }
    builder.build().map_err(batch_error)
}

fn producer_of(producer: &v1::Producer) -> Result<Producer, ApiError> {
    let epoch = i16::try_from(producer.epoch).ok().filter(|epoch| *epoch >= 0);
    let (Some(epoch), Some(sequence)) = (epoch, Sequence::new(producer.sequence)) else {
        return Err(ApiError::new(
            Reason::InvalidArgument,
            "producer.epoch must be 0 to 32767, producer.sequence not negative",
        ));
    };
    if producer.id < 0 {
        return Err(ApiError::new(Reason::InvalidArgument, "producer.id must be one that InitProducer gave"));
    }
    Ok(Producer { id: ProducerId(producer.id), epoch: ProducerEpoch(epoch), sequence })
}

fn event_result(published: &Result<v1::PublishedBatch, ApiError>, place: u64) -> v1::EventResult {
    use v1::event_result::Result as Outcome;
    let result = match published {
        Ok(published) => {
            let mut position = published.first.clone().unwrap_or_default();
            position.offset = Offset(position.offset).plus(place).0;
            Outcome::Position(position)
        }
        Err(error) => Outcome::Error(error.clone().into()),
    };
    v1::EventResult { result: Some(result) }
}

fn connection_of<T>(request: &Request<T>) -> Option<Connection> {
    request.extensions().get::<Connection>().cloned()
}

#[tonic::async_trait]
impl v1::event_service_server::EventService for Events {
    type PublishBatchesStream =
        Pin<Box<dyn Stream<Item = Result<v1::PublishBatchesResponse, Status>> + Send>>;
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<v1::SubscribeResponse, Status>> + Send>>;

    async fn publish(
        &self,
        request: Request<v1::PublishRequest>,
    ) -> Result<Response<v1::PublishResponse>, Status> {
        let connection = connection_of(&request);
        let arrived = Received::of(request.extensions()).next();
        let arrived = arrived.map_err(|error| self.refuse(error))?;
        let (answer, room) = self.publish_events(arrived).await.map_err(|error| self.refuse(error))?;
        let mut response = Response::new(answer);
        if room.bytes() > FREE_MEMORY {
            let unfetched = close_unless_fetched(&self.gateway, connection);
            response.extensions_mut().insert(AnswerRoom::new(room, unfetched));
        }
        Ok(response)
    }

    async fn publish_batches(
        &self,
        request: Request<Streaming<v1::PublishBatchesRequest>>,
    ) -> Result<Response<Self::PublishBatchesStream>, Status> {
        self.gateway.check_ready().map_err(|error| self.refuse(error))?;
        let (out, queued, end) = outgoing(ANSWERS, connection_of(&request));
        tokio::spawn(take_batches(self.gateway.clone(), Incoming::new(request), out));
        Ok(Response::new(Box::pin(in_order(queued, end))))
    }

    async fn init_producer(
        &self,
        request: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        let admitted = self.gateway.admit(&request.get_ref().tenant);
        admitted.and_then(|_| self.gateway.check_ready()).map_err(|error| self.refuse(error))?;
        let id = self.gateway.mint_producer().map_err(|error| self.refuse(error))?;
        Ok(Response::new(v1::InitProducerResponse { id: id.0, epoch: 0 }))
    }

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let connection = connection_of(&request);
        let opened = crate::subscribe::open(self.gateway.clone(), Incoming::new(request), connection);
        let (messages, end) = opened.await.map_err(|error| self.refuse(error))?;
        // tonic adds how it ends.
        let mut response = Response::new(end.map(Err).boxed() as Self::SubscribeStream);
        response.extensions_mut().insert(AnswerMessages::new(messages));
        Ok(response)
    }

    async fn latest(
        &self,
        request: Request<v1::LatestRequest>,
    ) -> Result<Response<v1::LatestResponse>, Status> {
        let gateway = &self.gateway;
        let answer = async {
            gateway.check_ready()?;
            let (_, row) = gateway.stream(request.get_ref().stream.as_ref()).await?;
            let cursor = gateway.latest(&row).await?;
            Ok(v1::LatestResponse {
                stream_id: row.id.0,
                partitions: row.settings.partitions,
                cursor: cursor.to_bytes().into(),
                confirmed: Some(gateway.host().home().into()),
            })
        };
        gateway.answer(answer.await)
    }
}
