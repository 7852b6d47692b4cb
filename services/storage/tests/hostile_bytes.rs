//! Any bytes at all: no panic, and no flip that goes unnoticed.

mod common;

use bytes::Bytes;
use common::{fields, formatted, shard};
use meridian_storage::record::Record;
use meridian_storage::round::{RoundBuilder, RoundHeader, Seed};
use meridian_storage::volume::{FileHeader, file_name};
use meridian_storage::{Chain, Disk, Entry, Frame, FrameHeader, Identity, Promise, Volume, VolumeConfig};
use meridian_types::{Boot, LeaderEpoch, LogEpoch, Seq};
use proptest::collection::vec;
use proptest::prelude::*;

fn frames() -> impl Strategy<Value = Frame> {
    (any::<u16>(), any::<u64>(), any::<u32>(), any::<[u8; 16]>(), vec(any::<u8>(), 0..600)).prop_map(
        |(no, seq, epoch, prev, payload)| {
            Frame::build(fields(shard(no), Seq(seq), LogEpoch(epoch)), Chain(prev), Bytes::from(payload))
        },
    )
}

fn entries() -> impl Strategy<Value = Entry> {
    prop_oneof![
        frames().prop_map(Entry::Frame),
        (any::<u16>(), any::<u32>(), any::<u64>()).prop_map(|(no, epoch, boot)| {
            Entry::Promise(Promise { shard: shard(no), epoch: LeaderEpoch(epoch), boot: Boot(boot) })
        }),
        (any::<u16>(), any::<u64>()).prop_map(|(no, from)| Entry::Cut { shard: shard(no), from: Seq(from) }),
        frames().prop_map(Entry::Moved),
        (any::<u16>(), any::<u64>()).prop_map(|(no, from)| {
            Entry::Doubt { shard: shard(no), from: (from > 0).then_some(Seq(from)) }
        }),
        (any::<u16>(), any::<u64>())
            .prop_map(|(no, through)| Entry::Applied { shard: shard(no), through: Seq(through) }),
    ]
}

proptest! {
    // Failures are shrunk and shown; they are not written into the tree.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_no_panic(bytes in vec(any::<u8>(), 0..300), at in any::<u64>()) {
        let secret = Identity::read(&*formatted(1)).unwrap().secret;
        let _ = Frame::parse(Bytes::from(bytes.clone()));
        let _ = FrameHeader::decode(&bytes);
        let _ = Record::decode(&bytes);
        let _ = RoundHeader::decode_any(&bytes, &secret, at);
        let _ = FileHeader::decode(&bytes.repeat(20), &secret);
    }

    #[test]
    fn a_frame_is_itself_or_refused(frame in frames(), flip in any::<prop::sample::Index>(), bit in 0..8u8, cut in any::<prop::sample::Index>()) {
        let whole = frame.to_bytes();
        prop_assert_eq!(Frame::parse(whole.clone()).unwrap(), frame);
        let mut flipped = whole.to_vec();
        flipped[flip.index(whole.len())] ^= 1 << bit;
        prop_assert!(Frame::parse(Bytes::from(flipped)).is_err());
        prop_assert!(Frame::parse(whole.slice(..cut.index(whole.len()))).is_err());
        let mut longer = whole.to_vec();
        longer.push(0);
        prop_assert!(Frame::parse(Bytes::from(longer)).is_err());
    }

    #[test]
    fn a_flip_in_a_round_is_noticed(
        all in vec(entries(), 0..6),
        flip in any::<prop::sample::Index>(),
        bit in 0..8u8,
        number in any::<u64>(),
    ) {
        let secret = Identity::read(&*formatted(1)).unwrap().secret;
        let mut round = RoundBuilder::new(10);
        for entry in &all {
            round.push(entry);
        }
        let mut bytes = round.seal(&secret, 3, number, 4096).to_vec();
        prop_assert_eq!(bytes.len() as u64, round.padded_len());
        let covered = 64 + round.body_len();
        prop_assert!(bytes[covered..].iter().all(|byte| *byte == 0));
        let valid = |bytes: &[u8]| {
            RoundHeader::decode(bytes, &secret, 3, 4096)
                .is_ok_and(|header| Seed::new(&secret, 3).crc(&bytes[64..covered]) == header.body_crc)
        };
        prop_assert!(valid(&bytes));
        bytes[flip.index(covered)] ^= 1 << bit;
        prop_assert!(!valid(&bytes));
    }

    /// A volume into which anything was written opens, or says why not.
    #[test]
    fn a_volume_of_any_bytes_is_no_panic(
        garbage in vec((0..8u64, 0..4096u64, vec(any::<u8>(), 1..200)), 1..6),
        bodies in vec((vec(any::<u8>(), 0..300), any::<u32>()), 0..3),
    ) {
        let disk = formatted(1);
        let config = VolumeConfig { file_bytes: 8 * 4096, max_round_bytes: 4096, stock: 0, reserve_bytes: 0 };
        let (volume, _) = Volume::open(disk.clone(), config, &|_| Seq::ZERO).unwrap();
        let secret = volume.identity().secret;
        let (file, next) = (disk.open(&file_name(1)).unwrap(), volume.next_round());
        // Rounds with right CRCs and any bytes for entries, with any length.
        for (i, (body, len)) in bodies.iter().enumerate() {
            let at = (2 + i as u64) * 4096;
            let seed = Seed::new(&secret, 1);
            let body_len = if i == 0 { *len } else { body.len() as u32 };
            let header = RoundHeader {
                generation: 1, number: next + i as u64, at, body_len, entries: 1, body_crc: seed.crc(body),
            };
            file.write_at(&[&header.encode(seed)[..], body].concat(), at).unwrap();
        }
        let _ = Volume::open(disk.clone(), config, &|_| Seq::ZERO);
        for (block, at, bytes) in garbage {
            let at = (block * 4096 + at).min(8 * 4096 - bytes.len() as u64);
            file.write_at(&bytes, at).unwrap();
        }
        if let Ok((mut volume, _)) = Volume::open(disk.clone(), config, &|_| Seq::ZERO) {
            let written = volume.write_round(&[Entry::Cut { shard: shard(0), from: Seq(1) }]);
            prop_assert!(written.is_ok(), "{:?}", written);
        }
    }
}
