//! What the events of one batch share: their outcome, and who waits for it. So an event costs no allocation, and an
//! acknowledged batch is one write, however many events it has.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use parking_lot::Mutex;

use super::core::Place;
use super::error::PublishError;
use super::event::Ack;

/// Those who wait for the events of one batch, in the order of the events.
pub(super) trait Waiters: Default {
    /// What is known of an event.
    type One;
    /// What its publisher gets for it.
    type Ticket;

    /// One event more.
    fn add(&mut self, one: Self::One) -> Self::Ticket;
}

/// An event that was taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) at: Instant,
    /// Its part of the publisher's memory.
    pub(super) cost: usize,
}

#[derive(Debug)]
struct Outcome {
    at: Instant,
    result: Result<Place, PublishError>,
}

#[derive(Debug, Default)]
struct Receipt {
    outcome: OnceLock<Outcome>,
    /// Each delivery that was polled has one place.
    wakers: Mutex<Vec<Waker>>,
}

impl Receipt {
    fn settle(&self, outcome: Outcome) {
        if self.outcome.set(outcome).is_ok() {
            // Who comes for a place from now on sees the outcome.
            let wakers = std::mem::take(&mut *self.wakers.lock());
            wakers.into_iter().for_each(Waker::wake);
        }
    }
}

/// The publisher's end of a receipt. Dropped, it says that the publisher was closed.
#[derive(Debug, Default)]
pub(super) struct Promise {
    receipt: Arc<Receipt>,
    events: u32,
    cost: usize,
}

impl Promise {
    /// Says what became of the events, and gives the memory that they took.
    pub(super) fn settle(self, at: Instant, result: Result<Place, PublishError>) -> usize {
        self.receipt.settle(Outcome { at, result });
        self.cost
    }
}

impl Waiters for Promise {
    type One = Taken;
    type Ticket = Delivery;

    fn add(&mut self, taken: Taken) -> Delivery {
        let index = self.events;
        self.events += 1;
        self.cost += taken.cost;
        Delivery { receipt: Arc::clone(&self.receipt), taken: taken.at, index, place: None }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if self.receipt.outcome.get().is_none() {
            self.receipt.settle(Outcome { at: Instant::now(), result: Err(PublishError::Closed) });
        }
    }
}

/// The acknowledgement of an event, when it comes. Dropping it does not take the event back.
#[derive(Debug)]
pub struct Delivery {
    receipt: Arc<Receipt>,
    taken: Instant,
    /// Which event of the batch it is.
    index: u32,
    /// Where its waker is, once it was polled.
    place: Option<u32>,
}

impl Future for Delivery {
    type Output = Result<Ack, PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(outcome) = this.receipt.outcome.get() {
            return Poll::Ready(this.ack(outcome));
        }
        let mut wakers = this.receipt.wakers.lock();
        // Once there is an outcome no waker is looked for any more.
        if let Some(outcome) = this.receipt.outcome.get() {
            return Poll::Ready(this.ack(outcome));
        }
        match this.place.and_then(|place| wakers.get_mut(place as usize)) {
            Some(waker) => waker.clone_from(context.waker()),
            None => {
                this.place = Some(wakers.len() as u32);
                wakers.push(context.waker().clone());
            }
        }
        Poll::Pending
    }
}

impl Delivery {
    fn ack(&self, outcome: &Outcome) -> Result<Ack, PublishError> {
        outcome.result.as_ref().map_err(PublishError::clone).map(|place| Ack {
            lane: place.lane,
            offset: place.first.plus(u64::from(self.index)),
            hlc: place.hlc,
            regions: Arc::clone(&place.regions),
            duplicate: place.duplicate,
            latency: outcome.at.saturating_duration_since(self.taken),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    use meridian_types::{Hlc, Lane, Offset, Origin, Partition, RegionId, StreamId};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn place() -> Place {
        let lane = Lane { stream: StreamId(1), partition: Partition(0), origin: Origin::first(RegionId(1)) };
        Place { lane, first: Offset(10), hlc: Hlc(1), regions: vec!["us".into()].into(), duplicate: false }
    }

    fn poll(delivery: &mut Delivery, count: &Arc<Count>) -> Poll<Result<Ack, PublishError>> {
        let waker = Waker::from(Arc::clone(count));
        Pin::new(delivery).poll(&mut Context::from_waker(&waker))
    }

    fn promise(events: usize) -> (Promise, Vec<Delivery>, Instant) {
        let (mut promise, at) = (Promise::default(), Instant::now());
        let deliveries = (0..events).map(|_| promise.add(Taken { at, cost: 100 })).collect();
        (promise, deliveries, at)
    }

    #[test]
    fn each_event_learns_its_place_and_each_that_waits_is_woken_once() {
        let (promise, mut deliveries, at) = promise(4);
        let counts: Vec<Arc<Count>> = (0..4).map(|_| Arc::default()).collect();
        // The first is polled by two tasks in turn, the second twice, the third never before the outcome, the last dropped.
        let early = Arc::new(Count::default());
        assert!(poll(&mut deliveries[0], &early).is_pending());
        assert!(poll(&mut deliveries[0], &counts[0]).is_pending());
        assert!(poll(&mut deliveries[1], &counts[1]).is_pending());
        assert!(poll(&mut deliveries[1], &counts[1]).is_pending());
        assert!(poll(&mut deliveries[3], &counts[3]).is_pending());
        deliveries.pop();
        assert_eq!(promise.settle(at + Duration::from_millis(7), Ok(place())), 400);
        let woken = |count: &Arc<Count>| count.0.load(Ordering::Relaxed);
        assert_eq!((woken(&early), woken(&counts[0]), woken(&counts[1])), (0, 1, 1));
        for (index, delivery) in deliveries.iter_mut().enumerate() {
            let Poll::Ready(Ok(ack)) = poll(delivery, &counts[2]) else { panic!("there is an outcome") };
            assert_eq!((ack.offset, ack.latency), (Offset(10 + index as u64), Duration::from_millis(7)));
        }
        assert_eq!(woken(&counts[2]), 0);
    }

    #[test]
    fn a_failure_reaches_each_and_a_promise_that_is_dropped_is_one() {
        let (failing, mut deliveries, at) = promise(2);
        failing.settle(at, Err(PublishError::Protocol("nonsense".into())));
        let (dropped, more, _) = promise(1);
        deliveries.extend(more);
        drop(dropped);
        let count = Arc::default();
        let mut errors = Vec::new();
        for delivery in &mut deliveries {
            let Poll::Ready(Err(error)) = poll(delivery, &count) else { panic!("it failed") };
            errors.push(error);
        }
        let nonsense = PublishError::Protocol("nonsense".into());
        assert_eq!(errors, [nonsense.clone(), nonsense, PublishError::Closed]);
    }

    #[test]
    fn an_outcome_that_comes_while_it_is_waited_for_is_never_missed() {
        for _ in 0..300 {
            let (promise, mut deliveries, at) = promise(64);
            let settling = std::thread::spawn(move || promise.settle(at, Ok(place())));
            let acks = futures::executor::block_on(futures::future::join_all(&mut deliveries));
            assert!(acks.iter().all(Result::is_ok));
            assert_eq!(settling.join().unwrap(), 6400);
        }
    }
}
