//! Reads a row's stream in the last region: when each event came, and that each came once.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::PATIENCE;
use crate::cluster::Reader;
use crate::error::BenchError;
use crate::latency::Latencies;
use crate::pace::{Clock, Stamp};

/// More than any row publishes.
const MOST_EVENTS: u64 = 1 << 28;

/// What was read.
#[derive(Debug)]
pub struct Read {
    /// From when an event was due to when it was read, without the warm-up.
    pub lag: Latencies,
    /// When the last one came, on the row's clock.
    pub last: Duration,
}

impl Read {
    /// What another reader read as well.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.lag.merge(&other.lag);
        self.last = self.last.max(other.last);
        self
    }
}

/// Which events have come.
#[derive(Debug, Default)]
struct Seen {
    came: Vec<bool>,
    events: u64,
}

impl Seen {
    fn add(&mut self, index: u64) -> Result<(), BenchError> {
        if index >= MOST_EVENTS {
            return Err(BenchError::wrong(format!("event {index} was read, and never published")));
        }
        let at = index as usize;
        if at >= self.came.len() {
            self.came.resize(at + 1, false);
        }
        if std::mem::replace(&mut self.came[at], true) {
            return Err(BenchError::wrong(format!("event {index} was read twice")));
        }
        self.events += 1;
        Ok(())
    }

    /// Whether it is exactly the first `total`.
    fn is_all_of(&self, total: u64) -> Result<bool, BenchError> {
        if self.came.len() as u64 > total {
            return Err(BenchError::wrong(format!("more was read than the {total} events published")));
        }
        Ok(self.events == total)
    }
}

/// Reads until all that were published are there. `total` is given when all is published.
///
/// # Errors
/// Something came twice, or came that was not published, or nothing comes any more.
pub async fn read(
    mut reader: Reader,
    warm: Duration,
    mut clock: watch::Receiver<Option<Clock>>,
    mut total: watch::Receiver<Option<u64>>,
) -> Result<Read, BenchError> {
    let ended = |_| BenchError::wrong("the row ended before its reader");
    let clock = clock.wait_for(Option::is_some).await.map_err(ended)?.unwrap_or_else(Clock::start);
    let mut seen = Seen::default();
    let mut read = Read { lag: Latencies::new(), last: Duration::ZERO };
    loop {
        let known = *total.borrow_and_update();
        if let Some(known) = known
            && seen.is_all_of(known)?
        {
            return Ok(read);
        }
        tokio::select! {
            // What is there is taken without a look at anything else.
            biased;
            some = timeout(PATIENCE, reader.next()) => match some {
                Ok(value) => take(&value?, warm, clock, &mut seen, &mut read)?,
                Err(_) => {
                    let what = format!("{} events of {known:?} were read, then none", seen.events);
                    return Err(BenchError::wrong(what));
                }
            },
            changed = total.changed(), if known.is_none() => changed.map_err(ended)?,
        }
    }
}

fn take(
    value: &[u8],
    warm: Duration,
    clock: Clock,
    seen: &mut Seen,
    read: &mut Read,
) -> Result<(), BenchError> {
    let now = clock.now();
    let stamp = Stamp::of(value);
    let stamp = stamp.ok_or_else(|| BenchError::wrong("an event was read that is none of ours"))?;
    seen.add(stamp.index)?;
    read.last = now;
    if stamp.due >= warm {
        read.lag.record(now.saturating_sub(stamp.due));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_is_to_come_once_and_none_besides() {
        let mut seen = Seen::default();
        seen.add(1).unwrap();
        assert!(!seen.is_all_of(2).unwrap());
        seen.add(0).unwrap();
        assert!(seen.is_all_of(2).unwrap());
        assert!(seen.is_all_of(1).is_err());
        assert!(seen.add(1).is_err());
        assert!(seen.add(MOST_EVENTS).is_err());
    }
}
