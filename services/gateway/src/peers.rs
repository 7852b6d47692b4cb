//! The other nodes of this region, asked for what this one has no replica of.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use meridian_metadata::PeerChannels;
use meridian_mirror::Identity;
use meridian_region::Region;
use meridian_types::{Lane, NodeId, Offset, ShardId, StreamId};
use meridian_wire::v1::read_service_client::ReadServiceClient;
use meridian_wire::{ApiError, Reason, v1};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use crate::call::MESSAGE_BYTES;
use crate::following::Run;

/// How often it is looked whether a node that is asked something is still heard: one that stands still keeps its connections.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a node may take to begin an answer that needs no long reading.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Asks the other nodes.
#[derive(Clone)]
pub(crate) struct Peers {
    me: Identity,
    region: Region,
    channels: Arc<dyn PeerChannels>,
}

/// Why a node gave no answer.
#[derive(Debug)]
pub(crate) enum Failed {
    /// It cannot be reached, or is not ready: another may be.
    Unreachable(String),
    /// What it answered is the client's to hear.
    Refused(ApiError),
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        match ApiError::from_status(&status) {
            // Not the client's business: how nodes treat each other.
            Some(error) if matches!(error.reason, Reason::Damaged | Reason::InvalidArgument) => {
                Self::Refused(error)
            }
            _ => Self::Unreachable(status.message().to_owned()),
        }
    }
}

impl Peers {
    pub fn new(me: Identity, region: Region, channels: Arc<dyn PeerChannels>) -> Self {
        Self { me, region, channels }
    }

    fn client(&self, node: NodeId) -> Result<ReadServiceClient<Channel>, Failed> {
        let channel = self.channels.channel(node).map_err(|error| Failed::Unreachable(error.to_string()))?;
        Ok(ReadServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES))
    }

    fn call(&self, node: NodeId) -> Option<v1::ReadCall> {
        Some(v1::ReadCall { from: Some(self.me.to_hello()), to_node: node.0 })
    }

    /// What a node answers, for as long as it is heard.
    async fn while_heard<T>(
        &self,
        node: NodeId,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Failed> {
        tokio::select! {
            answer = answer => Ok(answer?),
            () = self.until_silent(node) => Err(Failed::Unreachable(format!("node {node} is not heard"))),
        }
    }

    async fn until_silent(&self, node: NodeId) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if !self.region.is_live(node) {
                return;
            }
        }
    }

    /// A run of a lane, and where the lane ends there.
    pub async fn read_lane(
        &self,
        node: NodeId,
        lane: Lane,
        from: Offset,
        max_bytes: u64,
    ) -> Result<(Vec<Run>, Offset), Failed> {
        let request =
            v1::ReadLaneRequest { call: self.call(node), lane: Some(lane.into()), from: from.0, max_bytes };
        let mut client = self.client(node)?;
        self.while_heard(node, async {
            let mut answers = client.read_lane(request).await?.into_inner();
            let mut runs = Vec::new();
            while let Some(answer) = answers.message().await? {
                if let Some(end) = answer.end {
                    return Ok((runs, Offset(end)));
                }
                let (base, events) = (Offset(answer.base_offset), answer.events);
                runs.push(Run { base, events, hlc: answer.hlc, batch: answer.batch });
            }
            Err(Status::unavailable("the answer broke off"))
        })
        .await
    }

    /// How far a stream's lanes of some shards reach.
    pub async fn extents(
        &self,
        node: NodeId,
        stream: StreamId,
        shards: &[ShardId],
        time_ms: Option<u64>,
    ) -> Result<v1::ReadExtentsResponse, Failed> {
        let request = v1::ReadExtentsRequest {
            call: self.call(node),
            stream_id: stream.0,
            shards: shards.iter().map(|shard| (*shard).into()).collect(),
            time_ms,
        };
        let mut client = self.client(node)?;
        let answer = in_time(async { Ok(client.read_extents(request).await?.into_inner()) });
        self.while_heard(node, answer).await
    }

    /// How far a stream's lanes of some shards reach that the node leads, as confirmed after this was asked.
    pub async fn latest(
        &self,
        node: NodeId,
        stream: StreamId,
        shards: &[ShardId],
    ) -> Result<v1::ReadExtentsResponse, Failed> {
        let shards = shards.iter().map(|shard| (*shard).into()).collect();
        let request = v1::ReadLatestRequest { call: self.call(node), stream_id: stream.0, shards };
        let mut client = self.client(node)?;
        let answer = in_time(async { Ok(client.read_latest(request).await?.into_inner()) });
        self.while_heard(node, answer).await
    }

    /// The digest of a part of a lane.
    pub async fn digest(
        &self,
        node: NodeId,
        lane: Lane,
        start: Offset,
        end: Offset,
    ) -> Result<v1::DigestLaneResponse, Failed> {
        let request = v1::ReadDigestRequest {
            call: self.call(node),
            lane: Some(lane.into()),
            start: start.0,
            end: end.0,
        };
        let mut client = self.client(node)?;
        // As long as it takes: all of it is read from the disk.
        self.while_heard(node, async { Ok(client.read_digest(request).await?.into_inner()) }).await
    }

    /// What other regions lack of some shards.
    pub async fn at_risk(&self, node: NodeId, shards: &[ShardId]) -> Result<v1::ReadAtRiskResponse, Failed> {
        let shards = shards.iter().map(|shard| (*shard).into()).collect();
        let request = v1::ReadAtRiskRequest { call: self.call(node), shards };
        let mut client = self.client(node)?;
        let answer = in_time(async { Ok(client.read_at_risk(request).await?.into_inner()) });
        self.while_heard(node, answer).await
    }

    /// Begins to watch lanes of a stream at a node. `woken` hears that there is something to take.
    pub fn watch(&self, node: NodeId, stream: StreamId, woken: Arc<Notify>) -> Upstream {
        let (requests, queued) = mpsc::unbounded_channel();
        let inbox = Arc::new(Mutex::new(Told::default()));
        let first = v1::WatchLanesRequest {
            call: self.call(node),
            stream_id: stream.0,
            ..v1::WatchLanesRequest::default()
        };
        let _ = requests.send(first);
        let (peers, told) = (self.clone(), inbox.clone());
        let task = tokio::spawn(async move {
            let failed = peers.listen(node, queued, &told, &woken).await;
            if let Err(Failed::Unreachable(why)) = failed {
                tracing::debug!(%node, why, "a node no longer tells of its lanes");
            }
            told.lock().is_lost = true;
            woken.notify_one();
        });
        Upstream { requests, inbox, task: task.abort_handle() }
    }

    /// Takes what the node says as it comes, so that who reads slowly holds up nobody else on this connection.
    async fn listen(
        &self,
        node: NodeId,
        requests: mpsc::UnboundedReceiver<v1::WatchLanesRequest>,
        inbox: &Mutex<Told>,
        woken: &Notify,
    ) -> Result<(), Failed> {
        let mut client = self.client(node)?;
        let opening = client.watch_lanes(UnboundedReceiverStream::new(requests));
        let answer = in_time(async { Ok(opening.await?.into_inner()) });
        let mut answers = self.while_heard(node, answer).await?;
        self.while_heard(node, async {
            while let Some(answer) = answers.next().await {
                inbox.lock().take_up(&answer?)?;
                woken.notify_one();
            }
            Ok(())
        })
        .await
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = |_| Err(Status::unavailable("no answer in time"));
    tokio::time::timeout(ANSWER_WITHIN, answer).await.unwrap_or_else(late)
}

/// What a node has said of its lanes and was not taken yet: no more than there are lanes, however much it says.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Shards of which any lane may have grown; they are served there.
    pub here: BTreeSet<ShardId>,
    /// Those that are not.
    pub not_here: BTreeSet<ShardId>,
    /// Lanes that have grown.
    pub grown: BTreeSet<Lane>,
    /// Nothing more will come.
    pub is_lost: bool,
}

impl Told {
    fn take_up(&mut self, answer: &v1::WatchLanesResponse) -> Result<(), Status> {
        let error = |error: meridian_wire::WireError| Status::from(ApiError::from(error));
        for shard in &answer.here {
            let shard = ShardId::try_from(shard).map_err(error)?;
            self.not_here.remove(&shard);
            self.here.insert(shard);
        }
        for shard in &answer.not_here {
            let shard = ShardId::try_from(shard).map_err(error)?;
            self.here.remove(&shard);
            self.not_here.insert(shard);
        }
        for lane in &answer.grown {
            self.grown.insert(Lane::try_from(lane).map_err(error)?);
        }
        Ok(())
    }
}

/// A node whose lanes are watched; dropped, they are no more.
pub(crate) struct Upstream {
    requests: mpsc::UnboundedSender<v1::WatchLanesRequest>,
    inbox: Arc<Mutex<Told>>,
    task: AbortHandle,
}

impl Upstream {
    /// Watches a shard, too.
    pub fn add(&self, shard: ShardId) {
        let watch = vec![shard.into()];
        // One that is lost says so.
        let _ = self.requests.send(v1::WatchLanesRequest { watch, ..v1::WatchLanesRequest::default() });
    }

    /// Watches a shard no more.
    pub fn leave(&self, shard: ShardId) {
        let leave = vec![shard.into()];
        let _ = self.requests.send(v1::WatchLanesRequest { leave, ..v1::WatchLanesRequest::default() });
    }

    /// What was said since.
    pub fn told(&self) -> Told {
        let mut inbox = self.inbox.lock();
        let is_lost = inbox.is_lost;
        std::mem::replace(&mut *inbox, Told { is_lost, ..Told::default() })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}
