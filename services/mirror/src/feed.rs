//! The source's end of a link, sans-IO: what may be read from where, and what to push next.
//!
//! Only committed and applied frames are ever read. Shards take turns, those that are nearly caught up first, so that a
//! long catch-up delays no live tail. Of those that catch up the one whose frames are the oldest comes first: what was written at one time lies
//! together, and is read from the disk once.

use std::collections::BTreeMap;

use meridian_shard::Totals;
use meridian_storage::{Chain, FRAME_HEADER_BYTES, FRAME_PAYLOAD_BYTES_MAX, Frame};
use meridian_types::mutant::{self, Mutant};
use meridian_types::{Hlc, Seq, ShardId};

use crate::link::RefusedReason;

/// Bytes read and pushed at a time: what is read with each other of a volume, so that shards that lie side by side stay together.
const CHUNK_BYTES: u64 = meridian_storage::VolumeReader::AROUND_MAX;
/// The largest frame.
const LARGEST_BYTES: u64 = (FRAME_HEADER_BYTES + FRAME_PAYLOAD_BYTES_MAX) as u64;
/// How many reads may be under way, each of another shard: while one waits for the disk, another is copied and checked.
const READS_MAX: usize = 2;
/// A shard with fewer frames to go counts as live.
const LIVE_WITHIN: u64 = 256;
/// Of the reads of shards that catch up one in so many goes by turn.
const IN_TURN_EVERY: u64 = 4;
/// Under load a live shard always has something: after so many reads of live ones, one that catches up has its turn.
const LIVE_IN_A_ROW: u32 = 8;

/// How far the source holds a shard, committed and applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceMark {
    /// The last readable frame.
    pub seq: Seq,
    /// Sums up to there.
    pub totals: Totals,
    /// Its hlc.
    pub hlc: Hlc,
    /// This node leads the shard in its origin and has committed in its epoch: nobody has more than it.
    pub is_origin_leader: bool,
}

/// What happens to a feed. `turn` numbers the fetches of a link, so that the answer to an abandoned one is told apart.
#[derive(Clone, Debug)]
pub enum FeedInput {
    /// The copy wants a shard from `from` on, and holds the frame before with `chain_before`.
    Fetch {
        /// Which.
        shard: ShardId,
        /// The first wanted.
        from: Seq,
        /// The last wanted; none: whatever comes, for ever.
        through: Option<Seq>,
        /// Of the frame before the first.
        chain_before: Chain,
        /// How far the source holds it; none: it has no such shard.
        mark: Option<SourceMark>,
    },
    /// The copy wants no more of a shard.
    Stop(ShardId),
    /// Nothing new will come of a shard here: its replica has left the set.
    Left(ShardId),
    /// The copy can take so many more bytes.
    Credit(u64),
    /// The copy wants so much credit back, as far as it is not used.
    Withdraw(u64),
    /// The source holds more.
    Advanced(ShardId, SourceMark),
    /// The chain that was looked up; an error says what is damaged.
    LookedUp {
        /// Of which.
        shard: ShardId,
        /// Of which fetch.
        turn: u64,
        /// The chain, or none where the source lacks the frame.
        chain: Result<Option<Chain>, String>,
    },
    /// The frames that were read, contiguous; an error says what is damaged.
    Read {
        /// Of which.
        shard: ShardId,
        /// Of which fetch.
        turn: u64,
        /// At least one, unless they are not readable yet.
        frames: Result<Vec<Frame>, String>,
    },
    /// Tell the marks that have moved since they were last told, or all of them, as a heartbeat.
    TellMarks {
        /// Those that have not moved too.
        all: bool,
    },
}

/// What a feed wants done.
#[derive(Clone, Debug)]
pub enum FeedEffect {
    /// Find the chain through `seq`.
    LookUp {
        /// Of which.
        shard: ShardId,
        /// To be answered with.
        turn: u64,
        /// Of which frame.
        seq: Seq,
    },
    /// Read frames.
    Read {
        /// Of which.
        shard: ShardId,
        /// To be answered with.
        turn: u64,
        /// The first.
        from: Seq,
        /// At most so many bytes, but at least one frame.
        max_bytes: u64,
    },
    /// Push frames.
    Push {
        /// Of which.
        shard: ShardId,
        /// Which.
        frames: Vec<Frame>,
    },
    /// So much credit is given back.
    Withdrawn(u64),
    /// Tell how far the source is.
    Mark(ShardId, SourceMark),
    /// This shard cannot be read from there.
    Refuse {
        /// Which.
        shard: ShardId,
        /// Why.
        reason: RefusedReason,
        /// The source's last.
        last: Seq,
        /// For people.
        message: String,
    },
}

#[derive(Debug)]
struct Wanted {
    turn: u64,
    next: Seq,
    through: Option<Seq>,
    /// Set while the chain is being looked up.
    chain_before: Option<Chain>,
    mark: SourceMark,
    /// The mark that the copy was told last.
    told: Seq,
    /// Of the last frame that was pushed.
    hlc: Hlc,
}

impl Wanted {
    /// The last frame that may be pushed now.
    fn end(&self) -> Seq {
        self.through.map_or(self.mark.seq, |through| through.min(self.mark.seq))
    }
}

/// The source's end of one link. See the module.
#[derive(Debug)]
pub struct Feed {
    chunk: u64,
    largest: u64,
    wanted: BTreeMap<ShardId, Wanted>,
    /// Below zero after a frame larger than what was left: the copy gives back all of it, so all of it is owed, or
    /// each such frame would raise for good what may be on its way.
    credit: i64,
    turn: u64,
    /// What is being read, by turn, and how many bytes of it were asked for. One read at a time of each shard, so that its
    /// frames leave in order.
    reads: BTreeMap<u64, u64>,
    /// Credit that the copy wants back. It is answered between reads, each of which counts on what there was as it began; none
    /// begins before.
    asked_back: Option<u64>,
    /// The shard read last by turn, of those catching up and of those live.
    last_read: [Option<ShardId>; 2],
    live_in_a_row: u32,
    /// Reads of shards that catch up.
    turns: u64,
}

impl Default for Feed {
    fn default() -> Self {
        Self::of(CHUNK_BYTES, LARGEST_BYTES)
    }
}

impl Feed {
    /// A feed that reads up to `chunk` bytes at a time of frames that have up to `largest`.
    pub fn of(chunk: u64, largest: u64) -> Self {
        Self {
            chunk,
            largest,
            wanted: BTreeMap::new(),
            credit: 0,
            turn: 0,
            reads: BTreeMap::new(),
            asked_back: None,
            last_read: [None; 2],
            live_in_a_row: 0,
            turns: 1,
        }
    }

    /// What the copy reads here, for the shell to see whether each is still replicated here: [`FeedInput::Left`].
    pub fn wanted(&self) -> impl Iterator<Item = ShardId> {
        self.wanted.keys().copied()
    }

    /// Takes one input and appends what is to be done.
    pub fn step(&mut self, input: FeedInput, out: &mut Vec<FeedEffect>) {
        match input {
            FeedInput::Fetch { shard, from, through, chain_before, mark } => {
                self.fetch(shard, (from, through), chain_before, mark, out);
            }
            FeedInput::Stop(shard) => {
                self.wanted.remove(&shard);
            }
            FeedInput::Left(shard) => {
                // Its mark stands still, so the copy would not be behind, and stay.
                if let Some(wanted) = self.wanted.remove(&shard) {
                    let (reason, last) = (RefusedReason::UnknownShard, wanted.mark.seq);
                    let message = "its replica has left this node".into();
                    out.push(FeedEffect::Refuse { shard, reason, last, message });
                }
            }
            FeedInput::Credit(bytes) => {
                self.credit = self.credit.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
            }
            FeedInput::Withdraw(bytes) => {
                self.asked_back = Some(self.asked_back.unwrap_or(0).saturating_add(bytes));
                self.give_back(out);
            }
            FeedInput::Advanced(shard, mark) => {
                if let Some(wanted) = self.wanted.get_mut(&shard)
                    && mark.seq >= wanted.mark.seq
                {
                    wanted.mark = mark;
                }
            }
            FeedInput::LookedUp { shard, turn, chain } => self.looked_up(shard, turn, chain, out),
            FeedInput::Read { shard, turn, frames } => {
                self.reads.remove(&turn);
                self.read(shard, turn, frames, out);
                self.give_back(out);
            }
            FeedInput::TellMarks { all } => {
                // A mark is also the word that the chain agrees: none before it is looked up.
                let agreed = self.wanted.iter_mut().filter(|(_, wanted)| wanted.chain_before.is_none());
                for (&shard, wanted) in agreed {
                    if all || wanted.told != wanted.mark.seq {
                        wanted.told = wanted.mark.seq;
                        out.push(FeedEffect::Mark(shard, wanted.mark));
                    }
                }
            }
        }
        self.read_next(out);
    }

    fn give_back(&mut self, out: &mut Vec<FeedEffect>) {
        if !self.reads.is_empty() {
            return;
        }
        if let Some(bytes) = self.asked_back.take() {
            let back = bytes.min(u64::try_from(self.credit).unwrap_or(0));
            self.credit = self.credit.saturating_sub(i64::try_from(back).unwrap_or(i64::MAX));
            out.push(FeedEffect::Withdrawn(back));
        }
    }

    fn fetch(
        &mut self,
        shard: ShardId,
        (from, through): (Seq, Option<Seq>),
        chain_before: Chain,
        mark: Option<SourceMark>,
        out: &mut Vec<FeedEffect>,
    ) {
        self.wanted.remove(&shard);
        let mut refuse = |reason, last, message: String| {
            out.push(FeedEffect::Refuse { shard, reason, last, message });
        };
        let Some(mark) = mark else {
            return refuse(RefusedReason::UnknownShard, Seq::ZERO, "this node has no such shard".into());
        };
        let held = from.prev();
        if held > mark.seq {
            // Only an origin's leader knows that nobody can have more; any other source is merely behind.
            let (reason, what) = if mark.is_origin_leader {
                (RefusedReason::OriginShorter, "the origin has committed less than its copy holds")
            } else {
                (RefusedReason::Behind, "this source is behind")
            };
            return refuse(reason, mark.seq, format!("{what}: {} against {held}", mark.seq));
        }
        self.turn += 1;
        let turn = self.turn;
        self.wanted.insert(
            shard,
            Wanted {
                turn,
                next: from,
                through,
                chain_before: Some(chain_before),
                mark,
                told: mark.seq,
                hlc: Hlc(0),
            },
        );
        out.push(FeedEffect::LookUp { shard, turn, seq: held });
    }

    fn looked_up(
        &mut self,
        shard: ShardId,
        turn: u64,
        chain: Result<Option<Chain>, String>,
        out: &mut Vec<FeedEffect>,
    ) {
        let Some(wanted) = self.wanted.get_mut(&shard).filter(|wanted| wanted.turn == turn) else { return };
        let Some(expected) = wanted.chain_before else { return };
        let (held, last) = (wanted.next.prev(), wanted.mark.seq);
        let refused = match chain {
            Ok(Some(chain)) if chain == expected || mutant::is(Mutant::ResumeTooFar) => {
                wanted.chain_before = None;
                out.push(FeedEffect::Mark(shard, wanted.mark));
                return;
            }
            Ok(Some(_)) => {
                (RefusedReason::ChainDiffers, format!("the copies differ at or before frame {held}"))
            }
            Ok(None) => (RefusedReason::Behind, format!("this source lacks frame {held}")),
            Err(damage) => (RefusedReason::Damaged, damage),
        };
        self.wanted.remove(&shard);
        out.push(FeedEffect::Refuse { shard, reason: refused.0, last, message: refused.1 });
    }

    fn read(
        &mut self,
        shard: ShardId,
        turn: u64,
        frames: Result<Vec<Frame>, String>,
        out: &mut Vec<FeedEffect>,
    ) {
        let Some(wanted) = self.wanted.get_mut(&shard).filter(|wanted| wanted.turn == turn) else { return };
        let (expected, mark, end) = (wanted.next, wanted.mark, wanted.end());
        let contiguous = |frames: &[Frame]| {
            frames
                .iter()
                .zip(expected.0..)
                .all(|(frame, seq)| frame.header.seq == Seq(seq) && frame.header.shard_id() == shard)
        };
        // What was applied since the mark was told may come with the rest: it waits for its mark.
        let frames = frames.map(|mut frames| {
            frames.retain(|frame| frame.header.seq <= end);
            frames
        });
        match frames {
            Ok(frames) if !frames.is_empty() && contiguous(&frames) => {
                wanted.next = Seq(expected.0 + frames.len() as u64);
                wanted.hlc = frames.last().map_or(wanted.hlc, |frame| frame.header.hlc);
                let bytes: usize = frames.iter().map(Frame::encoded_len).sum();
                // The last push may overdraw: one frame can be larger than what is left.
                self.credit = self.credit.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
                out.push(FeedEffect::Push { shard, frames });
            }
            Ok(_) => {
                self.wanted.remove(&shard);
                let message = format!("frame {expected} is not where the index says");
                out.push(FeedEffect::Refuse {
                    shard,
                    reason: RefusedReason::Damaged,
                    last: mark.seq,
                    message,
                });
            }
            Err(message) => {
                self.wanted.remove(&shard);
                out.push(FeedEffect::Refuse {
                    shard,
                    reason: RefusedReason::Damaged,
                    last: mark.seq,
                    message,
                });
            }
        }
    }

    /// The next shard that has something to read, and whether by turn: of those that are live always; of those that are not the oldest, but
    /// now and then by turn too, for one may be far older than the rest, or a clock wrong.
    fn next_of(&self, live: bool) -> Option<(ShardId, bool)> {
        let last = self.last_read[usize::from(live)];
        let ready = |wanted: &Wanted| {
            wanted.chain_before.is_none()
                && wanted.next <= wanted.end()
                && !self.reads.contains_key(&wanted.turn)
        };
        let is_live = |wanted: &Wanted| wanted.mark.seq.0 - wanted.next.0 < LIVE_WITHIN;
        let after = self.wanted.iter().filter(|(shard, _)| Some(**shard) > last);
        let before = self.wanted.iter().filter(|(shard, _)| Some(**shard) <= last);
        let mut in_turn = after.chain(before).filter(|(_, wanted)| ready(wanted) && is_live(wanted) == live);
        let by_turn = live || self.turns.is_multiple_of(IN_TURN_EVERY);
        let next = if by_turn { in_turn.next() } else { in_turn.min_by_key(|(_, wanted)| wanted.hlc) };
        next.map(|(shard, _)| (*shard, by_turn))
    }

    /// How much one more read may bring. There is credit left for it whatever those under way bring, so that together they overdraw
    /// no more than one read does: by its last frame.
    fn room(&self) -> Option<u64> {
        if self.reads.len() >= READS_MAX || self.asked_back.is_some() {
            return None;
        }
        let under_way =
            self.reads.values().fold(0u64, |sum, asked| sum.saturating_add(*asked.max(&self.largest)));
        let left = u64::try_from(self.credit).ok()?.checked_sub(under_way)?;
        (left > 0).then_some(left.min(self.chunk))
    }

    /// Starts the next reads: live shards first, but never they alone.
    fn read_next(&mut self, out: &mut Vec<FeedEffect>) {
        while let Some(max_bytes) = self.room() {
            let live_first = self.live_in_a_row < LIVE_IN_A_ROW;
            let chosen = [live_first, !live_first]
                .into_iter()
                .find_map(|live| self.next_of(live).map(|next| (live, next)));
            let Some((live, (shard, by_turn))) = chosen else { return };
            let Some(wanted) = self.wanted.get(&shard) else { return };
            let (turn, from) = (wanted.turn, wanted.next);
            self.reads.insert(turn, max_bytes);
            if by_turn {
                self.last_read[usize::from(live)] = Some(shard);
            }
            self.turns += u64::from(!live);
            self.live_in_a_row = if live { self.live_in_a_row.saturating_add(1) } else { 0 };
            out.push(FeedEffect::Read { shard, turn, from, max_bytes });
        }
    }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
