//! Fault 10: a disk is full. Publishes are refused before they have an offset, reading goes on, and when there is room
//! again all goes on without a restart.

use std::time::{Duration, Instant};

use crate::record::{Load, read_lanes};
use crate::scenario::raw::Raw;
use crate::scenario::{Outcome, Run, Stage};
use crate::trouble::Trouble;
use crate::world::{DiskKind, Plan};

/// The 256 MiB that the volume leaves for index and catalog, and room for all that the scenario publishes.
const MEBIBYTES: u64 = 1200;
const LEFT: u64 = 200 << 20;
/// What the volume leaves, and two files.
const ENOUGH: u64 = 300 << 20;
const FULL_WITHIN: Duration = Duration::from_secs(120);

/// Runs it.
pub fn run(run: Run) -> Outcome {
    let plan = Plan { disk: DiskKind::Small(MEBIBYTES), ..Plan::default() };
    let load = Load { padding: 10_000, rate: 100, ..Load::default() };
    Stage::play(run, plan, load, |stage| {
        let us = stage.world.first_of("us")?;
        for _ in 0..run.rounds(2, 1) {
            stage.world.node(us).small()?.fill(LEFT)?;
            stage.fault("the disk of us is filled");
            let raw = Raw::new(stage, 1)?;
            let until = Instant::now() + FULL_WITHIN;
            let refused = loop {
                // One event of one producer after another: each call has one answer.
                match raw.publish_plain(stage)? {
                    Ok(_) if Instant::now() > until => {
                        return Err(Trouble::tool("the disk is not full in time"));
                    }
                    Ok(_) => std::thread::sleep(Duration::from_millis(100)),
                    Err(refused) => break refused,
                }
            };
            if !refused.contains("DISK_FULL") {
                return Err(Trouble::broken(format!("a full disk is answered by {refused}")));
            }
            stage.step(format!("refused: {refused}"));
            // Reading goes on, from the start to the end.
            let events: usize =
                read_lanes(&stage.world, 1, super::stage::STREAM)?.values().map(Vec::len).sum();
            stage.step(format!("{events} events are read in us meanwhile"));
            std::thread::sleep(Duration::from_secs(3));
            if !stage.world.node_mut(us).runs() {
                return Err(Trouble::broken(format!("us ended: {}", stage.world.node(us).log_tail())));
            }
            stage.world.node(us).small()?.relieve()?;
            let free = stage.world.node(us).small()?.free()?;
            if free < ENOUGH {
                return Err(Trouble::tool(format!(
                    "the disk is too small for this load: {free} bytes are free"
                )));
            }
            stage.step(format!("there is room again: {} MiB", free >> 20));
            stage.wait_acks_of("us", 100, Duration::from_secs(60))?;
        }
        Ok(())
    })
}
