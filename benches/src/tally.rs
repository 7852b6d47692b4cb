//! What a load came to, gathered while its acknowledgements come in, from whichever thread.

use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::error::BenchError;
use crate::latency::Latencies;
use crate::pace::Clock;
use crate::plan::Spans;

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

/// Where publishers report. One for each run of a load.
#[derive(Debug)]
pub struct Tally {
    clock: OnceLock<Clock>,
    spans: Spans,
    /// Places for events without an acknowledgement; none: the client's own bounds hold.
    window: Option<Semaphore>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    published: Published,
    failed: Option<BenchError>,
}

impl Tally {
    /// With room for so many events without an acknowledgement.
    pub fn new(spans: Spans, window: Option<usize>) -> Self {
        let inner = Mutex::new(Inner { published: Published::new(), failed: None });
        Self { clock: OnceLock::new(), spans, window: window.map(Semaphore::new), inner }
    }

    /// The row's clock. It begins when it is first asked for, which is once everybody is connected.
    pub fn clock(&self) -> Clock {
        *self.clock.get_or_init(Clock::start)
    }

    /// An event is durable, as far as its bus promises; `due` as it was handed over.
    pub fn acked(&self, due: Duration) {
        self.acked_at(due, self.clock().now());
    }

    /// The same, at a time that was taken before.
    pub fn acked_at(&self, due: Duration, at: Duration) {
        self.inner.lock().published.add(&self.spans, due, at);
        if let Some(window) = &self.window {
            window.add_permits(1);
        }
    }

    /// An event was not taken: the run is no figure.
    pub fn failed(&self, error: BenchError) {
        self.inner.lock().failed.get_or_insert(error);
        if let Some(window) = &self.window {
            window.close();
        }
    }

    /// Waits for a place for one more event. At once if places are not counted, or something failed.
    pub async fn room(&self) {
        if let Some(window) = &self.window
            && let Ok(permit) = window.acquire().await
        {
            permit.forget();
        }
    }

    /// Whether something failed.
    pub fn has_failed(&self) -> bool {
        self.inner.lock().failed.is_some()
    }

    /// How many were acknowledged so far.
    pub fn total(&self) -> u64 {
        self.inner.lock().published.total
    }

    /// What it came to, with what the sender knows.
    ///
    /// # Errors
    /// The first failure.
    pub fn end(&self, late: Latencies, last_sent: Duration) -> Result<Published, BenchError> {
        let mut inner = self.inner.lock();
        if let Some(error) = inner.failed.take() {
            return Err(error);
        }
        let published = std::mem::replace(&mut inner.published, Published::new());
        Ok(Published { late, last_sent, ..published })
    }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn tally(window: Option<usize>) -> Tally {
        let spans = Spans { warm: ms(100), counted: ms(100), ..Spans::QUICK };
        Tally::new(spans, window)
    }

    #[test]
    fn the_warm_up_is_published_and_not_counted() {
        let tally = tally(None);
        // Within the warm-up; due in it and acknowledged after it; counted; due in time and acknowledged too late.
        for (due, acked) in [(0, 50), (90, 110), (110, 150), (190, 230)] {
            tally.acked_at(ms(due), ms(acked));
        }
        let published = tally.end(Latencies::new(), ms(190)).unwrap();
        assert_eq!((published.total, published.counted, published.ack.count()), (4, 2, 2));
        assert_eq!((published.last_ack, published.last_sent), (ms(230), ms(190)));
        let worst = published.ack.quantiles().unwrap().max;
        assert!(worst.abs_diff(40_000) <= 40, "counted from when it was due: {worst}");
    }

    #[tokio::test]
    async fn a_place_is_free_again_with_an_acknowledgement_and_nobody_waits_after_a_failure() {
        let tally = tally(Some(1));
        tally.room().await;
        let second = tally.room();
        tokio::pin!(second);
        assert!(futures::poll!(second.as_mut()).is_pending());
        tally.acked(ms(0));
        second.await;
        tally.failed(BenchError::wrong("refused"));
        tally.room().await;
        assert!(tally.has_failed() && tally.end(Latencies::new(), ms(0)).is_err());
    }
}
