//! Publishes under one load. Open loops send at due times from a thread of their own, whatever the servers do, and count
//! latency from when an event was due, so that a stall counts for all that it held up. Closed loops send as fast as they
//! may, and count it from when an event was handed over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meridian_sdk::v1::event_result::Result as EventResult;
use meridian_sdk::v1::event_service_client::EventServiceClient;
use meridian_sdk::v1::{self, PublishRequest, StreamRef};
use meridian_sdk::{Delivery, Event, Publisher, PublisherOptions};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use crate::error::BenchError;
use crate::latency::Latencies;
use crate::pace::{Clock, Events, Pace, Stamp};
use crate::plan::{Load, Spans};
use crate::world::{PATIENCE, Region};

/// What a load came to.
#[derive(Debug)]
pub struct Published {
    /// Acknowledged, the warm-up included.
    pub total: u64,
    /// Acknowledged within the counted span.
    pub counted: u64,
    /// From when an event was due to its acknowledgement, without the warm-up.
    pub ack: Latencies,
    /// When the last acknowledgement came, on the row's clock.
    pub last_ack: Duration,
    /// From when an event was due to when it was sent, in an open loop.
    pub late: Latencies,
    /// When the last event was sent, on the row's clock.
    pub last_sent: Duration,
}

impl Published {
    fn new() -> Self {
        Self {
            total: 0,
            counted: 0,
            ack: Latencies::new(),
            last_ack: Duration::ZERO,
            late: Latencies::new(),
            last_sent: Duration::ZERO,
        }
    }

    fn add(&mut self, spans: &Spans, due: Duration, acked: Duration) {
        self.total += 1;
        self.last_ack = self.last_ack.max(acked);
        let end = spans.warm + spans.counted;
        self.counted += u64::from(acked >= spans.warm && acked < end);
        if due >= spans.warm {
            self.ack.record(acked.saturating_sub(due));
        }
    }

    fn merge(&mut self, other: &Self) {
        self.total += other.total;
        self.counted += other.counted;
        self.ack.merge(&other.ack);
        self.last_ack = self.last_ack.max(other.last_ack);
        self.late.merge(&other.late);
        self.last_sent = self.last_sent.max(other.last_sent);
    }
}

/// Ready to publish: connections are made before the clock starts.
pub struct Ready {
    sender: Sender,
    load: Load,
    spans: Spans,
    events: Events,
}

enum Sender {
    Sdk(Arc<Publisher>),
    Unary(Unary),
}

#[derive(Clone)]
struct Unary {
    client: EventServiceClient<Channel>,
    stream: String,
}

/// An event under way.
struct Sent {
    due: Duration,
    /// After the SDK took it, on the row's clock.
    taken: Duration,
    delivery: Delivery,
}

impl Ready {
    /// Connects.
    pub async fn new(region: &Region, stream: &str, load: Load, spans: Spans) -> Result<Self, BenchError> {
        let sender = match load {
            Load::SdkMax | Load::SdkRate(_) => {
                let publisher = region.client.publisher(stream, PublisherOptions::default()).await?;
                Sender::Sdk(Arc::new(publisher))
            }
            Load::UnaryMax(_) | Load::UnaryRate(_) => {
                let wrong =
                    |e: tonic::transport::Error| BenchError::wrong(format!("{}: {e}", region.endpoint));
                let endpoint =
                    Endpoint::from_shared(region.endpoint.clone()).map_err(wrong)?.tcp_nodelay(true);
                let client = EventServiceClient::new(endpoint.connect().await.map_err(wrong)?);
                Sender::Unary(Unary { client, stream: stream.to_owned() })
            }
        };
        Ok(Self { sender, load, spans, events: Events::new() })
    }

    /// Publishes for the spans, and waits for every acknowledgement.
    pub async fn run(self, clock: Clock) -> Result<Published, BenchError> {
        let Self { sender, load, spans, events } = self;
        match (sender, load) {
            (Sender::Sdk(publisher), load) => {
                sdk(publisher, load.rate().map(Pace::new), spans, events, clock).await
            }
            (Sender::Unary(unary), Load::UnaryMax(calls)) => {
                unary_max(unary, calls, spans, events, clock).await
            }
            (Sender::Unary(unary), load) => {
                let pace = Pace::new(load.rate().unwrap_or(1));
                unary_rate(unary, pace, spans, events, clock).await
            }
        }
    }
}

async fn sdk(
    publisher: Arc<Publisher>,
    pace: Option<Pace>,
    spans: Spans,
    events: Events,
    clock: Clock,
) -> Result<Published, BenchError> {
    let (deliveries, mut taken) = mpsc::unbounded_channel();
    let sending = Arc::clone(&publisher);
    let handle = Handle::current();
    let sender = spawn_blocking(move || match pace {
        Some(pace) => send_paced(&handle, &sending, pace, spans, &events, clock, &deliveries),
        None => handle.block_on(send_all(&sending, spans, &events, clock, &deliveries)),
    });
    let mut published = Published::new();
    // In the order of sending; each carries its own time, so that none is late for waiting here.
    while let Some(Sent { due, taken, delivery }) = taken.recv().await {
        let ack = timeout(PATIENCE, delivery).await;
        let ack = ack.map_err(|_| BenchError::wrong("an event was not acknowledged in time"))??;
        if ack.duplicate {
            return Err(BenchError::wrong(
                "an event was sent twice: a connection broke, so this is no figure",
            ));
        }
        published.add(&spans, due, taken + ack.latency);
    }
    let (late, last_sent) = sender.await??;
    published.late = late;
    published.last_sent = last_sent;
    Ok(published)
}

/// Open loop, on a thread of its own: the runtime's timers are too coarse.
fn send_paced(
    handle: &Handle,
    publisher: &Publisher,
    pace: Pace,
    spans: Spans,
    events: &Events,
    clock: Clock,
    deliveries: &mpsc::UnboundedSender<Sent>,
) -> Result<(Latencies, Duration), BenchError> {
    let mut late = Latencies::new();
    let mut sent = Duration::ZERO;
    for index in 0..pace.events(spans.warm + spans.counted) {
        let due = pace.due(index);
        clock.sleep_until(due);
        sent = clock.now();
        if due >= spans.warm {
            late.record(sent.saturating_sub(due));
        }
        let event = Event::new(events.value(Stamp { index, due })).with_key(events.key(index));
        let delivery = handle.block_on(publisher.send(event))?;
        // Nobody takes it any more once something failed; what failed is said there.
        if deliveries.send(Sent { due, taken: clock.now(), delivery }).is_err() {
            break;
        }
    }
    Ok((late, sent))
}

/// Closed loop: `send` waits while as much is under way as the SDK's options allow.
async fn send_all(
    publisher: &Publisher,
    spans: Spans,
    events: &Events,
    clock: Clock,
    deliveries: &mpsc::UnboundedSender<Sent>,
) -> Result<(Latencies, Duration), BenchError> {
    let end = spans.warm + spans.counted;
    for index in 0.. {
        let due = clock.now();
        if due >= end {
            break;
        }
        let event = Event::new(events.value(Stamp { index, due })).with_key(events.key(index));
        let delivery = publisher.send(event).await?;
        if deliveries.send(Sent { due, taken: clock.now(), delivery }).is_err() {
            break;
        }
    }
    Ok((Latencies::new(), clock.now()))
}

async fn unary_max(
    unary: Unary,
    calls: usize,
    spans: Spans,
    events: Events,
    clock: Clock,
) -> Result<Published, BenchError> {
    let mut callers = JoinSet::new();
    let next = Arc::new(AtomicU64::new(0));
    for _ in 0..calls {
        let (mut unary, events, next) = (unary.clone(), events.clone(), Arc::clone(&next));
        callers.spawn(async move {
            let mut published = Published::new();
            loop {
                let due = clock.now();
                if due >= spans.warm + spans.counted {
                    return Ok::<_, BenchError>(published);
                }
                let index = next.fetch_add(1, Ordering::Relaxed);
                unary.publish(&events, Stamp { index, due }).await?;
                published.add(&spans, due, clock.now());
                published.last_sent = due;
            }
        });
    }
    gather(callers).await
}

async fn unary_rate(
    unary: Unary,
    pace: Pace,
    spans: Spans,
    events: Events,
    clock: Clock,
) -> Result<Published, BenchError> {
    let (calls, mut done) = mpsc::unbounded_channel();
    let handle = Handle::current();
    let sender = spawn_blocking(move || {
        let mut late = Latencies::new();
        let mut sent = Duration::ZERO;
        for index in 0..pace.events(spans.warm + spans.counted) {
            let due = pace.due(index);
            clock.sleep_until(due);
            sent = clock.now();
            if due >= spans.warm {
                late.record(sent.saturating_sub(due));
            }
            let (mut unary, events, calls) = (unary.clone(), events.clone(), calls.clone());
            handle.spawn(async move {
                let outcome = unary.publish(&events, Stamp { index, due }).await;
                let _ = calls.send(outcome.map(|()| (due, clock.now())));
            });
        }
        (late, sent)
    });
    let mut published = Published::new();
    while let Some(outcome) = done.recv().await {
        let (due, acked) = outcome?;
        published.add(&spans, due, acked);
    }
    (published.late, published.last_sent) = sender.await?;
    Ok(published)
}

async fn gather(mut callers: JoinSet<Result<Published, BenchError>>) -> Result<Published, BenchError> {
    let mut all = Published::new();
    while let Some(published) = callers.join_next().await {
        all.merge(&published??);
    }
    Ok(all)
}

impl Unary {
    /// One event, once: it is not tried again.
    async fn publish(&mut self, events: &Events, stamp: Stamp) -> Result<(), BenchError> {
        let event = v1::Event {
            key: Some(events.key(stamp.index)),
            value: Some(events.value(stamp)),
            ..v1::Event::default()
        };
        let request = PublishRequest {
            stream: Some(StreamRef { tenant: "default".to_owned(), stream: self.stream.clone() }),
            events: vec![event],
            ..PublishRequest::default()
        };
        let answer = timeout(PATIENCE, self.client.publish(request)).await;
        let answer = answer.map_err(|_| BenchError::wrong("a unary publish was not answered in time"))??;
        match answer.into_inner().results.into_iter().next().and_then(|result| result.result) {
            Some(EventResult::Position(_)) => Ok(()),
            Some(EventResult::Error(error)) => Err(BenchError::wrong(format!("refused: {}", error.message))),
            None => Err(BenchError::wrong("an answer says nothing of its event")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warm_up_is_published_and_not_counted() {
        let ms = Duration::from_millis;
        let spans = Spans { warm: ms(100), counted: ms(100), limit: ms(0), rounds: 1 };
        let mut published = Published::new();
        // Within the warm-up; due in it and acknowledged after it; counted; due in time and acknowledged too late.
        for (due, acked) in [(0, 50), (90, 110), (110, 150), (190, 230)] {
            published.add(&spans, ms(due), ms(acked));
        }
        assert_eq!((published.total, published.counted, published.ack.count()), (4, 2, 2));
        assert_eq!(published.last_ack, ms(230));
        let worst = published.ack.quantiles().unwrap().max;
        assert!(worst.abs_diff(40_000) <= 40, "counted from when it was due: {worst}");
    }
}
