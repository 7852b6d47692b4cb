//! What can be wrong with the store.

use std::io;
use std::path::PathBuf;

/// Why the store cannot be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// RocksDB said no.
    #[error("the Raft log in {}: {message}", path.display())]
    RocksDb {
        /// The folder.
        path: PathBuf,
        /// What it said.
        message: String,
    },
    /// Bytes that are not what was written, or less than was. Nothing was changed.
    #[error(
        "{} is damaged: {what}. Nothing was changed. Do not delete it under this node id: give the machine a new node \
         id and an empty folder, and keep this one for examination", path.display()
    )]
    Damaged {
        /// Which file or folder.
        path: PathBuf,
        /// What is missing or wrong.
        what: String,
    },
    /// A folder of another node, disk, group or cluster.
    #[error("{} belongs to {found}, not to {expected}; start the node that it belongs to, or use another folder", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asked.
        expected: String,
    },
    /// Written by a newer build.
    #[error("{} was written by a newer build ({what}); start that one. Nothing was changed", path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// What this build does not know.
        what: String,
    },
    /// The node is shutting down.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn damaged(path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.into(), what: what.into() }
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        Self::other(error)
    }
}
