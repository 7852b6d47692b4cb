//! What the region holds of some shards, whichever of its nodes have them: this node's own part, and the others' asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use meridian_metadata::catalog::{RegionRow, StreamRow};
use meridian_region::Holders;
use meridian_storage::FrameKind;
use meridian_types::{Lane, NodeId, Offset, Partition, ShardId, ShardNo, StreamId, Timestamp, shard_of};
use meridian_wire::{ApiError, Reason, v1};
use tokio::time::Instant;

use crate::budget::{ByteBudget, Taken};
use crate::following::{Run, Seat, choose};
use crate::peers::Failed;
use crate::shared::{Gateway, blocking};

/// How long is looked for somebody who serves a shard: an election, or what a node that died had in hand, is over by then.
pub(crate) const SEEK_WITHIN: Duration = Duration::from_secs(3);
const SEEK_EVERY: Duration = Duration::from_millis(50);
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// How far a lane reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub lane: Lane,
    pub start: Offset,
    pub end: Offset,
    pub bytes: u64,
    /// Where a time begins, or the end.
    pub at: Offset,
}

/// What was gathered, and the shards that nobody in reach serves.
pub(crate) struct Gathered<T> {
    pub parts: Vec<T>,
    pub missing: BTreeSet<ShardId>,
}

/// What a client gets that wants a shard which nobody in reach serves.
pub(crate) fn unreachable(shard: ShardId, holders: &Holders) -> ApiError {
    let message = if holders.members.is_empty() {
        format!("it is not known here yet which nodes hold shard {shard}; try again")
    } else {
        let nodes: Vec<String> = holders.members.iter().map(NodeId::to_string).collect();
        format!(
            "shard {shard} is held by node {}, and this node reaches none that serves it; try again, or at another node",
            nodes.join(", node ")
        )
    };
    ApiError::new(Reason::ShardUnreachable, message).with("shard", shard).retry_after(RETRY_AFTER)
}

impl Gateway {
    /// The shard of a lane; none: the catalog knows no such writer.
    pub(crate) fn shard_of(&self, lane: Lane) -> Option<ShardId> {
        let state = self.catalog().state();
        let writer = state.region(lane.origin.region)?;
        let is_known = writer.origins().any(|origin| origin == lane.origin);
        let no = shard_of(lane.stream, lane.partition, writer.shards);
        is_known.then_some(ShardId { origin: lane.origin, no })
    }

    /// The shards of a stream's partitions, of all writers.
    pub(crate) fn shards_of_stream(&self, row: &StreamRow) -> BTreeSet<ShardId> {
        let state = self.catalog().state();
        let partitions = || (0..row.settings.partitions).map(Partition);
        let of_region = |region: &RegionRow| {
            let numbers: BTreeSet<ShardNo> =
                partitions().map(|partition| shard_of(row.id, partition, region.shards)).collect();
            let shards =
                region.origins().flat_map(|origin| numbers.iter().map(move |&no| ShardId { origin, no }));
            shards.collect::<Vec<_>>()
        };
        state.regions().flat_map(|region| of_region(region)).collect()
    }

    /// Gathers what the shards' holders say: `here` of those that this node serves, `there` of another's, with those of them
    /// that it turned out not to serve. Each shard is told of once.
    pub(crate) async fn gather<T, H, O>(
        &self,
        shards: impl IntoIterator<Item = ShardId>,
        patience: Duration,
        here: impl Fn(Vec<ShardId>) -> H,
        there: impl Fn(NodeId, Vec<ShardId>) -> O,
    ) -> Result<Gathered<T>, ApiError>
    where
        H: Future<Output = Result<T, ApiError>>,
        O: Future<Output = Result<(T, BTreeSet<ShardId>), Failed>>,
    {
        let deadline = Instant::now() + patience;
        let mut missing: BTreeSet<ShardId> = shards.into_iter().collect();
        let mut shunned: BTreeMap<ShardId, BTreeSet<NodeId>> = BTreeMap::new();
        let mut parts = Vec::new();
        loop {
            let mut asked: BTreeMap<Seat, Vec<ShardId>> = BTreeMap::new();
            for &shard in &missing {
                let seat =
                    choose(Seat::Nowhere, &self.region().holders(shard), shunned.entry(shard).or_default());
                asked.entry(seat).or_default().push(shard);
            }
            if let Some(mine) = asked.remove(&Seat::Here) {
                missing.retain(|shard| !mine.contains(shard));
                parts.push(here(mine).await?);
            }
            let others = asked.into_iter().filter_map(|(seat, shards)| match seat {
                Seat::At(node) => Some((node, shards)),
                Seat::Here | Seat::Nowhere => None,
            });
            let answers = others.map(|(node, shards)| {
                let answer = there(node, shards.clone());
                async move { (node, answer.await, shards) }
            });
            let answers = join_all(answers).await;
            let nobody = answers.is_empty();
            for (node, answer, shards) in answers {
                let refused = match answer {
                    Ok((part, not_here)) => {
                        parts.push(part);
                        not_here
                    }
                    Err(Failed::Refused(error)) => return Err(error),
                    Err(Failed::Unreachable(why)) => {
                        tracing::debug!(%node, why, "a node does not tell what it holds");
                        shards.iter().copied().collect()
                    }
                };
                for shard in shards {
                    if refused.contains(&shard) {
                        shunned.entry(shard).or_default().insert(node);
                    } else {
                        missing.remove(&shard);
                    }
                }
            }
            if missing.is_empty() || (nobody && Instant::now() >= deadline) {
                return Ok(Gathered { parts, missing });
            }
            if nobody {
                // All were asked: what they lack now, an election may bring.
                shunned.clear();
                tokio::time::sleep(SEEK_EVERY).await;
            }
        }
    }

    /// The same, where a part is no answer.
    pub(crate) async fn gather_all<T, H, O>(
        &self,
        shards: impl IntoIterator<Item = ShardId>,
        here: impl Fn(Vec<ShardId>) -> H,
        there: impl Fn(NodeId, Vec<ShardId>) -> O,
    ) -> Result<Vec<T>, ApiError>
    where
        H: Future<Output = Result<T, ApiError>>,
        O: Future<Output = Result<(T, BTreeSet<ShardId>), Failed>>,
    {
        let Gathered { parts, missing } = self.gather(shards, SEEK_WITHIN, here, there).await?;
        match missing.first() {
            Some(&shard) => Err(unreachable(shard, &self.region().holders(shard))),
            None => Ok(parts),
        }
    }

    /// How far a stream's lanes of some shards reach in this region, in order.
    ///
    /// # Errors
    /// SHARD_UNREACHABLE, DAMAGED.
    pub(crate) async fn extents(
        &self,
        stream: StreamId,
        shards: impl IntoIterator<Item = ShardId>,
        time: Option<Timestamp>,
    ) -> Result<Vec<Extent>, ApiError> {
        let here = |shards| self.extents_here(stream, shards, time);
        let there = |node, shards: Vec<ShardId>| async move {
            let answer = self.peers().extents(node, stream, &shards, time.map(|time| time.0)).await?;
            Ok((extents_of(&answer).map_err(Failed::Refused)?, not_here(&answer.not_here)))
        };
        let mut extents = self.gather_all(shards, here, there).await?.concat();
        extents.sort_unstable_by_key(|extent| extent.lane);
        Ok(extents)
    }

    /// The digest of a part of a lane, as this node has it on its disk.
    pub(crate) async fn digest_here(
        &self,
        lane: Lane,
        start: Offset,
        end: Offset,
    ) -> Result<v1::DigestLaneResponse, ApiError> {
        let reader = self.host().reader();
        let digest = blocking(move || reader.digest(lane, start, end)).await?;
        let (damaged_at, damage) = match digest.damaged {
            Some((offset, why)) => (Some(offset.0), why),
            None => (None, String::new()),
        };
        Ok(v1::DigestLaneResponse {
            blake3: digest.blake3.to_vec().into(),
            events: digest.events,
            frames: digest.frames,
            bytes: digest.bytes,
            damaged_at,
            damage,
        })
    }

    /// How far this node's own replicas of some shards reach.
    pub(crate) async fn extents_here(
        &self,
        stream: StreamId,
        shards: Vec<ShardId>,
        time: Option<Timestamp>,
    ) -> Result<Vec<Extent>, ApiError> {
        let reader = self.host().reader();
        blocking(move || {
            let mut extents = Vec::new();
            for (lane, state) in reader.lanes_of(stream)? {
                if !shards.contains(&state.shard) {
                    continue;
                }
                let at = match time {
                    Some(time) => reader.offset_at(lane, time)?,
                    None => None,
                };
                let at = at.unwrap_or(state.end);
                extents.push(Extent { lane, start: state.start, end: state.end, bytes: state.bytes, at });
            }
            Ok(extents)
        })
        .await
    }
}

/// What a node said that it does not serve. What cannot be read names none of those that it was asked for.
pub(crate) fn not_here(shards: &[v1::ShardRef]) -> BTreeSet<ShardId> {
    shards.iter().filter_map(|shard| ShardId::try_from(shard).ok()).collect()
}

/// What a node says of how far lanes reach.
pub(crate) fn extents_of(answer: &v1::ReadExtentsResponse) -> Result<Vec<Extent>, ApiError> {
    answer.lanes.iter().map(extent).collect()
}

fn extent(extent: &v1::ReadExtent) -> Result<Extent, ApiError> {
    let lane =
        extent.lane.as_ref().ok_or_else(|| ApiError::new(Reason::Internal, "an extent without a lane"))?;
    let end = Offset(extent.end);
    Ok(Extent {
        lane: Lane::try_from(lane)?,
        start: Offset(extent.start),
        end,
        bytes: extent.bytes,
        at: extent.at.map_or(end, Offset),
    })
}

/// A run of a lane, where it ends, and room for it.
pub(crate) type Read = (Vec<Run>, Offset, Taken);

/// Reads up to `limit` bytes, once there is room for them. A batch that is larger than that is put back and read again with
/// room for all of it: to hold some room while waiting for more would let readers wait for each other.
pub(crate) async fn read_with_room<E, F>(
    budget: &ByteBudget,
    limit: usize,
    read: impl Fn() -> F,
) -> Result<Read, E>
where
    F: Future<Output = Result<(Vec<Run>, Offset), E>>,
{
    let mut wanted = limit as u64;
    loop {
        let mut room = budget.acquire(wanted.min(budget.capacity())).await.unwrap_or_default();
        let (runs, end) = read().await?;
        let bytes: u64 = runs.iter().map(|run| run.batch.len() as u64).sum();
        if bytes <= room.bytes() || wanted >= budget.capacity() {
            // What was not needed is others'.
            return Ok((runs, end, room.split(bytes)));
        }
        wanted = bytes;
    }
}

impl Gateway {
    /// A run of a lane from this node's own replica, and where the lane ends there.
    pub(crate) async fn read_here(
        &self,
        lane: Lane,
        from: Offset,
        limit: usize,
    ) -> Result<(Vec<Run>, Offset), ApiError> {
        let reader = self.host().reader();
        // Who keeps up finds it in memory, and waits for no other thread.
        let cached = self.shard_of(lane).and_then(|shard| reader.cached_lane(shard, lane, from, limit));
        let read = match cached {
            Some(read) => read,
            None => blocking(move || reader.lane_frames(lane, from, limit)).await?,
        };
        let events = read.frames.into_iter().filter(|frame| frame.header.kind == FrameKind::Events);
        let runs = events.map(|frame| Run {
            base: frame.header.base_offset,
            events: frame.header.events,
            hlc: frame.header.hlc.0,
            batch: frame.payload,
        });
        Ok((runs.collect(), read.end))
    }
}
