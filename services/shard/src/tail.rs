//! A shard's newest applied frames in memory, so that live readers do not touch the disk.

use std::collections::{BTreeSet, VecDeque};

use meridian_storage::{Frame, FrameKind};
use meridian_types::{Lane, Seq};
use parking_lot::RwLock;

/// Contiguous frames up to the applied mark, at most so many bytes of them.
#[derive(Debug)]
pub struct Tail {
    held: RwLock<Held>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Held {
    frames: VecDeque<Frame>,
    bytes: usize,
}

impl Tail {
    /// Holds at most `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Self { held: RwLock::default(), capacity }
    }

    /// Adds the next applied frame. A gap (after a replay, which does not fill the tail) starts it anew.
    pub fn push(&self, frame: Frame) {
        let mut held = self.held.write();
        if held.frames.back().is_some_and(|last| last.header.seq.next() != frame.header.seq) {
            *held = Held::default();
        }
        held.bytes += frame.encoded_len();
        held.frames.push_back(frame);
        while held.bytes > self.capacity {
            let Some(oldest) = held.frames.pop_front() else { break };
            held.bytes -= oldest.encoded_len();
        }
    }

    /// The frame at `seq`, if it is held.
    pub fn get(&self, seq: Seq) -> Option<Frame> {
        let held = self.held.read();
        let first = held.frames.front()?.header.seq;
        let at = usize::try_from(seq.0.checked_sub(first.0)?).ok()?;
        held.frames.get(at).cloned()
    }

    /// The lanes that have grown by frames after `seq`; none: what followed is not all held.
    pub fn lanes_after(&self, seq: Seq) -> Option<BTreeSet<Lane>> {
        let held = self.held.read();
        let first = held.frames.front()?.header.seq;
        let at = usize::try_from(seq.next().0.checked_sub(first.0)?).ok()?;
        let grown = held.frames.iter().skip(at).filter(|frame| frame.header.kind == FrameKind::Events);
        Some(grown.map(|frame| frame.header.lane()).collect())
    }

    /// The frames from `from` on, up to `max_bytes` but at least one; none: `from` is not held.
    pub fn from(&self, from: Seq, max_bytes: usize) -> Option<Vec<Frame>> {
        let held = self.held.read();
        let first = held.frames.front()?.header.seq;
        let at = usize::try_from(from.0.checked_sub(first.0)?).ok()?;
        let mut bytes = 0;
        let frames: Vec<Frame> = held
            .frames
            .iter()
            .skip(at)
            .take_while(|frame| {
                let fits = bytes == 0 || bytes + frame.encoded_len() <= max_bytes;
                bytes += frame.encoded_len();
                fits
            })
            .cloned()
            .collect();
        (!frames.is_empty()).then_some(frames)
    }
}

#[cfg(test)]
mod tests {
    use meridian_types::Partition;

    use super::*;
    use crate::tests_support::frame;

    #[test]
    fn holds_the_newest_within_its_bytes() {
        let one = frame(1).encoded_len();
        let tail = Tail::new(3 * one);
        for seq in 1..=5 {
            tail.push(frame(seq));
        }
        assert!(tail.get(Seq(2)).is_none() && tail.from(Seq(2), 1 << 20).is_none());
        assert_eq!(tail.get(Seq(3)).unwrap().header.seq, Seq(3));
        assert_eq!(tail.from(Seq(4), 1 << 20).unwrap().len(), 2);
        assert_eq!(tail.from(Seq(3), one).unwrap().len(), 1, "within the bytes");
        assert_eq!(tail.from(Seq(3), 1).unwrap().len(), 1, "but at least one");
        assert!(tail.from(Seq(6), 1 << 20).is_none());
        tail.push(frame(9));
        assert!(tail.get(Seq(5)).is_none(), "a gap starts it anew");
        assert!(tail.get(Seq(9)).is_some());
    }

    #[test]
    fn tells_which_lanes_have_grown_as_far_as_it_goes_back() {
        let tail = Tail::new(3 * frame(1).encoded_len());
        for seq in 1..=5 {
            let mut frame = frame(seq);
            // The fourth is no lane's.
            if seq != 4 {
                (frame.header.kind, frame.header.partition) = (FrameKind::Events, Partition(seq as u32));
            }
            tail.push(frame);
        }
        let grown = |after| {
            tail.lanes_after(Seq(after)).map(|lanes| lanes.iter().map(|lane| lane.partition.0).collect())
        };
        assert_eq!(grown(2), Some(vec![3, 5]));
        assert_eq!(grown(4), Some(vec![5]));
        assert_eq!(grown(5), Some(vec![]), "nothing has grown");
        assert_eq!(grown(1), None, "frame 2 is not held: what grew by it is not known");
    }
}
