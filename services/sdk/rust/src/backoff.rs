//! Exponential backoff with jitter. Pure: randomness is an input.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;

/// The waits between tries: each a random time between half and the whole of a step that doubles up to a limit, so
/// that clients which failed together do not come back together.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    tries: u32,
    rng: StdRng,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration, rng: StdRng) -> Self {
        Self { min, max, tries: 0, rng }
    }

    /// The next wait.
    pub(crate) fn next(&mut self) -> Duration {
        let step = step(self.min, self.max, self.tries);
        self.tries = self.tries.saturating_add(1);
        jitter(step, &mut self.rng)
    }

    /// Something worked: begin anew.
    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }
}

/// min · 2^tries, at most max.
pub(crate) fn step(min: Duration, max: Duration, tries: u32) -> Duration {
    min.saturating_mul(1 << tries.min(20)).min(max)
}

/// Between half of `step` and all of it.
pub(crate) fn jitter(step: Duration, rng: &mut StdRng) -> Duration {
    let whole = u64::try_from(step.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(rng.random_range(whole / 2..=whole))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn doubles_up_to_the_limit_and_begins_anew() {
        let (min, max) = (Duration::from_millis(50), Duration::from_secs(2));
        let mut backoff = Backoff::new(min, max, StdRng::seed_from_u64(7));
        for tries in 0..40 {
            let whole = Duration::from_millis(50 << tries.min(6)).min(max);
            let wait = backoff.next();
            assert!(wait >= whole / 2 && wait <= whole, "try {tries}: {wait:?} of {whole:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= min);
    }
}
