//! Chance that can be repeated, and words that no test harness swallows.

use std::io::Write as _;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Says a line on stderr, past the capture of cargo's test harness.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Says that a test cannot run here; the line is counted by `make test`.
///
/// # Panics
/// In CI nothing is skipped.
pub fn skip(test: &str, reason: &str) {
    let in_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!in_ci, "{test} cannot run, and in CI nothing is skipped: {reason}");
    say(&format!("SKIPPED: {test}: {reason}"));
}

/// Where a randomised test gets its chance from. The same seed makes the same choices; what the processes' own
/// scheduling adds does not repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(pub u64);

impl Seed {
    /// Of `MERIDIAN_SEED`, or a new one; says it.
    ///
    /// # Panics
    /// `MERIDIAN_SEED` is no number.
    pub fn of(test: &str) -> Self {
        let seed = match std::env::var("MERIDIAN_SEED") {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("MERIDIAN_SEED={text} is no number")),
            Err(_) => rand::rng().random_range(0..1_000_000_000),
        };
        say(&format!("{test}: MERIDIAN_SEED={seed}"));
        Self(seed)
    }

    /// The choices.
    pub fn rng(self) -> StdRng {
        StdRng::seed_from_u64(self.0)
    }
}
