//! Damage to what was synced once: faults 4 and 6 (detection), and bytes that try to pass for what they are not.
//!
//! The law: after any damage, each frame that was acknowledged is there with its bytes, or reported as missing, or its
//! shard as unsure from there or before. Never is the log simply shorter, and never is something else served.

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{Model, SECRET, fields, formatted, frame, seeds, shard};
use meridian_storage::round::{RoundBuilder, RoundHeader, Seed};
use meridian_storage::volume::file_name;
use meridian_storage::{
    BLOCK, Chain, DamageKind, Disk, Entry, FRAME_HEADER_BYTES, Frame, Identity, PowerLoss, Promise,
    ReadError, Recovered, Secret, SimDisk, Volume, VolumeConfig, VolumeError, VolumeReader,
};
use meridian_types::{Boot, ClusterUuid, DiskUuid, LeaderEpoch, LogEpoch, NodeId, Seq, ShardId};
use rand::rngs::Xoshiro256PlusPlus as Rng;
use rand::{RngExt, SeedableRng};

const CONFIG: VolumeConfig =
    VolumeConfig { file_bytes: 16 * 4096, max_round_bytes: 4096, stock: 1, reserve_bytes: 0 };

fn open(disk: &Arc<SimDisk>) -> (Volume, Recovered) {
    Volume::open(disk.clone(), CONFIG, &|_| Seq::ZERO).expect("a damaged volume opens")
}

fn files(disk: &SimDisk) -> Vec<String> {
    disk.list().unwrap().into_iter().filter(|name| name.ends_with(".rounds")).collect()
}

fn secret() -> Secret {
    let disk = SimDisk::new(0);
    let (cluster, uuid) = (ClusterUuid::default(), DiskUuid::default());
    Identity::format_as(&disk, cluster, NodeId(1), uuid, SECRET).unwrap().secret
}

/// The rounds in a file, in order.
fn rounds(disk: &SimDisk, name: &str) -> Vec<RoundHeader> {
    let bytes = disk.contents(name).unwrap();
    let mut at = BLOCK;
    let mut found = Vec::new();
    while at < bytes.len() {
        let Ok(header) = RoundHeader::decode_any(&bytes[at..], &secret(), at as u64) else { break };
        at += header.padded_len() as usize;
        found.push(header);
    }
    found
}

/// A volume of several files with cuts and promises, an empty round at its end.
fn build(seed: u64, rng: &mut Rng) -> (Arc<SimDisk>, Model) {
    let disk = formatted(seed);
    let (mut volume, _) = open(&disk);
    let mut model = Model::default();
    let mut epoch = 1;
    for _ in 0..rng.random_range(8..30) {
        let mut round = Vec::new();
        for _ in 0..rng.random_range(1..5) {
            let id = shard(rng.random_range(0..3));
            let len = model.shards.get(&id).map_or(0, |log| log.len() as u64);
            let entry = match rng.random_range(0..12) {
                0 => Entry::Promise(Promise { shard: id, epoch: LeaderEpoch(epoch), boot: Boot(1) }),
                1 if len > 0 => {
                    epoch += 1;
                    Entry::Cut { shard: id, from: Seq(rng.random_range(1..=len)) }
                }
                _ => {
                    let payload = vec![rng.random(); rng.random_range(0..5000)];
                    Entry::Frame(model.next(id, LogEpoch(epoch), payload))
                }
            };
            model.apply(std::slice::from_ref(&entry), None);
            round.push(entry);
        }
        let places = volume.write_round(&round).unwrap();
        // The model knows the frames by now; give those that stand their places.
        for (entry, place) in round.iter().zip(places) {
            if let Entry::Frame(frame) = entry
                && let Some(log) = model.shards.get_mut(&frame.header.shard_id())
                && let Some(known) = log.iter_mut().find(|(known, _)| known == frame)
            {
                known.1 = place;
            }
        }
    }
    volume.write_idle_round().unwrap();
    (disk, model)
}

/// The law, for one recovery.
fn check(model: &Model, recovered: &Recovered, reader: &VolumeReader) -> Result<(), String> {
    for (id, promise) in &model.promises {
        if recovered.promises.get(id) != Some(promise) && !recovered.hidden {
            return Err(format!("{id}: its promise is gone and nothing said"));
        }
    }
    for (id, log) in &model.shards {
        let Some(found) = recovered.shards.get(id) else {
            if log.is_empty() || recovered.hidden {
                continue;
            }
            return Err(format!("{id} is gone and nothing said"));
        };
        let unsure = |seq: Seq| found.unsure_from.is_some_and(|from| from <= seq);
        for (frame, _) in log {
            let seq = frame.header.seq;
            let place = found.frames.iter().find(|(at, _)| *at == seq).map(|(_, place)| *place);
            let reported = found.missing.iter().any(|range| range.contains(&seq)) || unsure(seq);
            match place.map(|place| reader.read_expecting(place, *id, seq)) {
                Some(Ok(read)) if read == *frame => {}
                Some(Ok(_)) if unsure(seq) => {}
                None if reported => {}
                other => return Err(format!("{id}:{seq} of {}: {other:?} in {found:?}", log.len())),
            }
        }
        if let Some((seq, _)) = found.frames.iter().find(|(seq, _)| seq.0 > log.len() as u64 && !unsure(*seq))
        {
            return Err(format!("{id}:{seq} was cut and is back"));
        }
    }
    Ok(())
}

#[test]
fn damage_in_the_middle_is_reported_and_truncates_nothing() {
    let (mut in_payload, mut hidden, mut unsure, mut headers, mut lost_files, mut harmless) =
        (0, 0, 0, 0, 0, 0);
    for seed in seeds(3_000) {
        let mut rng = Rng::seed_from_u64(seed);
        let (disk, model) = build(seed, &mut rng);
        let names = files(&disk);
        let which = rng.random_range(0..names.len());
        let (name, is_last) = (&names[which], which + 1 == names.len());
        let in_file = rounds(&disk, name);
        let end = in_file.last().map_or(BLOCK as u64, |last| {
            // The last empty round has nothing after it to prove that it was ever there.
            if is_last { last.at } else { last.at + last.padded_len() }
        });
        let number = which as u64 + 1;
        let mut damaged_frame = None;
        match rng.random_range(0..10) {
            0 if !is_last => {
                disk.lose_file(name);
                lost_files += 1;
            }
            1 => {
                disk.flip(name, rng.random_range(0..48), 1 << rng.random_range(0..8));
                headers += 1;
            }
            2 | 3 if end > BLOCK as u64 => {
                let at = rng.random_range(1..end / BLOCK as u64) * BLOCK as u64;
                let blocks = rng.random_range(1..4).min((end - at) / BLOCK as u64);
                disk.zero(name, at, blocks * BLOCK as u64);
            }
            _ if end > BLOCK as u64 => {
                let at = rng.random_range(BLOCK as u64..end);
                disk.flip(name, at, 1 << rng.random_range(0..8));
                damaged_frame = model
                    .shards
                    .iter()
                    .flat_map(|(id, log)| log.iter().map(move |f| (*id, f)))
                    .find_map(|(id, (frame, place))| {
                        let place = (*place)?;
                        let payload = place.at + FRAME_HEADER_BYTES as u64..place.at + u64::from(place.len);
                        (place.file == number && payload.contains(&at)).then_some((id, frame.header.seq))
                    });
            }
            _ => continue,
        }
        disk.lose_power(PowerLoss::Nothing);
        let (mut volume, recovered) = open(&disk);
        let reader = volume.reader();
        check(&model, &recovered, &reader).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert_eq!(recovered.torn, None, "seed {seed}: damage was taken for a torn tail");
        hidden += u64::from(recovered.hidden);
        unsure += recovered.shards.values().filter(|shard| shard.unsure_from.is_some()).count();
        harmless += u64::from(recovered.damage.is_empty());
        if let Some((id, seq)) = damaged_frame {
            // Where the round's header is whole, exactly the damaged frame is lost.
            in_payload += 1;
            assert!(!recovered.hidden, "seed {seed}");
            assert!(
                matches!(&recovered.damage[..], [only] if matches!(
                    &only.what,
                    DamageKind::Round { frames, hidden: false, .. } if *frames == [(id, seq)]
                )),
                "seed {seed}: {:?}",
                recovered.damage
            );
            for (other, found) in &recovered.shards {
                let wanted: Vec<_> = (*other == id).then_some(seq..=seq).into_iter().collect();
                assert_eq!(found.missing, wanted, "seed {seed}: {other}");
                assert_eq!(found.unsure_from, None, "seed {seed}: {other}");
                assert_eq!(
                    found.last,
                    model.shards[other].last().map(|(frame, _)| frame.header),
                    "seed {seed}: {other}"
                );
            }
        }

        // The volume goes on, over a roll too, and says the same of the damage when it is opened again.
        let mut written: Vec<(ShardId, Frame)> = Vec::new();
        for _ in 0..8 {
            let id = shard(rng.random_range(0..3));
            let before = written.iter().rev().find(|(of, _)| *of == id).map(|(_, frame)| frame.header);
            let last = before.or_else(|| recovered.shards.get(&id).and_then(|found| found.last));
            let (seq, chain) = last.map_or((Seq(1), Chain::GENESIS), |last| (last.seq.next(), last.chain));
            let next = frame(id, seq, LogEpoch(1000), chain, vec![3; 3000]);
            volume.write_round(&[Entry::Frame(next.clone())]).unwrap();
            written.push((id, next));
        }
        disk.lose_power(PowerLoss::Any);
        let (volume, again) = open(&disk);
        let reader = volume.reader();
        for (id, frame) in written {
            let found = &again.shards[&id];
            let place = found.frames.iter().find(|(seq, _)| *seq == frame.header.seq);
            let read = place.map(|(seq, place)| reader.read_expecting(*place, id, *seq).unwrap());
            assert_eq!(read, Some(frame), "seed {seed}: written after the damage");
        }
        assert_eq!(again.damage, recovered.damage, "seed {seed}");
    }
    println!(
        "in payload {in_payload}, hidden {hidden}, unsure {unsure}, headers {headers}, files {lost_files}, \
         harmless {harmless}"
    );
    if std::env::var("MERIDIAN_SEED").is_err() {
        assert!([in_payload, hidden, headers, lost_files, harmless].iter().all(|count| *count > 50));
        assert!(unsure > 50);
    }
}

/// Fault 4: a damaged frame is never served, whichever of its bits flips.
#[test]
fn every_read_checks() {
    let disk = formatted(1);
    let (mut volume, _) = open(&disk);
    let first = frame(shard(0), Seq(1), LogEpoch(1), Chain::GENESIS, b"some bytes".to_vec());
    let place = volume.write_round(&[Entry::Frame(first.clone())]).unwrap()[0].unwrap();
    let reader = volume.reader();
    for byte in place.at..place.at + u64::from(place.len) {
        for bit in 0..8 {
            disk.flip(&file_name(1), byte, 1 << bit);
            assert!(matches!(reader.read(place), Err(ReadError::Damaged { .. })));
            assert!(matches!(reader.read_uncached(place), Err(ReadError::Damaged { .. })));
            assert!(matches!(reader.in_order().read(place), Err(ReadError::Damaged { .. })));
            disk.flip(&file_name(1), byte, 1 << bit);
        }
    }
    assert_eq!(reader.read_expecting(place, shard(0), Seq(1)).unwrap(), first);
    assert!(matches!(
        reader.read_expecting(place, shard(0), Seq(2)),
        Err(ReadError::Other { found_seq: Seq(1), .. })
    ));
    let mut outside = place;
    for (file, at, len) in
        [(2, place.at, place.len), (1, 0, 88), (1, place.at + 4096, 88), (1, u64::MAX - 8, 88)]
    {
        (outside.file, outside.at, outside.len) = (file, at, len);
        assert!(matches!(reader.read(outside), Err(ReadError::Outside(_))), "{outside:?}");
        assert!(matches!(reader.in_order().read(outside), Err(ReadError::Outside(_))), "{outside:?}");
    }
}

#[test]
fn frames_that_are_read_in_order_are_those_that_are_read_alone() {
    let disk = formatted(1);
    let (mut volume, _) = open(&disk);
    let mut places = Vec::new();
    let mut chain = Chain::GENESIS;
    // Over several files, of all sizes.
    for seq in 1..200 {
        let payload = vec![seq as u8; (seq as usize * 97) % 9000];
        let frame = frame(shard(0), Seq(seq), LogEpoch(1), chain, payload);
        chain = frame.header.chain;
        places.push(volume.write_round(&[Entry::Frame(frame)]).unwrap()[0].unwrap());
    }
    assert!(places.last().unwrap().file > places[0].file);
    let reader = volume.reader();
    let mut in_order = reader.in_order();
    for place in places.iter().chain(places.iter().rev()).chain(places.iter().step_by(7)) {
        assert_eq!(in_order.read(*place).unwrap(), reader.read(*place).unwrap());
    }
    // One that is damaged says so; those beside it are read all the same.
    let mut in_order = reader.in_order();
    disk.flip(&file_name(places[100].file), places[100].at + 3, 1);
    for (number, place) in places.iter().enumerate() {
        assert_eq!(in_order.read(*place).is_err(), number == 100, "{place:?}");
    }
}

/// What is applied was here: where a log begins above its first frame, and something is hidden, that is what is missing.
#[test]
fn the_hidden_beginning_of_an_applied_log_is_missing() {
    let disk = formatted(1);
    let (mut volume, _) = open(&disk);
    let first = frame(shard(0), Seq(1), LogEpoch(1), Chain::GENESIS, vec![1; 10]);
    let second = frame(shard(0), Seq(2), LogEpoch(1), first.header.chain, vec![2; 10]);
    let place = volume.write_round(&[Entry::Frame(first)]).unwrap()[0].unwrap();
    // Whoever wrote the doubt answers for the damage before it, but not for the damage that is yet to come.
    volume.write_round(&[Entry::Doubt { shard: shard(0), from: Some(Seq(1)) }]).unwrap();
    volume.write_round(&[Entry::Frame(second), Entry::Doubt { shard: shard(0), from: None }]).unwrap();
    drop(volume);
    // Its header, so that nobody can tell what it was.
    disk.flip(&file_name(1), place.at, 1);
    for applied in 0..=2 {
        let (_, recovered) = Volume::open(disk.clone(), CONFIG, &|_| Seq(applied)).unwrap();
        let missing = &recovered.shards[&shard(0)].missing;
        assert_eq!((recovered.hidden, missing), (true, &vec![Seq(1)..=Seq(1)]), "applied up to {applied}");
    }
}

/// Frames that follow a promise may be of earlier epochs, so that they do not tell of it.
#[test]
fn a_promise_that_may_be_hidden_is_told() {
    let disk = formatted(1);
    let (mut volume, _) = open(&disk);
    let promise =
        |epoch| Entry::Promise(Promise { shard: shard(0), epoch: LeaderEpoch(epoch), boot: Boot(1) });
    volume.write_round(&[promise(6)]).unwrap();
    let first = frame(shard(0), Seq(1), LogEpoch(3), Chain::GENESIS, vec![1; 10]);
    volume.write_round(&[Entry::Frame(first)]).unwrap();
    volume.write_idle_round().unwrap();
    let is_hidden = || open(&disk).1.shards[&shard(0)].promise_hidden;
    assert!(!is_hidden());
    let at = rounds(&disk, &file_name(1))[1].at;
    disk.flip(&file_name(1), at + 64, 1);
    assert!(is_hidden());
    open(&disk).0.write_round(&[Entry::Doubt { shard: shard(0), from: Some(Seq(2)) }]).unwrap();
    assert!(is_hidden(), "it may have been damaged after that");
    open(&disk).0.write_round(&[promise(6)]).unwrap();
    assert!(!is_hidden());
}

/// As a replica in doubt that has to give up more than it lost: what it is then given again is not missing.
#[test]
fn what_was_stored_again_below_a_doubt_is_not_missing() {
    let disk = formatted(1);
    let (mut volume, _) = open(&disk);
    let mut frames = vec![frame(shard(0), Seq(1), LogEpoch(1), Chain::GENESIS, vec![1; 10])];
    for (seq, epoch) in [(2, 1), (2, 2)] {
        frames.push(frame(
            shard(0),
            Seq(seq),
            LogEpoch(epoch),
            frames[0].header.chain,
            vec![epoch as u8; 10],
        ));
    }
    let doubt = |from| Entry::Doubt { shard: shard(0), from };
    let [first, second, other] = <[_; 3]>::try_from(frames).unwrap().map(Entry::Frame);
    volume.write_round(&[first, second, doubt(Some(Seq(3)))]).unwrap();
    volume.write_round(&[Entry::Cut { shard: shard(0), from: Seq(2) }]).unwrap();
    volume.write_round(&[doubt(Some(Seq(3))), other, doubt(None)]).unwrap();
    volume.write_idle_round().unwrap();
    drop(volume);
    let found = open(&disk).1.shards.remove(&shard(0)).unwrap();
    assert_eq!((found.end, found.missing, found.unsure_from, found.doubt), (Seq(2), vec![], None, None));
}

#[test]
fn an_applied_mark_is_kept_and_damage_hides_no_more_than_it() {
    let disk = formatted(1);
    let (mut volume, _) = open(&disk);
    let mut chain = Chain::GENESIS;
    for seq in 1..=3 {
        let next = frame(shard(0), Seq(seq), LogEpoch(1), chain, vec![1; 10]);
        chain = next.header.chain;
        let applied = Entry::Applied { shard: shard(0), through: Seq(seq - 1) };
        volume.write_round(&[Entry::Frame(next), applied]).unwrap();
    }
    volume.write_idle_round().unwrap();
    drop(volume);
    let marks = || {
        let found = open(&disk).1.shards.remove(&shard(0)).unwrap();
        (found.end, found.applied, found.unsure_from)
    };
    assert_eq!(marks(), (Seq(3), Seq(2), None));
    // The first round is of the start.
    let third = rounds(&disk, &file_name(1))[3].at;
    disk.flip(&file_name(1), third + 64, 1);
    assert_eq!(marks(), (Seq(2), Seq(1), Some(Seq(1))));
}

/// A doubt answers for the damage that its writer saw. What is damaged later shows by what the log was cut back to.
#[test]
fn damage_before_a_doubt_that_came_after_it_is_missing() {
    let disk = formatted(1);
    let (mut volume, _) = open(&disk);
    let first = frame(shard(0), Seq(1), LogEpoch(1), Chain::GENESIS, vec![1; 10]);
    let place = volume.write_round(&[Entry::Frame(first)]).unwrap()[0].unwrap();
    let doubt = |from| Entry::Doubt { shard: shard(0), from };
    volume.write_round(&[doubt(Some(Seq(1))), Entry::Cut { shard: shard(0), from: Seq(2) }]).unwrap();
    volume.write_round(&[doubt(None)]).unwrap();
    drop(volume);
    let (_, sound) = open(&disk);
    assert_eq!((sound.shards[&shard(0)].missing.len(), sound.shards[&shard(0)].unsure_from), (0, None));
    disk.flip(&file_name(1), place.at, 1);
    let (_, recovered) = open(&disk);
    assert_eq!(recovered.shards[&shard(0)].missing, [Seq(1)..=Seq(1)]);
}

/// The last round in a file as a payload that looks like rounds at the very positions where it will lie.
fn forged(secret: &Secret) -> Option<Seq> {
    let disk = formatted(1);
    let (mut volume, _) = open(&disk);
    let first = frame(shard(0), Seq(1), LogEpoch(1), Chain::GENESIS, vec![1; 10]);
    volume.write_round(&[Entry::Frame(first.clone())]).unwrap();
    // The next round starts at block 3; its payload 152 bytes on. From block 4 on the payload is a round of its own.
    let (at, number) = (4 * BLOCK as u64, volume.next_round() + 1);
    let mut inner = RoundBuilder::new(BLOCK);
    let fake =
        Frame::build(fields(shard(0), Seq(2), LogEpoch(9)), first.header.chain, Bytes::from_static(b"fake"));
    inner.push(&Entry::Frame(fake));
    let mut payload = vec![0; BLOCK - 152];
    payload.extend_from_slice(inner.seal(secret, 1, number, at));
    payload.extend_from_slice(&[0; 100]);
    let carrier = frame(shard(1), Seq(1), LogEpoch(1), Chain::GENESIS, payload);
    let place = volume.write_round(&[Entry::Frame(carrier)]).unwrap()[0].unwrap();
    assert_eq!(place.at, 3 * BLOCK as u64 + 64, "the test aims right");
    volume.write_idle_round().unwrap();
    disk.zero(&file_name(1), 3 * BLOCK as u64, 512);
    let (_, recovered) = open(&disk);
    assert!(recovered.hidden && recovered.torn.is_none());
    recovered.shards[&shard(0)].last.map(|last| last.seq)
}

#[test]
fn a_payload_never_passes_for_a_round() {
    let other = SimDisk::new(0);
    let (cluster, uuid) = (ClusterUuid::default(), DiskUuid::default());
    let other = Identity::format_as(&other, cluster, NodeId(1), uuid, *b"guessed by some1").unwrap().secret;
    assert_eq!(forged(&other), Some(Seq(1)));
    // With the volume's own secret it would: so it is the secret that keeps it out.
    assert_eq!(forged(&secret()), Some(Seq(2)));
}

#[test]
fn rounds_of_another_generation_are_free_space() {
    let disk = formatted(1);
    let (mut volume, _) = open(&disk);
    let first = frame(shard(0), Seq(1), LogEpoch(1), Chain::GENESIS, vec![1; 10]);
    volume.write_round(&[Entry::Frame(first.clone())]).unwrap();
    // What the file's next rounds would look like, had they been written in an earlier use of it.
    let mut stale = RoundBuilder::new(BLOCK);
    stale.push(&Entry::Frame(frame(shard(0), Seq(2), LogEpoch(1), first.header.chain, vec![2; 10])));
    let (number, at) = (volume.next_round(), 3 * BLOCK as u64);
    for (generation, last) in [(7, Seq(1)), (1, Seq(2))] {
        let bytes = stale.seal(&secret(), generation, number, at).to_vec();
        disk.open(&file_name(1)).unwrap().write_at(&bytes, at).unwrap();
        let (_, recovered) = open(&disk);
        assert_eq!(recovered.shards[&shard(0)].last.map(|l| l.seq), Some(last), "generation {generation}");
        assert!(recovered.damage.is_empty());
        disk.zero(&file_name(1), at, BLOCK as u64);
    }
}

#[test]
fn a_newer_version_is_refused_and_nothing_written() {
    let disk = formatted(1);
    let (mut volume, _) = open(&disk);
    volume.write_round(&[Entry::Cut { shard: shard(0), from: Seq(1) }]).unwrap();
    let at = 3 * BLOCK as u64;
    let seal = |mut header: [u8; 64]| {
        let crc = Seed::new(&secret(), 1).crc(&header[..60]);
        header[60..].copy_from_slice(&crc.to_le_bytes());
        header
    };
    // A newer round; and a round of this version with a record that is not known.
    let mut round = RoundBuilder::new(BLOCK);
    let mut newer_round = [0; 64];
    newer_round.copy_from_slice(&round.seal(&secret(), 1, volume.next_round(), at)[..64]);
    newer_round[4] = 2;
    let mut record = [0u8; 32];
    record[0] = 0x90;
    record[1] = 1;
    let crc = crc32c::crc32c(&record[..28]);
    record[28..].copy_from_slice(&crc.to_le_bytes());
    let mut unknown = RoundHeader {
        generation: 1,
        number: volume.next_round(),
        at,
        body_len: 32,
        entries: 1,
        body_crc: Seed::new(&secret(), 1).crc(&record),
    }
    .encode(Seed::new(&secret(), 1))
    .to_vec();
    unknown.extend_from_slice(&record);
    for bytes in [seal(newer_round).to_vec(), unknown] {
        disk.open(&file_name(1)).unwrap().write_at(&bytes, at).unwrap();
        let before: Vec<_> = disk.list().unwrap().iter().map(|name| disk.contents(name)).collect();
        let refused = Volume::open(disk.clone(), CONFIG, &|_| Seq::ZERO);
        assert!(matches!(refused, Err(VolumeError::Newer { .. })), "{refused:?}");
        let after: Vec<_> = disk.list().unwrap().iter().map(|name| disk.contents(name)).collect();
        assert!(before == after);
    }
}

#[test]
fn a_volume_whose_files_are_gone_is_not_a_new_one() {
    let disk = formatted(1);
    drop(open(&disk));
    for name in files(&disk) {
        disk.lose_file(&name);
    }
    let refused = Volume::open(disk.clone(), CONFIG, &|_| Seq::ZERO);
    assert!(matches!(refused, Err(VolumeError::Lost)), "{refused:?}");
    let refused = Volume::open(Arc::new(SimDisk::new(1)), CONFIG, &|_| Seq::ZERO);
    assert!(matches!(refused, Err(VolumeError::Identity(_))), "{refused:?}");
}

#[test]
fn a_full_disk_still_opens_and_serves() {
    let disk = formatted(1);
    let (mut volume, _) = open(&disk);
    let mut model = Model::default();
    disk.set_capacity(disk.used());
    let refused = loop {
        let entries = [Entry::Frame(model.next(shard(0), LogEpoch(1), vec![5; 3000]))];
        match volume.write_round(&entries) {
            Ok(places) => model.apply(&entries, Some(&places)),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, meridian_storage::WriteError::NoSpace));
    assert!(volume.is_full());
    for _ in 0..3 {
        disk.lose_power(PowerLoss::Nothing);
        let (volume, recovered) = open(&disk);
        assert_eq!(model.differs(&recovered, &volume.reader(), &|_| Seq::ZERO), None);
    }
    disk.set_capacity(u64::MAX);
    let (mut volume, _) = open(&disk);
    let entries = [Entry::Frame(model.next(shard(0), LogEpoch(1), vec![5; 3000]))];
    volume.write_round(&entries).unwrap();
    volume.prepare().unwrap();
    assert!(!volume.is_full());
}
