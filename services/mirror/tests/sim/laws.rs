//! What must hold after every step (FAULTS.md: laws 1, 3, 4, 5 and 8, as far as a link is concerned).

use meridian_shard::Ack;
use meridian_storage::Frame;

use super::SHARDS;
use super::site::Shard;

/// The largest frame of the simulation, with room.
pub const FRAME_MAX: u64 = 3_000;

pub struct Laws {
    seed: u64,
    /// All that each origin shard has ever committed.
    committed: Vec<Vec<Frame>>,
    frozen: Option<usize>,
    /// Handed to the copies and not yet known to be durable: shard, seq, bytes.
    in_hand: Vec<(usize, u64, u64)>,
}

impl Laws {
    pub fn new(seed: u64) -> Self {
        Self { seed, committed: vec![Vec::new(); SHARDS], frozen: None, in_hand: Vec::new() }
    }

    /// Notes what the origin has committed.
    pub fn follow(&mut self, no: usize, origin: &Shard) {
        if self.frozen == Some(no) {
            return;
        }
        let known = self.committed[no].len();
        let committed = origin.committed() as usize;
        // Law 1 over a restart: a leader that has applied through its epoch's first frame has all that was committed.
        assert!(
            committed >= known || !origin.is_ready(),
            "seed {}: {no} was committed to {known}",
            self.seed
        );
        if committed > known {
            self.committed[no].extend_from_slice(&origin.durable[known..committed]);
        }
    }

    /// The origin is about to get another history: the copy's law stays the old one.
    pub fn freeze(&mut self, no: usize) {
        self.frozen = Some(no);
    }

    /// Law 1: what is acknowledged is on the disk.
    pub fn acked(&self, no: usize, ack: Ack, origin: &Shard) {
        let stored = origin.durable.get(ack.seq.0 as usize - 1);
        let stored =
            stored.unwrap_or_else(|| panic!("seed {}: {no}/{} acknowledged unflushed", self.seed, ack.seq));
        assert_eq!(
            (stored.header.base_offset, stored.header.hlc),
            (ack.base_offset, ack.hlc),
            "seed {}",
            self.seed
        );
    }

    /// Law 4: only what is committed leaves.
    pub fn pushed(&self, no: usize, frames: &[Frame]) {
        for frame in frames {
            self.is_committed(no, frame, "left its region");
        }
    }

    /// Laws 3 and 5: a copy is a prefix of its origin's committed log, byte for byte. (That it has no hole and no twin
    /// is checked where it is flushed.)
    pub fn copied(&self, no: usize, frame: &Frame) {
        self.is_committed(no, frame, "was appended to the copy");
    }

    fn is_committed(&self, no: usize, frame: &Frame, what: &str) {
        let (seed, seq) = (self.seed, frame.header.seq);
        let known = self.committed[no].get(seq.0 as usize - 1);
        assert!(
            known == Some(frame),
            "seed {seed}: frame {no}/{seq} {what}, and is not what its origin committed"
        );
    }

    /// In the end a copy holds all.
    pub fn caught_up(&self, no: usize, copy: &Shard) {
        assert!(copy.durable == self.committed[no], "seed {}: copy {no} differs", self.seed);
        assert!(!copy.has_faulted(), "seed {}: copy {no} has faulted", self.seed);
    }

    pub fn handed(&mut self, no: usize, frames: &[Frame]) {
        if let Some(last) = frames.last() {
            self.in_hand.push((no, last.header.seq.0, super::bytes_of(frames)));
        }
    }

    /// The copies' process has ended: nothing is in hand.
    pub fn hand_over_nothing(&mut self) {
        self.in_hand.clear();
    }

    /// Law 8: what may still come, on each connection, and what waits to be stored are within the credit, but for one frame of
    /// each connection.
    pub fn credit(&mut self, credit: u64, may_come: &[i64], most_legs: u64, copies: &[Shard]) {
        self.in_hand.retain(|&(no, seq, _)| copies[no].applied() < seq);
        let waiting: u64 = self.in_hand.iter().map(|&(_, _, bytes)| bytes).sum();
        // What was overdrawn on a connection that is gone is still stored, and no longer owed by anyone.
        let overdrawn = (most_legs - 1) * FRAME_MAX;
        let held = may_come.iter().sum::<i64>().saturating_add_unsigned(waiting);
        let most = credit.max(waiting) + overdrawn;
        assert!(held <= most as i64, "seed {}: {held} bytes against a credit of {credit}", self.seed);
        let most = credit + FRAME_MAX + overdrawn;
        assert!(waiting <= most, "seed {}: {waiting} bytes wait, credit {credit}", self.seed);
    }
}
