//! A node's data folder: where things lie in it, how it becomes a node's, and how a node takes it.
//!
//! Must never make an identity by itself: only [`format`] does, and only in an empty folder. A folder that is empty under
//! a known node id is a lost disk, and to fill it silently would forget what the node had acknowledged.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use meridian_storage::disk::{Disk, RealDisk};
use meridian_storage::identity::{Identity, IdentityError};
use meridian_types::{Incarnation, NodeId};

use crate::config::NodeConfig;
use crate::lock::{FolderLock, LockError};

/// Why a data folder is refused.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// No identity in it.
    #[error(
        "{}: this folder is empty. If this is the cluster's first start, run `meridian format --config {}`. If node \
         {node} lost its disk, it is another node: give it a new id",
        folder.display(),
        config.display()
    )]
    Unformatted {
        /// Which folder.
        folder: PathBuf,
        /// The configuration that names it.
        config: PathBuf,
        /// The node that it names.
        node: NodeId,
    },
    /// Something else about its identity.
    #[error("{}: {source}", folder.display())]
    Identity {
        /// Which folder.
        folder: PathBuf,
        /// What.
        source: IdentityError,
    },
    /// There is something in a folder that is to be formatted.
    #[error("{} is not empty: a new node starts in an empty folder", folder.display())]
    NotEmpty {
        /// Which folder.
        folder: PathBuf,
    },
    /// Another process has it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The disk fails.
    #[error("{}: {source}", folder.display())]
    Io {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Where things lie in a node's data folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The folder itself.
    pub root: PathBuf,
    /// The volume: the truth.
    pub volume: PathBuf,
    /// The index: derived from the volume.
    pub index: PathBuf,
    /// The catalog's Raft log and state.
    pub catalog: PathBuf,
    /// The same of the region's placement.
    pub placement: PathBuf,
}

impl Layout {
    /// Of a configuration.
    pub fn of(config: &NodeConfig) -> Self {
        let root = config.data_dir();
        let at = |name| root.join(name);
        Self {
            volume: at("volume"),
            index: at("index"),
            catalog: at("catalog"),
            placement: at("placement"),
            root,
        }
    }

    /// The placement of an incarnation of the region. What an earlier one decided stays as it was.
    pub fn placement_of(&self, incarnation: Incarnation) -> PathBuf {
        match incarnation.0 {
            1 => self.placement.clone(),
            later => self.root.join(format!("placement-{later}")),
        }
    }
}

/// The name of the lock file in a node's data folder.
const LOCK: &str = "node.lock";

/// A node's data folder, taken: nobody else can have it while this lives.
pub struct Folder {
    /// Where things lie.
    pub layout: Layout,
    /// Whose it is.
    pub identity: Identity,
    /// The volume's folder.
    pub disk: Arc<dyn Disk>,
    _lock: FolderLock,
}

impl Folder {
    /// Takes the folder of a node that is about to start.
    ///
    /// # Errors
    /// It is not formatted, it is another node's, a newer version wrote it, or another process has it. Nothing but lock
    /// files is written.
    pub fn take(config: &NodeConfig) -> Result<Self, FolderError> {
        let layout = Layout::of(config);
        if !layout.volume.is_dir() {
            return Err(unformatted(config, &layout));
        }
        let (lock, disk) = take(&layout)?;
        let identity = match Identity::load(&disk, config.cluster.uuid, config.node.id) {
            Ok(identity) => identity,
            Err(IdentityError::Absent) => return Err(unformatted(config, &layout)),
            Err(source) => return Err(FolderError::Identity { folder: layout.root, source }),
        };
        Ok(Self { layout, identity, disk: Arc::new(disk), _lock: lock })
    }
}

/// Whose the folder is, without taking it: its node may be running.
///
/// # Errors
/// It is not formatted, or another node's.
pub fn identity(config: &NodeConfig) -> Result<Identity, FolderError> {
    let layout = Layout::of(config);
    let found =
        Identity::peek(&layout.volume).and_then(|found| found.of(config.cluster.uuid, config.node.id));
    match found {
        Ok(identity) => Ok(identity),
        Err(IdentityError::Absent) => Err(unformatted(config, &layout)),
        Err(source) => Err(FolderError::Identity { folder: layout.root, source }),
    }
}

/// Makes the data folder of a new node. Only formatted nodes take part in a cluster's first start.
///
/// # Errors
/// The folder holds data already, or the disk fails.
pub fn format(config: &NodeConfig) -> Result<Identity, FolderError> {
    let layout = Layout::of(config);
    for derived in [&layout.index, &layout.catalog, &layout.placement] {
        if !is_empty(derived).map_err(io(derived))? {
            return Err(FolderError::NotEmpty { folder: derived.clone() });
        }
    }
    std::fs::create_dir_all(&layout.root).map_err(io(&layout.root))?;
    let (_lock, disk) = take(&layout)?;
    Identity::format(&disk, config.cluster.uuid, config.node.id)
        .map_err(|source| FolderError::Identity { folder: layout.root, source })
}

/// Whether [`format`] was here.
///
/// # Errors
/// The folder is another node's, damaged, in use, or the disk fails.
pub fn is_formatted(config: &NodeConfig) -> Result<bool, FolderError> {
    match Folder::take(config) {
        Ok(_) => Ok(true),
        Err(FolderError::Unformatted { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn take(layout: &Layout) -> Result<(FolderLock, RealDisk), FolderError> {
    let lock = FolderLock::acquire(&layout.root, LOCK)?;
    let disk = RealDisk::open(&layout.volume).map_err(io(&layout.volume))?;
    Ok((lock, disk))
}

fn unformatted(config: &NodeConfig, layout: &Layout) -> FolderError {
    FolderError::Unformatted {
        folder: layout.root.clone(),
        config: config.file.clone(),
        node: config.node.id,
    }
}

fn is_empty(folder: &Path) -> io::Result<bool> {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

fn io(folder: &Path) -> impl FnOnce(io::Error) -> FolderError {
    let folder = folder.to_owned();
    move |source| FolderError::Io { folder, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests_support::config_of_node;

    #[test]
    fn a_folder_is_formatted_once_and_then_taken_by_its_node_alone() {
        let dir = tempfile::tempdir().unwrap();
        let config = config_of_node(1, &dir.path().join("us-1"));
        let error = Folder::take(&config).err().unwrap().to_string();
        assert!(error.contains("this folder is empty") && error.contains("meridian format"), "{error}");
        assert!(!dir.path().join("us-1").exists(), "a refusal writes nothing");

        assert!(matches!(identity(&config), Err(FolderError::Unformatted { .. })));
        assert!(!is_formatted(&config).unwrap());
        let made = format(&config).unwrap();
        assert!(is_formatted(&config).unwrap());
        assert!(matches!(format(&config), Err(FolderError::Identity { .. })), "never a second time");

        let folder = Folder::take(&config).unwrap();
        assert_eq!(folder.identity, made);
        assert!(matches!(Folder::take(&config), Err(FolderError::Lock(LockError::InUse { .. }))));
        assert_eq!(identity(&config).unwrap(), made, "also while its node runs");
        drop(folder);

        let mut other = config.clone();
        other.node.id = NodeId(2);
        let error = Folder::take(&other).err().unwrap().to_string();
        assert!(error.contains("of node 1"), "{error}");
        assert!(identity(&other).unwrap_err().to_string().contains("of node 1"));
        other = config.clone();
        other.cluster.uuid = meridian_types::ClusterUuid(uuid::Uuid::from_u128(9));
        let error = Folder::take(&other).err().unwrap().to_string();
        assert!(error.contains("of cluster"), "{error}");
        assert!(Folder::take(&config).is_ok(), "refusals left it as it was");
    }

    #[test]
    fn a_lost_volume_is_not_made_anew_beside_its_index() {
        let dir = tempfile::tempdir().unwrap();
        let config = config_of_node(1, dir.path());
        format(&config).unwrap();
        let layout = Layout::of(&config);
        std::fs::create_dir_all(&layout.index).unwrap();
        std::fs::write(layout.index.join("CURRENT"), "x").unwrap();
        std::fs::remove_dir_all(&layout.volume).unwrap();
        assert!(matches!(Folder::take(&config), Err(FolderError::Unformatted { .. })));
        assert!(matches!(format(&config), Err(FolderError::NotEmpty { .. })));
    }
}
