//! The binary's server commands as an operator meets them: what is refused, with which code and which words, and that
//! no process is left behind.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const MERIDIAN: &str = env!("CARGO_BIN_EXE_meridian");
const REFUSED: i32 = 2;

fn meridian(args: &[&str]) -> Output {
    Command::new(MERIDIAN).args(args).stdin(Stdio::null()).output().unwrap()
}

/// Runs a command that must be refused; gives what it said.
fn refused(args: &[&str]) -> String {
    let output = meridian(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(REFUSED), "{args:?}: {said}");
    said
}

fn until(what: &str, mut so: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while !so() {
        assert!(Instant::now() < give_up, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A world of one region, each node a process; ended when dropped.
struct Dev {
    process: Child,
    folder: PathBuf,
}

impl Dev {
    fn start(folder: &Path, more: &[&str]) -> Self {
        let log = std::fs::File::create(folder.with_extension("out")).unwrap();
        let data = folder.to_str().unwrap();
        let args = ["dev", "--regions", "us", "--data", data, "--processes"];
        let process = Command::new(MERIDIAN)
            .args(args)
            .args(more)
            // Its stdin ends when this process does, whatever ended it.
            .arg("--until-stdin-ends")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut dev = Self { process, folder: folder.to_owned() };
        // The file alone could be an earlier run's.
        until("the world is ready", || {
            assert_eq!(dev.process.try_wait().unwrap(), None, "dev ended: {}", dev.said());
            dev.said().contains("cluster: ") && folder.join("cluster.json").exists()
        });
        dev
    }

    fn pid(&self) -> u32 {
        let text = std::fs::read(self.folder.join("cluster.json")).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        u32::try_from(json["regions"][0]["nodes"][0]["pid"].as_u64().unwrap()).unwrap()
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.folder.with_extension("out")).unwrap()
    }

    /// Tells dev to end, and waits for it.
    fn end(&mut self) {
        signal("TERM", self.process.id());
        assert!(self.process.wait().unwrap().success(), "{}", self.said());
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // The node sees its stdin end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn signal(name: &str, pid: u32) {
    // The shell's own: not every machine has a program of that name.
    let kill = ["-c", "kill -\"$0\" \"$1\"", name, &pid.to_string()];
    assert!(Command::new("sh").args(kill).status().unwrap().success());
}

/// Whether a process runs; one that has ended and was not waited for does not.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[test]
fn what_a_node_cannot_be_started_with_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("world");
    let mut dev = Dev::start(&folder, &[]);
    let config = folder.join("us-1/node.toml");
    let file = config.to_str().unwrap().to_owned();

    let busy = refused(&["serve", "--config", &file]);
    assert!(busy.contains("in use by process"), "{busy}");
    let busy = refused(&["dev", "--data", folder.to_str().unwrap()]);
    assert!(busy.contains("in use by process"), "{busy}");
    dev.end();

    let text = std::fs::read_to_string(&config).unwrap();
    let told = refused(&["format", "--config", &file]);
    assert!(told.contains("not empty"), "{told}");

    let port = text.split("client = \"127.0.0.1:").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let taken = TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
    let told = refused(&["serve", "--config", &file]);
    assert!(told.contains(&format!("the client listener cannot have 127.0.0.1:{port}")), "{told}");
    let told = refused(&["dev", "--data", folder.to_str().unwrap()]);
    assert!(told.contains(&format!("port {port} (client listener of us-1) is in use")), "{told}");
    drop(taken);

    for (more, key) in [
        ("[limits]\npublish_in_flight = \"1MiB\"", "unknown field `publish_in_flight`"),
        ("[tls]\nclient_cert = \"x.pem\"", "tls.client_cert: this release does not speak TLS yet"),
        ("[log]\nlevel = \"a=b=c\"", "log.level"),
    ] {
        std::fs::write(&config, format!("{text}\n{more}\n")).unwrap();
        let told = refused(&["serve", "--config", &file]);
        assert!(told.contains(&file) && told.contains(key), "{told}");
    }
    std::fs::write(&config, &text).unwrap();

    std::fs::remove_dir_all(folder.join("us-1/volume")).unwrap();
    let told = refused(&["serve", "--config", &file]);
    assert!(told.contains("this folder is empty") && told.contains("give it a new id"), "{told}");
    let told = refused(&["serve", "--config", "nowhere/node.toml"]);
    assert!(told.contains("nowhere/node.toml: cannot read"), "{told}");
}

#[test]
fn a_killed_node_is_started_again_by_hand_and_by_respawn() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("world");
    let mut dev = Dev::start(&folder, &[]);
    let first = dev.pid();
    signal("KILL", first);
    until("dev says so", || dev.said().contains("us-1: died: signal: 9"));
    assert_eq!(dev.process.try_wait().unwrap(), None, "dev outlives its nodes");
    let config = folder.join("us-1/node.toml");
    let mut by_hand = Command::new(MERIDIAN)
        // Its stdin ends when this test does, also by a failure.
        .args(["serve", "--config", config.to_str().unwrap(), "--until-stdin-ends"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let cluster = folder.join("cluster.json");
    let list = ["stream", "list", "--timeout", "30s", "--cluster", cluster.to_str().unwrap()];
    assert!(meridian(&list).status.success(), "same ports, same data");
    // Ends what it started itself, and nothing else.
    dev.end();
    assert_eq!(by_hand.try_wait().unwrap(), None);
    signal("TERM", by_hand.id());
    assert!(by_hand.wait().unwrap().success(), "SIGTERM drains and ends in order");

    let mut dev = Dev::start(&folder, &["--respawn"]);
    let second = dev.pid();
    signal("KILL", second);
    until("cluster.json names the new process", || dev.pid() != second);
    let third = dev.pid();
    assert!(runs(third));
    dev.end();
    assert!(!runs(third), "dev takes its nodes along");
}

#[test]
fn dev_ends_in_order_with_the_one_who_started_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(&dir.path().join("world"), &[]);
    let node = dev.pid();
    drop(dev.process.stdin.take());
    assert!(dev.process.wait().unwrap().success(), "{}", dev.said());
    assert!(!runs(node), "dev takes its nodes along");
}

#[test]
fn a_node_never_outlives_a_dev_that_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(&dir.path().join("world"), &[]);
    let node = dev.pid();
    dev.process.kill().unwrap();
    dev.process.wait().unwrap();
    until("the node ends too", || !runs(node));
}
