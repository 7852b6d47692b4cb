//! The simulation itself: it repeats to the byte, it meets what it shall meet, it finds nothing in the cores as they are,
//! and it bites.

use std::ops::Range;

use meridian_sim::coverage::Coverage;
use meridian_sim::{mutants, run};
use meridian_types::mutant::Mutant;

/// `MERIDIAN_SEED=n` runs the one that failed, `MERIDIAN_SEEDS` multiplies.
fn seeds(base: u64) -> Range<u64> {
    let number = |name| std::env::var(name).ok().map(|n| n.parse::<u64>().expect("a number"));
    match number("MERIDIAN_SEED") {
        Some(one) => one..one + 1,
        None => 0..base * number("MERIDIAN_SEEDS").unwrap_or(1),
    }
}

#[test]
fn a_seed_run_twice_is_the_same_to_the_byte() {
    for seed in seeds(12) {
        let (one, other) = (run::history(seed, None, true), run::history(seed, None, true));
        assert!(one.lines == other.lines, "seed {seed}");
        assert_eq!((one.hash, one.events), (other.hash, other.events), "seed {seed}");
        assert_eq!(run::history(seed, None, false).hash, one.hash, "seed {seed}: kept or not");
    }
    let hashes: std::collections::BTreeSet<u128> =
        (0..12).map(|seed| run::history(seed, None, false).hash).collect();
    assert_eq!(hashes.len(), 12, "each seed is another history");
}

#[test]
fn no_law_is_broken_and_everything_is_met() {
    let seeds = seeds(200);
    let whole = seeds.end - seeds.start >= 200;
    let mut met = Coverage::default();
    run::histories(seeds, 2, None, |outcome| {
        let seed = outcome.seed;
        assert!(outcome.breach.is_none(), "MERIDIAN_SEED={seed}: {:?}", outcome.breach);
        assert!(outcome.operations >= 100 && outcome.faults >= 3, "seed {seed} is too short");
        met.merge(&outcome.met);
        true
    });
    let missing: Vec<&str> = EXPECTED.iter().copied().filter(|what| met.of(what) == 0).collect();
    assert!(!whole || missing.is_empty(), "never met: {missing:?}");
}

#[test]
fn the_checkers_bite() {
    for mutant in [
        Mutant::AckBeforeFlush,
        Mutant::PromiseNotSynced,
        Mutant::NoTruncation,
        Mutant::OldEpochCounts,
        Mutant::StaleRead,
        Mutant::RestartedLeads,
        Mutant::FencedReports,
        Mutant::OldDurableMark,
        Mutant::DuplicateEarly,
        Mutant::UncommittedLeaves,
        Mutant::ResumeTooFar,
        Mutant::AppliedPastFlushed,
        Mutant::FencedCounts,
        Mutant::CutNotWritten,
        Mutant::ShortestWins,
        Mutant::HlcGoesBack,
    ] {
        let caught = mutants::catch(mutant, 0, 200, 2);
        assert!(caught.by.is_some(), "{mutant:?} is not caught");
    }
}

/// What two hundred histories meet, or they test less than they say.
const EXPECTED: &[&str] = &[
    "change: Begin",
    "change: Change",
    "change: Create",
    "change: Elect",
    "change: Learner named",
    "change: Settle",
    "disk: frame replayed",
    "disk: index flushed",
    "disk: round",
    "disk: torn round",
    "driver: Fence",
    "driver: Propose",
    "driver: Tell",
    "effect: Ack",
    "effect: Ack of a duplicate",
    "effect: Answer promised",
    "effect: Answer refused",
    "effect: Append",
    "effect: Apply",
    "effect: Cut",
    "effect: Feed",
    "effect: Promise",
    "effect: Readable",
    "effect: Reject",
    "effect: Send",
    "effect: StopFeeding",
    "end: frame compared",
    "fault: WAN cut",
    "fault: a leader crashes",
    "fault: ambush",
    "fault: an fsync fails",
    "fault: clock jumps",
    "fault: connection reset",
    "fault: crash in the middle of a round",
    "fault: crash while it starts",
    "fault: cut in one direction",
    "fault: isolated",
    "fault: power lost",
    "fault: power lost everywhere",
    "fault: process killed",
    "fault: process stopped",
    "fault: several crash",
    "fault: slow disk",
    "fault: split",
    "fault: the disk fails",
    "feed: Mark",
    "feed: Push",
    "feed: Refuse",
    "feed: a copy holds more than a leader",
    "link: Append",
    "link: Credit",
    "link: Durable",
    "link: Fetch",
    "link: Ping",
    "link: Reconnect",
    "link: refused, behind",
    "link: refused, unknown shard",
    "message: Committed",
    "message: Confirm",
    "message: Confirmed",
    "message: Fenced",
    "message: Flushed",
    "message: Frames",
    "message: Leads",
    "message: Match",
    "message: Mismatch",
    "message: Probe",
    "network: answer lost",
    "network: doubled",
    "operation: linearizable read",
    "operation: producer renewed",
    "operation: retry of an old producer epoch",
    "operator: drain",
    "operator: join",
    "operator: move",
    "operator: remove",
    "placement: deposed",
    "placement: ordered after its proposer was deposed",
    "placement: proposal lost",
    "reject: NotLeader",
    "reject: OutOfSequence",
    "reject: ProducerFenced",
    "replica: looked up below the applied mark",
    "replica: producer learnt from the index",
];
