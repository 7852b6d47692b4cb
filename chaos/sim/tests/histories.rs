//! The simulation itself: it repeats to the byte, it meets what it shall meet, it finds nothing in the cores as they are,
//! and it bites.

use std::collections::BTreeSet;
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
    let hashes: BTreeSet<u128> = (0..12).map(|seed| run::history(seed, None, false).hash).collect();
    assert_eq!(hashes.len(), 12, "each seed is another history");
}

#[test]
fn no_law_is_broken_and_everything_is_met() {
    let seeds = seeds(400);
    let whole = seeds.end - seeds.start >= 400;
    let mut met = Coverage::default();
    run::histories(seeds, 2, None, |outcome| {
        let seed = outcome.seed;
        assert!(outcome.breach.is_none(), "MERIDIAN_SEED={seed}: {:?}", outcome.breach);
        assert!(!outcome.is_thin(), "MERIDIAN_SEED={seed}: too little happens");
        met.merge(&outcome.met);
        true
    });
    let missing: Vec<&str> = EXPECTED.iter().copied().filter(|what| met.of(what) == 0).collect();
    assert!(!whole || missing.is_empty(), "never met: {missing:?}");
}

#[test]
fn the_checkers_bite() {
    // Three take hundreds of histories and more, here or there: `make sim-mutants` has the time for them.
    let rare = [Mutant::OneMajority, Mutant::DoubtCounts, Mutant::DoubtFollowsAtOnce];
    for mutant in Mutant::ALL.into_iter().filter(|mutant| !rare.contains(mutant)) {
        let (caught, law) = (mutants::catch(mutant, 0, 600, 2), mutants::law(mutant));
        assert!(caught.by.is_some(), "{mutant:?} is not caught by the checker of {law}");
    }
}

/// What so many histories meet, or they test less than they say.
const EXPECTED: &[&str] = &[
    "disk: file passed at a start",
    "placement: others vote",
    "change: Begin",
    "change: Change",
    "change: Create",
    "change: Elect",
    "change: Learner dropped",
    "change: Learner named",
    "change: Settle",
    "copy's follower takes Applied",
    "copy's follower takes Committed",
    "copy's follower takes Connected",
    "copy's follower takes Elected",
    "copy's follower takes Fence",
    "copy's follower takes Fenced",
    "copy's follower takes Frames",
    "copy's follower takes Leads",
    "copy's follower takes Match",
    "copy's follower takes Mismatch",
    "copy's follower takes Probe",
    "copy's follower takes what it has flushed",
    "copy's leader takes Applied",
    "copy's leader takes Copy",
    "copy's leader takes Elected",
    "copy's leader takes Fence",
    "copy's leader takes Flushed",
    "copy's leader takes Probe",
    "copy's leader takes what it has flushed",
    "damage: a file's header",
    "damage: a round in parts",
    "damage: frames",
    "damage: rounds of which nothing is known",
    "deposed driver takes something",
    "disk: a doubt is over",
    "disk: a round waits for room",
    "disk: frame replayed",
    "disk: index flushed",
    "disk: no room for a file ahead",
    "disk: round",
    "disk: torn round",
    "driver takes Changed",
    "driver takes Fenced",
    "driver takes Heard",
    "driver takes Refused",
    "driver takes Suspect",
    "driver takes Tick",
    "driver takes Wanted",
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
    "effect: Doubt",
    "effect: Feed",
    "effect: Promise",
    "effect: Readable",
    "effect: Reject",
    "effect: Send",
    "effect: StopFeeding",
    "end: frame compared",
    "fault: WAN cut",
    "fault: WAN cut for long",
    "fault: a leader crashes",
    "fault: a survivor stands still",
    "fault: a leader is cut off, and the disks of others go",
    "fault: ambush",
    "fault: an fsync fails",
    "fault: bits flip",
    "fault: clock jumps",
    "fault: connection reset",
    "fault: crash in the middle of a round",
    "fault: crash while it starts",
    "fault: cut in one direction",
    "fault: disk full",
    "fault: isolated",
    "fault: power lost",
    "fault: power lost everywhere",
    "fault: process killed",
    "fault: process stopped",
    "fault: region lost, and back",
    "fault: several crash",
    "fault: slow disk",
    "fault: split",
    "fault: the disk fails",
    "fault: the disks of a majority are lost for good",
    "feed takes Advanced",
    "feed takes Credit",
    "feed takes Fetch",
    "feed takes Fetch of what is not there",
    "feed takes Left",
    "feed takes LookedUp",
    "feed takes Read",
    "feed takes Stop",
    "feed takes TellMarks",
    "feed: Mark",
    "feed: Push",
    "feed: Refuse",
    "follower takes Applied",
    "follower takes Committed",
    "follower takes Confirm",
    "follower takes Connected",
    "follower takes Elected",
    "follower takes Fence",
    "follower takes Fenced",
    "follower takes Frames",
    "follower takes Leads",
    "follower takes Match",
    "follower takes Mismatch",
    "follower takes Probe",
    "follower takes Publish",
    "follower takes what it has flushed",
    "idle copy takes Applied",
    "idle copy takes Elected",
    "idle copy takes Fence",
    "idle copy takes Fenced",
    "idle copy takes Frames",
    "idle copy takes Leads",
    "idle copy takes Probe",
    "idle copy takes Promised",
    "idle copy takes what it has flushed",
    "idle takes Applied",
    "idle takes Confirm",
    "idle takes Elected",
    "idle takes Fence",
    "idle takes Fenced",
    "idle takes Flushed",
    "idle takes Frames",
    "idle takes Leads",
    "idle takes Probe",
    "idle takes Promised",
    "idle takes Publish",
    "idle takes what it has flushed",
    "leader takes Applied",
    "leader takes Confirm",
    "leader takes Confirmed",
    "leader takes Elected",
    "leader takes Fence",
    "leader takes Fenced",
    "leader takes Flushed",
    "leader takes Probe",
    "leader takes Publish",
    "leader takes Read",
    "leader takes what it has flushed",
    "leader, not ready, takes Applied",
    "leader, not ready, takes Elected",
    "leader, not ready, takes Fence",
    "leader, not ready, takes Flushed",
    "leader, not ready, takes Probe",
    "leader, not ready, takes Publish",
    "leader, not ready, takes Read",
    "leader, not ready, takes what it has flushed",
    "link takes Connected",
    "link takes Copy",
    "link takes Frames",
    "link takes Lost",
    "link takes Mark",
    "link takes Pong",
    "link takes Refused: behind",
    "link takes Refused: unknown shard",
    "link takes Tick",
    "link: Append",
    "link: Credit",
    "link: Durable",
    "link: Fetch",
    "link: Ping",
    "link: Reconnect",
    "link: Stop",
    "link: carries a past incarnation's shard",
    "link: connected",
    "link: one more leg",
    "link: swallowed",
    "network: another incarnation's process is refused",
    "network: answer lost",
    "network: doubled",
    "network: lost",
    "operation: acknowledged",
    "operation: consume",
    "operation: held back, for the past is not recovered",
    "operation: linearizable read",
    "operation: producer renewed",
    "operation: publish",
    "operation: refused, the disk is full",
    "operation: retry of an old producer epoch",
    "operation: timed out",
    "operator: a region is restored",
    "operator: drain",
    "operator: join",
    "operator: move",
    "operator: set replication",
    "operator: undrain",
    "placement: deposed",
    "placement: group leader",
    "placement: ordered after its proposer was deposed",
    "placement: proposal lost",
    "placement: refused, AlreadyElected",
    "placement: refused, Busy",
    "placement: refused, LastReplica",
    "placement: refused, NoRoom",
    "placement: refused, StaleEpoch",
    "placement: refused, VersionConflict",
    "process: begins anew, for its region is restored",
    "reject: NotLeader",
    "reject: OutOfSequence",
    "reject: ProducerExpired",
    "reject: ProducerFenced",
    "repair: frames are stored again",
    "replica: asked placement what it has begun",
    "replica: begins to lead",
    "replica: looked up below the applied mark",
    "replica: producer learnt from the index",
];
