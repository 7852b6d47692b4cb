//! Between the catalog's types and the protobuf that is logged, sent and stored.

use std::sync::Arc;

use bytes::Bytes;
use meridian_types::{
    ClusterUuid, DiskUuid, Incarnation, NodeId, RegionId, RegionName, StreamId, StreamName, TenantId,
    TenantName, Timestamp,
};
use meridian_wire::v1;
use meridian_wire::v1::catalog_command::Change as WireChange;
use meridian_wire::v1::catalog_reply::Reply as WireReply;
use uuid::Uuid;

use super::command::{Change, Command, CreateStream, Genesis, RequestId, RestoreRegion, UpdateStream};
use super::past::{Past, of_recovered};
use super::reply::{Outcome, Refusal, RefusalCode, Reply};
use super::rows::{NodeRow, RegionRow, StreamRow, StreamSettings, TenantRow};

pub(super) fn malformed(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::Malformed, message)
}

fn name(error: &meridian_types::NameError) -> Refusal {
    Refusal::new(RefusalCode::BadName, error.to_string())
}

pub(super) fn narrow(field: &str, value: u32) -> Result<u16, Refusal> {
    u16::try_from(value).map_err(|_| malformed(format!("{field} {value} is out of range")))
}

fn uuid(field: &str, text: &str) -> Result<Uuid, Refusal> {
    match Uuid::parse_str(text) {
        Ok(uuid) if !uuid.is_nil() => Ok(uuid),
        _ => Err(malformed(format!("{field} {text:?} is no uuid"))),
    }
}

impl From<&Command> for v1::CatalogCommand {
    fn from(command: &Command) -> Self {
        let change = match &command.change {
            Change::Genesis(genesis) => WireChange::Genesis(v1::CatalogGenesis {
                cluster_uuid: genesis.cluster.to_string(),
                feature_level: genesis.feature_level,
                regions: genesis.regions.iter().map(Into::into).collect(),
                nodes: genesis.nodes.iter().map(Into::into).collect(),
            }),
            Change::CreateStream(create) => WireChange::CreateStream(v1::CatalogCreateStream {
                tenant_id: create.tenant.0,
                name: create.name.to_string(),
                settings: Some((&create.settings).into()),
            }),
            Change::UpdateStream(update) => WireChange::UpdateStream(v1::CatalogUpdateStream {
                stream_id: update.id.0,
                settings: Some((&update.settings).into()),
                expected_version: update.expected_version.unwrap_or(0),
            }),
            Change::DeleteStream(id) => WireChange::DeleteStream(v1::CatalogDeleteStream { stream_id: id.0 }),
            Change::RegisterNode(node) => {
                WireChange::RegisterNode(v1::CatalogRegisterNode { node: Some(node.into()) })
            }
            Change::RemoveNode(id) => WireChange::RemoveNode(v1::CatalogRemoveNode { id: id.0 }),
            Change::RestoreRegion(restore) => WireChange::RestoreRegion(v1::CatalogRestoreRegion {
                region: u32::from(restore.region.0),
                incarnation: u32::from(restore.incarnation.0),
                voters: restore.voters.iter().map(|node| node.0).collect(),
                lost: restore.lost.iter().map(|node| node.0).collect(),
                recovered: Vec::new(),
                past: restore.past.iter().map(Into::into).collect(),
            }),
            Change::RaiseFeatureLevel(level) => {
                WireChange::RaiseFeatureLevel(v1::CatalogRaiseFeatureLevel { level: *level })
            }
        };
        Self {
            request_id: Bytes::copy_from_slice(command.request.0.as_bytes()),
            at_ms: command.at.0,
            change: Some(change),
        }
    }
}

impl TryFrom<v1::CatalogCommand> for Command {
    type Error = Refusal;

    fn try_from(wire: v1::CatalogCommand) -> Result<Self, Refusal> {
        let change = match wire.change.ok_or_else(|| malformed("a command without a change"))? {
            WireChange::Genesis(genesis) => Change::Genesis(Genesis {
                cluster: ClusterUuid(uuid("cluster uuid", &genesis.cluster_uuid)?),
                feature_level: genesis.feature_level,
                regions: genesis.regions.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
                nodes: genesis.nodes.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            }),
            WireChange::CreateStream(create) => Change::CreateStream(CreateStream {
                tenant: TenantId(create.tenant_id),
                name: StreamName::new(create.name).map_err(|e| name(&e))?,
                settings: settings(create.settings)?,
            }),
            WireChange::UpdateStream(update) => Change::UpdateStream(UpdateStream {
                id: StreamId(update.stream_id),
                settings: settings(update.settings)?,
                expected_version: (update.expected_version > 0).then_some(update.expected_version),
            }),
            WireChange::DeleteStream(delete) => Change::DeleteStream(StreamId(delete.stream_id)),
            WireChange::RegisterNode(register) => Change::RegisterNode(
                register.node.ok_or_else(|| malformed("a registration without a node"))?.try_into()?,
            ),
            WireChange::RemoveNode(remove) => Change::RemoveNode(NodeId(remove.id)),
            WireChange::RestoreRegion(restore) => {
                let region = RegionId(narrow("region", restore.region)?);
                let incarnation = Incarnation(narrow("incarnation", restore.incarnation)?);
                Change::RestoreRegion(RestoreRegion {
                    region,
                    incarnation,
                    voters: restore.voters.into_iter().map(NodeId).collect(),
                    lost: restore.lost.into_iter().map(NodeId).collect(),
                    past: past(region, incarnation.0, restore.recovered, restore.past)?,
                })
            }
            WireChange::RaiseFeatureLevel(raise) => Change::RaiseFeatureLevel(raise.level),
        };
        Ok(Self { request: request_id(&wire.request_id)?, at: Timestamp(wire.at_ms), change })
    }
}

/// What is left of past incarnations; `recovered` was all that earlier builds said of it, of the incarnation `over`.
fn past(
    region: RegionId,
    over: u16,
    recovered: Vec<u64>,
    wire: Vec<v1::PastShards>,
) -> Result<Vec<Past>, Refusal> {
    let said = wire.into_iter().map(Past::try_from);
    of_recovered(region, over, recovered).map(Ok).into_iter().chain(said).collect()
}

pub(super) fn request_id(bytes: &[u8]) -> Result<RequestId, Refusal> {
    Uuid::from_slice(bytes).map(RequestId).map_err(|_| malformed("a request id has 16 bytes"))
}

pub(super) fn settings(wire: Option<v1::StreamSettings>) -> Result<StreamSettings, Refusal> {
    let wire = wire.ok_or_else(|| malformed("a stream without settings"))?;
    Ok(StreamSettings {
        partitions: wire.partitions,
        retention_ms: wire.retention_ms,
        retention_bytes: wire.retention_bytes,
        labels: wire.labels,
    })
}

impl From<&StreamSettings> for v1::StreamSettings {
    fn from(settings: &StreamSettings) -> Self {
        Self {
            partitions: settings.partitions,
            retention_ms: settings.retention_ms,
            retention_bytes: settings.retention_bytes,
            labels: settings.labels.clone(),
        }
    }
}

impl From<v1::StreamSettings> for StreamSettings {
    fn from(wire: v1::StreamSettings) -> Self {
        Self {
            partitions: wire.partitions,
            retention_ms: wire.retention_ms,
            retention_bytes: wire.retention_bytes,
            labels: wire.labels,
        }
    }
}

impl From<&RegionRow> for v1::CatalogRegion {
    fn from(region: &RegionRow) -> Self {
        Self {
            id: u32::from(region.id.0),
            name: region.name.to_string(),
            incarnation: u32::from(region.incarnation.0),
            shards: u32::from(region.shards),
            founders: region.founders.iter().map(|node| node.0).collect(),
            recovered: Vec::new(),
            past: region.past.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::CatalogRegion> for RegionRow {
    type Error = Refusal;

    fn try_from(wire: v1::CatalogRegion) -> Result<Self, Refusal> {
        let (id, incarnation) = (narrow("region", wire.id)?, narrow("incarnation", wire.incarnation)?);
        Ok(Self {
            id: RegionId(id),
            name: RegionName::new(wire.name).map_err(|e| name(&e))?,
            incarnation: Incarnation(incarnation),
            shards: narrow("shards", wire.shards)?,
            founders: wire.founders.into_iter().map(NodeId).collect(),
            past: past(RegionId(id), incarnation.saturating_sub(1), wire.recovered, wire.past)?,
        })
    }
}

impl From<&NodeRow> for v1::CatalogNode {
    fn from(node: &NodeRow) -> Self {
        Self {
            id: node.id.0,
            region: u32::from(node.region.0),
            disk_uuid: node.disk.to_string(),
            peer_address: node.peer_address.clone(),
            client_address: node.client_address.clone(),
            max_feature_level: node.max_feature_level,
            added: node.added,
            replaces: node.replaces.map_or(0, |old| old.0),
        }
    }
}

impl TryFrom<v1::CatalogNode> for NodeRow {
    type Error = Refusal;

    fn try_from(wire: v1::CatalogNode) -> Result<Self, Refusal> {
        Ok(Self {
            id: NodeId(wire.id),
            region: RegionId(narrow("region", wire.region)?),
            disk: DiskUuid(uuid("disk uuid", &wire.disk_uuid)?),
            peer_address: wire.peer_address,
            client_address: wire.client_address,
            max_feature_level: wire.max_feature_level,
            added: wire.added,
            replaces: (wire.replaces > 0).then_some(NodeId(wire.replaces)),
        })
    }
}

impl From<&TenantRow> for v1::CatalogTenant {
    fn from(tenant: &TenantRow) -> Self {
        Self { id: tenant.id.0, name: tenant.name.to_string() }
    }
}

impl TryFrom<v1::CatalogTenant> for TenantRow {
    type Error = Refusal;

    fn try_from(wire: v1::CatalogTenant) -> Result<Self, Refusal> {
        Ok(Self { id: TenantId(wire.id), name: TenantName::new(wire.name).map_err(|e| name(&e))? })
    }
}

impl From<&StreamRow> for v1::CatalogStream {
    fn from(stream: &StreamRow) -> Self {
        Self {
            id: stream.id.0,
            tenant_id: stream.tenant.0,
            name: stream.name.to_string(),
            settings: Some((&stream.settings).into()),
            created_at_ms: stream.created_at.0,
            version: stream.version,
        }
    }
}

impl TryFrom<v1::CatalogStream> for StreamRow {
    type Error = Refusal;

    fn try_from(wire: v1::CatalogStream) -> Result<Self, Refusal> {
        Ok(Self {
            id: StreamId(wire.id),
            tenant: TenantId(wire.tenant_id),
            name: StreamName::new(wire.name).map_err(|e| name(&e))?,
            settings: settings(wire.settings)?,
            created_at: Timestamp(wire.created_at_ms),
            version: wire.version,
        })
    }
}

impl From<&Outcome> for v1::CatalogReply {
    fn from(outcome: &Outcome) -> Self {
        let reply = match outcome {
            Outcome::Founded(cluster) => {
                WireReply::Founded(v1::CatalogFounded { cluster_uuid: cluster.to_string() })
            }
            Outcome::StreamCreated { stream, created } => {
                WireReply::StreamCreated(v1::CatalogStreamCreated {
                    stream: Some(stream.as_ref().into()),
                    created: *created,
                })
            }
            Outcome::StreamUpdated(stream) => {
                WireReply::StreamUpdated(v1::CatalogStreamUpdated { stream: Some(stream.as_ref().into()) })
            }
            Outcome::StreamDeleted(stream) => {
                WireReply::StreamDeleted(v1::CatalogStreamDeleted { stream: Some(stream.as_ref().into()) })
            }
            Outcome::NodeRegistered(node) => {
                WireReply::NodeRegistered(v1::CatalogNodeRegistered { node: Some(node.as_ref().into()) })
            }
            Outcome::NodeRemoved(id) => WireReply::NodeRemoved(v1::CatalogNodeRemoved { id: id.0 }),
            Outcome::RegionRestored(region) => {
                WireReply::RegionRestored(v1::CatalogRegionRestored { region: Some(region.as_ref().into()) })
            }
            Outcome::FeatureLevelRaised(level) => {
                WireReply::FeatureLevelRaised(v1::CatalogFeatureLevelRaised { level: *level })
            }
        };
        Self { reply: Some(reply) }
    }
}

/// A reply as it is sent.
pub(super) fn reply_to_wire(reply: &Reply) -> v1::CatalogReply {
    match reply {
        Ok(outcome) => outcome.into(),
        Err(refusal) => v1::CatalogReply {
            reply: Some(WireReply::Refused(v1::CatalogRefused {
                code: refusal.code.into(),
                message: refusal.message.clone(),
            })),
        },
    }
}

/// The outer error: the bytes are no reply. The inner one: a reply that refuses.
pub(super) fn reply_from_wire(wire: v1::CatalogReply) -> Result<Reply, Refusal> {
    let stream = |stream: Option<v1::CatalogStream>| -> Result<Arc<StreamRow>, Refusal> {
        Ok(Arc::new(stream.ok_or_else(|| malformed("a reply without its stream"))?.try_into()?))
    };
    Ok(Ok(match wire.reply.ok_or_else(|| malformed("an empty reply"))? {
        WireReply::Refused(refused) => {
            let code = RefusalCode::try_from(refused.code).unwrap_or(RefusalCode::Unspecified);
            return Ok(Err(Refusal::new(code, refused.message)));
        }
        WireReply::Founded(founded) => {
            Outcome::Founded(ClusterUuid(uuid("cluster uuid", &founded.cluster_uuid)?))
        }
        WireReply::StreamCreated(created) => {
            Outcome::StreamCreated { stream: stream(created.stream)?, created: created.created }
        }
        WireReply::StreamUpdated(updated) => Outcome::StreamUpdated(stream(updated.stream)?),
        WireReply::StreamDeleted(deleted) => Outcome::StreamDeleted(stream(deleted.stream)?),
        WireReply::NodeRegistered(registered) => Outcome::NodeRegistered(Arc::new(
            registered.node.ok_or_else(|| malformed("a reply without its node"))?.try_into()?,
        )),
        WireReply::NodeRemoved(removed) => Outcome::NodeRemoved(NodeId(removed.id)),
        WireReply::RegionRestored(restored) => Outcome::RegionRestored(Arc::new(
            restored.region.ok_or_else(|| malformed("a reply without its region"))?.try_into()?,
        )),
        WireReply::FeatureLevelRaised(raised) => Outcome::FeatureLevelRaised(raised.level),
    }))
}
