//! The feed's laws, each in a few steps.

use meridian_storage::FrameHeader;

use super::*;
use crate::tests_support::{chain_at, log, mark, shard};

/// A feed over logs in memory, which answers what it asks.
struct Rig {
    feed: Feed,
    logs: BTreeMap<ShardId, Vec<Frame>>,
    /// What could not be answered at once, because it is held back.
    held: Vec<FeedEffect>,
    hold: bool,
}

impl Rig {
    fn with(logs: impl IntoIterator<Item = (ShardId, Vec<Frame>)>) -> Self {
        // Frames may be so large that there is never room for a second read.
        Self::of(Feed::of(CHUNK_BYTES, u64::MAX), logs)
    }

    fn of(feed: Feed, logs: impl IntoIterator<Item = (ShardId, Vec<Frame>)>) -> Self {
        Self { feed, logs: logs.into_iter().collect(), held: Vec::new(), hold: false }
    }

    /// Takes an input and all that follows from it; what goes to the copy is returned.
    fn step(&mut self, input: FeedInput) -> Vec<FeedEffect> {
        let mut out = Vec::new();
        self.feed.step(input, &mut out);
        self.answer(out)
    }

    fn answer(&mut self, effects: Vec<FeedEffect>) -> Vec<FeedEffect> {
        let mut to_copy = Vec::new();
        for effect in effects {
            if self.hold {
                self.held.push(effect);
                continue;
            }
            let input = match &effect {
                FeedEffect::LookUp { shard, turn, seq } => {
                    let log = &self.logs[shard];
                    let chain = (seq.0 <= log.len() as u64).then(|| chain_at(log, seq.0));
                    FeedInput::LookedUp { shard: *shard, turn: *turn, chain: Ok(chain) }
                }
                FeedEffect::Read { shard, turn, from, max_bytes } => {
                    let mut bytes = 0;
                    let read = self.logs[shard].iter().skip(from.0 as usize - 1).take_while(|frame| {
                        let fits = bytes == 0 || bytes + frame.encoded_len() as u64 <= *max_bytes;
                        bytes += frame.encoded_len() as u64;
                        fits
                    });
                    FeedInput::Read { shard: *shard, turn: *turn, frames: Ok(read.cloned().collect()) }
                }
                _ => {
                    to_copy.push(effect);
                    continue;
                }
            };
            to_copy.extend(self.step(input));
        }
        to_copy
    }

    /// Answers what was held back.
    fn release(&mut self) -> Vec<FeedEffect> {
        self.hold = false;
        let held = std::mem::take(&mut self.held);
        self.answer(held)
    }

    fn fetch(&mut self, shard: ShardId, from: u64, mark: SourceMark) -> Vec<FeedEffect> {
        let chain_before = self.logs.get(&shard).map_or(Chain::GENESIS, |log| chain_at(log, from - 1));
        self.step(FeedInput::Fetch { shard, from: Seq(from), through: None, chain_before, mark: Some(mark) })
    }
}

fn pushed(effects: &[FeedEffect]) -> Vec<Frame> {
    let frames = |effect: &FeedEffect| match effect {
        FeedEffect::Push { frames, .. } => frames.clone(),
        _ => Vec::new(),
    };
    effects.iter().flat_map(frames).collect()
}

fn refused(effects: &[FeedEffect]) -> Vec<(ShardId, RefusedReason)> {
    effects
        .iter()
        .filter_map(|e| {
            if let FeedEffect::Refuse { shard, reason, .. } = e { Some((*shard, *reason)) } else { None }
        })
        .collect()
}

fn bytes(frames: &[Frame]) -> u64 {
    frames.iter().map(|frame| frame.encoded_len() as u64).sum()
}

const PLENTY: u64 = 1 << 30;

#[test]
fn what_is_committed_is_pushed_from_where_the_copy_ends() {
    let a = shard(0);
    let frames = log(a, 1, 9, 50);
    let mut rig = Rig::with([(a, frames.clone())]);
    rig.step(FeedInput::Credit(PLENTY));
    // Frames 8 and 9 are in the log, and not committed.
    let out = rig.fetch(a, 4, mark(7));
    assert!(
        matches!(out[0], FeedEffect::Mark(of, told) if of == a && told == mark(7)),
        "the mark comes first"
    );
    assert_eq!(pushed(&out), frames[3..7], "from where the copy ends to the committed end, no further");
    assert!(rig.step(FeedInput::Credit(1)).is_empty(), "nothing twice");
    assert_eq!(pushed(&rig.step(FeedInput::Advanced(a, mark(9)))), frames[7..]);
    assert!(rig.step(FeedInput::Advanced(a, mark(3))).is_empty(), "a mark does not go back");
}

#[test]
fn a_read_that_finds_newer_frames_does_not_outrun_the_mark() {
    let a = shard(0);
    let frames = log(a, 1, 9, 50);
    let mut rig = Rig::with([(a, frames.clone())]);
    rig.hold = true;
    rig.fetch(a, 1, mark(2));
    rig.release();
    rig.hold = true;
    rig.step(FeedInput::Credit(PLENTY));
    assert!(matches!(rig.held[..], [FeedEffect::Read { .. }]));
    assert_eq!(pushed(&rig.release()), frames[..2]);
}

#[test]
fn a_source_that_differs_refuses_and_reads_nothing() {
    let a = shard(0);
    let mut rig = Rig::with([(a, log(a, 1, 5, 10))]);
    rig.step(FeedInput::Credit(PLENTY));
    let theirs = chain_at(&log(a, 2, 5, 10), 3);
    let fetch =
        FeedInput::Fetch { shard: a, from: Seq(4), through: None, chain_before: theirs, mark: Some(mark(5)) };
    let out = rig.step(fetch);
    assert_eq!(refused(&out), [(a, RefusedReason::ChainDiffers)]);
    assert!(pushed(&out).is_empty());
    assert!(rig.step(FeedInput::Advanced(a, mark(5))).is_empty(), "it is no longer wanted");
}

#[test]
fn a_copy_that_holds_more_is_told_whether_that_can_be() {
    let a = shard(0);
    let mut rig = Rig::with([(a, log(a, 1, 9, 10))]);
    assert_eq!(
        refused(&rig.fetch(a, 7, mark(5))),
        [(a, RefusedReason::Behind)],
        "any source but the leader is behind"
    );
    let leader = SourceMark { is_origin_leader: true, ..mark(5) };
    assert_eq!(refused(&rig.fetch(a, 7, leader)), [(a, RefusedReason::OriginShorter)]);
    assert!(refused(&rig.fetch(a, 6, leader)).is_empty(), "as much as the leader has is right");
    let fetch = FeedInput::Fetch {
        shard: shard(9),
        from: Seq(1),
        through: None,
        chain_before: Chain::GENESIS,
        mark: None,
    };
    assert_eq!(refused(&rig.step(fetch)), [(shard(9), RefusedReason::UnknownShard)]);
}

#[test]
fn damage_stops_its_shard_alone() {
    let (a, b) = (shard(0), shard(1));
    let mut rig = Rig::with([(a, log(a, 1, 3, 10)), (b, log(b, 1, 3, 10))]);
    rig.fetch(a, 1, mark(3));
    rig.fetch(b, 1, mark(3));
    rig.hold = true;
    rig.step(FeedInput::Credit(PLENTY));
    let Some(FeedEffect::Read { shard: first, turn, .. }) = rig.held.pop() else { panic!("a read") };
    rig.hold = false;
    let out = rig.step(FeedInput::Read { shard: first, turn, frames: Err("bits have flipped".into()) });
    let other = if first == a { b } else { a };
    assert_eq!(refused(&out), [(first, RefusedReason::Damaged)]);
    assert_eq!(pushed(&out).len(), 3);
    assert!(pushed(&out).iter().all(|frame| frame.header.shard_id() == other));
}

#[test]
fn a_hole_in_what_was_read_is_not_pushed() {
    let a = shard(0);
    let mut frames = log(a, 1, 5, 10);
    frames.remove(2);
    let mut rig = Rig::with([(a, frames)]);
    rig.fetch(a, 1, mark(5));
    let out = rig.step(FeedInput::Credit(PLENTY));
    assert_eq!(refused(&out), [(a, RefusedReason::Damaged)]);
    assert!(pushed(&out).is_empty());
}

#[test]
fn the_answer_to_an_abandoned_fetch_is_not_used_and_costs_nothing() {
    let a = shard(0);
    let frames = log(a, 1, 4, 10);
    let mut rig = Rig::with([(a, frames.clone())]);
    rig.fetch(a, 1, mark(4));
    rig.hold = true;
    rig.step(FeedInput::Credit(bytes(&frames)));
    let stale = rig.held.pop();
    rig.hold = false;
    assert!(pushed(&rig.fetch(a, 3, mark(4))).is_empty(), "one read at a time");
    let out = rig.answer(stale.into_iter().collect());
    assert_eq!(pushed(&out), frames[2..], "from where the newer fetch begins");
    assert_eq!(rig.feed.credit, bytes(&frames[..2]) as i64);
}

#[test]
fn what_is_stopped_is_not_pushed() {
    let a = shard(0);
    let mut rig = Rig::with([(a, log(a, 1, 4, 10))]);
    rig.fetch(a, 1, mark(4));
    rig.step(FeedInput::Stop(a));
    assert!(rig.step(FeedInput::Credit(PLENTY)).is_empty());
    assert!(rig.step(FeedInput::TellMarks { all: true }).is_empty());
}

#[test]
fn what_a_frame_overdraws_is_owed() {
    let a = shard(0);
    let frames = log(a, 1, 40, 1000);
    let one = frames[0].encoded_len() as u64;
    let mut rig = Rig::with([(a, frames.clone())]);
    rig.fetch(a, 1, mark(40));
    // Less than a frame: one comes all the same, or it never would.
    let out = rig.step(FeedInput::Credit(100));
    assert_eq!(pushed(&out), frames[..1]);
    // The copy gives back all that it got. Were the overdraft forgotten, each round would be 988 bytes larger.
    let mut seen = 1;
    for _ in 0..30 {
        let out = rig.step(FeedInput::Credit(one));
        assert_eq!(pushed(&out).len(), 1, "never more on its way than a frame over the credit");
        seen += 1;
    }
    assert_eq!(rig.feed.wanted[&a].next, Seq(seen + 1));
}

#[test]
fn live_shards_come_first_but_never_they_alone() {
    let (behind, also_behind, live) = (shard(0), shard(1), shard(2));
    let count = 2000;
    let long = |s| (s, log(s, 1, count, 1000));
    let mut rig = Rig::with([long(behind), long(also_behind), (live, log(live, 1, 3000, 10))]);
    rig.fetch(behind, 1, mark(count));
    rig.fetch(also_behind, 1, mark(count));
    rig.fetch(live, 1, mark(1));
    rig.hold = true;
    let mut reads = Vec::new();
    rig.step(FeedInput::Credit(PLENTY));
    // By the time of each answer the live shard has something new.
    for i in 2..60 {
        let Some(FeedEffect::Read { shard, .. }) = rig.held.last() else { panic!("a read") };
        reads.push(*shard);
        let read = rig.held.pop();
        rig.hold = false;
        let mut out = Vec::new();
        rig.feed.step(FeedInput::Advanced(live, mark(i)), &mut out);
        assert!(out.is_empty(), "one read at a time");
        rig.hold = true;
        let FeedEffect::Read { shard, turn, from, .. } = read.unwrap() else { panic!("a read") };
        let log = &rig.logs[&shard];
        let frames = log[from.0 as usize - 1..from.0 as usize].to_vec();
        rig.step(FeedInput::Read { shard, turn, frames: Ok(frames) });
    }
    let of = |s| reads.iter().filter(|read| **read == s).count();
    assert_eq!(reads[0], live);
    assert!(of(live) > 40, "{}", of(live));
    assert!(of(behind) >= 3 && of(also_behind) >= 3, "{} and {}", of(behind), of(also_behind));
}

#[test]
fn two_shards_are_read_at_once_where_the_credit_allows_for_both() {
    let (a, b, c) = (shard(0), shard(1), shard(2));
    let logs = || [a, b, c].map(|s| (s, log(s, 1, 40, 1000)));
    let one = logs()[0].1[0].encoded_len() as u64;
    let begun = |credit: u64| {
        let mut rig = Rig::of(Feed::of(4 * one, 6 * one), logs());
        for s in [a, b, c] {
            rig.fetch(s, 1, mark(40));
        }
        rig.hold = true;
        rig.step(FeedInput::Credit(credit));
        rig
    };
    let reads = |rig: &Rig| {
        let read = |effect: &FeedEffect| match effect {
            FeedEffect::Read { shard, max_bytes, .. } => Some((*shard, *max_bytes)),
            _ => None,
        };
        rig.held.iter().filter_map(read).collect::<Vec<_>>()
    };
    assert_eq!(reads(&begun(6 * one)), [(a, 4 * one)], "a frame of six may come");
    assert_eq!(reads(&begun(7 * one)), [(a, 4 * one), (b, one)]);
    let mut rig = begun(PLENTY);
    assert_eq!(reads(&rig), [(a, 4 * one), (b, 4 * one)], "and no more than two");
    // The second is answered first, and the shard that waits has its turn.
    let FeedEffect::Read { shard: second, turn, .. } = rig.held.remove(1) else { panic!("a read") };
    let frames = rig.logs[&second][..4].to_vec();
    rig.step(FeedInput::Read { shard: second, turn, frames: Ok(frames) });
    assert_eq!(reads(&rig).iter().map(|(s, _)| *s).collect::<Vec<_>>(), [a, c], "never two of one shard");
    // Credit that is asked back waits for both, and nothing more is read before.
    let out = rig.step(FeedInput::Withdraw(one));
    assert!(out.is_empty());
    rig.held.retain(|effect| matches!(effect, FeedEffect::Read { .. }));
    for left in [1, 0] {
        let FeedEffect::Read { shard, turn, from, .. } = rig.held.remove(0) else { panic!("a read") };
        let frames = rig.logs[&shard][from.0 as usize - 1..][..2].to_vec();
        rig.step(FeedInput::Read { shard, turn, frames: Ok(frames) });
        let given = rig.held.iter().any(|effect| matches!(effect, FeedEffect::Withdrawn(_)));
        assert_eq!(given, left == 0);
    }
    assert_eq!(reads(&rig).len(), 2, "and then on");
}

#[test]
fn of_the_shards_that_catch_up_the_oldest_comes_first_but_never_it_alone() {
    let (old, new, newer) = (shard(0), shard(1), shard(2));
    let count = 2000;
    let later = |shard: ShardId| {
        let mut prev = Chain::GENESIS;
        let at = |frame: Frame| {
            let fields = FrameHeader { hlc: Hlc(frame.header.hlc.0 + (1 << 50)), ..frame.header };
            let frame = Frame::build(fields, prev, frame.payload);
            prev = frame.header.chain;
            frame
        };
        (shard, log(shard, 1, count, 100).into_iter().map(at).collect::<Vec<_>>())
    };
    let logs = [(old, log(old, 1, count, 100)), later(new), later(newer)];
    let one = bytes(&logs[0].1[..1]);
    let mut rig = Rig::of(Feed::of(10 * one, u64::MAX), logs.clone());
    for (shard, _) in &logs {
        rig.fetch(*shard, 1, mark(count));
    }
    let out = rig.step(FeedInput::Credit(1000 * one));
    let of = |shard| pushed(&out).iter().filter(|frame| frame.header.shard_id() == shard).count();
    let (old, new, newer) = (of(old), of(new), of(newer));
    assert!(old > 2 * new && new >= 70 && newer >= 70, "{old}, {new} and {newer}");
}

#[test]
fn marks_are_told_when_they_move_and_all_of_them_now_and_then() {
    let (a, b) = (shard(0), shard(1));
    let mut rig = Rig::with([(a, log(a, 1, 9, 10)), (b, log(b, 1, 9, 10))]);
    rig.fetch(a, 1, mark(4));
    rig.fetch(b, 1, mark(4));
    assert!(rig.step(FeedInput::TellMarks { all: false }).is_empty(), "told with the fetch");
    rig.step(FeedInput::Advanced(b, mark(6)));
    let out = rig.step(FeedInput::TellMarks { all: false });
    assert!(matches!(out[..], [FeedEffect::Mark(of, told)] if of == b && told.seq == Seq(6)));
    assert!(rig.step(FeedInput::TellMarks { all: false }).is_empty());
    assert_eq!(rig.step(FeedInput::TellMarks { all: true }).len(), 2);
}

#[test]
fn a_replica_that_leaves_the_set_after_it_was_asked_for_is_refused() {
    let (a, b) = (shard(0), shard(1));
    let mut rig = Rig::with([(a, log(a, 1, 9, 50)), (b, log(b, 1, 9, 50))]);
    rig.step(FeedInput::Credit(PLENTY));
    rig.fetch(a, 1, mark(5));
    rig.fetch(b, 1, mark(5));
    assert_eq!(rig.feed.wanted().collect::<Vec<_>>(), [a, b]);
    // A read is under way when it leaves.
    rig.hold = true;
    rig.step(FeedInput::Advanced(a, mark(9)));
    let out = rig.step(FeedInput::Left(a));
    let refused_by = |effect: &FeedEffect| matches!(effect, FeedEffect::Refuse { shard, reason: RefusedReason::UnknownShard, last: Seq(9), .. } if *shard == a);
    assert!(rig.held.iter().chain(&out).any(refused_by), "the link turns to another node");
    assert_eq!(rig.feed.wanted().collect::<Vec<_>>(), [b], "the other is still fed");
    rig.held.retain(|effect| matches!(effect, FeedEffect::Read { .. }));
    assert!(rig.release().is_empty(), "what was read meanwhile goes nowhere");
    let told = rig.step(FeedInput::TellMarks { all: true });
    assert!(matches!(told[..], [FeedEffect::Mark(told, _)] if told == b), "and its mark is told no more");
    assert_eq!(pushed(&rig.step(FeedInput::Advanced(b, mark(9)))).len(), 4);
    assert!(rig.step(FeedInput::Left(a)).is_empty(), "once is enough");
}

#[test]
fn credit_is_given_back_as_far_as_it_is_not_used_and_not_under_a_read() {
    let a = shard(0);
    let mut rig = Rig::with([(a, log(a, 1, 9, 50))]);
    let frame = rig.logs[&a][0].encoded_len() as u64;
    rig.step(FeedInput::Credit(5 * frame));
    rig.fetch(a, 1, mark(2));
    let withdrawn = |effects: &[FeedEffect]| match effects {
        [.., FeedEffect::Withdrawn(bytes)] => Some(*bytes),
        _ => None,
    };
    assert_eq!(withdrawn(&rig.step(FeedInput::Withdraw(frame))), Some(frame));
    // A read counts on what there was as it began: two frames' worth.
    rig.hold = true;
    rig.step(FeedInput::Advanced(a, mark(9)));
    assert!(rig.step(FeedInput::Withdraw(9 * frame)).is_empty());
    let out = rig.release();
    assert_eq!((pushed(&out).len(), withdrawn(&out)), (2, Some(0)), "all of it is used");
    assert!(pushed(&rig.step(FeedInput::Credit(frame))).len() == 1, "and what comes is used again");
}
