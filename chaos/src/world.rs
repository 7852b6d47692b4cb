//! A world of nodes, each a process, started by `meridian dev --processes` and broken by hand.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde::Deserialize;
use tempfile::TempDir;

use crate::{Background, Ended, Report, get, meridian, say, signals, until};

/// How long a world, or a node, may take until it is ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a signal may take until the process is gone.
const GONE_WITHIN: Duration = Duration::from_secs(20);
/// How long a command may take, unless said.
const COMMAND_WITHIN: Duration = Duration::from_secs(90);
const LOG_TAIL_LINES: usize = 12;

/// Worlds are heavy, and what they measure is time: one at a time in a process.
static ONE_WORLD: Mutex<()> = Mutex::new(());

/// What a world is like.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// Its regions.
    pub regions: &'a [&'a str],
    /// Round trips, as `--wan` takes them.
    pub wan: &'a str,
    /// Changes every node's `node.toml` before the test begins.
    pub settings: Option<fn(&mut toml::Table)>,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self { regions: &["us", "eu", "ap"], wan: "us-eu=10ms,us-ap=10ms,eu-ap=10ms", settings: None }
    }
}

/// A running world. Where a region has one node, the node goes by the region's name; else by its own, as in `us-1`.
///
/// Dropped, it ends every process that it started, and removes its folder unless the test failed.
#[derive(Debug)]
pub struct World {
    folder: TempDir,
    dev: Child,
    nodes: BTreeMap<String, Node>,
    order: Vec<String>,
    _one: MutexGuard<'static, ()>,
}

#[derive(Debug)]
struct Node {
    id: u32,
    region: String,
    endpoint: String,
    admin: String,
    folder: PathBuf,
    /// Of the running process; none while it is down.
    pid: Option<u32>,
    /// Set if the test started it.
    child: Option<Child>,
}

#[derive(Deserialize)]
struct ClusterFile {
    regions: Vec<ClusterRegion>,
}

#[derive(Deserialize)]
struct ClusterRegion {
    name: String,
    nodes: Vec<ClusterNode>,
}

#[derive(Deserialize)]
struct ClusterNode {
    id: u32,
    name: String,
    endpoint: String,
    admin: String,
    pid: u32,
    dir: PathBuf,
}

impl World {
    /// Starts a world and waits until all of it is ready.
    ///
    /// # Panics
    /// It does not start.
    pub fn start(setup: Setup<'_>) -> Self {
        Self::start_with(setup, 1)
    }

    /// The same, with so many nodes in each region.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_with(setup: Setup<'_>, nodes: u32) -> Self {
        let one = ONE_WORLD.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let binary = meridian();
        let folder =
            tempfile::Builder::new().prefix("meridian-chaos-").tempdir().expect("a temporary folder");
        let log = File::create(folder.path().join("dev.log")).expect("a file in it");
        let mut dev = Command::new(binary)
            .args(["dev", "--processes", "--nodes", &nodes.to_string()])
            .args(["--regions", &setup.regions.join(","), "--wan", setup.wan, "--data"])
            .arg(folder.path())
            // Its stdin ends when this process does, whatever ended it.
            .arg("--until-stdin-ends")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot start: {error}", binary.display()));
        let path = folder.path().join("cluster.json");
        let deadline = Instant::now() + READY_WITHIN;
        let file: ClusterFile = loop {
            if let Ok(text) = std::fs::read(&path) {
                break serde_json::from_slice(&text).expect("cluster.json is written whole or not at all");
            }
            let ended = dev.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > deadline {
                let _ = dev.kill();
                let _ = dev.wait();
                let said = std::fs::read_to_string(folder.path().join("dev.log")).unwrap_or_default();
                let kept = folder.keep();
                panic!("the world in {} did not start ({ended:?}):\n{said}", kept.display());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let order = file.regions.iter().map(|region| region.name.clone()).collect();
        let nodes = file.regions.into_iter().flat_map(|region| {
            let alone = region.nodes.len() == 1;
            region.nodes.into_iter().map(move |node| {
                let region = region.name.clone();
                let name = if alone { region.clone() } else { node.name };
                let ClusterNode { id, endpoint, admin, pid, dir: folder, .. } = node;
                (name, Node { id, region, endpoint, admin, folder, pid: Some(pid), child: None })
            })
        });
        let mut world = Self { folder, dev, nodes: nodes.collect(), order, _one: one };
        if let Some(settings) = setup.settings {
            for node in world.names() {
                world.terminate(&node);
                world.edit_config(&node, settings);
            }
            for node in world.names() {
                world.launch(&node);
            }
            for node in world.names() {
                world.wait_ready(&node);
            }
        }
        world
    }

    /// A node that is to be added to a region: its folder and its configuration, neither formatted nor started. Its name.
    ///
    /// # Panics
    /// They cannot be written.
    pub fn prepare_node(&mut self, region: &str) -> String {
        let like = self.nodes_of(region).into_iter().next().expect("a region has a node");
        let id = self.nodes.values().map(|node| node.id).max().unwrap_or(0) + 1;
        let name = format!("{region}-{id}");
        let folder = self.folder.path().join(&name);
        std::fs::create_dir(&folder).expect("a new folder");
        edit_config(&self.config(&like), &folder.join("node.toml"), |table| {
            let own = table["node"].as_table_mut().expect("a section");
            own.insert("id".to_owned(), i64::from(id).into());
        });
        let node = Node {
            id,
            region: region.to_owned(),
            endpoint: String::new(),
            admin: String::new(),
            folder,
            pid: None,
            child: None,
        };
        self.nodes.insert(name.clone(), node);
        self.move_node(&name);
        name
    }

    /// Gives an added node, which is down, other ports.
    ///
    /// # Panics
    /// There are none, or its configuration cannot be written.
    pub fn move_node(&mut self, name: &str) {
        let listeners = [0; 3].map(|_| TcpListener::bind(("127.0.0.1", 0)).expect("a free port"));
        let [client, peer, admin] =
            listeners.map(|listener| listener.local_addr().expect("it is bound").to_string());
        let url = |address: &str| format!("http://{address}");
        self.edit_config(name, |table| {
            let own = table["node"].as_table_mut().expect("a section");
            own.insert("advertise_peer".to_owned(), url(&peer).into());
            own.insert("advertise_client".to_owned(), url(&client).into());
            let listen = table["listen"].as_table_mut().expect("a section");
            for (listener, address) in [("client", &client), ("peer", &peer), ("admin", &admin)] {
                listen.insert(listener.to_owned(), address.clone().into());
            }
        });
        let node = self.node_mut(name);
        (node.endpoint, node.admin) = (url(&client), url(&admin));
    }

    /// `meridian COMMAND --config` of a node.
    pub fn with_config(&self, command: &[&str], node: &str) -> Ended {
        let mut process = Command::new(meridian());
        process.args(command).arg("--config").arg(self.config(node));
        Background::start(process).finish(COMMAND_WITHIN)
    }

    /// The regions' names, in order.
    pub fn regions(&self) -> Vec<String> {
        self.order.clone()
    }

    /// The nodes' names.
    pub fn names(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }

    /// The names of a region's nodes.
    pub fn nodes_of(&self, region: &str) -> Vec<String> {
        let nodes = self.nodes.iter().filter(|(_, node)| node.region == region);
        nodes.map(|(name, _)| name.clone()).collect()
    }

    /// What clients of a region dial, a node each.
    pub fn endpoints(&self, region: &str) -> Vec<String> {
        self.nodes_of(region).iter().map(|node| self.endpoint(node).to_owned()).collect()
    }

    /// The number that a node goes by in the cluster.
    pub fn id_of(&self, node: &str) -> u32 {
        self.node(node).id
    }

    /// The name of the node with this number.
    ///
    /// # Panics
    /// There is none.
    pub fn name_of(&self, id: u32) -> String {
        let named = self.nodes.iter().find(|(_, node)| node.id == id);
        named.map(|(name, _)| name.clone()).unwrap_or_else(|| panic!("there is no node {id}"))
    }

    /// What clients of a region dial.
    pub fn endpoint(&self, region: &str) -> &str {
        &self.node(region).endpoint
    }

    /// What operators of a region's node dial.
    pub fn admin(&self, region: &str) -> &str {
        &self.node(region).admin
    }

    /// A region's running process.
    ///
    /// # Panics
    /// It is down.
    pub fn pid(&self, region: &str) -> u32 {
        self.node(region).pid.unwrap_or_else(|| panic!("{region} is down"))
    }

    /// Whether a node's process is there and does not stand still.
    pub fn runs(&self, node: &str) -> bool {
        self.node(node).pid.is_some_and(|pid| !signals::stands_still(pid))
    }

    /// A node's folder.
    pub fn node_folder(&self, region: &str) -> &Path {
        &self.node(region).folder
    }

    /// A node's configuration.
    pub fn config(&self, region: &str) -> PathBuf {
        self.node(region).folder.join("node.toml")
    }

    /// A file of the test's own, beside the nodes' folders.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn node(&self, region: &str) -> &Node {
        self.nodes.get(region).unwrap_or_else(|| panic!("there is no node {region}"))
    }

    fn node_mut(&mut self, region: &str) -> &mut Node {
        self.nodes.get_mut(region).unwrap_or_else(|| panic!("there is no node {region}"))
    }

    /// SIGKILL, as a power cut would; returns once the process is gone.
    pub fn kill9(&mut self, region: &str) {
        self.signal(region, Signal::SIGKILL);
        self.wait_gone(region);
    }

    /// SIGTERM; returns once the process has drained and is gone.
    pub fn terminate(&mut self, region: &str) {
        self.signal(region, Signal::SIGTERM);
        self.wait_gone(region);
    }

    /// SIGSTOP; returns once the process stands still.
    ///
    /// # Panics
    /// It is down, or goes on.
    pub fn pause(&self, region: &str) {
        self.signal(region, Signal::SIGSTOP);
        // A thread that is inside of a write finishes that first.
        let pid = self.pid(region);
        until(&format!("{region} stands still"), GONE_WITHIN, || {
            if signals::stands_still(pid) { Ok(()) } else { Err(format!("a thread of {pid} goes on")) }
        });
    }

    /// SIGCONT.
    pub fn resume(&self, region: &str) {
        self.signal(region, Signal::SIGCONT);
    }

    fn signal(&self, region: &str, signal: Signal) {
        if let Some(pid) = self.node(region).pid {
            signals::to_node(pid, &self.config(region), signal);
        }
    }

    /// Whether a node that this test started has ended by itself.
    pub fn has_ended(&mut self, node: &str) -> bool {
        let node = self.node_mut(node);
        let ended = node.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))));
        if ended {
            (node.pid, node.child) = (None, None);
        }
        ended
    }

    /// Waits until a region's process is gone.
    ///
    /// # Panics
    /// It stays.
    pub fn wait_gone(&mut self, region: &str) {
        let node = self.node_mut(region);
        let Some(pid) = node.pid else { return };
        until(&format!("the end of {region}'s process"), GONE_WITHIN, || {
            let gone = match &mut node.child {
                Some(child) => matches!(child.try_wait(), Ok(Some(_))),
                None => !signals::is_there(pid),
            };
            if gone { Ok(()) } else { Err(format!("process {pid} is there")) }
        });
        (node.pid, node.child) = (None, None);
    }

    /// Starts a region's node again, on the same ports and data; returns at once.
    ///
    /// # Panics
    /// It runs already, or cannot be started.
    pub fn launch(&mut self, region: &str) {
        let config = self.config(region);
        let node = self.node_mut(region);
        assert!(node.pid.is_none(), "{region} runs already");
        let log = OpenOptions::new().create(true).append(true).open(node.folder.join("log"));
        let log = log.expect("a node's log can be written");
        let child = Command::new(meridian())
            .arg("serve")
            .arg("--config")
            .arg(config)
            // Its stdin ends when this process does, whatever ended it.
            .arg("--until-stdin-ends")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("the binary can be started");
        (node.pid, node.child) = (Some(child.id()), Some(child));
    }

    /// Starts a region's node again and waits until it is ready.
    pub fn start_again(&mut self, region: &str) {
        self.launch(region);
        self.wait_ready(region);
    }

    /// Whether a region's node says that it is ready.
    pub fn is_ready(&self, region: &str) -> bool {
        matches!(get(self.admin(region), "/readyz"), Ok((200, _)))
    }

    /// Waits until a region's node is ready.
    ///
    /// # Panics
    /// It is not in time, or it ends.
    pub fn wait_ready(&mut self, region: &str) {
        let deadline = Instant::now() + READY_WITHIN;
        while !self.is_ready(region) {
            let ended = match &mut self.node_mut(region).child {
                Some(child) => child.try_wait().ok().flatten(),
                None => None,
            };
            if let Some(status) = ended {
                panic!("{region} ended ({status}) before it was ready:\n{}", self.log_tail(region));
            }
            assert!(Instant::now() < deadline, "{region} is not ready in time:\n{}", self.log_tail(region));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The end of a node's log.
    pub fn log_tail(&self, region: &str) -> String {
        let text = std::fs::read_to_string(self.node_folder(region).join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    /// Changes a node's `node.toml`; it counts from the next start on.
    ///
    /// # Panics
    /// It cannot be read or written.
    pub fn edit_config(&self, region: &str, change: impl FnOnce(&mut toml::Table)) {
        edit_config(&self.config(region), &self.config(region), change);
    }

    /// Writes a changed configuration beside a node's own, under another name.
    ///
    /// # Panics
    /// It cannot be read or written.
    pub fn other_config(&self, region: &str, name: &str, change: impl FnOnce(&mut toml::Table)) -> PathBuf {
        let other = self.node(region).folder.join(name);
        edit_config(&self.config(region), &other, change);
        other
    }

    /// `meridian ARGUMENTS --cluster …`, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(meridian());
        command.args(arguments).arg("--cluster").arg(self.path("cluster.json"));
        command
    }

    /// Runs a client command against this world.
    pub fn cli(&self, arguments: &[&str]) -> Ended {
        Background::start(self.command(arguments)).finish(COMMAND_WITHIN)
    }

    /// Starts a client command that goes on beside the test.
    pub fn begin(&self, arguments: &[&str]) -> Background {
        Background::start(self.command(arguments))
    }

    /// Starts a node with some configuration that must make it end by itself with an error; gives what it said.
    ///
    /// # Panics
    /// It does not end, or without an error.
    pub fn refused(&self, config: &Path) -> String {
        let mut command = Command::new(meridian());
        command.arg("serve").arg("--config").arg(config);
        let ended = Background::start(command).finish(Duration::from_secs(30));
        assert!(ended.code.is_some_and(|code| code != 0), "{} should be refused: {ended:?}", ended.what);
        format!("{}{}", ended.stderr, String::from_utf8_lossy(&ended.stdout))
    }

    /// Creates a stream and waits until every region knows it.
    pub fn create_stream(&self, stream: &str, partitions: u32) {
        let _ = self.cli(&["stream", "create", stream, "--partitions", &partitions.to_string()]).ok();
        for region in &self.order {
            until(&format!("{region} knows {stream}"), READY_WITHIN, || {
                let ended = self.cli(&["stream", "get", stream, "--region", region]);
                if ended.code == Some(0) { Ok(()) } else { Err(ended.stderr) }
            });
        }
    }

    /// Publishes lines in a region, and waits for the end.
    ///
    /// # Panics
    /// Not all of them were acknowledged.
    pub fn publish(&self, region: &str, stream: &str, lines: &[String], options: &[&str]) {
        let file = self.path(&format!("{stream}-{region}.ndjson"));
        std::fs::write(&file, lines.join("\n") + "\n").expect("a file in the world's folder");
        let name = file.to_str().expect("temporary folders have plain names");
        let mut arguments = vec!["publish", stream, "--region", region, "--file", name, "--json"];
        arguments.extend(options);
        let summary: serde_json::Value = self.cli(&arguments).ok().json();
        assert_eq!(summary["events"], lines.len(), "{summary}");
    }

    /// `meridian verify`, once, and its exit code.
    pub fn verify(&self, stream: &str) -> (Option<i32>, Report) {
        self.verify_with(stream, &[])
    }

    /// The same, with more options.
    pub fn verify_with(&self, stream: &str, options: &[&str]) -> (Option<i32>, Report) {
        let ended = self.cli(&[&["verify", stream, "--json"][..], options].concat());
        let report: Report = ended.json();
        assert_eq!(ended.code == Some(0), report.agree, "the exit code says what the report says: {ended:?}");
        (ended.code, report)
    }

    /// Verifies until all copies agree.
    ///
    /// # Panics
    /// Not in time; at once if a copy differs or is damaged.
    pub fn agree(&self, stream: &str, within: Duration) -> Report {
        until(&format!("the copies of {stream} agree"), within, || {
            let (_, report) = self.verify(stream);
            let broken = report.broken();
            assert!(broken.is_empty(), "the copies of {stream} do not agree, and never will: {broken:#?}");
            if report.agree { Ok(report) } else { Err(format!("{report:?}")) }
        })
    }
}

/// Reads a configuration, changes it, and writes it.
fn edit_config(from: &Path, to: &Path, change: impl FnOnce(&mut toml::Table)) {
    let text = std::fs::read_to_string(from).expect("a node's configuration can be read");
    let mut table: toml::Table = text.parse().expect("a node's configuration is TOML");
    change(&mut table);
    std::fs::write(to, table.to_string()).expect("a node's configuration can be written");
}

impl Drop for World {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            for node in self.names() {
                say(&format!("--- the end of {node}'s log:\n{}", self.log_tail(&node)));
            }
        }
        for node in self.names() {
            self.signal(&node, Signal::SIGKILL);
            if let Some(mut child) = self.node_mut(&node).child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        signals::to(self.dev.id(), Signal::SIGTERM);
        let deadline = Instant::now() + GONE_WITHIN;
        while matches!(self.dev.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.dev.kill();
        let _ = self.dev.wait();
        if failed {
            self.folder.disable_cleanup(true);
            say(&format!("--- the world is kept in {}", self.folder.path().display()));
        }
    }
}
