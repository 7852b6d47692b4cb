//! What the catalog answers.

use std::sync::Arc;

use meridian_types::{ClusterUuid, NodeId};
use meridian_wire::{ApiError, Reason, v1};

use super::rows::{NodeRow, RegionRow, StreamRow};

/// What a command came to.
pub type Reply = Result<Outcome, Refusal>;

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The cluster is founded.
    Founded(ClusterUuid),
    /// The stream is there.
    StreamCreated {
        /// The stream.
        stream: Arc<StreamRow>,
        /// False: it was there already, with the same settings.
        created: bool,
    },
    /// The stream as it is now.
    StreamUpdated(Arc<StreamRow>),
    /// The stream as it was.
    StreamDeleted(Arc<StreamRow>),
    /// The node as it is known now.
    NodeRegistered(Arc<NodeRow>),
    /// The node is gone.
    NodeRemoved(NodeId),
    /// The region as it is from now on.
    RegionRestored(Arc<RegionRow>),
    /// The level in force.
    FeatureLevelRaised(u32),
}

/// Why a command changed nothing, for programs.
pub type RefusalCode = v1::catalog_refused::Code;

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What a program acts on.
    pub code: RefusalCode,
    /// What a person reads: what is wrong, and what to do.
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let reason = match refusal.code {
            RefusalCode::Malformed => Reason::InvalidArgument,
            RefusalCode::NotFounded => Reason::NotReady,
            RefusalCode::TenantNotFound => Reason::TenantNotFound,
            RefusalCode::StreamNotFound => Reason::StreamNotFound,
            RefusalCode::StreamExists => Reason::StreamExists,
            RefusalCode::BadName => Reason::BadName,
            RefusalCode::BadPartitionCount => Reason::BadPartitionCount,
            RefusalCode::VersionConflict => Reason::VersionConflict,
            RefusalCode::Unspecified
            | RefusalCode::AlreadyFounded
            | RefusalCode::FeatureLevel
            | RefusalCode::RegionNotFound
            | RefusalCode::NodeChanged
            | RefusalCode::NodeNotFound
            | RefusalCode::NodeRemoved
            | RefusalCode::AddressTaken
            | RefusalCode::LastNode
            | RefusalCode::RegionHealthy => Reason::CatalogRefused,
        };
        Self::new(reason, refusal.message)
    }
}
