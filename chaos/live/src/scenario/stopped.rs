//! Fault 11: the leader stands still for 30 s and goes on. Others lead meanwhile; what it was asked before and while it
//! stood, it must not acknowledge by itself.

use std::time::Duration;

use rustix::process::Signal;

use crate::record::Load;
use crate::scenario::quorum::plan;
use crate::scenario::raw::Raw;
use crate::scenario::stage::PARTITIONS;
use crate::scenario::{Outcome, Run, Stage};
use crate::trouble::Trouble;
use crate::world::DiskKind;

const STOPPED: Duration = Duration::from_secs(30);
const STOPPED_SHORT: Duration = Duration::from_secs(6);
/// Until others acknowledge, everywhere.
const RESUMES_WITHIN: Duration = Duration::from_secs(4);

/// Runs it.
pub fn run(run: Run) -> Outcome {
    Stage::play(run, plan(DiskKind::Plain), Load::default(), |stage| {
        let stopped = if run.short { STOPPED_SHORT } else { STOPPED };
        for _ in 0..run.rounds(3, 1) {
            let leader = stage.leader()?;
            let name = stage.world.node(leader).name.clone();
            let led = stage.world.leading(1)?.led_by(leader).len();
            let since = stage.recorder.elapsed();
            stage.world.node_mut(leader).signal(Signal::STOP);
            stage.fault(format!("{name}, which leads {led} shards, stands still"));
            // It reads these first of all when it goes on, as one that believes to lead.
            let raw = Raw::of_node(stage, leader)?;
            let mut asked = Vec::new();
            for partition in 0..PARTITIONS {
                let batch = raw.batch_in(&stage.recorder, partition, None, 3);
                asked.push(raw.send(stage, &batch)?);
            }
            std::thread::sleep(stopped.saturating_sub(stage.recorder.elapsed() - since));
            let stall = stage.stall(since)?;
            stage.figure("while it stood", stall);
            let resumed = stage.recorder.elapsed();
            stage.world.node_mut(leader).signal(Signal::CONT);
            let (mut acked, mut refused) = (0, 0);
            for asked in asked {
                match stage.world.clients.join(asked)? {
                    Ok(Ok(_)) => acked += 1,
                    _ => refused += 1,
                }
            }
            // Where those that are acknowledged lie, the laws look up.
            stage.step(format!(
                "{name} goes on; of what it found waiting, {acked} acknowledged, {refused} not"
            ));
            stage.wait_well()?;
            let after = stage.wait_flows(resumed, Duration::from_secs(20))?;
            stage.figure("since it goes on", after);
            if stall > RESUMES_WITHIN {
                return Err(Trouble::broken(format!("others acknowledged only after {stall:.1?}")));
            }
        }
        Ok(())
    })
}
