//! Fault 9: a sync fails with EIO. The process ends, by itself, and nothing that it wrote since is acknowledged.

use std::time::Duration;

use crate::disk::Loss;
use crate::record::Load;
use crate::scenario::{Outcome, Run, Stage};
use crate::trouble::Trouble;
use crate::world::{DiskKind, Plan};

/// Whose syncs fail: the log of events, and the log of the catalog.
const PARTS: [&str; 2] = ["volume/volume-", "catalog/"];
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// Runs it.
pub fn run(run: Run) -> Outcome {
    let plan = Plan { disk: DiskKind::Power, ..Plan::default() };
    Stage::play(run, plan, Load::default(), |stage| {
        for round in 0..run.rounds(6, 1) as usize {
            let victim = round % stage.world.nodes();
            let name = stage.world.node(victim).name.clone();
            stage.wait_acks(20)?;
            let failed = stage.world.node(victim).power()?.failed_syncs();
            let part = PARTS[(round / stage.world.nodes()) % PARTS.len()];
            stage.world.node(victim).power()?.fail_syncs(part, 1);
            stage.fault(format!("the next sync of {part} of {name} fails"));
            // So that the catalog has something to write.
            let other = (victim + 1) % stage.world.nodes();
            stage.create_stream_somewhere(other, &format!("probe-{round}"))?;
            let gone = stage.world.node_mut(victim).wait_gone(ENDS_WITHIN);
            if stage.world.node(victim).power()?.failed_syncs() == failed {
                return Err(Trouble::tool("no sync came that could fail"));
            }
            if let Err(trouble) = gone {
                stage.step(format!(
                    "it goes on after a sync of {part} failed:\n{}",
                    stage.world.node(victim).log_tail()
                ));
                return Err(trouble);
            }
            stage.step(format!("{name} ended: {:?}", stage.world.node(victim).last_exit()));
            // The blocks of a sync that failed are seen while they are in memory, and are nowhere else.
            stage.world.node(victim).power()?.lose_power(Loss::All)?;
            stage.start_again(&[victim])?;
        }
        Ok(())
    })
}
