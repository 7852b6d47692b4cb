//! A bound on bytes that are taken in and not yet done with.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many bytes, shared by all who take some. Who waits is served in the order of arrival, so that a large request is
/// not starved by small ones.
#[derive(Debug)]
pub struct ByteBudget {
    capacity: u64,
    room: Arc<Semaphore>,
}

impl ByteBudget {
    /// A budget of `capacity` bytes.
    pub fn new(capacity: u64) -> Arc<Self> {
        let permits = usize::try_from(capacity).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Arc::new(Self { capacity: permits as u64, room: Arc::new(Semaphore::new(permits)) })
    }

    /// How many bytes there are in all.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// How many are taken now, or set aside for the one who waits longest.
    pub fn taken(&self) -> u64 {
        self.capacity - self.room.available_permits() as u64
    }

    /// Takes bytes, or none where there are not so many left.
    pub fn take(&self, bytes: u64) -> Option<Taken> {
        let bytes = u32::try_from(bytes).ok()?;
        self.room.clone().try_acquire_many_owned(bytes).ok().map(|permit| Taken(Some(permit)))
    }

    /// Waits for bytes; none: there are not so many in all. Dropping the future gives up the place in the queue.
    pub async fn acquire(&self, bytes: u64) -> Option<Taken> {
        let permits = u32::try_from(bytes).ok().filter(|_| bytes <= self.capacity)?;
        self.room.clone().acquire_many_owned(permits).await.ok().map(|permit| Taken(Some(permit)))
    }
}

/// Bytes of a budget; dropping gives them back.
#[derive(Debug, Default)]
pub struct Taken(Option<OwnedSemaphorePermit>);

impl Taken {
    /// How many.
    pub fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |permit| permit.num_permits() as u64)
    }

    /// Splits off up to `bytes`.
    #[must_use]
    pub fn split(&mut self, bytes: u64) -> Self {
        let bytes = usize::try_from(bytes.min(self.bytes())).unwrap_or(usize::MAX);
        Self(self.0.as_mut().and_then(|permit| permit.split(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn gives_no_more_than_it_has_and_takes_all_back() {
        let budget = ByteBudget::new(100);
        let mut first = budget.take(60).unwrap();
        assert!(budget.take(41).is_none());
        let second = budget.take(40).unwrap();
        assert_eq!(budget.taken(), 100);
        let half = first.split(30);
        assert_eq!((first.bytes(), half.bytes()), (30, 30));
        drop(first);
        assert_eq!(budget.taken(), 70);
        let mut half = half;
        let all = half.split(1000);
        assert_eq!((half.bytes(), all.bytes(), Taken::default().split(5).bytes()), (0, 30, 0));
        drop((half, second));
        assert_eq!(budget.taken(), 30);
        drop(all);
        assert_eq!(budget.taken(), 0);
        assert!(budget.take(u64::MAX).is_none() && budget.take(101).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_served_in_turn_and_who_gives_up_takes_nothing() {
        let budget = ByteBudget::new(100);
        let held = budget.take(90).unwrap();
        let large = tokio::spawn({
            let budget = budget.clone();
            async move { budget.acquire(80).await }
        });
        tokio::task::yield_now().await;
        assert!(budget.take(5).is_none(), "nobody overtakes");
        let impatient = tokio::time::timeout(Duration::from_secs(1), budget.acquire(50)).await;
        assert!(impatient.is_err());
        drop(held);
        let large = large.await.unwrap().unwrap();
        assert_eq!((large.bytes(), budget.taken()), (80, 80));
        drop(large);
        assert_eq!(budget.taken(), 0);
        assert!(budget.acquire(101).await.is_none(), "it would wait for ever");
    }
}
