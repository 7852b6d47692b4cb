//! One direction of a link, as a queue: when does a packet that comes now come out? Time and chance are inputs.

use std::time::{Duration, Instant};

use rand::{Rng, RngExt as _};

use crate::wan::Profile;

/// What passed, and what did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Packets that came out, or will.
    pub passed: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets that vanished, for whatever reason.
    pub lost: u64,
}

/// A direction's state.
#[derive(Debug)]
pub struct Line {
    /// What it is like now.
    pub profile: Profile,
    /// What it did so far.
    pub counted: Counted,
    /// When the sender's end has put everything on the wire.
    free_at: Instant,
    /// When the packet before comes out: none passes it.
    last_due: Instant,
}

impl Line {
    /// An idle line.
    pub fn new(profile: Profile, now: Instant) -> Self {
        Self { profile, counted: Counted::default(), free_at: now, last_due: now }
    }

    /// When a packet of so many bytes comes out; none: never.
    pub fn offer(&mut self, now: Instant, bytes: usize, rng: &mut impl Rng) -> Option<Instant> {
        let due = self.due(now, bytes, rng);
        match due {
            Some(_) => {
                self.counted.passed += 1;
                self.counted.bytes += bytes as u64;
            }
            None => self.counted.lost += 1,
        }
        due
    }

    fn due(&mut self, now: Instant, bytes: usize, rng: &mut impl Rng) -> Option<Instant> {
        let profile = &self.profile;
        if !profile.up || profile.largest.is_some_and(|largest| bytes > largest) {
            return None;
        }
        if profile.loss > 0.0 && rng.random_bool(profile.loss.min(1.0)) {
            return None;
        }
        let start = self.free_at.max(now);
        if start.duration_since(now) > profile.queue {
            return None;
        }
        let sending = match profile.bandwidth {
            Some(bits) => Duration::from_secs_f64(bytes as f64 * 8.0 / bits.max(1) as f64),
            None => Duration::ZERO,
        };
        self.free_at = start + sending;
        let jitter = profile.jitter.mul_f64(rng.random_range(0.0..=1.0));
        self.last_due = self.last_due.max(self.free_at + profile.delay + jitter);
        Some(self.last_due)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    fn line(change: impl FnOnce(&mut Profile)) -> (Line, Instant, StdRng) {
        let now = Instant::now();
        let mut profile = Profile::with_delay(Duration::from_millis(40));
        change(&mut profile);
        (Line::new(profile, now), now, StdRng::seed_from_u64(7))
    }

    #[test]
    fn a_packet_takes_the_delay() {
        let (mut line, now, mut rng) = line(|_| {});
        assert_eq!(line.offer(now, 1500, &mut rng), Some(now + Duration::from_millis(40)));
    }

    #[test]
    fn bandwidth_spaces_packets_and_a_full_queue_drops() {
        // 1500 bytes at 1.2 Mbit/s take 10 ms.
        let (mut line, now, mut rng) = line(|p| {
            p.bandwidth = Some(1_200_000);
            p.queue = Duration::from_millis(25);
        });
        let dues: Vec<_> = (0..5).map(|_| line.offer(now, 1500, &mut rng)).collect();
        let ms = |ms| Some(now + Duration::from_millis(ms));
        assert_eq!(dues, [ms(50), ms(60), ms(70), None, None]);
        assert_eq!(line.counted, Counted { passed: 3, bytes: 4500, lost: 2 });
    }

    #[test]
    fn jitter_never_reorders() {
        let (mut line, now, mut rng) = line(|p| p.jitter = Duration::from_millis(30));
        let dues: Vec<_> = (0..200).filter_map(|_| line.offer(now, 100, &mut rng)).collect();
        assert!(dues.is_sorted() && dues.len() == 200);
        assert!(dues[0] >= now + Duration::from_millis(40) && dues[199] <= now + Duration::from_millis(70));
    }

    #[test]
    fn loss_takes_its_share_and_a_cut_everything() {
        let (mut line, now, mut rng) = line(|p| p.loss = 0.25);
        let passed = (0..10_000).filter(|_| line.offer(now, 100, &mut rng).is_some()).count();
        assert!((7_300..7_700).contains(&passed), "{passed}");
        line.profile = line.profile.down();
        assert_eq!(line.offer(now, 100, &mut rng), None);
    }

    #[test]
    fn small_ones_pass_where_large_ones_vanish() {
        let (mut line, now, mut rng) = line(|p| p.largest = Some(200));
        assert!(line.offer(now, 200, &mut rng).is_some() && line.offer(now, 201, &mut rng).is_none());
    }
}
