//! A disk that is soon full: an ext4 file system in a file, on a loop device.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::shell::run;
use crate::trouble::{Context as _, Trouble};

/// What the files under our loop devices are called; leftovers are found by it.
const IMAGE: &str = "mlive-small.ext4";
const BALLAST: &str = "ballast";

/// A small file system. Dropped, it is unmounted and its loop device let go.
#[derive(Debug)]
pub struct SmallDisk {
    mount: PathBuf,
    device: String,
}

impl SmallDisk {
    /// Makes one of so many MiB in `folder`, and mounts it at `mount`.
    ///
    /// # Errors
    /// Without root, loop devices or ext4's tools: [`Trouble::Skip`].
    pub fn make(folder: &Path, mount: &Path, mebibytes: u64) -> Result<Self, Trouble> {
        if !rustix::process::geteuid().is_root() {
            return Err(Trouble::Skip("a loop device needs root".to_owned()));
        }
        std::fs::create_dir_all(folder).context(folder.display())?;
        std::fs::create_dir_all(mount).context(mount.display())?;
        let image = folder.join(IMAGE);
        let file = File::create(&image).context(image.display())?;
        file.set_len(mebibytes << 20).context(image.display())?;
        let (image, at) = (image.to_string_lossy().into_owned(), mount.to_string_lossy().into_owned());
        // Nothing is set aside for root, who runs these tests.
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &image])?;
        let device = run("losetup", &["--find", "--show", &image])
            .map_err(|trouble| Trouble::Skip(format!("no loop device: {trouble}")))?;
        let device = device.trim().to_owned();
        let this = Self { mount: mount.to_owned(), device };
        run("mount", &["-t", "ext4", &this.device, &at])?;
        Ok(this)
    }

    /// Unmounts and lets go of what an interrupted run left.
    ///
    /// # Errors
    /// One cannot be let go.
    pub fn remove_leftovers() -> Result<(), Trouble> {
        let listed = run("losetup", &["--list", "--noheadings", "--output", "NAME,BACK-FILE"])?;
        for device in listed
            .lines()
            .filter(|line| line.contains(IMAGE))
            .filter_map(|line| line.split_whitespace().next())
        {
            // It may not be mounted.
            let _ = run("umount", &["--lazy", device]);
            run("losetup", &["--detach", device])?;
        }
        Ok(())
    }

    /// Where programs see it.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Bytes that are free.
    ///
    /// # Errors
    /// It is gone.
    pub fn free(&self) -> Result<u64, Trouble> {
        let stat = rustix::fs::statvfs(&self.mount).context(self.mount.display())?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Fills it until so many bytes are free.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn fill(&self, leave: u64) -> Result<(), Trouble> {
        let path = self.mount.join(BALLAST);
        let file = File::create(&path).context(path.display())?;
        let bytes = self.free()?.saturating_sub(leave);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes.max(1))
            .context(path.display())
    }

    /// Gives that room back.
    ///
    /// # Errors
    /// It cannot be.
    pub fn relieve(&self) -> Result<(), Trouble> {
        let path = self.mount.join(BALLAST);
        std::fs::remove_file(&path).context(path.display())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = run("umount", &["--lazy", &self.mount.to_string_lossy()]);
        let _ = run("losetup", &["--detach", &self.device]);
    }
}
