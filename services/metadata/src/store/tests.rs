//! openraft's own suite, what a reopened store gives back, and what a damaged one must never do.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use meridian_types::{DiskUuid, NodeId, StreamName, TenantId, Timestamp};
use openraft::entry::RaftEntry as _;
use openraft::storage::{
    RaftLogReader as _, RaftLogStorage as _, RaftSnapshotBuilder as _, RaftStateMachine as _,
};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, StorageError};
use tempfile::TempDir;
use uuid::Uuid;

use super::StoreError;
use super::log::LogStore;
use super::machine::MachineStore;
use super::open::{Identity, Store};
use crate::catalog::{self, Catalog, Change, Command};
use crate::raft::{CommandBytes, Entry, LeaderId, LogId, TypeConfig, Vote};

const IDENTITY: Identity = Identity { node: NodeId(1), disk: DiskUuid(Uuid::from_u128(0xD1)) };

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, MachineStore<Catalog>, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, MachineStore<Catalog>), StorageError<TypeConfig>> {
        let dir = TempDir::new().unwrap();
        let store = Store::<Catalog>::open(dir.path(), IDENTITY).unwrap();
        Ok((dir, store.log(), store.machine()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_suite() {
    Suite::test_all(Builder).await.unwrap();
}

fn id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId { term, node_id: 1 }, index)
}

fn entry(term: u64, index: u64, change: Change) -> Entry {
    let command = Command {
        request: catalog::RequestId(Uuid::from_u128(u128::from(index) + 1)),
        at: Timestamp(index),
        change,
    };
    Entry::new(id(term, index), EntryPayload::Normal(CommandBytes(command.to_bytes())))
}

fn genesis() -> Change {
    Change::Genesis(crate::testing::genesis(&[1, 2, 3]))
}

fn create(name: String) -> Change {
    Change::CreateStream(catalog::CreateStream {
        tenant: TenantId::DEFAULT,
        name: StreamName::new(name).unwrap(),
        settings: catalog::StreamSettings { partitions: 4, ..Default::default() },
    })
}

/// Everything that was acknowledged.
#[derive(Debug, PartialEq)]
struct Facts {
    vote: Option<Vote>,
    last: Option<LogId>,
    purged: Option<LogId>,
    applied: Option<LogId>,
    entries: Vec<LogId>,
    catalog: Catalog,
    snapshot: Option<LogId>,
}

async fn facts(store: &Store<Catalog>) -> Result<Facts, std::io::Error> {
    let mut log = store.log();
    let state = log.get_log_state().await?;
    let version = store.published.version();
    Ok(Facts {
        vote: log.read_vote().await?,
        last: state.last_log_id,
        purged: state.last_purged_log_id,
        applied: version.applied,
        entries: log.try_get_log_entries(0..).await?.iter().map(|e| e.log_id).collect(),
        catalog: Catalog::clone(&version.machine),
        snapshot: store.machine().get_current_snapshot().await?.and_then(|s| s.meta.last_log_id),
    })
}

/// A store with a vote, a purged head, a snapshot, a committed tail over it and an uncommitted end.
async fn fill(dir: &Path) -> Facts {
    let store = Store::<Catalog>::open(dir, IDENTITY).unwrap();
    let mut log = store.log();
    log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
    let mut entries = vec![entry(1, 0, genesis())];
    entries.extend((1..40).map(|i| entry(1, i, create(format!("s{i}")))));
    store.disk.append(&entries[..20]).unwrap();
    log.save_committed(Some(id(1, 19))).await.unwrap();
    drop(log);
    store.disk.close();
    drop(store);
    // What was recovered from the write-ahead log lies in a table file now, what follows in the write-ahead log.
    let store = Store::<Catalog>::open(dir, IDENTITY).unwrap();
    let mut log = store.log();
    assert_eq!(store.published.version().applied, Some(id(1, 19)));
    store.machine().get_snapshot_builder().await.build_snapshot().await.unwrap();
    log.purge(id(1, 9)).await.unwrap();
    store.disk.append(&entries[20..]).unwrap();
    log.save_vote(&Vote::new(2, 3)).await.unwrap();
    log.save_committed(Some(id(1, 29))).await.unwrap();
    store.disk.close();
    let store = Store::<Catalog>::open(dir, IDENTITY).unwrap();
    // And some in the write-ahead log again.
    store.disk.append(&(40..50).map(|i| entry(1, i, create(format!("s{i}")))).collect::<Vec<_>>()).unwrap();
    store.log().save_committed(Some(id(1, 44))).await.unwrap();
    store.disk.close();
    let store = Store::<Catalog>::open(dir, IDENTITY).unwrap();
    let facts = facts(&store).await.unwrap();
    store.disk.close();
    facts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reopened_store_gives_back_all_and_the_state_without_a_quorum() {
    let dir = TempDir::new().unwrap();
    let facts = fill(dir.path()).await;
    assert_eq!(facts.vote, Some(Vote::new(2, 3)));
    assert_eq!((facts.purged, facts.last), (Some(id(1, 9)), Some(id(1, 49))));
    assert_eq!((facts.snapshot, facts.applied), (Some(id(1, 19)), Some(id(1, 44))));
    assert_eq!(facts.entries, (10..50).map(|i| id(1, i)).collect::<Vec<_>>());
    assert_eq!(facts.catalog.streams().count(), 44);
    assert_eq!(facts.catalog.cluster(), Some(crate::testing::CLUSTER));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn truncated_entries_stay_gone_and_others_take_their_place() {
    let dir = TempDir::new().unwrap();
    let store = Store::<Catalog>::open(dir.path(), IDENTITY).unwrap();
    let entries: Vec<_> = (0..10).map(|i| entry(1, i, create(format!("a{i}")))).collect();
    store.disk.append(&entries).unwrap();
    store.log().truncate_after(Some(id(1, 5))).await.unwrap();
    store.disk.append(&[entry(2, 6, create("b".into()))]).unwrap();
    store.disk.close();
    let store = Store::<Catalog>::open(dir.path(), IDENTITY).unwrap();
    let facts = facts(&store).await.unwrap();
    assert_eq!(facts.last, Some(id(2, 6)));
    assert_eq!(facts.entries.len(), 7);
    store.log().truncate_after(None).await.unwrap();
    store.disk.close();
    assert!(
        Store::<Catalog>::open(dir.path(), IDENTITY)
            .unwrap()
            .log()
            .get_log_state()
            .await
            .unwrap()
            .last_log_id
            .is_none()
    );
}

#[test]
fn another_nodes_folder_is_refused() {
    let dir = TempDir::new().unwrap();
    Store::<Catalog>::open(dir.path(), IDENTITY).unwrap().disk.close();
    for other in [
        Identity { node: NodeId(2), ..IDENTITY },
        Identity { disk: DiskUuid(Uuid::from_u128(0xEE)), ..IDENTITY },
    ] {
        assert!(matches!(Store::<Catalog>::open(dir.path(), other), Err(StoreError::Foreign { .. })));
    }
    let store = Store::<Catalog>::open(dir.path(), IDENTITY).unwrap();
    store.bind(crate::testing::CLUSTER).unwrap();
    store.bind(crate::testing::CLUSTER).unwrap();
    let other = meridian_types::ClusterUuid(Uuid::from_u128(0xBAD));
    assert!(matches!(store.bind(other), Err(StoreError::Foreign { .. })));
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

/// RocksDB's own diary and lock: no data, and written by whoever looks.
fn is_data(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    !name.starts_with("LOG") && name != "LOCK" && !name.starts_with("OPTIONS") && name != "IDENTITY"
}

fn restore(dir: &Path, good: &BTreeMap<PathBuf, Vec<u8>>) {
    let _ = fs::remove_dir_all(dir);
    for (path, bytes) in good {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Opens a damaged store. True: refused, and nothing was changed. A store that opens must hold all that was there.
async fn refused(dir: &Path, facts_before: &Facts, what: &str) -> bool {
    let before = files(dir);
    match Store::<Catalog>::open(dir, IDENTITY) {
        Err(error) => {
            let mut after = files(dir);
            for (path, bytes) in before.iter().filter(|(path, _)| is_data(path)) {
                assert_eq!(
                    after.remove(path).as_ref(),
                    Some(bytes),
                    "{what}: {} was changed",
                    path.display()
                );
            }
            assert!(!error.to_string().is_empty());
            true
        }
        Ok(store) => {
            let facts = facts(&store).await;
            store.disk.close();
            let facts = facts.unwrap_or_else(|error| panic!("{what}: opened, then {error}"));
            assert_eq!(&facts, facts_before, "{what}: opened with something else");
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bits_and_cut_ends_are_refused_and_nothing_is_deleted() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("store");
    let facts = fill(&root).await;
    // Without a clean close the last entries are in the write-ahead log alone.
    let store = Store::<Catalog>::open(&root, IDENTITY).unwrap();
    store.disk.append(&(50..60).map(|i| entry(1, i, create(format!("s{i}")))).collect::<Vec<_>>()).unwrap();
    let good = files(&root);
    store.disk.close();
    let facts = {
        restore(&root, &good);
        let store = Store::<Catalog>::open(&root, IDENTITY).unwrap();
        let now = self::facts(&store).await.unwrap();
        store.disk.close();
        assert_eq!(now.last, Some(id(1, 59)));
        assert_eq!(now.applied, facts.applied);
        now
    };

    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut state = seed;
    let mut random = move |below: usize| {
        // xorshift*, enough to pick places.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below.max(1)
    };
    let mut counts: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for (path, bytes) in good.iter().filter(|(path, bytes)| is_data(path) && !bytes.is_empty()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let kind = if name == "anchor" {
            "vote"
        } else if name.ends_with(".snapshot") {
            "snapshot"
        } else if name.ends_with(".log") {
            "write-ahead log"
        } else if name.ends_with(".sst") {
            "table"
        } else {
            "manifest"
        };
        for _ in 0..12 {
            let at = random(bytes.len());
            let bit = random(8);
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            restore(&root, &good);
            fs::write(path, &bad).unwrap();
            let what = format!("seed {seed}: {name} byte {at} bit {bit}");
            let counts = counts.entry(kind).or_default();
            if refused(&root, &facts, &what).await {
                counts.0 += 1;
            } else {
                counts.1 += 1;
            }
        }
        for keep in [0, bytes.len() / 2, bytes.len() - 1] {
            restore(&root, &good);
            fs::write(path, &bytes[..keep]).unwrap();
            let what = format!("seed {seed}: {name} cut to {keep}");
            let was = refused(&root, &facts, &what).await;
            assert!(was || kind == "manifest", "{what} opened");
        }
        restore(&root, &good);
        fs::remove_file(path).unwrap();
        assert!(
            refused(&root, &facts, &format!("{name} removed")).await || kind == "manifest",
            "{name} removed"
        );
    }
    println!("(refused, harmless): {counts:?}");
    for kind in ["vote", "snapshot", "write-ahead log"] {
        assert_eq!(counts[kind].1, 0, "every bit of a {kind} counts");
        assert!(counts[kind].0 > 0);
    }
    // A table also has filters and statistics, which nothing is read from.
    assert!(counts["table"].0 > 0);
}
