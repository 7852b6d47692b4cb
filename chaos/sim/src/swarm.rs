//! What a seed is like: each draws its own shape, delays and probabilities, and switches some faults off altogether
//! (Groce et al., "Swarm Testing", 2012), so that rare schedules are common in some seeds.

use std::time::Duration;

use meridian_metadata::driver;
use rand::RngExt as _;
use rand::rngs::Xoshiro256PlusPlus as Rng;

/// The weights of the faults of a history; 0: switched off.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    pub crash: u32,
    pub crash_leader: u32,
    pub crash_many: u32,
    pub power: u32,
    pub power_all: u32,
    pub eio: u32,
    pub cut_one_way: u32,
    pub isolate: u32,
    pub split: u32,
    pub reset: u32,
    pub clock: u32,
    pub depose: u32,
    pub slow_disk: u32,
    pub freeze: u32,
    pub wan: u32,
    pub drain: u32,
    pub moving: u32,
    pub join: u32,
    pub remove: u32,
    pub replicate: u32,
    pub disk_full: u32,
    pub region_lost: u32,
    pub wan_long: u32,
    pub flip: u32,
    pub lose_disks: u32,
}

/// How a history is set up.
#[derive(Clone, Debug)]
pub struct Swarm {
    pub regions: usize,
    /// By region.
    pub nodes: Vec<u32>,
    /// How many replicas each region wants, by region.
    pub replication: Vec<u32>,
    pub shards: u16,
    pub partitions: u32,
    pub producers: usize,
    pub consumers: usize,
    /// For how long faults happen, in µs.
    pub chaos: u64,
    pub op_every: u64,
    pub fault_every: u64,
    /// The longest way of a message within a region, and of a sync.
    pub way: u64,
    pub wan: u64,
    pub sync: u64,
    /// Messages of one connection pass each other.
    pub reorder: bool,
    /// Some messages come twice.
    pub double: bool,
    /// The most frames in one message to a follower.
    pub batch: usize,
    pub max_round: usize,
    pub file_bytes: u64,
    pub apply_lag: u64,
    pub down: u64,
    pub pipeline: usize,
    pub weights: Weights,
    pub driver: driver::Config,
    pub credit: u64,
    /// Index flushes are so far apart.
    pub checkpoint: u64,
    /// Of 100 commits of a promise or an election, how many are followed by a crash of a node concerned.
    pub ambush: u32,
}

impl Swarm {
    /// Draws one.
    pub fn draw(rng: &mut Rng) -> Self {
        let regions = [1, 2, 2, 2, 3][rng.random_range(0..5)];
        let nodes: Vec<u32> = (0..regions).map(|_| [3, 3, 3, 3, 1, 5, 5][rng.random_range(0..7)]).collect();
        let replication = nodes.iter().map(|count| (*count).min([3, 5][rng.random_range(0..2)])).collect();
        let mut weights = Weights::default();
        let all: [&mut u32; 25] = [
            &mut weights.crash,
            &mut weights.crash_leader,
            &mut weights.crash_many,
            &mut weights.power,
            &mut weights.power_all,
            &mut weights.eio,
            &mut weights.cut_one_way,
            &mut weights.isolate,
            &mut weights.split,
            &mut weights.reset,
            &mut weights.clock,
            &mut weights.depose,
            &mut weights.slow_disk,
            &mut weights.freeze,
            &mut weights.wan,
            &mut weights.drain,
            &mut weights.moving,
            &mut weights.join,
            &mut weights.remove,
            &mut weights.replicate,
            &mut weights.disk_full,
            &mut weights.region_lost,
            &mut weights.wan_long,
            &mut weights.flip,
            &mut weights.lose_disks,
        ];
        for weight in all {
            *weight = [0, 0, 1, 2, 6][rng.random_range(0..5)];
        }
        // A history without any fault tests little.
        weights.crash += 1;
        // They last long, and leave less of the rest.
        weights.region_lost = weights.region_lost.min(1);
        weights.wan_long = weights.wan_long.min(1);
        weights.lose_disks = weights.lose_disks.min(1);
        let millis = |from: u64, to: u64, rng: &mut Rng| Duration::from_millis(rng.random_range(from..=to));
        let driver = driver::Config {
            dead_after: millis(300, 1_000, rng),
            first_wait: millis(100, 500, rng),
            lead_wait: millis(500, 1_000, rng),
            longer_wait: millis(50, 1_000, rng),
            prefer_wait: millis(0, 50, rng),
            fence_retry: millis(50, 150, rng),
            grace: millis(1_500, 4_000, rng),
            learner_grace: millis(1_000, 2_000, rng),
            lead_wait_max: Duration::from_secs(8),
            ..driver::Config::default()
        };
        Self {
            regions,
            nodes,
            replication,
            shards: rng.random_range(1..=2),
            partitions: rng.random_range(1..=4),
            producers: rng.random_range(2..=5),
            consumers: rng.random_range(1..=3),
            chaos: rng.random_range(6_000_000..14_000_000),
            op_every: [15_000, 40_000, 80_000][rng.random_range(0..3)],
            fault_every: [150_000, 400_000, 800_000, 1_500_000][rng.random_range(0..4)],
            way: [300, 2_000, 15_000][rng.random_range(0..3)],
            wan: [2_000, 30_000, 120_000][rng.random_range(0..3)],
            sync: [200, 2_000, 20_000, 60_000][rng.random_range(0..4)],
            reorder: rng.random_bool(0.3),
            double: rng.random_bool(0.3),
            batch: [1, 1, 4, 64][rng.random_range(0..4)],
            max_round: [6 << 10, 24 << 10][rng.random_range(0..2)],
            file_bytes: [64 << 10, 256 << 10][rng.random_range(0..2)],
            apply_lag: [1_000, 20_000, 200_000, 1_500_000][rng.random_range(0..4)],
            down: [50_000, 500_000, 2_500_000][rng.random_range(0..3)],
            pipeline: rng.random_range(1..=3),
            weights,
            driver,
            credit: [2_000, 30_000][rng.random_range(0..2)],
            checkpoint: [100_000, 1_000_000, 8_000_000][rng.random_range(0..3)],
            ambush: [0, 0, 10, 40][rng.random_range(0..4)],
        }
    }
}
