//! The catalog's Raft group is not on the way of any event: with it stopped in two of three nodes, publishing, reading
//! and mirroring go on, and a node that dies comes back. What needs the catalog is refused, with a reason.

use std::time::Duration;

use meridian_chaos::{Setup, World, consume, post, until};

const STREAM: &str = "on-the-way";
const WITHIN: Duration = Duration::from_secs(30);

fn test_switch(table: &mut toml::Table) {
    let raft = table.entry("raft").or_insert_with(|| toml::Table::new().into());
    let raft = raft.as_table_mut().expect("a section");
    raft.insert("test_switch".to_owned(), true.into());
}

fn lines(round: &str, region: &str) -> Vec<String> {
    (0..500).map(|number| format!(r#"{{"round":"{round}","region":"{region}","number":{number}}}"#)).collect()
}

/// Publishes in every region, and reads everything in every region.
fn everything_goes_on(world: &World, round: &str, events: u64) {
    for region in world.regions() {
        world.publish(&region, STREAM, &lines(round, &region), &[]);
    }
    assert_eq!(world.agree(STREAM, WITHIN).events, events, "after {round}");
    for region in world.regions() {
        let mut read = 0;
        consume(world, &region, STREAM, WITHIN, |_| read += 1);
        assert_eq!(read, events, "{region} after {round}");
    }
}

fn raft(world: &World, region: &str, what: &str) {
    let (status, said) = post(world.admin(region), what).expect("the admin listener answers");
    assert_eq!(status, 200, "{what} in {region}: {said}");
}

#[test]
fn without_raft_in_two_of_three_everything_but_the_catalog_goes_on() {
    let mut world = World::start(Setup { settings: Some(test_switch), ..Setup::default() });
    world.create_stream(STREAM, 4);
    everything_goes_on(&world, "before", 1500);

    for region in ["us", "eu"] {
        raft(&world, region, "/raft/stop");
    }
    everything_goes_on(&world, "stopped", 3000);
    world.kill9("ap");
    everything_goes_on_without(&world, "ap");
    world.start_again("ap");
    everything_goes_on(&world, "restarted", 5500);

    for region in world.regions() {
        let create = ["stream", "create", "not-now", "--region", &region, "--timeout", "15s"];
        let _ = world.cli(&create).failed_saying(&["CATALOG_UNAVAILABLE"]);
    }

    let disk = "00000000-0000-4000-8000-000000000009";
    let mut add = vec!["node", "add", "9", "--region", "us", "--disk", disk, "--timeout", "4s"];
    add.extend(["--peer", "http://127.0.0.1:1", "--client", "http://127.0.0.1:2"]);
    let _ = world.cli(&add).failed_saying(&["CATALOG_UNAVAILABLE"]);

    for region in ["us", "eu"] {
        raft(&world, region, "/raft/start");
    }
    until("the catalog takes commands again", WITHIN, || {
        let ended = world.cli(&["stream", "create", "again", "--timeout", "5s"]);
        if ended.code == Some(0) { Ok(()) } else { Err(ended.stderr) }
    });
    everything_goes_on(&world, "started", 7000);
}

/// 1,000 more events, from the two that are left; they are held against each other once the third is back.
fn everything_goes_on_without(world: &World, gone: &str) {
    for region in world.regions().iter().filter(|region| *region != gone) {
        world.publish(region, STREAM, &lines("without", region), &[]);
    }
    for region in world.regions().iter().filter(|region| *region != gone) {
        until(&format!("{region} reads both"), WITHIN, || {
            let mut read = 0;
            consume(world, region, STREAM, WITHIN, |_| read += 1);
            if read == 4000 { Ok(()) } else { Err(format!("{read} events")) }
        });
    }
}
