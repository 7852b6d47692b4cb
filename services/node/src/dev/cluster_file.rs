//! `cluster.json`: how to reach a world's nodes.

use std::path::Path;

use meridian_types::{NodeId, RegionName};
use serde::{Deserialize, Serialize};

use super::DevError;
use super::error::io;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFile {
    /// In the order in which they were named.
    pub regions: Vec<ClusterRegion>,
}

/// A region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRegion {
    /// Its name.
    pub name: RegionName,
    /// Its nodes.
    pub nodes: Vec<ClusterNode>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNode {
    /// Its number.
    pub id: NodeId,
    /// Its name, as in `us-1`.
    pub name: String,
    /// What clients dial.
    pub endpoint: String,
    /// What operators dial.
    pub admin: String,
    /// Its process.
    pub pid: u32,
    /// Its folder, with its `node.toml`.
    pub dir: String,
}

impl ClusterFile {
    /// Writes it whole or not at all.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, path: &Path) -> Result<(), DevError> {
        let text = serde_json::to_vec_pretty(self).map_err(|e| io(path)(e.into()))?;
        crate::files::replace(path, &text).map_err(io(path))
    }

    /// Reads it.
    ///
    /// # Errors
    /// The disk's, or it is not of that form.
    pub fn read(path: &Path) -> Result<Self, DevError> {
        let text = std::fs::read(path).map_err(io(path))?;
        serde_json::from_slice(&text).map_err(|e| io(path)(e.into()))
    }

    /// Sets a node's process.
    pub(super) fn set_pid(&mut self, id: NodeId, pid: u32) {
        for node in self.regions.iter_mut().flat_map(|r| &mut r.nodes).filter(|n| n.id == id) {
            node.pid = pid;
        }
    }
}
