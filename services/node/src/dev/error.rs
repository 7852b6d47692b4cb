//! Why a world does not start.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use meridian_types::RegionName;

use crate::config::{ConfigError, MOST_NODES, WanError};
use crate::folder::FolderError;
use crate::lock::LockError;

/// Why a world, or one of its nodes, does not start.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// None, or too many.
    #[error("--nodes {nodes}: in {regions} regions that is {} nodes; a world has 1 to {MOST_NODES}", u64::from(*nodes) * *regions as u64)]
    Nodes {
        /// In each region.
        nodes: u32,
        /// How many regions.
        regions: usize,
    },
    /// No region at all, or one twice.
    #[error("--regions: {0}")]
    Regions(String),
    /// The folder holds another world.
    #[error(
        "{} holds a world of the regions {kept}, not {asked}: leave --regions out to go on with it, or use another \
         --data folder",
        folder.display()
    )]
    OtherRegions {
        /// Which folder.
        folder: PathBuf,
        /// Its regions.
        kept: String,
        /// Those asked for.
        asked: String,
    },
    /// The folder holds a world of another size.
    #[error(
        "{} holds a world with {kept} in region {region}, not {asked}, and its nodes know each other by number: leave \
         --nodes out to go on with it, or use another --data folder",
        folder.display()
    )]
    OtherNodes {
        /// Which folder.
        folder: PathBuf,
        /// A region that differs.
        region: RegionName,
        /// Its nodes.
        kept: usize,
        /// Those asked for.
        asked: u32,
    },
    /// The folder holds a world on other ports.
    #[error(
        "{} holds a world whose first port is {kept}, not {asked}, and its nodes know each other by them: leave \
         --base-port out, or use another --data folder",
        folder.display()
    )]
    OtherPorts {
        /// Which folder.
        folder: PathBuf,
        /// Its first client port.
        kept: u16,
        /// That asked for.
        asked: u16,
    },
    /// No room for the ports.
    #[error("--base-port {base}: {nodes} nodes need ports up to {last}, beyond 65535; take a lower one")]
    BasePort {
        /// As given.
        base: u16,
        /// How many nodes.
        nodes: usize,
        /// The last port.
        last: u32,
    },
    /// A port is taken.
    #[error(
        "port {port} ({listener} listener of {node}) is in use: {source}. End what uses it, or take another {remedy}"
    )]
    PortInUse {
        /// Which port.
        port: u16,
        /// client, peer or admin.
        listener: &'static str,
        /// Whose.
        node: String,
        /// What to change.
        remedy: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// No free ports.
    #[error("found no {0} free ports on 127.0.0.1; name them with --base-port")]
    NoFreePorts(usize),
    /// A bad table of round trips.
    #[error("--wan: {0}")]
    Wan(#[from] WanError),
    /// The folder is in use.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A node's folder is refused.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A node's configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A `node.toml` that was changed by hand until it fits its world no more.
    #[error("{}: {key} is {found}, but this world's plan (dev.json) says {wanted}", file.display())]
    OtherConfig {
        /// Which file.
        file: PathBuf,
        /// Which key.
        key: &'static str,
        /// As in the file.
        found: String,
        /// As in the plan.
        wanted: String,
    },
    /// The plan cannot be read.
    #[error("{}: not a plan that this version knows: {reason}", file.display())]
    Plan {
        /// Which file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// A node died before it was ready.
    #[error("{node} died before it was ready: {how}{}", tail(log_tail))]
    Died {
        /// Which.
        node: String,
        /// How.
        how: String,
        /// The last lines of its log.
        log_tail: String,
    },
    /// A node is not ready in time.
    #[error("{node} was not ready after {:.0} s{}", after.as_secs_f64(), tail(log_tail))]
    NotReady {
        /// Which.
        node: String,
        /// How long it had.
        after: Duration,
        /// The last lines of its log.
        log_tail: String,
    },
    /// No such node.
    #[error("there is no node {0} in this world")]
    NoSuchNode(String),
    /// Something that only processes can do.
    #[error("{0} runs in this process and cannot be killed alone; use --processes")]
    NotAProcess(String),
    /// A node that runs is to be started.
    #[error("{0} runs already")]
    Running(String),
    /// The disk or the system fails.
    #[error("{}: {source}", path.display())]
    Io {
        /// On which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn tail(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!("; its log ends with:\n{log}") }
}

/// Names the file in an error of the disk.
pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> DevError {
    let path = path.into();
    move |source| DevError::Io { path, source }
}
