//! Bits that flip and ends that vanish, in files of a node that runs or has ended.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rand::{Rng, RngExt as _};

use crate::trouble::{Context as _, Trouble};

/// Flips one bit at a chosen byte.
///
/// # Errors
/// The file has no such byte, or cannot be written.
pub fn flip_bit_at(path: &Path, at: u64, bit: u8) -> Result<(), Trouble> {
    let file = open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).context(path.display())?;
    file.write_all_at(&[byte[0] ^ (1 << (bit % 8))], at).context(path.display())?;
    file.sync_all().context(path.display())
}

/// Flips one bit anywhere in a file; gives where.
///
/// # Errors
/// As [`flip_bit_at`].
pub fn flip_bit(path: &Path, rng: &mut impl Rng) -> Result<u64, Trouble> {
    let len = open(path)?.metadata().context(path.display())?.len();
    if len == 0 {
        return Err(Trouble::tool(format!("{} is empty: it has no bit to flip", path.display())));
    }
    let at = rng.random_range(0..len);
    flip_bit_at(path, at, rng.random_range(0..8))?;
    Ok(at)
}

/// Cuts so many bytes off the end.
///
/// # Errors
/// It cannot be written.
pub fn cut_end(path: &Path, bytes: u64) -> Result<(), Trouble> {
    let file = open(path)?;
    let len = file.metadata().context(path.display())?.len();
    file.set_len(len.saturating_sub(bytes)).context(path.display())?;
    file.sync_all().context(path.display())
}

/// Where a folder's files hold these bytes.
///
/// # Errors
/// The folder cannot be read.
pub fn find_bytes(folder: &Path, bytes: &[u8]) -> Result<Vec<(PathBuf, u64)>, Trouble> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).context(folder.display())? {
        let path = entry.context(folder.display())?.path();
        // One that is being made has just got its name.
        let Ok(content) = std::fs::read(&path) else { continue };
        let hits = content.windows(bytes.len()).enumerate().filter(|(_, window)| *window == bytes);
        found.extend(hits.map(|(at, _)| (path.clone(), at as u64)));
    }
    Ok(found)
}

fn open(path: &Path) -> Result<File, Trouble> {
    OpenOptions::new().read(true).write(true).open(path).context(path.display())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn one_bit_changes_and_flips_back_and_an_end_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"some bytes of a frame").unwrap();
        let at = flip_bit(&path, &mut StdRng::seed_from_u64(3)).unwrap();
        let flipped = std::fs::read(&path).unwrap();
        let changed =
            flipped.iter().zip(b"some bytes of a frame").map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
        assert!(changed == 1 && at < 21);
        cut_end(&path, 6).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 15);
        assert_eq!(find_bytes(folder.path(), &flipped[5..9]).unwrap(), [(path, 5)]);
    }
}
