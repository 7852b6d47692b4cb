//! A world on one machine: regions with a simulated WAN between them, for demos, tests and development.
//!
//! Flows in: [`DevOptions`] and a [`Launcher`]. Flows out: running nodes, `cluster.json` for those who want to reach them,
//! and [`DevEvent`]s to print. Must never touch a node's data: it writes configurations, formats new folders, starts and
//! ends nodes. It outlives their deaths.
//!
//! In the world's folder: `dev.json` is the plan (uuid, ports, round trips), made once and kept; `cluster.json` is there
//! once all nodes were ready; each node has a folder `us-1`, `us-2`, … with its `node.toml`, its data, and its `log`.

mod cluster_file;
mod error;
mod member;
mod plan;
mod ports;
mod ready;
mod world;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use meridian_types::RegionName;
use tokio_util::sync::CancellationToken;

use crate::config::{NodeConfig, WanTable};

pub use cluster_file::{ClusterFile, ClusterNode, ClusterRegion};
pub use error::DevError;
pub use plan::{Plan, PlannedNode, PlannedRegion};
pub use world::World;

/// What is asked of `meridian dev`. What is `None` is as the folder remembers it, or the default in a new one.
#[derive(Clone, Debug)]
pub struct DevOptions {
    /// The regions' names, in order. Default: us, eu, ap.
    pub regions: Option<Vec<RegionName>>,
    /// Nodes in each region. Default: 1.
    pub nodes: Option<u32>,
    /// The world's folder.
    pub data: PathBuf,
    /// The first client port; peers listen 100 above, admin 200 above. Default: free ports.
    pub base_port: Option<u16>,
    /// Simulated round trips. Default: none.
    pub wan: Option<WanTable>,
    /// Start a node again when it dies.
    pub respawn: bool,
    /// How long a node may take until it is ready.
    pub ready_within: Duration,
}

impl DevOptions {
    /// The defaults, in `data`.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            regions: None,
            nodes: None,
            data: data.into(),
            base_port: None,
            wan: None,
            respawn: false,
            ready_within: Duration::from_secs(60),
        }
    }
}

/// Any error of a node that runs in this process.
pub type NodeError = Box<dyn std::error::Error + Send + Sync>;

/// Runs a node in this process until it is told to stop.
pub type ServeFn = Arc<
    dyn Fn(NodeConfig, CancellationToken) -> Pin<Box<dyn Future<Output = Result<(), NodeError>> + Send>>
        + Send
        + Sync,
>;

/// How nodes are started.
#[derive(Clone)]
pub enum Launcher {
    /// All in this process.
    InProcess(ServeFn),
    /// Each as a process of its own: `exe serve --config node.toml --until-stdin-ends`.
    Processes {
        /// The binary `meridian`.
        exe: PathBuf,
    },
}

impl std::fmt::Debug for Launcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InProcess(_) => f.write_str("InProcess"),
            Self::Processes { exe } => f.debug_struct("Processes").field("exe", exe).finish(),
        }
    }
}

/// What happens in a world; `Display` is a line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DevEvent {
    /// A region was planned with two nodes.
    NoneMayFail {
        /// Which.
        region: RegionName,
    },
    /// A node was started.
    Started {
        /// Its folder's name, as in `us-1`.
        node: String,
        /// Its process.
        pid: u32,
    },
    /// A node is ready.
    Ready {
        /// Which.
        node: String,
        /// Its process.
        pid: u32,
        /// Since it was started.
        after: Duration,
    },
    /// A started node was not ready in time; it goes on trying.
    NotReady {
        /// Which.
        node: String,
        /// Since it was started.
        after: Duration,
    },
    /// A node ended without being told to, or could not be started.
    Died {
        /// Which.
        node: String,
        /// How.
        how: String,
    },
    /// It will be started again.
    Respawning {
        /// Which.
        node: String,
        /// When.
        after: Duration,
    },
    /// A node ended as it was told to.
    Ended {
        /// Which.
        node: String,
    },
    /// `cluster.json` could not be written.
    ClusterFile {
        /// Why.
        error: String,
    },
}

impl std::fmt::Display for DevEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoneMayFail { region } => write!(
                f,
                "{region}: warning: of two nodes none may fail, as a majority of two is both; 3 let one fail"
            ),
            Self::Started { node, pid } => write!(f, "{node}: started, process {pid}"),
            Self::Ready { node, pid, after } => {
                write!(f, "{node}: ready after {:.1} s, process {pid}", after.as_secs_f64())
            }
            Self::NotReady { node, after } => {
                write!(
                    f,
                    "{node}: not ready after {:.0} s; it goes on trying, see its log",
                    after.as_secs_f64()
                )
            }
            Self::Died { node, how } => write!(f, "{node}: died: {how}"),
            Self::Respawning { node, after } => {
                write!(f, "{node}: starts again in {:.1} s", after.as_secs_f64())
            }
            Self::Ended { node } => write!(f, "{node}: ended"),
            Self::ClusterFile { error } => write!(f, "cluster.json could not be written: {error}"),
        }
    }
}

#[cfg(test)]
mod tests;
