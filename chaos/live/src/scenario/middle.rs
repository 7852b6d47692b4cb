//! Fault 6: a stretch in the middle of a node's volume is garbled, with good frames after it. What was applied stays where
//! it is, behind the damage too, and what is damaged is stored again from another node; nothing is cut.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_sdk::LaneExtent;
use rand::RngExt as _;
use rustix::process::Signal;

use crate::disk::garble;
use crate::scenario::damaged::{Lying, plain};
use crate::scenario::quorum::plan;
use crate::scenario::{Outcome, Run, Stage};
use crate::trouble::Trouble;
use crate::world::DiskKind;

/// Up to so many bytes, with headers of rounds among them.
const MOST: usize = 96 << 10;
const LEAST: usize = 512;
/// Events that lie after the damage, at least.
const AFTER: usize = 60;
const ALONE_WITHIN: Duration = Duration::from_secs(5);
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// Runs it.
pub fn run(run: Run) -> Outcome {
    Stage::play(run, plan(DiskKind::Plain), plain(), |stage| {
        for round in 0..run.rounds(6, 3) {
            // Ended in order, each node in turn; then killed, those of the region that has three.
            let in_order = round < 3;
            let victim = stage.victim(if in_order { round } else { round % 2 })?;
            let name = stage.name(victim);
            let settled = stage.settle(8 * AFTER as u64)?;
            stage.pause(500);
            let before = stage.extents(victim)?;
            stage.world.node_mut(victim).signal(if in_order { Signal::TERM } else { Signal::KILL });
            stage.world.node_mut(victim).wait_gone(ENDS_WITHIN)?;
            let behind = garble_middle(stage, victim, settled)?;
            // A node that is its whole region serves alone; at first nobody can help it.
            let alone = in_order && stage.is_single(victim);
            if alone {
                stage.world.leave_alone(victim)?;
            }
            stage.world.launch(victim)?;
            if in_order {
                // All that it held is in its index.
                cut_nothing(stage, victim, &before)?;
            }
            if alone {
                reads_behind(stage, victim, &behind)?;
                stage.world.cuts.heal_all()?;
            }
            stage.world.wait_all_ready()?;
            let repaired = stage.wait_repaired(victim)?.repaired;
            stage
                .step(format!("{name} gives everything as it was published; {repaired} frames are repaired"));
            if in_order && repaired == 0 {
                return Err(Trouble::broken("what was damaged is not counted as repaired"));
            }
            stage.wait_well()?;
        }
        Ok(())
    })
}

/// A node's lanes go as far as they did.
fn cut_nothing(stage: &Stage, victim: usize, before: &BTreeMap<String, LaneExtent>) -> Result<(), Trouble> {
    let now = stage.extents(victim)?;
    for (lane, held) in before {
        if now.get(lane).is_none_or(|now| now.end < held.end || now.start > held.start) {
            let (name, now) = (stage.name(victim), now.get(lane));
            return Err(Trouble::broken(format!(
                "{name} held {held:?} of {lane}, and after the damage {now:?}"
            )));
        }
    }
    Ok(())
}

/// A node gives what lies behind the damage, and holds back what is damaged.
fn reads_behind(stage: &Stage, victim: usize, behind: &Lying) -> Result<(), Trouble> {
    let name = stage.name(victim);
    let extents = stage.extents(victim)?;
    let extent =
        extents.get(&behind.lane).ok_or_else(|| Trouble::broken(format!("{name} has no such lane")))?;
    let read = stage.digest(victim, extent.lane, behind.offset + 1, extent.end)?;
    if read.damaged.is_some() || read.events == 0 {
        return Err(Trouble::broken(format!(
            "{name} does not read what lies behind the damage, from {} of {} on: {read:?}",
            behind.offset + 1,
            behind.lane
        )));
    }
    let given = stage.gives(victim, ALONE_WITHIN)?;
    let quarantined = stage.counts(victim).unwrap_or_default().quarantined;
    if given.ended.is_none() || quarantined == 0 {
        return Err(Trouble::broken(format!(
            "{name} has read over what is damaged: {quarantined} in quarantine"
        )));
    }
    stage.step(format!(
        "alone it holds back {quarantined} frames, and reads {} events behind them",
        read.events
    ));
    Ok(())
}

/// Garbles a stretch that begins at an event and has good ones after it; gives one of those.
fn garble_middle(stage: &mut Stage, victim: usize, settled: Duration) -> Result<Lying, Trouble> {
    let lying = stage.lying(victim, settled)?;
    // The file that holds the most; the newest of those that hold as many.
    let mut files: Vec<&[Lying]> = lying.chunk_by(|a, b| a.file == b.file).collect();
    files.sort_by_key(|events| events.len());
    let events = files.pop().unwrap_or_default();
    if events.len() < 4 * AFTER {
        return Err(Trouble::tool(format!("only {} events lie in one file of that disk", events.len())));
    }
    let first = &events[stage.rng.random_range(events.len() / 8..events.len() / 2)];
    let last = &events[events.len() - AFTER];
    let room = usize::try_from(last.at - first.at).unwrap_or(usize::MAX);
    let bytes = stage.rng.random_range(LEAST..=MOST).min(room);
    garble(&first.file, first.at, bytes, &mut stage.rng)?;
    let end = first.at + bytes as u64;
    let hit = events.iter().filter(|event| (first.at..end).contains(&event.at)).count();
    stage.fault(format!(
        "on {}: {bytes} bytes are garbled in the middle of {}, with {hit} events of us in them and {} after them",
        stage.name(victim),
        first.file.file_name().unwrap_or_default().to_string_lossy(),
        events.iter().filter(|event| event.at >= end).count()
    ));
    Ok(last.clone())
}
