//! Fault 12: each link between two nodes of a region cut in one direction only. Acknowledgements stop or go on elsewhere,
//! a new leader is there soon, and epochs do not rise without end.

use std::time::Duration;

use crate::record::Load;
use crate::scenario::quorum::{US, plan};
use crate::scenario::{Outcome, Run, Stage};
use crate::trouble::Trouble;
use crate::world::DiskKind;

const CUT: Duration = Duration::from_secs(10);
const CUT_SHORT: Duration = Duration::from_secs(6);
/// Detection, an election and a retry, with room for a slow machine.
const RESUMES_WITHIN: Duration = Duration::from_secs(5);
/// What a cut and its healing may cost one shard: more is a storm.
const EPOCHS: u32 = 4;

/// Runs it.
pub fn run(run: Run) -> Outcome {
    Stage::play(run, plan(DiskKind::Plain), Load::default(), |stage| {
        let (cut, mut broken) = (if run.short { CUT_SHORT } else { CUT }, Vec::new());
        for round in 0..run.rounds(6, 2) as usize {
            let leading = stage.wait_well()?;
            let leader = leading.most().ok_or_else(|| Trouble::broken("nobody leads"))?;
            let others = stage.others(leader);
            let (from, to) = [
                (leader, others[0]),
                (others[0], leader),
                (others[1], others[0]),
                (leader, others[1]),
                (others[1], leader),
                (others[0], others[1]),
            ][round];
            let what = format!(
                "{} to {} (most led by {}, placement driven by {})",
                stage.name(from),
                stage.name(to),
                stage.name(leader),
                stage.name(stage.world.driver(US)?)
            );
            let before = leading.epochs();
            stage.world.cut(from, to)?;
            let since = stage.recorder.elapsed();
            stage.fault(format!("cut: {what}"));
            std::thread::sleep(cut);
            let stall = stage.stall(since)?;
            stage.figure("while it was cut", stall);
            stage.world.cuts.heal_all()?;
            let healed = stage.recorder.elapsed();
            let after = stage.wait_well()?.epochs();
            let flows = stage.wait_flows(healed, Duration::from_secs(30))?;
            let risen = after.iter().map(|(shard, epoch)| epoch - before.get(shard).unwrap_or(epoch));
            let (most, changed) = (risen.clone().max().unwrap_or(0), risen.filter(|by| *by > 0).count());
            stage.step(format!(
                "healed: {:.2} s without an ack; {changed} shards in new epochs, at most {most} further",
                flows.as_secs_f64()
            ));
            if stall > RESUMES_WITHIN {
                broken.push(format!("no ack in some lane for {stall:.1?} while cut: {what}"));
            }
            if most > EPOCHS {
                broken.push(format!("{most} epochs of one shard: {what}"));
            }
        }
        if broken.is_empty() { Ok(()) } else { Err(Trouble::broken(broken.join("\n"))) }
    })
}
