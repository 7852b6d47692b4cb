//! Frames that are read with what lies around them are the frames that are read alone.

mod common;

use std::sync::Arc;

use common::{Model, formatted, shard};
use meridian_storage::volume::file_name;
use meridian_storage::{Entry, Place, ReadError, SimDisk, Volume, VolumeConfig};
use meridian_types::{LogEpoch, Seq, ShardId};
use rand::rngs::Xoshiro256PlusPlus as Rng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

const CONFIG: VolumeConfig =
    VolumeConfig { file_bytes: 4 << 20, max_round_bytes: 1 << 20, stock: 1, reserve_bytes: 0 };

type Frames = Vec<(ShardId, Seq, Place)>;

/// Several files of frames of all sizes, the largest longer than a span.
fn volume(disk: &Arc<SimDisk>) -> (Volume, Frames) {
    let (mut volume, _) = Volume::open(disk.clone(), CONFIG, &|_| Seq::ZERO).unwrap();
    let mut rng = Rng::seed_from_u64(1);
    let (mut model, mut frames) = (Model::default(), Vec::new());
    for round in 0..60 {
        let most = [300, 20_000, 200_000, 1_500_000][round % 4];
        let payload = vec![rng.random(); rng.random_range(0..most)];
        let frame = model.next(shard(rng.random_range(0..3)), LogEpoch(1), payload);
        let (id, seq) = (frame.header.shard_id(), frame.header.seq);
        let entries = [Entry::Frame(frame)];
        let places = volume.write_round(&entries).unwrap();
        model.apply(&entries, Some(&places));
        frames.push((id, seq, places[0].unwrap()));
    }
    assert!(frames.last().unwrap().2.file > 3, "several files");
    (volume, frames)
}

#[test]
fn in_any_order_and_by_several_at_once() {
    let disk = formatted(1);
    let (volume, frames) = volume(&disk);
    let reader = volume.reader();
    let around = reader.around();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (reader, mut frames) = (reader.clone(), frames.clone());
            scope.spawn(move || {
                let mut among = reader.among();
                for turn in 0..4 {
                    if turn > 0 {
                        frames.shuffle(&mut Rng::seed_from_u64(thread * 10 + turn));
                    }
                    for &(id, seq, place) in &frames {
                        let alone = reader.read_expecting(place, id, seq).unwrap();
                        if seq.0 % 3 == thread {
                            reader.read_ahead();
                            among = reader.among();
                        }
                        assert_eq!(among.read(place, id, seq).unwrap(), alone);
                        assert!(turn > 0 || place.at / around > 14 || reader.around_held() > 0);
                    }
                    reader.forget_unused();
                }
            });
        }
    });
    for &(id, seq, place) in &frames {
        let other = reader.among().read(place, id, seq.next());
        assert!(matches!(other, Err(ReadError::Other { .. })), "{other:?}");
        let beyond = Place { file: place.file + 99, ..place };
        assert!(matches!(reader.among().read(beyond, id, seq), Err(ReadError::Outside(_))));
    }
}

#[test]
fn what_is_damaged_is_found_and_what_is_beside_it_is_read() {
    let disk = formatted(2);
    let (volume, frames) = volume(&disk);
    let reader = volume.reader();
    let (_, _, hurt) = frames[1];
    assert!(disk.flip(&file_name(hurt.file), hurt.at + u64::from(hurt.len) - 1, 4));
    for (number, &(id, seq, place)) in frames.iter().enumerate() {
        let read = reader.among().read(place, id, seq);
        assert_eq!(read.is_err(), number == 1, "{read:?}");
    }
    // What is read from memory was on the disk; and it is not kept where nobody reads.
    let (id, seq, place) = frames[0];
    assert!(reader.among().read(place, id, seq).is_ok());
    assert!(disk.flip(&file_name(place.file), place.at + 40, 4));
    assert!(reader.read_expecting(place, id, seq).is_err());
    assert!(reader.among().read(place, id, seq).is_ok(), "from memory");
    reader.forget_unused();
    assert!(reader.around_held() > 0, "it was used");
    reader.forget_unused();
    assert_eq!(reader.around_held(), 0);
    assert!(reader.among().read(place, id, seq).is_err());
}

#[test]
fn what_is_not_synced_yet_is_not_held() {
    let disk = formatted(3);
    let (mut volume, _) = Volume::open(disk, CONFIG, &|_| Seq::ZERO).unwrap();
    let reader = volume.reader();
    let mut model = Model::default();
    for _ in 0..40 {
        let frame = model.next(shard(0), LogEpoch(1), vec![7; 60_000]);
        let seq = frame.header.seq;
        let entries = [Entry::Frame(frame.clone())];
        let places = volume.write_round(&entries).unwrap();
        model.apply(&entries, Some(&places));
        // The span that it is in is not full: were it kept, the next frames would be missing from it.
        assert_eq!(reader.among().read(places[0].unwrap(), shard(0), seq).unwrap(), frame);
    }
}
