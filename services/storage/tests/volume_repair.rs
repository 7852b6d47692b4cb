//! Frames that are stored again in the place of damaged ones (faults 4 and 6), and doubts, through crashes.
//!
//! The law: at every moment a damaged frame is quarantined or repaired; never is something else served, and never is
//! a repair that was acknowledged forgotten.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{fields, formatted, frame, seeds, shard};
use meridian_storage::index::{FrameEffects, Index, MemoryKeyValue};
use meridian_storage::volume::file_name;
use meridian_storage::{
    BLOCK, Chain, Entry, FRAME_HEADER_BYTES, Frame, FrameKind, Place, PowerLoss, Recovered, SimDisk, Volume,
    VolumeConfig, VolumeError,
};
use meridian_types::{LogEpoch, Offset, Seq, ShardId, Timestamp};
use rand::rngs::Xoshiro256PlusPlus as Rng;
use rand::{RngExt, SeedableRng};

const CONFIG: VolumeConfig =
    VolumeConfig { file_bytes: 16 * 4096, max_round_bytes: 8192, stock: 1, reserve_bytes: 0 };

/// A log of events, some rounds long, of which an index knows a part.
struct World {
    disk: Arc<SimDisk>,
    kv: Arc<MemoryKeyValue>,
    id: ShardId,
    log: Vec<(Frame, Place)>,
}

impl World {
    fn index(&self) -> Index {
        Index::open(self.kv.clone()).expect("an index")
    }

    fn open(&self) -> Result<(Volume, Recovered, Index), VolumeError> {
        let index = self.index();
        let applied = |id| index.applied(id).expect("a mark").map_or(Seq::ZERO, |mark| mark.seq);
        let (volume, recovered) = Volume::open(self.disk.clone(), CONFIG, &applied)?;
        Ok((volume, recovered, index))
    }

    fn new(seed: u64, rng: &mut Rng, frames: u64, applied: u64, flushed: u64) -> Self {
        let (disk, kv, id) = (formatted(seed), Arc::new(MemoryKeyValue::new()), shard(0));
        let mut world = Self { disk, kv, id, log: Vec::new() };
        let (mut volume, _, index) = world.open().expect("a new volume");
        let mut chain = Chain::GENESIS;
        for seq in 1..=frames {
            let fields = meridian_storage::FrameHeader {
                kind: FrameKind::Events,
                base_offset: Offset(seq * 10 - 10),
                ..fields(id, Seq(seq), LogEpoch(1))
            };
            let payload = vec![seq as u8; rng.random_range(10..1500)];
            let next = Frame::build(fields, chain, bytes::Bytes::from(payload));
            chain = next.header.chain;
            let place = volume.write_round(&[Entry::Frame(next.clone())]).unwrap()[0].unwrap();
            world.log.push((next, place));
        }
        volume.write_idle_round().unwrap();
        let effects = |(frame, place): &(Frame, Place)| FrameEffects {
            header: frame.header,
            place: *place,
            producer: None,
            max_timestamp: Timestamp(0),
        };
        let (first, rest) = world.log[..applied as usize].split_at(flushed as usize);
        index.apply(id, &first.iter().map(effects).collect::<Vec<_>>()).unwrap();
        index.flush().unwrap();
        index.apply(id, &rest.iter().map(effects).collect::<Vec<_>>()).unwrap();
        world
    }

    fn damage(&self, seq: u64, rng: &mut Rng, hides: bool) {
        let place = self.log[seq as usize - 1].1;
        if hides {
            // The round's header, and with it all that recovery could tell of the round.
            self.disk.zero(&file_name(place.file), place.at - place.at % BLOCK as u64, 64);
        } else {
            let at = place.at + rng.random_range(FRAME_HEADER_BYTES as u64..u64::from(place.len));
            self.disk.flip(&file_name(place.file), at, 1 << rng.random_range(0..8));
        }
    }

    /// As the shards of a node open: what was stored again is told to the index. The frames that are quarantined, and
    /// where each other one is read.
    fn state(&self, volume: &Volume, recovered: &Recovered, index: &Index) -> BTreeMap<Seq, Option<Place>> {
        let found = recovered.shards.get(&self.id).cloned().unwrap_or_default();
        for (seq, place) in &found.moved {
            let again = volume.reader().read_expecting(*place, self.id, *seq).expect("recovery has read it");
            index.relocate(self.id, &[(again.header, *place)]).expect("it is applied");
        }
        let listed: BTreeMap<Seq, Place> = found.frames.iter().copied().collect();
        (1..=self.log.len() as u64)
            .map(|seq| {
                let seq = Seq(seq);
                let unsure = found.unsure_from.is_some_and(|from| from <= seq);
                let missing = unsure || found.missing.iter().any(|range| range.contains(&seq));
                let place = index.place(self.id, seq).unwrap().or_else(|| listed.get(&seq).copied());
                (seq, place.filter(|_| !missing))
            })
            .collect()
    }

    fn check(&self, seed: u64, volume: &Volume, state: &BTreeMap<Seq, Option<Place>>) {
        for (seq, place) in state {
            if let Some(place) = place {
                let read = volume.reader().read_expecting(*place, self.id, *seq);
                assert_eq!(read.ok().as_ref(), Some(&self.log[seq.0 as usize - 1].0), "seed {seed}: {seq}");
            }
        }
    }
}

#[test]
fn a_damaged_frame_is_quarantined_or_repaired_at_every_moment() {
    let (mut crashed, mut repaired, mut twice, mut rolled_back) = (0, 0, 0, 0);
    for seed in seeds(400) {
        let mut rng = Rng::seed_from_u64(seed);
        let applied = rng.random_range(4..12);
        let flushed = rng.random_range(0..=applied);
        let world = World::new(seed, &mut rng, applied, applied, flushed);
        let hit: Vec<u64> = (1..applied).filter(|_| rng.random_bool(0.3)).collect();
        for seq in &hit {
            world.damage(*seq, &mut rng, false);
        }
        // Found while the process runs: nothing of the index is lost yet.
        let (mut volume, _, index) = world.open().expect("a damaged volume opens");
        world.disk.crash_at(world.disk.ops() + rng.random_range(1..12));
        let again: Vec<Entry> =
            hit.iter().map(|seq| Entry::Moved(world.log[*seq as usize - 1].0.clone())).collect();
        let written = volume.write_round(&again);
        if let Ok(places) = &written {
            let moved: Vec<_> = hit
                .iter()
                .zip(places)
                .map(|(seq, place)| (world.log[*seq as usize - 1].0.header, place.expect("a frame's")))
                .collect();
            if rng.random_bool(0.7) {
                index.relocate(world.id, &moved).expect("all of them are applied");
                if rng.random_bool(0.5) {
                    index.flush().unwrap();
                }
            }
            // The log goes on after it.
            let (last, _) = world.log.last().expect("some");
            let next = frame(world.id, Seq(applied + 1), LogEpoch(1), last.header.chain, vec![1; 50]);
            let _ = volume.write_round(&[Entry::Frame(next)]).and_then(|_| volume.write_idle_round());
        } else {
            crashed += 1;
        }
        drop((volume, index));
        world.kv.crash();
        world
            .disk
            .lose_power([PowerLoss::Any, PowerLoss::Nothing, PowerLoss::Everything][rng.random_range(0..3)]);

        let (volume, recovered, index) = world.open().expect("a damaged volume opens");
        let mark = index.applied(world.id).unwrap().map_or(Seq::ZERO, |mark| mark.seq);
        rolled_back +=
            u64::from(mark < Seq(applied) && written.is_ok() && hit.iter().any(|seq| *seq > mark.0));
        let state = world.state(&volume, &recovered, &index);
        world.check(seed, &volume, &state);
        for seq in 1..=applied {
            let is_damaged = hit.contains(&seq);
            let place = state[&Seq(seq)];
            if written.is_ok() || !is_damaged {
                assert!(place.is_some(), "seed {seed}: {seq} is quarantined: {:?}", recovered.shards);
                repaired += u64::from(is_damaged);
            }
        }
        // The repaired place is hit as well, and repaired in its turn.
        if let (Ok(_), Some(seq)) = (&written, hit.first()) {
            let place = state[&Seq(*seq)].expect("checked above");
            world.disk.flip(&file_name(place.file), place.at + FRAME_HEADER_BYTES as u64 + 1, 4);
            drop((volume, index));
            let (mut volume, recovered, index) = world.open().expect("a damaged volume opens");
            let state = world.state(&volume, &recovered, &index);
            if state[&Seq(*seq)].is_none() {
                twice += 1;
                let whole = world.log[*seq as usize - 1].0.clone();
                volume.write_round(&[Entry::Moved(whole)]).expect("a disk that works");
                drop((volume, index));
                let (volume, recovered, index) = world.open().expect("a damaged volume opens");
                let state = world.state(&volume, &recovered, &index);
                assert!(state[&Seq(*seq)].is_some(), "seed {seed}");
                world.check(seed, &volume, &state);
            }
        }
    }
    println!("crashed {crashed}, repaired {repaired}, twice {twice}, rolled back {rolled_back}");
    if std::env::var("MERIDIAN_SEED").is_err() {
        assert!([crashed, repaired, twice, rolled_back].iter().all(|count| *count > 20));
    }
}

#[test]
fn rounds_that_are_gone_are_filled_from_what_was_stored_again() {
    for seed in 1..20 {
        let mut rng = Rng::seed_from_u64(seed);
        let world = World::new(seed, &mut rng, 10, 10, 10);
        for seq in [4, 5, 9] {
            world.damage(seq, &mut rng, true);
        }
        let (mut volume, recovered, _) = world.open().expect("a damaged volume opens");
        let found = &recovered.shards[&world.id];
        assert_eq!(found.missing, [Seq(4)..=Seq(5), Seq(9)..=Seq(9)], "seed {seed}");
        let again = [4, 5, 9].map(|seq| Entry::Moved(world.log[seq - 1].0.clone()));
        volume.write_round(&again).expect("a disk that works");
        let (_, recovered, _) = world.open().expect("a damaged volume opens");
        let found = &recovered.shards[&world.id];
        assert!(found.missing.is_empty() && found.unsure_from.is_none(), "seed {seed}: {found:?}");
        // An index that is made anew replays all of it.
        let (volume, recovered) = Volume::open(world.disk.clone(), CONFIG, &|_| Seq::ZERO).expect("a volume");
        let found = &recovered.shards[&world.id];
        let seqs: Vec<u64> = found.frames.iter().map(|(seq, _)| seq.0).collect();
        assert_eq!(seqs, (1..=10).collect::<Vec<_>>(), "seed {seed}");
        for (seq, place) in &found.frames {
            let read = volume.reader().read_expecting(*place, world.id, *seq).expect("a frame");
            assert_eq!(read, world.log[seq.0 as usize - 1].0, "seed {seed}");
        }
    }
}

#[test]
fn a_cut_drops_what_was_stored_again_above_it() {
    let mut rng = Rng::seed_from_u64(1);
    let world = World::new(1, &mut rng, 6, 6, 2);
    world.damage(5, &mut rng, false);
    let (mut volume, _, _) = world.open().expect("a damaged volume opens");
    volume.write_round(&[Entry::Moved(world.log[4].0.clone())]).unwrap();
    volume.write_round(&[Entry::Cut { shard: world.id, from: Seq(4) }]).unwrap();
    world.kv.crash();
    let (_, recovered, _) = world.open().expect("a damaged volume opens");
    let found = &recovered.shards[&world.id];
    assert_eq!(found.frames.iter().map(|(seq, _)| seq.0).collect::<Vec<_>>(), [3]);
    assert!(found.missing.is_empty() && found.moved.is_empty(), "{found:?}");
}

#[test]
fn a_doubt_answers_for_the_damage_before_it_and_stands_until_it_is_over() {
    for (seed, hides) in [(1, false), (2, true), (3, false), (4, true)] {
        let mut rng = Rng::seed_from_u64(seed);
        let world = World::new(seed, &mut rng, 10, 6, 6);
        world.damage(8, &mut rng, hides);
        // The last round too: what it held is not known, and may have been anything.
        world.damage(10, &mut rng, true);
        let (mut volume, recovered, _) = world.open().expect("a damaged volume opens");
        let found = &recovered.shards[&world.id];
        assert!(found.missing.contains(&(Seq(8)..=Seq(8))) && found.unsure_from.is_some(), "{found:?}");

        let doubt = |from| Entry::Doubt { shard: world.id, from };
        volume.write_round(&[doubt(Some(Seq(8))), Entry::Cut { shard: world.id, from: Seq(8) }]).unwrap();
        let (mut volume, recovered, _) = world.open().expect("a damaged volume opens");
        let found = &recovered.shards[&world.id];
        assert_eq!((found.doubt, found.unsure_from), (Some(Seq(8)), None), "seed {seed}");
        assert_eq!(found.last.map(|last| last.seq), Some(Seq(7)), "seed {seed}");
        assert!(found.missing.is_empty(), "seed {seed}: {found:?}");

        // Followed anew: another history from there on.
        let next = frame(world.id, Seq(8), LogEpoch(2), world.log[6].0.header.chain, vec![9; 40]);
        volume.write_round(&[doubt(Some(Seq(8))), Entry::Frame(next.clone())]).unwrap();
        let (mut volume, recovered, _) = world.open().expect("a damaged volume opens");
        let found = &recovered.shards[&world.id];
        assert_eq!((found.doubt, found.last), (Some(Seq(8)), Some(next.header)), "seed {seed}");
        volume.write_round(&[doubt(None)]).unwrap();
        let (_, recovered, _) = world.open().expect("a damaged volume opens");
        let found = &recovered.shards[&world.id];
        assert_eq!((found.doubt, found.unsure_from), (None, None), "seed {seed}");
        assert!(found.missing.is_empty(), "seed {seed}: {found:?}");
    }
}

#[test]
fn the_log_goes_on_after_what_is_applied_even_where_that_is_lost() {
    let mut rng = Rng::seed_from_u64(1);
    let world = World::new(1, &mut rng, 8, 8, 8);
    for seq in 6..=8 {
        world.damage(seq, &mut rng, true);
    }
    let (mut volume, recovered, _) = world.open().expect("a damaged volume opens");
    assert_eq!(recovered.shards[&world.id].last.map(|last| last.seq), Some(Seq(5)));
    let next = frame(world.id, Seq(9), LogEpoch(1), world.log[7].0.header.chain, vec![9; 40]);
    let doubt = Entry::Doubt { shard: world.id, from: Some(Seq(9)) };
    volume.write_round(&[doubt, Entry::Frame(next)]).expect("it follows what is applied");
    let (_, recovered, _) = world.open().expect("a damaged volume opens");
    let found = &recovered.shards[&world.id];
    assert_eq!(found.missing, [Seq(6)..=Seq(8)]);
    assert_eq!(found.last.map(|last| last.seq), Some(Seq(9)));
}
