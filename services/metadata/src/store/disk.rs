//! The files of one group on one node: RocksDB with the log, the anchor, the snapshots; all writes under one lock.

use std::path::{Path, PathBuf};

use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard};
use rocksdb::{DB, DBRecoveryMode, Options, WriteBatch, WriteOptions};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::anchor::Anchor;
use super::codec::{ENTRIES_END, entry_key, entry_value, index_of, purged_value, read_entry};
use super::error::StoreError;
use crate::raft::{Entry, LogId, log_id_to_wire};

/// A memtable this small keeps the replay of a start short.
const MEMTABLE_BYTES: usize = 8 * 1024 * 1024;

/// The open files.
pub(crate) struct Disk {
    /// The folder with all of it.
    pub(super) dir: PathBuf,
    db: RwLock<Option<DB>>,
    writer: Mutex<Writer>,
}

/// What writing needs, under its lock.
pub(super) struct Writer {
    pub anchor: Anchor,
    /// Of the entries in the log; where there are none, what was purged.
    pub last: Option<LogId>,
    pub purged: Option<LogId>,
}

impl Disk {
    pub(super) fn new(dir: PathBuf, db: DB, writer: Writer) -> Self {
        Self { dir, db: RwLock::new(Some(db)), writer: Mutex::new(writer) }
    }

    /// Where RocksDB is.
    pub(super) fn log_dir(dir: &Path) -> PathBuf {
        dir.join("log")
    }

    /// Where the anchor is.
    pub(super) fn anchor_path(dir: &Path) -> PathBuf {
        dir.join("anchor")
    }

    /// Where the snapshots are.
    pub(super) fn snapshot_dir(dir: &Path) -> PathBuf {
        dir.join("snapshots")
    }

    pub(super) fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock()
    }

    /// Lets go of RocksDB and its lock on the folder. What is asked afterwards is answered with
    /// [`StoreError::Closed`].
    pub(crate) fn close(&self) {
        let db = self.db.write().take();
        if let Some(db) = db {
            db.cancel_all_background_work(true);
        }
    }

    fn db(&self) -> Result<RwLockReadGuard<'_, Option<DB>>, StoreError> {
        let db = self.db.read();
        match db.is_some() {
            true => Ok(db),
            false => Err(StoreError::Closed),
        }
    }

    fn with_db<T>(&self, work: impl FnOnce(&DB) -> Result<T, rocksdb::Error>) -> Result<T, StoreError> {
        let db = self.db()?;
        let db = db.as_ref().ok_or(StoreError::Closed)?;
        work(db).map_err(|error| rocks(&self.dir, &error))
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.with_db(|db| db.write_opt(batch, &options))
    }

    /// Adds entries, which follow one another. On the disk, log and anchor, when this returns.
    pub(super) fn append(&self, entries: &[Entry]) -> Result<(), StoreError> {
        let Some(last) = entries.last().map(|entry| entry.log_id) else { return Ok(()) };
        blocking(|| {
            let mut writer = self.writer();
            let mut batch = WriteBatch::default();
            for entry in entries {
                batch.put(entry_key(entry.log_id.index), entry_value(entry));
            }
            self.write(batch)?;
            writer.last = Some(last);
            writer.anchor.update(|anchor| anchor.last_log_id = Some(log_id_to_wire(&last)))
        })
    }

    /// Drops the entries after `after`; all where it is `None`.
    pub(super) fn truncate(&self, after: Option<LogId>) -> Result<(), StoreError> {
        blocking(|| {
            let mut writer = self.writer();
            let from = after.map_or(0, |id| id.index + 1);
            if writer.last.is_none_or(|last| last.index < from) {
                return Ok(());
            }
            let last = after.max(writer.purged);
            // The anchor goes first: a crash in between leaves entries that it does not ask for, never the reverse.
            writer.anchor.update(|anchor| anchor.last_log_id = last.as_ref().map(log_id_to_wire))?;
            let mut batch = WriteBatch::default();
            batch.delete_range(entry_key(from).as_slice(), ENTRIES_END);
            self.write(batch)?;
            writer.last = last;
            Ok(())
        })
    }

    /// Drops the entries up to and with `upto`.
    pub(super) fn purge(&self, upto: LogId) -> Result<(), StoreError> {
        blocking(|| {
            let mut writer = self.writer();
            if writer.purged.is_some_and(|purged| purged >= upto) {
                return Ok(());
            }
            let mut batch = WriteBatch::default();
            batch.delete_range(entry_key(0).as_slice(), entry_key(upto.index + 1).as_slice());
            batch.put(super::codec::PURGED, purged_value(&upto));
            self.write(batch)?;
            writer.purged = Some(upto);
            if writer.last.is_none_or(|last| last.index <= upto.index) {
                writer.last = Some(upto);
                writer.anchor.update(|anchor| anchor.last_log_id = Some(log_id_to_wire(&upto)))?;
            }
            Ok(())
        })
    }

    /// The entries of [start, end) that there are, at most `bytes` of them where that is not `None`, but one at least.
    pub(super) fn read(&self, start: u64, end: u64, bytes: Option<usize>) -> Result<Vec<Entry>, StoreError> {
        let db = self.db()?;
        let db = db.as_ref().ok_or(StoreError::Closed)?;
        let path = Self::log_dir(&self.dir);
        let mut entries: Vec<Entry> = Vec::new();
        let mut taken = 0;
        for item in entries_from(db, start) {
            let (key, value) = item.map_err(|error| rocks(&self.dir, &error))?;
            if index_of(&key).is_none_or(|index| index >= end) {
                break;
            }
            taken += value.len();
            if bytes.is_some_and(|most| taken > most) && !entries.is_empty() {
                break;
            }
            let entry = read_entry(&path, &key, &value)?;
            if let Some(before) = entries.last()
                && entry.log_id.index != before.log_id.index + 1
            {
                return Err(StoreError::damaged(
                    &path,
                    format!("entry {} is followed by {}", before.log_id.index, entry.log_id.index),
                ));
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}

/// Key and value.
type Record = (Box<[u8]>, Box<[u8]>);

/// The records from an index on, in order.
pub(super) fn entries_from(db: &DB, start: u64) -> impl Iterator<Item = Result<Record, rocksdb::Error>> + '_ {
    let mut options = rocksdb::ReadOptions::default();
    options.set_iterate_range(entry_key(start).to_vec()..ENTRIES_END.to_vec());
    db.iterator_opt(rocksdb::IteratorMode::Start, options)
}

pub(super) fn rocks(dir: &Path, error: &rocksdb::Error) -> StoreError {
    let path = Disk::log_dir(dir);
    match error.kind() {
        rocksdb::ErrorKind::Corruption => StoreError::damaged(path, error.to_string()),
        _ => StoreError::RocksDb { path, message: error.to_string() },
    }
}

/// How RocksDB is opened, for checking and for use alike.
pub(super) fn options(create: bool) -> Options {
    let mut options = Options::default();
    options.create_if_missing(create);
    options.set_paranoid_checks(true);
    // Opens just before a corruption or a torn end, and says nothing: the anchor says whether that is enough.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_write_buffer_size(MEMTABLE_BYTES);
    options.set_max_total_wal_size(8 * MEMTABLE_BYTES as u64);
    options.set_keep_log_file_num(2);
    options.set_max_open_files(64);
    options
}

/// Waits for the disk without holding up the other tasks of this thread.
pub(super) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => {
            tokio::task::block_in_place(work)
        }
        _ => work(),
    }
}
