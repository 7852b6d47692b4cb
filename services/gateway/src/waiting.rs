//! Batches of one PublishBatches stream that wait for their shards here. Each is answered once: by its shard, on the shard's own
//! task, or when its deadline has passed. No task, timer or channel is made for any of them.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use meridian_batch::BatchInfo;
use meridian_shard::{Ack, PublishError, Reject, Reply};
use meridian_wire::{ApiError, v1};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::publish::{Room, not_in_time, publish_error};
use crate::shared::Gateway;

/// So many batches that were answered are at most remembered beside those that wait.
const ANSWERED: usize = 1024;
/// How often it is looked whether a stream that has ended still owes an answer.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// An answer that a client is owed, and the place that it has.
pub(crate) struct Owed {
    pub gateway: Gateway,
    permit: mpsc::OwnedPermit<v1::PublishBatchesResponse>,
    request_id: u64,
    _under_way: Arc<()>,
}

impl Owed {
    /// The answer to a request, which holds `under_way` until it is paid.
    pub fn new(
        gateway: Gateway,
        permit: mpsc::OwnedPermit<v1::PublishBatchesResponse>,
        request_id: u64,
        under_way: Arc<()>,
    ) -> Self {
        Self { gateway, permit, request_id, _under_way: under_way }
    }

    /// Answers.
    pub fn pay(self, result: Result<v1::PublishedBatch, ApiError>) {
        use v1::publish_batches_response::Result as Answer;
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

impl Late for Owed {
    fn give_up(self) {
        self.pay(Err(not_in_time()));
    }
}

/// None once it is paid.
type Debt<O> = Arc<Mutex<Option<O>>>;

/// What a shard is given to answer a batch with. It holds the batch's room until the shard is done with it, whoever still waits.
pub(crate) struct Waiter {
    debt: Debt<Owed>,
    info: BatchInfo,
    bytes: usize,
    begun: Instant,
    _held: Room,
}

impl Waiter {
    /// Of a checked batch of so many bytes, which began then.
    pub fn new(debt: Debt<Owed>, (info, bytes): (BatchInfo, usize), begun: Instant, held: Room) -> Self {
        Self { debt, info, bytes, begun, _held: held }
    }

    fn pay(&self, result: Result<Ack, Reject>) {
        let owed = self.debt.lock().take();
        if let Some(owed) = owed {
            let published = owed.gateway.published(result, &self.info, self.bytes, self.begun);
            owed.pay(published);
        }
    }
}

impl Reply for Waiter {
    fn is_wanted(&self) -> bool {
        self.debt.lock().is_some()
    }

    fn tell(self: Box<Self>, result: Result<Ack, Reject>) {
        self.pay(result);
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let owed = self.debt.lock().take();
        if let Some(owed) = owed {
            owed.pay(Err(publish_error(PublishError::Stopped)));
        }
    }
}

/// Owed no longer than until a deadline.
pub(crate) trait Late {
    /// The deadline has passed.
    fn give_up(self);
}

/// When those that wait are given up.
pub(crate) struct Deadlines<O> {
    due: BinaryHeap<Reverse<Due<O>>>,
    /// Goes off at the earliest deadline, or before.
    timer: Option<Pin<Box<Sleep>>>,
}

struct Due<O> {
    at: Instant,
    debt: Debt<O>,
}

impl<O> Ord for Due<O> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

impl<O> PartialOrd for Due<O> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<O> PartialEq for Due<O> {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl<O> Eq for Due<O> {}

impl<O> Due<O> {
    fn is_paid(&self) -> bool {
        self.debt.lock().is_none()
    }
}

impl<O> Default for Deadlines<O> {
    fn default() -> Self {
        Self { due: BinaryHeap::new(), timer: None }
    }
}

impl<O: Late> Deadlines<O> {
    /// Something is owed, by then.
    pub fn wait(&mut self, owed: O, deadline: Instant) -> Debt<O> {
        let debt = Arc::new(Mutex::new(Some(owed)));
        self.due.push(Reverse(Due { at: deadline, debt: debt.clone() }));
        debt
    }

    /// The earliest deadline of those that are not answered.
    fn first(&mut self) -> Option<Instant> {
        while self.due.peek().is_some_and(|Reverse(due)| due.is_paid()) {
            self.due.pop();
        }
        // One that waits for long hides those behind it.
        if self.due.len() > 2 * ANSWERED {
            self.due.retain(|Reverse(due)| !due.is_paid());
        }
        self.due.peek().map(|Reverse(due)| due.at)
    }

    fn give_up(&mut self, now: Instant) {
        while self.first().is_some_and(|at| at <= now) {
            let owed = self.due.pop().and_then(|Reverse(due)| due.debt.lock().take());
            if let Some(owed) = owed {
                owed.give_up();
            }
        }
    }

    /// Waits for something else, and gives up those whose deadlines pass meanwhile.
    pub async fn beside<T>(&mut self, other: impl Future<Output = T>) -> T {
        tokio::pin!(other);
        loop {
            tokio::select! {
                biased;
                other = &mut other => return other,
                () = self.passed() => {}
            }
        }
    }

    /// Waits until a deadline may have passed, and gives up those that have. For ever where nothing waits.
    pub async fn passed(&mut self) {
        let Some(first) = self.first() else { return std::future::pending().await };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(first)));
        if timer.is_elapsed() || timer.deadline() > first {
            timer.as_mut().reset(first);
        }
        timer.as_mut().await;
        self.give_up(Instant::now());
    }

    /// Gives up what is late until nothing waits any more.
    pub async fn run_out(mut self) {
        while let Some(first) = self.first() {
            sleep_until(first.min(Instant::now() + LOOK_EVERY)).await;
            self.give_up(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counted(Arc<Mutex<u32>>);

    impl Late for Counted {
        fn give_up(self) {
            *self.0.lock() += 1;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_paid_in_time_is_given_up_once() {
        let (late, begun) = (Arc::new(Mutex::new(0)), Instant::now());
        let at = |millis| begun + Duration::from_millis(millis);
        let mut deadlines = Deadlines::default();
        let mut wait = |millis| deadlines.wait(Counted(late.clone()), at(millis));
        let (last, first, paid) = (wait(3000), wait(10), wait(20));
        drop(paid.lock().take());
        deadlines.passed().await;
        assert_eq!((Instant::now() - begun, *late.lock()), (Duration::from_millis(10), 1));
        assert!(first.lock().is_none() && last.lock().is_some());
        // One that comes later may be due before.
        let sooner = deadlines.wait(Counted(late.clone()), at(500));
        deadlines.passed().await;
        assert_eq!((Instant::now() - begun, *late.lock()), (Duration::from_millis(500), 2));
        assert!(sooner.lock().is_none());
        deadlines.run_out().await;
        assert_eq!((Instant::now() - begun, *late.lock()), (Duration::from_millis(3000), 3));
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_are_paid_are_forgotten_however_long_one_waits() {
        let late = Arc::new(Mutex::new(0));
        let mut deadlines = Deadlines::default();
        let soon = Instant::now() + Duration::from_secs(1);
        let _waits = deadlines.wait(Counted(late.clone()), soon);
        for _ in 0..10 * ANSWERED {
            drop(deadlines.wait(Counted(late.clone()), soon + Duration::from_secs(1)).lock().take());
            assert_eq!(deadlines.first(), Some(soon));
            assert!(deadlines.due.len() <= 2 * ANSWERED);
        }
        deadlines.run_out().await;
        assert_eq!(*late.lock(), 1);
    }
}
