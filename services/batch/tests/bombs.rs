//! A gigabyte behind a few kilobytes: refused with the error that names the cap, and never held in memory.
//!
//! One test, alone in its process, because it watches the process's memory.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod common;

use std::io::{self, Read, Write};

use common::raw;
use meridian_batch::{BatchError, Codec, Limits, validate};

const GIB: u64 = 1 << 30;
const LIMITS: Limits = Limits::DEFAULT;
/// The records, the decoder's window, and what growing the one and reading the other takes.
const ALLOWED: u64 = 40 << 20;

fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// How much more memory than now this process holds at any time during `work`, in bytes.
fn peak_of(work: impl FnOnce()) -> u64 {
    // Sets the peak to what is held now (proc(5), clear_refs), or what was freed before would hide what comes.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS:");
    work();
    status("VmHWM:").saturating_sub(before)
}

fn zeros(to: &mut impl Write, bytes: u64) {
    io::copy(&mut io::repeat(0).take(bytes), to).unwrap();
}

fn gzip() -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zeros(&mut encoder, GIB);
    encoder.finish().unwrap()
}

fn lz4(block: lz4_flex::frame::BlockSize) -> Vec<u8> {
    let frame = lz4_flex::frame::FrameInfo::new().block_size(block);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, Vec::new());
    zeros(&mut encoder, GIB);
    encoder.finish().unwrap()
}

fn zstd() -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    zeros(&mut encoder, GIB);
    encoder.finish().unwrap()
}

/// Snappy shrinks to no less than a twentieth, so this is what fits a batch: 128 MiB.
fn snappy() -> Vec<u8> {
    let mut block = snap::raw::Encoder::new().compress_vec(&vec![0; 1 << 20]).unwrap();
    block.splice(..0, (block.len() as u32).to_be_bytes());
    [&b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01"[..], &block.repeat(128)].concat()
}

#[test]
fn bombs_and_lying_lengths_take_no_memory() {
    use lz4_flex::frame::BlockSize;
    let bombs = [
        (Codec::Gzip, gzip()),
        (Codec::Snappy, snappy()),
        (Codec::Lz4, lz4(BlockSize::Max4MB)),
        // As Kafka and we write it, which is read another way.
        (Codec::Lz4, lz4(BlockSize::Max64KB)),
        (Codec::Zstd, zstd()),
    ];
    let lies: [(Codec, &[u8]); 7] = [
        // A stored block of nothing: Kafka takes it for the end.
        (Codec::Lz4, b"\x04\x22\x4d\x18\x60\x40\x82\0\0\0\x80\0\0\0\0"),
        // Bare snappy of "4 GiB − 1", in six bytes and then with something behind it.
        (Codec::Snappy, b"\xff\xff\xff\xff\x0f\0"),
        (
            Codec::Snappy,
            b"\xff\xff\xff\xff\x0f\0aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        ),
        // A block of "4 GiB − 1", and one that says that it holds 7 MiB.
        (Codec::Snappy, b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\xff\xff\xff\xff\0"),
        (Codec::Snappy, b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\0\0\0\x05\x80\x80\xc0\x03\0"),
        // Zstandard with a window of 2 GiB, then a single segment of 2 TiB.
        (Codec::Zstd, b"\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00"),
        (Codec::Zstd, b"\x28\xb5\x2f\xfd\xe0\0\0\0\0\0\x02\0\0\x01\x00\x00"),
    ];
    let grown = peak_of(|| {
        for (codec, bomb) in &bombs {
            assert!(bomb.len() + 61 < LIMITS.batch_bytes, "{codec}: {} bytes", bomb.len());
            let batch = raw(i16::from(codec.id()), 1, bomb);
            let capped = BatchError::Uncompressed { limit: LIMITS.uncompressed_bytes };
            assert_eq!(validate(&batch, &LIMITS), Err(capped), "{codec}");
        }
    });
    assert!(grown < ALLOWED, "the bombs took {grown} bytes");

    let grown = peak_of(|| {
        for (codec, lie) in lies {
            let error = validate(&raw(i16::from(codec.id()), 1, lie), &LIMITS).unwrap_err();
            assert!(
                matches!(error, BatchError::Decompress { .. } | BatchError::Uncompressed { .. }),
                "{codec}: {error:?}"
            );
        }
        // Counts, sizes and lengths at their largest move nothing either.
        for records in [&[0xfe, 0xff, 0xff, 0xff, 0x0f][..], &[12, 0, 0, 0, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f]]
        {
            assert!(validate(&raw(0, LIMITS.events as i32, records), &LIMITS).is_err());
        }
    });
    assert!(grown < 1 << 20, "the lies took {grown} bytes");

    // That this measures what it says: held memory is seen.
    let grown = peak_of(|| assert!(vec![1u8; 64 << 20].iter().all(|byte| *byte == 1)));
    assert!(grown > ALLOWED, "64 MiB were held, {grown} bytes were seen");
}
