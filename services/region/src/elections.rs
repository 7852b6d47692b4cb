//! Placement's word to this node's shards: fences, and who was elected.

use std::time::Duration;

use futures::future::join_all;
use meridian_metadata::driver::{FenceAnswer, FenceOutcome};
use meridian_shard::{Election, FenceAnswer as Answer, ShardHandle};
use meridian_types::{LeaderEpoch, ShardId};

use crate::convert::election_of;
use crate::region::Region;

/// A promise is one synced write. A shard that takes longer is left out, and asked again.
const FENCE_WITHIN: Duration = Duration::from_secs(2);
/// How long placement may take to say how far it is, and the pause before it is asked again.
const BARRIER_WITHIN: Duration = Duration::from_secs(1);
const BARRIER_PAUSE: Duration = Duration::from_millis(200);

/// Has each shard promise its epoch; the answers of those that could.
pub(crate) async fn fence(region: &Region, wanted: Vec<(ShardId, LeaderEpoch)>) -> Vec<FenceAnswer> {
    let Some(host) = region.0.host.get() else { return Vec::new() };
    let answers = wanted.into_iter().map(|(shard, epoch)| async move {
        let handle = host.ensure(shard).inspect_err(|error| log(shard, error)).ok()?;
        if handle.progress().awaits_begun {
            // Until it is told, it may not answer.
            tokio::spawn(tell_damaged(region.clone(), handle.clone()));
        }
        let answer = tokio::time::timeout(FENCE_WITHIN, handle.fence(epoch)).await.ok()??;
        let outcome = match answer {
            Answer::Promised { end, unsure_from, .. } => FenceOutcome::Promised { end, unsure_from },
            Answer::Refused { promised, .. } => FenceOutcome::Refused { promised },
        };
        Some(FenceAnswer { shard, epoch, outcome })
    });
    join_all(answers).await.into_iter().flatten().collect()
}

/// Tells a shard whom placement has elected.
pub(crate) async fn tell(region: &Region, shard: ShardId, election: Election) {
    let Some(host) = region.0.host.get() else { return };
    match host.ensure(shard) {
        Ok(handle) if handle.progress().awaits_begun && election.leader != region.0.me.node => {
            tokio::spawn(tell_damaged(region.clone(), handle));
        }
        Ok(handle) => drop(handle.elected(election).await),
        Err(error) => log(shard, &error),
    }
}

/// A damaged replica may have lost promises. All of them were begun before this process, so it first hears what placement
/// has begun up to now; and then whom it has elected.
async fn tell_damaged(region: Region, handle: ShardHandle) {
    // Fences and elections come again and again until it answers: one of them asks.
    if !region.0.asking.lock().insert(handle.id) {
        return;
    }
    ask_and_tell(&region, &handle).await;
    region.0.asking.lock().remove(&handle.id);
}

async fn ask_and_tell(region: &Region, handle: &ShardHandle) {
    while handle.progress().awaits_begun && !region.0.closed.is_cancelled() {
        if let Err(error) = region.0.placement.barrier(BARRIER_WITHIN).await {
            tracing::debug!(shard = %handle.id, %error, "placement cannot be asked what it has begun");
            tokio::time::sleep(BARRIER_PAUSE).await;
            continue;
        }
        let state = region.0.placement.state();
        let Some(row) = state.shard(handle.id) else { return };
        handle.begun(row.begun, row.elected.is_none()).await;
        if let Some(elected) = row.leader() {
            handle.elected(election_of(elected, row.version, row.members.clone())).await;
        }
        return;
    }
}

/// Tells the shards of which this node is a replica what the placement's state says, as far as they do not know it.
pub(crate) async fn tell_all(region: &Region) {
    let state = region.0.placement.state();
    let me = region.0.me.node;
    for (shard, row) in state.shards() {
        let Some(elected) = row.leader() else { continue };
        if !row.members.contains(&me) && row.learner != Some(me) {
            continue;
        }
        let known = region.0.host.get().and_then(|host| host.get(shard)).map(|handle| handle.progress());
        let follows = known.is_some_and(|known| {
            let current = known.leads.or(known.follows.map(|(_, epoch)| epoch));
            current == Some(elected.epoch) || known.promised > elected.epoch
        });
        if !follows {
            tell(region, shard, election_of(elected, row.version, row.members.clone())).await;
        }
    }
}

fn log(shard: ShardId, error: &dyn std::error::Error) {
    tracing::error!(%shard, %error, "the shard cannot be opened");
}
