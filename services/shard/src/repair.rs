//! Frames that are stored again in the place of damaged ones.
//!
//! In: a stretch of damaged frames, and what another node holds in their place. Out: the same frames as were here, in the
//! volume and in the index, or nothing. Must never store a frame that the chains on both sides do not prove.

use meridian_storage::index::IndexError;
use meridian_storage::{Chain, Entry, Frame, FrameHeader, Place, Submission, WriterHandle};
use meridian_types::{Seq, ShardId};
use tokio::sync::oneshot;

use crate::{ReadError, Reader};

/// Bytes that are held in memory and stored at a time; a longer stretch is repaired in parts.
const PART_BYTES: usize = 16 * 1024 * 1024;

/// Applied frames, side by side, of which not even the headers between can be read, and what proves others to be the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Whose.
    pub shard: ShardId,
    /// The first of them.
    pub first: Seq,
    /// The last of them.
    pub last: Seq,
    /// The chain of the frame before them.
    pub before: Chain,
    /// What follows them.
    after: After,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum After {
    /// The last of them is the last that is applied: the index has its chain.
    End(Chain),
    /// The frame after them continues their chain.
    Next(FrameHeader),
}

/// Why frames are not stored again. Nothing was stored: ask another source.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The frames are not those that were here.
    #[error("frame {0} is not the one that was here: the chains do not meet")]
    Differs(Seq),
    /// Another frame was wanted.
    #[error("frame {got} of shard {shard} came where frame {wanted} was to")]
    Other {
        /// Of what came.
        shard: ShardId,
        /// What came.
        got: Seq,
        /// What was to come.
        wanted: Seq,
    },
    /// The node stops.
    #[error("the node is stopping")]
    Stopped,
    /// The index does not take it.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Holds what comes in the place of a stretch against the chains on both sides.
#[derive(Debug)]
pub struct Proof {
    stretch: Stretch,
    chain: Chain,
    next: Seq,
    kept: Vec<Frame>,
    bytes: usize,
}

/// Frames that are those that were here: the first of a stretch, or all of it.
#[derive(Clone, Debug)]
pub struct Proven {
    shard: ShardId,
    frames: Vec<Frame>,
}

impl Proven {
    /// What the volume is to store.
    pub fn entries(&self) -> Vec<Entry> {
        self.frames.iter().cloned().map(Entry::Moved).collect()
    }
}

impl Proof {
    /// Of a stretch, before its first frame.
    pub fn of(stretch: Stretch) -> Self {
        let (chain, next) = (stretch.before, stretch.first);
        Self { stretch, chain, next, kept: Vec::new(), bytes: 0 }
    }

    /// Takes the next frame; whether it is the last.
    ///
    /// # Errors
    /// It does not follow.
    pub fn take(&mut self, frame: Frame) -> Result<bool, RepairError> {
        let header = frame.header;
        let (shard, got, wanted) = (header.shard_id(), header.seq, self.next);
        if (shard, got) != (self.stretch.shard, wanted) {
            return Err(RepairError::Other { shard, got, wanted });
        }
        if got > self.stretch.last || !frame.follows(self.chain) {
            return Err(RepairError::Differs(got));
        }
        (self.chain, self.next) = (header.chain, got.next());
        // What does not fit is only checked now: it comes again once this part is stored.
        if self.kept.is_empty() || self.bytes + frame.encoded_len() <= PART_BYTES {
            let is_gapless = self.kept.last().is_none_or(|last| last.header.seq.next() == got);
            if is_gapless {
                self.bytes += frame.encoded_len();
                self.kept.push(frame);
            }
        }
        Ok(got == self.stretch.last)
    }

    /// What is to be stored, once all of the stretch was taken.
    ///
    /// # Errors
    /// The chains do not meet.
    pub fn meet(self) -> Result<Proven, RepairError> {
        let last = self.stretch.last;
        let meets = match &self.stretch.after {
            After::End(chain) => *chain == self.chain,
            After::Next(header) => header.follows(self.chain),
        };
        if self.next != last.next() || !meets {
            return Err(RepairError::Differs(last));
        }
        Ok(Proven { shard: self.stretch.shard, frames: self.kept })
    }
}

impl Reader {
    /// The stretch of damaged frames around an applied one; none: nothing is known of that frame.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn stretch(&self, shard: ShardId, seq: Seq) -> Result<Option<Stretch>, ReadError> {
        let Some(mark) = self.index().applied(shard)? else { return Ok(None) };
        if seq > mark.seq || seq == Seq::ZERO {
            return Ok(None);
        }
        let (mut first, mut last) = (seq, seq);
        let before = loop {
            match self.chain_at(shard, first.prev()) {
                Ok(Some(chain)) => break chain,
                Ok(None) => return Ok(None),
                Err(ReadError::Volume(_)) => first = first.prev(),
                Err(error) => return Err(error),
            }
        };
        let after = loop {
            if last == mark.seq {
                break After::End(mark.chain);
            }
            match self.header(shard, last.next()) {
                Ok(Some(header)) => break After::Next(header),
                Ok(None) => return Ok(None),
                Err(ReadError::Volume(_)) => last = last.next(),
                Err(error) => return Err(error),
            }
        };
        Ok(Some(Stretch { shard, first, last, before, after }))
    }

    /// Whether the frames of a stretch are here after all, as they were written: they then leave the quarantine. Recovery puts
    /// there what damage *may* have changed, on the word of the volume alone; the index knows where each applied frame lies.
    pub fn reread(&self, stretch: &Stretch) -> bool {
        let Stretch { shard, first, last, .. } = *stretch;
        let mut proof = Proof::of(stretch.clone());
        for seq in (first.0..=last.0).map(Seq) {
            let Ok(Some(place)) = self.index().place(shard, seq) else { return false };
            // What the kernel remembers tells nothing of the disk.
            let Ok(frame) = self.volume().read_expecting_uncached(place, shard, seq) else { return false };
            if proof.take(frame).is_err() {
                return false;
            }
        }
        let is_whole = proof.meet().is_ok();
        if is_whole {
            self.quarantine().found_whole(shard, first..=last);
        }
        is_whole
    }

    /// Tells the index of frames that were stored again: it may not have been flushed since.
    ///
    /// # Errors
    /// The index does not take it.
    pub fn relocate(&self, shard: ShardId, moved: &[(Seq, Place)]) -> Result<(), IndexError> {
        for &(seq, place) in moved {
            if self.index().place(shard, seq)? == Some(place) {
                continue;
            }
            match self.volume().header_expecting(place, shard, seq) {
                Ok(header) => self.index().relocate(shard, &[(header, place)])?,
                Err(error) => {
                    tracing::error!(%shard, %seq, %error, "a repaired frame cannot be read again");
                    self.quarantine().add(shard, seq..=seq);
                }
            }
        }
        Ok(())
    }

    /// Stores frames again: in the volume first, and once that is synced, in the index, in one batch. A crash between the
    /// two is made good by recovery. How many frames it were.
    ///
    /// # Errors
    /// [`RepairError`].
    pub(crate) async fn store_again(
        &self,
        writer: &WriterHandle,
        proven: Proven,
    ) -> Result<u64, RepairError> {
        let (done, places) = oneshot::channel();
        writer.submit(Submission {
            shard: proven.shard,
            entries: proven.entries(),
            done: Box::new(move |flushed| drop(done.send(flushed.places))),
        });
        let places = places.await.map_err(|_| RepairError::Stopped)?;
        Ok(self.stored_again(&proven, places)?)
    }

    /// What was proven is synced again, at these places. How many frames it were.
    ///
    /// # Errors
    /// The index does not take it.
    pub fn stored_again(&self, proven: &Proven, places: Vec<Option<Place>>) -> Result<u64, IndexError> {
        let Proven { shard, frames } = proven;
        let (Some(first), Some(last)) = (frames.first(), frames.last()) else { return Ok(0) };
        let range = first.header.seq..=last.header.seq;
        let placed = frames.iter().zip(places);
        let moved: Vec<(FrameHeader, Place)> =
            placed.filter_map(|(frame, place)| Some((frame.header, place?))).collect();
        self.index().relocate(*shard, &moved)?;
        self.quarantine().repaired(*shard, range);
        Ok(moved.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests_support::frame;

    fn log(len: u64) -> Vec<Frame> {
        let mut log: Vec<Frame> = Vec::new();
        for seq in 1..=len {
            let before = log.last().map_or(Chain::GENESIS, |frame| frame.header.chain);
            let other = frame(seq);
            log.push(Frame::build(other.header, before, other.payload));
        }
        log
    }

    fn stretch(log: &[Frame], first: usize, last: usize) -> Stretch {
        Stretch {
            shard: log[0].header.shard_id(),
            first: Seq(first as u64),
            last: Seq(last as u64),
            before: log[first - 2].header.chain,
            after: match log.get(last) {
                Some(next) => After::Next(next.header),
                None => After::End(log[last - 1].header.chain),
            },
        }
    }

    #[test]
    fn only_what_both_chains_prove_is_let_through() {
        let log = log(6);
        for last in [4, 6] {
            let mut proof = Proof::of(stretch(&log, 3, last));
            for frame in &log[2..last] {
                let is_last = proof.take(frame.clone()).unwrap();
                assert_eq!(is_last, frame.header.seq.0 == last as u64);
            }
            assert_eq!(proof.meet().unwrap().frames, log[2..last]);
        }
        // Another frame in the place of the fourth, and what follows it there: each follows the one before it.
        let mut other = log[..3].to_vec();
        for seq in 4..=6 {
            let fields = FrameHeader { events: 9, ..log[seq - 1].header };
            other.push(Frame::build(fields, other[seq - 2].header.chain, log[seq - 1].payload.clone()));
        }
        for last in [4, 6] {
            let mut proof = Proof::of(stretch(&log, 3, last));
            for frame in &other[2..last] {
                proof.take(frame.clone()).expect("one-sided, it looks right");
            }
            assert!(matches!(proof.meet(), Err(RepairError::Differs(_))));
        }
        let mut proof = Proof::of(stretch(&log, 3, 4));
        assert!(matches!(proof.take(log[3].clone()), Err(RepairError::Other { .. })), "one is left out");
        proof.take(log[2].clone()).unwrap();
        assert!(matches!(proof.meet(), Err(RepairError::Differs(_))), "and one is missing");
    }
}
