//! Fault 4: bits flip in frames on one of a shard's nodes, of which the others are whole: of the same region, or of
//! another. Such a frame is never given out, by a node that is left alone with it neither; it is stored again from
//! another node, and a metric counts it.

use std::time::Duration;

use rand::RngExt as _;
use rustix::process::Signal;

use crate::disk::flip_bit_at;
use crate::scenario::damaged::{Lying, plain};
use crate::scenario::quorum::plan;
use crate::scenario::{Outcome, Run, Stage};
use crate::trouble::Trouble;
use crate::world::DiskKind;

/// Frames in which a bit flips, each round.
const FLIPS: usize = 4;
/// Events so far apart by their numbers are never in one frame: a batch is closed at 2 KiB.
const APART: u64 = 150;
const ALONE_WITHIN: Duration = Duration::from_secs(6);
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// Runs it.
pub fn run(run: Run) -> Outcome {
    Stage::play(run, plan(DiskKind::Plain), plain(), |stage| {
        for round in 0..run.rounds(9, 3) {
            let victim = stage.victim(round % 3)?;
            let name = stage.name(victim);
            let settled = stage.settle(2 * FLIPS as u64 * APART)?;
            stage.pause(500);
            match (round / 3) % 3 {
                0 => under_it(stage, victim, settled)?,
                1 => while_down(stage, victim, settled, Signal::TERM)?,
                _ => while_down(stage, victim, settled, Signal::KILL)?,
            }
            stage.wait_well()?;
            stage.step(format!("{name} gives everything as it was published"));
        }
        Ok(())
    })
}

/// On a disk that is in use. At first nobody can help; then all can.
fn under_it(stage: &mut Stage, victim: usize, settled: Duration) -> Result<(), Trouble> {
    let name = stage.name(victim);
    // What a node has taken in since its start it may give from memory.
    stop(stage, victim, Signal::TERM)?;
    stage.start_again(&[victim])?;
    stage.wait_well()?;
    stage.world.leave_alone(victim)?;
    let before = stage.counts(victim).ok_or_else(|| Trouble::tool(format!("{name} does not answer")))?;
    let hit = flip(stage, victim, settled)?;
    let alone = stage.gives(victim, ALONE_WITHIN)?;
    let given = |event: &Lying| alone.lanes.values().flatten().any(|row| row.id == event.id);
    if let Some(event) = hit.iter().find(|event| given(event)) {
        return Err(Trouble::broken(format!("{name} gives {}, which is damaged on its disk", event.id)));
    }
    let quarantined = stage.counts(victim).unwrap_or_default().quarantined;
    if alone.ended.is_none() || quarantined == 0 {
        return Err(Trouble::broken(format!(
            "{name} has read over what is damaged: {:?}, {quarantined} frames in quarantine",
            alone.ended
        )));
    }
    stage.step(format!("alone it holds back {quarantined}: {}", alone.ended.unwrap_or_default()));
    stage.world.cuts.heal_all()?;
    let repaired = stage.wait_repaired(victim)?.repaired - before.repaired;
    stage.step(format!("it is among the others again; {repaired} frames are repaired"));
    if repaired < hit.len() as u64 {
        return Err(Trouble::broken(format!("{} frames were hit, {repaired} are counted", hit.len())));
    }
    Ok(())
}

/// On a disk that is not in use, and found at the start or when it is read.
fn while_down(stage: &mut Stage, victim: usize, settled: Duration, signal: Signal) -> Result<(), Trouble> {
    stop(stage, victim, signal)?;
    let hit = flip(stage, victim, settled)?;
    stage.start_again(&[victim])?;
    let repaired = stage.wait_repaired(victim)?.repaired;
    let how = if signal == Signal::TERM { "its end in order" } else { "a kill" };
    stage.step(format!("it is back after {how}; {repaired} frames are repaired"));
    // What it had applied when it was killed is not always in its index; of that it takes the rest anew.
    if signal == Signal::TERM && repaired < hit.len() as u64 {
        return Err(Trouble::broken(format!("{} frames were hit, {repaired} are counted", hit.len())));
    }
    Ok(())
}

fn stop(stage: &mut Stage, victim: usize, signal: Signal) -> Result<(), Trouble> {
    stage.world.node_mut(victim).signal(signal);
    stage.world.node_mut(victim).wait_gone(ENDS_WITHIN)
}

/// Flips a bit in some frames, somewhere in an event of each.
fn flip(stage: &mut Stage, victim: usize, settled: Duration) -> Result<Vec<Lying>, Trouble> {
    let mut left = stage.lying(victim, settled)?;
    let mut hit: Vec<Lying> = Vec::new();
    while hit.len() < FLIPS && !left.is_empty() {
        let event = left.swap_remove(stage.rng.random_range(0..left.len()));
        left.retain(|other| other.number.abs_diff(event.number) > APART);
        hit.push(event);
    }
    if hit.len() < FLIPS {
        return Err(Trouble::tool("too few events lie on that disk"));
    }
    for event in &hit {
        let within = stage.rng.random_range(0..event.id.len() as u64 + 1 + plain().padding as u64);
        flip_bit_at(&event.file, event.at + within, stage.rng.random_range(0..8))?;
    }
    let ids: Vec<&str> = hit.iter().map(|event| event.id.as_str()).collect();
    stage.fault(format!("on {}: a bit flips in the frames of {}", stage.name(victim), ids.join(", ")));
    Ok(hit)
}
