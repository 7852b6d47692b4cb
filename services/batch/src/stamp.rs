//! What a leader writes into a batch when it appends it.

use bytes::{Bytes, BytesMut};
use meridian_types::{LogEpoch, Offset};

use crate::layout::{BASE_OFFSET, HEADER_BYTES, LEADER_EPOCH};

/// Writes baseOffset and partitionLeaderEpoch, which the batch's CRC does not cover.
///
/// # Panics
/// If `batch` is shorter than a header: only batches that were validated are appended.
pub fn stamp(batch: &mut [u8], base_offset: Offset, leader_epoch: LogEpoch) {
    assert!(batch.len() >= HEADER_BYTES, "only a validated batch can be stamped");
    batch[BASE_OFFSET..BASE_OFFSET + 8].copy_from_slice(&base_offset.0.to_be_bytes());
    batch[LEADER_EPOCH..LEADER_EPOCH + 4].copy_from_slice(&leader_epoch.0.to_be_bytes());
}

/// [`stamp`] on shared bytes: in place if no one else holds them, else on a copy.
///
/// # Panics
/// As [`stamp`].
#[must_use]
pub fn stamped(batch: Bytes, base_offset: Offset, leader_epoch: LogEpoch) -> Bytes {
    let mut batch = batch.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    stamp(&mut batch, base_offset, leader_epoch);
    batch.freeze()
}
