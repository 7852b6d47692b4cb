//! Which scenarios there are.

use crate::laws::Verdict;
use crate::scenario::{
    Run, clocks, full_disk, lost_region, no_progress, power, producers, sync_error, wan_down, wiped_disk,
};
use crate::trouble::Trouble;

/// A scenario.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// The fault's number in `FAULTS.md`, and what it is.
    pub name: &'static str,
    /// What must hold, beyond the laws.
    pub promise: &'static str,
    /// Runs it.
    pub run: fn(Run) -> Result<Verdict, Trouble>,
}

/// All of them, in the order of their faults.
pub fn all() -> Vec<Scenario> {
    let row = |name, promise, run| Scenario { name, promise, run };
    vec![
        row("01-power-loss-after-ack", "0 acknowledged events lost, same offsets", power::after_acks),
        row(
            "07-torn-tail",
            "cut to the last whole frame, never below what was acknowledged",
            power::torn_tail,
        ),
        row(
            "09-sync-error",
            "the process ends by itself, and acknowledges nothing after it",
            sync_error::run,
        ),
        row("10-disk-full", "refused before an offset is given, reading goes on, no restart", full_disk::run),
        row("13-clock", "a clock ten minutes off, and back: no law broken", clocks::run),
        row("16-wiped-disk", "refused under the old id", wiped_disk::run),
        row(
            "17-retry",
            "over a restart, and of what is under way: one copy, at its first offset",
            producers::retry,
        ),
        row("18-older-epoch", "FENCED, nothing appended", producers::older_epoch),
        row("20-wan-down", "local acks go on; then a byte-identical prefix, bounded memory", wan_down::run),
        row("21-region-lost", "its unmirrored tail arrives late and whole", lost_region::run),
        row("28-no-progress", "noticed: a metric, a reconnect", no_progress::run),
        row(
            "37-kill-before-sync",
            "nothing served or acknowledged that the page cache held alone",
            power::before_sync,
        ),
    ]
}
