//! Whose folder it is: nodes that must not start, or not serve, each with what it says; and nothing that was stored is
//! lost by the attempt.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use meridian_chaos::{Background, Setup, World, get, meridian, until};

const STREAM: &str = "kept";
const WITHIN: Duration = Duration::from_secs(30);
const BLOCK: usize = 4096;

fn world() -> World {
    let world = World::start(Setup::default());
    world.create_stream(STREAM, 4);
    for region in world.regions() {
        let lines: Vec<String> = (0..200).map(|number| format!(r#"{{"{region}":{number}}}"#)).collect();
        world.publish(&region, STREAM, &lines, &[]);
    }
    assert_eq!(world.agree(STREAM, WITHIN).events, 600);
    world
}

fn says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "it should say {part:?}:\n{said}");
    }
}

/// Every file of a folder, but for locks and logs.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all.extend(content(&path));
        } else if !path.ends_with("node.lock") && !path.ends_with("log") {
            let bytes = std::fs::read(&path).expect("a file");
            all.insert(path, bytes);
        }
    }
    all
}

/// The disk is gone, `node.toml` is not.
fn wipe(world: &World, region: &str) {
    for part in ["volume", "index", "catalog", "placement"] {
        std::fs::remove_dir_all(world.node_folder(region).join(part)).expect("a node has these folders");
    }
}

/// What a node with settings or a folder that are not right says before it is anything.
#[test]
fn a_wrong_setting_or_folder_is_refused_and_written_to_by_nobody() {
    let mut world = world();
    world.terminate("us");
    world.terminate("eu");
    let before = (content(world.node_folder("us")), content(world.node_folder("eu")));

    let others = world.other_config("us", "others.toml", |table| {
        table["node"]["data"] = "../eu-1".into();
    });
    says(&world.refused(&others), &["of node 2, not of node 1"]);

    let unknown = world.other_config("us", "unknown.toml", |table| {
        table["node"].as_table_mut().expect("a section").insert("colour".to_owned(), "red".into());
    });
    says(&world.refused(&unknown), &["colour", "unknown.toml"]);

    let port = world.endpoint("us").rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let taken = TcpListener::bind(("127.0.0.1", port)).expect("the node is down");
    says(&world.refused(&world.config("us")), &["client listener", &port.to_string(), "in use"]);
    drop(taken);

    let meta = world.node_folder("us").join("volume/volume.meta");
    let ours = std::fs::read(&meta).expect("the volume has an identity");
    let mut newer = ours.clone();
    for block in newer.chunks_exact_mut(BLOCK) {
        block[8..12].copy_from_slice(&2u32.to_le_bytes());
        let crc = crc32c::crc32c(&block[..BLOCK - 4]);
        block[BLOCK - 4..].copy_from_slice(&crc.to_le_bytes());
    }
    std::fs::write(&meta, &newer).expect("it can be written");
    says(&world.refused(&world.config("us")), &["on-disk format 2", "upgrade"]);
    assert_eq!(std::fs::read(&meta).expect("it is there"), newer, "not written to");
    std::fs::write(&meta, &ours).expect("it can be written");

    for file in [others, unknown] {
        std::fs::remove_file(file).expect("it was written above");
    }
    assert!(content(world.node_folder("eu")) == before.1, "the other node's folder was written to");
    assert!(
        content(&world.node_folder("us").join("volume"))
            .into_iter()
            .eq(before.0.into_iter().filter(|(path, _)| path.to_string_lossy().contains("/volume/"))),
        "the volume was written to"
    );
    let other_world = world.other_config("us", "other-world.toml", |table| {
        table["cluster"]["regions"][1]["shards"] = 4.into();
    });
    says(&world.refused(&other_world), &["cluster.regions differs", "with 4 shards", "with 16 shards"]);
    std::fs::remove_file(other_world).expect("it was written above");
    world.start_again("us");
    let running = world.refused(&world.config("us"));
    says(&running, &["in use by process"]);
    world.start_again("eu");
    assert_eq!(world.agree(STREAM, WITHIN).events, 600);
}

/// A lost disk under a known id: a new history must not begin under the old name, whoever can be asked.
#[test]
fn an_empty_folder_under_a_known_id_is_refused_with_the_wan_up_and_with_it_cut() {
    let mut world = world();
    world.kill9("us");
    wipe(&world, "us");
    says(&world.refused(&world.config("us")), &["this folder is empty", "another node", "new id"]);

    // Formatted by hand, against the advice: the others know that node by its old disk.
    let mut format = std::process::Command::new(meridian());
    format.arg("format").arg("--config").arg(world.config("us"));
    let _ = Background::start(format).finish(WITHIN).ok();
    says(&world.refused(&world.config("us")), &["PEER_REFUSED", "another node", "new id"]);

    // With nobody to ask it waits, and serves nothing.
    world.kill9("eu");
    world.kill9("ap");
    world.launch("us");
    let long_enough = Instant::now() + Duration::from_secs(6);
    while Instant::now() < long_enough {
        assert!(!world.is_ready("us"), "it serves alone:\n{}", world.log_tail("us"));
        std::thread::sleep(Duration::from_millis(100));
    }
    until("it waits, it has not ended", WITHIN, || match get(world.admin("us"), "/healthz") {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{error}:\n{}", world.log_tail("us"))),
    });
    for command in [
        &["stream", "create", "second-history", "--region", "us", "--timeout", "2s"][..],
        &["stream", "get", STREAM, "--region", "us", "--timeout", "2s"],
        &["consume", STREAM, "--region", "us", "--until-caught-up", "--timeout", "2s"],
    ] {
        let begun = Instant::now();
        let ended = world.cli(command);
        assert!(begun.elapsed() < Duration::from_secs(30), "{command:?} took {:?}", begun.elapsed());
        assert_eq!(ended.code, Some(4), "nobody answers {command:?}: {}", ended.stderr);
    }
    // As soon as one is there it is told, and ends.
    world.start_again("eu");
    world.wait_gone("us");
    says(&world.log_tail("us"), &["another node", "new id"]);

    // The others hold all that had been mirrored; the lost region is only unreachable.
    world.start_again("ap");
    let (code, report) = world.verify(STREAM);
    assert_eq!((code, report.events), (Some(1), 600), "{report:#?}");
    for lane in &report.lanes {
        for copy in &lane.copies {
            let wanted = if copy.region == "us" { "unreachable" } else { "ok" };
            assert_eq!(copy.status, wanted, "{lane:?}");
        }
    }
}

/// The same, never formatted again, with nobody to ask.
#[test]
fn an_empty_folder_alone_is_refused_too() {
    let mut world = world();
    for region in world.regions() {
        world.terminate(&region);
    }
    wipe(&world, "ap");
    says(&world.refused(&world.config("ap")), &["this folder is empty", "another node", "new id"]);
    assert!(!world.node_folder("ap").join("volume").exists(), "a refusal writes nothing");
    for region in ["us", "eu"] {
        world.start_again(region);
    }
    for region in ["us", "eu"] {
        let mut read = 0;
        meridian_chaos::consume(&world, region, STREAM, WITHIN, |_| read += 1);
        assert_eq!(read, 600, "{region} still has everything");
    }
}
