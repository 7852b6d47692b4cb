//! One world at a time on a machine: its namespaces and mounts have fixed names, and what it measures is time.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};

use crate::disk::{PowerFs, SmallDisk};
use crate::net::Namespaces;
use crate::trouble::{Context as _, Trouble};
use crate::world::World;

/// While this lives, no other world is made. The system lets go of it with the process, however that ends.
#[derive(Debug)]
pub struct Alone {
    _file: File,
}

impl Alone {
    /// Waits for its turn, and removes what an interrupted run left: namespaces, mounts, loop devices and folders with our
    /// prefix. Its nodes ended with it: they watch a pipe to it.
    ///
    /// # Errors
    /// Without root, as nothing here can be done without: [`Trouble::Skip`]; or something cannot be removed.
    pub fn wait() -> Result<Self, Trouble> {
        if !rustix::process::geteuid().is_root() {
            return Err(Trouble::Skip("namespaces, mounts and loop devices need root".to_owned()));
        }
        let path: PathBuf = std::env::temp_dir().join("meridian-chaos-live.lock");
        let file = OpenOptions::new().create(true).append(true).open(&path).context(path.display())?;
        flock(file.as_fd(), FlockOperation::LockExclusive).context(path.display())?;
        Namespaces::remove_leftovers()?;
        PowerFs::remove_leftovers()?;
        SmallDisk::remove_leftovers()?;
        World::remove_leftovers()?;
        Ok(Self { _file: file })
    }
}
