//! How a group behaves.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use meridian_types::{DiskUuid, NodeId};
use openraft::SnapshotPolicy;

use super::StartError;
use crate::store::Identity;

/// Called when Raft or its storage failed, with what happened. Must end the process.
pub type OnFatal = Arc<dyn Fn(&str) + Send + Sync>;

/// Ends the process: what a node passes as [`OnFatal`].
pub fn abort() -> OnFatal {
    Arc::new(|what| {
        tracing::error!(what, "Raft failed; the process ends");
        std::process::abort();
    })
}

/// A group's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// Its disk.
    pub disk: DiskUuid,
    /// The folder for the group's files, of no other use.
    pub dir: PathBuf,
    /// Which of the groups of this name, from 1: a region's next incarnation founds its placement anew, and members of the
    /// one before are not heard.
    pub generation: u16,
    /// How often a leader says that it is there.
    pub heartbeat: Duration,
    /// How long without a leader until an election, at least.
    pub election_min: Duration,
    /// And at most: each node draws anew between the two.
    pub election_max: Duration,
    /// A snapshot every so many entries.
    pub snapshot_after: u64,
    /// So many entries are kept although a snapshot has them, so that a node that was away for a while needs none.
    pub keep_entries: u64,
    /// Threads of Raft's own runtime, at least 2.
    pub threads: usize,
}

impl Config {
    /// The catalog's, over a WAN.
    pub fn catalog(node: NodeId, disk: DiskUuid, dir: impl Into<PathBuf>) -> Self {
        Self {
            node,
            disk,
            dir: dir.into(),
            generation: 1,
            heartbeat: Duration::from_millis(500),
            election_min: Duration::from_secs(2),
            election_max: Duration::from_secs(4),
            snapshot_after: 10_000,
            keep_entries: 50_000,
            threads: 2,
        }
    }

    /// A placement group's, within a region.
    pub fn placement(node: NodeId, disk: DiskUuid, dir: impl Into<PathBuf>) -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(400),
            election_max: Duration::from_millis(800),
            ..Self::catalog(node, disk, dir)
        }
    }

    pub(super) fn identity(&self) -> Identity {
        Identity { node: self.node, disk: self.disk }
    }

    pub(super) fn raft(&self, group: &str) -> Result<openraft::Config, StartError> {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        openraft::Config {
            cluster_name: group.to_owned(),
            heartbeat_interval: ms(self.heartbeat),
            election_timeout_min: ms(self.election_min),
            election_timeout_max: ms(self.election_max),
            install_snapshot_timeout: 120_000,
            max_payload_entries: 256,
            replication_lag_threshold: self.keep_entries.max(2 * self.snapshot_after),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_after),
            max_in_snapshot_log_to_keep: self.keep_entries,
            // Entries that name a leader nobody can win with only disturb the one there is.
            enable_pre_vote: Some(true),
            ..openraft::Config::default()
        }
        .validate()
        .map_err(|error| StartError::Config(error.to_string()))
    }
}
