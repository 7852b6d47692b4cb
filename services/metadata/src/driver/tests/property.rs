//! The toy cluster under faults, by seed: one leader an epoch, none without what was committed, and always one in the end.

use rand::RngExt as _;

use super::world::{STEP, World};
use super::*;

const SEEDS: u64 = 400;

/// Every 100 ms or so, something happens.
fn disturb(world: &mut World) {
    let nodes = world.nodes.len() as u32;
    let node = NodeId(world.rng.random_range(1..=nodes));
    let other = NodeId(world.rng.random_range(1..=nodes));
    match world.rng.random_range(0..17) {
        0 | 1 => world.crash(node),
        2..=5 => {
            let hurt = world.rng.random_ratio(1, 4);
            world.restart(node, hurt);
        }
        6 => {
            world.cut.insert((node, other));
        }
        7 | 8 => world.cut.clear(),
        9 => {
            let keep = world.rng.random();
            world.depose(keep);
        }
        10 => world.delay = world.rng.random_range(0..150),
        11 => world.loss = world.rng.random_range(0..15),
        12 => {
            let _ = world.state.change(Change::Drain { node });
        }
        13 => {
            let _ = world.state.change(Change::Undrain { node });
        }
        14 => {
            let shards = world.state.shards().count() as u16;
            let shard = shard(world.rng.random_range(0..shards));
            let _ = world.state.change(Change::Move { shard, from: node, to: other });
        }
        15 => {
            let replicas = world.rng.random_range(1..=3);
            let _ = world.state.change(Change::SetReplication { replicas });
        }
        _ => world.mend(),
    }
    if world.seats.is_empty() {
        world.depose(false);
    }
}

fn heal(world: &mut World) {
    world.cut.clear();
    (world.loss, world.delay) = (0, 10);
    world.mend();
    for node in world.nodes.keys().copied().collect::<Vec<_>>() {
        world.restart(node, false);
    }
    world.depose(false);
}

/// Answers with how many elections there were and how many changes of sets.
fn live_through(seed: u64) -> (usize, usize) {
    let nodes = 3 + (seed % 3) as u32;
    let mut world = World::new(seed, nodes, 2);
    world.depose(false);
    for _ in 0..8_000 / STEP {
        if world.rng.random_ratio(1, 10) {
            disturb(&mut world);
        }
        world.step();
    }
    heal(&mut world);
    for _ in 0..10_000 / STEP {
        world.step();
    }
    if let Err(why) = world.is_led() {
        panic!("seed {seed}: {why}");
    }
    let begins = world.begins;
    for _ in 0..3_000 / STEP {
        world.step();
    }
    assert_eq!(world.begins, begins, "seed {seed}: epochs begin although nothing happens");
    (world.elections, world.changes)
}

#[test]
fn one_leader_an_epoch_with_all_that_was_committed_and_always_one_in_the_end() {
    let mut total = (0, 0);
    for seed in 0..SEEDS {
        let run = std::panic::catch_unwind(|| live_through(seed));
        let (elections, changes) = run.unwrap_or_else(|_| panic!("seed {seed} fails"));
        total = (total.0 + elections, total.1 + changes);
    }
    assert!(total.0 > 8 * SEEDS as usize && total.1 > SEEDS as usize, "too little happened: {total:?}");
}

/// Only node 1's heartbeats are cut off from the driver: it is live for the others, and must not be elected over and over.
#[test]
fn a_link_cut_in_one_direction_makes_no_storm_of_epochs() {
    for seed in 0..20 {
        let mut world = World::new(seed, 3, 2);
        world.depose(false);
        for _ in 0..2_000 / STEP {
            world.step();
        }
        let before = world.begins;
        for other in [2, 3] {
            world.cut.insert((NodeId(1), NodeId(other)));
        }
        for _ in 0..30_000 / STEP {
            world.step();
        }
        assert!(world.begins - before <= 4, "seed {seed}: {} epochs in 30 s", world.begins - before);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(live_through(7), live_through(7));
}
