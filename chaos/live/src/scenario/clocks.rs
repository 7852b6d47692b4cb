//! Fault 13: clocks ten minutes off, in both directions, and jumping back. No law is broken.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::RngExt as _;

use crate::record::{Load, What};
use crate::scenario::{Outcome, Run, Stage};
use crate::trouble::{Context as _, Trouble};
use crate::world::Plan;

const STEPS: [i64; 8] = [600, 0, -600, 600, -30, 30, -600, 0];

/// Runs it.
pub fn run(run: Run) -> Outcome {
    let plan = Plan { clocks: true, ..Plan::default() };
    Stage::play(run, plan, Load::default(), |stage| {
        for (round, seconds) in (0..run.rounds(16, 3) as usize).zip(STEPS.into_iter().cycle()) {
            let victim = round % stage.world.nodes();
            stage.world.node(victim).clock()?.step(seconds)?;
            stage.fault(format!("the clock of {} is {seconds:+} s off", stage.world.node(victim).name));
            std::thread::sleep(Duration::from_millis(1500 + stage.rng.random_range(0..1500)));
            if round == 0 {
                steps_are_seen(stage, seconds)?;
            }
            // A restart reads what was stored by another clock.
            if stage.rng.random_bool(0.3) {
                stage.world.kill(&[victim])?;
                stage.start_again(&[victim])?;
            }
            stage.wait_acks(30)?;
        }
        Ok(())
    })
}

/// The tool itself: an event was stamped by the wrong clock.
fn steps_are_seen(stage: &Stage, seconds: i64) -> Result<(), Trouble> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock")?.as_millis() as i64;
    let entries = stage.recorder.entries()?;
    let stamped = entries.iter().filter_map(|entry| match entry.what {
        What::Ack { hlc, .. } => Some((hlc >> 16) as i64),
        _ => None,
    });
    let latest = stamped.max().unwrap_or_default();
    if latest - now > (seconds - 30) * 1000 {
        Ok(())
    } else {
        Err(Trouble::tool(format!("a clock {seconds} s ahead stamps {} ms ahead", latest - now)))
    }
}
