//! Which lanes of a stream have grown, of shards that this node has a replica of.

use std::collections::BTreeMap;

use meridian_shard::{Progress, Reader, ShardHandle, ShardHost};
use meridian_types::{Lane, Seq, ShardId, StreamId};
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{StreamExt as _, StreamMap};

/// What a shard's progress says of the lanes of a stream.
#[derive(Debug)]
pub(crate) enum Grown {
    /// These have grown.
    Lanes(Vec<Lane>),
    /// Any of this shard's may have: memory does not tell.
    AnyOf(ShardId),
}

/// The shards that are watched for a stream. Publishes of other streams wake nobody up.
pub(crate) struct ShardNews {
    stream: StreamId,
    reader: Reader,
    shards: StreamMap<ShardId, WatchStream<Progress>>,
    /// How far each of them was applied when its lanes were last looked at.
    applied: BTreeMap<ShardId, Seq>,
}

impl ShardNews {
    /// Watches nothing yet.
    pub fn new(stream: StreamId, host: &ShardHost) -> Self {
        Self { stream, reader: host.reader(), shards: StreamMap::new(), applied: BTreeMap::new() }
    }

    /// Watches a shard from now on: what is applied by now is no news.
    pub fn watch(&mut self, shard: &ShardHandle) {
        let mut watch = shard.watch();
        self.applied.insert(shard.id, watch.borrow_and_update().applied);
        self.shards.insert(shard.id, WatchStream::from_changes(watch));
    }

    /// Watches it no more.
    pub fn leave(&mut self, shard: ShardId) {
        self.shards.remove(&shard);
        self.applied.remove(&shard);
    }

    /// The shards that are watched.
    pub fn watched(&self) -> Vec<ShardId> {
        self.applied.keys().copied().collect()
    }

    /// The next news; none: nothing is watched. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Grown> {
        loop {
            let (shard, progress) = self.shards.next().await?;
            let before = self.applied.insert(shard, progress.applied).unwrap_or(Seq::ZERO);
            if before == progress.applied {
                continue;
            }
            let Some(grown) = self.reader.lanes_after(shard, before) else {
                return Some(Grown::AnyOf(shard));
            };
            let lanes: Vec<Lane> = grown.into_iter().filter(|lane| lane.stream == self.stream).collect();
            if !lanes.is_empty() {
                return Some(Grown::Lanes(lanes));
            }
        }
    }
}
