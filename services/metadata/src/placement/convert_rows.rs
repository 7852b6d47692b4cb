//! Between placement's rows and the protobuf that is stored.

use meridian_types::{Boot, DiskUuid, LeaderEpoch, NodeId, SetVersion, ShardId};
use meridian_wire::v1;
use meridian_wire::v1::placement_node::State as WireState;

use super::convert::{nodes, numbers, shard, uuid};
use super::reply::{Refusal, malformed};
use super::rows::{Elected, Move, NodeRow, NodeState, ShardRow};

pub(super) fn node_to_wire(id: NodeId, row: &NodeRow) -> v1::PlacementNode {
    let state = match row.state {
        NodeState::Active => WireState::Active,
        NodeState::Draining => WireState::Draining,
    };
    v1::PlacementNode {
        id: id.0,
        disk_uuid: row.disk.to_string(),
        peer_address: row.peer_address.clone(),
        client_address: row.client_address.clone(),
        state: state.into(),
    }
}

pub(super) fn node_from_wire(wire: v1::PlacementNode) -> Result<(NodeId, NodeRow), Refusal> {
    let state = match WireState::try_from(wire.state) {
        Ok(WireState::Active) => NodeState::Active,
        Ok(WireState::Draining) => NodeState::Draining,
        Ok(WireState::Unspecified) | Err(_) => {
            return Err(malformed(format!(
                "node {} is in state {}, which this build does not know",
                wire.id, wire.state
            )));
        }
    };
    let row = NodeRow {
        disk: DiskUuid(uuid("disk uuid", &wire.disk_uuid)?),
        peer_address: wire.peer_address,
        client_address: wire.client_address,
        state,
    };
    Ok((NodeId(wire.id), row))
}

pub(super) fn shard_to_wire(id: ShardId, row: &ShardRow) -> v1::PlacementShard {
    v1::PlacementShard {
        shard: Some(id.into()),
        version: row.version.0,
        members: numbers(&row.members),
        learner: row.learner.map(|node| node.0),
        previous: row.previous.as_deref().map(numbers).unwrap_or_default(),
        changed_in: row.changed_in.0,
        begun: row.begun.0,
        elected: row.elected.map(|elected| v1::PlacementElected {
            epoch: elected.epoch.0,
            node: elected.node.0,
            boot: elected.boot.0,
        }),
        moving: row.moving.map(|moving| v1::PlacementMoving { from: moving.from.0, to: moving.to.0 }),
    }
}

pub(super) fn shard_from_wire(wire: v1::PlacementShard) -> Result<(ShardId, ShardRow), Refusal> {
    let id = shard(wire.shard)?;
    let set = |wire: Vec<u32>| {
        let set = nodes(wire);
        if set.is_sorted_by(|a, b| a < b) {
            Ok(set)
        } else {
            Err(malformed(format!("the set of shard {id} is not in order")))
        }
    };
    let members = set(wire.members)?;
    let previous = set(wire.previous)?;
    if members.is_empty() {
        return Err(malformed(format!("shard {id} has no members")));
    }
    let row = ShardRow {
        version: SetVersion(wire.version),
        members,
        learner: wire.learner.map(NodeId),
        previous: (!previous.is_empty()).then_some(previous),
        changed_in: LeaderEpoch(wire.changed_in),
        begun: LeaderEpoch(wire.begun),
        elected: wire.elected.map(|elected| Elected {
            epoch: LeaderEpoch(elected.epoch),
            node: NodeId(elected.node),
            boot: Boot(elected.boot),
        }),
        moving: wire.moving.map(|moving| Move { from: NodeId(moving.from), to: NodeId(moving.to) }),
    };
    Ok((id, row))
}
