//! What a source file owes its reader.

use crate::Breach;

/// A file longer than this owes a reason, as a line `// Long because …`.
const LINES: usize = 800;
/// What a pure core may not name: time, randomness, disks, sockets and tasks are its inputs.
const NOT_IN_A_CORE: [&str; 9] = [
    "Instant::now",
    "SystemTime::now",
    "tokio::",
    "std::fs",
    "std::net",
    "std::thread",
    "rand::rng",
    "tonic::",
    "rocksdb::",
];
/// Files that are pure cores: these, and what lies in folders named after them.
const CORES: [&str; 15] = [
    "services/shard/src/replica",
    "services/shard/src/opening",
    "services/mirror/src/credit",
    "services/mirror/src/feed",
    "services/mirror/src/homeward",
    "services/mirror/src/legs",
    "services/mirror/src/link",
    "services/mirror/src/stall",
    "services/metadata/src/members",
    "services/metadata/src/machine",
    "services/metadata/src/catalog",
    "services/metadata/src/placement",
    "services/gateway/src/following",
    "services/metadata/src/driver",
    "services/batch/src",
];

/// Checks one Rust file; `path` is relative to the repository.
pub fn check_source(path: &str, text: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut breach = |what: String| breaches.push(Breach { place: path.to_owned(), what });
    let lines = text.lines().count();
    if lines > LINES && !text.contains("// Long because ") {
        breach(format!("{lines} lines: split it, or say why in a line `// Long because …`"));
    }
    if !text.starts_with("//!") && !path.contains("/fuzz/") {
        breach("starts without `//!`: say what flows in, what flows out, what it must never do".to_owned());
    }
    if is_core(path) {
        // Its tests may do as they like.
        let pure = text.split("#[cfg(test)]").next().unwrap_or(text);
        for (number, line) in pure.lines().enumerate() {
            let code = line.split("//").next().unwrap_or(line);
            if let Some(name) = NOT_IN_A_CORE.iter().find(|name| code.contains(**name)) {
                breach(format!("line {}: a pure core may not name {name}", number + 1));
            }
        }
    }
    breaches
}

fn is_core(path: &str) -> bool {
    let tests = path.contains("test");
    !tests
        && CORES
            .iter()
            .any(|core| path.strip_prefix(core).is_some_and(|rest| rest == ".rs" || rest.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_has_no_clock() {
        let text = "//! A core.\nfn step() { let now = Instant::now(); }\n";
        assert_eq!(check_source("services/shard/src/replica.rs", text).len(), 1);
        assert_eq!(check_source("services/shard/src/replica/append.rs", text).len(), 1);
        assert_eq!(check_source("services/shard/src/task.rs", text).len(), 0);
        assert_eq!(check_source("services/shard/src/replica_tests.rs", text).len(), 0);
        let tests = "//! A core.\n#[cfg(test)]\nmod tests { use tokio::time; }\n";
        assert_eq!(check_source("services/shard/src/replica.rs", tests).len(), 0);
        let said = "//! A core.\n// never tokio::spawn\n";
        assert_eq!(check_source("services/shard/src/replica.rs", said).len(), 0);
    }

    #[test]
    fn a_file_says_what_it_is_and_is_not_endless() {
        assert_eq!(check_source("services/x/src/a.rs", "fn a() {}\n").len(), 1);
        let long = format!("//! Long.\n{}", "fn a() {}\n".repeat(900));
        assert_eq!(check_source("services/x/src/a.rs", &long).len(), 1);
        assert_eq!(check_source("services/x/src/a.rs", &format!("{long}// Long because of X.\n")).len(), 0);
    }
}
