//! Which shard a partition lives in.

use xxhash_rust::xxh64::xxh64;

use crate::{Partition, ShardNo, StreamId};

/// `xxh64(stream id LE ‖ partition LE, seed 0) mod shards` (DESIGN §2). Fixed for an incarnation; the golden vectors below pin it.
///
/// # Panics
/// If `shards` is 0; the catalog refuses such a region.
pub fn shard_of(stream: StreamId, partition: Partition, shards: u16) -> ShardNo {
    assert!(shards > 0, "a region has at least one shard");
    let mut key = [0u8; 12];
    key[..8].copy_from_slice(&stream.0.to_le_bytes());
    key[8..].copy_from_slice(&partition.0.to_le_bytes());
    ShardNo((xxh64(&key, 0) % u64::from(shards)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_vectors() {
        let got: Vec<u16> = [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (u64::MAX, 1023)]
            .into_iter()
            .map(|(stream, partition)| shard_of(StreamId(stream), Partition(partition), 16).0)
            .collect();
        assert_eq!(got, GOLDEN);
    }

    const GOLDEN: [u16; 6] = [6, 6, 7, 2, 12, 15];
}
