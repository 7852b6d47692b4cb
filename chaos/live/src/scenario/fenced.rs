//! Fault 38: a leader is fenced, and one of its followers is not. It acknowledges nothing with that one.
//!
//! The follower F cannot reach the driver of placement D, and L stands still until D takes it for dead. When L goes on,
//! placement can decide again: L and D promise a new epoch, F still follows L in the old one.

use std::time::Duration;

use rustix::process::Signal;

use crate::record::Load;
use crate::scenario::quorum::{US, plan};
use crate::scenario::{Outcome, Run, Stage};
use crate::trouble::Trouble;
use crate::world::DiskKind;

const STOPPED: Duration = Duration::from_millis(2500);
const BACK_WITHIN: Duration = Duration::from_secs(20);

/// Runs it.
pub fn run(run: Run) -> Outcome {
    Stage::play(run, plan(DiskKind::Plain), Load::default(), |stage| {
        for _ in 0..run.rounds(6, 2) {
            let leading = stage.wait_well()?;
            let driver = stage.world.driver(US)?;
            let others = stage.others(driver);
            let leads = |index: &usize| leading.led_by(*index).len();
            let l = others.iter().copied().max_by_key(leads).ok_or_else(|| Trouble::tool("no other node"))?;
            let f =
                others.iter().copied().find(|index| *index != l).ok_or_else(|| Trouble::tool("no third"))?;
            let before = leading.led_by(l);
            stage.world.cut(driver, f)?;
            stage.world.cut(f, driver)?;
            let since = stage.recorder.elapsed();
            stage.world.node_mut(l).signal(Signal::STOP);
            stage.fault(format!(
                "{}, which leads {} shards, stands still; {} cannot reach {}, which drives placement",
                stage.name(l),
                before.len(),
                stage.name(f),
                stage.name(driver)
            ));
            std::thread::sleep(STOPPED);
            stage.world.node_mut(l).signal(Signal::CONT);
            let resumed = stage.recorder.elapsed();
            stage.step(format!("{} goes on", stage.name(l)));
            stage.wait_flows(resumed, BACK_WITHIN)?;
            let now = stage.world.leading(US)?;
            let epochs = now.epochs();
            let moved =
                before.iter().filter(|(shard, epoch)| epochs.get(shard).is_some_and(|now| now > epoch));
            stage.step(format!(
                "acks in all lanes {:.2} s after that; {} of its {} shards in newer epochs, {} of them led by it; driven by {}",
                stage.recorder.elapsed().saturating_sub(resumed).as_secs_f64(),
                moved.count(),
                before.len(),
                now.led_by(l).len(),
                stage.name(stage.world.driver(US)?),
            ));
            stage.pause(1500);
            stage.world.cuts.heal_all()?;
            let stall = stage.wait_flows(since, BACK_WITHIN)?;
            stage.figure("in all", stall);
        }
        Ok(())
    })
}
