//! Rows that the next run is likely to change, so that they need not be read again.

use std::collections::HashMap;
use std::hash::Hash;

use meridian_types::{Lane, ProducerId, ShardId, StreamId, TenantId};

use super::rows::{LaneRow, Row};
use super::typed::read_row;
use super::{AppliedMark, IndexError, KeyValue, LaneState, ProducerState, Usage, keys};

/// The most rows of a kind that are kept; then all of them are forgotten.
const KEPT: usize = 128;

/// What was last written, by key. Nobody else writes these rows, so this is what a read would find.
#[derive(Default)]
pub(super) struct Known {
    marks: HashMap<ShardId, AppliedMark>,
    lanes: HashMap<Lane, LaneState>,
    producers: HashMap<(Lane, ProducerId), ProducerState>,
    usage: HashMap<(TenantId, StreamId, ShardId), Usage>,
}

impl Known {
    /// A shard's applied mark.
    pub fn mark(&self, kv: &dyn KeyValue, shard: ShardId) -> Result<Option<AppliedMark>, IndexError> {
        known_or(&self.marks, &shard, || read(kv, &keys::shard(shard)))
    }

    /// What a lane adds up to.
    pub fn lane(&self, kv: &dyn KeyValue, lane: Lane) -> Result<Option<LaneState>, IndexError> {
        known_or(&self.lanes, &lane, || {
            Ok(read::<LaneRow>(kv, &keys::lane(lane))?.map(|row| row.into_state(lane)))
        })
    }

    /// What is known of a producer in a lane.
    pub fn producer(
        &self,
        kv: &dyn KeyValue,
        at: (Lane, ProducerId),
    ) -> Result<Option<ProducerState>, IndexError> {
        known_or(&self.producers, &at, || read(kv, &keys::producer(at.0, at.1)))
    }

    /// What a tenant has stored in a stream, in a shard.
    pub fn usage(
        &self,
        kv: &dyn KeyValue,
        of: (TenantId, StreamId, ShardId),
    ) -> Result<Option<Usage>, IndexError> {
        known_or(&self.usage, &of, || read(kv, &keys::usage(of.0, of.1, of.2)))
    }

    /// These rows were written.
    pub fn wrote(
        &mut self,
        mark: (ShardId, AppliedMark),
        lanes: impl IntoIterator<Item = (Lane, LaneState)>,
        producers: impl IntoIterator<Item = ((Lane, ProducerId), ProducerState)>,
        usage: impl IntoIterator<Item = ((TenantId, StreamId, ShardId), Usage)>,
    ) {
        keep(&mut self.marks, [mark]);
        keep(&mut self.lanes, lanes);
        keep(&mut self.producers, producers);
        keep(&mut self.usage, usage);
    }

    /// Whether these rows were written is not known.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

fn known_or<K: Eq + Hash, V: Clone>(
    known: &HashMap<K, V>,
    key: &K,
    read: impl FnOnce() -> Result<Option<V>, IndexError>,
) -> Result<Option<V>, IndexError> {
    known.get(key).map_or_else(read, |value| Ok(Some(value.clone())))
}

fn read<R: Row>(kv: &dyn KeyValue, key: &[u8]) -> Result<Option<R>, IndexError> {
    read_row(kv, key)
}

fn keep<K: Eq + Hash, V>(known: &mut HashMap<K, V>, rows: impl IntoIterator<Item = (K, V)>) {
    for (key, value) in rows {
        if known.len() >= KEPT && !known.contains_key(&key) {
            known.clear();
        }
        known.insert(key, value);
    }
}
