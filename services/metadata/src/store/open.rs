//! Opening: read all, check all, and only then write.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use meridian_types::{ClusterUuid, DiskUuid, NodeId};
use meridian_wire::v1::RaftAnchor;
use rocksdb::DB;
use uuid::Uuid;

use super::anchor::{Anchor, sync_folder};
use super::codec::{PURGED, read_entry, read_purged};
use super::disk::{Disk, Writer, blocking, entries_from, options, rocks};
use super::error::StoreError;
use super::log::LogStore;
use super::machine::{MachineStore, apply_entry};
use super::published::{Published, Version, count};
use super::snapshots::read_file;
use crate::machine::Machine;
use crate::raft::{LogId, StoredMembership, log_id_from_wire, vote_from_wire};

/// Whose store it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// Its disk.
    pub disk: DiskUuid,
}

/// One group's storage on one node.
pub(crate) struct Store<M> {
    pub disk: Arc<Disk>,
    pub published: Arc<Published<M>>,
}

impl<M> Clone for Store<M> {
    fn clone(&self) -> Self {
        Self { disk: Arc::clone(&self.disk), published: Arc::clone(&self.published) }
    }
}

impl<M: Machine> Store<M> {
    /// Opens the folder, making it where there is none. The machine stands where it stood.
    pub(crate) fn open(dir: &Path, identity: Identity) -> Result<Self, StoreError> {
        fs::create_dir_all(Disk::snapshot_dir(dir)).map_err(StoreError::io(dir))?;
        match Anchor::open(&Disk::anchor_path(dir))? {
            Some(anchor) => Self::reopen(dir, identity, anchor),
            None => Self::create(dir, identity),
        }
    }

    fn create(dir: &Path, identity: Identity) -> Result<Self, StoreError> {
        let log_dir = Disk::log_dir(dir);
        // A crash while it was made leaves an empty log. Anything in it, and the anchor was lost.
        if log_dir.join("CURRENT").exists() {
            let db = DB::open_for_read_only(&options(false), &log_dir, false).map_err(|e| rocks(dir, &e))?;
            if scan::<M>(dir, &db, &RaftAnchor::default())?.writer_has_anything() {
                return Err(StoreError::damaged(
                    Disk::anchor_path(dir),
                    "it is missing, and the log is not empty",
                ));
            }
        }
        let db = DB::open(&options(true), &log_dir).map_err(|e| rocks(dir, &e))?;
        let anchor = Anchor::create(
            &Disk::anchor_path(dir),
            RaftAnchor {
                group: M::GROUP.to_owned(),
                node: identity.node.0,
                disk_uuid: identity.disk.to_string(),
                ..RaftAnchor::default()
            },
        )?;
        // The folder itself must last too, or a vote in it would not.
        sync_folder(dir)?;
        let writer = Writer { anchor, last: None, purged: None };
        let version = Version {
            machine: Arc::new(M::default()),
            applied: None,
            membership: StoredMembership::default(),
        };
        Ok(Self {
            disk: Arc::new(Disk::new(dir.to_owned(), db, writer)),
            published: Arc::new(Published::new(version)),
        })
    }

    fn reopen(dir: &Path, identity: Identity, anchor: Anchor) -> Result<Self, StoreError> {
        check_identity::<M>(dir, identity, anchor.state())?;
        let log_dir = Disk::log_dir(dir);
        if !log_dir.join("CURRENT").exists() {
            return Err(StoreError::damaged(log_dir, "it is missing"));
        }
        // To be read only: opening for use would throw away what it could not read.
        let scanned = {
            let db = DB::open_for_read_only(&options(false), &log_dir, false)
                .map_err(|error| StoreError::damaged(&log_dir, error.to_string()))?;
            scan::<M>(dir, &db, anchor.state())?
        };
        let db = DB::open(&options(false), &log_dir).map_err(|e| rocks(dir, &e))?;
        anchor.sync()?;
        let writer = Writer { anchor, last: scanned.last, purged: scanned.purged };
        Ok(Self {
            disk: Arc::new(Disk::new(dir.to_owned(), db, writer)),
            published: Arc::new(Published::new(scanned.version)),
        })
    }

    pub(crate) fn log(&self) -> LogStore {
        LogStore::new(Arc::clone(&self.disk))
    }

    pub(crate) fn machine(&self) -> MachineStore<M> {
        MachineStore::new(Arc::clone(&self.disk), Arc::clone(&self.published))
    }

    /// The cluster that this store is bound to, known before the genesis is applied.
    pub(crate) fn cluster(&self) -> Option<ClusterUuid> {
        Uuid::parse_str(&self.disk.writer().anchor.state().cluster_uuid).ok().map(ClusterUuid)
    }

    /// Binds the store to a cluster, for good.
    pub(crate) fn bind(&self, cluster: ClusterUuid) -> Result<(), StoreError> {
        blocking(|| {
            let mut writer = self.disk.writer();
            let bound = writer.anchor.state().cluster_uuid.clone();
            if !bound.is_empty() && bound != cluster.to_string() {
                return Err(StoreError::Foreign {
                    path: self.disk.dir.clone(),
                    found: format!("cluster {bound}"),
                    expected: format!("cluster {cluster}"),
                });
            }
            writer.anchor.update(|anchor| anchor.cluster_uuid = cluster.to_string())
        })
    }

    /// Whether Raft has ever kept anything here.
    pub(crate) fn is_initialized(&self) -> bool {
        let writer = self.disk.writer();
        let anchor = writer.anchor.state();
        writer.last.is_some() || anchor.vote.is_some() || anchor.snapshot.is_some()
    }
}

fn check_identity<M: Machine>(dir: &Path, identity: Identity, anchor: &RaftAnchor) -> Result<(), StoreError> {
    let foreign = |found: String, expected: String| {
        Err(StoreError::Foreign { path: PathBuf::from(dir), found, expected })
    };
    if anchor.group != M::GROUP {
        return foreign(format!("the group {}", anchor.group), format!("the group {}", M::GROUP));
    }
    if anchor.node != identity.node.0 || anchor.disk_uuid != identity.disk.to_string() {
        return foreign(
            format!("node {} on disk {}", anchor.node, anchor.disk_uuid),
            format!("node {} on disk {}", identity.node, identity.disk),
        );
    }
    Ok(())
}

/// What the files hold together.
struct Scanned<M> {
    last: Option<LogId>,
    purged: Option<LogId>,
    version: Version<M>,
}

impl<M> Scanned<M> {
    fn writer_has_anything(&self) -> bool {
        self.last.is_some() || self.purged.is_some()
    }
}

/// Reads the whole log, checks it against the anchor, and applies what was committed.
fn scan<M: Machine>(dir: &Path, db: &DB, anchor: &RaftAnchor) -> Result<Scanned<M>, StoreError> {
    let log_dir = Disk::log_dir(dir);
    let damaged = |what: String| StoreError::damaged(&log_dir, what);
    if let Some(vote) = &anchor.vote {
        vote_from_wire(Some(vote)).map_err(|e| StoreError::damaged(Disk::anchor_path(dir), e.0))?;
    }
    let expected = anchor.last_log_id.as_ref().map(log_id_from_wire);
    let committed = anchor.committed.as_ref().map(log_id_from_wire);
    let snapshot_id = anchor.snapshot.as_ref().map(log_id_from_wire);
    let purged = match db.get(PURGED).map_err(|e| rocks(dir, &e))? {
        Some(bytes) => Some(read_purged(&log_dir, &bytes)?),
        None => None,
    };
    if purged > snapshot_id {
        return Err(damaged(format!("it begins after {purged:?}, but the snapshot ends at {snapshot_id:?}")));
    }

    let newer = |what: crate::machine::Unsupported| StoreError::Newer { path: log_dir.clone(), what: what.0 };
    let (mut machine, mut applied, mut membership) = match snapshot_id {
        Some(id) => {
            let snapshot = read_file(dir, &id)?;
            let machine = M::restore(&snapshot.snapshot).map_err(newer)?;
            (machine, Some(id), snapshot.meta.last_membership)
        }
        None => (M::default(), None, StoredMembership::default()),
    };

    let mut last = purged;
    for item in entries_from(db, 0) {
        let (key, value) = item.map_err(|e| rocks(dir, &e))?;
        let entry = read_entry(&log_dir, &key, &value)?;
        let id = entry.log_id;
        if id.index != count(last.as_ref()) || last.is_some_and(|last| last.leader_id > id.leader_id) {
            return Err(damaged(format!("{id} follows {last:?}: entries are missing")));
        }
        for promised in [expected, committed].into_iter().flatten() {
            if promised.index == id.index && promised != id {
                return Err(damaged(format!("{id} stands where {promised} was")));
            }
        }
        if id.index >= count(applied.as_ref()) && id.index < count(committed.as_ref()) {
            apply_entry(&mut machine, &mut membership, &entry).map_err(newer)?;
            applied = Some(id);
        }
        last = Some(id);
    }
    if count(last.as_ref()) < count(expected.as_ref()) {
        return Err(damaged(format!("it ends at {last:?}, but {expected:?} was acknowledged")));
    }
    if count(applied.as_ref()) < count(committed.as_ref()) {
        return Err(damaged(format!(
            "it gives the state up to {applied:?}, but {committed:?} was committed"
        )));
    }
    Ok(Scanned { last, purged, version: Version { machine: Arc::new(machine), applied, membership } })
}
