//! Compressed records back to records, never past a cap.
//!
//! What is allocated grows with what was really decompressed, and stops at the cap; what a stream claims about itself
//! moves nothing.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;
use lz4_flex::block::{DecompressError, decompress_into};
use lz4_flex::frame::FrameDecoder;
use zstd::stream::read::Decoder as ZstdDecoder;

use crate::compress::{LZ4_BLOCK, LZ4_HEADER, LZ4_STORED, XERIAL_HEADER};
use crate::{BatchError, Codec};

/// The window that `zstd -19` asks for, 8 MiB: the most that a stream may make the decoder set aside.
const ZSTD_WINDOW_LOG: u32 = 23;
/// The start of every LZ4 frame.
const LZ4_MAGIC: [u8; 4] = 0x184D_2204_u32.to_le_bytes();
/// The bits of an LZ4 frame's FLG byte for the version and for independent blocks.
const LZ4_VERSION_AND_INDEPENDENT: u8 = 0b1110_0000;
/// Version 01, independent blocks.
const LZ4_EXPECTED: u8 = 0b0110_0000;
/// More than snappy can ever expand: a copy of 64 bytes takes 3.
const SNAPPY_EXPANSION: usize = 22;

/// The records that `bytes` hold. `codec` is not [`Codec::None`].
pub(crate) fn decompress(codec: Codec, bytes: &[u8], cap: usize) -> Result<Vec<u8>, BatchError> {
    match codec {
        Codec::None => {
            debug_assert!(false, "nothing to decompress");
            Ok(bytes.to_vec())
        }
        Codec::Gzip => {
            let mut decoder = GzDecoder::new(bytes);
            let records = read_capped(codec, &mut decoder, bytes.len(), cap)?;
            no_tail(codec, decoder.into_inner(), records)
        }
        Codec::Snappy => snappy(bytes, cap),
        Codec::Lz4 => lz4(bytes, cap),
        Codec::Zstd => {
            let bad = |error: io::Error| invalid(codec, error);
            let mut decoder = ZstdDecoder::with_buffer(bytes).map_err(bad)?.single_frame();
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(bad)?;
            let records = read_capped(codec, &mut decoder, bytes.len(), cap)?;
            no_tail(codec, decoder.finish(), records)
        }
    }
}

fn invalid(codec: Codec, reason: impl ToString) -> BatchError {
    BatchError::Decompress { codec, reason: reason.to_string() }
}

fn no_tail(codec: Codec, rest: &[u8], records: Vec<u8>) -> Result<Vec<u8>, BatchError> {
    if rest.is_empty() { Ok(records) } else { Err(BatchError::CompressedTail { codec, bytes: rest.len() }) }
}

/// Reads to the end, or fails at the first byte past the cap.
fn read_capped(
    codec: Codec,
    decoder: &mut impl Read,
    compressed: usize,
    cap: usize,
) -> Result<Vec<u8>, BatchError> {
    let mut records = Vec::new();
    let mut filled = 0;
    // Most batches shrink to no less than a quarter, so most need one allocation.
    let mut room = compressed.saturating_mul(4).clamp(512, 1024 * 1024).min(cap);
    loop {
        if filled == records.len() {
            if filled == cap {
                break;
            }
            records.reserve_exact(room - filled);
            records.resize(room, 0);
            room = room.saturating_mul(2).min(cap);
        }
        match decoder.read(&mut records[filled..]) {
            Ok(0) => {
                records.truncate(filled);
                return Ok(records);
            }
            Ok(read) => filled += read,
            Err(error) => return Err(invalid(codec, error)),
        }
    }
    // At the cap: the stream must end here, and checks its own trailer as it does.
    match decoder.read(&mut [0]) {
        Ok(0) => Ok(records),
        Ok(_) => Err(BatchError::Uncompressed { limit: cap }),
        Err(error) => Err(invalid(codec, error)),
    }
}

fn snappy(bytes: &[u8], cap: usize) -> Result<Vec<u8>, BatchError> {
    let mut records = Vec::new();
    // Nothing in bare snappy begins so: it would start with a copy of what is not there yet.
    let Some(mut blocks) = bytes.strip_prefix(&XERIAL_HEADER) else {
        snappy_block(bytes, &mut records, cap)?;
        return Ok(records);
    };
    while !blocks.is_empty() {
        let cut_short = || invalid(Codec::Snappy, "cut short in a block");
        let (length, rest) = blocks.split_first_chunk().ok_or_else(cut_short)?;
        let length = u32::from_be_bytes(*length) as usize;
        let (block, rest) = rest.split_at_checked(length).ok_or_else(cut_short)?;
        snappy_block(block, &mut records, cap)?;
        blocks = rest;
    }
    Ok(records)
}

/// Appends one block of bare snappy.
fn snappy_block(block: &[u8], records: &mut Vec<u8>, cap: usize) -> Result<(), BatchError> {
    let claimed = snap::raw::decompress_len(block).map_err(|error| invalid(Codec::Snappy, error))?;
    let filled = records.len();
    if claimed > cap - filled {
        return Err(BatchError::Uncompressed { limit: cap });
    }
    // A block states its length, and snap wants the room for it: do not give it to one that cannot be telling the truth.
    if claimed > block.len().saturating_mul(SNAPPY_EXPANSION) {
        return Err(invalid(Codec::Snappy, format_args!("{} bytes cannot hold {claimed}", block.len())));
    }
    if records.capacity() - filled < claimed {
        let doubled = records.capacity().saturating_mul(2).min(cap);
        records.reserve_exact(doubled.max(filled + claimed) - filled);
    }
    records.resize(filled + claimed, 0);
    snap::raw::Decoder::new()
        .decompress(block, &mut records[filled..])
        .map_err(|error| invalid(Codec::Snappy, error))?;
    Ok(())
}

fn lz4(bytes: &[u8], cap: usize) -> Result<Vec<u8>, BatchError> {
    if let Some(blocks) = bytes.strip_prefix(&LZ4_HEADER) {
        return lz4_blocks(blocks, cap);
    }
    // Kafka reads this kind of frame and no other, so what Kafka could not read is not taken either: legacy frames,
    // skippable ones, and blocks that lean on others.
    let header = bytes.strip_prefix(&LZ4_MAGIC).and_then(|rest| rest.first());
    match header {
        Some(flg) if flg & LZ4_VERSION_AND_INDEPENDENT == LZ4_EXPECTED => {}
        Some(_) => return Err(invalid(Codec::Lz4, "not a version 1 frame of independent blocks")),
        None => return Err(invalid(Codec::Lz4, "no LZ4 frame begins here")),
    }
    let mut decoder = FrameDecoder::new(Whole { rest: bytes, starved: false });
    let records = read_capped(Codec::Lz4, &mut decoder, bytes.len(), cap)?;
    let Whole { rest, starved } = decoder.into_inner();
    // The decoder takes an end of input between two blocks for the end of the frame.
    if starved {
        return Err(invalid(Codec::Lz4, "cut short before its end mark"));
    }
    no_tail(Codec::Lz4, rest, records)
}

/// The rest of a frame that begins as ours and Kafka's do: blocks, and an end mark. Decompressed straight to where they
/// stay, which the library's decoder does not.
fn lz4_blocks(mut bytes: &[u8], cap: usize) -> Result<Vec<u8>, BatchError> {
    let cut_short = || invalid(Codec::Lz4, "cut short before its end mark");
    let mut records = Vec::new();
    // What is behind this is room that was cleared already.
    let mut filled = 0;
    loop {
        let (length, rest) = bytes.split_first_chunk().ok_or_else(cut_short)?;
        let length = u32::from_le_bytes(*length);
        if length == 0 {
            records.truncate(filled);
            return no_tail(Codec::Lz4, rest, records);
        }
        let (stored, length) = (length & LZ4_STORED != 0, (length & !LZ4_STORED) as usize);
        // A stored block of nothing is an end mark to Kafka, which would read less of the batch than we do.
        if length > LZ4_BLOCK || length == 0 {
            return Err(invalid(Codec::Lz4, format_args!("a block of {length} bytes")));
        }
        let (block, rest) = rest.split_at_checked(length).ok_or_else(cut_short)?;
        let room = LZ4_BLOCK.min(cap - filled);
        // Cleared once for all blocks: they may be many, and of a byte each.
        if records.len() < filled + room {
            if records.capacity() < filled + room {
                let doubled = records.capacity().saturating_mul(2).min(cap);
                records.reserve_exact(doubled.max(filled + room) - records.len());
            }
            records.resize(filled + room, 0);
        }
        if stored {
            if block.len() > room {
                return Err(BatchError::Uncompressed { limit: cap });
            }
            records[filled..filled + block.len()].copy_from_slice(block);
            filled += block.len();
        } else {
            let written =
                decompress_into(block, &mut records[filled..filled + room]).map_err(|error| match error {
                    DecompressError::OutputTooSmall { .. } if room < LZ4_BLOCK => {
                        BatchError::Uncompressed { limit: cap }
                    }
                    error => invalid(Codec::Lz4, error),
                })?;
            filled += written;
        }
        bytes = rest;
    }
}

/// Input that remembers whether more was asked of it than it had.
struct Whole<'a> {
    rest: &'a [u8],
    starved: bool,
}

impl Read for Whole<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let from = self.fill_buf()?;
        let read = from.len().min(to.len());
        to[..read].copy_from_slice(&from[..read]);
        self.consume(read);
        self.starved |= read == 0 && !to.is_empty();
        Ok(read)
    }
}

impl BufRead for Whole<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(self.rest)
    }

    fn consume(&mut self, read: usize) {
        self.rest = &self.rest[read..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(blocks: &[(u32, &[u8])]) -> Vec<u8> {
        let mut frame = LZ4_HEADER.to_vec();
        for (length, block) in blocks {
            frame.extend_from_slice(&length.to_le_bytes());
            frame.extend_from_slice(block);
        }
        frame
    }

    #[test]
    fn blocks_are_read_up_to_the_cap_and_their_end_mark() {
        let good = frame(&[(3 | LZ4_STORED, b"abc"), (2 | LZ4_STORED, b"de"), (0, b"")]);
        assert_eq!(lz4(&good, 5), Ok(b"abcde".to_vec()));
        assert_eq!(lz4(&good, 4), Err(BatchError::Uncompressed { limit: 4 }));
        for cut in LZ4_HEADER.len()..good.len() {
            assert!(matches!(lz4(&good[..cut], 5), Err(BatchError::Decompress { .. })), "{cut}");
        }
        let tail = [&good[..], b"x"].concat();
        assert_eq!(lz4(&tail, 5), Err(BatchError::CompressedTail { codec: Codec::Lz4, bytes: 1 }));
        let large = frame(&[(LZ4_BLOCK as u32 + 1, &[0; LZ4_BLOCK + 1])]);
        assert!(matches!(lz4(&large, 1 << 20), Err(BatchError::Decompress { .. })));
        // A compressed block that goes past the cap by one byte, and one that goes past its own limit.
        let zeros = |bytes| lz4_flex::block::compress(&vec![0; bytes]);
        let block = zeros(1000);
        let one = frame(&[(block.len() as u32, &block), (0, b"")]);
        assert_eq!(lz4(&one, 1000), Ok(vec![0; 1000]));
        assert_eq!(lz4(&one, 999), Err(BatchError::Uncompressed { limit: 999 }));
        let block = zeros(LZ4_BLOCK + 1);
        let beyond = frame(&[(block.len() as u32, &block), (0, b"")]);
        assert!(matches!(lz4(&beyond, 1 << 20), Err(BatchError::Decompress { .. })));
    }
}
