//! Nodes that are added to a running cluster, take replicas, move, and replace others that are gone for good, while events
//! flow: nobody who publishes sees an error, and every event is there once.

use std::time::Duration;

use meridian_chaos::{
    Load, NodeRow, Setup, ShardRow, World, holds_exactly, longest_silence, numbers, say, until,
};
use tokio::runtime::Runtime;

const STREAM: &str = "node-life";
const PARTITIONS: u32 = 4;
const RATE: u32 = 300;
const WITHIN: Duration = Duration::from_secs(120);

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().expect("a runtime")
}

fn one_region() -> Setup<'static> {
    Setup { regions: &["us"], wan: "", settings: None }
}

fn listed(world: &World, node: u32) -> Option<NodeRow> {
    world.nodes_listed("us").into_iter().find(|row| row.node == node)
}

/// Formats, starts and admits a node, in that order, and waits until it takes part.
fn add(world: &mut World, name: &str, more: &[&str]) {
    let _ = world.with_config(&["format"], name).ok();
    world.launch(name);
    until(&format!("{name} says what it waits for"), WITHIN, || {
        let said = world.log_tail(name);
        if said.contains("meridian node add --config") { Ok(()) } else { Err(said) }
    });
    let id = world.id_of(name);
    assert!(!world.is_ready(name) && listed(world, id).is_none(), "nobody has admitted it");
    let line = [&["node", "add"], more].concat();
    let _ = world.with_config(&line, name).ok();
    let again = world.with_config(&line, name).ok();
    assert!(again.stderr.contains("was known"), "{again:?}");
    world.wait_ready(name);
    until(&format!("{name} takes part"), WITHIN, || {
        let row = listed(world, id);
        let joined = row.as_ref().is_some_and(|row| row.joined == Some(true) && row.live == Some(true));
        if joined { Ok(()) } else { Err(format!("{row:?}")) }
    });
}

/// Drains a node, dead or alive, and removes it.
fn take_out(world: &World, name: &str) {
    let node = world.id_of(name);
    let id = node.to_string();
    let _ = world.cli(&["node", "drain", &id]).ok();
    until(&format!("{name} is empty"), WITHIN, || {
        // While members change, the old ones count as well.
        let uses = |row: &ShardRow| row.changing || row.uses(node);
        let used: Vec<ShardRow> = world.shards("us").into_iter().filter(uses).collect();
        if used.is_empty() { Ok(()) } else { Err(format!("{used:?}")) }
    });
    for _ in 0..2 {
        let _ = world.cli(&["node", "remove", &id, "--region", "us"]).ok();
    }
    assert_eq!(listed(world, node), None, "it is no node of the cluster any more");
}

#[test]
fn nodes_are_added_under_load_and_replace_those_that_are_gone_for_good() {
    let runtime = runtime();
    let mut world = World::start_with(one_region(), 3);
    world.create_stream(STREAM, PARTITIONS);
    let mut load = Load::start(&runtime, &world, "us", STREAM, RATE, numbers());
    load.next_answer(&runtime);

    // A fourth comes, and replicas are moved to it.
    let fourth = world.prepare_node("us");
    add(&mut world, &fourth, &[]);
    let to = world.id_of(&fourth);
    let first = world.id_of("us-1");
    let moved: Vec<String> = world.settled_shards("us").iter().take(3).map(ShardRow::name).collect();
    for shard in &moved {
        let (from, to) = (first.to_string(), to.to_string());
        let _ = world.cli(&["shard", "move", "--shard", shard, "--from", &from, "--to", &to]).ok();
    }
    until("the replicas are moved", WITHIN, || {
        let rows = world.shards("us");
        let rows: Vec<_> = rows.into_iter().filter(|row| moved.contains(&row.name())).collect();
        let done = rows.iter().all(|row| row.members.contains(&to) && !row.uses(first) && !row.changing);
        if done { Ok(()) } else { Err(format!("{rows:?}")) }
    });
    load.next_answer(&runtime);

    // It takes the first one's place, for good.
    take_out(&world, "us-1");
    world.kill9("us-1");
    load.next_answer(&runtime);
    world.launch("us-1");
    until("it is told and ends", WITHIN, || {
        if world.has_ended("us-1") { Ok(()) } else { Err(world.log_tail("us-1")) }
    });
    let said = world.log_tail("us-1");
    assert!(said.contains("was removed for ever"), "{said}");
    load.next_answer(&runtime);

    // It moves to other addresses, and is followed there.
    world.terminate(&fourth);
    world.move_node(&fourth);
    let _ = world.with_config(&["node", "add"], &fourth).ok();
    world.start_again(&fourth);
    let endpoint = world.endpoint(&fourth).to_owned();
    until("it is heard at its new address", WITHIN, || {
        let row = listed(&world, to);
        let there = row.as_ref().is_some_and(|row| row.live == Some(true) && row.endpoint == endpoint);
        if there { Ok(()) } else { Err(format!("{row:?}")) }
    });
    let _ = world.settled_shards("us");
    load.next_answer(&runtime);

    // The second dies and stays dead; a fifth replaces it.
    world.kill9("us-2");
    load.next_answer(&runtime);
    let fifth = world.prepare_node("us");
    let dead = world.id_of("us-2");
    add(&mut world, &fifth, &["--replaces", &dead.to_string()]);
    until("the dead one is out of the cluster by itself", WITHIN, || {
        let row = listed(&world, dead);
        if row.is_none() { Ok(()) } else { Err(format!("{row:?} {:?}", world.shards("us"))) }
    });
    // Answered once no Raft group counts on it: before that another one must not fail.
    let _ = world.cli(&["node", "remove", &dead.to_string(), "--region", "us"]).ok();
    load.next_answer(&runtime);

    // Three are left, of which any may fail.
    let left = ["us-3", &fourth, &fifth].map(|name| world.id_of(name));
    for row in world.settled_shards("us") {
        assert_eq!(row.members, left, "{row:?}");
    }
    world.kill9(&fourth);
    let resumed = load.next_answer(&runtime);
    let _ = world.cli(&["stream", "create", "with-two-of-three", "--timeout", "60s"]).ok();
    world.start_again(&fourth);
    let _ = world.settled_shards("us");
    let acked = load.finish(&runtime);
    holds_exactly(&world, "us", STREAM, &acked);
    say(&format!(
        "node_life: two nodes of three replaced beside {} events, silent for at most {:.2?}, {resumed:.2?} after the last kill",
        acked.len(),
        longest_silence(&acked)
    ));
}

/// Everything that is refused is refused with its reason, and changes nothing.
#[test]
fn what_cannot_be_added_is_refused() {
    let mut world = World::start_with(one_region(), 3);
    let _ = world.settled_shards("us");
    let fourth = world.prepare_node("us");
    let unformatted = world.with_config(&["node", "add"], &fourth);
    let _ = unformatted.failed_saying(&["this folder is empty", "meridian format"]);

    let before = world.nodes_listed("us");
    let disk = "00000000-0000-4000-8000-0000000000d4";
    let peer = "http://127.0.0.1:1";
    let client = "http://127.0.0.1:2";
    let known = world.endpoint("us-1").to_owned();
    let add = |id: &str, region: &str, disk: &str, peer: &str, client: &str| {
        let fixed =
            ["node", "add", id, "--region", region, "--disk", disk, "--peer", peer, "--client", client];
        world.cli(&fixed)
    };
    for (id, region, disk, peer, client, why) in [
        ("1", "us", disk, peer, client, &["node 1 is known by disk", "give it a new id"][..]),
        ("0", "us", disk, peer, client, &["a node's id is 1 to 32767"]),
        ("40000", "us", disk, peer, client, &["a node's id is 1 to 32767"]),
        ("4", "sa", disk, peer, client, &["there is no region \"sa\"", "us"]),
        ("4", "us", "nonsense", peer, client, &["disk_uuid"]),
        ("4", "us", disk, "http://127.0.0.1", client, &["the peer address", "has no port"]),
        ("4", "us", disk, peer, "https://127.0.0.1:2", &["the client address", "TLS"]),
        ("4", "us", disk, peer, &known, &["is the address of node 1"]),
        ("4", "us", disk, peer, peer, &["its own port"]),
    ] {
        let _ = add(id, region, disk, peer, client).failed_saying(why);
        assert_eq!(world.nodes_listed("us"), before, "{id} {region} {disk} {peer} {client}");
    }
    let _ = world.cli(&["node", "add", "4", "--region", "us"]).failed_saying(&["--disk"]);

    // A folder of another cluster.
    let ours = std::fs::read_to_string(world.config(&fourth)).expect("it was written");
    world.edit_config(&fourth, |table| {
        table["cluster"]["uuid"] = "00000000-0000-4000-8000-00000000000c".into();
    });
    let _ = world.with_config(&["format"], &fourth).ok();
    let _ =
        world.with_config(&["node", "add"], &fourth).failed_saying(&["is for cluster", "this is cluster"]);
    assert_eq!(world.nodes_listed("us"), before);
    std::fs::write(world.config(&fourth), ours).expect("it can be written");
    let _ = world.with_config(&["node", "add"], &fourth).failed_saying(&["of cluster"]);

    // One that never comes holds nobody up: it is no part of its region, and can be taken back.
    let _ = add("4", "us", disk, peer, client).ok();
    let row = listed(&world, 4).expect("it is listed");
    assert_eq!((row.joined, row.live), (Some(false), Some(false)), "{row:?}");
    let other = "00000000-0000-4000-8000-0000000000d5";
    let _ = add("5", "us", disk, "http://127.0.0.1:3", "http://127.0.0.1:4")
        .failed_saying(&["is that of node 4"]);
    let _ = add("4", "us", other, peer, client).failed_saying(&["node 4 is known by disk"]);
    let _ = world.cli(&["node", "remove", "4", "--region", "us"]).ok();
    assert_eq!(world.nodes_listed("us"), before);
    let _ = add("4", "us", other, peer, client).failed_saying(&["node 4 was removed for ever"]);
    let _ =
        add("5", "us", disk, peer, client).failed_saying(&["was removed for ever", "format an empty folder"]);
    assert_eq!(world.nodes_listed("us"), before);
}
