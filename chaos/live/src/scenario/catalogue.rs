//! Which scenarios there are.

use crate::laws::Verdict;
use crate::scenario::{
    Run, clocks, cut_off, deposed, failover, fenced, figures, flipped, full_disk, last_tail, lost_region,
    middle, no_progress, one_way, own_flush, power, producers, raft_files, relayed, restored, sets, stopped,
    sync_error, two_claim, wan_down, wiped_disk,
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
        row("01-power-loss-of-three", "the same with three replicas a shard", power::after_acks_of_three),
        row("02-last-without-tail", "not electable until it has caught up; one history", cut_off::run),
        row(
            "03-last-replica-tail",
            "unavailable, nothing truncated; all is there once enough are back",
            last_tail::run,
        ),
        row(
            "04-bit-flip",
            "never served; repaired from a peer or a mirror; a metric counts it",
            flipped::run,
        ),
        row(
            "05-raft-file",
            "that node refuses to start, the others serve, nothing is deleted",
            raft_files::run,
        ),
        row(
            "06-middle",
            "garbled, with good frames after it: quarantined and repaired, nothing cut",
            middle::run,
        ),
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
        row(
            "10-one-disk-full",
            "of several nodes': others lead, publishing goes on, nothing is placed there",
            full_disk::one_of_several,
        ),
        row(
            "11-leader-stopped",
            "0 acks and 0 stale reads from it once it is fenced; others acknowledge soon",
            stopped::run,
        ),
        row(
            "12-one-way",
            "acks stop or go on elsewhere; a new leader soon; no storm of epochs",
            one_way::run,
        ),
        row("13-clock", "a clock ten minutes off, and back: no law broken", clocks::run),
        row(
            "14-two-claim",
            "one leads in each epoch; how a breach ends a node: by simulation",
            two_claim::run,
        ),
        row("15-sets-change", "0 lost, no set stays between two", sets::run),
        row("15-three-to-five", "three replicas, five, three, …: the same", sets::three_to_five),
        row("16-wiped-disk", "refused under the old id", wiped_disk::run),
        row(
            "17-retry",
            "over a restart, and of what is under way: one copy, at its first offset",
            producers::retry,
        ),
        row(
            "17-leader-change",
            "retries over leader after leader: one copy, at its first offset",
            failover::run,
        ),
        row("18-older-epoch", "FENCED, nothing appended", producers::older_epoch),
        row("20-wan-down", "local acks go on; then a byte-identical prefix, bounded memory", wan_down::run),
        row("21-region-lost", "its unmirrored tail arrives late and whole", lost_region::run),
        row(
            "22-majority-lost",
            "under load: what anyone has comes back as a copy; a new incarnation writes",
            restored::under_load,
        ),
        row(
            "22-majority-lost-no-wan",
            "only reads, whatever is tried by hand, until there is a catalog; then the same",
            restored::without_wan,
        ),
        row("28-no-progress", "noticed: a metric, a reconnect", no_progress::run),
        row("30-relay", "events flow through a third region; healed, nothing is doubled", relayed::run),
        row(
            "32-stale-frames",
            "not counted as the new epoch's: 0 acknowledged events lost",
            deposed::stale_frames,
        ),
        row(
            "35-cut-then-stored",
            "replay yields what was stored last, at no time a cut frame",
            deposed::cut_then_stored,
        ),
        row(
            "36-own-flush",
            "it leads nothing before a new election; what was acknowledged stands",
            own_flush::run,
        ),
        row(
            "37-kill-before-sync",
            "nothing served or acknowledged that the page cache held alone",
            power::before_sync,
        ),
        row(
            "37-kill-majority-before-sync",
            "the same of a majority, then of all replicas",
            power::before_sync_of_three,
        ),
        row("38-fenced-leader", "it acknowledges nothing with a follower that is not fenced", fenced::run),
        row("figure-kill", "leaders killed 20 times: the time without an ack", figures::kill),
        row("figure-stop", "leaders stopped 20 times: the time without an ack", figures::stop),
    ]
}
