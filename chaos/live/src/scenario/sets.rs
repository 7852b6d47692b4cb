//! Fault 15: sets of replicas change again and again, under load and under faults: nodes are drained and taken into use
//! again, replicas are moved, sets grow from three to five and shrink again, and now and then a node is killed meanwhile.
//! Nothing is lost, and no set stays between two.

use std::time::{Duration, Instant};

use meridian_sdk::v1::cluster_service_client::ClusterServiceClient;
use meridian_sdk::v1::{DrainNodeRequest, MoveShardRequest, SetReplicationRequest};
use rand::RngExt as _;
use rand::seq::IndexedRandom as _;
use tonic::transport::Endpoint;

use crate::record::Load;
use crate::scenario::quorum::US;
use crate::scenario::{Outcome, Run, Stage};
use crate::trouble::{Context as _, Trouble};
use crate::world::{DiskKind, Leading, Plan};

/// One more than a shard has replicas.
const NODES: u8 = 4;
/// Replicas of each shard.
const THREE: u32 = 3;
const FIVE: u32 = 5;
const CHANGED_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What operators ask for.
#[derive(Clone, Debug)]
enum Wish {
    Drain { node: u32, undo: bool },
    Move(MoveShardRequest),
    Replicas(u32),
}

/// Runs it.
pub fn run(run: Run) -> Outcome {
    Stage::play(run, Plan::quorum(NODES, DiskKind::Plain), Load::default(), |stage| {
        for round in 0..run.rounds(8, 1) {
            let victim = stage.world.nodes_of(US)[round as usize % 4];
            let name = stage.name(victim);
            let since = stage.recorder.elapsed();
            let leading = stage.wait_well()?;
            let held = holds(&leading, victim);
            ask(stage, Wish::Drain { node: victim as u32 + 1, undo: false })?;
            stage.fault(format!("{name}, which holds {held} shards, is drained"));
            if round % 2 == 1 {
                // Not the drained one: a majority of each set stays.
                let others = stage.others(victim);
                let killed = *others.choose(&mut stage.rng).ok_or_else(|| Trouble::tool("no other node"))?;
                stage.pause(1500);
                stage.world.kill(&[killed])?;
                stage.fault(format!("{} is killed meanwhile", stage.name(killed)));
                stage.pause(1500);
                stage.start_again(&[killed])?;
            }
            let begun = Instant::now();
            wait_for(stage, "the drained node still holds shards", |leading| holds(leading, victim) == 0)?;
            stage.step(format!("it holds nothing after {:.1?}", begun.elapsed()));
            ask(stage, Wish::Drain { node: victim as u32 + 1, undo: true })?;
            for _ in 0..run.rounds(4, 2) {
                move_one(stage)?;
            }
            let stall = stage.wait_flows(since, Duration::from_secs(30))?;
            stage.figure("in all of it", stall);
        }
        retire_one(stage)
    })
}

/// What a node has of a shard whose set it has left is a prefix, and nobody's copy; nor does a node give its readers more than it
/// has. So where there are more nodes than replicas one is taken out of use in the end, and each of the others holds everything.
pub(super) fn retire_one(stage: &mut Stage) -> Result<(), Trouble> {
    let nodes = stage.world.nodes_of(US);
    let spare = *nodes.last().ok_or_else(|| Trouble::tool("there is no node"))?;
    ask(stage, Wish::Drain { node: spare as u32 + 1, undo: false })?;
    wait_for(stage, "the drained node still holds shards", |leading| holds(leading, spare) == 0)?;
    stage.wait_well()?;
    stage.world.retire(spare)?;
    stage.step(format!("{} is drained and ends", stage.name(spare)));
    Ok(())
}

/// Whole sets: three replicas of each shard, then five, three, five, …
pub fn three_to_five(run: Run) -> Outcome {
    Stage::play(run, Plan::quorum(FIVE as u8, DiskKind::Plain), Load::default(), |stage| {
        stage.wait_well()?;
        let since = stage.recorder.elapsed();
        let rounds = run.rounds(6, 1);
        // Five in the end: each node holds everything then.
        for round in 0..2 * rounds + 1 {
            let replicas = if round % 2 == 0 { FIVE } else { THREE };
            ask(stage, Wish::Replicas(replicas))?;
            stage.fault(format!("each shard is to have {replicas} replicas"));
            let begun = Instant::now();
            if round % 3 > 0 {
                let nodes = stage.world.nodes_of(US);
                let killed = *nodes.choose(&mut stage.rng).ok_or_else(|| Trouble::tool("no node"))?;
                stage.pause(3000);
                stage.world.kill(&[killed])?;
                stage.fault(format!("{} is killed meanwhile", stage.name(killed)));
                stage.pause(3000);
                stage.start_again(&[killed])?;
            }
            wait_for(stage, "a shard has not as many replicas as it should", |leading| {
                let mut rows = leading.said.values().flatten();
                leading.said.len() == FIVE as usize
                    && rows.all(|row| row.members.len() == replicas as usize && !row.changing)
            })?;
            stage.step(format!("they have, after {:.1?}", begun.elapsed()));
        }
        let stall = stage.wait_flows(since, Duration::from_secs(30))?;
        stage.figure("in all of it", stall);
        stage.wait_well().map(drop)
    })
}

/// Replicas that a node has.
fn holds(leading: &Leading, index: usize) -> usize {
    let known =
        leading.said.values().max_by_key(|shards| shards.iter().map(|shard| shard.version).sum::<u32>());
    let shards = known.into_iter().flatten();
    shards.filter(|shard| shard.members.contains(&(index as u32 + 1))).count()
}

/// Moves a replica of a shard to the node that has none of it.
fn move_one(stage: &mut Stage) -> Result<(), Trouble> {
    let leading = stage.wait_well()?;
    let shards = leading.said.values().next().cloned().unwrap_or_default();
    let shard = shards.choose(&mut stage.rng).ok_or_else(|| Trouble::tool("there are no shards"))?;
    let from =
        *shard.members.choose(&mut stage.rng).ok_or_else(|| Trouble::tool("a shard without members"))?;
    let nodes = stage.world.nodes_of(US).into_iter().map(|index| index as u32 + 1);
    let Some(to) = nodes.into_iter().find(|node| !shard.members.contains(node)) else { return Ok(()) };
    let number = shard.number;
    ask(stage, Wish::Move(MoveShardRequest { origin: shard.origin, number, from, to }))?;
    stage.fault(format!("shard {number} moves from node {from} to node {to}"));
    let begun = Instant::now();
    wait_for(stage, "the shard did not move", |leading| {
        let rows = leading.said.values().flatten().filter(|row| row.number == number);
        rows.into_iter().any(|row| row.members.contains(&to) && !row.members.contains(&from) && !row.changing)
    })?;
    stage.step(format!("it is there after {:.1?}", begun.elapsed()));
    stage.pause(300);
    let lack = stage.rng.random_bool(0.5);
    if lack { stage.wait_acks_of("us", 20, Duration::from_secs(20)) } else { Ok(()) }
}

pub(super) fn wait_for(stage: &Stage, what: &str, done: impl Fn(&Leading) -> bool) -> Result<(), Trouble> {
    let until = Instant::now() + CHANGED_WITHIN;
    while !done(&stage.world.leading(US)?) {
        if Instant::now() > until {
            return Err(Trouble::broken(format!("{what} after {CHANGED_WITHIN:?}")));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Asks node after node until one takes it.
fn ask(stage: &Stage, wish: Wish) -> Result<(), Trouble> {
    let until = Instant::now() + Duration::from_secs(30);
    let mut last = String::new();
    while Instant::now() < until {
        for index in stage.world.nodes_of(US) {
            let (endpoint, wish) = (stage.world.endpoint(index), wish.clone());
            match stage.world.clients.run(async move { say(endpoint, wish).await })? {
                Ok(()) => return Ok(()),
                Err(trouble) => last = trouble.to_string(),
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Err(Trouble::broken(format!("{wish:?} is refused for 30 s: {last}")))
}

async fn say(endpoint: String, wish: Wish) -> Result<(), Trouble> {
    let endpoint = Endpoint::from_shared(endpoint).context("an endpoint")?.timeout(Duration::from_secs(5));
    let mut client = ClusterServiceClient::new(endpoint.connect().await.context("connecting")?);
    match wish {
        Wish::Drain { node, undo } => {
            client.drain_node(DrainNodeRequest { node, undo }).await.map(drop).context("drain")
        }
        Wish::Replicas(replicas) => {
            client.set_replication(SetReplicationRequest { replicas }).await.map(drop).context("replicas")
        }
        Wish::Move(request) => client.move_shard(request).await.map(drop).context("move"),
    }
}
