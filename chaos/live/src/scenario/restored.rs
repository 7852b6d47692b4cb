//! Fault 22: a region lost two of its three disks for good. An operator has it restored: it begins anew with what anybody
//! who is left holds of it, as a copy, and writes under its next incarnation. Without a majority of the catalog that is
//! refused, whatever the operator tries by hand, and the region only serves reads. The old disks are refused for ever.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use meridian_sdk::v1::GetTopologyRequest;
use meridian_sdk::v1::cluster_service_client::ClusterServiceClient;
use rand::seq::SliceRandom as _;

use crate::laws::GivenUp;
use crate::record::{Load, Row, What, read_node};
use crate::scenario::quorum::US;
use crate::scenario::raw::Raw;
use crate::scenario::stage::{PARTITIONS, STREAM};
use crate::scenario::{Outcome, Run, Stage};
use crate::shell::run as shell;
use crate::trouble::{Context as _, Trouble};
use crate::world::{Plan, Said};

/// Of one region's nodes.
const LOST: usize = 2;
const ROUNDS: u8 = 2;
/// What is said where the catalog has no majority.
const NO_CATALOG: &str = "CATALOG_UNAVAILABLE";
const READ_WITHIN: Duration = Duration::from_secs(30);
const QUIET: Duration = Duration::from_secs(3);
/// How long an operator tries by hand what must not work.
const WATCHED: Duration = Duration::from_secs(12);
const WRITES_WITHIN: Duration = Duration::from_secs(90);
const REFUSED_WITHIN: Duration = Duration::from_secs(40);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const SEND_EVERY: Duration = Duration::from_millis(300);

/// Two disks that are gone.
struct Gone {
    /// Their nodes.
    nodes: Vec<usize>,
    /// The incarnation that lost them.
    incarnation: u32,
    /// What the node that is left gives to readers.
    left: BTreeMap<String, Vec<Row>>,
}

/// Five voters of the catalog, so that two disks are no majority of it.
fn plan(spares: u8) -> Plan {
    Plan { nodes_each: vec![3, 1], spares, ..Plan::default() }
}

/// Variant a: under load, and again in the next incarnation.
pub fn under_load(run: Run) -> Outcome {
    Stage::play(run, plan(ROUNDS * LOST as u8), Load::default(), |stage| {
        let mut old = Vec::new();
        for round in 0..run.rounds(ROUNDS.into(), 1) {
            let mut nodes = stage.world.nodes_of(US);
            if round == 0 {
                nodes.shuffle(&mut stage.rng);
            }
            // In the next round those that came.
            let gone = lose(stage, nodes.split_off(nodes.len() - LOST))?;
            admit(stage)?;
            let begun = Instant::now();
            let (one, other) = twice(stage, &gone)?;
            if !one.done && !other.done {
                return Err(Trouble::broken(format!("it is not restored: {}\n{}", one.text, other.text)));
            }
            writes_anew(stage, &gone, begun)?;
            old.extend(gone.nodes.iter().copied());
            // Those of past rounds as well.
            is_refused(stage, &old)?;
        }
        Ok(())
    })
}

/// Variant b: with the WAN down.
pub fn without_wan(run: Run) -> Outcome {
    Stage::play(run, plan(LOST as u8), Load::default(), |stage| {
        let mut nodes = stage.world.nodes_of(US);
        nodes.shuffle(&mut stage.rng);
        stage.world.relay.change_all(|profile| profile.up = false);
        stage.fault("the WAN is down");
        // What no other region has.
        stage.wait_acks_of("us", 200, Duration::from_secs(20))?;
        let gone = lose(stage, nodes.split_off(nodes.len() - LOST))?;
        let acks = stage.acks_of("us");
        let said = restore(stage, &gone)?;
        refused("a restore without a majority of the catalog", &said, NO_CATALOG)?;
        stage.step(format!("refused: {}", said.text.lines().last().unwrap_or_default()));
        for way in [ByHand::FreshDisks, ByHand::CopiedDisk, ByHand::NewNodes] {
            by_hand(stage, &gone, way)?;
            only_reads(stage, &gone)?;
        }
        if stage.acks_of("us") > acks {
            return Err(Trouble::broken("a region without its majority and without a catalog acknowledges"));
        }
        stage.world.relay.change_all(|profile| profile.up = true);
        stage.step("the WAN is back");
        admit(stage)?;
        let begun = Instant::now();
        until_done("the restore", REFUSED_WITHIN, || restore(stage, &gone))?;
        writes_anew(stage, &gone, begun)?;
        is_refused(stage, &gone.nodes)
    })
}

/// Two disks are lost at once, in the middle of everything. Notes what those hold who are left.
fn lose(stage: &mut Stage, nodes: Vec<usize>) -> Result<Gone, Trouble> {
    stage.wait_well()?;
    stage.wait_acks_of("us", 100, Duration::from_secs(30))?;
    stage.pause(700);
    let incarnation = incarnation(stage)?;
    stage.world.kill(&nodes)?;
    let names: Vec<String> = nodes.iter().map(|index| stage.name(*index)).collect();
    for index in &nodes {
        stage.world.retire(*index)?;
        let (data, aside) = (stage.world.node(*index).data(), aside(stage, *index));
        std::fs::rename(&data, &aside).context(data.display())?;
    }
    stage.fault(format!("the disks of {} are gone", names.join(" and ")));
    // Answers and frames that were on their way.
    std::thread::sleep(Duration::from_millis(500));
    let at = stage.recorder.elapsed().as_micros() as u64;
    stage.no_acks(QUIET)?;
    let (origin, mut held, mut left) = (format!("r{US}.{incarnation}"), BTreeMap::new(), BTreeMap::new());
    for index in stage.world.in_use() {
        let reading = read_node(&stage.world, index, STREAM, READ_WITHIN)?;
        if let Some(why) = reading.ended {
            return Err(Trouble::broken(format!("{} is not read to its end: {why}", stage.name(index))));
        }
        if stage.world.node(index).place().0 == US {
            left.clone_from(&reading.lanes);
        }
        for (lane, rows) in
            reading.lanes.into_iter().filter(|(lane, _)| lane.ends_with(&format!("@{origin}")))
        {
            let most: &mut Vec<Row> = held.entry(lane).or_default();
            if rows.len() > most.len() {
                *most = rows;
            }
        }
    }
    let events: usize = held.values().map(Vec::len).sum();
    stage.step(format!("{events} events of {origin} are held by somebody who is left"));
    stage.given_up.push(GivenUp { origin, region: "us".to_owned(), held, at });
    Ok(Gone { nodes, incarnation, left })
}

fn aside(stage: &Stage, index: usize) -> PathBuf {
    stage.world.node(index).data().with_extension("aside")
}

/// The region's incarnation, as a node of it knows it.
fn incarnation(stage: &Stage) -> Result<u32, Trouble> {
    let endpoint = stage.world.endpoints(US).into_iter().next();
    let endpoint = endpoint.ok_or_else(|| Trouble::tool("no node is in use"))?;
    stage.world.clients.run(async move {
        let mut client = ClusterServiceClient::connect(endpoint).await.context("connecting")?;
        let topology = client.get_topology(GetTopologyRequest {}).await.context("topology")?.into_inner();
        let row = topology.regions.iter().find(|row| row.id == u32::from(US));
        row.map(|row| row.incarnation).ok_or_else(|| Trouble::broken("the region is not known"))
    })?
}

/// What an operator names: nodes by their ids, and everybody whom he can ask.
fn operator(stage: &Stage, nodes: &[usize]) -> (String, String) {
    let ids: Vec<String> = nodes.iter().map(|index| (index + 1).to_string()).collect();
    let asked: Vec<String> =
        stage.world.in_use().into_iter().map(|index| stage.world.endpoint(index)).collect();
    (ids.join(","), asked.join(","))
}

fn restore(stage: &Stage, gone: &Gone) -> Result<Said, Trouble> {
    let (lost, asked) = operator(stage, &gone.nodes);
    stage.world.operate(&["region", "restore", "us", "--lost", &lost, "--endpoint", &asked])
}

/// Two operators at once: one incarnation comes of it, whatever the second is told.
fn twice(stage: &Stage, gone: &Gone) -> Result<(Said, Said), Trouble> {
    std::thread::scope(|scope| {
        let other = scope.spawn(|| restore(stage, gone));
        let one = restore(stage, gone);
        let other = other.join().map_err(|_| Trouble::tool("a thread panicked"))?;
        Ok((one?, other?))
    })
}

fn refused(what: &str, said: &Said, because: &str) -> Result<(), Trouble> {
    if said.done || !said.text.contains(because) {
        return Err(Trouble::broken(format!("{what} should be refused with {because}:\n{}", said.text)));
    }
    Ok(())
}

/// Again and again, as an operator does where the catalog is just finding its leader.
fn until_done(
    what: &str,
    within: Duration,
    command: impl Fn() -> Result<Said, Trouble>,
) -> Result<(), Trouble> {
    let until = Instant::now() + within;
    loop {
        let said = command()?;
        if said.done {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(Trouble::broken(format!("{what} is refused: {}", said.text)));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// As many new nodes as were lost are formatted, started and admitted; they wait.
fn admit(stage: &mut Stage) -> Result<Vec<usize>, Trouble> {
    let spares = never_started(stage);
    for spare in &spares {
        if !stage.world.node_mut(*spare).runs() {
            stage.world.format(*spare)?;
            stage.world.launch(*spare)?;
        }
        let (_, asked) = operator(stage, &[]);
        let config = stage.world.node(*spare).config().to_string_lossy().into_owned();
        until_done("adding a node", REFUSED_WITHIN, || {
            stage.world.operate(&["node", "add", "--config", &config, "--endpoint", &asked])
        })?;
    }
    let names: Vec<String> = spares.iter().map(|index| stage.name(*index)).collect();
    stage.step(format!("{} are admitted", names.join(" and ")));
    Ok(spares)
}

/// The next nodes that no incarnation had yet.
fn never_started(stage: &Stage) -> Vec<usize> {
    let idle = stage.world.idle_of(US).into_iter();
    idle.filter(|index| !aside(stage, *index).exists()).take(LOST).collect()
}

/// The region writes in all lanes under its next incarnation, and is well.
fn writes_anew(stage: &mut Stage, gone: &Gone, begun: Instant) -> Result<(), Trouble> {
    let before = stage.recorder.elapsed();
    for index in never_started(stage) {
        stage.world.take_into_use(index);
    }
    stage.world.wait_all_ready()?;
    let origin = format!("r{US}.{}", gone.incarnation + 1);
    let until = Instant::now() + WRITES_WITHIN;
    for partition in 0..PARTITIONS {
        let lane = format!("{partition}@{origin}");
        let is_one =
            |what: &What| matches!(what, What::Ack { lane: of, duplicate: false, .. } if *of == lane);
        while stage.recorder.count(is_one) < 20 {
            if Instant::now() > until {
                return Err(Trouble::broken(format!("nothing is acknowledged in {lane}")));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
    stage.step(format!(
        "us writes as {origin} in all lanes {:.1?} after it was restored, {:.1?} after its nodes were ready",
        begun.elapsed(),
        stage.recorder.elapsed().saturating_sub(before)
    ));
    stage.wait_well()?;
    match incarnation(stage)? {
        now if now == gone.incarnation + 1 => Ok(()),
        now => Err(Trouble::broken(format!("incarnation {now} follows {}", gone.incarnation))),
    }
}

/// The old disks come back in their old nodes, all at once: to each other they are a majority. Whatever is sent to them,
/// they acknowledge nothing; each is told that it was given up, and ends.
fn is_refused(stage: &mut Stage, nodes: &[usize]) -> Result<(), Trouble> {
    for index in nodes {
        let data = stage.world.node(*index).data();
        std::fs::rename(aside(stage, *index), &data).context(data.display())?;
        stage.world.launch(*index)?;
    }
    stage.fault("the disks that were given up are back");
    let begun = Instant::now();
    take_nothing_until(stage, nodes, begun + REFUSED_WITHIN)?;
    for index in nodes {
        let (name, said) = (stage.name(*index), stage.world.node(*index).log_tail());
        if stage.world.node_mut(*index).runs() || !said.contains("was removed for ever") {
            return Err(Trouble::broken(format!(
                "{name} was given up, and goes on or does not say why:\n{said}"
            )));
        }
        let data = stage.world.node(*index).data();
        std::fs::rename(&data, aside(stage, *index)).context(data.display())?;
    }
    stage.step(format!("they were refused, and have ended after {:.1?}", begun.elapsed()));
    Ok(())
}

/// These nodes end, or stay until then and acknowledge nothing of what is sent to them.
fn take_nothing_until(stage: &mut Stage, nodes: &[usize], until: Instant) -> Result<(), Trouble> {
    let (mut raw, mut sent) = (Raw::new(stage, US)?, Vec::new());
    while Instant::now() < until {
        let mut any = false;
        for index in nodes {
            if !stage.world.node_mut(*index).runs() {
                continue;
            }
            any = true;
            raw.turn_to(stage, *index);
            for partition in 0..PARTITIONS {
                let batch = raw.batch_in(&stage.recorder, partition, None, 1);
                sent.push((*index, raw.send(stage, &batch)?));
            }
        }
        if !any {
            break;
        }
        std::thread::sleep(SEND_EVERY);
    }
    let (mut took, mut first) = (0, None);
    for (index, answer) in sent {
        // It may have ended before it was reached.
        if let Ok(Ok(places)) = stage.world.clients.join(answer)? {
            took += 1;
            first.get_or_insert_with(|| format!("{}: {places:?}", stage.name(index)));
        }
    }
    match first {
        None => Ok(()),
        Some(first) => Err(Trouble::broken(format!("{took} events are acknowledged, the first by {first}"))),
    }
}

/// What an operator tries where a restore is refused.
#[derive(Clone, Copy, Debug)]
enum ByHand {
    /// Empty disks, formatted, under the lost nodes' ids: they would be a majority.
    FreshDisks,
    /// The same with what is left, copied.
    CopiedDisk,
    /// New nodes under new ids.
    NewNodes,
}

fn by_hand(stage: &mut Stage, gone: &Gone, way: ByHand) -> Result<(), Trouble> {
    stage.fault(format!("the operator tries {way:?}"));
    let tried = if matches!(way, ByHand::NewNodes) { never_started(stage) } else { gone.nodes.clone() };
    for index in &tried {
        let data = stage.world.node(*index).data();
        match way {
            ByHand::FreshDisks => {
                std::fs::create_dir_all(&data).context(data.display())?;
                stage.world.format(*index)?;
            }
            ByHand::CopiedDisk => {
                let left = stage.world.nodes_of(US).into_iter().next();
                let left = left.ok_or_else(|| Trouble::tool("nobody is left"))?;
                let from = stage.world.node(left).data();
                // Files come and go under it.
                let _ = shell("cp", &["-a", &from.to_string_lossy(), &data.to_string_lossy()]);
            }
            ByHand::NewNodes => stage.world.format(*index)?,
        }
        stage.world.launch(*index)?;
    }
    let until = Instant::now() + WATCHED;
    if let (ByHand::NewNodes, Some(spare)) = (way, tried.first()) {
        let (_, asked) = operator(stage, &[]);
        let config = stage.world.node(*spare).config().to_string_lossy().into_owned();
        let line = ["node", "add", "--config", &config, "--endpoint", &asked];
        refused("adding a node without a majority of the catalog", &stage.world.operate(&line)?, NO_CATALOG)?;
    }
    take_nothing_until(stage, &tried, until)?;
    for index in &tried {
        let how = if stage.world.node_mut(*index).runs() { "and waits" } else { "and has ended" };
        let said = stage.world.node(*index).log_tail();
        let last = said.lines().last().unwrap_or_default();
        stage.step(format!("{} takes nothing, {how}: {last}", stage.name(*index)));
    }
    if !matches!(way, ByHand::NewNodes) {
        stage.world.kill(&tried)?;
        for index in &tried {
            let data = stage.world.node(*index).data();
            std::fs::remove_dir_all(&data).context(data.display())?;
        }
    }
    Ok(())
}

/// The node that is left gives readers what it gave before. That it takes nothing, the publisher shows, which never gives up.
fn only_reads(stage: &Stage, gone: &Gone) -> Result<(), Trouble> {
    for index in stage.world.nodes_of(US) {
        let reading = read_node(&stage.world, index, STREAM, READ_WITHIN)?;
        if reading.ended.is_some() || reading.lanes != gone.left {
            return Err(Trouble::broken(format!(
                "{} does not give what it gave: {:?}",
                stage.name(index),
                reading.ended
            )));
        }
    }
    Ok(())
}
