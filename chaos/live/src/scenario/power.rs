//! Faults 1, 7 and 37: power is lost right after acknowledgements, within a sync, and after a restart that read what
//! only the page cache held.

use std::time::{Duration, Instant};

use rand::RngExt as _;

use crate::disk::{Loss, Release};
use crate::record::Load;
use crate::scenario::quorum::US;
use crate::scenario::{Outcome, Run, Stage};
use crate::trouble::Trouble;
use crate::world::{DiskKind, Plan};

/// What the volume's rounds lie in.
pub(super) const VOLUME: &str = "volume/volume-";
const SLOW: Duration = Duration::from_millis(120);
/// What a sync takes on an ordinary disk.
const FAST: Duration = Duration::from_millis(15);
/// What the kernel may take to stop a killed process's threads.
const KILLED: Duration = Duration::from_millis(3);
const HELD_WITHIN: Duration = Duration::from_secs(20);

fn plan() -> Plan {
    Plan { disk: DiskKind::Power, ..Plan::default() }
}

impl Stage {
    /// All or some of what was not synced, by chance.
    pub(super) fn loss(&mut self) -> Loss {
        if self.rng.random_bool(0.4) { Loss::All } else { Loss::Some(self.rng.random()) }
    }

    /// Power goes on these at once.
    pub(super) fn cut_power(&mut self, indices: &[usize]) -> Result<(), Trouble> {
        self.kill_within_syncs(indices)?;
        for index in indices {
            let loss = self.loss();
            let power = self.world.node(*index).power()?;
            let (volume, all) = (power.unsynced_bytes(VOLUME), power.unsynced_bytes(""));
            power.lose_power(loss)?;
            let name = &self.world.node(*index).name;
            self.fault(format!("power lost on {name}: {all} bytes, {volume} of the volume, {loss:?}"));
        }
        Ok(())
    }

    /// Kills these at once; what they were about to sync is not.
    pub(super) fn kill_within_syncs(&mut self, indices: &[usize]) -> Result<(), Trouble> {
        for index in indices {
            self.world.node_mut(*index).signal(rustix::process::Signal::KILL);
        }
        // None of their threads runs any more: nobody hears what a sync without an effect answers.
        std::thread::sleep(KILLED);
        for index in indices {
            self.world.node(*index).power()?.power_goes();
        }
        for index in indices {
            self.world.node_mut(*index).wait_gone(Duration::from_secs(30))?;
        }
        Ok(())
    }

    /// Waits until a node stands in a sync of its volume, with a round written and not synced, and kills it there.
    pub(super) fn kill_within_sync(&mut self, index: usize) -> Result<(), Trouble> {
        // A slow disk first: what comes meanwhile makes the next round a large one.
        self.world.node(index).power()?.slow_syncs(Some((VOLUME, SLOW)));
        std::thread::sleep(2 * SLOW);
        self.world.node(index).power()?.slow_syncs(None);
        self.world.node(index).power()?.hold_syncs(VOLUME);
        let until = Instant::now() + HELD_WITHIN;
        while self.world.node(index).power()?.held_syncs() == 0 {
            if Instant::now() > until {
                return Err(Trouble::tool("no sync of the volume comes that could be held"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // More comes in meanwhile; nothing of it may be acknowledged.
        self.pause(60);
        self.world.node_mut(index).signal(rustix::process::Signal::KILL);
        self.world.node(index).power()?.release_syncs(Release::Abandon);
        self.world.node_mut(index).wait_gone(Duration::from_secs(30))
    }
}

/// Fault 1: every replica of every region, at once, right after an acknowledgement.
pub fn after_acks(run: Run) -> Outcome {
    after_acks_in(run, plan())
}

/// The same where regions have three replicas.
pub fn after_acks_of_three(run: Run) -> Outcome {
    after_acks_in(run, Plan::quorum(3, DiskKind::Power))
}

fn after_acks_in(run: Run, plan: Plan) -> Outcome {
    Stage::play(run, plan, Load::default(), |stage| {
        let all: Vec<usize> = (0..stage.world.nodes()).collect();
        for _ in 0..run.rounds(8, 2) {
            // A disk so fast that nothing is ever under way loses nothing with its power.
            for index in &all {
                stage.world.node(*index).power()?.slow_syncs(Some((VOLUME, FAST)));
            }
            stage.pause(700);
            stage.wait_acks(1)?;
            stage.cut_power(&all)?;
            for index in &all {
                stage.world.node(*index).power()?.slow_syncs(None);
            }
            stage.start_again(&all)?;
            stage.wait_acks(30)?;
            stage.wait_acks_of("us", 10, Duration::from_secs(60))?;
        }
        Ok(())
    })
}

/// Fault 7: one node loses power within a sync, with its last round torn.
pub fn torn_tail(run: Run) -> Outcome {
    let load = Load { padding: 3000, ..Load::default() };
    Stage::play(run, plan(), load, |stage| {
        for round in 0..run.rounds(10, 2) as usize {
            let victim = round % stage.world.nodes();
            stage.pause(300);
            stage.kill_within_sync(victim)?;
            let seed = stage.rng.random();
            let power = stage.world.node(victim).power()?;
            let unsynced = power.unsynced_bytes(VOLUME);
            power.lose_power(Loss::Some(seed))?;
            stage.fault(format!("{} torn within a round of {unsynced} bytes", stage.world.node(victim).name));
            stage.start_again(&[victim])?;
            stage.wait_acks(30)?;
        }
        Ok(())
    })
}

/// Fault 37: SIGKILL between a write and its sync; a restart, which finds the write in the page cache; then power loss.
pub fn before_sync(run: Run) -> Outcome {
    Stage::play(run, plan(), Load::default(), |stage| {
        for round in 0..run.rounds(6, 2) as usize {
            let victim = round % stage.world.nodes();
            let region = stage.world.regions()[victim].clone();
            stage.pause(300);
            stage.kill_within_sync(victim)?;
            let left = stage.world.node(victim).power()?.unsynced_bytes(VOLUME);
            if left == 0 {
                return Err(Trouble::tool("a node that was killed within a sync left nothing unsynced"));
            }
            stage.fault(format!("{} killed before its sync: {left} bytes in the page cache", region));
            stage.start_again(&[victim])?;
            // What it serves and acknowledges now must outlive the page cache.
            stage.wait_acks_of(&region, 5, Duration::from_secs(60))?;
            stage.world.kill(&[victim])?;
            stage.world.node(victim).power()?.lose_power(Loss::All)?;
            stage.fault(format!("{region} loses power after its restart"));
            stage.start_again(&[victim])?;
        }
        Ok(())
    })
}

/// Fault 37 on a majority: two of three replicas are killed between a write and its sync, start again and find it in their
/// page caches; then all three lose power.
pub fn before_sync_of_three(run: Run) -> Outcome {
    Stage::play(run, Plan::quorum(3, DiskKind::Power), Load::default(), |stage| {
        let us = stage.world.nodes_of(US);
        for round in 0..run.rounds(4, 1) as usize {
            stage.wait_well()?;
            let spared = us[round % us.len()];
            let victims: Vec<usize> = us.iter().copied().filter(|index| *index != spared).collect();
            stage.pause(300);
            for victim in &victims {
                stage.kill_within_sync(*victim)?;
            }
            let mut left = 0;
            for victim in &victims {
                left += stage.world.node(*victim).power()?.unsynced_bytes(VOLUME);
            }
            stage.fault(format!("two of three killed before their sync: {left} bytes in the page caches"));
            stage.start_again(&victims)?;
            // What is served and acknowledged now must outlive the page cache.
            stage.wait_acks_of("us", 20, Duration::from_secs(60))?;
            stage.world.kill(&us)?;
            for index in &us {
                stage.world.node(*index).power()?.lose_power(Loss::All)?;
            }
            stage.fault("all three lose power after their restart");
            stage.start_again(&us)?;
            stage.wait_acks_of("us", 20, Duration::from_secs(60))?;
        }
        Ok(())
    })
}
