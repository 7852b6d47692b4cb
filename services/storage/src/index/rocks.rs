//! The floor on RocksDB.
//!
//! RocksDB's own write-ahead log is off: the volume is the log. Atomic flush is on, so that what reaches the disk is a
//! prefix of the batches over all families, and neither an explicit nor a background flush can part a mark from its rows.
//! Closing does not flush: only [`flush`](KeyValue::flush) makes durable on purpose, and a clean end without it is no
//! different from a crash.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, ErrorKind,
    FlushOptions, LogLevel, Options, ReadOptions, WriteBatch, WriteBufferManager, WriteOptions,
};
use rustix::process::{Pid, setpriority_process};

use super::keys::{FORMAT, FORMAT_KEY, Family, StoredFormat};
use super::kv::Doing;
use super::{Batch, Change, Direction, KeyRange, KeyValue, KvError, Pair};

/// What an index may use of the machine. Together with a few hundred KiB for each open file this bounds its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RocksConfig {
    /// Bytes for blocks, their indexes and filters that were read.
    pub block_cache_bytes: usize,
    /// Bytes for what was written and is not flushed yet; reached, RocksDB flushes by itself.
    pub memtable_bytes: usize,
    /// Threads for flushes and compactions.
    pub background_jobs: u16,
    /// Files held open.
    pub open_files: u16,
}

impl Default for RocksConfig {
    /// 32 MiB of cache, 32 MiB of memtables, 2 threads, 256 files.
    fn default() -> Self {
        Self { block_cache_bytes: 32 << 20, memtable_bytes: 32 << 20, background_jobs: 2, open_files: 256 }
    }
}

/// A [`KeyValue`] in a folder.
pub struct RocksKeyValue {
    db: DB,
}

impl RocksKeyValue {
    /// Opens the folder, and makes it where there is none. A folder of a newer format is refused before anything in it
    /// is changed.
    pub fn open(folder: &Path, config: &RocksConfig) -> Result<Self, KvError> {
        refuse_newer(folder)?;
        let opening = |error| failed(Doing::Open, folder, error);
        let cache = Cache::new_lru_cache(config.block_cache_bytes);
        let memory = WriteBufferManager::new_write_buffer_manager(config.memtable_bytes, false);
        let families = Family::ALL
            .iter()
            .map(|&family| {
                Ok(ColumnFamilyDescriptor::new(family.name(), family_options(family, config, &cache)?))
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(opening)?;
        let options = database_options(config, &memory).map_err(opening)?;
        let db = DB::open_cf_descriptors(&options, folder, families).map_err(opening)?;
        step_back_with_compactions();
        for family in Family::ALL {
            if db.cf_handle(family.name()).is_none() {
                return Err(KvError::Damaged { detail: format!("no column family {}", family.name()) });
            }
        }
        Ok(Self { db })
    }

    fn family(&self, family: Family) -> Result<&ColumnFamily, KvError> {
        let missing = || KvError::Damaged { detail: format!("no column family {}", family.name()) };
        self.db.cf_handle(family.name()).ok_or_else(missing)
    }

    fn failed(&self, doing: Doing, error: rocksdb::Error) -> KvError {
        failed(doing, self.db.path(), error)
    }
}

impl KeyValue for RocksKeyValue {
    fn write(&self, batch: Batch) -> Result<(), KvError> {
        let mut rows = WriteBatch::default();
        for change in batch.changes {
            match change {
                Change::Put { family, key, value } => rows.put_cf(self.family(family)?, key, value),
                Change::Delete { family, key } => rows.delete_cf(self.family(family)?, key),
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(rows, &options).map_err(|error| self.failed(Doing::Write, error))
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.db.get_cf(self.family(family)?, key).map_err(|error| self.failed(Doing::Read, error))
    }

    fn scan(
        &self,
        family: Family,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Pair>, KvError> {
        if range.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(range.from.as_slice());
        if let Some(to) = &range.to {
            options.set_iterate_upper_bound(to.as_slice());
        }
        let mut rows = self.db.raw_iterator_cf_opt(self.family(family)?, options);
        match direction {
            Direction::Forward => rows.seek_to_first(),
            Direction::Reverse => rows.seek_to_last(),
        }
        let mut found = Vec::new();
        while let Some((key, value)) = rows.item() {
            found.push((key.to_vec(), value.to_vec()));
            if found.len() == limit {
                break;
            }
            match direction {
                Direction::Forward => rows.next(),
                Direction::Reverse => rows.prev(),
            }
        }
        // An iterator that hit a damaged block ends as one that hit the end does; only its status tells them apart.
        rows.status().map_err(|error| self.failed(Doing::Read, error))?;
        Ok(found)
    }

    fn flush(&self) -> Result<(), KvError> {
        let families =
            Family::ALL.iter().map(|&family| self.family(family)).collect::<Result<Vec<_>, _>>()?;
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db
            .flush_cfs_opt(&families.iter().collect::<Vec<_>>(), &options)
            .map_err(|error| self.failed(Doing::Flush, error))
    }
}

/// Reads the format without opening for writing, which would make files.
fn refuse_newer(folder: &Path) -> Result<(), KvError> {
    // RocksDB names its current manifest in this file, from the first open on.
    if !folder.join("CURRENT").exists() {
        return Ok(());
    }
    let reading = |error| failed(Doing::Open, folder, error);
    let db = DB::open_for_read_only(&Options::default(), folder, false).map_err(reading)?;
    let value = db.get(FORMAT_KEY).map_err(reading)?;
    match StoredFormat::of(value.as_deref()) {
        StoredFormat::Absent | StoredFormat::Older | StoredFormat::Current => Ok(()),
        StoredFormat::Newer(found) => {
            Err(KvError::NewerFormat { folder: folder.display().to_string(), found, known: FORMAT })
        }
        StoredFormat::Garbled => Err(KvError::Damaged { detail: "its format is not a number".to_owned() }),
    }
}

/// The names of RocksDB's threads for compactions, and how far they step back: to a tenth of a core where everybody wants one.
const COMPACTING: &str = "rocksdb:low";
const STEP_BACK: i32 = 10;

/// Lets compactions go behind what somebody waits for. Not as far behind as RocksDB's own setting would, which is as far as the system has it:
/// where they never came to run, writes would wait for them in the end. Flushes, for which writes wait sooner, stay where they are. The
/// threads are the process's, for all its databases, and are there once one is open. Where this fails they share the cores evenly.
fn step_back_with_compactions() {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return };
    for thread in threads.flatten() {
        let name = std::fs::read_to_string(thread.path().join("comm"));
        let id = thread.file_name().to_str().and_then(|id| id.parse().ok());
        let (Ok(name), Some(id)) = (name, id.and_then(Pid::from_raw)) else { continue };
        if name.trim_end() == COMPACTING {
            // Threads have priorities of their own on Linux.
            let _ = setpriority_process(Some(id), STEP_BACK);
        }
    }
}

fn database_options(config: &RocksConfig, memory: &WriteBufferManager) -> Result<Options, rocksdb::Error> {
    // This one has no setter in the bindings; see the module's first lines for the reason.
    let mut options = Options::default().get_options_from_string("avoid_flush_during_shutdown=true")?;
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_atomic_flush(true);
    options.set_write_buffer_manager(memory);
    options.set_max_background_jobs(i32::from(config.background_jobs));
    options.set_max_open_files(i32::from(config.open_files));
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 << 20);
    options.set_max_manifest_file_size(16 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_skip_stats_update_on_db_open(true);
    Ok(options)
}

fn family_options(family: Family, config: &RocksConfig, cache: &Cache) -> Result<Options, rocksdb::Error> {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_bloom_filter(10.0, false);
    // Rows of a shard or a lane come in the order of their keys, so each goes behind the one before it: its place in the
    // memtable is not searched for anew. This one has no setter either.
    let hint = format!("memtable_insert_with_hint_prefix_extractor=fixed:{}", family.prefix_bytes());
    let mut options = Options::default().get_options_from_string(&hint)?;
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    // One family is filled long before the others: places and offsets grow with every frame, marks hardly at all.
    options.set_write_buffer_size((config.memtable_bytes / 4).max(64 << 10));
    options.set_arena_block_size(64 << 10);
    Ok(options)
}

fn failed(doing: Doing, folder: &Path, error: rocksdb::Error) -> KvError {
    let kind = error.kind();
    let detail = error.into_string();
    match kind {
        ErrorKind::Corruption => KvError::Damaged { detail },
        // RocksDB has no kind of its own for this; both words are in its messages for a lock of this process and of others.
        ErrorKind::IOError if doing == Doing::Open && detail.contains("lock") && detail.contains("LOCK") => {
            KvError::InUse { folder: folder.display().to_string() }
        }
        _ => KvError::Failed { doing, detail },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::super::conformance::{self, Subject};
    use super::super::{Index, IndexError, MemoryKeyValue};
    use super::*;

    struct OnDisk {
        kv: Option<RocksKeyValue>,
        folder: Arc<tempfile::TempDir>,
    }

    impl OnDisk {
        fn new() -> Self {
            let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
            Self { kv: Some(small(folder.path()).expect("a new index")), folder }
        }
    }

    fn small(folder: &Path) -> Result<RocksKeyValue, KvError> {
        RocksKeyValue::open(folder, &RocksConfig { memtable_bytes: 4 << 20, ..RocksConfig::default() })
    }

    impl Subject for OnDisk {
        fn kv(&self) -> &dyn KeyValue {
            self.kv.as_ref().expect("open")
        }

        fn crash(mut self) -> Self {
            drop(self.kv.take());
            Self {
                kv: Some(small(self.folder.path()).expect("an index that crashed opens")),
                folder: self.folder,
            }
        }
    }

    #[test]
    fn conforms() {
        conformance::suite(OnDisk::new);
    }

    #[test]
    fn does_what_its_twin_does() {
        conformance::compare(OnDisk::new, Arc::<MemoryKeyValue>::default);
    }

    #[test]
    fn outgrowing_the_memtables_keeps_a_prefix() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = RocksConfig { memtable_bytes: 512 << 10, ..RocksConfig::default() };
        let kv = RocksKeyValue::open(folder.path(), &config).expect("a new index");
        // Each batch has a row in two families; several MiB of them make RocksDB flush by itself again and again.
        let written = 20_000u32;
        for number in 0..written {
            let mut batch = Batch::default();
            batch.put(Family::Places, number.to_be_bytes(), [number as u8; 200]);
            batch.put(Family::Marks, b"mark", number.to_le_bytes());
            kv.write(batch).expect("a write");
        }
        drop(kv);
        let kv = RocksKeyValue::open(folder.path(), &config).expect("an index that crashed opens");
        let mark = kv.get(Family::Marks, b"mark").expect("a read").expect("RocksDB has flushed by itself");
        let mark = u32::from_le_bytes(mark.try_into().expect("four bytes"));
        let rows = kv.scan(Family::Places, &KeyRange::all(), Direction::Forward, usize::MAX).expect("a scan");
        let expected: Vec<Pair> =
            (0..=mark).map(|number| (number.to_be_bytes().to_vec(), vec![number as u8; 200])).collect();
        assert!(rows == expected, "mark {mark}, but {} rows", rows.len());
    }

    #[test]
    fn a_second_opening_is_told_so() {
        let one = OnDisk::new();
        assert!(matches!(small(one.folder.path()), Err(KvError::InUse { .. })));
    }

    #[test]
    fn a_newer_format_is_refused_and_nothing_written() {
        let one = OnDisk::new();
        let mut batch = Batch::default();
        batch.put(Family::Default, FORMAT_KEY, (FORMAT + 1).to_le_bytes());
        one.kv().write(batch).expect("a write");
        one.kv().flush().expect("a flush");
        let OnDisk { kv, folder } = one;
        drop(kv);
        let before = contents(folder.path());
        let refused = small(folder.path()).err();
        assert!(
            matches!(refused, Some(KvError::NewerFormat { found, known: FORMAT, .. }) if found == FORMAT + 1),
            "{refused:?}"
        );
        assert!(before == contents(folder.path()), "the folder was changed");
    }

    #[test]
    fn the_typed_index_stamps_its_format_durably() {
        let one = OnDisk::new();
        let folder = Arc::clone(&one.folder);
        let kv = Arc::new(one.kv.expect("open"));
        drop(Index::open(kv).expect("a new index"));
        let again = small(folder.path()).expect("opens again");
        let stamped = again.get(Family::Default, FORMAT_KEY).expect("a read");
        assert_eq!(StoredFormat::of(stamped.as_deref()), StoredFormat::Current);
    }

    #[test]
    fn damage_is_called_damage() {
        let one = OnDisk::new();
        let folder = Arc::clone(&one.folder);
        let kv = Arc::new(one.kv.expect("open"));
        let mut batch = Batch::default();
        for number in 0..1_000u32 {
            batch.put(Family::Marks, number.to_be_bytes(), number.to_le_bytes());
        }
        kv.write(batch).expect("a write");
        kv.flush().expect("a flush");
        drop(kv);
        for path in tables(folder.path()) {
            let mut bytes = std::fs::read(&path).expect("a table");
            bytes[40] ^= 1;
            std::fs::write(&path, bytes).expect("a table");
        }
        let outcome = small(folder.path()).map_err(IndexError::from).and_then(|kv| {
            kv.scan(Family::Marks, &KeyRange::all(), Direction::Forward, usize::MAX).map_err(IndexError::from)
        });
        assert!(matches!(outcome, Err(IndexError::Kv(KvError::Damaged { .. }))), "{outcome:?}");
    }

    fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = std::fs::read_dir(folder).expect("the folder");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.map(|path| (path.clone(), std::fs::read(&path).expect("a file"))).collect()
    }

    fn tables(folder: &Path) -> Vec<PathBuf> {
        contents(folder).into_keys().filter(|path| path.extension().is_some_and(|ext| ext == "sst")).collect()
    }

    #[test]
    fn compactions_step_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let _index = RocksKeyValue::open(folder.path(), &RocksConfig::default()).expect("an index");
        // proc_pid_stat(5): the name in brackets, the state, and the nice value as the 19th field. Threads may end meanwhile.
        let nice_of = |stat: &str| {
            let (name, fields) = stat.rsplit_once(')')?;
            name.ends_with(COMPACTING).then(|| fields.split_whitespace().nth(16).map(str::to_owned))?
        };
        let nices = || -> Vec<String> {
            let threads = std::fs::read_dir("/proc/self/task").expect("threads").flatten();
            let stats = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
            stats.filter_map(|stat| nice_of(&stat)).collect()
        };
        // Another test's index may have made them just now.
        let begun = std::time::Instant::now();
        let all_have = |nices: &[String]| nices.iter().all(|nice| *nice == STEP_BACK.to_string());
        while !all_have(&nices()) && begun.elapsed().as_secs() < 10 {
            std::thread::yield_now();
        }
        let nices = nices();
        assert!(all_have(&nices), "{nices:?}");
        assert!(!nices.is_empty(), "RocksDB's threads have another name");
    }
}
