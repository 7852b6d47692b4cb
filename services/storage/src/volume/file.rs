//! A volume file's name and header block.
//!
//! The header block, little endian, one [`BLOCK`]; zeros between the fields and the CRC:
//!
//! | at | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | `MRDNFILE` |
//! | 8 | 4 | on-disk format version |
//! | 12 | 4 | reserved: zero |
//! | 16 | 8 | the file's number |
//! | 24 | 8 | its generation |
//! | 32 | 8 | the number of the first round in it |
//! | 40 | 8 | its length |
//! | 4092 | 4 | crc32c of bytes 0..4092, started from crc32c(secret) |

use crate::aligned::BLOCK;
use crate::identity::{DISK_FORMAT, Secret};

const MAGIC: &[u8; 8] = b"MRDNFILE";
const CRC_AT: usize = BLOCK - 4;

/// The first block of a volume file. It is synced before the file gets its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// The file's number: its identity in places.
    pub number: u64,
    /// Which use of these bytes this is: rounds of another generation are free space.
    pub generation: u64,
    /// The round that caused the roll. All before it were synced by then.
    pub first_round: u64,
    /// The file's length in bytes.
    pub len: u64,
}

/// Why a block is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileHeaderError {
    /// Its CRC fails.
    Damaged,
    /// Written by a newer version of Meridian.
    Newer(u32),
}

impl FileHeader {
    /// The block's bytes.
    pub fn encode(&self, secret: &Secret) -> [u8; BLOCK] {
        let mut block = [0u8; BLOCK];
        block[..8].copy_from_slice(MAGIC);
        block[8..12].copy_from_slice(&DISK_FORMAT.to_le_bytes());
        block[16..24].copy_from_slice(&self.number.to_le_bytes());
        block[24..32].copy_from_slice(&self.generation.to_le_bytes());
        block[32..40].copy_from_slice(&self.first_round.to_le_bytes());
        block[40..48].copy_from_slice(&self.len.to_le_bytes());
        let crc = crc(secret, &block[..CRC_AT]);
        block[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        block
    }

    /// Reads a header block.
    pub fn decode(bytes: &[u8], secret: &Secret) -> Result<Self, FileHeaderError> {
        let block = bytes.first_chunk::<BLOCK>().ok_or(FileHeaderError::Damaged)?;
        let u64_at = |at: usize| block[at..at + 8].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
        let u32_at = |at: usize| (u64_at(at) & 0xffff_ffff) as u32;
        let stored =
            u32::from_le_bytes([block[CRC_AT], block[CRC_AT + 1], block[CRC_AT + 2], block[CRC_AT + 3]]);
        if block[..8] != *MAGIC || crc(secret, &block[..CRC_AT]) != stored {
            return Err(FileHeaderError::Damaged);
        }
        match u32_at(8) {
            DISK_FORMAT => Ok(Self {
                number: u64_at(16),
                generation: u64_at(24),
                first_round: u64_at(32),
                len: u64_at(40),
            }),
            newer => Err(FileHeaderError::Newer(newer)),
        }
    }
}

fn crc(secret: &Secret, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&secret.0), bytes)
}

/// The name of a volume file.
pub fn file_name(number: u64) -> String {
    format!("volume-{number:016x}.rounds")
}

/// The number in a volume file's name; `None` for other files.
pub fn file_number(name: &str) -> Option<u64> {
    let hex = name.strip_prefix("volume-")?.strip_suffix(".rounds")?;
    if hex.len() != 16 {
        return None;
    }
    u64::from_str_radix(hex, 16).ok().filter(|number| file_name(*number) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_are_not_ours() {
        for number in [1, 0xabc, u64::MAX] {
            assert_eq!(file_number(&file_name(number)), Some(number));
        }
        for name in ["volume-1.rounds", "volume.meta", "volume-+00000000000000a.rounds", "stock-1"] {
            assert_eq!(file_number(name), None, "{name}");
        }
    }
}
