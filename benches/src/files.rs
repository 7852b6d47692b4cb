//! What the disk does without any bus: the limits that some rows are measured by, in turn with them.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::error::{BenchError, io};
use crate::record::Outcome;

const NAME: &str = "file";
const PIECE: usize = 1 << 20;
/// Read at once: more is no quicker.
const READ_PIECE: usize = 4 << 20;
const BLOCK: usize = 4096;
const O_DIRECT: i32 = rustix::fs::OFlags::DIRECT.bits() as i32;
/// Written with zeros before it is measured, and gone over again and again.
const APPENDED: usize = 256 << 20;

/// Writes blocks of so many bytes, one after the other, each followed by fdatasync, over a file of written zeros.
///
/// # Errors
/// The disk refuses.
pub async fn append(dir: &Path, bytes: usize, span: Duration) -> Result<Outcome, BenchError> {
    on_a_thread(dir, move |path| {
        write_file(path, APPENDED as u64, false)?;
        let file = OpenOptions::new().write(true).open(path)?;
        let block = noise(bytes);
        let (begun, mut blocks) = (Instant::now(), 0_usize);
        while begun.elapsed() < span {
            file.write_all_at(&block, (blocks * bytes % APPENDED) as u64)?;
            file.sync_data()?;
            blocks += 1;
        }
        let rate = blocks as f64 / begun.elapsed().as_secs_f64();
        let events = blocks as u64;
        Ok(Outcome { events, rate, bytes: rate * bytes as f64, ..Outcome::default() })
    })
    .await
}

/// Writes a file of so many bytes, makes the system forget it, and reads it once from the beginning to the end, past the page cache
/// where the file system lets: that is quicker.
///
/// # Errors
/// The disk refuses.
pub async fn read_once(dir: &Path, bytes: u64) -> Result<Outcome, BenchError> {
    on_a_thread(dir, move |path| {
        write_file(path, bytes, true)?;
        let note = forget_cached();
        let past_the_cache = OpenOptions::new().read(true).custom_flags(O_DIRECT).open(path);
        let mut file = past_the_cache.or_else(|_| File::open(path))?;
        let mut room = vec![0; READ_PIECE + BLOCK];
        let aligned = room.as_ptr().align_offset(BLOCK);
        let buffer = &mut room[aligned..aligned + READ_PIECE];
        let begun = Instant::now();
        while file.read(buffer)? > 0 {}
        let seconds = begun.elapsed().as_secs_f64();
        let (bytes, read) = (bytes as f64 / seconds, Some(bytes));
        Ok(Outcome { bytes, seconds: Some(seconds), read, note, ..Outcome::default() })
    })
    .await
}

/// Makes the system forget what it has read, and says so where it does not: it is root's to ask.
pub fn forget_cached() -> Option<String> {
    let asked = std::process::Command::new("sync")
        .status()
        .and_then(|_| std::fs::write("/proc/sys/vm/drop_caches", "1"));
    asked.is_err().then(|| "read from the page cache: the system was not told to forget it".to_owned())
}

/// Writes and removes a few GiB, so that the page cache that the first system gets is no colder than the others'.
///
/// # Errors
/// The disk refuses.
pub async fn warm_up(dir: &Path, bytes: u64) -> Result<(), BenchError> {
    on_a_thread(dir, move |path| write_file(path, bytes, true)).await
}

async fn on_a_thread<T: Send + 'static>(
    dir: &Path,
    work: impl FnOnce(&PathBuf) -> std::io::Result<T> + Send + 'static,
) -> Result<T, BenchError> {
    let dir = dir.to_owned();
    let outcome = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&dir)?;
        let path = dir.join(NAME);
        let outcome = work(&path);
        std::fs::remove_file(&path)?;
        outcome
    });
    outcome.await?.map_err(io("measure the disk"))
}

fn write_file(path: &Path, bytes: u64, with_noise: bool) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    let piece = if with_noise { noise(PIECE) } else { vec![0; PIECE] };
    for _ in 0..bytes / PIECE as u64 {
        file.write_all(&piece)?;
    }
    file.sync_all()
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    StdRng::seed_from_u64(2).fill_bytes(&mut data);
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_disk_is_measured_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let appended = append(dir.path(), 1 << 16, Duration::from_millis(20)).await.unwrap();
        assert!(appended.bytes > 0.0 && appended.events > 0);
        let read = read_once(dir.path(), 8 << 20).await.unwrap();
        assert_eq!(read.read, Some(8 << 20));
        warm_up(dir.path(), 1 << 20).await.unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
