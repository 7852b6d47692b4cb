//! How many files the process may open.
//!
//! A volume file, an index table and a connection take one each, and a node that finds none left cannot store what it
//! was given: it ends. So the limit is raised as far as the system lets it be, and checked before anything is opened.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What a node opens beside its clients' connections: volume files, the index's tables, links.
const OWN: u64 = 512;
/// More than this is never asked for: some systems allow a billion.
const MOST: u64 = 1 << 20;

/// Too few files may be open.
#[derive(Debug, thiserror::Error)]
#[error(
    "this process may open {allowed} files and needs {needed}: raise the limit (`ulimit -n`, `LimitNOFILE=` of systemd), \
     or lower `limits.connections`"
)]
pub struct DescriptorsError {
    allowed: u64,
    needed: u64,
}

/// Raises the limit as far as it goes, and checks that so many connections fit under it beside the node's own files.
///
/// # Errors
/// They do not.
pub fn reserve(connections: usize) -> Result<(), DescriptorsError> {
    let needed = OWN + connections as u64;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Ok(()) };
    let wanted = hard.min(MOST).max(soft);
    let raised = wanted > soft && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok();
    let allowed = if raised { wanted } else { soft };
    tracing::debug!(allowed, needed, "files that may be open");
    if allowed < needed { Err(DescriptorsError { allowed, needed }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_connections_than_files_are_refused() {
        let error = reserve(usize::MAX / 2).unwrap_err().to_string();
        assert!(error.contains("limits.connections"), "{error}");
        reserve(16).unwrap();
    }
}
