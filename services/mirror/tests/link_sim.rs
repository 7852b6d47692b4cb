//! A link under everything that can happen to it, from seeds. Faults 20, 21, 28 and the link's part of 17 and 22.

mod sim;

use sim::{Met, World};

const SEEDS: u64 = 3_000;

/// `MERIDIAN_SEEDS` multiplies; `MERIDIAN_SEED=n` runs the one that failed.
fn seeds(base: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().map(|n| n.parse::<u64>().expect("a number"));
    match number("MERIDIAN_SEED") {
        Some(one) => one..one + 1,
        None => 0..base * number("MERIDIAN_SEEDS").unwrap_or(1),
    }
}

#[test]
fn a_copy_is_a_prefix_of_its_origin_and_catches_up() {
    let mut met = Met::default();
    let seeds = seeds(SEEDS);
    let count = seeds.end - seeds.start;
    for seed in seeds {
        met = World::new(seed, met).heal().1;
    }
    println!("{met:?}");
    if count >= SEEDS {
        assert!(met.mirrored > count * 20 && met.dropped > count, "{met:?}");
        let crashes_and_cuts = [met.source_crashes, met.sink_crashes, met.cuts, met.silences];
        let rest = [met.jumps, met.lost_reads, met.stalls];
        assert!(crashes_and_cuts.into_iter().chain(rest).all(|times| times > count / 10), "{met:?}");
        assert!(met.behind > 0 && met.overdrawn > count / 10, "{met:?}");
        let legs = [met.legs, met.legs_lost, met.moves, met.nodes_down, met.withdrawn];
        assert!(legs.into_iter().all(|times| times > count / 10), "{met:?}");
    }
}

#[test]
fn an_origin_with_another_history_faults_its_copy_and_nothing_is_appended() {
    let mut met = Met::default();
    let seeds = seeds(SEEDS / 4);
    let count = seeds.end - seeds.start;
    for seed in seeds {
        met = World::new(seed, met).rewrite().1;
    }
    println!("{met:?}");
    if count > 1 {
        assert_eq!(met.differing + met.shorter, count);
        assert!(met.differing > count / 10 && met.shorter > count / 10, "{met:?}");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in seeds(50) {
        let trace = |seed| World::new(seed, Met::default()).heal().0;
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
    }
    assert_ne!(World::new(1, Met::default()).heal().0, World::new(2, Met::default()).heal().0);
}
