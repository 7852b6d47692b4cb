//! Snapshot files: the machine's state with the log id that it stands at.
//!
//! ```text
//!   0  magic "MRDNSNAP"
//!   8  version, u32 LE
//!  12  crc32c of the whole file with these 4 bytes zero, u32 LE
//!  16  length of the body, u64 LE
//!  24  body: protobuf RaftSnapshotFile
//! ```

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use meridian_wire::v1::RaftSnapshotFile;
use prost::Message as _;

use super::anchor::sync_folder;
use super::disk::{Disk, blocking};
use super::error::StoreError;
use crate::raft::{
    LogId, Snapshot, SnapshotMeta, log_id_from_wire, log_id_to_wire, meta_from_wire, meta_to_wire,
};

const MAGIC: &[u8; 8] = b"MRDNSNAP";
const VERSION: u32 = 1;
const HEAD: usize = 24;
const CRC: std::ops::Range<usize> = 12..16;

impl Disk {
    /// Keeps a snapshot and drops the one before. One that is not newer than the one there is let go.
    pub(super) fn save_snapshot(&self, meta: &SnapshotMeta, state: Bytes) -> Result<(), StoreError> {
        let Some(id) = meta.last_log_id else { return Ok(()) };
        blocking(|| {
            let mut writer = self.writer();
            let before = writer.anchor.state().snapshot.as_ref().map(log_id_from_wire);
            if before.is_some_and(|before| before >= id) {
                return Ok(());
            }
            write_file(&path_of(&self.dir, &id), meta, state)?;
            writer.anchor.update(|anchor| anchor.snapshot = Some(log_id_to_wire(&id)))?;
            if let Some(before) = before {
                let path = path_of(&self.dir, &before);
                fs::remove_file(&path).map_err(StoreError::io(path))?;
            }
            Ok(())
        })
    }

    /// The current snapshot.
    pub(super) fn load_snapshot(&self) -> Result<Option<Snapshot>, StoreError> {
        blocking(|| {
            let writer = self.writer();
            let id = writer.anchor.state().snapshot.as_ref().map(log_id_from_wire);
            id.map(|id| read_file(&self.dir, &id)).transpose()
        })
    }
}

fn path_of(dir: &Path, id: &LogId) -> PathBuf {
    let name = format!("{:020}-{}-{}.snapshot", id.index, id.leader_id.term, id.leader_id.node_id);
    Disk::snapshot_dir(dir).join(name)
}

fn write_file(path: &Path, meta: &SnapshotMeta, state: Bytes) -> Result<(), StoreError> {
    let body = RaftSnapshotFile { meta: Some(meta_to_wire(meta)), state }.encode_to_vec();
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    head[16..].copy_from_slice(&(body.len() as u64).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&head), &body);
    head[CRC].copy_from_slice(&crc.to_le_bytes());

    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh).map_err(StoreError::io(&fresh))?;
    file.write_all(&head)
        .and_then(|()| file.write_all(&body))
        .and_then(|()| file.sync_all())
        .map_err(StoreError::io(&fresh))?;
    fs::rename(&fresh, path).map_err(StoreError::io(path))?;
    sync_folder(path)
}

/// Reads the snapshot at a log id, which must be there.
pub(super) fn read_file(dir: &Path, id: &LogId) -> Result<Snapshot, StoreError> {
    let path = path_of(dir, id);
    let damaged = |what: &str| StoreError::damaged(&path, what);
    let bytes = match fs::read(&path) {
        Ok(bytes) => Bytes::from(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(damaged("it is missing"));
        }
        Err(error) => return Err(StoreError::io(&path)(error)),
    };
    if bytes.len() < HEAD {
        return Err(damaged("it is cut short"));
    }
    let mut head = [0; HEAD];
    head.copy_from_slice(&bytes[..HEAD]);
    let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let length = u64::from(number(16)) | u64::from(number(20)) << 32;
    head[CRC].fill(0);
    let body = bytes.slice(HEAD..);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&head), &body);
    if &head[..8] != MAGIC || body.len() as u64 != length || crc != number(CRC.start) {
        return Err(damaged("it is cut short or fails its checksum"));
    }
    if number(8) != VERSION {
        return Err(StoreError::Newer { path, what: format!("snapshot version {}", number(8)) });
    }
    let file = RaftSnapshotFile::decode(body).map_err(|error| damaged(&error.to_string()))?;
    let meta = file
        .meta
        .ok_or_else(|| damaged("it has no meta"))
        .and_then(|meta| meta_from_wire(meta).map_err(|error| damaged(error.0)))?;
    if meta.last_log_id.as_ref() != Some(id) {
        return Err(damaged("it stands at another log id"));
    }
    Ok(Snapshot { meta, snapshot: file.state })
}
