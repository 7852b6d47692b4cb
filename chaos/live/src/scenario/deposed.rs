//! Faults 32 and 35: a leader is cut off from its region, goes on taking what clients send, and is deposed. It comes back
//! with frames that were never committed, is cut, and stores the new epoch's frames in their place. Then power is lost.

use std::time::Duration;

use rand::RngExt as _;
use rustix::process::Signal;
use tokio::task::JoinHandle;

use crate::disk::Loss;
use crate::record::Load;
use crate::scenario::power::VOLUME;
use crate::scenario::quorum::{US, plan};
use crate::scenario::raw::Raw;
use crate::scenario::stage::PARTITIONS;
use crate::scenario::{Outcome, Run, Stage};
use crate::trouble::Trouble;
use crate::world::DiskKind;

/// Frames that the one that is cut off gets into each lane's shard: more than the others write meanwhile.
const STALE: u64 = 300;
const BACK_WITHIN: Duration = Duration::from_secs(40);
const ON_THEIR_WAY: Duration = Duration::from_millis(300);
/// A disk on which the difference between "had it" and "has it now" can be seen.
const SLOW: Duration = Duration::from_millis(250);
/// One on which there is always something under way.
const BUSY: Duration = Duration::from_millis(25);

/// A leader that was deposed, and what it took that no majority ever got.
struct Deposed {
    old: usize,
    taken: Vec<JoinHandle<Result<bool, Trouble>>>,
}

impl Deposed {
    /// Cuts the leader off from the other nodes, not from clients; returns when others acknowledge in all lanes.
    fn make(stage: &mut Stage) -> Result<Self, Trouble> {
        let leading = stage.wait_well()?;
        let old = leading.most().ok_or_else(|| Trouble::broken("nobody leads"))?;
        for other in (0..stage.world.nodes()).filter(|other| *other != old) {
            stage.world.cut(old, other)?;
            stage.world.cut(other, old)?;
        }
        // Acknowledgements that were on their way are not others'.
        std::thread::sleep(ON_THEIR_WAY);
        let since = stage.recorder.elapsed();
        let raw = Raw::of_node(stage, old)?;
        let mut taken = Vec::new();
        for partition in 0..PARTITIONS {
            taken.extend(raw.flood(stage, partition, STALE)?);
        }
        stage.fault(format!(
            "{}, which leads {} shards, is cut off from its region and is given {} events",
            stage.name(old),
            leading.led_by(old).len(),
            taken.len()
        ));
        let stall = stage.wait_flows(since, BACK_WITHIN)?;
        stage.figure("others lead", stall);
        Ok(Self { old, taken })
    }

    /// What became of what it took. None of it may be acknowledged by itself; where it is acknowledged, the laws look.
    fn settle(self, stage: &Stage) -> Result<(), Trouble> {
        let (mut acked, mut refused) = (0, 0);
        for taken in self.taken {
            if stage.world.clients.join(taken)?? { acked += 1 } else { refused += 1 }
        }
        stage.step(format!(
            "of what it took while it was cut off, {acked} were acknowledged, {refused} were not"
        ));
        if refused == 0 {
            return Err(Trouble::tool("a node that was cut off had nothing that was never committed"));
        }
        Ok(())
    }
}

/// Fault 32: frames of its own epoch, as many as the new one has, are not counted for those. The new leader has it alone to
/// make a majority with, and both are lost with the first acknowledgement.
pub fn stale_frames(run: Run) -> Outcome {
    Stage::play(run, plan(DiskKind::Power), Load::default(), |stage| {
        for _ in 0..run.rounds(5, 1) {
            let deposed = Deposed::make(stage)?;
            let old = deposed.old;
            let leading = stage.world.leading(US)?;
            let others = stage.others(old);
            let led = |index: &usize| leading.led_by(*index).len();
            let new = others.iter().copied().max_by_key(led).ok_or_else(|| Trouble::tool("no other node"))?;
            let third = others.iter().copied().find(|index| *index != new);
            let third = third.ok_or_else(|| Trouble::tool("no third node"))?;
            stage.world.node_mut(third).signal(Signal::STOP);
            // What was on its way.
            std::thread::sleep(Duration::from_millis(700));
            stage.world.node(old).power()?.slow_syncs(Some((VOLUME, SLOW)));
            stage.world.cuts.heal_all()?;
            stage.fault(format!(
                "{} stands still: {}, which was cut off, is back as the one that {} needs",
                stage.name(third),
                stage.name(old),
                stage.name(new)
            ));
            stage.wait_acks_of_any("us", BACK_WITHIN)?;
            stage.kill_within_syncs(&[new, old])?;
            let lost = stage.world.node(old).power()?.unsynced_bytes(VOLUME);
            stage.world.node(old).power()?.slow_syncs(None);
            let some = Loss::Some(stage.rng.random());
            stage.world.node(new).power()?.lose_power(some)?;
            stage.world.node(old).power()?.lose_power(Loss::All)?;
            let gone = stage.recorder.elapsed();
            stage.fault(format!(
                "with the first ack both are gone, and {} has lost {lost} bytes",
                stage.name(old)
            ));
            stage.world.node_mut(third).signal(Signal::CONT);
            stage.world.launch(old)?;
            stage.wait_flows(gone, BACK_WITHIN)?;
            stage.step(format!("acks after {:.2?}", stage.recorder.elapsed().saturating_sub(gone)));
            stage.start_again(&[new])?;
            deposed.settle(stage)?;
        }
        Ok(())
    })
}

/// Fault 35: the replay after the power loss yields what was stored last, at no time a frame that was cut.
pub fn cut_then_stored(run: Run) -> Outcome {
    Stage::play(run, plan(DiskKind::Power), Load::default(), |stage| {
        for round in 0..run.rounds(6, 1) {
            let deposed = Deposed::make(stage)?;
            let old = deposed.old;
            stage.world.node(old).power()?.slow_syncs(Some((VOLUME, BUSY)));
            stage.world.cuts.heal_all()?;
            let most = if stage.rng.random_bool(0.5) { 400 } else { 2500 };
            stage.pause(most);
            // Every other time all of its region lose power with it.
            let victims = if round % 2 == 0 { vec![old] } else { stage.world.nodes_of(US) };
            stage.cut_power(&victims)?;
            stage.world.node(old).power()?.slow_syncs(None);
            let gone = stage.recorder.elapsed();
            stage.start_again(&victims)?;
            stage.wait_flows(gone, BACK_WITHIN)?;
            deposed.settle(stage)?;
        }
        Ok(())
    })
}

impl Stage {
    /// Waits for one more acknowledgement of a region's publisher, and looks very often.
    fn wait_acks_of_any(&self, region: &str, within: Duration) -> Result<(), Trouble> {
        let (before, until) = (self.acks_of(region), std::time::Instant::now() + within);
        while self.acks_of(region) == before {
            if std::time::Instant::now() > until {
                return Err(Trouble::broken(format!("{region} acknowledges nothing within {within:?}")));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}
