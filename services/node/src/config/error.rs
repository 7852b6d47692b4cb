//! What can be wrong with a `node.toml`.

use std::io;
use std::path::PathBuf;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot read the configuration: {source}; name the node's file with --config", file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not TOML, an unknown key, a missing key, or a value of the wrong kind.
    #[error("{}: {source}", file.display())]
    Parse {
        /// Which file.
        file: PathBuf,
        /// What and where.
        source: Box<toml::de::Error>,
    },
    /// A value that does not fit the others.
    #[error("{}: {key}: {reason}", file.display())]
    Invalid {
        /// Which file.
        file: PathBuf,
        /// The key, as in `cluster.nodes[1].peer`.
        key: String,
        /// What is wrong, and what to write.
        reason: String,
    },
}
