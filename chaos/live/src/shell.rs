//! The machine's own programs (`ip`, `nft`, `losetup`, …): run to the end, with what they said when they fail.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::trouble::{Context as _, Trouble};

/// Where the system's programs lie, also for those whose `PATH` lacks the sbin folders.
const FOLDERS: [&str; 6] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"];

/// The path of a program, if the machine has it.
pub fn program(name: &str) -> Option<PathBuf> {
    FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists())
}

/// Runs a program to its end and gives what it printed.
///
/// # Errors
/// The machine lacks it ([`Trouble::Skip`]), or it fails.
pub fn run(name: &str, arguments: &[&str]) -> Result<String, Trouble> {
    run_with_input(name, arguments, "")
}

/// As [`run`], with a text on its stdin.
///
/// # Errors
/// As [`run`].
pub fn run_with_input(name: &str, arguments: &[&str], input: &str) -> Result<String, Trouble> {
    let path = program(name).ok_or_else(|| Trouble::Skip(format!("this machine has no `{name}`")))?;
    let what = || format!("{name} {}", arguments.join(" "));
    let mut child = Command::new(path)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context(what())?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that reads nothing may be gone already; its status says what is wrong.
        let _ = stdin.write_all(input.as_bytes());
    }
    let ended = child.wait_with_output().context(what())?;
    if ended.status.success() {
        Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&ended.stderr);
        Err(Trouble::Tool(format!("{} failed ({}): {}", what(), ended.status, said.trim())))
    }
}
