//! What a direction between two regions is like.

use std::time::Duration;

/// One direction of a link between two regions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// How long a packet is under way: half a round trip.
    pub delay: Duration,
    /// Up to so much more, evenly spread. Packets keep their order all the same.
    pub jitter: Duration,
    /// The share of packets that vanish, 0 to 1.
    pub loss: f64,
    /// Bits a second; none: as fast as the machine.
    pub bandwidth: Option<u64>,
    /// How long a packet may wait for its turn before the queue is full and drops it.
    pub queue: Duration,
    /// Packets larger than this vanish while smaller ones pass: a connection stays up and makes no progress.
    pub largest: Option<usize>,
    /// Whether anything passes at all.
    pub up: bool,
}

impl Profile {
    /// A sound line with this delay in one direction.
    pub fn with_delay(delay: Duration) -> Self {
        Self {
            delay,
            jitter: Duration::ZERO,
            loss: 0.0,
            bandwidth: None,
            queue: Duration::from_millis(200),
            largest: None,
            up: true,
        }
    }

    /// The same, cut.
    #[must_use]
    pub fn down(self) -> Self {
        Self { up: false, ..self }
    }
}
