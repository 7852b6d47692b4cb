//! Records to compressed records, as Kafka's Java client writes them.

use std::io::{self, Write};

use flate2::write::GzEncoder;
use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};

use crate::{BatchError, Codec};

/// What the Java snappy library writes first: a magic, version 1, compatible with version 1.
pub(crate) const XERIAL_HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
/// How much it puts into a block.
const XERIAL_BLOCK: usize = 32 * 1024;
/// What `zstd` and Kafka use unless told otherwise.
const ZSTD_LEVEL: i32 = 3;

/// How an LZ4 frame of independent blocks of at most 64 KiB begins, without checksums of its content: magic, FLG, BD, and
/// the checksum of these two.
pub(crate) const LZ4_HEADER: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
/// How much goes into a block, at most.
pub(crate) const LZ4_BLOCK: usize = 64 * 1024;
/// The bit of a block's length that says that the block is not compressed.
pub(crate) const LZ4_STORED: u32 = 1 << 31;
/// Records beyond this are compressed only if a sample of them is worth it.
const SAMPLED_BEYOND: usize = 16 * 1024;
/// A sample is so many pieces of this size, evenly spread: of many small records it has several, and what repeats from one
/// to the next; and no single large one decides for the others.
const SAMPLE: (usize, usize) = (4, 1024);

/// Room for `header` bytes, and after it `records`, compressed; none if that is not worth it. The same records always
/// come to the same.
pub(crate) fn compress_after(
    header: usize,
    codec: Codec,
    records: &[u8],
) -> Result<Option<Vec<u8>>, BatchError> {
    if codec == Codec::None || records.len() > SAMPLED_BEYOND && !is_worth_it(codec, &sample(records))? {
        return Ok(None);
    }
    let mut compressed = vec![0; header];
    compress(codec, records, &mut compressed)?;
    if !is_smaller(compressed.len() - header, records.len()) {
        return Ok(None);
    }
    compressed.shrink_to_fit();
    Ok(Some(compressed))
}

fn is_worth_it(codec: Codec, sample: &[u8]) -> Result<bool, BatchError> {
    let mut compressed = Vec::new();
    compress(codec, sample, &mut compressed)?;
    Ok(is_smaller(compressed.len(), sample.len()))
}

/// Whether at least a sixteenth is saved: with less, time is lost at each end for nothing.
const fn is_smaller(compressed: usize, records: usize) -> bool {
    compressed <= records - records.div_ceil(16)
}

fn sample(records: &[u8]) -> Vec<u8> {
    let (pieces, bytes) = SAMPLE;
    let stride = records.len() / pieces;
    let mut sample = Vec::with_capacity(pieces * bytes);
    for piece in 0..pieces {
        // From the middle of each quarter: a batch begins and ends like any other, but its first record may be another.
        let at = piece * stride + (stride - bytes) / 2;
        sample.extend_from_slice(&records[at..at + bytes]);
    }
    sample
}

/// Appends `records`, compressed. `codec` is not [`Codec::None`].
fn compress(codec: Codec, records: &[u8], to: &mut Vec<u8>) -> Result<(), BatchError> {
    let compressed = match codec {
        Codec::None => to.write_all(records),
        Codec::Gzip => gzip(records, to),
        Codec::Snappy => snappy(records, to),
        Codec::Lz4 => lz4(records, to),
        Codec::Zstd => zstd::bulk::compress(records, ZSTD_LEVEL).map(|bytes| to.extend_from_slice(&bytes)),
    };
    compressed.map_err(|error| BatchError::Compress { codec, reason: error.to_string() })
}

fn gzip(records: &[u8], to: &mut Vec<u8>) -> io::Result<()> {
    let mut encoder = GzEncoder::new(to, flate2::Compression::default());
    encoder.write_all(records)?;
    encoder.finish().map(|_| ())
}

fn snappy(records: &[u8], to: &mut Vec<u8>) -> io::Result<()> {
    let mut encoder = snap::raw::Encoder::new();
    to.extend_from_slice(&XERIAL_HEADER);
    for block in records.chunks(XERIAL_BLOCK) {
        let block = encoder.compress_vec(block)?;
        to.extend_from_slice(&(block.len() as u32).to_be_bytes());
        to.extend_from_slice(&block);
    }
    Ok(())
}

/// One frame, made by hand: the library's encoder copies what it is given, and what it makes of it, once more.
fn lz4(records: &[u8], to: &mut Vec<u8>) -> io::Result<()> {
    let mut table = CompressTable::default();
    to.extend_from_slice(&LZ4_HEADER);
    for block in records.chunks(LZ4_BLOCK) {
        let length_at = to.len();
        let block_at = length_at + 4;
        to.resize(block_at + get_maximum_output_size(block.len()), 0);
        let compressed =
            compress_into_with_table(block, &mut to[block_at..], &mut table).map_err(io::Error::other)?;
        let length = if compressed < block.len() {
            to.truncate(block_at + compressed);
            compressed as u32
        } else {
            to.truncate(block_at);
            to.extend_from_slice(block);
            block.len() as u32 | LZ4_STORED
        };
        to[length_at..block_at].copy_from_slice(&length.to_le_bytes());
    }
    to.extend_from_slice(&[0; 4]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;
    use crate::decompress::decompress;

    fn noise(bytes: usize) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        StdRng::seed_from_u64(7).fill_bytes(&mut noise);
        noise
    }

    fn text(bytes: usize) -> Vec<u8> {
        let line = br#"{"order":17,"state":"paid"}"#;
        line.iter().copied().cycle().take(bytes).collect()
    }

    #[test]
    fn what_is_compressed_comes_back_at_every_size_of_a_block() {
        for bytes in [1, 13, LZ4_BLOCK - 1, LZ4_BLOCK, LZ4_BLOCK + 1, 3 * LZ4_BLOCK + 5] {
            for records in [text(bytes), noise(bytes), [text(bytes), noise(bytes)].concat()] {
                for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
                    let mut compressed = Vec::new();
                    compress(codec, &records, &mut compressed).unwrap();
                    assert_eq!(decompress(codec, &compressed, 1 << 20).unwrap(), records, "{codec} {bytes}");
                }
            }
        }
    }

    #[test]
    fn a_frame_made_by_hand_is_the_librarys() {
        use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
        let info = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(&noise(100)).unwrap();
        let mut ours = Vec::new();
        lz4(&noise(100), &mut ours).unwrap();
        assert_eq!(encoder.finish().unwrap(), ours);
    }

    #[test]
    fn records_that_do_not_compress_are_left_and_others_are_not() {
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            for bytes in [100, SAMPLED_BEYOND, SAMPLED_BEYOND + 1, 200_000] {
                assert_eq!(compress_after(61, codec, &noise(bytes)), Ok(None), "{codec} {bytes}");
            }
            for bytes in [600, SAMPLED_BEYOND, SAMPLED_BEYOND + 1, 200_000] {
                let compressed = compress_after(61, codec, &text(bytes)).unwrap().unwrap();
                assert_eq!(compressed[..61], [0; 61]);
                assert_eq!(decompress(codec, &compressed[61..], 1 << 20).unwrap(), text(bytes));
            }
        }
        assert_eq!(compress_after(61, Codec::None, &text(600)), Ok(None));
    }

    #[test]
    fn a_large_record_that_does_not_compress_does_not_decide_for_the_rest() {
        let records = [text(60_000), noise(30_000), text(60_000)].concat();
        assert!(compress_after(61, Codec::Lz4, &records).unwrap().is_some());
    }
}
