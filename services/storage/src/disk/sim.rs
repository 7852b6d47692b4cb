//! A disk in memory that forgets, tears, fails and fills up as real ones do, from a seed.
//!
//! What it models, at the grain of 512-byte sectors:
//! - writes go to a page cache; [`DiskFile::sync_data`] makes them durable; names go through [`Disk::sync_dir`];
//! - [`SimDisk::lose_power`] keeps any subset of the sectors written since the last sync, and of the changes of names;
//! - [`SimDisk::kill`] ends the process: the page cache survives, unsynced;
//! - [`SimDisk::crash_at`] does either in the middle of the n-th operation;
//! - an fsync that fails ([`SimDisk::fail_sync`]) leaves pages that read well and are on no disk, as Linux does;
//! - a write that fails ([`SimDisk::fail_write`]) leaves any part of its bytes, as one past the page cache does;
//! - a capacity ([`SimDisk::set_capacity`]), flipped bits ([`SimDisk::flip`]), lost files ([`SimDisk::lose_file`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::Xoshiro256PlusPlus as Rng;
use rand::{RngExt, SeedableRng};

use super::{Disk, DiskFile};

const SECTOR: usize = 512;

/// How much of what was not synced a power loss leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerLoss {
    /// Nothing.
    Nothing,
    /// Everything: the disk wrote its cache out in time.
    Everything,
    /// Each sector and each change of a name by a coin, biased anew for each loss.
    Any,
}

/// The simulated disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    rng: Rng,
    /// Counts processes: handles of one that was killed work no more.
    life: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    name_changes: Vec<NameChange>,
    files: BTreeMap<u64, Content>,
    next_file: u64,
    capacity: u64,
    ops: u64,
    crash_at: Option<u64>,
    crashed: bool,
    syncs_until_failure: Option<u64>,
    writes_until_failure: Option<u64>,
}

enum NameChange {
    Set(String, u64),
    Rename(String, String, u64),
    Remove(String),
}

#[derive(Default)]
struct Content {
    /// What the process reads.
    cache: Vec<u8>,
    /// What the disk holds.
    durable: Vec<u8>,
    /// Writes since the last sync, in order.
    unsynced: Vec<(usize, Vec<u8>)>,
    /// Sectors whose write failed in an fsync: clean in the cache, and not on the disk.
    lost: BTreeSet<usize>,
}

impl SimDisk {
    /// An empty disk that draws from `seed`.
    pub fn new(seed: u64) -> Self {
        let state = State {
            rng: Rng::seed_from_u64(seed),
            life: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            files: BTreeMap::new(),
            next_file: 0,
            capacity: u64::MAX,
            ops: 0,
            crash_at: None,
            crashed: false,
            syncs_until_failure: None,
            writes_until_failure: None,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Power goes and comes back. Whoever used the disk has to open it again.
    pub fn lose_power(&self, loss: PowerLoss) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let keep = match loss {
            PowerLoss::Nothing => 0.0,
            PowerLoss::Everything => 1.0,
            PowerLoss::Any => [0.0, 0.05, 0.5, 0.95, 1.0][state.rng.random_range(0..5)],
        };
        for content in state.files.values_mut() {
            content.persist_some(&mut state.rng, keep);
            content.cache = content.durable.clone();
            content.unsynced.clear();
            content.lost.clear();
        }
        for change in std::mem::take(&mut state.name_changes) {
            if state.rng.random_bool(keep) {
                change.apply(&mut state.durable_names);
            }
        }
        state.names = state.durable_names.clone();
        let named: BTreeSet<u64> = state.names.values().copied().collect();
        state.files.retain(|file, _| named.contains(file));
        state.revive();
    }

    /// The process ends at once; what it wrote stays in the page cache, unsynced.
    pub fn kill(&self) {
        self.state.lock().revive();
    }

    /// How many operations that change something there have been.
    pub fn ops(&self) -> u64 {
        self.state.lock().ops
    }

    /// From the n-th operation on (counted as [`SimDisk::ops`] does) all fail, that one half done, until
    /// [`SimDisk::lose_power`] or [`SimDisk::kill`].
    pub fn crash_at(&self, op: u64) {
        self.state.lock().crash_at = Some(op);
    }

    /// Whether the point given to [`SimDisk::crash_at`] was reached.
    pub fn crashed(&self) -> bool {
        self.state.lock().crashed
    }

    /// Lets the n-th sync of file data from now fail with EIO, 0 being the next. Its pages stay readable and clean.
    pub fn fail_sync(&self, after: u64) {
        self.state.lock().syncs_until_failure = Some(after);
    }

    /// Lets the n-th write from now fail with EIO, 0 being the next. Any part of it is written.
    pub fn fail_write(&self, after: u64) {
        self.state.lock().writes_until_failure = Some(after);
    }

    /// How many bytes all files together may have.
    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity = bytes;
    }

    /// How many bytes all files together have.
    pub fn used(&self) -> u64 {
        self.state.lock().used()
    }

    /// Flips the bits of `mask` in one byte, on the disk and in the cache. Whether there is such a byte.
    pub fn flip(&self, name: &str, at: u64, mask: u8) -> bool {
        let mut state = self.state.lock();
        let at = at as usize;
        state.content_mut(name).is_some_and(|content| {
            let mut found = false;
            for bytes in [&mut content.cache, &mut content.durable] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= mask;
                    found = true;
                }
            }
            found
        })
    }

    /// Fills a range with zeros, on the disk and in the cache: a write that the disk confirmed and dropped.
    pub fn zero(&self, name: &str, at: u64, len: u64) {
        let mut state = self.state.lock();
        if let Some(content) = state.content_mut(name) {
            for bytes in [&mut content.cache, &mut content.durable] {
                let end = bytes.len().min((at + len) as usize);
                bytes[(at as usize).min(end)..end].fill(0);
            }
        }
    }

    /// Takes a file away for good. Whether it was there.
    pub fn lose_file(&self, name: &str) -> bool {
        let mut state = self.state.lock();
        state.durable_names.remove(name);
        state.names.remove(name).is_some()
    }

    /// A file's bytes as a process reads them.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        self.state.lock().content_mut(name).map(|content| content.cache.clone())
    }

    fn file(&self, state: &State, file: u64) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { state: Arc::clone(&self.state), life: state.life, file })
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("SimDisk")
            .field("ops", &state.ops)
            .field("names", &state.names)
            .finish_non_exhaustive()
    }
}

impl State {
    fn revive(&mut self) {
        self.life += 1;
        self.crash_at = None;
        self.crashed = false;
        self.syncs_until_failure = None;
        self.writes_until_failure = None;
    }

    fn used(&self) -> u64 {
        self.names.values().filter_map(|file| self.files.get(file)).map(|c| c.cache.len() as u64).sum()
    }

    fn content_mut(&mut self, name: &str) -> Option<&mut Content> {
        let file = self.names.get(name)?;
        self.files.get_mut(file)
    }

    fn alive(&self) -> io::Result<()> {
        if self.crashed { Err(io::Error::other("simulated crash")) } else { Ok(()) }
    }

    /// Counts an operation. `Ok(true)`: it is the one in which the process ends, to be half done.
    fn step(&mut self) -> io::Result<bool> {
        self.alive()?;
        self.ops += 1;
        self.crashed = self.crash_at.is_some_and(|at| self.ops >= at);
        Ok(self.crashed)
    }

    /// A step that is done or not, by a coin if the crash hits it.
    fn atomic_step(&mut self) -> io::Result<()> {
        if self.step()? && self.rng.random_bool(0.5) { self.alive() } else { Ok(()) }
    }

    fn change_name(&mut self, change: NameChange) -> io::Result<()> {
        change.apply(&mut self.names);
        self.name_changes.push(change);
        self.alive()
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Set(name, file) => {
                names.insert(name.clone(), *file);
            }
            Self::Rename(from, to, file) => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl Content {
    /// Applies each sector of each unsynced write, in order, with probability `keep`, to what is durable.
    fn persist_some(&mut self, rng: &mut Rng, keep: f64) {
        for (at, bytes) in &self.unsynced {
            for (sector, part) in sectors(*at, bytes) {
                if rng.random_bool(keep) {
                    put(&mut self.durable, sector, part);
                }
            }
        }
    }

    fn sync(&mut self) {
        for (at, bytes) in std::mem::take(&mut self.unsynced) {
            put(&mut self.durable, at, &bytes);
        }
    }

    fn fail_sync(&mut self, rng: &mut Rng) {
        for (at, bytes) in std::mem::take(&mut self.unsynced) {
            for (position, part) in sectors(at, &bytes) {
                if rng.random_bool(0.5) {
                    put(&mut self.durable, position, part);
                    self.lost.remove(&(position / SECTOR));
                } else {
                    self.lost.insert(position / SECTOR);
                }
            }
        }
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        put(&mut self.cache, at, bytes);
        for (position, _) in sectors(at, bytes) {
            self.lost.remove(&(position / SECTOR));
        }
        self.unsynced.push((at, bytes.to_vec()));
    }
}

/// The parts of a write, cut at sector boundaries, each with its position.
fn sectors(at: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let position = at + done;
        let len = (SECTOR - position % SECTOR).min(bytes.len() - done);
        let part = &bytes[done..done + len];
        done += len;
        (len > 0).then_some((position, part))
    })
}

fn put(to: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if to.len() < at + bytes.len() {
        to.resize(at + bytes.len(), 0);
    }
    to[at..at + bytes.len()].copy_from_slice(bytes);
}

impl Disk for SimDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state.lock();
        state.alive()?;
        let file = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(&state, file))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.atomic_step()?;
        let file = state.next_file;
        state.next_file += 1;
        state.files.insert(file, Content::default());
        state.change_name(NameChange::Set(name.to_owned(), file))?;
        Ok(self.file(&state, file))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        state.alive()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.atomic_step()?;
        let file = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.change_name(NameChange::Rename(from.to_owned(), to.to_owned(), file))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.atomic_step()?;
        if !state.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_name(NameChange::Remove(name.to_owned()))
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.atomic_step()?;
        state.durable_names = state.names.clone();
        state.name_changes.clear();
        state.alive()
    }

    fn available(&self) -> io::Result<u64> {
        let state = self.state.lock();
        state.alive()?;
        Ok(state.capacity.saturating_sub(state.used()))
    }
}

struct SimFile {
    state: Arc<Mutex<State>>,
    life: u64,
    file: u64,
}

impl SimFile {
    fn with<T>(&self, act: impl FnOnce(&mut State, &mut Content) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state.lock();
        state.alive()?;
        if state.life != self.life {
            return Err(io::Error::other("a handle of a process that has ended"));
        }
        // Taken out for the call, so that the file and the rest of the disk can both be changed. A file without a
        // name lives on while it is open, as on Unix.
        let mut content = state.files.remove(&self.file).unwrap_or_default();
        let result = act(&mut state, &mut content);
        state.files.insert(self.file, content);
        result
    }
}

fn read(from: &[u8], buf: &mut [u8], at: usize) -> io::Result<()> {
    let bytes = from.get(at..at + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
    buf.copy_from_slice(bytes);
    Ok(())
}

/// Whether this is the operation that fails; those before it are counted down.
fn fails(until: &mut Option<u64>) -> bool {
    *until = match *until {
        Some(0) => {
            *until = None;
            return true;
        }
        left => left.map(|left| left - 1),
    };
    false
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        self.with(|_, content| read(&content.cache, buf, at as usize))
    }

    fn read_at_uncached(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        self.with(|_, content| {
            read(&content.cache, buf, at as usize)?;
            let (from, to) = (at as usize, at as usize + buf.len());
            for sector in content.lost.range(from / SECTOR..to.div_ceil(SECTOR)) {
                for position in (sector * SECTOR).max(from)..((sector + 1) * SECTOR).min(to) {
                    buf[position - from] = content.durable.get(position).copied().unwrap_or(0);
                }
            }
            Ok(())
        })
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.with(|state, content| {
            let at = at as usize;
            let grows = (at + bytes.len()).saturating_sub(content.cache.len()) as u64;
            // This file's own bytes are not in `used` while it is taken out.
            let room = state.capacity.saturating_sub(state.used() + content.cache.len() as u64);
            if state.step()? {
                let part = state.rng.random_range(0..=bytes.len());
                content.write(at, &bytes[..part]);
                return state.alive();
            }
            if fails(&mut state.writes_until_failure) {
                let part = state.rng.random_range(0..=bytes.len());
                content.write(at, &bytes[..part]);
                return Err(io::Error::other("simulated EIO"));
            }
            if grows > room {
                content.write(at, &bytes[..bytes.len() - (grows - room) as usize]);
                return Err(io::ErrorKind::StorageFull.into());
            }
            content.write(at, bytes);
            Ok(())
        })
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.write_at(&vec![0; len as usize], 0)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state, content| {
            if state.step()? {
                content.persist_some(&mut state.rng, 0.5);
                return state.alive();
            }
            if fails(&mut state.syncs_until_failure) {
                content.fail_sync(&mut state.rng);
                return Err(io::Error::other("simulated EIO"));
            }
            content.sync();
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|_, content| Ok(content.cache.len() as u64))
    }
}
