//! Fault 20: the WAN is down for long, then back. Every region goes on alone; then all hold the same bytes.

use std::time::Duration;

use crate::record::Load;
use crate::scenario::{Outcome, Run, Stage};
use crate::trouble::Trouble;
use crate::world::Plan;

/// An hour, live.
const DOWN: Duration = Duration::from_secs(90);
const DOWN_SHORT: Duration = Duration::from_secs(10);

/// Runs it.
pub fn run(run: Run) -> Outcome {
    let load = Load { padding: 1000, ..Load::default() };
    Stage::play(run, Plan::default(), load, |stage| {
        let down = if run.short { DOWN_SHORT } else { DOWN };
        stage.world.relay.change_all(|profile| profile.up = false);
        stage.fault("the WAN is down");
        std::thread::sleep(down);
        for region in stage.world.regions().to_vec() {
            stage.wait_acks_of(&region, 10, Duration::from_secs(5))?;
        }
        stage.world.relay.change_all(|profile| profile.up = true);
        stage.step("the WAN is back");
        std::thread::sleep(Duration::from_secs(5));
        stage.memory_is_bounded()
    })
}

impl Stage {
    /// Law 8, as the kernel counts it: no node holds more than it says that it may.
    pub(super) fn memory_is_bounded(&self) -> Result<(), Trouble> {
        for index in 0..self.world.nodes() {
            let node = self.world.node(index);
            let bound = self.world.metric(index, "meridian_memory_bound_bytes", "");
            let (Some(resident), Some(bound)) = (node.resident_bytes(), bound) else { continue };
            self.step(format!("{} holds {} of {} MiB", node.name, resident >> 20, bound as u64 >> 20));
            if resident as f64 > bound {
                return Err(Trouble::broken(format!(
                    "{} holds {resident} bytes, bounded by {bound}",
                    node.name
                )));
            }
        }
        Ok(())
    }
}
