//! When each event is due, and what is in it so that its reader can tell how late it is.
//!
//! Times of one row are counted from its own start, by the one monotonic clock of this machine: publisher and reader
//! are tasks of this process.

use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Events of one key keep their order; enough keys to use every partition.
const KEYS: u64 = 1000;
/// Values are cut out of so many bytes, which do not compress.
const POOL_BYTES: usize = 1 << 20;

/// Due times at a fixed rate.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    rate: u64,
}

impl Pace {
    /// So many a second.
    pub const fn new(rate: u64) -> Self {
        Self { rate }
    }

    /// When event `index` is due, from the start. Computed from the index, so that no error adds up.
    pub fn due(self, index: u64) -> Duration {
        let nanos = u128::from(index) * 1_000_000_000 / u128::from(self.rate);
        Duration::from_nanos(nanos as u64)
    }
}

/// A row's clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts now.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Since the start.
    pub fn now(self) -> Duration {
        self.start.elapsed()
    }

    /// Sleeps the thread until then; comes back at once if it is past.
    pub fn sleep_until(self, due: Duration) {
        let wait = due.saturating_sub(self.now());
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
    }
}

/// What an event says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Its number in the row, from 0.
    pub index: u64,
    /// When it was due; in a closed loop, when it was sent.
    pub due: Duration,
}

impl Stamp {
    /// What it takes of a value.
    pub const BYTES: usize = 16;

    /// Reads it back; none if that is no event of ours.
    pub fn of(value: &[u8]) -> Option<Self> {
        let (index, rest) = value.split_first_chunk::<8>()?;
        let (nanos, _) = rest.split_first_chunk::<8>()?;
        Some(Self {
            index: u64::from_le_bytes(*index),
            due: Duration::from_nanos(u64::from_le_bytes(*nanos)),
        })
    }
}

/// Makes events.
#[derive(Clone, Debug)]
pub struct Events {
    pool: Bytes,
    keys: Vec<Bytes>,
    size: usize,
}

impl Events {
    /// With values of so many bytes; a stamp's at least. The same every time.
    pub fn new(size: usize) -> Self {
        let size = size.max(Stamp::BYTES);
        let mut pool = vec![0; POOL_BYTES + size];
        StdRng::seed_from_u64(1).fill_bytes(&mut pool);
        let keys = (0..KEYS).map(|key| format!("key-{key:03}").into()).collect();
        Self { pool: pool.into(), keys, size }
    }

    /// A value with its stamp.
    pub fn value(&self, stamp: Stamp) -> Bytes {
        let mut value = Vec::with_capacity(self.size);
        value.extend_from_slice(&stamp.index.to_le_bytes());
        value.extend_from_slice(&(stamp.due.as_nanos() as u64).to_le_bytes());
        let rest = self.size - Stamp::BYTES;
        // Another place in the pool for each, at no multiple of anything.
        let at = (stamp.index.wrapping_mul(7919) % POOL_BYTES as u64) as usize;
        value.extend_from_slice(&self.pool[at..at + rest]);
        value.into()
    }

    /// Which key.
    pub fn key(&self, index: u64) -> Bytes {
        self.keys[(index % KEYS) as usize].clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_do_not_drift() {
        let pace = Pace::new(3);
        assert_eq!(pace.due(0), Duration::ZERO);
        assert_eq!(pace.due(3_000_000_000), Duration::from_secs(1_000_000_000));
        assert!(pace.due(29) < Duration::from_secs(10) && pace.due(30) >= Duration::from_secs(10));
    }

    #[test]
    fn an_event_says_when_it_was_due() {
        let events = Events::new(1024);
        let stamp = Stamp { index: 77, due: Duration::from_micros(1_234_567) };
        let value = events.value(stamp);
        assert_eq!(value.len(), 1024);
        assert_eq!(Stamp::of(&value), Some(stamp));
        assert_eq!(Stamp::of(&value[..Stamp::BYTES - 1]), None);
        assert_eq!(Events::new(0).value(stamp).len(), Stamp::BYTES);
        let other = events.value(Stamp { index: 78, ..stamp });
        assert_ne!(value[Stamp::BYTES..], other[Stamp::BYTES..]);
    }
}
