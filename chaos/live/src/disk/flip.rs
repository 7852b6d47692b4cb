//! Bits that flip and ends that vanish, in files of a node that runs or has ended.

use std::collections::BTreeMap;
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

/// Where a folder's files hold words that begin like this and end with a space.
///
/// # Errors
/// The folder cannot be read.
pub fn find_words(folder: &Path, beginning: &[u8]) -> Result<Words, Trouble> {
    let mut found = Words::new();
    for entry in std::fs::read_dir(folder).context(folder.display())? {
        let path = entry.context(folder.display())?.path();
        // One that is being made has just got its name.
        let Ok(content) = std::fs::read(&path) else { continue };
        for (at, _) in content.windows(beginning.len()).enumerate().filter(|(_, window)| *window == beginning)
        {
            let rest = content[at..].split(|byte| *byte == b' ').next().unwrap_or_default();
            let word = rest.get(..LONGEST_WORD.min(rest.len())).map(String::from_utf8_lossy);
            let places = found.entry(word.unwrap_or_default().into_owned()).or_default();
            places.push((path.clone(), at as u64));
        }
    }
    Ok(found)
}

/// Words, and where they are.
pub type Words = BTreeMap<String, Vec<(PathBuf, u64)>>;

const LONGEST_WORD: usize = 64;

/// Overwrites so many bytes with others.
///
/// # Errors
/// It cannot be written.
pub fn garble(path: &Path, at: u64, bytes: usize, rng: &mut impl Rng) -> Result<(), Trouble> {
    let file = open(path)?;
    let mut other = vec![0; bytes];
    rng.fill(&mut other[..]);
    file.write_all_at(&other, at).context(path.display())?;
    file.sync_all().context(path.display())
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
        std::fs::write(&path, b"xx us/0/1 us/0/22 us/1/3 us/0/1 us/0/").unwrap();
        let words = find_words(folder.path(), b"us/0/").unwrap();
        let places = |word: &str| words[word].iter().map(|(_, at)| *at).collect::<Vec<_>>();
        assert_eq!((places("us/0/1"), places("us/0/22"), words.len()), (vec![3, 25], vec![10], 3));
        garble(&path, 4, 9, &mut StdRng::seed_from_u64(3)).unwrap();
        let garbled = std::fs::read(&path).unwrap();
        assert_eq!((&garbled[..4], &garbled[13..17]), (&b"xx u"[..], &b"0/22"[..]));
    }
}
