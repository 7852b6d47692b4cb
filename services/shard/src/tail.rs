//! A shard's newest frames in memory, so that live readers do not touch the disk: those that are applied, for everybody,
//! and those that are not, for followers alone.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Weak};

use meridian_storage::{Frame, FrameKind, Place};
use meridian_types::{Lane, Offset, Seq};
use parking_lot::{Mutex, RwLock};

/// What a frame takes beside its bytes: its places in three queues, twice over where they have just grown, and its allocation.
const FRAME_OVERHEAD: usize = 256;

/// The tails of all shards of a node. Together they keep at most so many bytes of applied frames, the newest of all: where a
/// few shards have all the load, theirs are what readers want.
#[derive(Debug)]
pub struct Tails {
    capacity: usize,
    order: Mutex<Order>,
}

/// Every applied frame that is held, in the order in which they came.
#[derive(Debug, Default)]
struct Order {
    frames: VecDeque<(Weak<Tail>, Seq, usize)>,
    bytes: usize,
}

/// The applied frames, contiguous up to the applied mark, as far back as there is room; and every frame after it.
#[derive(Debug)]
pub struct Tail {
    tails: Arc<Tails>,
    me: Weak<Tail>,
    held: RwLock<Held>,
}

#[derive(Debug, Default)]
struct Held {
    applied: VecDeque<Frame>,
    /// Where each lane's frames are among them: their first offsets and seqs.
    lanes: HashMap<Lane, VecDeque<(Offset, Seq)>>,
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

impl Tails {
    /// Keep at most `capacity` bytes of applied frames.
    pub fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self { capacity, order: Mutex::default() })
    }

    /// One more shard's.
    pub fn tail(self: &Arc<Self>) -> Arc<Tail> {
        Arc::new_cyclic(|me| Tail { tails: self.clone(), me: me.clone(), held: RwLock::default() })
    }

    /// Counts frames that a tail holds now, and drops the oldest of all beyond the capacity.
    fn hold(&self, tail: &Weak<Tail>, frames: impl Iterator<Item = (Seq, usize)>) {
        let mut oldest: Vec<(Weak<Tail>, Seq)> = Vec::new();
        {
            let mut order = self.order.lock();
            for (seq, bytes) in frames {
                order.bytes += bytes;
                order.frames.push_back((tail.clone(), seq, bytes));
            }
            while order.bytes > self.capacity {
                let Some((tail, seq, bytes)) = order.frames.pop_front() else { break };
                order.bytes -= bytes;
                match oldest.last_mut() {
                    Some((last, through)) if last.ptr_eq(&tail) => *through = seq,
                    _ => oldest.push((tail, seq)),
                }
            }
        }
        for (tail, through) in oldest {
            if let Some(tail) = tail.upgrade() {
                tail.drop_through(through);
            }
        }
    }
}

impl Tail {
    /// Forgets the applied frames up to there.
    fn drop_through(&self, through: Seq) {
        let mut held = self.held.write();
        let held = &mut *held;
        while let Some(oldest) = held.applied.pop_front_if(|frame| frame.header.seq <= through) {
            let lane = oldest.header.lane();
            if let Some(frames) = held.lanes.get_mut(&lane) {
                while frames.pop_front_if(|(_, seq)| *seq <= oldest.header.seq).is_some() {}
                if frames.is_empty() {
                    held.lanes.remove(&lane);
                } else {
                    shrink(frames);
                }
            }
        }
        // The room of one shard's frames is another's now.
        shrink(&mut held.applied);
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
        let mut added = Vec::new();
        {
            let mut held = self.held.write();
            while let Some(frame) = held.unapplied.pop_front_if(|frame| frame.seq() <= through) {
                if let Unapplied::InMemory(frame) = frame {
                    added.push((frame.header.seq, frame.encoded_len() + FRAME_OVERHEAD));
                    held.push(frame);
                }
            }
        }
        self.tails.hold(&self.me, added.into_iter());
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

    /// The applied frames of a lane that hold offsets from `from` on, up to `max_bytes` but at least one where there is one, and
    /// where the lane ends; none: `from` is not held.
    pub fn of_lane(&self, lane: Lane, from: Offset, max_bytes: usize) -> Option<(Vec<Frame>, Offset)> {
        let held = self.held.read();
        let first = held.applied.front()?.header.seq;
        let lane = held.lanes.get(&lane)?;
        let frame_at = |seq: Seq| held.applied.get(usize::try_from(seq.0.checked_sub(first.0)?).ok()?);
        let end = frame_at(lane.back()?.1)?.header.next_offset();
        if from >= end {
            return Some((Vec::new(), end));
        }
        // The frame that holds `from` is the last one that does not begin after it.
        let at = lane.partition_point(|(base, _)| *base <= from).checked_sub(1)?;
        let mut budget = Budget { left: max_bytes, any: false };
        let frames = lane.range(at..).map_while(|(_, seq)| frame_at(*seq));
        let frames = frames.take_while(|frame| budget.take(frame.encoded_len())).cloned().collect();
        Some((frames, end))
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

/// Gives back the room of a queue that is mostly empty.
fn shrink<T>(queue: &mut VecDeque<T>) {
    if queue.capacity() > 64 && queue.len() < queue.capacity() / 4 {
        queue.shrink_to(2 * queue.len());
    }
}

impl Held {
    /// A gap (after a replay, whose frames are not in memory) starts the applied ones anew.
    fn push(&mut self, frame: Frame) {
        if self.applied.back().is_some_and(|last| last.header.seq.next() != frame.header.seq) {
            self.applied.clear();
            self.lanes.clear();
        }
        let header = &frame.header;
        if header.kind == FrameKind::Events {
            self.lanes.entry(header.lane()).or_default().push_back((header.base_offset, header.seq));
        }
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

    /// What one of [`frame`] counts.
    fn cost() -> usize {
        frame(1).encoded_len() + FRAME_OVERHEAD
    }

    #[test]
    fn holds_the_newest_within_its_bytes() {
        let one = cost();
        let tail = Tails::new(3 * one).tail();
        for seq in 1..=5 {
            push(&tail, frame(seq));
        }
        assert!(tail.get(Seq(2)).is_none() && tail.from(Seq(2), 1 << 20).is_none());
        assert_eq!(tail.get(Seq(3)).unwrap().header.seq, Seq(3));
        assert_eq!(tail.from(Seq(4), 1 << 20).unwrap().len(), 2);
        assert_eq!(tail.from(Seq(3), frame(3).encoded_len()).unwrap().len(), 1, "within the bytes");
        assert_eq!(tail.from(Seq(3), 1).unwrap().len(), 1, "but at least one");
        assert!(tail.from(Seq(6), 1 << 20).is_none());
        push(&tail, frame(9));
        assert!(tail.get(Seq(5)).is_none(), "a gap starts it anew");
        assert!(tail.get(Seq(9)).is_some());
    }

    #[test]
    fn the_oldest_of_all_shards_goes_first() {
        let tails = Tails::new(3 * cost());
        let (idle, busy) = (tails.tail(), tails.tail());
        push(&idle, frame(7));
        push(&busy, frame(1));
        push(&busy, frame(2));
        assert!(idle.get(Seq(7)).is_some() && busy.get(Seq(1)).is_some());
        push(&busy, frame(3));
        assert!(idle.get(Seq(7)).is_none(), "the one that has all the load has all the room");
        push(&idle, frame(8));
        assert!(busy.get(Seq(1)).is_none() && busy.get(Seq(2)).is_some() && idle.get(Seq(8)).is_some());
        drop(busy);
        push(&idle, frame(9));
        push(&idle, frame(10));
        assert_eq!(idle.from(Seq(8), 1 << 20).unwrap().len(), 3, "a shard that is gone holds nothing");
    }

    #[test]
    fn the_room_of_frames_that_are_gone_is_given_back() {
        let tails = Tails::new(1000 * cost());
        let (before, now) = (tails.tail(), tails.tail());
        (1..=1000).for_each(|seq| push(&before, frame(seq)));
        let large = before.held.read().applied.capacity();
        (1..=990).for_each(|seq| push(&now, frame(seq)));
        let small = before.held.read().applied.capacity();
        assert_eq!(before.held.read().applied.len(), 10);
        assert!(small < large / 8, "{small} of {large}");
    }

    #[test]
    fn what_is_not_applied_is_shown_to_followers_alone_and_can_be_cut() {
        let tail = Tails::new(1 << 20).tail();
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
    fn gives_a_lanes_frames_as_far_as_it_goes_back() {
        let tail = Tails::new(5 * cost()).tail();
        // Two lanes in turn, two events a frame.
        for seq in 1..=6u64 {
            let mut frame = frame(seq);
            let header = &mut frame.header;
            (header.kind, header.partition, header.events) =
                (FrameKind::Events, Partition((seq % 2) as u32), 2);
            header.base_offset = Offset((seq - 1) / 2 * 2);
            push(&tail, frame);
        }
        let lane = frame(2).header.lane();
        let seqs = |from, max_bytes| {
            tail.of_lane(lane, Offset(from), max_bytes).map(|(frames, end)| {
                (frames.iter().map(|frame| frame.header.seq.0).collect::<Vec<_>>(), end.0)
            })
        };
        assert_eq!(seqs(0, 1 << 20), Some((vec![2, 4, 6], 6)));
        assert_eq!(seqs(3, 1 << 20), Some((vec![4, 6], 6)), "the first may begin before");
        assert_eq!(seqs(2, 1), Some((vec![4], 6)), "within the bytes, but at least one");
        assert_eq!(seqs(6, 1 << 20), Some((vec![], 6)));
        let other = Lane { partition: Partition(1), ..lane };
        assert!(tail.of_lane(other, Offset(0), 1 << 20).is_none(), "its first frame is not held any more");
        assert!(tail.of_lane(Lane { partition: Partition(9), ..lane }, Offset(0), 1).is_none());
    }

    #[test]
    fn tells_which_lanes_have_grown_as_far_as_it_goes_back() {
        let tail = Tails::new(3 * cost()).tail();
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
