//! Records to compressed records, as Kafka's Java client writes them.

use std::io::{self, Write};

use flate2::write::GzEncoder;
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

use crate::{BatchError, Codec};

/// What the Java snappy library writes first: a magic, version 1, compatible with version 1.
pub(crate) const XERIAL_HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
/// How much it puts into a block.
const XERIAL_BLOCK: usize = 32 * 1024;
/// What `zstd` and Kafka use unless told otherwise.
const ZSTD_LEVEL: i32 = 3;

/// `records`, compressed. `codec` is not [`Codec::None`].
pub(crate) fn compress(codec: Codec, records: &[u8]) -> Result<Vec<u8>, BatchError> {
    let compressed = match codec {
        Codec::None => Ok(records.to_vec()),
        Codec::Gzip => gzip(records),
        Codec::Snappy => snappy(records),
        Codec::Lz4 => lz4(records),
        Codec::Zstd => zstd::bulk::compress(records, ZSTD_LEVEL),
    };
    compressed.map_err(|error| BatchError::Compress { codec, reason: error.to_string() })
}

fn gzip(records: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(records)?;
    encoder.finish()
}

fn snappy(records: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = snap::raw::Encoder::new();
    let mut compressed = XERIAL_HEADER.to_vec();
    for block in records.chunks(XERIAL_BLOCK) {
        let block = encoder.compress_vec(block)?;
        compressed.extend_from_slice(&(block.len() as u32).to_be_bytes());
        compressed.extend_from_slice(&block);
    }
    Ok(compressed)
}

fn lz4(records: &[u8]) -> io::Result<Vec<u8>> {
    let frame = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(frame, Vec::new());
    encoder.write_all(records)?;
    Ok(encoder.finish()?)
}
