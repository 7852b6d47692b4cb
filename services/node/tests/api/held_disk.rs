//! A disk that a test holds up: what the volume's thread syncs meanwhile waits, as on a disk that hangs. Small rounds, which workers write
//! too, pass: a worker that waits would hold up the test itself.

use std::io;
use std::sync::Arc;

use meridian_storage::disk::{Disk, DiskFile};
use parking_lot::{Condvar, Mutex};

/// The thread that writes all rounds that are not small.
const WRITER: &str = "volume-writer";

/// Holds up what is synced by the volume's thread, or not.
#[derive(Clone, Default)]
pub struct Hold(Arc<(Mutex<bool>, Condvar)>);

/// While it lives, that thread syncs nothing.
pub struct Held(Hold);

impl Hold {
    /// From now on.
    pub fn hold(&self) -> Held {
        *self.0.0.lock() = true;
        Held(self.clone())
    }

    /// Puts itself over a disk.
    pub fn over(&self, disk: Arc<dyn Disk>) -> Arc<dyn Disk> {
        Arc::new(HeldDisk { disk, hold: self.clone() })
    }

    fn pass(&self) {
        if std::thread::current().name() != Some(WRITER) {
            return;
        }
        let (held, let_go) = &*self.0;
        let_go.wait_while(&mut held.lock(), |held| *held);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let (held, let_go) = &*self.0.0;
        *held.lock() = false;
        let_go.notify_all();
    }
}

struct HeldDisk {
    disk: Arc<dyn Disk>,
    hold: Hold,
}

impl HeldDisk {
    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(HeldFile { file, hold: self.hold.clone() })
    }
}

impl Disk for HeldDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(name).map(|file| self.file(file))
    }

    fn open_uncached(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open_uncached(name).map(|file| self.file(file))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(name).map(|file| self.file(file))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }

    fn available(&self) -> io::Result<u64> {
        self.disk.available()
    }
}

struct HeldFile {
    file: Arc<dyn DiskFile>,
    hold: Hold,
}

impl DiskFile for HeldFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_at(buf, at)
    }

    fn read_at_uncached(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_at_uncached(buf, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_at(bytes, at)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.hold.pass();
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
