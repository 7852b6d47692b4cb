//! PublishBatches: batch after batch of one client, each answered when it is committed.
//!
//! Order matters within a shard alone. A batch whose shard has no leader waits for one beside the stream, and those of its shard
//! behind it; those of other shards pass them.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use meridian_metadata::catalog::{Catalog, StreamRow};
use meridian_shard::ShardHandle;
use meridian_types::{Partition, ShardId};
use meridian_wire::{ApiError, v1};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::budget::Taken;
use crate::outgoing::Outgoing;
use crate::publish::{Begun, Checked, Room, Unqueued, check_durability, deadline, publish_error, queue_full};
use crate::received::Incoming;
use crate::shared::Gateway;
use crate::waiting::{Deadlines, Owed, Waiter};

/// Bytes of batches that wait for leaders beside one stream. They take of what all publishes of the node have together, and a
/// shard without a leader is not to hold up everybody else's.
const BESIDE_BYTES: u32 = 1024 * 1024;

/// What a request has beside its batch, at most, if it is an honest one: names, numbers and the frame.
const BESIDE_A_BATCH: u64 = 4096;

/// Takes batches until the client ends or the node stops, and sees to it that each is answered in time.
pub(crate) async fn take_batches(
    gateway: Gateway,
    requests: Incoming<v1::PublishBatchesRequest>,
    outgoing: Outgoing<v1::PublishBatchesResponse>,
) {
    let mut deadlines = Deadlines::default();
    take(&gateway, requests, outgoing, &mut deadlines).await;
    // What is owed holds on to the node; what only looks whether something is owed does not.
    drop(gateway);
    deadlines.run_out().await;
}

async fn take(
    gateway: &Gateway,
    mut requests: Incoming<v1::PublishBatchesRequest>,
    outgoing: Outgoing<v1::PublishBatchesResponse>,
    deadlines: &mut Deadlines<Owed>,
) {
    let under_way = Arc::new(());
    let mut turns = Turns::default();
    let mut known = None;
    let beside = Arc::new(Semaphore::new(BESIDE_BYTES as usize));
    let draining = gateway.until_draining();
    tokio::pin!(draining);
    let end = 'taking: loop {
        // A place for the answer is taken before the batch is read, so that a client that does not take its answers is
        // read no further and holds nothing.
        let permit = tokio::select! {
            // Deadlines first: a client that sends without a pause is not to keep its own late answers from being given.
            biased;
            () = deadlines.passed() => continue,
            () = &mut draining => break gateway.not_ready(),
            place = place_for_answer(gateway, &outgoing, &under_way) => match place {
                Place::Free(permit) => permit,
                Place::Gone => return,
                Place::Slow => return outgoing.cut_off(gateway),
            },
        };
        let message = loop {
            tokio::select! {
                biased;
                () = deadlines.passed() => {}
                () = &mut draining => break 'taking gateway.not_ready(),
                message = requests.message() => break message,
            }
        };
        let (request, held) = match message {
            Ok(Some(message)) => message,
            Ok(None) => return,
            // What was queued is answered first; then the client hears why no more is read.
            Err(status) => return outgoing.end_with(status),
        };
        let owed = Owed::new(gateway.clone(), permit, request.request_id, under_way.clone());
        let queued = match deadlines.beside(check(gateway, request, held, &mut known)).await {
            Err(error) => Err(Unqueued::Refused(error)),
            Ok(batch) if turns.is_awaited(batch.shard) => Err(Unqueued::NoLeader(Box::new(batch))),
            Ok(batch) => match gateway.leader_here(batch.shard) {
                Ok(Some(leader)) => {
                    queue_here(&leader, batch, owed, deadlines).await;
                    continue;
                }
                Ok(None) => deadlines.beside(gateway.queue_now(batch)).await,
                Err(error) => Err(Unqueued::Refused(error)),
            },
        };
        match queued {
            Ok(begun) => drop(tokio::spawn(finish(owed, Ok(begun)))),
            Err(Unqueued::Refused(error)) => owed.pay(Err(error)),
            Err(Unqueued::NoLeader(batch)) => {
                // Where there is none, nothing more is read before one of those that wait has a leader, or has found none in time.
                let room = beside.clone().acquire_many_owned(batch.bytes().min(BESIDE_BYTES));
                let room = deadlines.beside(room).await;
                let turn = turns.next(batch.shard);
                tokio::spawn(async move {
                    let turn = turn.come().await;
                    let begun = owed.gateway.queue_in_time(*batch).await;
                    drop((turn, room));
                    finish(owed, begun).await;
                });
            }
        }
    };
    outgoing.end(end);
}

/// Hands a batch to its shard's leader on this node, which answers it.
async fn queue_here(leader: &ShardHandle, batch: Checked, owed: Owed, deadlines: &mut Deadlines<Owed>) {
    let Checked { publish, info, begun, deadline, held, .. } = batch;
    let place = tokio::time::timeout_at(deadline, leader.queue_place());
    match deadlines.beside(place).await {
        Ok(Ok(place)) => {
            let bytes = publish.batch.len();
            let debt = deadlines.wait(owed, deadline);
            place.publish(publish, Box::new(Waiter::new(debt, (info, bytes), begun, held)));
        }
        Ok(Err(error)) => owed.pay(Err(publish_error(error))),
        Err(_) => owed.pay(Err(queue_full())),
    }
}

/// A stream that was looked up, and in which state of the catalog.
struct Known {
    named: v1::StreamRef,
    /// Not kept alive: an idle stream would hold an old catalog.
    state: Weak<Catalog>,
    row: Arc<StreamRow>,
}

async fn check(
    gateway: &Gateway,
    request: v1::PublishBatchesRequest,
    message: Taken,
    known: &mut Option<Known>,
) -> Result<Checked, ApiError> {
    check_durability(request.durability.as_ref())?;
    // Whenever the catalog has changed: a stream can be deleted or grow, and its publisher lose its right, while the connection stays.
    let state = gateway.catalog().state();
    let is_same = |known: &&Known| {
        request.stream.as_ref() == Some(&known.named)
            && std::ptr::eq(known.state.as_ptr(), Arc::as_ptr(&state))
    };
    let row = match known.as_ref().filter(is_same) {
        Some(known) => known.row.clone(),
        None => {
            let (_, row) = gateway.stream(request.stream.as_ref()).await?;
            *known =
                request.stream.map(|named| Known { named, state: Arc::downgrade(&state), row: row.clone() });
            row
        }
    };
    let (partition, deadline) = (Partition(request.partition), deadline(request.deadline_ms));
    let batch = unpinned(request.batch, message.bytes());
    let room = Room::new(message, Taken::default());
    gateway.check_publish(&row, partition, batch, deadline, room)
}

/// A batch is kept for readers long after its message's room was given back. One that is but a part of its message must not
/// keep all of that.
fn unpinned(batch: Bytes, message_bytes: u64) -> Bytes {
    let is_most = message_bytes <= batch.len() as u64 + BESIDE_A_BATCH;
    if is_most { batch } else { Bytes::copy_from_slice(&batch) }
}

async fn finish(owed: Owed, begun: Result<Begun, ApiError>) {
    let result = match begun {
        Ok(begun) => owed.gateway.finish_publish(begun).await,
        Err(error) => Err(error),
    };
    owed.pay(result);
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

    #[test]
    fn a_batch_does_not_keep_a_message_that_is_much_larger() {
        let message = Bytes::from(vec![7; 1 << 20]);
        let (small, large) = (message.slice(..100), message.slice(100..));
        let kept = |batch: &Bytes| unpinned(batch.clone(), message.len() as u64).as_ptr() == batch.as_ptr();
        assert!(!kept(&small) && kept(&large));
        assert_eq!(unpinned(small.clone(), message.len() as u64), small);
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
