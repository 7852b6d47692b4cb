//! Fault 36: the leader crashes before its own flush, after its followers'. It leads nothing before a new election, and
//! what was acknowledged stands.

use std::time::{Duration, Instant};

use crate::disk::{Loss, Release};
use crate::record::Load;
use crate::scenario::power::VOLUME;
use crate::scenario::producers::hold;
use crate::scenario::quorum::{US, plan};
use crate::scenario::{Outcome, Run, Stage};
use crate::trouble::Trouble;
use crate::world::DiskKind;

const HELD: Duration = Duration::from_millis(600);
const BACK_WITHIN: Duration = Duration::from_secs(30);

/// Runs it.
pub fn run(run: Run) -> Outcome {
    Stage::play(run, plan(DiskKind::Power), Load::default(), |stage| {
        for round in 0..run.rounds(6, 2) {
            let leading = stage.wait_well()?;
            let leader = leading.most().ok_or_else(|| Trouble::broken("nobody leads"))?;
            let (name, led) = (stage.world.node(leader).name.clone(), leading.led_by(leader));
            hold(stage, leader)?;
            let before = stage.acks_of("us");
            std::thread::sleep(HELD);
            let acks = stage.acks_of("us") - before;
            let lost = stage.world.node(leader).power()?.unsynced_bytes(VOLUME);
            let since = stage.recorder.elapsed();
            stage.world.node_mut(leader).signal(rustix::process::Signal::KILL);
            stage.world.node(leader).power()?.release_syncs(Release::Abandon);
            stage.world.node_mut(leader).wait_gone(Duration::from_secs(30))?;
            // Every other round what it wrote is still in the page cache when it starts again.
            if round % 2 == 0 {
                stage.world.node(leader).power()?.lose_power(Loss::All)?;
            }
            stage.fault(format!(
                "{name} leads {} shards and dies before its own sync of {lost} bytes; {acks} acks came meanwhile",
                led.len()
            ));
            stage.world.launch(leader)?;
            let until = Instant::now() + Duration::from_secs(4);
            while Instant::now() < until {
                let now = stage.world.leading(US)?.led_by(leader);
                let old = now.iter().find(|(shard, epoch)| led.get(shard).is_some_and(|old| old >= epoch));
                if let Some((shard, epoch)) = old {
                    return Err(Trouble::broken(format!(
                        "{name} leads shard {shard} in epoch {epoch} again, as before it died"
                    )));
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            let stall = stage.wait_flows(since, BACK_WITHIN)?;
            stage.figure("the leader died", stall);
            stage.world.wait_all_ready()?;
        }
        Ok(())
    })
}
