//! The one small door to a disk: a folder of files, with a simulated twin.
//!
//! In: names, positions and bytes. Out: bytes, or the operating system's error, unchanged. Must never retry, buffer or
//! decide; whoever calls knows which errors may be survived.

mod real;
mod sim;

use std::io;
use std::sync::Arc;

pub use real::RealDisk;
pub use sim::{PowerLoss, SimDisk};

/// A folder of files. All calls block.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file that is there.
    ///
    /// # Errors
    /// `NotFound`, or the system's.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// As [`Disk::open`], to be written in whole [`BLOCK`](crate::aligned::BLOCK)s from aligned memory: past the page cache where the
    /// system can (local file systems), which costs neither a copy nor fresh pages. Readers of the same file see what was written all the same.
    ///
    /// # Errors
    /// As [`Disk::open`].
    fn open_uncached(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open(name)
    }

    /// Makes an empty file, in place of any that is there. Its name is durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// The system's.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// The names of all files.
    ///
    /// # Errors
    /// The system's.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Renames a file, in place of any that has the new name. Durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes names durable.
    ///
    /// # Errors
    /// The system's; what is durable is then unknown.
    fn sync_dir(&self) -> io::Result<()>;

    /// How many bytes may still be written.
    ///
    /// # Errors
    /// The system's.
    fn available(&self) -> io::Result<u64>;
}

/// An open file. Positions are absolute; calls may come from several threads.
pub trait DiskFile: Send + Sync {
    /// Fills `buf` from `at`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before, or the system's.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<()>;

    /// Fills `buf` from `at` with what the disk holds, past the page cache where the system can. Bytes that are not
    /// synced may be among them: sync first to know what is durable.
    ///
    /// # Errors
    /// As [`DiskFile::read_at`].
    fn read_at_uncached(&self, buf: &mut [u8], at: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `at`. Durable after [`DiskFile::sync_data`].
    ///
    /// # Errors
    /// `StorageFull`, or the system's; any part may have been written.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Makes an empty file so long, of zeros, with room for all of it on the disk. Durable after [`DiskFile::sync_data`].
    ///
    /// # Errors
    /// `Unsupported` where the file system sets no room aside; `StorageFull`, or the system's.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Makes what was written durable (fdatasync).
    ///
    /// # Errors
    /// The system's; what is durable is then unknown, and trying again proves nothing.
    fn sync_data(&self) -> io::Result<()>;

    /// The file's length in bytes.
    ///
    /// # Errors
    /// The system's.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// The system's.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }
}
