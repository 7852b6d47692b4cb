//! A replica's log as the core sees it: its end, its lanes' next offsets, and, for each frame that is not applied yet,
//! what it takes to cut it off again.

use std::collections::{BTreeMap, VecDeque};

use meridian_batch::Producer;
use meridian_storage::{Chain, Frame, FrameHeader, FrameKind};
use meridian_types::mutant::{self, Mutant};
use meridian_types::{Hlc, LogEpoch, Offset, Partition, Seq, ShardId, StreamId};

use crate::CopyFault;
use crate::message::LogPoint;

/// The end of a log.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub point: LogPoint,
    pub hlc: Hlc,
}

/// A frame above the applied mark.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unapplied {
    pub end: End,
    /// Of Events frames: the lane and where the frame begins in it.
    pub lane: Option<(StreamId, Partition)>,
    pub base_offset: Offset,
    pub events: u32,
    pub producer: Option<Producer>,
}

#[derive(Debug)]
pub(super) struct Log {
    shard: ShardId,
    /// The last applied frame: committed, so never cut.
    base: End,
    unapplied: VecDeque<Unapplied>,
    lanes: BTreeMap<(StreamId, Partition), Offset>,
}

impl Log {
    pub fn new(shard: ShardId, base: End, lanes: BTreeMap<(StreamId, Partition), Offset>) -> Self {
        Self { shard, base, unapplied: VecDeque::new(), lanes }
    }

    pub fn end(&self) -> End {
        self.unapplied.back().map_or(self.base, |last| last.end)
    }

    /// The last applied frame.
    pub fn base(&self) -> LogPoint {
        self.base.point
    }

    pub fn next_offset(&self, lane: (StreamId, Partition)) -> Offset {
        self.lanes.get(&lane).copied().unwrap_or(Offset::ZERO)
    }

    /// The frame at `seq`, from the last applied one on.
    pub fn point(&self, seq: Seq) -> Option<LogPoint> {
        if seq == self.base.point.seq {
            return Some(self.base.point);
        }
        let at = usize::try_from(seq.0.checked_sub(self.base.point.seq.0 + 1)?).ok()?;
        self.unapplied.get(at).map(|frame| frame.end.point)
    }

    /// The newest frame at or below `seq` whose epoch is at most `epoch`; none: that would be below the applied mark.
    pub fn newest(&self, seq: Seq, epoch: LogEpoch) -> Option<LogPoint> {
        let fits = |point: &LogPoint| point.seq <= seq && point.epoch <= epoch;
        let unapplied = self.unapplied.iter().rev().map(|frame| frame.end.point);
        unapplied.chain([self.base.point]).find(fits)
    }

    pub fn unapplied(&self) -> impl Iterator<Item = &Unapplied> {
        self.unapplied.iter()
    }

    /// Frame n+1 after frame n, or nothing.
    pub fn check_next(&self, frame: &Frame) -> Result<(), CopyFault> {
        let header = &frame.header;
        let End { point: last, hlc } = self.end();
        let out_of_order = |what| Err(CopyFault::OutOfOrder { seq: header.seq, what });
        if header.shard_id() != self.shard {
            return out_of_order("it is another shard's");
        }
        if header.seq != last.seq.next() {
            if mutant::is(Mutant::ResumeTooFar) {
                return Ok(());
            }
            return out_of_order("its seq is not the next");
        }
        if !frame.follows(last.chain) {
            return Err(CopyFault::ChainDiffers { seq: header.seq, last: last.seq });
        }
        if header.log_epoch < last.epoch {
            return out_of_order("its log epoch goes back");
        }
        if header.log_epoch == LogEpoch(u32::MAX) {
            // No epoch could follow it.
            return out_of_order("its log epoch is the last there is");
        }
        if header.hlc <= hlc {
            return out_of_order("its hlc does not rise");
        }
        if header.kind == FrameKind::Events {
            if header.base_offset != self.next_offset((header.stream, header.partition)) {
                return out_of_order("its base offset is not its lane's next");
            }
            // The index takes no such frame, and a process that ends on it would end on it again at every start.
            if header.events == 0 || header.base_offset.0.checked_add(u64::from(header.events)).is_none() {
                return out_of_order("its number of events is not possible");
            }
        }
        Ok(())
    }

    pub fn append(&mut self, header: &FrameHeader, producer: Option<Producer>) {
        let lane = (header.kind == FrameKind::Events).then_some((header.stream, header.partition));
        if let Some(lane) = lane {
            self.lanes.insert(lane, header.next_offset());
        }
        let point = LogPoint { seq: header.seq, epoch: header.log_epoch, chain: header.chain };
        self.unapplied.push_back(Unapplied {
            end: End { point, hlc: header.hlc },
            lane,
            base_offset: header.base_offset,
            events: header.events,
            producer,
        });
    }

    /// Drops every frame after `seq`. What is applied was committed and stays: `seq` is not below it.
    pub fn cut(&mut self, seq: Seq) {
        assert!(seq >= self.base.point.seq, "a cut after {seq} would drop applied frames");
        while let Some(frame) = self.unapplied.pop_back_if(|frame| frame.end.point.seq > seq) {
            match frame.lane {
                Some(lane) if frame.base_offset == Offset::ZERO => drop(self.lanes.remove(&lane)),
                Some(lane) => drop(self.lanes.insert(lane, frame.base_offset)),
                None => {}
            }
        }
    }

    pub fn applied(&mut self, seq: Seq) {
        while let Some(frame) = self.unapplied.pop_front_if(|frame| frame.end.point.seq <= seq) {
            self.base = frame.end;
        }
    }
}

/// What a log without a frame ends with.
impl Default for End {
    fn default() -> Self {
        Self { point: LogPoint::START, hlc: Hlc::ZERO }
    }
}

impl LogPoint {
    /// Whether a frame of this seq and chain is the one at this point.
    pub(super) fn is(&self, seq: Seq, chain: Chain) -> bool {
        self.seq == seq && self.chain == chain
    }
}
