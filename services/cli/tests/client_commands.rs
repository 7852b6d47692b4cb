//! The binary's client commands against a fake region: what is printed where, and how it exits.

#[path = "../../sdk/rust/tests/support/mod.rs"]
mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use support::{FakeServer, Faults};
use tempfile::TempDir;

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

/// Runs against a server.
fn at(server: &FakeServer, args: &[&str]) -> Output {
    let endpoint = server.endpoint();
    run(&[args, &["--endpoint", endpoint.as_str()]].concat())
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", err(output)))
}

fn file(folder: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn lines(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{{\"n\":{n},  \"plane\":\"N{}\"}}", n % 13)).collect()
}

fn stored(server: &FakeServer, partitions: u32) -> usize {
    let store = server.store.lock();
    (0..partitions).map(|partition| store.read("s", partition).len()).sum()
}

fn wait_until(what: &str, so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A command under way; killed if the test fails before its end.
struct Running(Option<Child>);

impl Running {
    fn start(mut command: Command) -> Self {
        Self(Some(command.spawn().unwrap()))
    }

    fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    fn interrupt(&mut self) {
        // The shell's own: not every machine has a program of that name.
        let pid = self.child().id().to_string();
        assert!(Command::new("sh").args(["-c", "kill -INT \"$0\"", &pid]).status().unwrap().success());
    }

    fn end(mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn what_is_published_is_consumed_byte_for_byte() {
    let server = FakeServer::start(1, 3);
    let folder = TempDir::new().unwrap();
    let lines = lines(5000);
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    gz.write_all(lines.join("\n").as_bytes()).unwrap();
    let path = file(&folder, "events.ndjson.gz", gz.finish().unwrap());

    let published = at(&server, &["publish", "s", "--file", text(&path), "--key-field", "plane", "--json"]);
    assert_eq!(code(&published), 0, "{}", err(&published));
    let summary = json(&published);
    assert_eq!(summary["events"], 5000);
    assert_eq!(summary["through_line"], 5000);
    assert!(summary["ack_ms"]["p99"].as_f64().unwrap() >= summary["ack_ms"]["p50"].as_f64().unwrap());

    let plain = at(&server, &["consume", "s", "--until-caught-up"]);
    assert_eq!(code(&plain), 0, "{}", err(&plain));
    let (mut got, mut sent) = (out(&plain).lines().map(str::to_owned).collect::<Vec<_>>(), lines);
    got.sort();
    sent.sort();
    assert_eq!(got, sent);

    let latest = at(&server, &["consume", "s", "--until-latest"]);
    assert_eq!(code(&latest), 0, "{}", err(&latest));
    let mut up_to_latest: Vec<String> = out(&latest).lines().map(str::to_owned).collect();
    up_to_latest.sort();
    assert_eq!(up_to_latest, got, "all that was acknowledged");
    let at_the_end = at(&server, &["consume", "s", "--until-latest", "--from", "end"]);
    assert_eq!((code(&at_the_end), out(&at_the_end)), (0, String::new()), "{}", err(&at_the_end));

    let rows = at(&server, &["consume", "s", "--until-caught-up", "--with-metadata"]);
    let mut offsets = [0u64; 3];
    for row in out(&rows).lines() {
        let row: Value = serde_json::from_str(row).unwrap();
        let partition = row["partition"].as_u64().unwrap() as usize;
        assert_eq!(row["offset"], offsets[partition], "each lane in order");
        offsets[partition] += 1;
        assert_eq!(row["origin"], "us");
        let value: Value = serde_json::from_str(row["value"].as_str().unwrap()).unwrap();
        assert_eq!(row["key"], value["plane"]);
    }
    assert_eq!(offsets.iter().sum::<u64>(), 5000);
}

#[test]
fn a_broken_line_is_named_and_what_came_before_it_is_published() {
    let server = FakeServer::start(2, 2);
    let folder = TempDir::new().unwrap();
    let path = file(&folder, "f.ndjson", "{\"a\":1}\n\n{\"a\":2}\n{\"a\":\n{\"a\":4}\n");
    let output = at(&server, &["publish", "s", "--file", text(&path)]);
    assert_eq!(code(&output), 2);
    assert!(err(&output).contains("line 4: not JSON"), "{}", err(&output));
    assert!(err(&output).contains("2 events acknowledged, every one up to line 3"), "{}", err(&output));
    assert_eq!(stored(&server, 2), 2);

    let large = format!("1\n\"{}\"\n", "x".repeat(1 << 20));
    let path = file(&folder, "large.ndjson", large);
    let output = at(&server, &["publish", "s", "--file", text(&path)]);
    assert_eq!(code(&output), 2);
    assert!(err(&output).contains("line 2: an event of more than 1048576 bytes"), "{}", err(&output));

    let path = file(&folder, "key.ndjson", "{\"k\":1}\n{\"k\":[]}\n");
    let output = at(&server, &["publish", "s", "--file", text(&path), "--key-field", "k"]);
    assert_eq!(code(&output), 2);
    assert!(err(&output).contains("line 2: field \"k\" is no key"), "{}", err(&output));
    assert_eq!(stored(&server, 2), 4);
}

#[test]
fn ctrl_c_says_what_was_acknowledged() {
    let server = FakeServer::start(3, 1);
    let endpoint = server.endpoint();
    let mut publish = command(&["publish", "s", "--file", "-", "--endpoint", &endpoint]);
    publish.stdin(Stdio::piped());
    let mut publishing = Running::start(publish);
    let mut stdin = publishing.child().stdin.take().unwrap();
    stdin.write_all(b"1\n2\n3\n").unwrap();
    wait_until("three lines are stored while stdin is open", || stored(&server, 1) == 3);
    server.faults(Faults { mute: true, ..Faults::default() });
    stdin.write_all(b"4\n").unwrap();
    wait_until("the fourth line is sent", || server.store.lock().unanswered > 0);
    publishing.interrupt();
    let output = publishing.end();
    assert_eq!(code(&output), 130, "{}", err(&output));
    let said = "interrupted; 3 events acknowledged, every one up to line 3; \
                1 event sent without an answer, which may be stored";
    assert!(err(&output).contains(said), "{}", err(&output));
}

#[test]
fn publishing_goes_on_over_a_nodes_death() {
    let mut server = FakeServer::start(4, 2);
    let folder = TempDir::new().unwrap();
    let path = file(&folder, "f.ndjson", lines(3000).join("\n"));
    let endpoint = server.endpoint();
    let args = ["publish", "s", "--file", text(&path), "--rate", "2000", "--key-field", "plane"];
    let publishing = Running::start(command(&[&args[..], &["--endpoint", &endpoint]].concat()));
    for part in 1..3 {
        wait_until("it publishes", || stored(&server, 2) > part * 800);
        server.kill();
        std::thread::sleep(Duration::from_millis(200));
        server.restart();
    }
    let output = publishing.end();
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert!(err(&output).contains("published 3,000 events"), "{}", err(&output));
    assert_eq!(stored(&server, 2), 3000);
}

#[test]
fn time_without_progress_is_an_exit_code() {
    let mut server = FakeServer::start(5, 1);
    let folder = TempDir::new().unwrap();
    let path = file(&folder, "f.ndjson", "1\n2\n");
    server.faults(Faults { mute: true, ..Faults::default() });
    // Long enough for a slow machine to connect and send in.
    let output = at(&server, &["publish", "s", "--file", text(&path), "--timeout", "5s"]);
    assert_eq!(code(&output), 4, "{}", err(&output));
    assert!(err(&output).contains("no acknowledgement for "), "{}", err(&output));
    assert!(err(&output).contains("0 events acknowledged; 2 events sent"), "{}", err(&output));
    server.kill();
    for args in [
        &["publish", "s", "--file", text(&path), "--timeout", "500ms"][..],
        &["consume", "s", "--timeout", "500ms"],
    ] {
        let output = at(&server, args);
        assert_eq!(code(&output), 4, "{}", err(&output));
        assert!(err(&output).contains(&server.endpoint()), "{}", err(&output));
    }
}

#[test]
fn a_key_field_that_no_line_has_is_told() {
    let server = FakeServer::start(12, 1);
    let folder = TempDir::new().unwrap();
    let path = file(&folder, "f.ndjson", "{\"a\":1}\n{\"b\":2}\n[3]\n");
    let output = at(&server, &["publish", "s", "--file", text(&path), "--key-field", "a"]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert!(err(&output).contains("2 events had no field \"a\""), "{}", err(&output));
    let output = at(&server, &["publish", "s", "--file", text(&path)]);
    assert!(!err(&output).contains("no field"), "{}", err(&output));
    let nobody = run(&["publish", "s", "--file", text(&path)]);
    assert_eq!(code(&nobody), 2);
    assert!(err(&nobody).contains("--cluster") && err(&nobody).contains("--endpoint"), "{}", err(&nobody));
}

#[test]
fn the_servers_no_and_bad_usage_are_told_apart() {
    let server = FakeServer::start(6, 1);
    let folder = TempDir::new().unwrap();
    let path = file(&folder, "f.ndjson", "1\n");
    for args in [
        &["publish", "nope", "--file", text(&path)][..],
        &["consume", "nope"],
        &["verify", "nope"],
        &["stream", "get", "nope"],
        &["stream", "delete", "nope"],
    ] {
        let output = at(&server, args);
        assert_eq!(code(&output), 3, "{args:?}: {}", err(&output));
        assert!(err(&output).contains("STREAM_NOT_FOUND"), "{args:?}: {}", err(&output));
        assert!(out(&output).is_empty(), "{args:?}");
    }
    let missing = folder.path().join("missing");
    for args in [
        &["publish", "s", "--file", text(&missing)][..],
        &["publish", "s", "--file", text(folder.path())],
        &["publish", "a/b", "--file", text(&path)],
        &["publish", "s", "--file", text(&path), "--codec", "brotli"],
        &["publish", "s", "--file", text(&path), "--batch-bytes", "9MiB"],
        &["consume", "s", "--from", "yesterday"],
        &["consume", "s", "--timeout", "5"],
        &["stream", "create", "-"],
        &["fly"],
    ] {
        let output = at(&server, args);
        assert_eq!(code(&output), 2, "{args:?}: {}", err(&output));
        assert!(!err(&output).is_empty(), "{args:?}");
    }
    let nowhere = run(&["consume", "s"]);
    assert_eq!(code(&nowhere), 2);
    assert!(err(&nowhere).contains("--cluster"), "{}", err(&nowhere));
    let help = run(&["--help"]);
    assert_eq!(code(&help), 0);
    assert!(out(&help).contains("130  ended by Ctrl-C"), "{}", out(&help));
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let server = FakeServer::start(7, 1);
    let folder = TempDir::new().unwrap();
    let path = file(&folder, "f.ndjson", lines(50_000).join("\n"));
    assert_eq!(code(&at(&server, &["publish", "s", "--file", text(&path)])), 0);
    let mut consuming = Running::start(command(&["consume", "s", "--endpoint", &server.endpoint()]));
    let mut first = String::new();
    let stdout = consuming.child().stdout.take().unwrap();
    BufReader::with_capacity(64, stdout).read_line(&mut first).unwrap();
    assert_eq!(first.trim_end(), lines(1)[0]);
    let output = consuming.end();
    assert_eq!((code(&output), err(&output).as_str()), (0, ""));
}

#[test]
fn a_cursor_goes_on_where_reading_ended() {
    let server = FakeServer::start(8, 2);
    let folder = TempDir::new().unwrap();
    let path = file(&folder, "f.ndjson", lines(300).join("\n"));
    let keyed = ["publish", "s", "--file", text(&path), "--key-field", "plane"];
    assert_eq!(code(&at(&server, &keyed)), 0);
    let mut got: Vec<String> = Vec::new();
    let mut from = "start".to_owned();
    loop {
        let output = at(
            &server,
            &["consume", "s", "--limit", "77", "--until-caught-up", "--print-cursor", "--from", &from],
        );
        assert_eq!(code(&output), 0, "{}", err(&output));
        let read: Vec<String> = out(&output).lines().map(str::to_owned).collect();
        let ended = read.len() < 77;
        got.extend(read);
        from = err(&output).trim().to_owned();
        if ended {
            break;
        }
    }
    let mut sent = lines(300);
    got.sort();
    sent.sort();
    assert_eq!(got, sent);
}

#[test]
fn a_tail_shows_what_comes_at_once_and_ends_with_ctrl_c() {
    let server = FakeServer::start(9, 1);
    let folder = TempDir::new().unwrap();
    let path = file(&folder, "f.ndjson", "{\"late\":true}\n");
    let endpoint = server.endpoint();
    let mut consuming = Running::start(command(&["consume", "s", "--from", "end", "--endpoint", &endpoint]));
    let mut tail = BufReader::new(consuming.child().stdout.take().unwrap());
    wait_until("the tail reads", || server.readers() == 1);
    assert_eq!(code(&at(&server, &["publish", "s", "--file", text(&path)])), 0);
    let mut line = String::new();
    tail.read_line(&mut line).unwrap();
    assert_eq!(line, "{\"late\":true}\n");
    consuming.interrupt();
    assert_eq!(code(&consuming.end()), 130);
}

#[test]
fn streams_are_made_shown_changed_and_deleted() {
    let server = FakeServer::start(10, 1);
    let made = at(
        &server,
        &["stream", "create", "t", "--partitions", "3", "--retention", "7d", "--label", "team=a", "--json"],
    );
    assert_eq!(code(&made), 0, "{}", err(&made));
    assert_eq!((&json(&made)["created"], &json(&made)["partitions"]), (&true.into(), &3.into()));
    let again = at(&server, &["stream", "create", "t", "-p", "3", "--retention", "7d", "--label", "team=a"]);
    assert_eq!(code(&again), 0);
    assert!(err(&again).contains("is there already"), "{}", err(&again));
    let other = at(&server, &["stream", "create", "t", "--partitions", "5"]);
    assert_eq!(code(&other), 3);
    let none = at(&server, &["stream", "create", "u", "--partitions", "0"]);
    assert_eq!(code(&none), 2, "a limit, wherever it is checked");
    assert!(err(&none).contains("BAD_PARTITION_COUNT"), "{}", err(&none));
    let changed = at(&server, &["stream", "update", "t", "--partitions", "6", "--no-retention", "--json"]);
    assert_eq!(code(&changed), 0, "{}", err(&changed));
    let shown = json(&at(&server, &["stream", "get", "t", "--json"]));
    assert_eq!((&shown["partitions"], &shown["labels"]["team"]), (&6.into(), &"a".into()));
    assert!(shown["retention_ms"].is_null());
    let all = json(&at(&server, &["stream", "list", "--json"]));
    let names: Vec<&str> = all.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["s", "t"]);
    assert_eq!(code(&at(&server, &["stream", "delete", "t"])), 0);
    assert_eq!(code(&at(&server, &["stream", "get", "t"])), 3);
}

/// A cluster.json of these regions.
fn cluster(folder: &TempDir, regions: &[(&str, &FakeServer)]) -> PathBuf {
    let regions: Vec<Value> = regions
        .iter()
        .map(|(name, server)| {
            serde_json::json!({"name": name, "nodes": [{"id": 1, "endpoint": server.endpoint(), "pid": 1, "dir": "d"}]})
        })
        .collect();
    file(folder, "cluster.json", serde_json::json!({ "regions": regions }).to_string())
}

#[test]
fn verify_says_no_with_its_exit_code_and_why() {
    let (us, mut eu) = (FakeServer::start(11, 2), FakeServer::start(12, 2));
    let folder = TempDir::new().unwrap();
    let path = file(&folder, "f.ndjson", lines(100).join("\n"));
    let cluster = cluster(&folder, &[("us", &us), ("eu", &eu)]);
    let verify_within = |timeout: &str, options: &[&str]| {
        run(&[&["verify", "s", "--timeout", timeout, "--cluster", text(&cluster)][..], options].concat())
    };
    let verify = |options: &[&str]| verify_within("30s", options);
    let publish = |region: &str| {
        run(&["publish", "s", "--file", text(&path), "--cluster", text(&cluster), "--region", region])
    };
    assert_eq!(code(&publish("us")), 0);

    let output = verify(&["--json"]);
    assert_eq!(code(&output), 1);
    let report = json(&output);
    assert_eq!(report["agree"], false);
    assert_eq!(report["lanes"][0]["copies"][1]["status"], "behind");
    let output = verify(&[]);
    assert_eq!(code(&output), 1);
    assert!(out(&output).contains("region eu is behind by"), "{}", out(&output));

    // The same batches, as a mirror would bring them.
    for (name, log) in &us.store.lock().streams["s"].lanes {
        for batch in &log.batches {
            eu.store.lock().mirror("s", name.1.region.0, name.0.0, &batch.bytes);
        }
    }
    let output = verify(&["--json"]);
    assert_eq!(code(&output), 0, "{}", out(&output));
    let report = json(&output);
    assert_eq!((&report["agree"], &report["events"]), (&true.into(), &100.into()));
    let lane = &report["lanes"][0];
    assert_eq!(
        (&lane["stream"], &lane["partition"], &lane["origin"]),
        (&"s".into(), &0.into(), &"us".into())
    );
    let copy = &lane["copies"][0];
    assert_eq!(copy["digest"].as_str().unwrap().len(), 64);
    assert!(copy["end"].as_u64().unwrap() > 0);

    {
        let mut store = eu.store.lock();
        let log = store.streams.get_mut("s").unwrap().lanes.values_mut().next().unwrap();
        let mut bytes = log.batches[0].bytes.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        log.batches[0].bytes = bytes.into();
    }
    let output = verify(&[]);
    assert_eq!(code(&output), 1);
    assert!(out(&output).contains("region eu differs from us at offset 0"), "{}", out(&output));

    // Whoever is dead is waited for all of that time.
    let verify_after_deaths = |options: &[&str]| verify_within("5s", options);
    eu.kill();
    let output = verify_after_deaths(&["--json"]);
    assert_eq!(code(&output), 1);
    assert_eq!(json(&output)["regions"][1]["status"], "unreachable");
    drop(us);
    let output = verify_after_deaths(&[]);
    assert_eq!(code(&output), 4, "{}", err(&output));
}

#[test]
fn a_cluster_of_several_regions_wants_to_know_which() {
    let server = FakeServer::start(13, 1);
    let folder = TempDir::new().unwrap();
    let cluster = cluster(&folder, &[("us", &server), ("eu", &server)]);
    let which = run(&["consume", "s", "--cluster", text(&cluster)]);
    assert_eq!(code(&which), 2);
    assert!(err(&which).contains("one of: us, eu"), "{}", err(&which));
    let wrong = run(&["consume", "s", "--cluster", text(&cluster), "--region", "mars"]);
    assert_eq!(code(&wrong), 2);
    assert!(err(&wrong).contains("us, eu"), "{}", err(&wrong));
    // The catalog is the same everywhere.
    assert_eq!(code(&run(&["stream", "list", "--cluster", text(&cluster)])), 0);
    let lag = run(&["lag", "--json", "--cluster", text(&cluster)]);
    assert_eq!(code(&lag), 0, "{}", err(&lag));
    assert_eq!(json(&lag)["at_risk"][0]["events"], 7);
    let lag = at(&server, &["lag"]);
    assert!(out(&lag).contains("if us were lost now: 7 events, 70 B"), "{}", out(&lag));
}

#[test]
fn nodes_and_shards_are_listed_and_moved() {
    let nodes = FakeServer::region(40, 1, 2);
    nodes[0].store.lock().placement.lead(|shard| (shard > 0).then_some(1 + u32::from(shard) % 2));
    // The first of a list need not run.
    let endpoints = format!("127.0.0.1:9,{}", nodes[1].endpoint());
    let run = |args: &[&str]| run(&[args, &["--endpoint", endpoints.as_str()]].concat());

    let listed = run(&["node", "list", "--json"]);
    assert_eq!(code(&listed), 0, "{}", err(&listed));
    let rows = json(&listed);
    assert_eq!((&rows[0]["node"], &rows[1]["node"]), (&1.into(), &2.into()));
    assert_eq!((&rows[0]["live"], &rows[0]["region"]), (&true.into(), &"us".into()));
    assert!(out(&run(&["node", "list"])).contains("live"));

    let rows = json(&run(&["shard", "list", "--json"]));
    assert_eq!(rows.as_array().unwrap().len(), 16);
    assert_eq!((&rows[3]["origin"], &rows[3]["number"]), (&"us".into(), &3.into()));
    assert_eq!((&rows[3]["leader"], &rows[3]["members"]), (&2.into(), &serde_json::json!([1, 2])));
    assert_eq!((&rows[0]["leader"], &rows[3]["applied"]), (&Value::Null, &5.into()));
    let table = out(&run(&["shard", "list"]));
    assert!(table.contains("us/15") && table.contains("none"), "{table}");

    let moved = run(&["shard", "move", "--shard", "us/3", "--from", "1", "--to", "2"]);
    assert_eq!(code(&moved), 0, "{}", err(&moved));
    assert_eq!(code(&run(&["node", "drain", "2"])), 0);
    assert_eq!(code(&run(&["node", "drain", "2", "--undo"])), 0);
    assert_eq!(code(&run(&["node", "remove", "2"])), 0);
    let add =
        ["node", "add", "9", "--region", "us", "--disk", "d9", "--peer", "h:2", "--client", "http://h:1"];
    let added = run(&add);
    assert_eq!(
        (code(&added), err(&added).contains("is admitted to region us")),
        (0, true),
        "{}",
        err(&added)
    );
    let asked = nodes[0].store.lock().placement.asked.clone();
    assert_eq!(asked.last().unwrap(), "add 9 in us with d9 at http://h:2 http://h:1");
    let asked = &asked[..asked.len() - 1];
    assert_eq!(asked, ["move Some((1, 1))/3 1 to 2", "drain 2 undo false", "drain 2 undo true", "remove 2"]);

    let unknown = run(&["node", "remove", "7"]);
    assert_eq!(code(&unknown), 2);
    assert!(err(&unknown).contains("there is no node 7"), "{}", err(&unknown));
    assert_eq!(code(&run(&["shard", "move", "--shard", "sa/3", "--from", "1", "--to", "2"])), 2);
    assert_eq!(code(&run(&["shard", "move", "--shard", "us/16", "--from", "1", "--to", "2"])), 2);
}
