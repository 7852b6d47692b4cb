//! EventService: publishing and reading.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::Stream;
use meridian_batch::{BatchBuilder, Codec, Event, Header, Limits, Producer, Sequence};
use meridian_metadata::catalog::StreamRow;
use meridian_types::{Offset, Partition, ProducerEpoch, ProducerId, Timestamp, partition_for_key};
use meridian_wire::{ApiError, PUBLISH_EVENTS, Reason, v1};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use crate::answered::Delivered;
use crate::budget::Taken;
use crate::connections::Connection;
use crate::metered::Received;
use crate::outgoing::{Outgoing, outgoing};
use crate::publish::{Begun, batch_error, check_durability, deadline};
use crate::shared::Gateway;

/// Batches of one stream of PublishBatches that may be without an answer that was taken; beyond, no more are read.
const ANSWERS: usize = 512;
/// More than what an event without a key, a value and headers takes in a batch.
const EVENT_OVERHEAD: usize = 32;

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

    /// `held`: the request's bytes of the budget.
    async fn publish_events(
        &self,
        request: v1::PublishRequest,
        mut held: Taken,
    ) -> Result<v1::PublishResponse, ApiError> {
        let gateway = &self.gateway;
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
                    let held = held.split(batch.len() as u64);
                    gateway.begin_publish(&stream, partition, batch, deadline, held).await
                }
                Err(error) => Err(error),
            };
            begun.push((places, started));
        }
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
        Ok(v1::PublishResponse { results: results.into_iter().flatten().collect() })
    }

    /// Takes batch after batch and lets each be answered when it is committed, until the client ends or the node stops.
    async fn take_batches(
        gateway: Gateway,
        received: Received,
        mut requests: Streaming<v1::PublishBatchesRequest>,
        outgoing: Outgoing<v1::PublishBatchesResponse>,
    ) {
        let mut streams = HashMap::new();
        let under_way = Arc::new(());
        let end = loop {
            // A place for the answer is taken before the batch is read, so that a client that does not take its answers is
            // read no further and holds nothing.
            let permit = tokio::select! {
                biased;
                () = gateway.until_draining() => break gateway.not_ready(),
                place = place_for_answer(&gateway, &outgoing, &under_way) => match place {
                    Place::Free(permit) => permit,
                    Place::Gone => return,
                    Place::Slow => return outgoing.cut_off(&gateway),
                },
            };
            let message = tokio::select! {
                biased;
                () = gateway.until_draining() => break gateway.not_ready(),
                message = requests.message() => message,
            };
            let request = match message {
                Ok(Some(request)) => request,
                Ok(None) => return,
                // What was queued is answered first; then the client hears why no more is read.
                Err(status) => return outgoing.end_with(status),
            };
            let (request_id, held) = (request.request_id, received.next());
            match begin_batch(&gateway, &mut streams, request, held).await {
                Ok(begun) => {
                    let (gateway, under_way) = (gateway.clone(), under_way.clone());
                    tokio::spawn(async move {
                        let result = gateway.finish_publish(begun).await;
                        if let Err(error) = &result {
                            gateway.refused(error);
                        }
                        permit.send(answer(request_id, result));
                        drop(under_way);
                    });
                }
                Err(error) => {
                    gateway.refused(&error);
                    permit.send(answer(request_id, Err(error)));
                }
            }
        };
        outgoing.end(end);
    }
}

enum Place {
    Free(mpsc::OwnedPermit<v1::PublishBatchesResponse>),
    Gone,
    Slow,
}

/// Waits for a place for one more answer. Slow: every place is taken by an answer that the client does not fetch.
async fn place_for_answer(
    gateway: &Gateway,
    outgoing: &Outgoing<v1::PublishBatchesResponse>,
    under_way: &Arc<()>,
) -> Place {
    loop {
        let place = outgoing.answers.clone().reserve_owned();
        match tokio::time::timeout(gateway.config().slow_reader, place).await {
            Ok(Ok(permit)) => return Place::Free(permit),
            Ok(Err(_)) => return Place::Gone,
            // Batches that are not committed yet have a place too, and it is not the client who is slow then.
            Err(_) if Arc::strong_count(under_way) > 1 => {}
            Err(_) => return Place::Slow,
        }
    }
}

async fn begin_batch(
    gateway: &Gateway,
    streams: &mut HashMap<(String, String), Arc<StreamRow>>,
    request: v1::PublishBatchesRequest,
    held: Taken,
) -> Result<Begun, ApiError> {
    check_durability(request.durability.as_ref())?;
    // Looked up by id each time: a stream can be deleted or grow while the connection stays.
    let name = request.stream.as_ref().map(|s| (s.tenant.clone(), s.stream.clone())).unwrap_or_default();
    let known = streams.get(&name).and_then(|row| gateway.catalog().state().stream(row.id).cloned());
    let stream = match known.filter(|_| gateway.is_ready()) {
        Some(row) => row,
        None => gateway.stream(request.stream.as_ref()).await?.1,
    };
    let stream = if request.partition >= stream.settings.partitions {
        gateway.stream(request.stream.as_ref()).await?.1
    } else {
        stream
    };
    streams.insert(name, stream.clone());
    let deadline = deadline(request.deadline_ms);
    gateway.begin_publish(&stream, Partition(request.partition), request.batch, deadline, held).await
}

fn answer(request_id: u64, result: Result<v1::PublishedBatch, ApiError>) -> v1::PublishBatchesResponse {
    use v1::publish_batches_response::Result as Answer;
    let result = match result {
        Ok(published) => Answer::Published(published),
        Err(error) => Answer::Error(error.into()),
    };
    v1::PublishBatchesResponse { request_id, result: Some(result) }
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
        let held = request.extensions().get::<Received>().map(Received::next).unwrap_or_default();
        let answer = self.publish_events(request.into_inner(), held).await;
        answer.map(Response::new).map_err(|error| self.refuse(error))
    }

    async fn publish_batches(
        &self,
        request: Request<Streaming<v1::PublishBatchesRequest>>,
    ) -> Result<Response<Self::PublishBatchesStream>, Status> {
        self.gateway.check_ready().map_err(|error| self.refuse(error))?;
        let received = request.extensions().get::<Received>().cloned().unwrap_or_default();
        let (out, stream) = outgoing(ANSWERS, connection_of(&request));
        tokio::spawn(Self::take_batches(self.gateway.clone(), received, request.into_inner(), out));
        Ok(Response::new(Box::pin(stream)))
    }

    async fn init_producer(
        &self,
        request: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        self.gateway.admit(&request.get_ref().tenant).map_err(|error| self.refuse(error))?;
        let id = self.gateway.mint_producer().map_err(|error| self.refuse(error))?;
        Ok(Response::new(v1::InitProducerResponse { id: id.0, epoch: 0 }))
    }

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let connection = connection_of(&request);
        let delivered = Delivered::default();
        let opened =
            crate::subscribe::open(self.gateway.clone(), request.into_inner(), connection, delivered.clone());
        let stream = opened.await.map_err(|error| self.refuse(error))?;
        let mut response = Response::new(Box::pin(stream) as Self::SubscribeStream);
        response.extensions_mut().insert(delivered);
        Ok(response)
    }
}
