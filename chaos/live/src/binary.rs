//! The binary under test: the one that `MERIDIAN_BIN` names, else the one beside this program, built if it is not there.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::trouble::{Context as _, Trouble};

/// The binary's path.
///
/// # Errors
/// There is none and it cannot be built.
pub fn meridian() -> Result<PathBuf, Trouble> {
    if let Some(named) = std::env::var_os("MERIDIAN_BIN") {
        return Ok(named.into());
    }
    let own = std::env::current_exe().context("this program's own path")?;
    // TARGET/PROFILE/NAME, or TARGET/PROFILE/deps/NAME-HASH for a test.
    let folder = own.ancestors().skip(1).find(|folder| !folder.ends_with("deps"));
    let folder = folder.ok_or_else(|| Trouble::tool("this program lies in no build folder"))?;
    let binary = folder.join("meridian");
    if !binary.exists() {
        build(folder)?;
    }
    Ok(binary)
}

fn build(folder: &Path) -> Result<(), Trouble> {
    let profile = folder.file_name().and_then(|name| name.to_str()).unwrap_or("debug");
    let profile = if profile == "debug" { "dev" } else { profile };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--locked",
            "-p",
            "meridian-cli",
            "--bin",
            "meridian",
            "--profile",
            profile,
        ])
        .status()
        .context("cargo build")?;
    if built.success() { Ok(()) } else { Err(Trouble::tool(format!("the binary cannot be built ({built})"))) }
}

/// A name for the binary in a world's folder: a build that replaces it meanwhile changes nothing there.
///
/// # Errors
/// There is no binary.
pub fn pinned(folder: &Path) -> Result<PathBuf, Trouble> {
    let (binary, pin) = (meridian()?, folder.join("meridian"));
    match std::fs::hard_link(&binary, &pin) {
        Ok(()) => Ok(pin),
        // Another file system.
        Err(_) => Ok(binary),
    }
}
