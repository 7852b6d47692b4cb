//! The formats on disk, byte by byte: `golden/*.hex`. A change of any of them is a change of version.
//!
//! `MERIDIAN_GOLDEN=write` writes them anew.

mod common;

use std::fmt::Write as _;
use std::path::PathBuf;

use bytes::Bytes;
use common::{SECRET, fields, formatted, shard};
use meridian_storage::record::Record;
use meridian_storage::round::{RoundBuilder, RoundHeader, Seed};
use meridian_storage::volume::FileHeader;
use meridian_storage::{
    Chain, Entry, Frame, FrameHeader, FrameKind, Identity, Promise, Volume, VolumeConfig,
};
use meridian_types::{Boot, Hlc, LeaderEpoch, LogEpoch, Offset, Origin, Partition, Seq, StreamId, TenantId};

/// 32 bytes a line with their position; lines of zeros are left out; the length at the end.
fn to_hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    for (line, at) in bytes.chunks(32).zip((0..).step_by(32)) {
        if line.iter().any(|byte| *byte != 0) {
            let hex: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(out, "{at:06x}: {hex}").unwrap();
        }
    }
    writeln!(out, "length: {}", bytes.len()).unwrap();
    out
}

fn golden(name: &str, bytes: &[u8]) {
    // Cargo runs tests in their crate's folder; where they were compiled may be another checkout.
    let path = PathBuf::from(format!("golden/{name}.hex"));
    let found = to_hex(bytes);
    if std::env::var("MERIDIAN_GOLDEN").is_ok_and(|value| value == "write") {
        std::fs::write(&path, &found).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, wanted, "{name}: what is written has changed; old volumes could not be read");
}

fn sample(kind: FrameKind) -> Frame {
    let fields = FrameHeader {
        kind,
        origin: Origin::from_u32(0x0102_0304),
        shard: meridian_types::ShardNo(0x0506),
        seq: Seq(0x0708_090a_0b0c_0d0e),
        log_epoch: LogEpoch(0x0f10_1112),
        hlc: Hlc(0x1314_1516_1718_191a),
        tenant: TenantId(0x1b1c_1d1e),
        stream: StreamId(0x1f20_2122_2324_2526),
        partition: Partition(0x2728_292a),
        base_offset: Offset(0x2b2c_2d2e_2f30_3132),
        events: 0x3334_3536,
        payload_len: 0,
        payload_crc: 0,
        chain: Chain::GENESIS,
    };
    Frame::build(fields, Chain([0xee; 16]), Bytes::from(format!("the payload of {kind:?}")))
}

#[test]
fn frames_of_every_kind() {
    for kind in FrameKind::ALL {
        let frame = sample(kind);
        golden(&format!("frame_{kind:?}").to_lowercase(), &frame.to_bytes());
        assert_eq!(Frame::parse(frame.to_bytes()).unwrap(), frame);
        assert!(frame.follows(Chain([0xee; 16])) && !frame.follows(Chain::GENESIS));
    }
}

#[test]
fn records() {
    let promise =
        Promise { shard: shard(3), epoch: LeaderEpoch(0x0102_0304), boot: Boot(0x0506_0708_090a_0b0c) };
    let cut = Record::Cut { shard: shard(4), from: Seq(0x0d0e_0f10_1112_1314) };
    let moved = Record::Moved { shard: shard(5), seq: Seq(0x1516_1718_191a_1b1c) };
    let doubt = Record::Doubt { shard: shard(6), from: Some(Seq(0x1d1e_1f20_2122_2324)) };
    let all = [
        ("record_promise", Record::Promise(promise)),
        ("record_cut", cut),
        ("record_moved", moved),
        ("record_doubt", doubt),
        ("record_applied", Record::Applied { shard: shard(7), through: Seq(0x2526_2728_292a_2b2c) }),
        ("record_doubt_over", Record::Doubt { shard: shard(6), from: None }),
    ];
    for (name, record) in all {
        golden(name, &record.encode());
        assert_eq!(Record::decode(&record.encode()).unwrap(), record);
    }
}

#[test]
fn rounds() {
    let secret = Identity::read(&*formatted(1)).unwrap().secret;
    let mut round = RoundBuilder::new(4096);
    golden("round_empty", round.seal(&secret, 5, 6, 4096));
    round.push(&Entry::Promise(Promise { shard: shard(1), epoch: LeaderEpoch(2), boot: Boot(3) }));
    round.push(&Entry::Cut { shard: shard(1), from: Seq(1) });
    round.push(&Entry::Frame(Frame::build(
        fields(shard(1), Seq(1), LogEpoch(2)),
        Chain::GENESIS,
        Bytes::from_static(b"an event"),
    )));
    let bytes = round.seal(&secret, 5, 7, 8192);
    golden("round", bytes);
    let header = RoundHeader::decode(bytes, &secret, 5, 8192).unwrap();
    assert_eq!((header.number, header.entries, header.body_len), (7, 3, 32 + 32 + 88 + 8));
    assert_eq!(header.encode(Seed::new(&secret, 5)), bytes[..64]);
    assert!(RoundHeader::decode(bytes, &secret, 6, 8192).is_err(), "another generation");
    assert!(RoundHeader::decode(bytes, &secret, 5, 4096).is_err(), "another place");
}

#[test]
fn a_round_with_a_frame_stored_again() {
    let secret = Identity::read(&*formatted(1)).unwrap().secret;
    let mut round = RoundBuilder::new(4096);
    round.push(&Entry::Doubt { shard: shard(1), from: Some(Seq(9)) });
    let again =
        Frame::build(fields(shard(1), Seq(3), LogEpoch(2)), Chain([7; 16]), Bytes::from_static(b"again"));
    assert_eq!(round.push(&Entry::Moved(again)), 64 + 32 + 32, "the place is the frame's");
    let bytes = round.seal(&secret, 5, 7, 8192);
    golden("round_moved", bytes);
    let header = RoundHeader::decode(bytes, &secret, 5, 8192).unwrap();
    assert_eq!((header.entries, header.body_len), (2, 32 + 32 + 88 + 5));
}

#[test]
fn a_files_header() {
    let secret = Identity::read(&*formatted(1)).unwrap().secret;
    let header = FileHeader {
        number: 0x0102_0304_0506_0708,
        generation: 0x090a_0b0c_0d0e_0f10,
        first_round: 0x1112_1314_1516_1718,
        len: 0x191a_1b1c_1d1e_1f20,
    };
    golden("file_header", &header.encode(&secret));
    assert_eq!(FileHeader::decode(&header.encode(&secret), &secret), Ok(header));
}

/// A volume as a whole: names, and what is in the files.
#[test]
fn a_volume() {
    let disk = formatted(1);
    let config = VolumeConfig { file_bytes: 8 * 4096, max_round_bytes: 4096, stock: 0, reserve_bytes: 0 };
    assert_eq!(Identity::next_boot(&*disk).unwrap(), Boot(1));
    let (mut volume, _) = Volume::open(disk.clone(), config, &|_| Seq::ZERO).unwrap();
    let frame = Frame::build(fields(shard(0), Seq(1), LogEpoch(1)), Chain::GENESIS, Bytes::from_static(b"x"));
    volume.write_round(&[Entry::Frame(frame)]).unwrap();
    volume.write_idle_round().unwrap();
    let names = meridian_storage::Disk::list(&*disk).unwrap();
    assert_eq!(names, ["volume-0000000000000001.rounds", "volume.boot", "volume.made", "volume.meta"]);
    golden("volume", &disk.contents(&names[0]).unwrap());
    golden("boot", &disk.contents("volume.boot").unwrap());
    golden("meta", &disk.contents("volume.meta").unwrap());
    assert_eq!(volume.identity().secret, Identity::read(&*disk).unwrap().secret);
    assert!(!format!("{:?}", volume.identity()).contains("48"), "the secret {SECRET:?} is not shown");
}
