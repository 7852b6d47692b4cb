//! Which machine, which code, which profile: what figures are worth nothing without.

use std::path::Path;
use std::process::Command;

use serde::Serialize;

/// Where and of what the figures are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// As /proc/cpuinfo says.
    pub cpu: String,
    /// How many.
    pub cores: usize,
    /// In kB, as /proc/meminfo says.
    pub memory_kib: u64,
    /// Its release.
    pub kernel: String,
    /// Of the folder that is measured in.
    pub file_system: String,
    /// One, five and fifteen minutes, before anything was measured.
    pub load: String,
    /// The compiler.
    pub rustc: String,
    /// As git names it.
    pub commit: String,
    /// When.
    pub date: String,
}

const UNKNOWN: &str = "not known";

impl Machine {
    /// Asks. What cannot be told is said to be not known.
    pub fn ask(dir: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
        let load = read("/proc/loadavg");
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or(UNKNOWN).to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_kib: field(&read("/proc/meminfo"), "MemTotal")
                .and_then(|text| text.split_whitespace().next()?.parse().ok())
                .unwrap_or(0),
            kernel: or_unknown(read("/proc/sys/kernel/osrelease").trim()),
            file_system: or_unknown(file_system(&read("/proc/mounts"), &dir).unwrap_or_default()),
            load: or_unknown(load.splitn(4, ' ').take(3).collect::<Vec<_>>().join(" ").trim()),
            rustc: said("rustc", &["--version"]).unwrap_or_else(|| UNKNOWN.to_owned()),
            commit: commit(),
            date: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
        }
    }
}

fn or_unknown(text: &str) -> String {
    if text.is_empty() { UNKNOWN.to_owned() } else { text.to_owned() }
}

/// The first line of a program's answer.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.lines().next().unwrap_or_default().to_owned())
}

fn commit() -> String {
    let Some(commit) = said("git", &["rev-parse", "--short=12", "HEAD"]) else {
        return UNKNOWN.to_owned();
    };
    // What this program writes does not count.
    let written = ["RESULTS.md", "RESULTS.json", "pictures"];
    let written = written.map(|name| format!(":(top,exclude)benches/{name}"));
    let mut changed = vec!["status", "--porcelain", "--untracked-files=no", "--", ":/"];
    changed.extend(written.iter().map(String::as_str));
    match said("git", &changed) {
        Some(first) if first.is_empty() => commit,
        Some(_) => format!("{commit}, with uncommitted changes"),
        None => format!("{commit}, with uncommitted changes or not"),
    }
}

/// `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then(|| value.trim())
    })
}

/// The kind of the file system that a folder is on: that of the longest mount point above it, the last of equals.
fn file_system<'a>(mounts: &'a str, dir: &Path) -> Option<&'a str> {
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        Some((Path::new(fields.next()?), fields.next()?))
    });
    let above = mounts.filter(|(point, _)| dir.starts_with(point));
    above.max_by_key(|(point, _)| point.components().count()).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let cpuinfo = "processor\t: 0\nmodel name\t: A Processor @ 2.50GHz\nmodel\t: 7\n";
        assert_eq!(field(cpuinfo, "model name"), Some("A Processor @ 2.50GHz"));
        assert_eq!(field(cpuinfo, "MemTotal"), None);
        let mounts = "rootfs / rootfs rw 0 0\n/dev/a / ext4 rw 0 0\n/dev/b /var/lib xfs rw 0 0\n/dev/c /var/lib2 btrfs rw 0 0\n";
        assert_eq!(file_system(mounts, Path::new("/var/lib/x")), Some("xfs"));
        assert_eq!(file_system(mounts, Path::new("/home")), Some("ext4"));
        assert_eq!(file_system("", Path::new("/")), None);
    }
}
