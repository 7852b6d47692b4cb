//! A clock that runs wrong: libfaketime between a node and the system's clock, steered by a file.

use std::path::{Path, PathBuf};

use crate::trouble::{Context as _, Trouble};

/// Where Debian and its relatives put it.
const LIBRARIES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

/// The wall clock of the processes that are started with its [`environment`](Clock::environment). Their monotonic clock
/// stays right, as it does on a machine whose clock is stepped.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    /// A clock that is right, steered by this file.
    ///
    /// # Errors
    /// Without libfaketime: [`Trouble::Skip`].
    pub fn new(file: &Path) -> Result<Self, Trouble> {
        let library = LIBRARIES.iter().map(PathBuf::from).find(|path| path.exists());
        let library = library.ok_or_else(|| Trouble::Skip("this machine has no libfaketime".to_owned()))?;
        let this = Self { library, file: file.to_owned() };
        this.step(0)?;
        Ok(this)
    }

    /// So many seconds off from now on; within a second its processes see it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn step(&self, seconds: i64) -> Result<(), Trouble> {
        // Replaced at once: a process that reads it meanwhile sees the one or the other.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{seconds:+}\n")).context(new.display())?;
        std::fs::rename(&new, &self.file).context(self.file.display())
    }

    /// What a process needs to live by this clock.
    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            ("LD_PRELOAD", self.library.clone()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.clone()),
            ("FAKETIME_CACHE_DURATION", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }
}
