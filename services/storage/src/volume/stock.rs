//! The stock: files that are zero-written ahead, so that a round overwrites blocks that are there and a sync moves no
//! metadata (DESIGN §4: `fallocate` measured slower than a plain append). That saves 60 to 100 µs a sync, which is much of a
//! small round and little of a large one, while zeros cost the disk as much as what is written over them. So nothing is made
//! ahead while rounds are large, and where none is ready a file is handed out that has its room and no zeros: nobody who
//! waits for a round waits for a whole file before it.
//!
//! In: how many to hold. Out: names of files of full length, synced, that read as zeros. Must never hand out one whose room
//! is not set aside to its end.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::error::WriteError;
use crate::aligned::AlignedBuf;
use crate::disk::Disk;

const READY: &str = "stock-";
const PART: &str = ".part";
/// How much is zeroed and synced at once: little enough that a round's sync is not held up by it.
const CHUNK: u64 = 1024 * 1024;
/// Rounds of so many bytes are large.
const LARGE_ROUND: u64 = 256 * 1024;
/// How often whoever makes a file ahead looks whether rounds are still large.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The files held ready, shared by the volume and the thread that refills it.
pub struct Stock {
    disk: Arc<dyn Disk>,
    file_bytes: u64,
    reserve_bytes: u64,
    target: usize,
    ready: Mutex<VecDeque<String>>,
    taken: Condvar,
    /// One file is made at a time: two would only double what is missing on a full disk.
    making: Mutex<()>,
    next: AtomicU64,
    full: AtomicBool,
    /// The last round was large.
    busy: AtomicBool,
}

/// How a file gets its length.
#[derive(Clone, Copy)]
enum Making {
    /// By zeros, with so much of the time spent writing, in percent.
    Zeros(u32),
    /// The file system sets room aside.
    Room,
}

impl Stock {
    /// Takes over what an earlier process left: whole files of the right length are kept, others go.
    pub fn open(disk: Arc<dyn Disk>, file_bytes: u64, reserve_bytes: u64, target: usize) -> io::Result<Self> {
        let mut ready = VecDeque::new();
        let mut next = 0;
        for name in disk.list()? {
            let Some(rest) = name.strip_prefix(READY) else { continue };
            let number = rest.strip_suffix(PART).unwrap_or(rest).parse::<u64>();
            next = next.max(number.map_or(0, |n| n + 1));
            // A name without `.part` is given after the sync, so the length is all there is to check: a volume that
            // was opened with another file size before.
            if !rest.ends_with(PART) && disk.open(&name)?.len()? == file_bytes {
                ready.push_back(name);
            } else {
                disk.remove(&name)?;
            }
        }
        Ok(Self {
            disk,
            file_bytes,
            reserve_bytes,
            target,
            ready: Mutex::new(ready),
            taken: Condvar::new(),
            making: Mutex::new(()),
            next: AtomicU64::new(next),
            full: AtomicBool::new(false),
            busy: AtomicBool::new(false),
        })
    }

    /// Makes files until the stock is complete. `duty` is how much of the time may be spent writing, in percent.
    pub fn fill(&self, duty: u32) -> Result<(), WriteError> {
        while self.ready.lock().len() < self.target {
            self.make(duty)?;
        }
        Ok(())
    }

    /// Makes a file, if there is none: for whoever is not waited for yet.
    pub fn make_first(&self) -> Result<(), WriteError> {
        if self.ready.lock().is_empty() { self.make(100) } else { Ok(()) }
    }

    /// A file of the stock; made at once if there is none.
    pub fn take(&self) -> Result<String, WriteError> {
        loop {
            if let Some(name) = self.ready.lock().pop_front() {
                self.taken.notify_all();
                return Ok(name);
            }
            match self.make_named(Making::Room) {
                Err(WriteError::Fatal(error)) if error.kind() == io::ErrorKind::Unsupported => {
                    self.make(100)?
                }
                Ok(name) => {
                    // Nobody makes the next one ahead, and the last one that fits is to be known before it is used up.
                    let fits = self.has_room_for(self.file_bytes).map_err(WriteError::Fatal)?;
                    self.full.store(!fits, Ordering::Release);
                    return Ok(name);
                }
                Err(error) => {
                    // No round is written until there is room: whoever waits for small ones is not to wait for ever.
                    self.busy.store(false, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    }

    /// A round of so many bytes was written.
    pub fn wrote_round(&self, bytes: u64) {
        self.busy.store(bytes >= LARGE_ROUND, Ordering::Relaxed);
    }

    /// Puts back a file that was taken and not used.
    pub fn put_back(&self, name: String) {
        self.ready.lock().push_front(name);
    }

    /// Waits until a file is missing, at most for `timeout`. Whether one is.
    pub fn wait_until_short(&self, timeout: Duration) -> bool {
        let mut ready = self.ready.lock();
        if ready.len() >= self.target {
            self.taken.wait_for(&mut ready, timeout);
        }
        ready.len() < self.target
    }

    /// Wakes whoever waits.
    pub fn wake(&self) {
        self.busy.store(false, Ordering::Relaxed);
        self.taken.notify_all();
    }

    /// Whether the disk had no room for the next file when that was last tried, and none is left.
    pub fn is_exhausted(&self) -> bool {
        self.full.load(Ordering::Acquire) && self.ready.lock().is_empty()
    }

    fn make(&self, duty: u32) -> Result<(), WriteError> {
        if duty == 100 {
            // Somebody waits, and perhaps for one that waits for rounds to be small.
            self.busy.store(false, Ordering::Relaxed);
        }
        let _one = self.making.lock();
        if self.ready.lock().len() >= self.target.max(1) {
            return Ok(()); // another made it while this one waited
        }
        let name = self.make_named(Making::Zeros(duty))?;
        self.ready.lock().push_back(name);
        Ok(())
    }

    fn make_named(&self, making: Making) -> Result<String, WriteError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{READY}{id:010}");
        let part = format!("{name}{PART}");
        let made = self.write_whole(&part, making).and_then(|()| self.disk.rename(&part, &name));
        match made {
            Ok(()) => {
                self.full.store(false, Ordering::Release);
                Ok(name)
            }
            Err(error) => {
                // What was written so far must not hold on to the little room that there is.
                let _ = self.disk.remove(&part);
                let full = error.kind() == io::ErrorKind::StorageFull;
                self.full.store(full, Ordering::Release);
                Err(if full { WriteError::NoSpace } else { WriteError::Fatal(error) })
            }
        }
    }

    fn write_whole(&self, name: &str, making: Making) -> io::Result<()> {
        if !self.has_room_for(self.file_bytes)? {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = self.disk.create(name)?;
        match making {
            Making::Zeros(duty) => self.write_zeros(name, duty),
            Making::Room => {
                file.allocate(self.file_bytes)?;
                file.sync_data()
            }
        }
    }

    /// Whether so many bytes leave what is reserved.
    fn has_room_for(&self, bytes: u64) -> io::Result<bool> {
        Ok(self.disk.available()? >= bytes.saturating_add(self.reserve_bytes))
    }

    fn write_zeros(&self, name: &str, duty: u32) -> io::Result<()> {
        // Nobody reads zeros.
        let file = self.disk.open_uncached(name)?;
        let zeros = AlignedBuf::zeroed(CHUNK.min(self.file_bytes) as usize);
        let mut at = 0;
        while at < self.file_bytes {
            let begun = Instant::now();
            let len = CHUNK.min(self.file_bytes - at);
            file.write_at(&zeros.bytes()[..len as usize], at)?;
            file.sync_data()?;
            at += len;
            if duty < 100 {
                std::thread::sleep(begun.elapsed() * (100 - duty) / duty.max(1));
                if self.busy.load(Ordering::Relaxed) {
                    while self.busy.load(Ordering::Relaxed) {
                        std::thread::sleep(LOOK_EVERY);
                    }
                    // Others took files meanwhile.
                    if !self.has_room_for(self.file_bytes - at)? {
                        return Err(io::ErrorKind::StorageFull.into());
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;

    const FILE: u64 = 4 << 20;

    #[test]
    fn a_full_disk_is_seen_ahead_though_rounds_are_large() {
        let disk = SimDisk::new(1);
        let stock = Arc::new(Stock::open(Arc::new(disk.clone()), FILE, 0, 1).unwrap());
        stock.wrote_round(LARGE_ROUND);
        let ahead = std::thread::spawn({
            let stock = stock.clone();
            move || stock.fill(50)
        });
        while disk.used() < CHUNK {
            std::thread::sleep(LOOK_EVERY);
        }
        disk.set_capacity(CHUNK + 2 * FILE);
        stock.take().unwrap();
        assert!(!stock.is_exhausted(), "one more fits");
        stock.take().unwrap();
        assert!(stock.is_exhausted(), "the last one that fits is in use");
        // Then nothing is written that would say that rounds are small; what is half made goes all the same.
        assert!(matches!(stock.take(), Err(WriteError::NoSpace)));
        assert!(matches!(ahead.join().unwrap(), Err(WriteError::NoSpace)));
        assert_eq!(disk.used(), 2 * FILE);
    }
}
