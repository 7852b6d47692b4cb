//! Placement as a machine of a Raft group: protobuf in, protobuf out.

use bytes::Bytes;
use meridian_types::{ClusterUuid, DiskUuid, NodeId};
use meridian_wire::v1;
use prost::Message as _;

use super::command::{Change, Command};
use super::convert::{reply_from_wire, reply_to_wire};
use super::reply::Reply;
use super::state::Placement;
use crate::machine::{Machine, Unsupported};

impl Command {
    /// As it is logged.
    pub fn to_bytes(&self) -> Bytes {
        v1::PlacementCommand::from(self).encode_to_vec().into()
    }
}

/// Reads a reply of [`Machine::apply`].
///
/// # Errors
/// [`Unsupported`] for bytes that are no reply.
pub fn reply_from_bytes(bytes: &[u8]) -> Result<Reply, Unsupported> {
    let wire = v1::PlacementReply::decode(bytes)
        .map_err(|e| Unsupported(format!("placement's leader answered no reply: {e}")))?;
    Ok(reply_from_wire(wire))
}

fn decode(command: &[u8]) -> Result<v1::PlacementCommand, Unsupported> {
    let command = v1::PlacementCommand::decode(command)
        .map_err(|e| Unsupported(format!("no placement command: {e}; upgrade this node")))?;
    if command.changes.iter().any(|change| change.change.is_none()) {
        // A newer build's change reads as none. Skipping it would let the copies drift apart.
        return Err(Unsupported(
            "a placement change that this build does not know; upgrade this node".into(),
        ));
    }
    Ok(command)
}

impl Machine for Placement {
    const GROUP: &'static str = "placement";

    fn check(command: &[u8]) -> Result<(), Unsupported> {
        decode(command).map(|_| ())
    }

    fn apply(&mut self, command: &[u8]) -> Result<Bytes, Unsupported> {
        let reply: Reply = decode(command)?
            .changes
            .into_iter()
            .map(|change| Change::try_from(change).and_then(|change| self.change(change)))
            .collect();
        Ok(reply_to_wire(&reply).encode_to_vec().into())
    }

    fn snapshot(&self) -> Bytes {
        self.to_bytes()
    }

    fn restore(snapshot: &[u8]) -> Result<Self, Unsupported> {
        Self::from_bytes(snapshot)
    }

    fn cluster(&self) -> Option<ClusterUuid> {
        Placement::cluster(self)
    }

    fn disk_of(&self, node: NodeId) -> Option<DiskUuid> {
        self.node(node).map(|row| row.disk)
    }

    fn is_removed(&self, node: NodeId) -> bool {
        Placement::is_removed(self, node)
    }
}
