//! The file system's state and operations, without FUSE: names, page caches, open files.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rand::Rng;

use super::faults::{Fate, SyncFaults};
use super::image::{Durable, Image, Loss};
use super::names::{KEPT, Names};

/// The root's number in FUSE, whatever it is on the disk.
pub const ROOT: u64 = 1;

/// A file that is open, or has something unsynced: one page cache for all who have it open.
#[derive(Debug)]
pub struct Cached {
    inode: u64,
    file: File,
    image: Mutex<Image>,
}

/// The whole file system.
#[derive(Debug)]
pub struct Tree {
    names: Mutex<Names>,
    caches: Mutex<HashMap<u64, Arc<Cached>>>,
    handles: Mutex<HashMap<u64, Arc<Cached>>>,
    next: AtomicU64,
    syncs: AtomicU64,
    /// What happens to syncs.
    pub faults: SyncFaults,
}

struct OnDisk<'a>(&'a File);

impl Durable for OnDisk<'_> {
    fn read(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], at + done as u64)? {
                0 => break,
                read => done += read,
            }
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

fn not_found() -> io::Error {
    // ENOENT; a kind alone has no number for the kernel.
    io::Error::from_raw_os_error(2)
}

impl Tree {
    /// Over a backing folder.
    pub fn new(root: &Path) -> io::Result<Self> {
        Ok(Self {
            names: Mutex::new(Names::new(root)?),
            caches: Mutex::default(),
            handles: Mutex::default(),
            next: AtomicU64::new(1),
            syncs: AtomicU64::new(0),
            faults: SyncFaults::default(),
        })
    }

    /// The path of an inode.
    pub fn path(&self, inode: u64) -> io::Result<PathBuf> {
        if inode == ROOT {
            return Ok(PathBuf::new());
        }
        self.names.lock().path(inode).ok_or_else(not_found)
    }

    /// Where something is on the machine.
    pub fn real(&self, path: &Path) -> PathBuf {
        self.names.lock().real(path)
    }

    /// A name in a directory.
    pub fn child(&self, parent: u64, name: &Path) -> io::Result<PathBuf> {
        if parent == ROOT && name == Path::new(KEPT) {
            return Err(not_found());
        }
        Ok(self.path(parent)?.join(name))
    }

    /// Finds a name.
    pub fn lookup(&self, parent: u64, name: &Path) -> io::Result<(fs::Metadata, u64)> {
        let path = self.child(parent, name)?;
        let (inode, metadata) = self.names.lock().remember(&path)?;
        Ok((self.seen_len(inode, &metadata), metadata)).map(|(len, metadata)| (metadata, len))
    }

    /// What is known of an inode, and its length as programs see it.
    pub fn metadata(&self, inode: u64) -> io::Result<(fs::Metadata, u64)> {
        let cached = self.caches.lock().get(&inode).cloned();
        let metadata = match &cached {
            Some(cached) => cached.file.metadata()?,
            None => fs::symlink_metadata(self.real(&self.path(inode)?))?,
        };
        let len = self.seen_len(inode, &metadata);
        Ok((metadata, len))
    }

    fn seen_len(&self, inode: u64, metadata: &fs::Metadata) -> u64 {
        let cached = self.caches.lock().get(&inode).cloned();
        cached.map_or(metadata.len(), |cached| cached.image.lock().len())
    }

    /// Opens a file.
    pub fn open(&self, inode: u64, truncate: bool) -> io::Result<u64> {
        let cached = self.cached(inode)?;
        if truncate {
            cached.image.lock().set_len(0);
        }
        Ok(self.handle(cached))
    }

    /// Makes a file and opens it.
    pub fn create(&self, parent: u64, name: &Path, mode: u32) -> io::Result<(u64, fs::Metadata)> {
        let path = self.child(parent, name)?;
        let file = {
            let mut names = self.names.lock();
            let real = names.real(&path);
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(real)?;
            names.made(&path);
            names.remember(&path)?;
            file
        };
        let metadata = file.metadata()?;
        let cached = Cached { inode: metadata.ino(), file, image: Mutex::new(Image::new(0)) };
        let cached = Arc::new(cached);
        // The number may have been another file's before.
        self.caches.lock().insert(metadata.ino(), Arc::clone(&cached));
        Ok((self.handle(cached), metadata))
    }

    /// Closes a handle. A page cache stays while anything in it is not synced.
    pub fn close(&self, handle: u64) {
        let Some(cached) = self.handles.lock().remove(&handle) else { return };
        let mut caches = self.caches.lock();
        let inode = cached.inode;
        // The map's own, this one, and nobody else's.
        if Arc::strong_count(&cached) <= 2 && cached.image.lock().is_synced() {
            caches.remove(&inode);
        }
    }

    fn handle(&self, cached: Arc<Cached>) -> u64 {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        self.handles.lock().insert(handle, cached);
        handle
    }

    fn of_handle(&self, handle: u64) -> io::Result<Arc<Cached>> {
        self.handles.lock().get(&handle).cloned().ok_or_else(not_found)
    }

    fn cached(&self, inode: u64) -> io::Result<Arc<Cached>> {
        let real = self.real(&self.path(inode)?);
        let mut caches = self.caches.lock();
        if let Some(cached) = caches.get(&inode) {
            return Ok(Arc::clone(cached));
        }
        let file = OpenOptions::new().read(true).write(true).open(real)?;
        let image = Mutex::new(Image::new(file.metadata()?.len()));
        let cached = Arc::new(Cached { inode, file, image });
        caches.insert(inode, Arc::clone(&cached));
        Ok(cached)
    }

    /// Reads.
    pub fn read(&self, handle: u64, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let cached = self.of_handle(handle)?;
        let image = cached.image.lock();
        image.read(&OnDisk(&cached.file), at, len)
    }

    /// Writes into memory; `through`: and syncs, as O_DSYNC asks.
    pub fn write(&self, handle: u64, bytes: &[u8], at: u64, through: bool) -> io::Result<()> {
        let cached = self.of_handle(handle)?;
        cached.image.lock().write(&OnDisk(&cached.file), bytes, at)?;
        if through { self.sync(handle) } else { Ok(()) }
    }

    /// Cuts or extends, in memory.
    pub fn set_len(&self, inode: u64, len: u64) -> io::Result<()> {
        let cached = self.cached(inode)?;
        cached.image.lock().set_len(len);
        Ok(())
    }

    /// Extends where the file is shorter, as fallocate does.
    pub fn reach(&self, handle: u64, len: u64) -> io::Result<()> {
        let cached = self.of_handle(handle)?;
        let mut image = cached.image.lock();
        if image.len() < len {
            image.set_len(len);
        }
        Ok(())
    }

    /// Changes permissions, at once.
    pub fn set_mode(&self, inode: u64, mode: u32) -> io::Result<()> {
        fs::set_permissions(self.real(&self.path(inode)?), fs::Permissions::from_mode(mode))
    }

    /// Where a handle's file is, for rules that name paths.
    pub fn path_of_handle(&self, handle: u64) -> PathBuf {
        let inode = self.handles.lock().get(&handle).map(|cached| cached.inode);
        inode.and_then(|inode| self.names.lock().path(inode)).unwrap_or_default()
    }

    /// Syncs a file, as the rules allow.
    pub fn sync(&self, handle: u64) -> io::Result<()> {
        let cached = self.of_handle(handle)?;
        let fate = self.faults.fate(&self.path_of_handle(handle));
        self.syncs.fetch_add(1, Ordering::Relaxed);
        let mut image = cached.image.lock();
        match fate {
            Fate::Sync => image.sync(&mut OnDisk(&cached.file)),
            Fate::Fail => {
                image.fail_sync();
                // EIO
                Err(io::Error::from_raw_os_error(5))
            }
            Fate::Abandon => Ok(()),
        }
    }

    /// Syncs a directory's names.
    pub fn sync_folder(&self, inode: u64) -> io::Result<()> {
        let path = self.path(inode)?;
        if self.faults.fate(&path) == Fate::Fail {
            return Err(io::Error::from_raw_os_error(5));
        }
        let gone = self.names.lock().sync(&path)?;
        self.forget(&gone);
        Ok(())
    }

    fn forget(&self, inodes: &[u64]) {
        let mut caches = self.caches.lock();
        for inode in inodes {
            caches.remove(inode);
        }
    }

    /// Makes a folder.
    pub fn make_folder(&self, parent: u64, name: &Path, mode: u32) -> io::Result<fs::Metadata> {
        let path = self.child(parent, name)?;
        let mut names = self.names.lock();
        fs::create_dir(names.real(&path))?;
        fs::set_permissions(names.real(&path), fs::Permissions::from_mode(mode))?;
        names.made(&path);
        names.remember(&path).map(|(_, metadata)| metadata)
    }

    /// Removes a file or an empty folder.
    pub fn remove(&self, parent: u64, name: &Path, folder: bool) -> io::Result<()> {
        let path = self.child(parent, name)?;
        let mut names = self.names.lock();
        if folder { names.remove_folder(&path) } else { names.remove_file(&path) }
    }

    /// Renames, replacing what is there.
    pub fn rename(&self, from: (u64, &Path), to: (u64, &Path)) -> io::Result<()> {
        let (from, to) = (self.child(from.0, from.1)?, self.child(to.0, to.1)?);
        self.names.lock().rename(&from, &to)
    }

    /// Bytes that power loss would take, of paths that contain `part`.
    pub fn unsynced_bytes(&self, part: &str) -> u64 {
        let cached: Vec<_> = self.caches.lock().values().cloned().collect();
        let names = self.names.lock();
        let of = |cached: &&Arc<Cached>| {
            names.path(cached.inode).is_some_and(|path| path.to_string_lossy().contains(part))
        };
        cached.iter().filter(of).map(|cached| cached.image.lock().dirty_bytes()).sum()
    }

    /// Syncs of files so far.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Power is lost. Names first: a file whose name was never durable loses nothing more.
    pub fn lose_power<R: Rng>(&self, mut rng: Option<&mut R>) -> io::Result<()> {
        let gone = self.names.lock().lose_power()?;
        self.forget(&gone);
        let mut caches = self.caches.lock();
        let mut all: Vec<_> = caches.values().cloned().collect();
        // The same seed makes the same choices.
        all.sort_by_key(|cached| cached.inode);
        for cached in all {
            let loss = match &mut rng {
                Some(rng) => Loss::Some(&mut **rng),
                None => Loss::All,
            };
            cached.image.lock().lose_power(&mut OnDisk(&cached.file), loss)?;
        }
        let handles = self.handles.lock();
        caches.retain(|inode, _| handles.values().any(|open| open.inode == *inode));
        Ok(())
    }
}
