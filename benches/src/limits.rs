//! What this machine can do at best, measured in the same run: figures of a bus say little without it.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use crate::error::{BenchError, io};
use crate::latency::{Latencies, Quantiles};

const FILE_BYTES: usize = 256 << 20;
const SIZES: [usize; 3] = [4 << 10, 64 << 10, 1 << 20];
const COPIED: usize = 1 << 30;
const TCP_CHUNK: usize = 64 << 10;

/// The machine at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Write, then fdatasync, one after the other, over a file that was written with zeros before.
    pub disk: [SyncRate; 3],
    /// One TCP connection over loopback, in bytes a second.
    pub tcp: f64,
    /// Copying 1 GiB from one place in memory to another, in bytes a second.
    pub copy: f64,
    /// CRC-32C of 1 KiB after 1 KiB, in bytes a second.
    pub crc: f64,
}

/// One size of writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SyncRate {
    /// Of each write.
    pub bytes: usize,
    /// A write and its fdatasync.
    pub took: Quantiles,
    /// In bytes a second.
    pub rate: f64,
}

impl Limits {
    /// Measures all of them in a folder, one after the other, each for `span`.
    pub fn measure(dir: &Path, span: Duration) -> Result<Self, BenchError> {
        let path = dir.join("limits");
        let file = zeroed(&path).map_err(io("write the file for measuring the disk"))?;
        let disk = |bytes| sync_rate(&file, bytes, span).map_err(io("measure the disk"));
        let disk = [disk(SIZES[0])?, disk(SIZES[1])?, disk(SIZES[2])?];
        std::fs::remove_file(&path).map_err(io("remove the file for measuring the disk"))?;
        let tcp = tcp_rate(span).map_err(io("measure the loopback"))?;
        Ok(Self { disk, tcp, copy: copy_rate(span), crc: crc_rate(span) })
    }
}

fn zeroed(path: &Path) -> std::io::Result<File> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..FILE_BYTES / zeros.len() {
        file.write_all(&zeros)?;
    }
    file.sync_all()?;
    Ok(file)
}

fn sync_rate(file: &File, bytes: usize, span: Duration) -> std::io::Result<SyncRate> {
    let mut data = vec![0; bytes];
    StdRng::seed_from_u64(2).fill_bytes(&mut data);
    let mut took = Latencies::new();
    let mut at = 0;
    let begun = Instant::now();
    // Once at least: one write on a slow disk may take longer than all of the span.
    loop {
        let one = Instant::now();
        file.write_all_at(&data, at as u64)?;
        file.sync_data()?;
        took.record(one.elapsed());
        at = (at + bytes) % FILE_BYTES;
        if begun.elapsed() >= span {
            break;
        }
    }
    let rate = took.count() as f64 * bytes as f64 / begun.elapsed().as_secs_f64();
    let none = || std::io::Error::other("not one write was done in time");
    Ok(SyncRate { bytes, took: took.quantiles().ok_or_else(none)?, rate })
}

fn tcp_rate(span: Duration) -> std::io::Result<f64> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let sender = std::thread::spawn(move || -> std::io::Result<()> {
        let mut stream = TcpStream::connect(address)?;
        let data = vec![7; TCP_CHUNK];
        let begun = Instant::now();
        loop {
            stream.write_all(&data)?;
            if begun.elapsed() >= span {
                return Ok(());
            }
        }
    });
    let (mut stream, _) = listener.accept()?;
    let mut buffer = vec![0; 4 * TCP_CHUNK];
    let (begun, mut total) = (Instant::now(), 0);
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            n => total += n,
        }
    }
    let rate = total as f64 / begun.elapsed().as_secs_f64();
    sender.join().map_err(|_| std::io::Error::other("the sender ended"))??;
    Ok(rate)
}

fn copy_rate(span: Duration) -> f64 {
    let from = vec![7_u8; COPIED];
    // Of zeros it would be given when it is first written to, and that would be measured.
    let mut to = vec![1_u8; COPIED];
    let (begun, mut total) = (Instant::now(), 0);
    loop {
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&mut to);
        total += COPIED;
        if begun.elapsed() >= span {
            return total as f64 / begun.elapsed().as_secs_f64();
        }
    }
}

fn crc_rate(span: Duration) -> f64 {
    let data = vec![7_u8; 1 << 20];
    let (begun, mut total) = (Instant::now(), 0);
    loop {
        for part in data.chunks(1024) {
            std::hint::black_box(crc32c::crc32c(std::hint::black_box(part)));
        }
        total += data.len();
        if begun.elapsed() >= span {
            return total as f64 / begun.elapsed().as_secs_f64();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_measured_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits::measure(dir.path(), Duration::from_millis(20)).unwrap();
        assert_eq!(limits.disk.each_ref().map(|sync| sync.bytes), SIZES);
        assert!(limits.disk.iter().all(|sync| sync.rate > 0.0) && limits.tcp > 0.0);
        assert!(limits.copy > 0.0 && limits.crc > 0.0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
