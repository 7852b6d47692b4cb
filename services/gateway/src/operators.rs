//! What operators see of a region's shards, and what they can wish for.

use std::collections::BTreeMap;

use meridian_metadata::placement::{Change, ShardRow};
use meridian_region::WishError;
use meridian_shard::{Progress, ShardHandle};
use meridian_types::{NodeId, ShardId, ShardNo};
use meridian_wire::{ApiError, Reason, v1};

use crate::shared::Gateway;

impl Gateway {
    /// Every shard that the region has a replica of, and how far this node's own are. `all`: and whatever else its disk holds, of which
    /// placement knows nothing yet, or nothing any more.
    pub(crate) fn shards(&self, all: bool) -> v1::ListShardsResponse {
        let here: BTreeMap<ShardId, ShardHandle> =
            self.host().all().into_iter().map(|shard| (shard.id, shard)).collect();
        let state = self.region().placement();
        let me = self.me().node;
        let placed = state.shards().map(|(shard, row)| {
            let is_replica = row.members.contains(&me) || row.learner == Some(me);
            let progress = here.get(&shard).filter(|_| all || is_replica).map(ShardHandle::progress);
            shard_to_wire(shard, row, me, progress.as_ref())
        });
        let mut shards: Vec<v1::Shard> = placed.collect();
        let besides = here.iter().filter(|(shard, _)| all && state.shard(**shard).is_none());
        shards.extend(besides.map(|(shard, handle)| {
            let progress = handle.progress();
            let damaged = progress.damaged;
            let [appended, committed, applied] =
                [progress.appended, progress.committed, progress.applied].map(|seq| seq.0);
            let (origin, number) = (Some(shard.origin.into()), u32::from(shard.no.0));
            let role = v1::shard::Role::Idle.into();
            v1::Shard { origin, number, role, appended, committed, applied, damaged, ..v1::Shard::default() }
        }));
        v1::ListShardsResponse { node: me.0, region: self.me().region.to_string(), shards }
    }

    /// Has a replica moved.
    pub(crate) async fn move_replica(
        &self,
        request: &v1::MoveShardRequest,
    ) -> Result<v1::MoveShardResponse, ApiError> {
        let origin = meridian_wire::origin(request.origin.as_ref())?;
        let no = u16::try_from(request.number).map_err(|_| {
            ApiError::new(Reason::InvalidArgument, format!("there is no shard {}", request.number))
        })?;
        let shard = ShardId { origin, no: ShardNo(no) };
        let (from, to) = (NodeId(request.from), NodeId(request.to));
        self.wish(Change::Move { shard, from, to }).await?;
        Ok(v1::MoveShardResponse {})
    }

    /// Has more or fewer replicas kept.
    pub(crate) async fn set_replication(
        &self,
        request: &v1::SetReplicationRequest,
    ) -> Result<v1::SetReplicationResponse, ApiError> {
        let replicas = u8::try_from(request.replicas).map_err(|_| {
            let why = format!("{} replicas of a shard are out of range; 3 or 5 are usual", request.replicas);
            ApiError::new(Reason::InvalidArgument, why)
        })?;
        self.wish(Change::SetReplication { replicas }).await?;
        Ok(v1::SetReplicationResponse {})
    }

    pub(crate) async fn wish(&self, change: Change) -> Result<(), ApiError> {
        self.check_ready()?;
        self.region().wish(change).await.map_err(refused)
    }
}

pub(crate) fn refused(error: WishError) -> ApiError {
    match error {
        WishError::Refused(why) => ApiError::new(Reason::PlacementRefused, why),
        WishError::Group(error) => ApiError::from(error),
    }
}

fn shard_to_wire(shard: ShardId, row: &ShardRow, me: NodeId, here: Option<&Progress>) -> v1::Shard {
    use v1::shard::Role;
    let placed = row.leader().map(|elected| (elected.node, elected.epoch));
    // What the replica here knows may be newer than what this node has heard of placement, or older.
    let known = here.and_then(|p| p.leads.map(|epoch| (me, epoch)).or(p.follows));
    let leader = placed.into_iter().chain(known).max_by_key(|(_, epoch)| *epoch);
    let leader = leader.filter(|(_, epoch)| *epoch >= row.begun);
    let epoch = leader.map_or(row.begun, |(_, epoch)| epoch);
    let role = match here {
        None => Role::NotHere,
        // One that was deposed and does not know it yet leads in no epoch that is told here.
        Some(progress) if progress.leads == Some(epoch) => Role::Leader,
        Some(progress) if progress.follows.is_some() => Role::Follower,
        Some(_) => Role::Idle,
    };
    v1::Shard {
        origin: Some(shard.origin.into()),
        number: u32::from(shard.no.0),
        epoch: epoch.0,
        leader: leader.map(|(node, _)| node.0),
        members: row.members.iter().map(|node| node.0).collect(),
        learner: row.learner.map(|node| node.0),
        version: row.version.0,
        changing: row.previous.is_some() || row.learner.is_some() || row.moving.is_some(),
        role: role.into(),
        appended: here.map_or(0, |progress| progress.appended.0),
        committed: here.map_or(0, |progress| progress.committed.0),
        applied: here.map_or(0, |progress| progress.applied.0),
        damaged: here.is_some_and(|progress| progress.damaged),
    }
}
