//! One process a folder.
//!
//! The lock is the operating system's: it ends with its holder, kill -9 included. The file's content, the holder's
//! process id, is for error messages only.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

/// Why a folder cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{} is in use by {holder}: end that first, or use another folder", folder.display())]
    InUse {
        /// Which folder.
        folder: PathBuf,
        /// Who has it, as far as is known.
        holder: String,
    },
    /// The disk fails.
    #[error("cannot lock {}: {source}", folder.display())]
    Io {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Holds a folder until it is dropped.
#[derive(Debug)]
pub struct FolderLock {
    // Held for its lock alone.
    file: File,
}

impl FolderLock {
    /// Takes `folder`, which must exist, by its lock file `name`.
    ///
    /// # Errors
    /// Another process (or another part of this one) has it, or the disk fails.
    pub fn acquire(folder: &Path, name: &str) -> Result<Self, LockError> {
        let io = |source| LockError::Io { folder: folder.to_owned(), source };
        let path = folder.join(name);
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let named = file.take(32).read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
                let holder =
                    if named { format!("process {}", pid.trim()) } else { "another process".to_owned() };
                return Err(LockError::InUse { folder: folder.to_owned(), holder });
            }
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        file.set_len(0).map_err(io)?;
        file.rewind().map_err(io)?;
        file.write_all(std::process::id().to_string().as_bytes()).map_err(io)?;
        Ok(Self { file })
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // To close the file is not enough: a child that is being forked has it too, until it becomes another program.
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_holder_and_the_next_is_told_who() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::acquire(folder.path(), "x.lock").unwrap();
        let error = FolderLock::acquire(folder.path(), "x.lock").unwrap_err().to_string();
        assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
        drop(first);
        FolderLock::acquire(folder.path(), "x.lock").unwrap();
    }
}
