//! A shard's newest frames in memory, so that live readers do not touch the disk: those that are applied, for everybody,
//! and those that are not, for followers alone.

use std::collections::{BTreeSet, VecDeque};

use meridian_storage::{Frame, FrameKind, Place};
use meridian_types::{Lane, Seq};
use parking_lot::RwLock;

/// The applied frames, contiguous up to the applied mark and at most so many bytes of them; and every frame after it.
#[derive(Debug)]
pub struct Tail {
    held: RwLock<Held>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Held {
    applied: VecDeque<Frame>,
    bytes: usize,
    unapplied: VecDeque<Unapplied>,
}

/// A frame that is not applied.
#[derive(Clone, Debug)]
pub(crate) enum Unapplied {
    /// It came since the start.
    InMemory(Frame),
    /// It was found at the start: the index does not know it yet.
    OnDisk(Seq, Place),
}

impl Unapplied {
    fn seq(&self) -> Seq {
        match self {
            Self::InMemory(frame) => frame.header.seq,
            Self::OnDisk(seq, _) => *seq,
        }
    }
}

impl Tail {
    /// Keeps at most `capacity` bytes of applied frames.
    pub fn new(capacity: usize) -> Self {
        Self { held: RwLock::default(), capacity }
    }

    /// Adds the next frame of the log, not applied yet.
    pub(crate) fn append(&self, frame: Unapplied) {
        self.held.write().unapplied.push_back(frame);
    }

    /// Drops the frames after `after`; none of them is applied.
    pub(crate) fn cut(&self, after: Seq) {
        let mut held = self.held.write();
        while held.unapplied.pop_back_if(|frame| frame.seq() > after).is_some() {}
    }

    /// The frames up to `through` are applied now.
    pub(crate) fn applied(&self, through: Seq) {
        let mut held = self.held.write();
        while let Some(frame) = held.unapplied.pop_front_if(|frame| frame.seq() <= through) {
            if let Unapplied::InMemory(frame) = frame {
                held.push(frame);
            }
        }
        while held.bytes > self.capacity {
            let Some(oldest) = held.applied.pop_front() else { break };
            held.bytes -= oldest.encoded_len();
        }
    }

    /// The applied frame at `seq`, if it is held.
    pub fn get(&self, seq: Seq) -> Option<Frame> {
        let held = self.held.read();
        let first = held.applied.front()?.header.seq;
        let at = usize::try_from(seq.0.checked_sub(first.0)?).ok()?;
        held.applied.get(at).cloned()
    }

    /// The lanes that have grown by applied frames after `seq`; none: what followed is not all held.
    pub fn lanes_after(&self, seq: Seq) -> Option<BTreeSet<Lane>> {
        let held = self.held.read();
        let first = held.applied.front()?.header.seq;
        let at = usize::try_from(seq.next().0.checked_sub(first.0)?).ok()?;
        let grown = held.applied.iter().skip(at).filter(|frame| frame.header.kind == FrameKind::Events);
        Some(grown.map(|frame| frame.header.lane()).collect())
    }

    /// The applied frames from `from` on, up to `max_bytes` but at least one; none: `from` is not held.
    pub fn from(&self, from: Seq, max_bytes: usize) -> Option<Vec<Frame>> {
        let held = self.held.read();
        let first = held.applied.front()?.header.seq;
        let at = usize::try_from(from.0.checked_sub(first.0)?).ok()?;
        let mut budget = Budget { left: max_bytes, any: false };
        let frames: Vec<Frame> = held
            .applied
            .iter()
            .skip(at)
            .take_while(|frame| budget.take(frame.encoded_len()))
            .cloned()
            .collect();
        (!frames.is_empty()).then_some(frames)
    }

    /// The frames from `from` on that are not applied, up to `max_bytes` but at least one; none: `from` is applied, or
    /// beyond the log's end.
    pub(crate) fn unapplied(&self, from: Seq, max_bytes: usize) -> Option<Vec<Unapplied>> {
        let held = self.held.read();
        let first = held.unapplied.front()?.seq();
        let at = usize::try_from(from.0.checked_sub(first.0)?).ok()?;
        let mut budget = Budget { left: max_bytes, any: false };
        let len = |frame: &Unapplied| match frame {
            Unapplied::InMemory(frame) => frame.encoded_len(),
            Unapplied::OnDisk(_, place) => place.len as usize,
        };
        let frames: Vec<Unapplied> =
            held.unapplied.iter().skip(at).take_while(|frame| budget.take(len(frame))).cloned().collect();
        (!frames.is_empty()).then_some(frames)
    }
}

impl Held {
    /// A gap (after a replay, whose frames are not in memory) starts the applied ones anew.
    fn push(&mut self, frame: Frame) {
        if self.applied.back().is_some_and(|last| last.header.seq.next() != frame.header.seq) {
            self.applied.clear();
            self.bytes = 0;
        }
        self.bytes += frame.encoded_len();
        self.applied.push_back(frame);
    }
}

/// So many bytes, but at least one frame.
struct Budget {
    left: usize,
    any: bool,
}

impl Budget {
    fn take(&mut self, bytes: usize) -> bool {
        let fits = !self.any || bytes <= self.left;
        self.any = true;
        self.left = self.left.saturating_sub(bytes);
        fits
    }
}

#[cfg(test)]
mod tests {
    use meridian_types::Partition;

    use super::*;
    use crate::tests_support::frame;

    fn push(tail: &Tail, frame: Frame) {
        let seq = frame.header.seq;
        tail.append(Unapplied::InMemory(frame));
        tail.applied(seq);
    }

    #[test]
    fn holds_the_newest_within_its_bytes() {
        let one = frame(1).encoded_len();
        let tail = Tail::new(3 * one);
        for seq in 1..=5 {
            push(&tail, frame(seq));
        }
        assert!(tail.get(Seq(2)).is_none() && tail.from(Seq(2), 1 << 20).is_none());
        assert_eq!(tail.get(Seq(3)).unwrap().header.seq, Seq(3));
        assert_eq!(tail.from(Seq(4), 1 << 20).unwrap().len(), 2);
        assert_eq!(tail.from(Seq(3), one).unwrap().len(), 1, "within the bytes");
        assert_eq!(tail.from(Seq(3), 1).unwrap().len(), 1, "but at least one");
        assert!(tail.from(Seq(6), 1 << 20).is_none());
        push(&tail, frame(9));
        assert!(tail.get(Seq(5)).is_none(), "a gap starts it anew");
        assert!(tail.get(Seq(9)).is_some());
    }

    #[test]
    fn what_is_not_applied_is_shown_to_followers_alone_and_can_be_cut() {
        let tail = Tail::new(1 << 20);
        tail.append(Unapplied::OnDisk(Seq(1), Place { file: 0, at: 4096, len: 10 }));
        for seq in 2..=5 {
            tail.append(Unapplied::InMemory(frame(seq)));
        }
        assert!(tail.get(Seq(2)).is_none() && tail.from(Seq(2), 1 << 20).is_none());
        assert_eq!(tail.unapplied(Seq(1), 1 << 20).unwrap().len(), 5);
        assert_eq!(tail.unapplied(Seq(4), 1).unwrap().len(), 1);
        tail.cut(Seq(3));
        assert!(tail.unapplied(Seq(4), 1).is_none());
        tail.applied(Seq(2));
        assert!(tail.unapplied(Seq(2), 1).is_none());
        assert_eq!(tail.unapplied(Seq(3), 1).unwrap().len(), 1);
        assert_eq!(tail.get(Seq(2)).unwrap().header.seq, Seq(2));
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
            push(&tail, frame);
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
