//! ClusterService: what the cluster looks like, how far its copies are, what they hold.

use std::collections::BTreeSet;
use std::time::Duration;

use meridian_mirror::{LinkState, LinkStatus};
use meridian_types::{Lane, Offset};
use meridian_wire::{ApiError, Reason, v1};
use tonic::{Request, Response, Status};

use crate::shared::Gateway;

/// Implements ClusterService.
pub(crate) struct Cluster(pub Gateway);

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Cluster {
    async fn topology(&self) -> v1::GetTopologyResponse {
        let deciders = self.0.deciders().await;
        let state = self.0.catalog().state();
        let region_name = |id| state.region(id).map(|row| row.name.to_string()).unwrap_or_default();
        v1::GetTopologyResponse {
            cluster_uuid: self.0.me().cluster.to_string(),
            regions: state
                .regions()
                .map(|row| v1::Region {
                    id: u32::from(row.id.0),
                    name: row.name.to_string(),
                    incarnation: u32::from(row.incarnation.0),
                    shards: u32::from(row.shards),
                })
                .collect(),
            nodes: state
                .nodes()
                .map(|row| v1::Node {
                    id: row.id.0,
                    region: region_name(row.region),
                    endpoint: row.client_address.clone(),
                    disk_uuid: row.disk.to_string(),
                    draining: self.0.is_draining_node(row.id),
                    live: self.0.is_live_node(row),
                    joined: self.0.is_joined_node(row),
                })
                .collect(),
            node: self.0.me().node.0,
            region: self.0.me().region.to_string(),
            catalog_leader: self.0.catalog().status().leader.map(|node| node.0),
            replication: u32::try_from(self.0.region().placement().replication()).unwrap_or(u32::MAX),
            deciders,
        }
    }

    fn inbound(&self, status: LinkStatus) -> v1::Link {
        let state = match status.state {
            LinkState::Connecting => v1::link::State::Connecting,
            LinkState::Live => v1::link::State::Live,
            LinkState::Stalled => v1::link::State::Stalled,
            LinkState::Faulted => v1::link::State::Faulted,
        };
        v1::Link {
            relay: status.relay.map(String::from).unwrap_or_default(),
            origin: status.source.map(String::from).unwrap_or_default(),
            region: self.0.me().region.to_string(),
            state: state.into(),
            backlog: Some(v1::Backlog {
                events: status.events,
                bytes: status.bytes,
                oldest_ms: millis(status.oldest),
            }),
            round_trip_us: status
                .round_trip
                .map(|round_trip| u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX)),
            faults: status
                .faults
                .into_iter()
                .map(|fault| v1::ShardFault {
                    origin: Some(fault.shard.origin.into()),
                    shard: u32::from(fault.shard.no.0),
                    seq: fault.seq.0,
                    reason: fault.reason.to_owned(),
                    message: fault.message,
                })
                .collect(),
            reconnects: status.reconnects,
        }
    }

    /// What other regions lack of this one is told of all its shards, whichever of its nodes have them. Of those that nobody in
    /// reach serves it is not known, and is not waited for: whoever asks may be looking for what is wrong.
    async fn lag(&self) -> Result<v1::GetLagResponse, ApiError> {
        self.0.check_readable()?;
        let (outbound, at_risk) = self.0.at_risk().await?;
        let inbound = self.0.links().statuses().into_iter().map(|status| self.inbound(status)).collect();
        Ok(v1::GetLagResponse { inbound, outbound, at_risk: Some(at_risk) })
    }

    async fn lanes(&self, request: v1::ListLanesRequest) -> Result<v1::ListLanesResponse, ApiError> {
        let (_, row) = self.0.stream(request.stream.as_ref()).await?;
        let lanes = self.0.extents(row.id, self.0.shards_of_stream(&row), None).await?;
        let state = self.0.catalog().state();
        let lanes = lanes
            .into_iter()
            .map(|held| v1::LaneEnds {
                lane: Some(held.lane.into()),
                origin_region: state
                    .region(held.lane.origin.region)
                    .map(|region| region.name.to_string())
                    .unwrap_or_default(),
                start: held.start.0,
                end: held.end.0,
                bytes: held.bytes,
            })
            .collect();
        Ok(v1::ListLanesResponse { stream_id: row.id.0, partitions: row.settings.partitions, lanes })
    }

    async fn digest(&self, request: v1::DigestLaneRequest) -> Result<v1::DigestLaneResponse, ApiError> {
        let (_, row) = self.0.stream(request.stream.as_ref()).await?;
        let lane = request
            .lane
            .as_ref()
            .ok_or_else(|| ApiError::new(Reason::InvalidArgument, "the request names no lane"))?;
        let lane = Lane::try_from(lane)?;
        if lane.stream != row.id {
            return Err(ApiError::new(
                Reason::InvalidArgument,
                format!("lane {lane} is not of stream {} ({})", row.name, row.id),
            ));
        }
        let (start, end) = (Offset(request.start), Offset(request.end));
        let shard = self.0.shard_of(lane).ok_or_else(|| {
            let message = format!("lane {lane} is of no writer that is known here; try again if it is new");
            ApiError::new(Reason::NotReady, message).retry_after(Duration::from_millis(500))
        })?;
        let here = |_| self.0.digest_here(lane, start, end);
        let there = |node, _| async move {
            Ok((self.0.peers().digest(node, lane, start, end).await?, BTreeSet::new()))
        };
        let digest = self.0.gather_all([shard], here, there).await?.pop();
        digest.ok_or_else(|| ApiError::new(Reason::Internal, "nobody was asked for the digest"))
    }
}

#[tonic::async_trait]
impl v1::cluster_service_server::ClusterService for Cluster {
    async fn get_topology(
        &self,
        _request: Request<v1::GetTopologyRequest>,
    ) -> Result<Response<v1::GetTopologyResponse>, Status> {
        Ok(Response::new(self.topology().await))
    }

    async fn get_lag(
        &self,
        _request: Request<v1::GetLagRequest>,
    ) -> Result<Response<v1::GetLagResponse>, Status> {
        self.0.answer(self.lag().await)
    }

    async fn list_lanes(
        &self,
        request: Request<v1::ListLanesRequest>,
    ) -> Result<Response<v1::ListLanesResponse>, Status> {
        self.0.answer(self.lanes(request.into_inner()).await)
    }

    async fn digest_lane(
        &self,
        request: Request<v1::DigestLaneRequest>,
    ) -> Result<Response<v1::DigestLaneResponse>, Status> {
        self.0.answer(self.digest(request.into_inner()).await)
    }

    async fn list_shards(
        &self,
        request: Request<v1::ListShardsRequest>,
    ) -> Result<Response<v1::ListShardsResponse>, Status> {
        let durable = request.into_inner().durable;
        let shards = self.0.shards(durable);
        if durable {
            self.0.host().flush_index().await;
        }
        Ok(Response::new(shards))
    }

    async fn add_node(
        &self,
        request: Request<v1::AddNodeRequest>,
    ) -> Result<Response<v1::AddNodeResponse>, Status> {
        let request = request.into_inner();
        self.0.answer(self.0.add_node(&request).await)
    }

    async fn drain_node(
        &self,
        request: Request<v1::DrainNodeRequest>,
    ) -> Result<Response<v1::DrainNodeResponse>, Status> {
        let request = request.into_inner();
        self.0.answer(self.0.drain_node(&request).await)
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::RemoveNodeResponse>, Status> {
        let request = request.into_inner();
        self.0.answer(self.0.remove_node(&request).await)
    }

    async fn move_shard(
        &self,
        request: Request<v1::MoveShardRequest>,
    ) -> Result<Response<v1::MoveShardResponse>, Status> {
        let request = request.into_inner();
        self.0.answer(self.0.move_replica(&request).await)
    }

    async fn set_replication(
        &self,
        request: Request<v1::SetReplicationRequest>,
    ) -> Result<Response<v1::SetReplicationResponse>, Status> {
        let request = request.into_inner();
        self.0.answer(self.0.set_replication(&request).await)
    }

    async fn restore_region(
        &self,
        request: Request<v1::RestoreRegionRequest>,
    ) -> Result<Response<v1::RestoreRegionResponse>, Status> {
        let request = request.into_inner();
        self.0.answer(self.0.restore_region(request).await)
    }
}
