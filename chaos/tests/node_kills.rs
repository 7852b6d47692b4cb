//! Regions of several nodes, whose nodes die, stop and are taken out of use while events flow.
//!
//! A region of three lives with any two, so here nobody who publishes sees an error, and what was acknowledged is
//! there: each event once, in order, the same bytes everywhere. `MERIDIAN_NODE_KILLS=all` takes all 336,776 flights
//! instead of a part of them.

mod support {
    pub mod airports;
}

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use meridian_chaos::{
    Load, Report, Seed, Setup, ShardRow, World, holds_exactly, longest_silence, numbers, say, until,
};
use meridian_sdk::{Client, ClientOptions, Event, LaneExtent};
use meridian_types::{Lane, Partition, StreamId, shard_of};
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::runtime::Runtime;

use support::airports::{Airport, PARTITIONS, airports, read_back};

const STREAM: &str = "node-kills";
const KILL_EVERY: Duration = Duration::from_secs(4);
const DEAD_FOR: Duration = Duration::from_secs(2);
/// Longer than anything that the region itself waits for.
const STOPPED_FOR: Duration = Duration::from_secs(6);
const WITHIN: Duration = Duration::from_secs(120);
/// Events of each airport, where not all are taken, and how many a second.
const PART: (usize, u32) = (9_000, 700);
/// How many a second where all are taken.
const ALL_RATE: u32 = 1200;
/// Events a second beside an operator's commands.
const RATE: u32 = 400;
/// Events that are there before, so that a replica is not made in no time; and how many a second.
const BEFORE: (usize, u32) = (20_000, 20_000);

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().expect("a runtime")
}

fn flights(airport: &Airport) -> impl Iterator<Item = (String, Event)> + Send + use<> {
    airport.lines.clone().into_iter().map(|line| {
        let event = Event::new(line.clone());
        let event = match Airport::key(&line) {
            Some(key) => event.with_key(key),
            None => event,
        };
        (line, event)
    })
}

#[test]
fn nodes_die_again_and_again_and_every_region_gives_back_every_line() {
    let Some(mut airports) = airports("node_kills") else { return };
    let rate = if std::env::var("MERIDIAN_NODE_KILLS").is_ok_and(|kills| kills == "all") {
        ALL_RATE
    } else {
        for airport in &mut airports {
            airport.lines.truncate(PART.0);
        }
        PART.1
    };
    let mut rng = Seed::of("node_kills").rng();
    let runtime = runtime();
    let mut world = World::start_with(Setup::default(), 3);
    world.create_stream(STREAM, PARTITIONS);
    let regions = world.regions();
    for region in &regions {
        let _ = world.settled_shards(region);
    }

    let begun = Instant::now();
    let loads: Vec<Load> = airports
        .iter()
        .map(|airport| Load::start(&runtime, &world, airport.region, STREAM, rate, flights(airport)))
        .collect();
    let kills = keep_killing(&mut world, &loads, &mut rng);
    let (mut acknowledged, mut silence) = (0, Duration::ZERO);
    for (load, airport) in loads.into_iter().zip(&airports) {
        let acked = load.finish_all(&runtime);
        assert_eq!(acked.len(), airport.lines.len(), "{}", airport.file.display());
        acknowledged += acked.len();
        silence = silence.max(longest_silence(&acked));
    }
    let published = begun.elapsed();
    let report = world.agree(STREAM, WITHIN);
    say(&format!(
        "node_kills: {kills} kills, {acknowledged} events acknowledged in {published:.1?}, \
         the longest time without an ack in a partition {silence:.2?}, all copies agree after {:.1?}",
        begun.elapsed()
    ));
    assert!(kills > 0, "it was over before anybody was killed");
    assert_eq!((report.events, report.lanes.len()), (acknowledged as u64, 12), "{report:#?}");
    for lane in &report.lanes {
        assert!(lane.agree && lane.copies.len() == 3, "{lane:?}");
    }
    replicas_agree(&runtime, &world, &report);
    let first = read_back(&world, &regions[0], STREAM, &airports);
    for region in &regions[1..] {
        assert!(read_back(&world, region, STREAM, &airports) == first, "{region} gives other lanes");
    }
}

/// Every node has every lane to its end, and all have the same bytes on their disks: `verify` asks a region, not each of
/// its nodes. There are as many nodes as replicas.
fn replicas_agree(runtime: &Runtime, world: &World, report: &Report) {
    let mut digests: BTreeMap<Lane, (u64, [u8; 32])> = BTreeMap::new();
    for node in world.names() {
        let client = {
            let _inside = runtime.enter();
            let options = ClientOptions { discover: false, ..ClientOptions::default() };
            Client::connect(vec![world.endpoint(&node).to_owned()], options).expect("an endpoint")
        };
        let lanes = until(&format!("{node} has everything"), WITHIN, || {
            let lanes =
                runtime.block_on(client.admin().list_lanes(STREAM)).map_err(|error| error.to_string())?;
            let events: u64 = lanes.iter().map(|lane| lane.end.0).sum();
            if events == report.events { Ok(lanes) } else { Err(format!("{events} of {}", report.events)) }
        });
        for LaneExtent { lane, start, end, .. } in lanes {
            let digest = runtime.block_on(client.admin().digest(STREAM, lane, start, end));
            let digest = digest.expect("it can be read");
            assert_eq!(digest.damaged, None, "{node}, {lane}");
            let known = *digests.entry(lane).or_insert((end.0, digest.blake3));
            assert!(known == (end.0, digest.blake3), "{node} has other bytes in {lane}");
        }
    }
    assert_eq!(digests.len(), report.lanes.len());
}

/// SIGKILLs some node every four seconds until all is published, starts it again two seconds later, and waits until all
/// are ready. A region of which a node is not ready yet loses no other.
fn keep_killing(world: &mut World, loads: &[Load], rng: &mut StdRng) -> u32 {
    let regions = world.regions();
    let mut draw = |world: &World| {
        let region = regions[rng.random_range(0..regions.len())].clone();
        let nodes = world.nodes_of(&region);
        let node = nodes[rng.random_range(0..nodes.len())].clone();
        (region, node)
    };
    let (mut kills, mut at, mut next) = (0, Instant::now() + KILL_EVERY, draw(world));
    let mut dead: Vec<(String, String, Instant)> = Vec::new();
    let mut starting: Vec<(String, String)> = Vec::new();
    until("everything is published", 3 * WITHIN, || {
        for (region, node, _) in dead.extract_if(.., |(.., until)| Instant::now() >= *until) {
            world.launch(&node);
            starting.push((region, node));
        }
        starting.retain(|(_, node)| !world.is_ready(node));
        let (region, node) = &next;
        let is_whole = !dead.iter().any(|(other, ..)| other == region)
            && !starting.iter().any(|(other, _)| other == region);
        if Instant::now() >= at && is_whole {
            world.kill9(node);
            kills += 1;
            say(&format!("node_kills: {node} killed"));
            dead.push((region.clone(), node.clone(), Instant::now() + DEAD_FOR));
            (at, next) = (at + KILL_EVERY, draw(world));
        }
        let left = loads.iter().filter(|load| !load.is_finished()).count();
        if left == 0 { Ok(()) } else { Err(format!("{left} publish, starting: {starting:?}")) }
    });
    for (_, node, _) in dead {
        world.launch(&node);
    }
    for node in world.names() {
        world.wait_ready(&node);
    }
    kills
}

/// The shard of a stream's partition in its own region.
fn shard(world: &World, region: &str, stream: &str, partition: u32) -> ShardRow {
    let row: serde_json::Value =
        world.cli(&["stream", "get", stream, "--region", region, "--json"]).ok().json();
    let stream = StreamId(row["id"].as_u64().expect("a stream has an id"));
    let rows: Vec<ShardRow> =
        world.settled_shards(region).into_iter().filter(|row| row.origin == region).collect();
    let number = shard_of(stream, Partition(partition), rows.len() as u16).0;
    rows.into_iter().find(|row| row.number == u32::from(number)).expect("every shard is listed")
}

fn leader(world: &World, row: &ShardRow) -> String {
    world.name_of(row.leader.expect("a settled shard is led"))
}

#[test]
fn publishing_to_a_shard_resumes_when_its_leader_dies_and_when_it_stops() {
    let runtime = runtime();
    let mut world = World::start_with(Setup { regions: &["us"], wan: "", settings: None }, 3);
    world.create_stream(STREAM, 1);
    let mut load = Load::start(&runtime, &world, "us", STREAM, RATE, numbers());
    load.next_answer(&runtime);

    let before = shard(&world, "us", STREAM, 0);
    let first = leader(&world, &before);
    world.kill9(&first);
    let resumed = load.next_answer(&runtime);
    // While the first one is dead: another leads.
    let after = shard(&world, "us", STREAM, 0);
    assert!(after.leader != before.leader && after.epoch > before.epoch, "{before:?}, then {after:?}");
    say(&format!("node_kills: {first} killed, which led {}: resumed after {resumed:.2?}", before.name()));
    world.start_again(&first);

    let before = shard(&world, "us", STREAM, 0);
    let second = leader(&world, &before);
    world.pause(&second);
    let stopped = Instant::now();
    let resumed = load.next_answer(&runtime);
    // It stands still yet, so another acknowledged that.
    let after = shard(&world, "us", STREAM, 0);
    assert!(after.leader != before.leader && after.epoch > before.epoch, "{before:?}, then {after:?}");
    while stopped.elapsed() < STOPPED_FOR {
        load.next_answer(&runtime);
    }
    world.resume(&second);
    say(&format!(
        "node_kills: {second} stopped for {:.1?}, which led {}: resumed after {resumed:.2?}",
        stopped.elapsed(),
        before.name()
    ));
    let id = world.id_of(&second);
    until(&format!("{second} is heard again"), WITHIN, || {
        let rows = world.nodes_listed("us");
        let live = rows.iter().any(|row| row.node == id && row.live == Some(true));
        if live && world.is_ready(&second) { Ok(()) } else { Err(format!("{rows:?}")) }
    });
    load.next_answer(&runtime);
    let acked = load.finish(&runtime);
    holds_exactly(&world, "us", STREAM, &acked);
    say(&format!("node_kills: {} events, silent for at most {:.2?}", acked.len(), longest_silence(&acked)));
}

/// What an operator decides about: who has replicas of each shard, and who leads it.
type Places = BTreeMap<(String, u32), (Vec<u32>, Option<u32>, u32, bool, Option<u32>, u32)>;

fn places(world: &World) -> Places {
    let place = |row: ShardRow| {
        let ShardRow { origin, number, members, learner, version, changing, leader, epoch, .. } = row;
        ((origin, number), (members, learner, version, changing, leader, epoch))
    };
    world.shards("us").into_iter().map(place).collect()
}

/// A command is refused with its reason, and changes nothing.
#[track_caller]
fn refused(world: &World, command: &[&str], why: &[&str]) {
    let before = places(world);
    let _ = world.cli(command).failed_saying(why);
    assert_eq!(places(world), before, "{command:?}");
}

fn moving<'a>(shard: &'a str, from: &'a str, to: &'a str) -> [&'a str; 8] {
    ["shard", "move", "--shard", shard, "--from", from, "--to", to]
}

#[test]
fn the_last_replica_is_neither_drained_nor_removed() {
    let world = World::start(Setup { regions: &["us"], wan: "", settings: None });
    let _ = world.settled_shards("us");
    let node = world.id_of("us").to_string();
    refused(&world, &["node", "drain", &node], &["the only replica of shard", "no other node is active"]);
    refused(&world, &["node", "remove", &node], &["the only replica of 16 shards"]);
    assert_eq!(world.nodes_listed("us")[0].draining, Some(false));
}

/// A node is taken for dead only after so long that a command reaches its region before, on any machine.
fn slow_to_bury(table: &mut toml::Table) {
    let placement = table.entry("placement").or_insert_with(|| toml::Table::new().into());
    let placement = placement.as_table_mut().expect("a section");
    placement.insert("dead_after".to_owned(), "5s".into());
}

#[test]
fn operators_are_refused_what_cannot_be_and_a_node_is_taken_out_under_load() {
    let runtime = runtime();
    let setup = Setup { regions: &["us"], wan: "", settings: Some(slow_to_bury) };
    let mut world = World::start_with(setup, 4);
    world.create_stream(STREAM, PARTITIONS);
    let all: Vec<u32> = world.names().iter().map(|name| world.id_of(name)).collect();
    let rows = world.settled_shards("us");
    assert!(rows.iter().all(|row| row.members.len() == 3), "{rows:?}");
    // Commands ask the first node first, and the newcomer will stand still.
    let row = rows.into_iter().find(|row| row.members.contains(&all[0])).expect("it has replicas");
    let spare = *all.iter().find(|node| !row.members.contains(node)).expect("three of four have a replica");
    let (name, spare_name) = (row.name(), world.name_of(spare));
    let (member, other) = (row.members[0].to_string(), row.members[1].to_string());
    let to = spare.to_string();

    // What is not there.
    refused(&world, &moving("us/99", "1", "2"), &["us/0 to us/15, not us/99"]);
    refused(&world, &moving("sa/0", "1", "2"), &["there is no region \"sa\""]);
    refused(&world, &moving("us/0", "99", "2"), &["there is no node 99"]);
    refused(&world, &moving(&name, &member, "99"), &["knows no node 99"]);
    refused(&world, &["node", "drain", "99"], &["there is no node 99"]);
    refused(&world, &["node", "remove", "99"], &["there is no node 99"]);
    // What makes no sense.
    refused(&world, &moving(&name, &to, &member), &["has no replica of shard"]);
    refused(&world, &moving(&name, &member, &other), &["has a replica of shard", "already"]);
    refused(&world, &["node", "remove", &member], &["still has a part in", "drain it and wait"]);

    // A move that cannot be finished yet, because the newcomer stands still. The same again is no mistake, another is.
    let of_name = || world.shards("us").into_iter().find(|now| now.name() == name).expect("it is listed");
    world.pause(&spare_name);
    for _ in 0..2 {
        let _ = world.cli(&moving(&name, &member, &to)).ok();
    }
    let begun = until("the newcomer is to learn", WITHIN, || {
        let now = of_name();
        if now.learner == Some(spare) { Ok(now) } else { Err(format!("{now:?}")) }
    });
    let _ = world.cli(&moving(&name, &other, &to)).failed_saying(&["is being moved from node"]);
    let now = of_name();
    assert_eq!(
        (&now.members, now.learner, now.version),
        (&row.members, Some(spare), begun.version),
        "{now:?}"
    );
    world.resume(&spare_name);
    let mut wanted = row.members.clone();
    wanted[0] = spare;
    wanted.sort_unstable();
    until("the first move is made", WITHIN, || {
        let now = of_name();
        if now.members == wanted && !now.changing { Ok(()) } else { Err(format!("{now:?}")) }
    });

    // A move to a node that is dead.
    let gone = row.members[0];
    let gone_name = world.name_of(gone);
    world.kill9(&gone_name);
    until(&format!("{gone_name} is taken for dead, and leads nothing"), WITHIN, || {
        let nodes = world.nodes_listed("us");
        let is_dead = nodes.iter().any(|row| row.node == gone && row.live == Some(false));
        let leads =
            world.shards("us").iter().filter(|row| row.leader.is_none_or(|node| node == gone)).count();
        if is_dead && leads == 0 { Ok(()) } else { Err(format!("{leads} shards wait, {nodes:?}")) }
    });
    refused(&world, &moving(&name, &to, &member), &["is not heard", "choose another"]);
    world.start_again(&gone_name);
    let _ = world.settled_shards("us");

    one_is_taken_out_under_load(&mut world, &runtime, &all);
}

/// Two are drained at once, of which one can be; that one is emptied, and removed, while events flow.
fn one_is_taken_out_under_load(world: &mut World, runtime: &Runtime, all: &[u32]) {
    let before = Load::start(runtime, world, "us", STREAM, BEFORE.1, numbers().take(BEFORE.0));
    let mut acked = before.finish_all(runtime);
    let mut load = Load::start(runtime, world, "us", STREAM, RATE, numbers());
    load.next_answer(runtime);
    let begun = Instant::now();
    let (a, b) = (all[0].to_string(), all[1].to_string());
    let both = [world.begin(&["node", "drain", &a]), world.begin(&["node", "drain", &b])];
    let ended = both.map(|drain| drain.finish(WITHIN));
    let drained = match [ended[0].code, ended[1].code] {
        [Some(0), Some(_)] => 0,
        [Some(_), Some(0)] => 1,
        codes => panic!("one can be drained: {codes:?}: {ended:?}"),
    };
    let _ = ended[1 - drained].clone().failed_saying(&["without node", "there are 2 active nodes"]);
    let (node, id) = (all[drained], all[drained].to_string());
    let _ = world.cli(&["node", "drain", &id]).ok();
    until(&format!("node {node} is empty"), WITHIN, || {
        let used: Vec<ShardRow> = world.shards("us").into_iter().filter(|row| row.uses(node)).collect();
        if used.is_empty() { Ok(()) } else { Err(format!("{used:?}")) }
    });
    for row in world.settled_shards("us") {
        assert!(!row.uses(node) && row.members.len() == 3, "{row:?}");
    }
    load.next_answer(runtime);
    for _ in 0..2 {
        let _ = world.cli(&["node", "remove", &id, "--region", "us"]).ok();
    }
    load.next_answer(runtime);
    let took = begun.elapsed();
    world.terminate(&world.name_of(node));
    let resumed = load.next_answer(runtime);
    let beside = load.finish(runtime);
    say(&format!(
        "node_kills: node {node} drained and removed in {took:.1?} beside {} events, silent for at most {:.2?}, \
         and {resumed:.2?} after it ended",
        beside.len(),
        longest_silence(&beside)
    ));
    acked.extend(beside);
    holds_exactly(world, "us", STREAM, &acked);
}
