//! Signals to processes that are not our own children, and whether they live.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Whether another's child is there, or its exit status. A process that was killed is a zombie while threads of it still
/// hold its files, so only the one that its parent has waited for is gone.
pub(crate) fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Whether every thread of a process is stopped.
pub(crate) fn stands_still(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().all(|thread| match std::fs::read_to_string(thread.path().join("stat")) {
        // The state follows the name, which may hold anything.
        Ok(stat) => stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')),
        // It has ended just now.
        Err(_) => true,
    })
}

/// Whether the process is a node with this configuration: a number alone may be another's by now.
fn is_node(pid: u32, config: &Path) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let config = config.as_os_str().as_encoded_bytes();
    line.split(|byte| *byte == 0).any(|argument| argument == config)
}

/// Sends a signal to the node with this configuration, if it lives.
pub(crate) fn to_node(pid: u32, config: &Path, signal: Signal) {
    if is_node(pid, config) {
        to(pid, signal);
    }
}

/// Sends a signal to a child of ours.
pub(crate) fn to(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        // It may have ended just now.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}
