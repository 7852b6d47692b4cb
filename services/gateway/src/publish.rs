//! From a request to a shard and back: one batch.

use std::time::Duration;

use bytes::Bytes;
use meridian_batch::{BatchError, BatchInfo, Limits, validate};
use meridian_metadata::catalog::StreamRow;
use meridian_region::Route;
use meridian_shard::{Ack, Publish, PublishError, Reject, RequestId, ShardHandle};
use meridian_types::{Partition, ShardId};
use meridian_wire::{ApiError, Reason, v1};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::{Response, Status};

use crate::budget::Taken;
use crate::shared::Gateway;

const DEADLINE: Duration = Duration::from_secs(30);
const RETRY_SOON: Duration = Duration::from_millis(100);
/// How long a batch that finds no leader waits for one before its client is told to try again.
const ELECTION_PATIENCE: Duration = Duration::from_secs(2);
const ELECTION_LOOK: Duration = Duration::from_millis(20);

/// The shard's queue was full for as long as the client waits.
pub(crate) fn queue_full() -> ApiError {
    let message = "the shard's queue was full until the deadline: nothing was stored; try again";
    ApiError::new(Reason::DeadlineExceeded, message).retry_after(RETRY_SOON)
}

/// The client waits no longer.
pub(crate) fn not_in_time() -> ApiError {
    ApiError::new(
        Reason::DeadlineExceeded,
        "not durable within the deadline; it may be stored all the same: only a retry with the same producer and sequence is safe",
    )
}

/// What a batch takes while the node holds it; given back when it is dropped.
#[derive(Default)]
pub(crate) struct Room {
    _message: Taken,
    _events: Taken,
}

impl Room {
    /// Of the message that brought the batch, and of the events that it was made of where the message's is not enough.
    pub fn new(message: Taken, events: Taken) -> Self {
        Self { _message: message, _events: events }
    }
}

/// A batch that has its place in its shard's queue. Its bytes are counted until the shard is done with it, whether or not
/// anyone still waits for that: a client that goes away frees nothing that the node still holds.
pub(crate) struct Begun {
    answer: Option<oneshot::Receiver<Result<Ack, Reject>>>,
    held: Room,
    begun: Instant,
    deadline: Instant,
    info: BatchInfo,
    bytes: usize,
}

/// A batch that nothing stands against, before it is queued.
pub(crate) struct Checked {
    pub publish: Publish,
    pub info: BatchInfo,
    pub shard: ShardId,
    pub begun: Instant,
    pub deadline: Instant,
    pub held: Room,
}

impl Checked {
    /// How large it is.
    pub fn bytes(&self) -> u32 {
        u32::try_from(self.publish.batch.len()).unwrap_or(u32::MAX)
    }
}

/// Why a batch is not queued.
pub(crate) enum Unqueued {
    /// Its shard has no leader now. It may be tried again.
    NoLeader(Box<Checked>),
    /// It never will be.
    Refused(ApiError),
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let held = std::mem::take(&mut self.held);
            runtime.spawn(async move {
                // What it says no longer matters; that it is said does.
                let _ = answer.await;
                drop(held);
            });
        }
    }
}

/// A durability that is offered.
///
/// # Errors
/// DURABILITY_UNAVAILABLE: what is not offered is never ignored.
pub(crate) fn check_durability(durability: Option<&v1::Durability>) -> Result<(), ApiError> {
    let Some(durability) = durability else { return Ok(()) };
    use v1::durability::Level;
    // A level that a later version knows is not read as none.
    match Level::try_from(durability.level) {
        Ok(Level::Unspecified | Level::Region) if durability.regions == 0 => Ok(()),
        Ok(Level::Regions) => Err(ApiError::new(
            Reason::DurabilityUnavailable,
            "durability REGIONS(k) is not offered yet; publish with LEVEL_REGION",
        )),
        Ok(_) => Err(ApiError::new(
            Reason::InvalidArgument,
            "durability names a number of regions, which only LEVEL_REGIONS takes",
        )),
        Err(_) => Err(ApiError::new(
            Reason::DurabilityUnavailable,
            format!("durability level {} is not known here; publish with LEVEL_REGION", durability.level),
        )),
    }
}

/// When a request with this deadline, in milliseconds, is given up; 0: the default.
pub(crate) fn deadline(millis: u64) -> Instant {
    Instant::now() + if millis == 0 { DEADLINE } else { Duration::from_millis(millis.min(3_600_000)) }
}

impl Gateway {
    /// Checks a batch; `held` is its room.
    ///
    /// # Errors
    /// What stands against it.
    pub(crate) fn check_publish(
        &self,
        stream: &StreamRow,
        partition: Partition,
        batch: Bytes,
        deadline: Instant,
        held: Room,
    ) -> Result<Checked, ApiError> {
        self.check_ready()?;
        if partition.0 >= stream.settings.partitions {
            return Err(ApiError::new(
                Reason::NoSuchPartition,
                format!(
                    "stream {} has partitions 0 to {}, not {partition}",
                    stream.name,
                    stream.settings.partitions - 1
                ),
            )
            .with("partitions", stream.settings.partitions));
        }
        let info = validate(&batch, &Limits::DEFAULT).map_err(batch_error)?;
        let publish = Publish {
            // The shard's task numbers its requests itself.
            request: RequestId(0),
            tenant: stream.tenant,
            stream: stream.id,
            partition,
            batch,
            events: info.events,
            producer: info.producer,
        };
        let shard = self.host().home_shard_id(publish.stream, publish.partition);
        Ok(Checked { publish, info, shard, begun: Instant::now(), deadline, held })
    }

    /// Queues a batch at its shard. During an election it waits a little for the outcome: most clients then never hear of it.
    ///
    /// # Errors
    /// Nothing got an offset.
    pub(crate) async fn queue_in_time(&self, mut batch: Checked) -> Result<Begun, ApiError> {
        let patience = batch.begun + ELECTION_PATIENCE;
        loop {
            match self.queue_now(batch).await {
                Ok(begun) => return Ok(begun),
                Err(Unqueued::Refused(error)) => return Err(error),
                Err(Unqueued::NoLeader(again)) if Instant::now() < patience.min(again.deadline) => {
                    batch = *again
                }
                Err(Unqueued::NoLeader(_)) => {
                    return Err(publish_error(PublishError::Rejected(Reject::NotLeader)));
                }
            }
            tokio::time::sleep(ELECTION_LOOK).await;
        }
    }

    /// Puts a batch into the queue of its shard's leader, wherever that is. Batches of one caller keep the order of these calls.
    ///
    /// # Errors
    /// [`Unqueued`]
    pub(crate) async fn queue_now(&self, batch: Checked) -> Result<Begun, Unqueued> {
        self.check_room(batch.shard).map_err(Unqueued::Refused)?;
        let queued = tokio::time::timeout_at(batch.deadline, self.hand_over(&batch));
        let queued = queued.await.map_err(|_| Unqueued::Refused(queue_full()))?;
        match queued {
            Ok(answer) => {
                let Checked { publish, info, begun, deadline, held, .. } = batch;
                Ok(Begun { answer: Some(answer), held, begun, deadline, info, bytes: publish.batch.len() })
            }
            Err(PublishError::Rejected(Reject::NotLeader)) => Err(Unqueued::NoLeader(Box::new(batch))),
            Err(error) => Err(Unqueued::Refused(publish_error(error))),
        }
    }

    /// Whether a shard can keep what is published to it.
    ///
    /// # Errors
    /// DISK_FULL.
    pub(crate) fn check_room(&self, shard: ShardId) -> Result<(), ApiError> {
        if !self.region().is_out_of_room(shard) {
            return Ok(());
        }
        let message = "the disk of the node that leads this partition is full, or those of most that keep it; publishing resumes by itself";
        Err(ApiError::new(Reason::DiskFull, message).retry_after(Duration::from_secs(1)))
    }

    /// The leader of a shard, if it is on this node.
    ///
    /// # Errors
    /// DISK_FULL.
    pub(crate) fn leader_here(&self, shard: ShardId) -> Result<Option<ShardHandle>, ApiError> {
        self.check_room(shard)?;
        match self.region().route(shard) {
            Route::Here(leader) => Ok(Some(leader)),
            Route::There(_) | Route::Nowhere => Ok(None),
        }
    }

    async fn hand_over(
        &self,
        batch: &Checked,
    ) -> Result<oneshot::Receiver<Result<Ack, Reject>>, PublishError> {
        match self.region().route(batch.shard) {
            Route::Here(leader) => leader.begin_publish(batch.publish.clone()).await,
            Route::There(node) => self.region().forward(node, batch.shard, batch.publish.clone()).await,
            Route::Nowhere => Err(PublishError::Rejected(Reject::NotLeader)),
        }
    }

    /// Waits until a batch is committed.
    ///
    /// # Errors
    /// It got no offset, or it is not known in time whether it did.
    pub(crate) async fn finish_publish(&self, mut begun: Begun) -> Result<v1::PublishedBatch, ApiError> {
        let stopped = || publish_error(PublishError::Stopped);
        let answer = begun.answer.as_mut().ok_or_else(stopped)?;
        let answer = tokio::time::timeout_at(begun.deadline, answer).await.map_err(|_| not_in_time())?;
        begun.answer = None;
        let result = answer.map_err(|_| stopped())?;
        self.published(result, &begun.info, begun.bytes, begun.begun)
    }

    /// What a client is told of a batch that its shard is done with.
    ///
    /// # Errors
    /// It got no offset.
    pub(crate) fn published(
        &self,
        result: Result<Ack, Reject>,
        info: &BatchInfo,
        bytes: usize,
        begun: Instant,
    ) -> Result<v1::PublishedBatch, ApiError> {
        let ack = result.map_err(|reject| publish_error(reject.into()))?;
        let metrics = self.metrics();
        metrics.publish_seconds.observe(begun.elapsed().as_secs_f64());
        if ack.duplicate {
            metrics.duplicates.inc();
        } else {
            metrics.published_events.inc_by(u64::from(info.events));
            metrics.published_bytes.inc_by(bytes as u64);
        }
        Ok(v1::PublishedBatch {
            first: Some(v1::Position {
                lane: Some(ack.lane.into()),
                offset: ack.base_offset.0,
                hlc: ack.hlc.0,
                regions: self.durable_in(&ack),
            }),
            events: info.events,
            duplicate: ack.duplicate,
        })
    }

    /// This region, and those that have reported the frame durable.
    fn durable_in(&self, ack: &Ack) -> Vec<String> {
        // A retry may be told of the incarnation before: its numbers are of that one's log.
        let home = self.host().home_shard_id(ack.lane.stream, ack.lane.partition);
        let shard = ShardId { origin: ack.lane.origin, ..home };
        let mut regions = self.board().that_have(shard, ack.seq);
        regions.insert(0, self.me().region.to_string());
        regions
    }

    /// What a unary call answers; a refusal is counted.
    pub(crate) fn answer<T>(&self, answer: Result<T, ApiError>) -> Result<Response<T>, Status> {
        answer.map(Response::new).map_err(|error| {
            self.refused(&error);
            error.into()
        })
    }

    /// Counts a refusal.
    pub(crate) fn refused(&self, error: &ApiError) {
        self.metrics().count_refusal(error);
    }
}

/// A batch that is refused.
pub(crate) fn batch_error(error: BatchError) -> ApiError {
    let reason = match &error {
        BatchError::TooLarge { .. } | BatchError::Uncompressed { .. } | BatchError::TooManyEvents { .. } => {
            Reason::BatchTooLarge
        }
        BatchError::EventTooLarge { .. } => Reason::EventTooLarge,
        _ => Reason::BadBatch,
    };
    ApiError::new(reason, error.to_string())
}

pub(crate) fn publish_error(error: PublishError) -> ApiError {
    let message = error.to_string();
    match error {
        PublishError::Stopped => ApiError::new(Reason::NotReady, message).retry_after(RETRY_SOON),
        PublishError::Rejected(reject) => match reject {
            Reject::NotLeader => ApiError::new(Reason::NotLeader, message).retry_after(RETRY_SOON),
            Reject::ProducerFenced { current, .. } => {
                ApiError::new(Reason::ProducerFenced, message).with("epoch", current)
            }
            Reject::ProducerExpired => ApiError::new(Reason::ProducerExpired, message),
            Reject::OutOfSequence { expected, .. } => {
                ApiError::new(Reason::OutOfSequence, message).with("expected", expected)
            }
            Reject::Damaged => ApiError::new(Reason::Damaged, message),
        },
    }
}
