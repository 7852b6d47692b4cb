//! Fault 3: two of three replicas are gone, and the last one left has lost its tail, of what was acknowledged with its help:
//! its disk said yes and did nothing. Its shards are unavailable, and nothing is truncated, neither in its region nor in
//! the one that mirrors it. With another replica back, or both where it knows of its loss, there is one history, which holds all
//! that was acknowledged.

use std::time::Duration;

use rand::RngExt as _;

use crate::disk::Loss;
use crate::record::{Load, read_lanes};
use crate::scenario::power::VOLUME;
use crate::scenario::quorum::{US, plan};
use crate::scenario::{Outcome, Run, Stage};
use crate::trouble::Trouble;
use crate::world::DiskKind;

/// The region that mirrors.
const EU: u8 = 2;
const ALONE: Duration = Duration::from_secs(4);
const BACK_WITHIN: Duration = Duration::from_secs(40);

/// Runs it.
pub fn run(run: Run) -> Outcome {
    Stage::play(run, plan(DiskKind::Power), Load::default(), |stage| {
        for round in 0..run.rounds(6, 1) {
            // A leader, and then a follower.
            let leader = stage.leader()?;
            let last = if round % 2 == 0 { leader } else { stage.others(leader)[0] };
            let others = stage.others(last);
            stage.world.node(last).power()?.lie_about_syncs(VOLUME);
            stage.wait_acks_of("us", 60, Duration::from_secs(30))?;
            // What it has helped to acknowledge, the others get as well: to lose the disks of a majority is another fault.
            stage.world.isolate(last)?;
            stage.step(format!("the disk of {} lies; it is cut off", stage.name(last)));
            let cut_off = stage.recorder.elapsed();
            stage.wait_flows(cut_off, BACK_WITHIN)?;
            stage.world.kill(&[last, others[0], others[1]])?;
            stage.world.cuts.heal_all()?;
            let lost = stage.world.node(last).power()?.unsynced_bytes(VOLUME);
            if lost == 0 {
                return Err(Trouble::tool("a disk that lies has nothing to lose"));
            }
            stage.world.node(last).power()?.lose_power(Loss::All)?;
            stage.world.node(last).power()?.tell_the_truth();
            let mirrored = read_lanes(&stage.world, EU, super::stage::STREAM)?;
            stage.fault(format!(
                "{} and {} are gone; {}, the last one, has lost {lost} bytes of its tail",
                stage.name(others[0]),
                stage.name(others[1]),
                stage.name(last)
            ));
            stage.world.launch(last)?;
            // Answers that were on their way.
            std::thread::sleep(Duration::from_millis(500));
            stage.no_acks(ALONE)?;
            if !stage.world.node_mut(last).runs() {
                return Err(Trouble::broken(format!("it ended:\n{}", stage.world.node(last).log_tail())));
            }
            let leads = stage.world.leading(US)?.led_by(last);
            if !leads.is_empty() {
                return Err(Trouble::broken(format!("alone and without its tail it leads {leads:?}")));
            }
            let still = read_lanes(&stage.world, EU, super::stage::STREAM)?;
            for (lane, rows) in &mirrored {
                if !still.get(lane).is_some_and(|now| now.starts_with(rows)) {
                    return Err(Trouble::broken(format!("eu does not hold what it held of {lane}")));
                }
            }
            // Its index may have been flushed while its disk lied. Then it knows that it lost something, and counts in no election
            // until a leader has made that good: one other is no majority.
            let counts = stage.counts(last).ok_or_else(|| Trouble::broken("it tells no metrics"))?;
            let first = stage.rng.random_range(0..2);
            stage.world.launch(others[first])?;
            let mut back = stage.recorder.elapsed();
            stage.step(format!("{} is back", stage.name(others[first])));
            if counts.shards > 0 {
                stage.pause(2_000);
                stage.world.launch(others[1 - first])?;
                back = stage.recorder.elapsed();
                stage.step("the last one knows that it lost something, so the third is started too");
            }
            stage.wait_flows(back, BACK_WITHIN)?;
            stage.step(format!("acks after {:.2?}", stage.recorder.elapsed().saturating_sub(back)));
            if counts.shards == 0 {
                stage.world.launch(others[1 - first])?;
            }
            stage.world.wait_all_ready()?;
            stage.wait_well()?;
        }
        Ok(())
    })
}
