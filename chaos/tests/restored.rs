//! A region that loses two of its three disks for good (fault 22): it goes on under its next incarnation with what others hold
//! of it, the publisher goes on without an error, nothing is stored twice, and the old disks are refused for ever.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_chaos::{Setup, World, consume, say, until};
use meridian_sdk::{Ack, Client, ClientOptions, Event, Publisher, PublisherOptions};
use tokio::runtime::Runtime;

const STREAM: &str = "restored";
const PARTITIONS: u32 = 4;
const WITHIN: Duration = Duration::from_secs(120);
/// Events that other regions have when the disks are lost, that are under way then, and that are sent while nobody leads.
const BEFORE: usize = 400;
const UNDER_WAY: usize = 200;
const MEANWHILE: usize = 100;

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().expect("a runtime")
}

async fn publisher(world: &World) -> Publisher {
    let options = ClientOptions { retry_for: WITHIN, ..ClientOptions::default() };
    let client = Client::connect(world.endpoints("us"), options).expect("endpoints");
    let options =
        PublisherOptions { batch_bytes: 1024, progress_timeout: WITHIN, ..PublisherOptions::default() };
    client.publisher(STREAM, options).await.expect("the stream is known")
}

/// What a region gives back, each value with how often.
fn read(world: &World, region: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    consume(world, region, STREAM, WITHIN, |row| *counts.entry(row.value).or_default() += 1);
    counts
}

fn acked(acks: &[(String, Ack)], incarnation: u16) -> Vec<&String> {
    let of = acks.iter().filter(|(_, ack)| ack.lane.origin.incarnation.0 == incarnation);
    of.map(|(value, _)| value).collect()
}

/// Who has the region restored.
#[derive(Clone, Copy, PartialEq)]
enum By {
    /// An operator, who names the lost disks.
    Command,
    /// Nobody: each new node was added in the place of a lost one.
    Replacements,
}

#[test]
fn a_region_without_its_majority_comes_back_under_its_next_incarnation() {
    lives_on(By::Command);
}

#[test]
fn a_region_comes_back_by_itself_once_a_majority_of_its_disks_is_replaced() {
    lives_on(By::Replacements);
}

/// New nodes come in the lost ones' place.
fn replace(world: &mut World, lost: &[&str; 2]) -> Vec<String> {
    let alive = world.id_of("us-3").to_string();
    let fresh: Vec<String> = lost.iter().map(|_| world.prepare_node("us")).collect();
    for (name, old) in fresh.iter().zip(lost) {
        let old = world.id_of(old).to_string();
        let _ = world.with_config(&["format"], name).ok();
        let add = |other: &str| world.with_config(&["node", "add", "--replaces", other], name);
        let _ = add(&alive).failed_saying(&["its disk is not lost"]);
        let _ = add("99").failed_saying(&["node 99 is no other node of that region"]);
        let _ = add(&old).ok();
        let _ = add(&old).ok();
        world.launch(name);
    }
    fresh
}

/// New nodes are admitted, and an operator names the lost ones.
fn restore(world: &mut World, lost: &[&str; 2]) -> Vec<String> {
    let fresh: Vec<String> = (0..2).map(|_| world.prepare_node("us")).collect();
    for name in &fresh {
        let _ = world.with_config(&["format"], name).ok();
        world.launch(name);
        let _ = world.with_config(&["node", "add"], name).ok();
    }
    let both = lost.map(|name| world.id_of(name).to_string()).join(",");
    let (first, left) = (world.id_of(lost[0]), world.id_of("us-3"));
    let restore = |lost: &str, more: &[&str]| {
        let mut line = vec!["region", "restore", "us", "--lost", lost];
        line.extend(more);
        world.cli(&line)
    };
    let _ = restore(&first.to_string(), &[]).failed_saying(&["is a majority"]);
    let _ = restore(&format!("{first},{left}"), &[]).failed_saying(&["it is not lost"]);
    let _ = restore("99", &[]).failed_saying(&["node 99 is not of region us"]);
    let dry = restore(&both, &["--dry-run"]).ok();
    let said = String::from_utf8_lossy(&dry.stdout);
    assert!(said.contains("incarnation 1 ends, 2 begins") && said.contains("RECOVERED"), "{said}");
    assert!(world.runs("us-3") && !world.is_ready(&fresh[0]), "a dry run changes nothing");

    let _ = restore(&both, &[]).ok();
    let _ = restore(&both, &[]);
    fresh
}

/// Waits until every replica of what the region writes has applied the same.
fn level(world: &World, runtime: &Runtime, region: &str) {
    let applied = |name: &String| {
        let options = ClientOptions { discover: false, ..ClientOptions::default() };
        let client = Client::connect(vec![world.endpoint(name).to_owned()], options).expect("an endpoint");
        let said = runtime.block_on(client.admin().list_shards()).expect("it runs");
        said.shards.into_iter().filter(move |shard| shard.members.contains(&said.node))
    };
    until("all replicas are level", WITHIN, || {
        let mut ends: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for shard in world.nodes_of(region).iter().flat_map(applied) {
            ends.entry(shard.number).or_default().push(shard.applied);
        }
        match ends.iter().find(|(_, ends)| ends.len() != 3 || ends.iter().any(|end| *end != ends[0])) {
            None => Ok(()),
            odd => Err(format!("{odd:?}")),
        }
    });
}

/// Five nodes with three replicas of each shard, and no other region: two nodes are lost, so that placement has its majority, and
/// some shards have not. What those had is at one node each, which is to be found.
#[test]
fn a_region_whose_shards_lost_their_majority_comes_back_with_what_the_last_replica_of_each_holds() {
    let runtime = runtime();
    let mut world = World::start_with(Setup { regions: &["us"], wan: "", settings: None }, 5);
    world.create_stream(STREAM, PARTITIONS);
    let rows = world.settled_shards("us");
    let publisher = runtime.block_on(publisher(&world));
    let publish = |from: usize| {
        runtime.block_on(async {
            let mut sent = Vec::new();
            for number in from..from + BEFORE {
                let event = Event::new(number.to_string()).with_key(format!("k{}", number % 64));
                sent.push(publisher.send(event).await.expect("the publisher goes on"));
            }
            let mut incarnations = Vec::new();
            for delivery in sent {
                let ack = delivery.await.expect("every event is acknowledged");
                incarnations.push(ack.lane.origin.incarnation.0);
            }
            incarnations
        })
    };
    assert!(publish(0).iter().all(|incarnation| *incarnation == 1));
    level(&world, &runtime, "us");

    let lost = [rows[0].members[0], rows[0].members[1]];
    let hurt = rows.iter().filter(|row| lost.iter().all(|node| row.members.contains(node))).count();
    let names = lost.map(|id| world.name_of(id));
    for name in &names {
        world.kill9(name);
    }
    for old in lost {
        let fresh = world.prepare_node("us");
        let _ = world.with_config(&["format"], &fresh).ok();
        let _ = world.with_config(&["node", "add", "--replaces", &old.to_string()], &fresh).ok();
        world.launch(&fresh);
    }
    let left = world.nodes_of("us").into_iter().find(|name| !names.contains(name)).expect("three are left");
    until("the region is restored", WITHIN, || match incarnation(&world, &runtime, &left) {
        Some(2) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let mut live = world.nodes_of("us");
    live.retain(|name| !names.contains(name));
    for name in &live {
        world.wait_ready(name);
    }
    assert!(publish(BEFORE).iter().all(|incarnation| *incarnation == 2));
    every_node_knows_the_latest(&world, &runtime, &live, 2 * BEFORE);
    let held = read(&world, "us");
    for number in 0..2 * BEFORE {
        assert_eq!(held.get(&number.to_string()), Some(&1), "{number}, of {} that are read", held.len());
    }
    say(&format!("restored: {hurt} of {} shards had lost their majority", rows.len()));
}

/// What the region writes as, as a node of it knows.
fn incarnation(world: &World, runtime: &Runtime, node: &str) -> Option<u32> {
    let options =
        ClientOptions { discover: false, retry_for: Duration::from_secs(1), ..ClientOptions::default() };
    let client = Client::connect(vec![world.endpoint(node).to_owned()], options).expect("an endpoint");
    let topology = runtime.block_on(client.admin().topology()).ok()?;
    topology.regions.first().map(|region| region.incarnation)
}

/// Whichever node is asked where the stream ends, it names all that is read of it, what was written under past incarnations too.
fn every_node_knows_the_latest(world: &World, runtime: &Runtime, nodes: &[String], events: usize) {
    for node in nodes {
        let options = ClientOptions { discover: false, retry_for: WITHIN, ..ClientOptions::default() };
        let client = Client::connect(vec![world.endpoint(node).to_owned()], options).expect("an endpoint");
        let latest =
            runtime.block_on(client.latest(STREAM)).unwrap_or_else(|error| panic!("{node}: {error}"));
        assert_eq!(latest.confirmed.incarnation.0, 2, "{node}");
        let ends: BTreeMap<_, _> = latest.cursor.lanes().collect();
        assert_eq!(ends.values().map(|next| next.0).sum::<u64>(), events as u64, "{node}: {ends:?}");
    }
}

fn lives_on(by: By) {
    let runtime = runtime();
    let setup = Setup { regions: &["us", "eu"], wan: "us-eu=10ms", settings: None };
    let mut world = World::start_with(setup, 3);
    world.create_stream(STREAM, PARTITIONS);
    for region in ["us", "eu"] {
        let _ = world.settled_shards(region);
    }
    let publisher = runtime.block_on(publisher(&world));
    let send = |from: usize, count: usize| {
        runtime.block_on(async {
            let mut sent = Vec::new();
            for number in from..from + count {
                let value = number.to_string();
                let event = Event::new(value.clone()).with_key(format!("k{}", number % 64));
                sent.push((value, publisher.send(event).await.expect("the publisher goes on")));
            }
            sent
        })
    };
    let settle = |sent: Vec<_>| {
        runtime.block_on(async {
            let mut acks = Vec::new();
            for (value, delivery) in sent {
                let delivery: meridian_sdk::Delivery = delivery;
                acks.push((value, delivery.await.expect("every event is acknowledged")));
            }
            acks
        })
    };
    let mut acks: Vec<(String, Ack)> = settle(send(0, BEFORE));
    until("the other region has them", WITHIN, || {
        let held = read(&world, "eu").len();
        if held == BEFORE { Ok(()) } else { Err(format!("{held}")) }
    });

    // Two of three are gone in the middle of it.
    let mut open = send(BEFORE, UNDER_WAY);
    world.kill9("us-1");
    world.kill9("us-2");
    open.extend(send(BEFORE + UNDER_WAY, MEANWHILE));

    let lost = ["us-1", "us-2"];
    let fresh = match by {
        By::Command => restore(&mut world, &lost),
        By::Replacements => replace(&mut world, &lost),
    };
    for name in fresh.iter().map(String::as_str).chain(["us-3"]) {
        world.wait_ready(name);
    }
    acks.extend(settle(open));
    acks.extend(settle(send(BEFORE + UNDER_WAY + MEANWHILE, BEFORE)));

    // A disk that was given up is refused, with what it holds.
    world.launch("us-1");
    until("it is told and ends", WITHIN, || {
        if world.has_ended("us-1") { Ok(()) } else { Err(world.log_tail("us-1")) }
    });
    assert!(world.log_tail("us-1").contains("was removed for ever"), "{}", world.log_tail("us-1"));

    let report = world.agree(STREAM, WITHIN);
    assert!(report.lanes.iter().all(|lane| lane.agree), "{report:#?}");
    let (old, new) = (acked(&acks, 1), acked(&acks, 2));
    let (eu, us) = (read(&world, "eu"), read(&world, "us"));
    assert_eq!(eu, us, "both regions give back the same");
    let live: Vec<String> = fresh.iter().cloned().chain(["us-3".to_owned()]).collect();
    every_node_knows_the_latest(&world, &runtime, &live, us.len());
    assert!(eu.values().all(|times| *times == 1), "stored twice: {eu:?}");
    for value in &new {
        assert!(eu.contains_key(*value), "{value} was acknowledged by the incarnation that lives");
    }
    for number in 0..BEFORE {
        assert!(eu.contains_key(&number.to_string()), "{number} was mirrored before");
    }
    assert!(new.len() >= BEFORE && old.len() >= BEFORE, "{} of the old, {} of the new", old.len(), new.len());
    let gone = old.iter().filter(|value| !eu.contains_key(**value)).count();
    say(&format!(
        "restored: {} events acknowledged before, {} after; {gone} were acknowledged, reached nobody else and went with the disks",
        old.len(),
        new.len()
    ));
    // Only what was under way when two disks went.
    assert!(gone <= UNDER_WAY);
}
