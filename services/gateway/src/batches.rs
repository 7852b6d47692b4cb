//! PublishBatches: batch after batch of one client, each answered when it is committed.
//!
//! Order matters within a shard alone. A batch whose shard has no leader waits for one beside the stream, and those of its shard
//! behind it; those of other shards pass them.

use std::collections::HashMap;
use std::sync::Arc;

use meridian_types::{Partition, ShardId};
use meridian_wire::{ApiError, v1};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::budget::Taken;
use crate::outgoing::Outgoing;
use crate::publish::{Begun, Checked, Room, Unqueued, check_durability, deadline};
use crate::received::Incoming;
use crate::shared::Gateway;

/// Bytes of batches that wait for leaders beside one stream. They take of what all publishes of the node have together, and a
/// shard without a leader is not to hold up everybody else's.
const BESIDE_BYTES: u32 = 1024 * 1024;

/// Takes batches until the client ends or the node stops.
pub(crate) async fn take_batches(
    gateway: Gateway,
    mut requests: Incoming<v1::PublishBatchesRequest>,
    outgoing: Outgoing<v1::PublishBatchesResponse>,
) {
    let under_way = Arc::new(());
    let mut turns = Turns::default();
    let beside = Arc::new(Semaphore::new(BESIDE_BYTES as usize));
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
        let (request, held) = match message {
            Ok(Some(message)) => message,
            Ok(None) => return,
            // What was queued is answered first; then the client hears why no more is read.
            Err(status) => return outgoing.end_with(status),
        };
        let request_id = request.request_id;
        let queued = match check(&gateway, request, held).await {
            Err(error) => Err(Unqueued::Refused(error)),
            Ok(batch) if turns.is_awaited(batch.shard()) => Err(Unqueued::NoLeader(Box::new(batch))),
            Ok(batch) => gateway.queue_now(batch).await,
        };
        let under_way = under_way.clone();
        let answering = Answering { gateway: gateway.clone(), permit, request_id };
        match queued {
            Ok(begun) => drop(tokio::spawn(async move {
                answering.finish(Ok(begun)).await;
                drop(under_way);
            })),
            Err(Unqueued::Refused(error)) => answering.finish(Err(error)).await,
            Err(Unqueued::NoLeader(batch)) => {
                // Where there is none, nothing more is read before one of those that wait has a leader, or has found none in time.
                let room = beside.clone().acquire_many_owned(batch.bytes().min(BESIDE_BYTES)).await;
                let turn = turns.next(batch.shard());
                tokio::spawn(async move {
                    let turn = turn.come().await;
                    let begun = answering.gateway.queue_in_time(*batch).await;
                    drop((turn, room));
                    answering.finish(begun).await;
                    drop(under_way);
                });
            }
        }
    };
    outgoing.end(end);
}

async fn check(
    gateway: &Gateway,
    request: v1::PublishBatchesRequest,
    message: Taken,
) -> Result<Checked, ApiError> {
    check_durability(request.durability.as_ref())?;
    // Each time: a stream can be deleted or grow, and its publisher lose its right, while the connection stays.
    let (_, stream) = gateway.stream(request.stream.as_ref()).await?;
    let (partition, deadline) = (Partition(request.partition), deadline(request.deadline_ms));
    let room = Room::new(message, Taken::default());
    gateway.check_publish(&stream, partition, request.batch, deadline, room)
}

/// A batch and the place that its answer has.
struct Answering {
    gateway: Gateway,
    permit: mpsc::OwnedPermit<v1::PublishBatchesResponse>,
    request_id: u64,
}

impl Answering {
    async fn finish(self, begun: Result<Begun, ApiError>) {
        use v1::publish_batches_response::Result as Answer;
        let result = match begun {
            Ok(begun) => self.gateway.finish_publish(begun).await,
            Err(error) => Err(error),
        };
        let result = match result {
            Ok(published) => Answer::Published(published),
            Err(error) => {
                self.gateway.refused(&error);
                Answer::Error(error.into())
            }
        };
        self.permit.send(v1::PublishBatchesResponse { request_id: self.request_id, result: Some(result) });
    }
}

/// Whose turn it is at each shard for which batches of this stream wait.
#[derive(Default)]
struct Turns(HashMap<ShardId, oneshot::Receiver<()>>);

/// A place behind those that wait for the same shard. The next one has its turn once this is dropped.
struct Turn {
    before: Option<oneshot::Receiver<()>>,
    _after: oneshot::Sender<()>,
}

impl Turns {
    /// Whether anything waits for a shard.
    fn is_awaited(&mut self, shard: ShardId) -> bool {
        let last = self.0.get_mut(&shard).map(oneshot::Receiver::try_recv);
        let waits = matches!(last, Some(Err(oneshot::error::TryRecvError::Empty)));
        if !waits {
            self.0.remove(&shard);
        }
        waits
    }

    /// The place behind the last that waits.
    fn next(&mut self, shard: ShardId) -> Turn {
        let (after, ended) = oneshot::channel();
        Turn { before: self.0.insert(shard, ended), _after: after }
    }
}

impl Turn {
    /// Waits until nobody is before it.
    async fn come(mut self) -> Self {
        if let Some(before) = self.before.take() {
            // It ends without a word.
            let _ = before.await;
        }
        self
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

#[cfg(test)]
mod tests {
    use meridian_types::ShardNo;

    use super::*;

    fn shard(no: u16) -> ShardId {
        ShardId { no: ShardNo(no), ..ShardId::default() }
    }

    #[tokio::test]
    async fn turns_of_a_shard_come_in_order_and_hold_up_no_other() {
        let mut turns = Turns::default();
        assert!(!turns.is_awaited(shard(1)));
        let first = turns.next(shard(1)).come().await;
        let second = turns.next(shard(1));
        let third = turns.next(shard(1));
        assert!(turns.is_awaited(shard(1)) && !turns.is_awaited(shard(2)));
        let (ended, mut order) = mpsc::unbounded_channel();
        let waits = |turn: Turn, number: u32| {
            let ended = ended.clone();
            tokio::spawn(async move {
                let turn = turn.come().await;
                ended.send(number).expect("somebody looks");
                drop(turn);
            })
        };
        // Whoever is first to wait is not first for that.
        let third = waits(third, 3);
        tokio::task::yield_now().await;
        let second = waits(second, 2);
        tokio::task::yield_now().await;
        assert!(order.try_recv().is_err(), "the first has its turn");
        drop(first);
        second.await.expect("it ends");
        third.await.expect("it ends");
        assert_eq!((order.recv().await, order.recv().await), (Some(2), Some(3)));
        assert!(!turns.is_awaited(shard(1)), "all had their turn");
    }
}
