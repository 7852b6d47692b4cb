//! The servers' binary: built here with this program's own profile, or named by MERIDIAN_BIN.

use std::path::PathBuf;
use std::process::Command;

use crate::error::{BenchError, io};

/// The profile that this program was built with.
pub const PROFILE: Profile = if cfg!(debug_assertions) { Profile::Dev } else { Profile::Release };

/// A cargo profile of this workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build.
    Dev,
    /// Quick to run.
    Release,
}

impl Profile {
    /// What cargo is told.
    pub const fn flag(self) -> Option<&'static str> {
        match self {
            Self::Dev => None,
            Self::Release => Some("--release"),
        }
    }
}

/// A binary `meridian`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where.
    pub path: PathBuf,
    /// With which profile it was built, if this program built it.
    pub profile: Option<Profile>,
}

impl Server {
    /// The one that MERIDIAN_BIN names, or builds it.
    pub fn find() -> Result<Self, BenchError> {
        if let Some(path) = std::env::var_os("MERIDIAN_BIN") {
            let path = PathBuf::from(path)
                .canonicalize()
                .map_err(io("find the file that MERIDIAN_BIN names; name a `meridian`, or unset it"))?;
            return Ok(Self { path, profile: None });
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--locked", "-p", "meridian-cli", "--bin", "meridian"]).args(PROFILE.flag());
        let status = build.status().map_err(io("run cargo; name a binary by MERIDIAN_BIN instead"))?;
        if !status.success() {
            return Err(BenchError::wrong("cargo could not build `meridian`: see above"));
        }
        // Cargo puts both into one folder.
        let own = std::env::current_exe().map_err(io("find this program's own file"))?;
        let path = own.with_file_name("meridian");
        if !path.is_file() {
            return Err(BenchError::wrong(
                "there is no `meridian` beside this program: run it by `make bench` or `cargo run`, or set MERIDIAN_BIN",
            ));
        }
        Ok(Self { path, profile: Some(PROFILE) })
    }
}
