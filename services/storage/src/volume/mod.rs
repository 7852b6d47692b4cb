//! The volume: one per node, shared by all its shards; the truth.
//!
//! In: entries. Out: their places, once they are synced; after a restart, what stands. Single writer, synchronous, no
//! threads and no clock of its own: the simulation drives it directly. Must never write round n+1 before round n is
//! synced, write a block that holds acknowledged bytes, or go on after a sync has failed.

mod among;
mod error;
mod file;
mod reader;
mod recovery;
mod replay;
mod restart;
mod spans;
mod stock;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use meridian_types::{Seq, ShardId};

pub use among::Among;
pub use error::{ReadError, VolumeError, WriteError};
pub use file::{FileHeader, FileHeaderError, file_name, file_number};
pub use reader::{InOrder, VolumeReader};
pub use recovery::{Damage, DamageKind, Recovered, TornTail};
pub use replay::RecoveredShard;
pub use restart::{Restart, Restarts};
pub(crate) use stock::Stock;

use crate::aligned::BLOCK;
use crate::disk::Disk;
use crate::identity::Identity;
use crate::place::Place;
use crate::record::{Entry, Promise};
use crate::round::RoundBuilder;
use reader::{Files, OpenFile};
use recovery::{Position, Recovery, longest_round, padded_round};
use spans::Spans;

/// Says that the folder has had volume files: without them it has lost data, and is not merely new.
use crate::identity::VOLUME_MADE as MADE;

/// How a volume is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeConfig {
    /// The length of a new volume file, in bytes: whole blocks. A file takes entries up to two blocks less.
    pub file_bytes: u64,
    /// How much is gathered in one round, in bytes; a larger entry gets a round of its own.
    pub max_round_bytes: usize,
    /// How many zero-written files are kept ready.
    pub stock: usize,
    /// How much room on the disk is never taken for volume files, in bytes: for index flushes and Raft.
    pub reserve_bytes: u64,
}

impl Default for VolumeConfig {
    fn default() -> Self {
        Self {
            file_bytes: 64 * 1024 * 1024,
            max_round_bytes: 4 * 1024 * 1024,
            stock: 2,
            reserve_bytes: 256 * 1024 * 1024,
        }
    }
}

impl VolumeConfig {
    fn check(&self) -> Result<(), VolumeError> {
        if !self.file_bytes.is_multiple_of(BLOCK as u64) || self.file_bytes < 8 * BLOCK as u64 {
            return Err(VolumeError::Config("file_bytes must be whole blocks of 4 KiB, at least eight"));
        }
        if self.max_round_bytes == 0
            || padded_round(self.max_round_bytes as u64) > longest_round(self.file_bytes)
        {
            return Err(VolumeError::Config("max_round_bytes must be more than 0 and fit into file_bytes"));
        }
        Ok(())
    }
}

/// Whether an entry became part of the round that is put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Staged {
    Added,
    /// The round is long enough as it is.
    Full,
}

/// The end of a shard's log.
#[derive(Clone, Copy, Debug)]
struct Tail {
    seq: Seq,
    /// Where that frame lies; none: a log that was cut does not tell.
    place: Option<Place>,
}

/// The single writer of a node's volume.
pub struct Volume {
    disk: Arc<dyn Disk>,
    config: VolumeConfig,
    identity: Identity,
    files: Files,
    stock: Arc<Stock>,
    /// `None` until the first roll.
    current: Option<Position>,
    next_file: u64,
    next_generation: u64,
    next_round: u64,
    last_is_empty: bool,
    /// The last frame of each shard that has frames here.
    tails: HashMap<ShardId, Tail>,
    promises: BTreeMap<ShardId, Promise>,
    first_file: u64,
    /// Nothing is damaged, in doubt, or stored again.
    is_plain: bool,
    restarts: Restarts,
    spans: Arc<Spans>,
    round: RoundBuilder,
    staged: Vec<Option<(u64, u32)>>,
    /// Where a frame is known by where it begins in the round.
    staged_tails: HashMap<ShardId, Tail>,
    staged_promises: Vec<Promise>,
    /// Set by the first failure, for good.
    poison: Option<(io::ErrorKind, String)>,
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume").field("next_round", &self.next_round).finish_non_exhaustive()
    }
}

impl Volume {
    /// Opens the volume of a formatted folder ([`Identity::format`]), makes it if there is none, and recovers it.
    /// `applied_from` tells up to where a shard's frames need not be listed.
    ///
    /// When this returns, everything in [`Recovered`] is durable, and whatever was not acknowledged and is not in it is
    /// gone for good.
    ///
    /// # Errors
    /// [`VolumeError`]. A folder that a newer version wrote is left as it was.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: VolumeConfig,
        applied_from: &dyn Fn(ShardId) -> Seq,
    ) -> Result<(Self, Recovered), VolumeError> {
        Self::open_at(disk, config, None, applied_from)
    }

    /// As [`Volume::open`], but reads no more than what comes after a restart, if that is of this volume and all before it is
    /// applied. Else it reads everything.
    ///
    /// # Errors
    /// As [`Volume::open`].
    pub fn open_at(
        disk: Arc<dyn Disk>,
        config: VolumeConfig,
        restart: Option<&Restart>,
        applied_from: &dyn Fn(ShardId) -> Seq,
    ) -> Result<(Self, Recovered), VolumeError> {
        config.check()?;
        let folder =
            |action| move |source| VolumeError::Io { action, name: "the data folder".into(), source };
        let identity = Identity::read(&*disk)?;
        let names = disk.list().map_err(folder("list"))?;
        let made = names.iter().any(|name| name == MADE);
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| file_number(name)).collect();
        numbers.sort_unstable();
        if made && numbers.is_empty() {
            return Err(VolumeError::Lost);
        }
        // Names are like bytes: what is relied on below must be durable first.
        disk.sync_dir().map_err(folder("sync"))?;
        let outcome = Recovery::run(&*disk, &identity.secret, &numbers, restart, applied_from)?;

        let stock = Stock::open(Arc::clone(&disk), config.file_bytes, config.reserve_bytes, config.stock)
            .map_err(folder("tidy"))?;
        // What is applied or moved was here once: the log goes on after it, even where it is lost.
        let tail = |(id, found): (&ShardId, &RecoveredShard)| {
            let last = found.last.map_or(Seq::ZERO, |header| header.seq);
            let listed = found.frames.last().map_or(Seq::ZERO, |(seq, _)| *seq);
            let seq = last.max(listed).max(applied_from(*id));
            (*id, Tail { seq, place: found.last_place.filter(|_| last == seq) })
        };
        let recovered = &outcome.recovered;
        let tails = recovered.shards.iter().map(tail).collect();
        let is_plain = recovered.damage.is_empty() && recovered.shards.values().all(RecoveredShard::is_plain);
        let mut volume = Self {
            disk,
            config,
            identity,
            files: outcome.files,
            stock: Arc::new(stock),
            current: outcome.position,
            next_file: numbers.last().map_or(1, |last| last + 1),
            next_generation: outcome.max_generation + 1,
            next_round: outcome.next_round,
            last_is_empty: outcome.last_is_empty,
            tails,
            promises: recovered.promises.clone(),
            first_file: numbers.first().copied().unwrap_or(1),
            is_plain,
            restarts: Restarts::default(),
            spans: Arc::new(Spans::of(config.file_bytes)),
            round: RoundBuilder::new(config.max_round_bytes),
            staged: Vec::new(),
            staged_tails: HashMap::new(),
            staged_promises: Vec::new(),
            poison: None,
        };
        volume.begin(made)?;
        Ok((volume, outcome.recovered))
    }

    /// The first writes of a process: a file to write to, and the empty round at the cut.
    fn begin(&mut self, made: bool) -> Result<(), VolumeError> {
        let failed = |error| match error {
            WriteError::NoSpace => VolumeError::NoSpace,
            WriteError::Fatal(source) => {
                VolumeError::Io { action: "write to", name: "the volume".into(), source }
            }
            other => VolumeError::Io {
                action: "write to",
                name: "the volume".into(),
                source: io::Error::other(other),
            },
        };
        if self.current.is_none() {
            self.stock.make_first().map_err(failed)?;
            self.roll().map_err(failed)?;
        }
        if !made {
            let marked = self.disk.create(MADE).and_then(|_| self.disk.sync_dir());
            marked.map_err(|source| VolumeError::Io { action: "create", name: MADE.into(), source })?;
        }
        self.write_empty().map_err(failed)?;
        Ok(())
    }

    /// Whose volume this is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How the volume is laid out.
    pub fn config(&self) -> &VolumeConfig {
        &self.config
    }

    /// A reader of the volume, for any thread.
    pub fn reader(&self) -> VolumeReader {
        VolumeReader::new(Arc::clone(&self.files), Arc::clone(&self.spans))
    }

    /// What recovery may begin at, as the volume grows.
    pub fn restarts(&self) -> Restarts {
        self.restarts.clone()
    }

    /// The number that the next round gets. Those below are synced.
    pub fn next_round(&self) -> u64 {
        self.next_round
    }

    /// Whether the disk has no room for another file. What is left of the current one can still be written.
    pub fn is_full(&self) -> bool {
        self.stock.is_exhausted()
    }

    pub(crate) fn stock(&self) -> Arc<Stock> {
        Arc::clone(&self.stock)
    }

    /// Writes the entries as one round and syncs it. The places are of the frames, `None` for records.
    ///
    /// # Errors
    /// [`WriteError`]. After [`WriteError::Fatal`] every later call fails too; after any other nothing was written.
    pub fn write_round(&mut self, entries: &[Entry]) -> Result<Vec<Option<Place>>, WriteError> {
        let mut places = Vec::with_capacity(entries.len());
        let result = self.stage_all(entries).and_then(|()| self.commit(&mut places));
        self.discard();
        result.map(|()| places)
    }

    fn stage_all(&mut self, entries: &[Entry]) -> Result<(), WriteError> {
        for entry in entries {
            if self.stage(entry, usize::MAX)? == Staged::Full {
                let body = (self.round.body_len() + entry.encoded_len()) as u64;
                return Err(self.too_large(body));
            }
        }
        Ok(())
    }

    /// Writes an empty round, which proves that the one before it was synced; nothing if that was empty itself. To be
    /// called when nothing was written for 20 ms. Whether there was something to do.
    ///
    /// # Errors
    /// [`WriteError::Fatal`].
    pub fn write_idle_round(&mut self) -> Result<bool, WriteError> {
        self.check_poison()?;
        if self.last_is_empty || self.round.entries() > 0 {
            return Ok(false);
        }
        self.write_empty()
    }

    /// Zero-writes files until the stock is complete.
    ///
    /// # Errors
    /// [`WriteError::NoSpace`], which may pass, and [`WriteError::Fatal`].
    pub fn prepare(&mut self) -> Result<(), WriteError> {
        self.check_poison()?;
        let result = self.stock.fill(100);
        self.poisoned_by(result)
    }

    /// Adds an entry to the round that [`Volume::commit`] writes, unless that is `limit` bytes long already.
    pub(crate) fn stage(&mut self, entry: &Entry, limit: usize) -> Result<Staged, WriteError> {
        self.check_poison()?;
        let len = entry.encoded_len();
        if padded_round(len as u64) > longest_round(self.config.file_bytes) {
            return Err(self.too_large(len as u64));
        }
        let body = self.round.body_len() + len;
        let fits = padded_round(body as u64) <= longest_round(self.config.file_bytes);
        if self.round.entries() > 0 && (body > limit || !fits) {
            return Ok(Staged::Full);
        }
        let shard = entry.shard();
        let tail = self.staged_tails.get(&shard).or_else(|| self.tails.get(&shard)).map(|tail| tail.seq);
        match entry {
            Entry::Frame(frame) => {
                let found = frame.header.seq;
                // 0: all was cut, or nothing was ever here; a copy may then begin anywhere.
                if let Some(last) = tail.filter(|last| *last > Seq::ZERO)
                    && found != last.next()
                {
                    return Err(WriteError::OutOfOrder { shard, last, found });
                }
                let at = self.round.push(entry);
                let place = Some(Place { file: 0, at, len: len as u32 });
                self.staged_tails.insert(shard, Tail { seq: found, place });
                self.staged.push(Some((at, len as u32)));
            }
            Entry::Cut { from, .. } => {
                if tail.is_some_and(|last| *from <= last) {
                    self.staged_tails.insert(shard, Tail { seq: from.prev(), place: None });
                }
                self.round.push(entry);
                self.staged.push(None);
            }
            Entry::Moved(frame) => {
                self.is_plain = false;
                let at = self.round.push(entry);
                self.staged.push(Some((at, frame.encoded_len() as u32)));
            }
            Entry::Promise(_) | Entry::Doubt { .. } | Entry::Applied { .. } => {
                if let Entry::Promise(promise) = entry {
                    self.staged_promises.push(*promise);
                }
                self.is_plain &= !matches!(entry, Entry::Doubt { .. });
                self.round.push(entry);
                self.staged.push(None);
            }
        }
        Ok(Staged::Added)
    }

    /// Whether the last round is an empty one, which proves the one before it.
    pub(crate) fn is_proven(&self) -> bool {
        self.last_is_empty
    }

    /// Whether the file that is written to takes so many bytes more.
    pub(crate) fn has_room_in_file(&self, bytes: u64) -> bool {
        self.current.as_ref().is_some_and(|current| current.at + bytes < current.len)
    }

    /// How many bytes are staged.
    pub(crate) fn staged_bytes(&self) -> usize {
        self.round.body_len()
    }

    /// Writes and syncs what is staged, and appends the place of each entry to `places`. After
    /// [`WriteError::NoSpace`] it is still staged, to be committed again.
    pub(crate) fn commit(&mut self, places: &mut Vec<Option<Place>>) -> Result<(), WriteError> {
        self.check_poison()?;
        if self.round.entries() == 0 {
            return Ok(());
        }
        let len = self.round.padded_len();
        // One block stays free for the empty round that follows this one.
        if self.current.as_ref().is_none_or(|current| current.at + len + BLOCK as u64 > current.len) {
            let result = self.roll();
            self.poisoned_by(result)?;
        }
        let (file, start) = self.write_staged()?;
        self.last_is_empty = false;
        places.extend(
            self.staged.iter().map(|staged| staged.map(|(at, len)| Place { file, at: start + at, len })),
        );
        let placed = |place: Place| Place { file, at: start + place.at, ..place };
        let tails = self.staged_tails.drain();
        self.tails.extend(tails.map(|(shard, tail)| (shard, Tail { place: tail.place.map(placed), ..tail })));
        self.promises.extend(self.staged_promises.drain(..).map(|promise| (promise.shard, promise)));
        self.discard();
        Ok(())
    }

    /// Forgets what is staged.
    pub(crate) fn discard(&mut self) {
        self.round.clear();
        self.staged.clear();
        self.staged_tails.clear();
        self.staged_promises.clear();
    }

    fn too_large(&self, body: u64) -> WriteError {
        WriteError::TooLarge { bytes: padded_round(body), max: longest_round(self.config.file_bytes) }
    }

    /// Writes an empty round if the file has room for it. It has, after any round but an empty one.
    fn write_empty(&mut self) -> Result<bool, WriteError> {
        let room = self.current.as_ref().is_some_and(|current| current.at + BLOCK as u64 <= current.len);
        if !room {
            return Ok(false);
        }
        self.discard();
        self.write_staged()?;
        self.last_is_empty = true;
        Ok(true)
    }

    /// Writes the round at the current position and syncs it. The file's number, and where the round starts.
    fn write_staged(&mut self) -> Result<(u64, u64), WriteError> {
        let Some(current) = &mut self.current else {
            return Err(WriteError::Fatal(io::Error::other("no file to write to")));
        };
        let bytes = self.round.seal(&self.identity.secret, current.generation, self.next_round, current.at);
        // Or it would be written through the page cache, and nobody would notice.
        debug_assert!(current.at.is_multiple_of(BLOCK as u64) && bytes.as_ptr().align_offset(BLOCK) == 0);
        let written = current.file.write_at(bytes, current.at);
        if let Err(error) = &written
            && error.kind() == io::ErrorKind::StorageFull
        {
            // A file system that copies on write. These blocks hold nothing that was acknowledged.
            return Err(WriteError::NoSpace);
        }
        let synced = written.and_then(|()| current.file.sync_data());
        self.stock.wrote_round(bytes.len() as u64);
        let start = current.at;
        if synced.is_ok() {
            current.at += bytes.len() as u64;
            self.next_round += 1;
            if let Some(open) = self.files.read().get(&current.number) {
                open.end.store(current.at, Ordering::Release);
            }
        }
        let number = current.number;
        self.poisoned_by(synced.map_err(WriteError::Fatal))?;
        Ok((number, start))
    }

    /// Goes on in a new file. Its header is synced before it has its name, and its name before it has a round.
    fn roll(&mut self) -> Result<(), WriteError> {
        let stocked = self.stock.take()?;
        let header = FileHeader {
            number: self.next_file,
            generation: self.next_generation,
            first_round: self.next_round,
            len: self.config.file_bytes,
        };
        let name = file_name(header.number);
        let begun = self.disk.open(&stocked).and_then(|file| {
            file.write_at(&header.encode(&self.identity.secret), 0)?;
            file.sync_data()?;
            self.disk.rename(&stocked, &name)
        });
        match begun {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                self.stock.put_back(stocked);
                return Err(WriteError::NoSpace);
            }
            other => other.map_err(WriteError::Fatal)?,
        }
        self.disk.sync_dir().map_err(WriteError::Fatal)?;
        // Opened again by the name that it keeps: for readers, and for rounds.
        let read = self.disk.open(&name).map_err(WriteError::Fatal)?;
        let file = self.disk.open_uncached(&name).map_err(WriteError::Fatal)?;
        let (number, at) = (header.number, BLOCK as u64);
        let open = OpenFile { file: read, end: AtomicU64::new(at) };
        self.files.write().insert(number, Arc::new(open));
        self.next_file += 1;
        self.next_generation += 1;
        if let Some(restart) = self.restart_at(&header) {
            self.restarts.made(restart);
        }
        self.current =
            Some(Position { number, generation: header.generation, file, at, len: self.config.file_bytes });
        Ok(())
    }

    /// What recovery may begin with in a new file, if everything before it is as the frames and promises here tell.
    fn restart_at(&self, header: &FileHeader) -> Option<Restart> {
        let placed = |(shard, tail): (&ShardId, &Tail)| Some((*shard, (tail.seq, tail.place?)));
        // Of what was cut to nothing there is nothing to tell.
        let some = self.tails.iter().filter(|(_, tail)| tail.seq > Seq::ZERO);
        let tails = some.map(placed).collect::<Option<BTreeMap<_, _>>>();
        let tails = tails.filter(|_| self.is_plain)?;
        Some(Restart {
            first_file: self.first_file,
            file: header.number,
            generation: header.generation,
            first_round: header.first_round,
            tails,
            promises: self.promises.clone(),
        })
    }

    fn check_poison(&self) -> Result<(), WriteError> {
        match &self.poison {
            Some((kind, what)) => Err(WriteError::Fatal(io::Error::new(*kind, what.clone()))),
            None => Ok(()),
        }
    }

    fn poisoned_by<T>(&mut self, result: Result<T, WriteError>) -> Result<T, WriteError> {
        if let Err(WriteError::Fatal(error)) = &result {
            self.poison.get_or_insert((error.kind(), error.to_string()));
        }
        result
    }
}
