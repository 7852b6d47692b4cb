//! Who else writes small rounds, and when that is well.
//!
//! Whoever writes a round is blocked by the disk. That is well where it takes less than two threads take to wake each other,
//! and not where a disk is slow: a slow round closes the offer for some time, for longer if the next one is slow as well.

use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most bytes of a round that may be written by others than the writer's thread.
pub(super) const SMALL_ROUND: u64 = 64 * 1024;
/// What takes longer than this is slow: whatever else the thread has to do waits for it, round after round.
const SLOW: Duration = Duration::from_micros(500);
/// For how long a slow round closes the offer; twice as long for each that follows.
const CLOSED: Duration = Duration::from_millis(125);
/// At most 2^this times as long.
const SLOW_MAX: u32 = 6;

/// Calls who writes.
pub(super) type Call = Arc<dyn Fn() + Send + Sync>;

/// The offer.
#[derive(Default)]
pub(super) struct Hands {
    call: Option<Call>,
    /// How many rounds were slow, less those that were quick.
    slow: u32,
    closed_until: Option<Instant>,
}

impl Hands {
    /// From now on.
    pub fn offer(&mut self, call: Call) {
        self.call = Some(call);
    }

    /// No more.
    pub fn withdraw(&mut self) -> Option<Call> {
        self.call.take()
    }

    /// Whom to call to write so many bytes; none: the thread is to write them.
    pub fn for_round_of(&mut self, bytes: u64) -> Option<Call> {
        if bytes > SMALL_ROUND {
            return None;
        }
        let call = self.call.as_ref()?;
        if self.closed_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        self.closed_until = None;
        Some(call.clone())
    }

    /// A round that was written by whoever offered it took so long, and ended at `now`.
    pub fn wrote(&mut self, took: Duration, now: Instant) {
        if took <= SLOW {
            self.slow = self.slow.saturating_sub(1);
            return;
        }
        self.closed_until = Some(now + CLOSED * (1 << self.slow));
        self.slow = (self.slow + 1).min(SLOW_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_disk_closes_the_offer_for_longer_and_longer() {
        let mut hands = Hands::default();
        assert!(hands.for_round_of(1).is_none(), "nobody has offered");
        hands.offer(Arc::new(|| {}));
        assert!(hands.for_round_of(SMALL_ROUND).is_some());
        assert!(hands.for_round_of(SMALL_ROUND + 1).is_none());
        let now = Instant::now();
        let mut closed = Vec::new();
        for _ in 0..9 {
            hands.wrote(2 * SLOW, now);
            closed.push(hands.closed_until.unwrap() - now);
        }
        assert_eq!(closed[..3], [CLOSED, 2 * CLOSED, 4 * CLOSED]);
        assert_eq!(closed[8], 64 * CLOSED, "and not for ever");
        assert!(hands.for_round_of(1).is_none());
        hands.closed_until = Some(now.checked_sub(SLOW).unwrap());
        assert!(hands.for_round_of(1).is_some());
        for _ in 0..SLOW_MAX {
            hands.wrote(SLOW, now);
        }
        hands.wrote(2 * SLOW, now);
        assert_eq!(hands.closed_until.unwrap() - now, CLOSED, "a quick disk is forgiven");
    }
}
