//! Once all is healed everything gets well: each shard is led, publishing works, replicas and copies are equal.

/// What is still not well, if anything, when the time is up.
pub fn well(missing: &[String], waited: u64) -> Result<(), String> {
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("{} s after all faults ended: {}", waited / 1_000_000, missing.join("; ")))
}
