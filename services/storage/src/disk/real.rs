//! The machine's disk.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};
use nix::sys::statvfs::statvfs;

use super::{Disk, DiskFile};
use crate::aligned::{AlignedBuf, BLOCK, to_blocks};

const LOCK: &str = "volume.lock";

/// A folder of the machine's file system, locked against other processes while this lives.
#[derive(Debug)]
pub struct RealDisk {
    dir: PathBuf,
    handle: File,
    // Held for its lock alone, which the system drops with the process, kill -9 included.
    lock: File,
}

impl RealDisk {
    /// Opens a folder, makes it if it is not there, and locks it.
    ///
    /// # Errors
    /// `WouldBlock` if another process has it, or the system's.
    pub fn open(dir: impl AsRef<Path>) -> io::Result<Self> {
        let dir = dir.as_ref().to_path_buf();
        fs::create_dir_all(&dir)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(LOCK))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::new(
                io::ErrorKind::WouldBlock,
                format!("{} is in use by another process: end it, or use another folder", dir.display()),
            ),
            TryLockError::Error(error) => error,
        })?;
        // The folder's own name has to survive as well as what is in it.
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        let handle = File::open(&dir)?;
        Ok(Self { dir, handle, lock })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for RealDisk {
    fn drop(&mut self) {
        // To close the file is not enough: a child that is being forked has it too, until it becomes another program.
        let _ = self.lock.unlock();
    }
}

impl Disk for RealDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.dir.join(name);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        Ok(Arc::new(RealFile { path, file, direct: None }))
    }

    fn open_uncached(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.dir.join(name);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let direct = match OpenOptions::new().write(true).custom_flags(OFlag::O_DIRECT.bits()).open(&path) {
            Ok(direct) => Some(direct),
            // tmpfs, and some network file systems: through the page cache then.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => None,
            Err(error) => return Err(error),
        };
        Ok(Arc::new(RealFile { path, file, direct }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.dir.join(name);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        Ok(Arc::new(RealFile { path, file, direct: None }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string()
                && name != LOCK
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.dir.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn available(&self) -> io::Result<u64> {
        let stat = statvfs(&self.dir)?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }
}

struct RealFile {
    path: PathBuf,
    file: File,
    /// Writes past the page cache.
    direct: Option<File>,
}

impl RealFile {
    /// Reads whole aligned blocks with O_DIRECT. `Err(InvalidInput)` where the file system cannot.
    fn read_direct(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        // Opened when needed: recovery and verification alone read so, and a descriptor for each file would add up.
        let direct = OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECT.bits()).open(&self.path)?;
        if is_aligned(buf, at) {
            return read_blocks(&direct, buf, at);
        }
        let start = at / BLOCK as u64 * BLOCK as u64;
        let skip = (at - start) as usize;
        let mut blocks = AlignedBuf::zeroed(to_blocks((skip + buf.len()) as u64) as usize);
        read_blocks(&direct, blocks.bytes_mut(), start)?;
        buf.copy_from_slice(&blocks.bytes()[skip..skip + buf.len()]);
        Ok(())
    }
}

/// Whether direct I/O takes these bytes at this place.
fn is_aligned(bytes: &[u8], at: u64) -> bool {
    let whole = |value: u64| value.is_multiple_of(BLOCK as u64);
    whole(at) && whole(bytes.len() as u64) && bytes.as_ptr().align_offset(BLOCK) == 0
}

/// `read_exact_at`, but a short read must end at a block boundary for the next one to be aligned.
fn read_blocks(file: &File, buf: &mut [u8], at: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], at + done as u64) {
            Ok(n) if n == 0 || n % BLOCK != 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl DiskFile for RealFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, at)
    }

    fn read_at_uncached(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        match self.read_direct(buf, at) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                // No O_DIRECT here (tmpfs, some network file systems): have the clean pages dropped instead.
                let (from, len) = (at as i64, buf.len() as i64);
                posix_fadvise(&self.file, from, len, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
                self.file.read_exact_at(buf, at)
            }
            other => other,
        }
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        if let Some(direct) = self.direct.as_ref().filter(|_| is_aligned(bytes, at)) {
            match direct.write_all_at(bytes, at) {
                // Blocks larger than ours, or a system that says so only now. What was written is written again.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                other => return other,
            }
        }
        self.file.write_all_at(bytes, at)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}
