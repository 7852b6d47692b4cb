//! Frames that are applied here and damaged, shard by shard: no read gives them out, and they are to be repaired.
//!
//! In: what recovery has found missing, and what a read has found damaged since. Out: what is to be repaired, and how much
//! was. In memory alone: what is not repaired by the next start is found again.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use meridian_storage::SeqRanges;
use meridian_types::{Seq, ShardId};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// See the module.
#[derive(Debug, Default)]
pub struct Quarantine {
    shards: Mutex<BTreeMap<ShardId, Shard>>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Shard {
    damaged: SeqRanges,
    repaired: u64,
}

impl Quarantine {
    /// These frames are damaged.
    pub fn add(&self, shard: ShardId, range: RangeInclusive<Seq>) {
        let mut shards = self.shards.lock();
        let damaged = &mut shards.entry(shard).or_default().damaged;
        let before = damaged.count();
        damaged.insert(range.clone());
        if damaged.count() > before {
            tracing::error!(%shard, first = %range.start(), last = %range.end(), "frames are damaged here: they are quarantined");
            self.news.notify_one();
        }
    }

    /// These frames were stored again.
    pub fn repaired(&self, shard: ShardId, range: RangeInclusive<Seq>) {
        let mut shards = self.shards.lock();
        let held = shards.entry(shard).or_default();
        held.repaired += range.end().0 - range.start().0 + 1;
        held.damaged.remove(range);
    }

    /// These frames were not damaged after all.
    pub fn found_whole(&self, shard: ShardId, range: RangeInclusive<Seq>) {
        if let Some(held) = self.shards.lock().get_mut(&shard) {
            held.damaged.remove(range);
        }
    }

    /// The first damaged frame of each shard that has any.
    pub fn first_of_each(&self) -> Vec<(ShardId, Seq)> {
        let shards = self.shards.lock();
        shards.iter().filter_map(|(&shard, held)| Some((shard, held.damaged.first()?))).collect()
    }

    /// The first damaged frame of a shard that is not below `from`.
    pub fn first_from(&self, shard: ShardId, from: Seq) -> Option<Seq> {
        self.shards.lock().get(&shard)?.damaged.first_from(from)
    }

    /// How many frames of a shard are damaged, and how many were repaired since the start.
    pub fn counts(&self, shard: ShardId) -> (u64, u64) {
        self.shards.lock().get(&shard).map_or((0, 0), |held| (held.damaged.count(), held.repaired))
    }

    /// Waits until a frame is found damaged that was not known to be.
    pub async fn news(&self) {
        self.news.notified().await;
    }
}
