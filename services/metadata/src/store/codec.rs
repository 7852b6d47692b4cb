//! The records in Raft's RocksDB, and its key catalogue.
//!
//! | key | value |
//! | --- | --- |
//! | `l`, index u64 BE | an entry: protobuf `RaftEntry` |
//! | `p` | the last purged log id: protobuf `RaftLogId` |
//!
//! Each value begins with crc32c (u32 LE) over its key and its body, so that a record never passes for another.

use std::path::Path;

use meridian_wire::v1;
use prost::Message;

use super::error::StoreError;
use crate::raft::{Entry, LogId, entry_from_wire, entry_to_wire, log_id_from_wire, log_id_to_wire};

/// The key of the last purged log id.
pub(super) const PURGED: &[u8] = b"p";

/// The key of an entry.
pub(super) fn entry_key(index: u64) -> [u8; 9] {
    let mut key = [b'l'; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The first key after all entries.
pub(super) const ENTRIES_END: &[u8] = b"m";

/// The index of an entry's key.
pub(super) fn index_of(key: &[u8]) -> Option<u64> {
    let index: [u8; 8] = key.strip_prefix(b"l")?.try_into().ok()?;
    Some(u64::from_be_bytes(index))
}

pub(super) fn entry_value(entry: &Entry) -> Vec<u8> {
    value(&entry_key(entry.log_id.index), &entry_to_wire(entry))
}

pub(super) fn read_entry(path: &Path, key: &[u8], bytes: &[u8]) -> Result<Entry, StoreError> {
    let index = index_of(key).ok_or_else(|| StoreError::damaged(path, "a key that is no entry's"))?;
    let damaged = |what: &str| StoreError::damaged(path, format!("entry {index}: {what}"));
    let wire: v1::RaftEntry = body(key, bytes).map_err(|what| damaged(&what))?;
    let entry = entry_from_wire(wire).map_err(|error| damaged(error.0))?;
    if entry.log_id.index != index {
        return Err(damaged("holds another entry"));
    }
    Ok(entry)
}

pub(super) fn purged_value(purged: &LogId) -> Vec<u8> {
    value(PURGED, &log_id_to_wire(purged))
}

pub(super) fn read_purged(path: &Path, bytes: &[u8]) -> Result<LogId, StoreError> {
    let wire: v1::RaftLogId =
        body(PURGED, bytes).map_err(|what| StoreError::damaged(path, format!("the purge mark: {what}")))?;
    Ok(log_id_from_wire(&wire))
}

fn value(key: &[u8], message: &impl Message) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    message.encode_raw(&mut bytes);
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), &bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn body<T: Message + Default>(key: &[u8], bytes: &[u8]) -> Result<T, String> {
    let (crc, body) = bytes.split_first_chunk::<4>().ok_or("cut short")?;
    if crc32c::crc32c_append(crc32c::crc32c(key), body) != u32::from_le_bytes(*crc) {
        return Err("fails its checksum".into());
    }
    T::decode(body).map_err(|error| error.to_string())
}
