//! A disk that loses power on command: a pass-through file system that keeps what was not synced in memory alone.
//!
//! Flows in: a backing folder and a mount point. Flows out: a file system on which what a program sees and what would
//! survive differ as they do under a kernel's page cache, and a handle to make power go, syncs fail, or syncs stand
//! still. Must never write to the backing folder what was not synced: what lies there is what survives.
//!
//! O_DIRECT reads see unsynced writes, as on Linux, where they are written back first; a disk's own cache may hold them
//! still, so they are not durable. Permissions are durable at once; links, attributes and devices are not supported.

mod faults;
mod image;
mod names;
mod serve;
mod tree;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::shell::run;
use crate::trouble::{Context as _, Trouble};

pub use faults::Release;
use serve::Served;
use tree::Tree;

/// What mounts of ours are called in the machine's table; leftovers are found by it.
const NAME: &str = "mlive-power";
/// A sync waits for the disk; others must not wait for it.
const THREADS: usize = 4;

/// What power loss takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Everything that was not synced.
    All,
    /// Any of the blocks that were not synced, some torn, as the seed chooses.
    Some(u64),
}

/// A mounted file system that can lose power. Dropped, it is unmounted.
#[derive(Debug)]
pub struct PowerFs {
    tree: Arc<Tree>,
    mount: PathBuf,
    session: Option<BackgroundSession>,
}

impl PowerFs {
    /// Mounts `backing` at `mount`; makes both if they are not there.
    ///
    /// # Errors
    /// Without FUSE or root: [`Trouble::Skip`].
    pub fn mount(backing: &Path, mount: &Path) -> Result<Self, Trouble> {
        if !Path::new("/dev/fuse").exists() || !rustix::process::geteuid().is_root() {
            return Err(Trouble::Skip("a file system of our own needs FUSE and root".to_owned()));
        }
        std::fs::create_dir_all(backing).context(backing.display())?;
        std::fs::create_dir_all(mount).context(mount.display())?;
        let tree = Arc::new(Tree::new(backing).context(backing.display())?);
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName(NAME.to_owned()), MountOption::DefaultPermissions];
        config.n_threads = Some(THREADS);
        let session = fuser::spawn_mount(Served(Arc::clone(&tree)), mount, &config)
            .map_err(|error| Trouble::Skip(format!("FUSE cannot be mounted: {error}")))?;
        Ok(Self { tree, mount: mount.to_owned(), session: Some(session) })
    }

    /// Unmounts what an interrupted run left.
    ///
    /// # Errors
    /// The table of mounts cannot be read, or one cannot be unmounted.
    pub fn remove_leftovers() -> Result<(), Trouble> {
        let table = std::fs::read_to_string("/proc/self/mounts").context("the table of mounts")?;
        for line in table.lines() {
            let mut fields = line.split(' ');
            if let (Some(NAME), Some(mount)) = (fields.next(), fields.next()) {
                run("umount", &["--lazy", mount])?;
            }
        }
        Ok(())
    }

    /// Where programs see it.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Power is about to be lost, and whoever had files open here was killed just now: a sync that is under way does
    /// nothing any more. Without this a process that dies within a sync is gone only after that is done.
    pub fn power_goes(&self) {
        self.tree.faults.power_goes();
    }

    /// Power is lost: what was not synced is gone. Whoever had files open here must be gone too.
    ///
    /// # Errors
    /// The backing folder fails.
    pub fn lose_power(&self, loss: Loss) -> Result<(), Trouble> {
        let mut rng = match loss {
            Loss::All => None,
            Loss::Some(seed) => Some(StdRng::seed_from_u64(seed)),
        };
        let lost = self.tree.lose_power(rng.as_mut());
        self.tree.faults.power_is_back();
        lost.context(format!("power loss of {}", self.mount.display()))
    }

    /// The next `times` syncs of paths that contain `part` fail with EIO.
    pub fn fail_syncs(&self, part: &str, times: u32) {
        self.tree.faults.fail(part, times);
    }

    /// How many syncs were made to fail.
    pub fn failed_syncs(&self) -> u64 {
        self.tree.faults.failed()
    }

    /// Syncs of paths that contain the text take so much longer; none: as long as the disk does.
    pub fn slow_syncs(&self, slow: Option<(&str, Duration)>) {
        self.tree.faults.slow(slow);
    }

    /// Syncs of paths that contain `part` answer and do nothing: what no program can survive, and every check must see.
    pub fn lie_about_syncs(&self, part: &str) {
        self.tree.faults.lie(part);
    }

    /// Syncs do what they say again.
    pub fn tell_the_truth(&self) {
        self.tree.faults.tell_the_truth();
    }

    /// Syncs of paths that contain `part` stand still until they are released.
    pub fn hold_syncs(&self, part: &str) {
        self.tree.faults.hold(part);
    }

    /// How many stand still.
    pub fn held_syncs(&self) -> u64 {
        self.tree.faults.held()
    }

    /// Lets go of those.
    pub fn release_syncs(&self, how: Release) {
        self.tree.faults.release(how);
    }

    /// Bytes that power loss would take now, of files whose path contains `part`.
    pub fn unsynced_bytes(&self, part: &str) -> u64 {
        self.tree.unsynced_bytes(part)
    }

    /// Syncs of files so far.
    pub fn syncs(&self) -> u64 {
        self.tree.syncs()
    }
}

impl Drop for PowerFs {
    fn drop(&mut self) {
        self.tree.faults.release(Release::Sync);
        if let Some(session) = self.session.take() {
            let _ = run("umount", &["--lazy", &self.mount.to_string_lossy()]);
            drop(session);
        }
    }
}
