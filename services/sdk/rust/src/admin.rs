//! Streams, topology, lag, and what a region holds.

use std::time::Duration;

use meridian_types::{Lane, NodeId, Offset, ShardId};
use meridian_wire::v1::{self, StreamSettings};
use meridian_wire::{ApiError, Reason};

use crate::client::{Client, cluster, streams};
use crate::{SdkError, client};

/// Reading a lane off a disk takes its time.
const DIGEST_TIMEOUT: Duration = Duration::from_secs(600);

/// Calls that neither publish nor read events.
#[derive(Clone)]
pub struct Admin {
    client: Client,
}

/// What one region holds of a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneExtent {
    /// Which lane.
    pub lane: Lane,
    /// The name of the region that writes it.
    pub origin: String,
    /// The first offset that is there.
    pub start: Offset,
    /// The next offset.
    pub end: Offset,
    /// How much is stored, in bytes.
    pub bytes: u64,
}

/// The digest of the frames of a range of a lane, read from the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeDigest {
    /// BLAKE3, 32 bytes.
    pub blake3: [u8; 32],
    /// Events read.
    pub events: u64,
    /// Frames read.
    pub frames: u64,
    /// Bytes read.
    pub bytes: u64,
    /// The first offset whose frame does not read back as it was written, and what is wrong; the digest covers what
    /// is before it.
    pub damaged: Option<(Offset, String)>,
}

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Creates a stream. True: it is new; false: it was there with the same settings.
    ///
    /// # Errors
    /// [`SdkError`].
    pub async fn create_stream(
        &self,
        stream: &str,
        settings: StreamSettings,
    ) -> Result<(v1::Stream, bool), SdkError> {
        let request = v1::CreateStreamRequest {
            stream: Some(self.client.stream_ref(stream)?),
            settings: Some(settings),
        };
        let answer = self
            .call(|channel| {
                let request = request.clone();
                async move { streams(channel).create_stream(request).await }
            })
            .await?;
        // A try that broke off may have been the one that created it.
        let created = answer.value.created || answer.retried;
        Ok((required(answer.value.stream, "stream")?, created))
    }

    /// Reads a stream's row of the catalog.
    ///
    /// # Errors
    /// [`SdkError`].
    pub async fn get_stream(&self, stream: &str) -> Result<v1::Stream, SdkError> {
        let request = v1::GetStreamRequest { stream: Some(self.client.stream_ref(stream)?) };
        let answer = self
            .call(|channel| {
                let request = request.clone();
                async move { streams(channel).get_stream(request).await }
            })
            .await?;
        required(answer.value.stream, "stream")
    }

    /// Reads every stream's row, page by page.
    ///
    /// # Errors
    /// [`SdkError`].
    pub async fn list_streams(&self) -> Result<Vec<v1::Stream>, SdkError> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let tenant = self.client.options().tenant.as_str().to_owned();
            let request = v1::ListStreamsRequest { tenant, page_size: 0, page_token: page_token.clone() };
            let answer = self
                .call(|channel| {
                    let request = request.clone();
                    async move { streams(channel).list_streams(request).await }
                })
                .await?
                .value;
            all.extend(answer.streams);
            if answer.next_page_token.is_empty() {
                return Ok(all);
            }
            if answer.next_page_token == page_token {
                return Err(SdkError::Protocol("a page of streams names itself as the next".to_owned()));
            }
            page_token = answer.next_page_token;
        }
    }

    /// Changes a stream's settings, all of them. `expected_version` 0: whatever the version is.
    ///
    /// # Errors
    /// [`SdkError`], with [`Reason::VersionConflict`] if another change came between.
    pub async fn update_stream(
        &self,
        stream: &str,
        settings: StreamSettings,
        expected_version: u64,
    ) -> Result<v1::Stream, SdkError> {
        let request = v1::UpdateStreamRequest {
            stream: Some(self.client.stream_ref(stream)?),
            settings: Some(settings.clone()),
            expected_version,
        };
        let answer = self
            .call(|channel| {
                let request = request.clone();
                async move { streams(channel).update_stream(request).await }
            })
            .await;
        match answer {
            Ok(answer) => required(answer.value.stream, "stream"),
            // A try that broke off may have been the change that this one collides with.
            Err(SdkError::Refused(error)) if error.reason == Reason::VersionConflict => {
                let now = self.get_stream(stream).await?;
                if now.version == expected_version + 1 && now.settings.as_ref() == Some(&settings) {
                    Ok(now)
                } else {
                    Err(error.into())
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Deletes a stream and what it holds.
    ///
    /// # Errors
    /// [`SdkError`].
    pub async fn delete_stream(&self, stream: &str) -> Result<(), SdkError> {
        let request = v1::DeleteStreamRequest { stream: Some(self.client.stream_ref(stream)?) };
        let retried = std::sync::atomic::AtomicBool::new(false);
        let answer = self
            .call(|channel| {
                let (request, again) =
                    (request.clone(), retried.swap(true, std::sync::atomic::Ordering::Relaxed));
                async move {
                    match streams(channel).delete_stream(request).await {
                        // A try that broke off deleted it.
                        Err(status) if again && is_not_found(&status) => {
                            Ok(tonic::Response::new(v1::DeleteStreamResponse {}))
                        }
                        answer => answer,
                    }
                }
            })
            .await;
        answer.map(|_| ())
    }

    /// Regions and nodes, as one node of this region knows them.
    ///
    /// # Errors
    /// [`SdkError`].
    pub async fn topology(&self) -> Result<v1::GetTopologyResponse, SdkError> {
        let answer = self
            .call(|channel| async move { cluster(channel).get_topology(v1::GetTopologyRequest {}).await })
            .await?;
        Ok(answer.value)
    }

    /// Who leads each shard of this region and of its copies of others, as one node of it knows, and how far that node's
    /// own replicas are.
    ///
    /// # Errors
    /// [`SdkError`]; [`SdkError::Foreign`] from a node of a version that cannot say.
    pub async fn list_shards(&self) -> Result<v1::ListShardsResponse, SdkError> {
        self.shards(v1::ListShardsRequest { durable: false }).await
    }

    /// The same, once what the node says of its own replicas would survive a loss of power.
    ///
    /// # Errors
    /// See [`Admin::list_shards`].
    pub async fn list_durable_shards(&self) -> Result<v1::ListShardsResponse, SdkError> {
        self.shards(v1::ListShardsRequest { durable: true }).await
    }

    async fn shards(&self, request: v1::ListShardsRequest) -> Result<v1::ListShardsResponse, SdkError> {
        let answer = self.call(|channel| async move { cluster(channel).list_shards(request).await }).await?;
        Ok(answer.value)
    }

    /// Admits a new node, or takes up the addresses of a known one. True: it is new; false: it was known, perhaps because a try
    /// that broke off admitted it. The same again is no error.
    ///
    /// # Errors
    /// [`SdkError`].
    pub async fn add_node(&self, request: v1::AddNodeRequest) -> Result<bool, SdkError> {
        let request = v1::AddNodeRequest { timeout_ms: self.patience(), ..request };
        let answer = self
            .call(|channel| {
                let request = request.clone();
                async move { cluster(channel).add_node(request).await }
            })
            .await?;
        Ok(answer.value.added)
    }

    /// Moves a node's replicas and leaderships elsewhere, so that it can be removed; `undo`: takes it into use again.
    /// Answered once it is decided. The same again is no error.
    ///
    /// # Errors
    /// [`SdkError`].
    pub async fn drain_node(&self, node: NodeId, undo: bool) -> Result<(), SdkError> {
        let request = v1::DrainNodeRequest { node: node.0, undo };
        self.call(|channel| async move { cluster(channel).drain_node(request).await }).await.map(|_| ())
    }

    /// Takes a drained or lost node out of its region for good. The same again is no error.
    ///
    /// # Errors
    /// [`SdkError`].
    pub async fn remove_node(&self, node: NodeId) -> Result<(), SdkError> {
        let request = v1::RemoveNodeRequest { node: node.0 };
        self.call(|channel| async move { cluster(channel).remove_node(request).await }).await.map(|_| ())
    }

    /// Moves one replica of a shard from a node to another. Answered once it is decided; the same again, before it is
    /// done, is no error.
    ///
    /// # Errors
    /// [`SdkError`].
    pub async fn move_shard(&self, shard: ShardId, from: NodeId, to: NodeId) -> Result<(), SdkError> {
        let request = v1::MoveShardRequest {
            origin: Some(shard.origin.into()),
            number: u32::from(shard.no.0),
            from: from.0,
            to: to.0,
        };
        self.call(|channel| async move { cluster(channel).move_shard(request).await }).await.map(|_| ())
    }

    /// How many replicas the region keeps of each shard and copy from now on. Answered once it is decided.
    ///
    /// # Errors
    /// [`SdkError`].
    pub async fn set_replication(&self, replicas: u32) -> Result<(), SdkError> {
        let request = v1::SetReplicationRequest { replicas };
        self.call(|channel| async move { cluster(channel).set_replication(request).await }).await.map(|_| ())
    }

    /// Has a region that lost a majority of its nodes go on under its next incarnation, which is answered.
    ///
    /// # Errors
    /// [`SdkError`].
    pub async fn restore_region(&self, request: v1::RestoreRegionRequest) -> Result<u32, SdkError> {
        let request = v1::RestoreRegionRequest { timeout_ms: self.patience(), ..request };
        let answer = self
            .call(|channel| {
                let request = request.clone();
                async move { cluster(channel).restore_region(request).await }
            })
            .await?;
        Ok(answer.value.incarnation)
    }

    /// How far this region's links are.
    ///
    /// # Errors
    /// [`SdkError`].
    pub async fn lag(&self) -> Result<v1::GetLagResponse, SdkError> {
        let answer =
            self.call(|channel| async move { cluster(channel).get_lag(v1::GetLagRequest {}).await }).await?;
        Ok(answer.value)
    }

    /// What this region holds of a stream.
    ///
    /// # Errors
    /// [`SdkError`].
    pub async fn list_lanes(&self, stream: &str) -> Result<Vec<LaneExtent>, SdkError> {
        let request = v1::ListLanesRequest { stream: Some(self.client.stream_ref(stream)?) };
        let answer = self
            .call(|channel| {
                let request = request.clone();
                async move { cluster(channel).list_lanes(request).await }
            })
            .await?;
        answer.value.lanes.iter().map(extent).collect()
    }

    /// The digest of the frames of a lane whose first offset is in `[start, end)`, as they are on the disk now.
    ///
    /// # Errors
    /// [`SdkError`].
    pub async fn digest(
        &self,
        stream: &str,
        lane: Lane,
        start: Offset,
        end: Offset,
    ) -> Result<RangeDigest, SdkError> {
        let request = v1::DigestLaneRequest {
            stream: Some(self.client.stream_ref(stream)?),
            lane: Some(lane.into()),
            start: start.0,
            end: end.0,
        };
        let call = |channel| {
            let request = request.clone();
            async move { cluster(channel).digest_lane(request).await }
        };
        let answer = self.client.call(DIGEST_TIMEOUT, call).await?.value;
        let blake3 = answer.blake3.as_ref().try_into().map_err(|_| {
            SdkError::Protocol(format!("a digest of {} bytes, and not of 32", answer.blake3.len()))
        })?;
        Ok(RangeDigest {
            blake3,
            events: answer.events,
            frames: answer.frames,
            bytes: answer.bytes,
            damaged: answer.damaged_at.map(|at| (Offset(at), answer.damage)),
        })
    }

    /// What a call that is made once may take, as its request says it: so it is answered why nothing happens.
    fn patience(&self) -> u64 {
        let options = self.client.options();
        u64::try_from(options.retry_for.min(options.attempt_timeout).as_millis()).unwrap_or(u64::MAX)
    }

    async fn call<T, F>(
        &self,
        call: impl Fn(tonic::transport::Channel) -> F,
    ) -> Result<client::Answer<T>, SdkError>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        self.client.call(self.client.options().attempt_timeout, call).await
    }
}

fn is_not_found(status: &tonic::Status) -> bool {
    ApiError::from_status(status).is_some_and(|error| error.reason == Reason::StreamNotFound)
}

fn required<T>(field: Option<T>, name: &str) -> Result<T, SdkError> {
    field.ok_or_else(|| SdkError::Protocol(format!("an answer has no {name}")))
}

fn extent(ends: &v1::LaneEnds) -> Result<LaneExtent, SdkError> {
    let lane = ends.lane.as_ref().ok_or_else(|| SdkError::Protocol("an answer has no lane".to_owned()))?;
    let lane = Lane::try_from(lane).map_err(|error| SdkError::Protocol(error.to_string()))?;
    if ends.start > ends.end {
        return Err(SdkError::Protocol(format!("lane {lane} ends at {} before {}", ends.end, ends.start)));
    }
    Ok(LaneExtent {
        lane,
        origin: ends.origin_region.clone(),
        start: Offset(ends.start),
        end: Offset(ends.end),
        bytes: ends.bytes,
    })
}
