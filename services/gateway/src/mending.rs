//! Lanes whose next frame a subscription found damaged. It is mostly repaired from another copy within a second, so it is waited
//! for, and read again, before the reader is told. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_types::Lane;
use tokio::time::Instant;

/// How soon a damaged frame is read again.
const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// How long a reader waits for a repair: one that takes longer may never come, and another node may have the frame whole.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Mending(BTreeMap<Lane, Damage>);

#[derive(Debug)]
struct Damage {
    since: Instant,
    /// None: it is to be read now.
    again: Option<Instant>,
}

impl Mending {
    /// A read met damage. False: it has done so for too long.
    pub fn met(&mut self, lane: Lane, now: Instant) -> bool {
        let damage = self.0.entry(lane).or_insert(Damage { since: now, again: None });
        damage.again = Some(now + AGAIN_AFTER);
        now.saturating_duration_since(damage.since) < PATIENCE
    }

    /// A lane was read.
    pub fn whole(&mut self, lane: Lane) {
        self.0.remove(&lane);
    }

    /// Whether a lane is not to be read yet.
    pub fn waits(&self, lane: Lane) -> bool {
        self.0.get(&lane).is_some_and(|damage| damage.again.is_some())
    }

    /// When there is something to read again.
    pub fn next_at(&self) -> Option<Instant> {
        self.0.values().filter_map(|damage| damage.again).min()
    }

    /// The lanes to read again now, each once.
    pub fn due(&mut self, now: Instant) -> Vec<Lane> {
        let mut due = Vec::new();
        for (lane, damage) in &mut self.0 {
            if damage.again.take_if(|again| *again <= now).is_some() {
                due.push(*lane);
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use meridian_types::{Origin, Partition, RegionId, StreamId};

    use super::*;

    fn lane(partition: u32) -> Lane {
        Lane { stream: StreamId(1), partition: Partition(partition), origin: Origin::first(RegionId(1)) }
    }

    #[test]
    fn a_damaged_lane_is_read_again_for_ten_seconds() {
        let (mut mending, begun) = (Mending::default(), Instant::now());
        assert!(mending.met(lane(1), begun));
        let (mut now, mut reads) = (begun, 1);
        let given_up = loop {
            assert!(mending.waits(lane(1)) && !mending.waits(lane(2)));
            assert!(mending.due(now).is_empty(), "it has just been read");
            now = mending.next_at().expect("a time");
            assert_eq!(mending.due(now), [lane(1)]);
            assert!(mending.due(now).is_empty() && !mending.waits(lane(1)), "once");
            reads += 1;
            if !mending.met(lane(1), now) {
                break now;
            }
        };
        assert_eq!((given_up - begun, reads), (PATIENCE, 41));
    }

    #[test]
    fn a_lane_that_was_read_has_all_the_time_anew() {
        let (mut mending, begun) = (Mending::default(), Instant::now());
        assert!(mending.met(lane(1), begun) && mending.met(lane(2), begun + AGAIN_AFTER));
        assert_eq!(mending.next_at(), Some(begun + AGAIN_AFTER));
        mending.whole(lane(1));
        assert_eq!(mending.next_at(), Some(begun + 2 * AGAIN_AFTER));
        assert!(mending.met(lane(1), begun + PATIENCE), "it is damaged in another place");
        assert!(!mending.met(lane(2), begun + AGAIN_AFTER + PATIENCE));
    }
}
