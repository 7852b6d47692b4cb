//! Between placement's commands and replies and the protobuf that is logged and sent.

use meridian_types::{Boot, ClusterUuid, DiskUuid, LeaderEpoch, NodeId, RegionId, SetVersion, ShardId};
use meridian_wire::v1;
use meridian_wire::v1::placement_change::Change as Wire;
use uuid::Uuid;

use super::command::{Change, Command, Found, Join};
use super::reply::{Refusal, RefusalCode, Reply, malformed};

pub(super) fn uuid(field: &str, text: &str) -> Result<Uuid, Refusal> {
    match Uuid::parse_str(text) {
        Ok(uuid) if !uuid.is_nil() => Ok(uuid),
        _ => Err(malformed(format!("{field} {text:?} is no uuid"))),
    }
}

pub(super) fn narrow<T: TryFrom<u32>>(field: &str, value: u32) -> Result<T, Refusal> {
    T::try_from(value).map_err(|_| malformed(format!("{field} {value} is out of range")))
}

pub(super) fn shard(wire: Option<v1::ShardRef>) -> Result<ShardId, Refusal> {
    let wire = wire.ok_or_else(|| malformed("a change without its shard"))?;
    ShardId::try_from(&wire).map_err(|error| malformed(error.to_string()))
}

pub(super) fn nodes(wire: Vec<u32>) -> Vec<NodeId> {
    wire.into_iter().map(NodeId).collect()
}

pub(super) fn numbers(nodes: &[NodeId]) -> Vec<u32> {
    nodes.iter().map(|node| node.0).collect()
}

impl From<&Command> for v1::PlacementCommand {
    fn from(command: &Command) -> Self {
        Self { changes: command.changes.iter().map(Into::into).collect() }
    }
}

impl From<&Change> for v1::PlacementChange {
    fn from(change: &Change) -> Self {
        let change = match change {
            Change::Found(found) => Wire::Found(found.into()),
            Change::Join(join) => Wire::Join(join.into()),
            Change::Drain { node } => Wire::Drain(v1::PlacementDrain { node: node.0 }),
            Change::Undrain { node } => Wire::Undrain(v1::PlacementUndrain { node: node.0 }),
            Change::Remove { node } => Wire::Remove(v1::PlacementRemove { node: node.0 }),
            Change::SetReplication { replicas } => {
                Wire::SetReplication(v1::PlacementSetReplication { replicas: u32::from(*replicas) })
            }
            Change::Create { shard, members } => {
                Wire::Create(v1::PlacementCreate { shard: Some((*shard).into()), members: numbers(members) })
            }
            Change::Begin { shard, epoch } => {
                Wire::Begin(v1::PlacementBegin { shard: Some((*shard).into()), epoch: epoch.0 })
            }
            Change::Elect { shard, epoch, node, boot } => Wire::Elect(v1::PlacementElect {
                shard: Some((*shard).into()),
                epoch: epoch.0,
                node: node.0,
                boot: boot.0,
            }),
            Change::Learner { shard, version, node } => Wire::Learner(v1::PlacementLearner {
                shard: Some((*shard).into()),
                version: version.0,
                node: node.map(|node| node.0),
            }),
            Change::Change { shard, version, members } => Wire::ChangeSet(v1::PlacementChangeSet {
                shard: Some((*shard).into()),
                version: version.0,
                members: numbers(members),
            }),
            Change::Settle { shard, epoch } => {
                Wire::Settle(v1::PlacementSettle { shard: Some((*shard).into()), epoch: epoch.0 })
            }
            Change::Move { shard, from, to } => {
                Wire::Move(v1::PlacementMove { shard: Some((*shard).into()), from: from.0, to: to.0 })
            }
            Change::CancelMove { shard } => {
                Wire::CancelMove(v1::PlacementCancelMove { shard: Some((*shard).into()) })
            }
        };
        Self { change: Some(change) }
    }
}

impl TryFrom<v1::PlacementChange> for Change {
    type Error = Refusal;

    fn try_from(wire: v1::PlacementChange) -> Result<Self, Refusal> {
        Ok(match wire.change.ok_or_else(|| malformed("an empty change"))? {
            Wire::Found(found) => Self::Found(found.try_into()?),
            Wire::Join(join) => Self::Join(join.try_into()?),
            Wire::Drain(drain) => Self::Drain { node: NodeId(drain.node) },
            Wire::Undrain(undrain) => Self::Undrain { node: NodeId(undrain.node) },
            Wire::Remove(remove) => Self::Remove { node: NodeId(remove.node) },
            Wire::SetReplication(set) => Self::SetReplication { replicas: narrow("replicas", set.replicas)? },
            Wire::Create(create) => {
                Self::Create { shard: shard(create.shard)?, members: nodes(create.members) }
            }
            Wire::Begin(begin) => Self::Begin { shard: shard(begin.shard)?, epoch: LeaderEpoch(begin.epoch) },
            Wire::Elect(elect) => Self::Elect {
                shard: shard(elect.shard)?,
                epoch: LeaderEpoch(elect.epoch),
                node: NodeId(elect.node),
                boot: Boot(elect.boot),
            },
            Wire::Learner(learner) => Self::Learner {
                shard: shard(learner.shard)?,
                version: SetVersion(learner.version),
                node: learner.node.map(NodeId),
            },
            Wire::ChangeSet(change) => Self::Change {
                shard: shard(change.shard)?,
                version: SetVersion(change.version),
                members: nodes(change.members),
            },
            Wire::Settle(settle) => {
                Self::Settle { shard: shard(settle.shard)?, epoch: LeaderEpoch(settle.epoch) }
            }
            Wire::Move(moved) => {
                Self::Move { shard: shard(moved.shard)?, from: NodeId(moved.from), to: NodeId(moved.to) }
            }
            Wire::CancelMove(cancel) => Self::CancelMove { shard: shard(cancel.shard)? },
        })
    }
}

impl From<&Found> for v1::PlacementFound {
    fn from(found: &Found) -> Self {
        Self {
            cluster_uuid: found.cluster.to_string(),
            region: u32::from(found.region.0),
            replication: u32::from(found.replication),
            nodes: found.nodes.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::PlacementFound> for Found {
    type Error = Refusal;

    fn try_from(wire: v1::PlacementFound) -> Result<Self, Refusal> {
        Ok(Self {
            cluster: ClusterUuid(uuid("cluster uuid", &wire.cluster_uuid)?),
            region: RegionId(narrow("region", wire.region)?),
            replication: narrow("replication", wire.replication)?,
            nodes: wire.nodes.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&Join> for v1::PlacementJoin {
    fn from(join: &Join) -> Self {
        Self {
            node: join.node.0,
            disk_uuid: join.disk.to_string(),
            peer_address: join.peer_address.clone(),
            client_address: join.client_address.clone(),
        }
    }
}

impl TryFrom<v1::PlacementJoin> for Join {
    type Error = Refusal;

    fn try_from(wire: v1::PlacementJoin) -> Result<Self, Refusal> {
        Ok(Self {
            node: NodeId(wire.node),
            disk: DiskUuid(uuid("disk uuid", &wire.disk_uuid)?),
            peer_address: wire.peer_address,
            client_address: wire.client_address,
        })
    }
}

/// A reply as it is sent.
pub(super) fn reply_to_wire(reply: &Reply) -> v1::PlacementReply {
    let outcome = |refusal: &Refusal| v1::PlacementRefused {
        code: refusal.code.into(),
        message: refusal.message.clone(),
    };
    v1::PlacementReply {
        outcomes: reply
            .iter()
            .map(|result| v1::PlacementOutcome { refused: result.as_ref().err().map(outcome) })
            .collect(),
    }
}

/// A code that this build does not know reads as unspecified: the sentence still says what to do.
pub(super) fn reply_from_wire(wire: v1::PlacementReply) -> Reply {
    let refusal = |refused: v1::PlacementRefused| {
        let code = RefusalCode::try_from(refused.code).unwrap_or(RefusalCode::Unspecified);
        Refusal::new(code, refused.message)
    };
    wire.outcomes
        .into_iter()
        .map(|outcome| outcome.refused.map_or(Ok(()), |refused| Err(refusal(refused))))
        .collect()
}
