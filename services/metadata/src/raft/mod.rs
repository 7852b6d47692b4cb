//! openraft's types as Meridian fills them, and their protobuf. Nothing here decides anything.

mod convert;

use std::fmt;

use bytes::Bytes;
use openraft::BasicNode;

pub(crate) use convert::{
    BadMessage, entry_from_wire, entry_to_wire, log_id_from_wire, log_id_to_wire, meta_from_wire,
    meta_to_wire, vote_from_wire, vote_to_wire,
};

/// A machine's command as it lies in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandBytes(pub Bytes);

impl fmt::Display for CommandBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

/// A machine's reply. Empty for entries that are Raft's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplyBytes(pub Bytes);

#[allow(deprecated)] // the macro names the runtime by its old path
mod config {
    openraft::declare_raft_types!(
        /// Terms and node ids are `u64`, a node is its peer address.
        pub TypeConfig:
            D = super::CommandBytes,
            R = super::ReplyBytes,
            NodeId = u64,
            Node = openraft::BasicNode,
    );
}
pub use config::TypeConfig;

pub(crate) type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
pub(crate) type LogId = openraft::LogId<LeaderId>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type Entry = openraft::Entry<LeaderId, openraft::EntryPayload<CommandBytes, u64, BasicNode>>;
pub(crate) type Membership = openraft::Membership<u64, BasicNode>;
pub(crate) type StoredMembership = openraft::StoredMembership<LeaderId, u64, BasicNode>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<LeaderId, u64, BasicNode>;
pub(crate) type Snapshot = openraft::Snapshot<LeaderId, u64, BasicNode, Bytes>;
