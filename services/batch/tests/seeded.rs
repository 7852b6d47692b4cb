//! What the fuzz targets check, on a few thousand inputs from a fixed seed, so that every run of the tests does it.
#![allow(missing_docs)]

mod common;
#[path = "../fuzz/harness.rs"]
mod harness;

use common::{build, sample, sample_events, seal};
use meridian_batch::Codec;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

const SEED: u64 = 0x6d65_7269_6469_616e;

#[test]
fn mutated_batches() {
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut seeds: Vec<Vec<u8>> = Codec::ALL.iter().map(|codec| sample(*codec).to_vec()).collect();
    seeds.push(build(Codec::None, None, &sample_events()[..1]).to_vec());
    for _ in 0..6_000 {
        let mut batch = seeds[rng.random_range(0..seeds.len())].clone();
        for _ in 0..rng.random_range(0..4) {
            let at = rng.random_range(0..batch.len());
            match rng.random_range(0..4) {
                0 => batch[at] = rng.random(),
                1 => batch[at] ^= 1 << rng.random_range(0..8),
                2 => batch.insert(at, rng.random()),
                _ => drop(batch.remove(at)),
            }
        }
        if rng.random_ratio(1, 8) {
            batch.truncate(rng.random_range(0..=batch.len()));
        }
        harness::any_bytes(&batch);
    }
}

#[test]
fn random_bytes() {
    let mut rng = StdRng::seed_from_u64(SEED);
    for _ in 0..4_000 {
        let mut bytes = vec![0; rng.random_range(0..400)];
        rng.fill_bytes(&mut bytes);
        harness::any_bytes(&bytes);
        harness::round_trip(&bytes);
    }
}

/// The harness seals with the crate's own CRC; the tests with one of their own. They must agree.
#[test]
fn the_harness_reaches_past_the_crc() {
    let mut batch = sample(Codec::Gzip).to_vec();
    batch[100] ^= 1;
    let mut ours = batch.clone();
    seal(&mut ours);
    harness::seal(&mut batch);
    assert_eq!(batch, ours);
}
