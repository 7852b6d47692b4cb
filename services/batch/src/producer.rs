//! Who wrote a batch, so that a retry is found.

use std::fmt;

use meridian_types::{ProducerEpoch, ProducerId};

/// The number of an event within its producer's session on a partition: from 0, and 0 again after 2³¹ − 1, as in Kafka.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sequence(i32);

impl Sequence {
    /// The first of a session.
    pub const ZERO: Self = Self(0);

    /// The sequence with this number; none if it is negative.
    pub const fn new(number: i32) -> Option<Self> {
        if number < 0 { None } else { Some(Self(number)) }
    }

    /// The bare number, never negative.
    pub const fn get(self) -> i32 {
        self.0
    }

    /// The sequence `events` further on.
    #[must_use]
    pub const fn plus(self, events: u32) -> Self {
        let sum = self.0 as u64 + events as u64;
        Self((sum % (1 << 31)) as i32)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The idempotent producer of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Producer {
    /// Which producer; not negative.
    pub id: ProducerId,
    /// Which of its epochs; not negative.
    pub epoch: ProducerEpoch,
    /// The sequence of the batch's first event.
    pub sequence: Sequence,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wraps_as_in_kafka() {
        let last = Sequence::new(i32::MAX).unwrap();
        assert_eq!(last.plus(0), last);
        assert_eq!(last.plus(1), Sequence::ZERO);
        assert_eq!(Sequence::new(i32::MAX - 1).unwrap().plus(5).get(), 3);
        assert_eq!(Sequence::new(-1), None);
    }
}
