//! What the disk does without any bus: the limits that some rows are measured by, in turn with them.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::error::{BenchError, io};
use crate::plan::VALUE_BYTES;
use crate::record::Outcome;

const NAME: &str = "file";
const PIECE: usize = 1 << 20;
/// What a copy reads and writes at once.
const COPY_PIECE: usize = 4 << 20;
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

/// Writes a file of so many bytes, makes the system forget it, and reads it once from the beginning to the end. Through
/// the page cache, which reads ahead: past it one thread is slower.
///
/// # Errors
/// The disk refuses.
pub async fn read_once(dir: &Path, bytes: u64) -> Result<Outcome, BenchError> {
    on_a_thread(dir, move |path| {
        write_file(path, bytes, true)?;
        let note = forget_cached();
        let mut file = File::open(path)?;
        let (mut buffer, begun) = (vec![0; PIECE], Instant::now());
        while file.read(&mut buffer)? > 0 {}
        let seconds = begun.elapsed().as_secs_f64();
        let (bytes, read) = (bytes as f64 / seconds, Some(bytes));
        Ok(Outcome { bytes, seconds: Some(seconds), read, note, ..Outcome::default() })
    })
    .await
}

/// Writes a file of so many bytes, makes the system forget it, and copies it: one thread reads what is next while another writes and syncs
/// what was read, over a file of written zeros.
///
/// # Errors
/// The disk refuses.
pub async fn copy(dir: &Path, bytes: u64) -> Result<Outcome, BenchError> {
    on_a_thread(dir, move |path| {
        let to = path.with_extension("copy");
        write_file(path, bytes, true)?;
        write_file(&to, bytes, false)?;
        let note = forget_cached();
        let begun = Instant::now();
        let (filled, full) = std::sync::mpsc::sync_channel::<Vec<u8>>(2);
        let mut from = File::open(path)?;
        let reader = std::thread::spawn(move || -> std::io::Result<()> {
            loop {
                let mut piece = vec![0; COPY_PIECE];
                let len = from.read(&mut piece)?;
                piece.truncate(len);
                if len == 0 || filled.send(piece).is_err() {
                    return Ok(());
                }
            }
        });
        let mut file = OpenOptions::new().write(true).open(&to)?;
        for piece in full {
            file.write_all(&piece)?;
            file.sync_data()?;
        }
        reader.join().unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into()))?;
        let seconds = begun.elapsed().as_secs_f64();
        std::fs::remove_file(&to)?;
        let events = bytes / VALUE_BYTES as u64;
        let rate = events as f64 / seconds;
        Ok(Outcome { events, rate, bytes: bytes as f64 / seconds, note, ..Outcome::default() })
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
        let copied = copy(dir.path(), 8 << 20).await.unwrap();
        assert_eq!(copied.events, 8 << 10);
        warm_up(dir.path(), 1 << 20).await.unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
