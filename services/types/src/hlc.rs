//! Hybrid logical clocks (Kulkarni et al., "Logical Physical Clocks", 2014).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// 48 bits of milliseconds since 1970, 16 bits of counter. Rises within a shard, over leader changes too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hlc(pub u64);

impl Hlc {
    /// Before every event.
    pub const ZERO: Self = Self(0);

    /// The first hlc of a millisecond.
    pub const fn at(time: Timestamp) -> Self {
        Self(time.0 << 16)
    }

    /// The millisecond in it.
    pub const fn time(self) -> Timestamp {
        Timestamp(self.0 >> 16)
    }

    /// max(now, last + 1): what the next frame after `self` carries (DESIGN §8).
    #[must_use]
    pub fn tick(self, now: Timestamp) -> Self {
        Self::at(now).max(Self(self.0 + 1))
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 16, self.0 & 0xffff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_when_the_clock_stands_or_jumps_back() {
        let first = Hlc::ZERO.tick(Timestamp(1_000));
        let second = first.tick(Timestamp(1_000));
        let third = second.tick(Timestamp(10));
        assert!(first < second && second < third);
        assert_eq!(third.time(), Timestamp(1_000));
    }
}
