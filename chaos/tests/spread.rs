//! Regions with more nodes than replicas: what no node of a region holds whole reaches the others all the same, from the
//! nodes that hold it, without a link that turns from node to node; also while nodes die.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_chaos::{Acked, Load, Setup, World, get, numbers, say, until};
use meridian_sdk::{Client, ClientOptions};
use meridian_types::Lane;
use tokio::runtime::Runtime;

const STREAM: &str = "spread";
const PARTITIONS: u32 = 12;
const RATE: u32 = 300;
const WITHIN: Duration = Duration::from_secs(120);
/// Events of each region before a node dies.
const SOME: usize = 2_000;

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().expect("a runtime")
}

/// What a node's links show, all together.
fn links(world: &World, node: &str, name: &str) -> u64 {
    let (_, text) = get(world.admin(node), "/metrics").expect("the node runs");
    let name = format!("meridian_link_{name}{{");
    let values = text.lines().filter(|line| line.starts_with(&name));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// How often a node's links were lost, by its log, and how often given up for want of progress.
fn turns(world: &World, node: &str) -> (usize, u64) {
    let log = std::fs::read_to_string(world.node_folder(node).join("log")).expect("a node has a log");
    (log.matches("the link is lost").count(), links(world, node, "stalls"))
}

/// What the nodes of a region have on their disks of each lane: the longest, with its digest. No node has all of it, so each
/// is asked for its own.
fn held(runtime: &Runtime, world: &World, region: &str) -> BTreeMap<Lane, (u64, [u8; 32])> {
    let mut longest: BTreeMap<Lane, (u64, [u8; 32])> = BTreeMap::new();
    for node in world.nodes_of(region) {
        let client = {
            let _inside = runtime.enter();
            let options = ClientOptions { discover: false, ..ClientOptions::default() };
            Client::connect(vec![world.endpoint(&node).to_owned()], options).expect("an endpoint")
        };
        for lane in runtime.block_on(client.admin().list_lanes(STREAM)).expect("the node lives") {
            if longest.get(&lane.lane).is_some_and(|(end, _)| *end >= lane.end.0) {
                continue;
            }
            let digest = runtime.block_on(client.admin().digest(STREAM, lane.lane, lane.start, lane.end));
            let digest = digest.expect("it can be read");
            assert_eq!(digest.damaged, None, "{node}, {}", lane.lane);
            longest.insert(lane.lane, (lane.end.0, digest.blake3));
        }
    }
    longest
}

/// Waits until both regions have the same, which is everything that was acknowledged.
fn arrives(runtime: &Runtime, world: &World, acked: u64) {
    until("everything is in both regions", WITHIN, || {
        let (us, eu) = (held(runtime, world, "us"), held(runtime, world, "eu"));
        let events =
            |lanes: &BTreeMap<Lane, (u64, [u8; 32])>| lanes.values().map(|(end, _)| end).sum::<u64>();
        if events(&us) == acked && events(&eu) == acked {
            assert!(us == eu, "the same bytes: {us:?}, {eu:?}");
            return Ok(());
        }
        Err(format!("us has {}, eu {} of {acked}", events(&us), events(&eu)))
    });
}

#[test]
fn what_no_node_holds_whole_reaches_the_others_without_a_turn() {
    let runtime = runtime();
    let setup = Setup { regions: &["us", "eu"], wan: "us-eu=10ms", settings: None };
    let mut world = World::start_with(setup, 4);
    world.create_stream(STREAM, PARTITIONS);
    // Four nodes and one replica of each shard here, three of them there.
    world.set_replication("us", 1);
    world.set_replication("eu", 3);
    let leaders: std::collections::BTreeSet<u32> =
        world.settled_shards("us").iter().filter_map(|row| row.leader).collect();
    assert!(leaders.len() > 1, "the shards are spread: {leaders:?}");
    let nodes: Vec<String> = world.names();
    until("every link has its legs and has caught up", WITHIN, || {
        match nodes.iter().find(|node| links(&world, node, "live") != 1) {
            Some(node) => Err(format!("{node}'s link is not live")),
            None => Ok(()),
        }
    });
    let legs: u64 = nodes.iter().map(|node| links(&world, node, "legs")).sum();
    assert!(legs > 0, "no node of us has everything");
    let before: Vec<_> = nodes.iter().map(|node| turns(&world, node)).collect();

    let load =
        |world: &World, region| Load::start(&runtime, world, region, STREAM, RATE, numbers().take(SOME));
    let loads = ["us", "eu"].map(|region| load(&world, region));
    let acked: Vec<Acked> = loads.into_iter().flat_map(|load| load.finish_all(&runtime)).collect();
    arrives(&runtime, &world, acked.len() as u64);
    let after: Vec<_> = nodes.iter().map(|node| turns(&world, node)).collect();
    assert_eq!(before, after, "(lost, stalls) of the links of {nodes:?}: nobody turned to another node");

    // A node that has what no other has dies under load, and comes back.
    let victim = world.name_of(*leaders.last().expect("there are some"));
    let mut loads = ["us", "eu"].map(|region| Load::start(&runtime, &world, region, STREAM, RATE, numbers()));
    for load in &mut loads {
        load.next_answer(&runtime);
    }
    world.kill9(&victim);
    loads[1].next_answer(&runtime);
    world.start_again(&victim);
    for load in &mut loads {
        load.next_answer(&runtime);
    }
    let more: usize = loads.into_iter().map(|load| load.finish(&runtime).len()).sum();
    arrives(&runtime, &world, (acked.len() + more) as u64);
    say(&format!(
        "spread: {} events in both regions over {legs} legs, {more} of them around a kill",
        acked.len() + more
    ));
}
