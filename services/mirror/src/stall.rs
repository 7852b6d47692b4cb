//! For how long a link had something to read and made no progress: the whole time, over reconnects and whatever leg a
//! shard is on, and no moment twice.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_types::{ShardId, Timestamp};

use crate::link::Waits;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct StallClock {
    /// Since when each shard waits without progress.
    since: BTreeMap<ShardId, Timestamp>,
    /// Up to when time has been counted.
    counted_to: Timestamp,
    total: Duration,
}

impl StallClock {
    /// Something of the shard came, or was stored.
    pub fn progressed(&mut self, shard: ShardId) {
        self.since.remove(&shard);
    }

    /// Looks at a shard. One that is fed has its turn among others of its leg, so their progress is its own.
    pub fn look(&mut self, shard: ShardId, waits: Waits, leg_progressed: Timestamp, now: Timestamp) {
        if waits == Waits::ForNothing {
            self.since.remove(&shard);
            return;
        }
        let since = self.since.entry(shard).or_insert(now);
        // The clock may jump back.
        *since = (*since).min(now);
        if waits == Waits::Fed {
            *since = (*since).max(leg_progressed.min(now));
        }
    }

    /// Counts, once some shard has waited for so long; then from when that began.
    pub fn count(&mut self, patience: Duration, now: Timestamp) {
        self.counted_to = self.counted_to.min(now);
        let Some(&since) = self.since.values().min() else { return };
        if now.0 >= since.0 + patience.as_millis() as u64 {
            let from = since.max(self.counted_to);
            self.total += Duration::from_millis(now.0 - from.0);
            self.counted_to = now;
        }
    }

    /// The sum.
    pub fn total(&self) -> Duration {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests_support::shard;

    const PATIENCE: Duration = Duration::from_secs(2);

    fn run(clock: &mut StallClock, shards: &[(u16, Waits, u64)], from: u64, to: u64) {
        for now in (from..to).step_by(100).map(|now| Timestamp(now + 100)) {
            for (no, waits, leg) in shards {
                clock.look(shard(*no), *waits, Timestamp(*leg), now);
            }
            clock.count(PATIENCE, now);
        }
    }

    #[test]
    fn the_whole_time_counts_once_it_is_long_and_two_shards_count_once() {
        let mut clock = StallClock::default();
        run(&mut clock, &[(1, Waits::Unfed, 0)], 1_000, 2_900);
        assert_eq!(clock.total(), Duration::ZERO, "not yet");
        run(&mut clock, &[(1, Waits::Unfed, 0), (2, Waits::Fed, 0)], 2_900, 9_100);
        assert_eq!(clock.total(), Duration::from_secs(8));
        clock.progressed(shard(1));
        run(&mut clock, &[(1, Waits::ForNothing, 0), (2, Waits::Fed, 0)], 9_100, 10_100);
        assert_eq!(clock.total(), Duration::from_secs(9), "the other goes on");
        run(&mut clock, &[(2, Waits::ForNothing, 0)], 10_100, 99_100);
        assert_eq!(clock.total(), Duration::from_secs(9));
    }

    #[test]
    fn a_shard_that_waits_for_its_turn_is_not_stalled_and_one_that_nobody_feeds_is() {
        let mut clock = StallClock::default();
        for now in (0..60_000).step_by(100) {
            run(&mut clock, &[(1, Waits::Fed, now)], now, now + 100);
        }
        assert_eq!(clock.total(), Duration::ZERO);
        // The leg goes on with others; this shard alone is refused.
        for now in (60_000..70_000).step_by(100) {
            run(&mut clock, &[(1, Waits::Unfed, now)], now, now + 100);
        }
        assert_eq!(clock.total().as_secs(), 10);
    }

    #[test]
    fn a_clock_that_jumps_back_counts_on() {
        let mut clock = StallClock::default();
        run(&mut clock, &[(1, Waits::Unfed, 0)], 900_000, 910_100);
        run(&mut clock, &[(1, Waits::Unfed, 0)], 100_000, 110_100);
        assert_eq!(clock.total(), Duration::from_secs(20));
    }
}
