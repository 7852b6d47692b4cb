//! Publishing: [`Publisher`] hands events to the core and lets a task send what the core wants sent.

mod core;
#[cfg(test)]
mod core_tests;
mod error;
mod event;
mod outgoing;
mod partition;
mod receipt;
mod spare;
mod task;
mod timer;
mod wake;

use std::sync::Arc;
use std::time::Instant;

use meridian_types::{Clock as _, StreamId, SystemClock};
use parking_lot::Mutex;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, TryAcquireError};
use tokio::task::JoinHandle;
use tokio::task::coop::consume_budget;

use self::core::{Core, Settings};
pub use self::error::{PublishError, Stored};
pub use self::event::{Ack, Event};
pub use self::receipt::Delivery;
use self::receipt::{Promise, Taken};
use self::wake::Wake;
use crate::client::Client;
use crate::{PublisherOptions, SdkError};

/// What an event costs besides its bytes: its delivery, who waits for it, and its part of a batch's header.
const EVENT_OVERHEAD: usize = 128;
/// The largest event must fit, with room for the batch that carries it.
const LEAST_MEMORY: usize = 4 * 1024 * 1024;

/// Publishes to one stream, idempotently: an event is stored once, whatever connections and nodes do, and events of
/// one partition in the order in which they were sent. The number of partitions is that of the moment when it was
/// opened. Dropping it gives up what has no answer yet; [`Publisher::flush`] first.
pub struct Publisher {
    shared: Arc<Shared>,
    partitions: u32,
    tasks: Vec<JoinHandle<()>>,
}

/// Why [`Publisher::try_send`] did not take an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrySendError {
    /// There is no room for it now: here it is again.
    #[error(
        "as much is without an answer as the publisher's memory may hold; wait, or use `send`, which does"
    )]
    Full(Box<Event>),
    /// The event breaks a limit, or the publisher has ended.
    #[error(transparent)]
    Failed(#[from] PublishError),
}

pub(super) struct Shared {
    core: Mutex<Core<Promise>>,
    /// Bytes that may be without an answer.
    memory: Semaphore,
    wake: Wake,
    /// There may be a session to fetch.
    session: Notify,
    /// Outcomes were handed out.
    settled: Notify,
    /// The first failure since the last flush.
    failure: Mutex<Option<PublishError>>,
}

impl Publisher {
    pub(crate) async fn open(
        client: Client,
        stream: &str,
        options: PublisherOptions,
    ) -> Result<Self, PublishError> {
        let name = client.stream_ref(stream)?;
        let row = client.admin().get_stream(stream).await?;
        let partitions = row.settings.map_or(0, |settings| settings.partitions);
        if partitions == 0 || partitions > meridian_types::limits::PARTITIONS {
            return Err(SdkError::Protocol(format!("stream {stream} has {partitions} partitions")).into());
        }
        let settings = Settings {
            stream: name,
            partitions,
            codec: options.codec,
            batch_bytes: options.batch_bytes,
            progress_timeout: options.progress_timeout,
            answer_timeout: options.answer_timeout,
            session_idle: options.session_idle,
            min_backoff: client.options().min_backoff,
            max_backoff: client.options().max_backoff,
        };
        client.first_learned().await;
        let memory = options.memory_bytes.clamp(LEAST_MEMORY, u32::MAX as usize);
        let rng = StdRng::from_rng(&mut rand::rng());
        let shared = Arc::new(Shared {
            core: Mutex::new(Core::new(settings, Instant::now(), rng)),
            memory: Semaphore::new(memory),
            wake: Wake::default(),
            session: Notify::new(),
            settled: Notify::new(),
            failure: Mutex::new(None),
        });
        let tasks = vec![
            tokio::spawn(task::send_batches(
                Arc::clone(&shared),
                client.clone(),
                StreamId(row.id),
                partitions,
            )),
            tokio::spawn(task::fetch_sessions(Arc::clone(&shared), client)),
        ];
        Ok(Self { shared, partitions, tasks })
    }

    /// How many partitions the stream has.
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Takes an event, once there is room for it, and gives what will be its acknowledgement. Events that one caller
    /// sends one after the other keep their order within a partition.
    ///
    /// # Errors
    /// [`PublishError`] if the event breaks a limit, or the publisher has ended.
    pub async fn send(&self, event: Event) -> Result<Delivery, PublishError> {
        // Who sends without end and never waits lets other tasks go on all the same.
        consume_budget().await;
        let partition = event.partition;
        let event = stamped(event);
        let cost = cost(event.bytes());
        let permit = match self.shared.memory.try_acquire_many(cost) {
            Err(TryAcquireError::NoPermits) => self.shared.memory.acquire_many(cost).await.ok(),
            permit => permit.ok(),
        };
        let permit = permit.ok_or_else(|| self.shared.ended())?;
        self.take(&event, partition, permit, cost)
    }

    /// Takes an event if there is room for it now: as [`Publisher::send`], but never waits.
    ///
    /// # Errors
    /// [`TrySendError::Full`] gives the event back; else the event breaks a limit, or the publisher has ended.
    pub fn try_send(&self, event: Event) -> Result<Delivery, TrySendError> {
        let cost = cost(event.bytes());
        let permit = match self.shared.memory.try_acquire_many(cost) {
            Ok(permit) => permit,
            Err(TryAcquireError::NoPermits) => return Err(TrySendError::Full(Box::new(event))),
            Err(TryAcquireError::Closed) => return Err(self.shared.ended().into()),
        };
        let partition = event.partition;
        Ok(self.take(&stamped(event), partition, permit, cost)?)
    }

    fn take(
        &self,
        event: &meridian_batch::Event,
        partition: Option<meridian_types::Partition>,
        permit: SemaphorePermit<'_>,
        cost: u32,
    ) -> Result<Delivery, PublishError> {
        let now = Instant::now();
        let taken = Taken { at: now, cost: cost as usize };
        let pushed = self.shared.core.lock().push(now, event, partition, taken)?;
        permit.forget();
        if let Some(node) = pushed.news_for {
            self.shared.wake.one(node, pushed.waits);
        }
        Ok(pushed.ticket)
    }

    /// Waits until every event that was sent has its outcome.
    ///
    /// # Errors
    /// The first failure of an event since the last flush.
    pub async fn flush(&self) -> Result<(), PublishError> {
        loop {
            let settled = self.shared.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if self.shared.core.lock().open() == 0 {
                break;
            }
            settled.await;
        }
        // What was decided a moment ago may not have been handed out yet.
        self.shared.settle(Instant::now());
        self.shared.failure.lock().take().map_or(Ok(()), Err)
    }

    /// Events that were taken and have no outcome yet.
    pub fn unacknowledged(&self) -> u64 {
        self.shared.core.lock().open()
    }

    /// What stands in the way just now, if something does: it is being tried again.
    pub fn trouble(&self) -> Option<String> {
        self.shared.core.lock().trouble().map(str::to_owned)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.shared.core.lock().fail_all(Instant::now(), PublishError::Closed);
        self.shared.settle(Instant::now());
    }
}

impl Shared {
    /// Hands out what the core decided.
    fn settle(&self, now: Instant) {
        // Held to the end: who sees no open event and then takes this sees the failure of each.
        let mut failure = self.failure.lock();
        let (outcomes, failed) = {
            let mut core = self.core.lock();
            (core.take_outcomes(), core.failed().is_some())
        };
        let any = !outcomes.is_empty();
        for outcome in outcomes {
            if let Err(error) = &outcome.result {
                failure.get_or_insert_with(|| error.clone());
            }
            self.memory.add_permits(outcome.waiters.settle(now, outcome.result));
        }
        if failed {
            self.memory.close();
        }
        if any || failed {
            self.settled.notify_waiters();
        }
    }

    fn ended(&self) -> PublishError {
        self.core.lock().failed().cloned().unwrap_or(PublishError::Closed)
    }
}

/// What an event takes of the publisher's memory. Over the limit of an event the core refuses it; until then it must not
/// wait for room that cannot be.
fn cost(bytes: usize) -> u32 {
    (bytes + EVENT_OVERHEAD).min(LEAST_MEMORY) as u32
}

fn stamped(event: Event) -> meridian_batch::Event {
    let Event { key, value, headers, timestamp, partition: _ } = event;
    let timestamp = timestamp.unwrap_or_else(|| SystemClock.now());
    meridian_batch::Event { key, value, headers, timestamp }
}
