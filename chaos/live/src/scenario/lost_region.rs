//! Fault 21: a region is cut off, goes on publishing, and is lost; the others go on; it returns. Its unmirrored tail
//! arrives late and whole.

use std::time::Duration;

use crate::record::Load;
use crate::scenario::{Outcome, Run, Stage};
use crate::world::Plan;

/// Runs it.
pub fn run(run: Run) -> Outcome {
    Stage::play(run, Plan::default(), Load::default(), |stage| {
        for round in 0..run.rounds(3, 1) {
            let victim = round as usize % stage.world.nodes();
            let region = stage.world.regions()[victim].clone();
            let number = stage.world.node(victim).place().0;
            stage.world.relay.change_region(number, |profile| profile.up = false);
            stage.step(format!("{region} is cut off"));
            // This is what nobody else has when it is lost.
            stage.wait_acks_of(&region, 200, Duration::from_secs(20))?;
            stage.world.kill(&[victim])?;
            stage.fault(format!("{region} is lost"));
            stage.world.relay.change_region(number, |profile| profile.up = true);
            for other in stage.world.regions().to_vec().iter().filter(|other| **other != region) {
                stage.wait_acks_of(other, 100, Duration::from_secs(20))?;
            }
            std::thread::sleep(Duration::from_secs(if run.short { 2 } else { 15 }));
            stage.start_again(&[victim])?;
            stage.step(format!("{region} is back"));
            stage.wait_acks_of(&region, 50, Duration::from_secs(60))?;
        }
        Ok(())
    })
}
