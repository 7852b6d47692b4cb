//! Fault 10: a disk is full. Publishes are refused before they have an offset, reading goes on, and when there is room
//! again all goes on without a restart. Of several nodes' one disk: others lead, and nothing is refused for long.

use std::time::{Duration, Instant};

use crate::record::{Load, read_lanes};
use crate::scenario::quorum::US;
use crate::scenario::raw::Raw;
use crate::scenario::sets::{retire_one, wait_for};
use crate::scenario::{Outcome, Run, Stage};
use crate::trouble::Trouble;
use crate::world::{DiskKind, Plan};

/// The 256 MiB that the volume leaves for index and catalog, and room for all that the scenario publishes.
const MEBIBYTES: u64 = 1200;
const LEFT: u64 = 200 << 20;
/// What the volume leaves, and two files.
const ENOUGH: u64 = 300 << 20;
const FULL_WITHIN: Duration = Duration::from_secs(120);
const WHILE_FULL: Duration = Duration::from_secs(5);
/// One more than a shard has replicas, so that a shard can be moved to the one that is full.
const NODES: u8 = 4;

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
            std::thread::sleep(WHILE_FULL);
            if !stage.world.node_mut(us).runs() {
                return Err(Trouble::broken(format!("us ended: {}", stage.world.node(us).log_tail())));
            }
            relieve(stage, us)?;
            stage.wait_acks_of("us", 100, Duration::from_secs(60))?;
        }
        Ok(())
    })
}

/// Of the nodes of a region one has a full disk: it leads nothing any more, and is given nothing.
pub fn one_of_several(run: Run) -> Outcome {
    let plan = Plan::quorum(NODES, DiskKind::Small(MEBIBYTES));
    let load = Load { padding: 10_000, rate: 100, ..Load::default() };
    Stage::play(run, plan, load, |stage| {
        for _ in 0..run.rounds(2, 1) {
            let full = stage.leader()?;
            let name = stage.name(full);
            stage.world.node(full).small()?.fill(LEFT)?;
            stage.fault(format!("the disk of {name}, which leads most, is filled"));
            let filled = stage.recorder.elapsed();
            wait_for(stage, "a node whose disk is full still leads", |leading| {
                leading.leaders().values().all(|(_, leader)| *leader != full)
            })?;
            let stall = stage.wait_flows(filled, Duration::from_secs(30))?;
            stage.figure("it leads nothing any more", stall);
            is_given_nothing(stage, full)?;
            if !stage.world.node_mut(full).runs() {
                return Err(Trouble::broken(format!("{name} ended: {}", stage.world.node(full).log_tail())));
            }
            let since = stage.recorder.elapsed();
            std::thread::sleep(WHILE_FULL);
            let stall = stage.wait_flows(since, Duration::from_secs(30))?;
            stage.figure("while it is full", stall);
            relieve(stage, full)?;
            stage.wait_well()?;
        }
        retire_one(stage)
    })
}

/// No shard can be moved to it.
fn is_given_nothing(stage: &Stage, full: usize) -> Result<(), Trouble> {
    let leading = stage.wait_well()?;
    let node = full as u32 + 1;
    let shards = leading.said.values().next().into_iter().flatten();
    let other = shards.into_iter().find(|shard| !shard.members.contains(&node));
    let other = other.ok_or_else(|| Trouble::tool("it has a replica of every shard"))?;
    let (shard, from) = (format!("us/{}", other.number), other.members[0].to_string());
    let asked: Vec<String> =
        stage.world.nodes_of(US).into_iter().map(|index| stage.world.endpoint(index)).collect();
    let (to, asked) = (node.to_string(), asked.join(","));
    let arguments = ["shard", "move", "--shard", &shard, "--from", &from, "--to", &to, "--endpoint", &asked];
    let said = stage.world.operate(&arguments)?;
    if said.done || !said.text.contains("at its reserve") {
        return Err(Trouble::broken(format!("a move to a full disk is answered by {}", said.text)));
    }
    stage.step(format!("a move to it is refused: {}", said.text.trim()));
    Ok(())
}

fn relieve(stage: &Stage, index: usize) -> Result<(), Trouble> {
    stage.world.node(index).small()?.relieve()?;
    let free = stage.world.node(index).small()?.free()?;
    if free < ENOUGH {
        return Err(Trouble::tool(format!("the disk is too small for this load: {free} bytes are free")));
    }
    stage.step(format!("there is room again: {} MiB", free >> 20));
    Ok(())
}
