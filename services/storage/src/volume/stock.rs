//! The stock: files that are zero-written ahead, so that a round overwrites blocks that are there and a sync moves no
//! metadata (DESIGN §4: `fallocate` measured slower than a plain append).
//!
//! In: how many to hold. Out: names of whole, synced files. Must never hand out a file that is not zero-written and
//! synced to its end.

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
        })
    }

    /// Makes files until the stock is complete. `duty` is how much of the time may be spent writing, in percent.
    pub fn fill(&self, duty: u32) -> Result<(), WriteError> {
        while self.ready.lock().len() < self.target {
            self.make(duty)?;
        }
        Ok(())
    }

    /// A file of the stock; made at once if there is none.
    pub fn take(&self) -> Result<String, WriteError> {
        loop {
            if let Some(name) = self.ready.lock().pop_front() {
                self.taken.notify_all();
                return Ok(name);
            }
            self.make(100)?;
        }
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
        self.taken.notify_all();
    }

    /// Whether the disk had no room for the next file when that was last tried, and none is left.
    pub fn is_exhausted(&self) -> bool {
        self.full.load(Ordering::Acquire) && self.ready.lock().is_empty()
    }

    fn make(&self, duty: u32) -> Result<(), WriteError> {
        let _one = self.making.lock();
        if self.ready.lock().len() >= self.target.max(1) {
            return Ok(()); // another made it while this one waited
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{READY}{id:010}");
        let part = format!("{name}{PART}");
        let made = self.write_zeros(&part, duty).and_then(|()| self.disk.rename(&part, &name));
        match made {
            Ok(()) => {
                self.full.store(false, Ordering::Release);
                self.ready.lock().push_back(name);
                Ok(())
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

    fn write_zeros(&self, name: &str, duty: u32) -> io::Result<()> {
        if self.disk.available()? < self.file_bytes.saturating_add(self.reserve_bytes) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.disk.create(name)?;
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
            }
        }
        Ok(())
    }
}
