//! Where a stream ends now: everything that was acknowledged in this region before it was asked is before that, whichever node
//! acknowledged it. Only a shard's leader knows, and only once a majority has confirmed, after it was asked, that it still leads.
//! What the region acknowledged before it was restored is in shards of past incarnations: their leaders tell once they hold all that
//! is left of them.
//!
//! Of lanes that other regions write there is no such answer here: they are acknowledged there. They end where they are held.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use meridian_metadata::catalog::StreamRow;
use meridian_region::Route;
use meridian_types::{Cursor, NodeId, Seq, ShardId, StreamId};
use meridian_wire::{ApiError, Reason};
use tokio::time::Instant;

use crate::held::{Extent, SEEK_WITHIN, extents_of, not_here};
use crate::peers::Failed;
use crate::shared::Gateway;

/// How long a leader may take to hear that it leads, and to apply what was committed: less than the other node waits for it.
const CONFIRM_WITHIN: Duration = Duration::from_secs(1);
/// How often it is looked who leads by now.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// What was confirmed of some shards, and those of which nothing was.
type Confirmed = (Vec<Extent>, BTreeSet<ShardId>);

impl Gateway {
    /// Where a stream ends now.
    ///
    /// # Errors
    /// NOT_LEADER: a shard has no leader that a majority confirms. SHARD_UNREACHABLE: nobody in reach has a copy.
    pub(crate) async fn latest(&self, row: &StreamRow) -> Result<Cursor, ApiError> {
        let home = self.host().home();
        // All of them: that the stream has more partitions by now may be known elsewhere, and not here.
        let state = self.catalog().state();
        let now = state.region(home.region).into_iter().flat_map(|region| region.shards_of(home));
        let (own, held): (BTreeSet<ShardId>, BTreeSet<ShardId>) =
            self.shards_of_stream(row).into_iter().partition(|shard| shard.origin.region == home.region);
        let written = self.confirmed(row.id, now.chain(own).collect());
        let (written, held) = tokio::try_join!(written, self.extents(row.id, held, None))?;
        let mut cursor = Cursor::start(row.id);
        for extent in written.into_iter().chain(held) {
            cursor.set(extent.lane.origin, extent.lane.partition, extent.end);
        }
        Ok(cursor)
    }

    /// Asks the shards' leaders, and their successors where one does not answer.
    async fn confirmed(
        &self,
        stream: StreamId,
        mut missing: BTreeSet<ShardId>,
    ) -> Result<Vec<Extent>, ApiError> {
        let deadline = Instant::now() + SEEK_WITHIN;
        let mut extents = Vec::new();
        loop {
            let mut asked: BTreeMap<Option<NodeId>, Vec<ShardId>> = BTreeMap::new();
            for &shard in &missing {
                match self.region().route(shard) {
                    Route::Here(_) => asked.entry(None).or_default().push(shard),
                    Route::There(node) => asked.entry(Some(node)).or_default().push(shard),
                    Route::Nowhere => {}
                }
            }
            let answers = asked.into_iter().map(|(node, shards)| async move {
                let answer = match node {
                    None => self.confirmed_here(stream, &shards).await,
                    Some(node) => match self.peers().latest(node, stream, &shards).await {
                        Ok(answer) => {
                            extents_of(&answer).map(|extents| (extents, not_here(&answer.not_here)))
                        }
                        Err(Failed::Refused(error)) => Err(error),
                        Err(Failed::Unreachable(why)) => {
                            tracing::debug!(%node, why, "a leader does not confirm");
                            Ok((Vec::new(), shards.iter().copied().collect()))
                        }
                    },
                };
                (answer, shards)
            });
            for (answer, shards) in join_all(answers).await {
                let (told, unconfirmed) = answer?;
                extents.extend(told);
                missing.retain(|shard| !shards.contains(shard) || unconfirmed.contains(shard));
            }
            let Some(shard) = missing.first() else { return Ok(extents) };
            if Instant::now() >= deadline {
                let message = format!(
                    "shard {shard} has no leader that a majority of its replicas confirms; try again"
                );
                let error = ApiError::new(Reason::NotLeader, message).with("shard", shard);
                return Err(error.retry_after(RETRY_AFTER));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// How far those of some shards reach that this node is confirmed to lead; and the others.
    pub(crate) async fn confirmed_here(
        &self,
        stream: StreamId,
        shards: &[ShardId],
    ) -> Result<Confirmed, ApiError> {
        let confirmed = join_all(shards.iter().map(|&shard| self.leads(shard))).await;
        let (mut mine, mut others) = (Vec::new(), BTreeSet::new());
        for (&shard, leads) in shards.iter().zip(confirmed) {
            if leads {
                mine.push(shard);
            } else {
                others.insert(shard);
            }
        }
        let extents =
            if mine.is_empty() { Vec::new() } else { self.extents_here(stream, mine, None).await? };
        Ok((extents, others))
    }

    /// Whether this node leads a shard after this was asked; then it shows readers all that was acknowledged before.
    async fn leads(&self, shard: ShardId) -> bool {
        let Route::Here(handle) = self.region().route(shard) else { return false };
        let left = self.left_of(shard);
        let confirmed = async {
            let committed = handle.read().await.ok()?;
            handle.watch().wait_for(|shown| shown.applied >= committed.max(left)).await.ok()?;
            Some(())
        };
        tokio::time::timeout(CONFIRM_WITHIN, confirmed).await.is_ok_and(|confirmed| confirmed.is_some())
    }

    /// What is known to be left of a shard of a past incarnation of this region.
    fn left_of(&self, shard: ShardId) -> Seq {
        let state = self.catalog().state();
        let Some(row) = state.region(shard.origin.region) else { return Seq::ZERO };
        let before = row.held_before(ShardId { origin: row.origin(), ..shard });
        before.into_iter().find(|(past, _)| *past == shard).map(|(_, left)| left).unwrap_or_default()
    }
}
