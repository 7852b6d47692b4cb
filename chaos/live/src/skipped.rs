//! What cannot run here is said and counted, never passed over in silence.

use std::io::Write as _;

use crate::trouble::Trouble;

/// Says a line on stderr, past the capture of cargo's test harness.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// For tests: what there is, or none with a `SKIPPED` line where the machine lacks something.
///
/// # Panics
/// Anything else went wrong, or `CI=true`, where nothing is skipped.
pub fn or_skip<T>(test: &str, result: Result<T, Trouble>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(Trouble::Skip(reason)) => {
            let in_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!in_ci, "{test} cannot run, and in CI nothing is skipped: {reason}");
            say(&format!("SKIPPED: {test}: {reason}"));
            None
        }
        Err(trouble) => panic!("{test}: {trouble}"),
    }
}
