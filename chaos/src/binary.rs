//! Where the binary is: the one that `MERIDIAN_BIN` names, else the one of this checkout, built if it is not.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The binary `meridian`.
///
/// # Panics
/// It cannot be built.
pub fn meridian() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| std::env::var_os("MERIDIAN_BIN").map_or_else(build, PathBuf::from))
}

/// Cargo builds a package's binary for that package's tests alone; here it is asked for, in the profile of this test.
fn build() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its file");
    // TARGET/PROFILE/deps/NAME-HASH
    let folder = test.ancestors().nth(2).expect("a test lies in the build folder").to_owned();
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
        .status();
    assert!(
        built.as_ref().is_ok_and(std::process::ExitStatus::success),
        "the binary cannot be built: {built:?}"
    );
    folder.join("meridian")
}
