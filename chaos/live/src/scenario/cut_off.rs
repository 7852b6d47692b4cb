//! Fault 2: power is lost on A, which had not yet synced what the others acknowledged for it; B is paused, C cut off. A
//! alone leads nothing; with one of the others back there is one history, which holds all that was acknowledged.

use std::time::Duration;

use rand::RngExt as _;
use rustix::process::Signal;

use crate::disk::Release;
use crate::record::Load;
use crate::scenario::producers::hold;
use crate::scenario::quorum::{US, plan};
use crate::scenario::{Outcome, Run, Stage};
use crate::trouble::Trouble;
use crate::world::DiskKind;

const ALONE: Duration = Duration::from_secs(4);
const BACK_WITHIN: Duration = Duration::from_secs(40);

/// Runs it.
pub fn run(run: Run) -> Outcome {
    Stage::play(run, plan(DiskKind::Power), Load::default(), |stage| {
        for round in 0..run.rounds(6, 2) {
            let leader = stage.leader()?;
            // The leader, and then a follower.
            let a = if round % 2 == 0 { leader } else { stage.others(leader)[stage.rng.random_range(0..2)] };
            let (b, c) = match stage.others(a)[..] {
                [one, two] if stage.rng.random_bool(0.5) => (two, one),
                [one, two] => (one, two),
                _ => return Err(Trouble::tool("the region has three nodes")),
            };
            hold(stage, a)?;
            // Acknowledged without A.
            stage.wait_acks_of("us", 60, Duration::from_secs(30))?;
            stage.pause(600);
            stage.world.node_mut(b).signal(Signal::STOP);
            stage.world.node_mut(a).signal(Signal::KILL);
            stage.world.node(a).power()?.release_syncs(Release::Abandon);
            stage.world.isolate(c)?;
            stage.world.node_mut(a).wait_gone(Duration::from_secs(30))?;
            stage.cut_power(&[a])?;
            stage.step(format!("{} is paused, {} is cut off", stage.name(b), stage.name(c)));
            stage.world.launch(a)?;
            // Answers that were on their way.
            std::thread::sleep(Duration::from_millis(500));
            stage.no_acks(ALONE)?;
            let leads = stage.world.leading(US)?.led_by(a);
            if !leads.is_empty() {
                return Err(Trouble::broken(format!("alone and behind, {} leads {leads:?}", stage.name(a))));
            }
            let healed = stage.recorder.elapsed();
            let (first, paused_first) = if (round / 2) % 2 == 0 { (b, true) } else { (c, false) };
            if paused_first {
                stage.world.node_mut(b).signal(Signal::CONT);
            } else {
                stage.world.cuts.heal_all()?;
            }
            stage.step(format!("{} is back", stage.world.node(first).name));
            stage.wait_flows(healed, BACK_WITHIN)?;
            stage.step(format!("acks after {:.2?}", stage.recorder.elapsed().saturating_sub(healed)));
            stage.world.node_mut(b).signal(Signal::CONT);
            stage.world.cuts.heal_all()?;
            stage.world.wait_all_ready()?;
            stage.wait_well()?;
        }
        Ok(())
    })
}
