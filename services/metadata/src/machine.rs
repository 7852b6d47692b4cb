//! What a Raft group replicates: a pure machine. The store and the group know nothing else of it, so that the catalog
//! and the placement groups share them.

use bytes::Bytes;
use meridian_types::{ClusterUuid, DiskUuid, NodeId};

/// The state that a group replicates. Commands, replies and snapshots are protobuf, opaque to Raft.
///
/// `apply` and `restore` are functions of their input alone: never a clock, a random number or the order of a hash map,
/// or the copies drift apart.
pub trait Machine: Clone + Default + Send + Sync + 'static {
    /// Names the group in messages and on disk.
    const GROUP: &'static str;

    /// Whether the command is one that this build can apply. Asked before a command enters the log.
    ///
    /// # Errors
    /// [`Unsupported`] says why not.
    fn check(command: &[u8]) -> Result<(), Unsupported>;

    /// Applies a committed command and answers it. A command that is refused changes nothing and is answered with the
    /// reason.
    ///
    /// # Errors
    /// [`Unsupported`] where a newer build proposed it: this node must stop, or its copy would differ.
    fn apply(&mut self, command: &[u8]) -> Result<Bytes, Unsupported>;

    /// The whole state. Equal states give equal bytes.
    fn snapshot(&self) -> Bytes;

    /// The inverse of [`Machine::snapshot`].
    ///
    /// # Errors
    /// [`Unsupported`] for bytes that this build did not write or does not know.
    fn restore(snapshot: &[u8]) -> Result<Self, Unsupported>;

    /// The cluster that the state belongs to, once it says so.
    fn cluster(&self) -> Option<ClusterUuid>;

    /// The disk that a node is known by.
    fn disk_of(&self, node: NodeId) -> Option<DiskUuid>;

    /// Whether the node was there once and is refused for ever.
    fn is_removed(&self, node: NodeId) -> bool;
}

/// Bytes that this build does not understand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unsupported(pub String);
