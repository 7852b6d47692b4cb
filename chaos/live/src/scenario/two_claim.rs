//! Fault 14: two claim one epoch. A leader stands still until it is taken for dead, and the node that drives placement
//! stands still in the midst of the election; another takes over what it finds begun, and then the first goes on with what
//! it was about, as does the leader. Of each shard at most one node leads in an epoch. What a node does that sees a breach,
//! the simulation shows: nothing here can make one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rustix::process::Signal;

use crate::record::Load;
use crate::scenario::quorum::{US, plan};
use crate::scenario::{Outcome, Run, Stage};
use crate::trouble::Trouble;
use crate::world::DiskKind;

/// One that is not heard for a second is dead: the election is under way some time around that.
const MIDST: std::ops::Range<u64> = 930..1150;
const BACK_WITHIN: Duration = Duration::from_secs(40);
const LOOK_EVERY: Duration = Duration::from_millis(30);

/// Who said that it leads, by shard and epoch.
type Claims = BTreeMap<(u32, u32), BTreeSet<usize>>;

/// Runs it.
pub fn run(run: Run) -> Outcome {
    Stage::play(run, plan(DiskKind::Plain), Load::default(), |stage| {
        let mut claims = Claims::new();
        for _ in 0..run.rounds(10, 2) {
            let leading = stage.wait_well()?;
            let driver = stage.world.driver(US)?;
            let led = |index: &usize| leading.led_by(*index).len();
            let leader = stage.others(driver).into_iter().max_by_key(led);
            let leader = leader.ok_or_else(|| Trouble::tool("the region has three nodes"))?;
            let since = stage.recorder.elapsed();
            stage.world.node_mut(leader).signal(Signal::STOP);
            let midst = Duration::from_millis(stage.rng.random_range(MIDST));
            std::thread::sleep(midst);
            stage.world.node_mut(driver).signal(Signal::STOP);
            stage.world.node_mut(leader).signal(Signal::CONT);
            stage.fault(format!(
                "{}, which leads {} shards, stands still for {midst:?}, and then {}, which drives placement",
                stage.name(leader),
                led(&leader),
                stage.name(driver)
            ));
            let stands = Duration::from_millis(stage.rng.random_range(1500..4000));
            stage.watch(&mut claims, stands)?;
            stage.world.node_mut(driver).signal(Signal::CONT);
            stage.step(format!("{} goes on", stage.name(driver)));
            stage.watch(&mut claims, Duration::from_millis(1500))?;
            let stall = stage.wait_flows(since, BACK_WITHIN)?;
            stage.figure("in all", stall);
        }
        stage.step(format!("{} epochs of shards were claimed, each by one", claims.len()));
        Ok(())
    })
}

impl Stage {
    /// Asks all nodes again and again what they lead, for so long.
    fn watch(&self, claims: &mut Claims, during: Duration) -> Result<(), Trouble> {
        let until = Instant::now() + during;
        while Instant::now() < until {
            let leading = self.world.leading(US)?;
            for index in leading.said.keys() {
                for claim in leading.led_by(*index) {
                    let by = claims.entry(claim).or_default();
                    by.insert(*index);
                    if by.len() > 1 {
                        return Err(Trouble::broken(format!("of shard and epoch {claim:?}, {by:?} lead")));
                    }
                }
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}
