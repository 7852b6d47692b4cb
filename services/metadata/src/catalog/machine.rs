//! The catalog as a machine of a Raft group: protobuf in, protobuf out.

use bytes::Bytes;
use meridian_types::{ClusterUuid, DiskUuid, NodeId};
use meridian_wire::v1;
use prost::Message as _;

use super::MAX_FEATURE_LEVEL;
use super::command::Command;
use super::convert::{reply_from_wire, reply_to_wire};
use super::reply::Reply;
use super::state::Catalog;
use crate::machine::{Machine, Unsupported};

impl Command {
    /// As it is logged.
    pub fn to_bytes(&self) -> Bytes {
        v1::CatalogCommand::from(self).encode_to_vec().into()
    }
}

/// Reads a reply of [`Machine::apply`].
pub(crate) fn reply_from_bytes(bytes: &[u8]) -> Result<Reply, Unsupported> {
    let wire = v1::CatalogReply::decode(bytes)
        .map_err(|e| Unsupported(format!("the catalog's leader answered no reply: {e}")))?;
    reply_from_wire(wire).map_err(|refusal| {
        Unsupported(format!("the catalog's leader answered what this build does not know: {refusal}"))
    })
}

fn decode(command: &[u8]) -> Result<v1::CatalogCommand, Unsupported> {
    let command = v1::CatalogCommand::decode(command)
        .map_err(|e| Unsupported(format!("no catalog command: {e}; upgrade this node")))?;
    if command.change.is_none() {
        // A newer build's command reads as none. It was let in by the feature level, so this node is too old.
        return Err(Unsupported("a catalog command that this build does not know; upgrade this node".into()));
    }
    Ok(command)
}

impl Machine for Catalog {
    const GROUP: &'static str = "catalog";

    fn check(command: &[u8]) -> Result<(), Unsupported> {
        decode(command).map(|_| ())
    }

    fn apply(&mut self, command: &[u8]) -> Result<Bytes, Unsupported> {
        let reply = match Command::try_from(decode(command)?) {
            Ok(command) => Catalog::apply(self, command),
            Err(refusal) => Err(refusal),
        };
        if self.feature_level > MAX_FEATURE_LEVEL {
            return Err(Unsupported(format!(
                "the cluster is at feature level {}, this build knows {MAX_FEATURE_LEVEL}; upgrade this node",
                self.feature_level
            )));
        }
        Ok(reply_to_wire(&reply).encode_to_vec().into())
    }

    fn snapshot(&self) -> Bytes {
        self.to_bytes()
    }

    fn restore(snapshot: &[u8]) -> Result<Self, Unsupported> {
        let catalog = Self::from_bytes(snapshot)?;
        if catalog.feature_level > MAX_FEATURE_LEVEL {
            return Err(Unsupported(format!(
                "the cluster is at feature level {}, this build knows {MAX_FEATURE_LEVEL}; upgrade this node",
                catalog.feature_level
            )));
        }
        Ok(catalog)
    }

    fn cluster(&self) -> Option<ClusterUuid> {
        Catalog::cluster(self)
    }

    fn disk_of(&self, node: NodeId) -> Option<DiskUuid> {
        self.node(node).map(|row| row.disk)
    }

    fn is_removed(&self, node: NodeId) -> bool {
        Catalog::is_removed(self, node)
    }
}
