//! How long a lane goes without an acknowledgement when leaders die or stand still, at default settings.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::record::Load;
use crate::scenario::quorum::{US, plan};
use crate::scenario::{Outcome, Run, Stage};
use crate::trouble::Trouble;
use crate::world::DiskKind;

const BACK_WITHIN: Duration = Duration::from_secs(40);

/// Leaders killed.
pub fn kill(run: Run) -> Outcome {
    measure(run, Signal::KILL)
}

/// Leaders stopped.
pub fn stop(run: Run) -> Outcome {
    measure(run, Signal::STOP)
}

fn measure(run: Run, signal: Signal) -> Outcome {
    let what = if signal == Signal::KILL { "killed" } else { "stopped" };
    Stage::play(run, plan(DiskKind::Plain), Load::default(), |stage| {
        // Those who led most shards alone, those who drove placement too, and those who did that alone.
        let mut stalls: Vec<(Duration, bool)> = Vec::new();
        for round in 0..run.rounds(20, 3) {
            let leading = stage.wait_well()?;
            let driver = stage.world.driver(US)?;
            let most = leading.most().ok_or_else(|| Trouble::broken("nobody leads"))?;
            let victim = if round % 4 == 3 { driver } else { most };
            // So that one fault's traces are not the next one's.
            std::thread::sleep(Duration::from_millis(1000));
            stage.pause(500);
            let since = stage.recorder.elapsed();
            let begun = Instant::now();
            stage.world.node_mut(victim).signal(signal);
            stage.fault(format!(
                "{} ({} shards{}): {what}",
                stage.world.node(victim).name,
                leading.led_by(victim).len(),
                if victim == driver { ", drives placement" } else { "" }
            ));
            let stall = stage.wait_flows(since, BACK_WITHIN)?;
            stage.figure("acks in all lanes again", stall);
            stalls.push((stall, victim == driver));
            if signal == Signal::KILL {
                stage.world.node_mut(victim).wait_gone(Duration::from_secs(10))?;
                stage.start_again(&[victim])?;
            } else {
                // Long enough that it is taken for dead.
                std::thread::sleep(Duration::from_secs(4).saturating_sub(begun.elapsed()));
                stage.world.node_mut(victim).signal(Signal::CONT);
            }
        }
        for (which, wanted) in
            [("all", None), ("driving placement too", Some(true)), ("not driving", Some(false))]
        {
            let chosen = stalls.iter().filter(|(_, drove)| wanted.is_none_or(|wanted| wanted == *drove));
            let mut chosen: Vec<Duration> = chosen.map(|(stall, _)| *stall).collect();
            chosen.sort_unstable();
            if let (Some(median), Some(most)) = (chosen.get(chosen.len() / 2), chosen.last()) {
                stage.step(format!(
                    "{what}, {which}: {} times, without an ack: median {:.2} s, at most {:.2} s",
                    chosen.len(),
                    median.as_secs_f64(),
                    most.as_secs_f64()
                ));
            }
        }
        Ok(())
    })
}
