//! The machine's disk.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, PosixFadviseAdvice, fallocate, posix_fadvise};
use nix::sys::statfs::{self, FsType, fstatfs};
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
        let direct = if may_write_directly(fstatfs(&file)?.filesystem_type()) {
            match OpenOptions::new().write(true).custom_flags(OFlag::O_DIRECT.bits()).open(&path) {
                Ok(file) => Some(Direct { file, refused: AtomicBool::new(false) }),
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => None,
                Err(error) => return Err(error),
            }
        } else {
            None
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
    direct: Option<Direct>,
}

/// Writes past the page cache.
struct Direct {
    file: File,
    /// The system has refused a write: its blocks are larger than ours.
    refused: AtomicBool,
}

impl Direct {
    /// None: it is refused, and may be written another way. What was written of it is to be written again.
    fn write(&self, bytes: &[u8], at: u64) -> Option<io::Result<()>> {
        if !is_aligned(bytes, at) || self.refused.load(Ordering::Relaxed) {
            return None;
        }
        match self.file.write_all_at(bytes, at) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.refused.store(true, Ordering::Relaxed);
                tracing::warn!(%error, "this file system takes no blocks of {BLOCK} bytes past the page cache: writing costs more");
                None
            }
            other => Some(other),
        }
    }
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

/// File systems of this machine. On others a write past the page cache may outlive the process that began it, with nothing that the next
/// process could sync: it would land on what that one has written in its place.
fn may_write_directly(kind: FsType) -> bool {
    const ZFS: FsType = FsType(0x2fc1_2fc1);
    [
        // ext2 and ext3, too.
        statfs::EXT4_SUPER_MAGIC,
        statfs::XFS_SUPER_MAGIC,
        statfs::BTRFS_SUPER_MAGIC,
        statfs::F2FS_SUPER_MAGIC,
        ZFS,
        statfs::OVERLAYFS_SUPER_MAGIC,
        statfs::TMPFS_MAGIC,
        // Its kernel part waits for the file system's process, whatever becomes of the one that writes.
        statfs::FUSE_SUPER_MAGIC,
    ]
    .contains(&kind)
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
        let direct = self.direct.as_ref().and_then(|direct| direct.write(bytes, at));
        direct.unwrap_or_else(|| self.file.write_all_at(bytes, at))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let len = i64::try_from(len).map_err(|_| io::ErrorKind::StorageFull)?;
        loop {
            return match fallocate(&self.file, FallocateFlags::empty(), 0, len) {
                Ok(()) => Ok(()),
                Err(Errno::EINTR) => continue,
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => {
                    Err(io::ErrorKind::Unsupported.into())
                }
                Err(error) => Err(error.into()),
            };
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}
