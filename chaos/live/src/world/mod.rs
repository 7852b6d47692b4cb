//! A world of regions × nodes: each node a process in a namespace of its own, on a disk of its own.

mod clients;
mod config;
mod node;
mod plan;
mod shards;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::alone::Alone;
use crate::binary;
use crate::disk::{PowerFs, SmallDisk};
use crate::net::{Cut, Cuts, Namespaces, Place, enter};
use crate::trouble::{Context as _, Trouble};
use crate::wan::{Profile, Relay};

pub use clients::Clients;
pub(crate) use clients::{client, client_of_one};
pub use node::{Disk, Node};
pub use plan::{DiskKind, Plan};
pub use shards::Leading;

/// How long nodes may take until all are ready.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// What worlds' folders are called; leftovers are found by it.
const FOLDER: &str = "mlive-world-";
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a command came to.
#[derive(Clone, Debug)]
pub struct Said {
    /// Whether it did what it was asked.
    pub done: bool,
    /// What it printed, and what it said besides.
    pub text: String,
}

/// A running world. Dropped, everything goes: processes, relay, mounts, namespaces, in this order.
#[derive(Debug)]
pub struct World {
    nodes: Vec<Node>,
    /// Those who talk to nodes from outside.
    pub clients: Clients,
    /// Between the regions.
    pub relay: Relay,
    /// Between any two places.
    pub cuts: Cuts,
    regions: Vec<String>,
    /// Nodes that are not in use: spares, and those that were taken out of it.
    idle: BTreeSet<usize>,
    folder: TempDir,
    binary: PathBuf,
    _spaces: Namespaces,
    _alone: Alone,
}

impl World {
    /// Starts a world and waits until all of it is ready.
    ///
    /// # Errors
    /// The machine cannot ([`Trouble::Skip`]), or a node does not come up.
    pub fn start(plan: &Plan) -> Result<Self, Trouble> {
        let alone = Alone::wait()?;
        let spaces = Namespaces::make(&alone, &plan.room())?;
        let relay = Relay::start(&spaces, plan.seed, |_, _| Profile::with_delay(plan.delay))?;
        let folder = tempfile::Builder::new().prefix(FOLDER).tempdir().context("a folder")?;
        let binary = binary::pinned(folder.path())?;
        let texts = config::texts(plan)?;
        let mut nodes = Vec::new();
        for ((region, number), text) in plan.places().into_iter().zip(texts) {
            let name = format!("{}-{number}", plan.regions[usize::from(region) - 1]);
            nodes.push(Node::lay_out(name, (region, number), folder.path(), &text, plan)?);
        }
        let clients = Clients::new()?;
        let regions = plan.regions.clone();
        let cuts = Cuts::default();
        let founders: usize = plan.nodes().into_iter().map(usize::from).sum();
        let idle = (founders..nodes.len()).collect();
        let mut world = Self {
            nodes,
            clients,
            relay,
            cuts,
            regions,
            idle,
            folder,
            binary,
            _spaces: spaces,
            _alone: alone,
        };
        for index in 0..founders {
            world.nodes[index].format(&world.binary)?;
            world.launch(index)?;
        }
        world.wait_all_ready()?;
        Ok(world)
    }

    /// Removes the folders of runs that were interrupted. Those that were kept for their logs hold no data, and stay.
    ///
    /// # Errors
    /// The folder for temporary files cannot be read.
    pub(crate) fn remove_leftovers() -> Result<(), Trouble> {
        for entry in
            std::fs::read_dir(std::env::temp_dir()).context("the folder for temporary files")?.flatten()
        {
            let is_ours = entry.file_name().to_string_lossy().starts_with(FOLDER);
            let holds_data = || {
                let nodes = std::fs::read_dir(entry.path()).into_iter().flatten().flatten();
                nodes.into_iter().any(|node| node.path().join("data").exists())
            };
            if is_ours && holds_data() {
                // A node that is about to end may still write there; then the next run removes it.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }

    /// The regions' names.
    pub fn regions(&self) -> &[String] {
        &self.regions
    }

    /// How many nodes there are, over all regions.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// A node by its index, region by region.
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// The same, to change.
    pub fn node_mut(&mut self, index: usize) -> &mut Node {
        &mut self.nodes[index]
    }

    /// A region's first node.
    ///
    /// # Errors
    /// There is no such region.
    pub fn first_of(&self, region: &str) -> Result<usize, Trouble> {
        let number = self.regions.iter().position(|name| name == region);
        let number = number.ok_or_else(|| Trouble::tool(format!("there is no region {region}")))?;
        let found = self.nodes.iter().position(|node| usize::from(node.place().0) == number + 1);
        found.ok_or_else(|| Trouble::tool(format!("region {region} has no node")))
    }

    /// What clients of a region dial: all its nodes that are in use.
    pub fn endpoints(&self, region: u8) -> Vec<String> {
        self.nodes_of(region).into_iter().map(|index| self.endpoint(index)).collect()
    }

    /// All nodes that are in use: founders but those that were taken out of it, and spares that were taken into it.
    pub fn in_use(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| !self.idle.contains(index)).collect()
    }

    /// Takes a node out of use, for good: what it has stored is nobody's copy any more.
    ///
    /// # Errors
    /// It stays.
    pub fn retire(&mut self, index: usize) -> Result<(), Trouble> {
        self.idle.insert(index);
        self.kill(&[index])
    }

    /// A spare is in use from now on.
    pub fn take_into_use(&mut self, index: usize) {
        self.idle.remove(&index);
    }

    /// A region's nodes that are in use, by their indices.
    pub fn nodes_of(&self, region: u8) -> Vec<usize> {
        self.in_use().into_iter().filter(|index| self.nodes[*index].place().0 == region).collect()
    }

    /// A region's nodes that are not in use.
    pub fn idle_of(&self, region: u8) -> Vec<usize> {
        self.idle.iter().copied().filter(|index| self.nodes[*index].place().0 == region).collect()
    }

    /// What clients dial to reach this node.
    pub fn endpoint(&self, index: usize) -> String {
        config::client_url(self.nodes[index].place())
    }

    /// Cuts what one node sends to another.
    ///
    /// # Errors
    /// Without `nft`: [`Trouble::Skip`].
    pub fn cut(&mut self, from: usize, to: usize) -> Result<(), Trouble> {
        let (region, node) = self.nodes[to].place();
        let from = self.address(from);
        self.cuts.cut(from, Place::Node(region, node), Cut::Drop)
    }

    /// Cuts a node off from all others, in both directions; clients still reach it.
    ///
    /// # Errors
    /// As [`World::cut`].
    pub fn leave_alone(&mut self, index: usize) -> Result<(), Trouble> {
        for other in (0..self.nodes.len()).filter(|other| *other != index) {
            self.cut(other, index)?;
            self.cut(index, other)?;
        }
        Ok(())
    }

    /// The same, and from clients.
    ///
    /// # Errors
    /// As [`World::cut`].
    pub fn isolate(&mut self, index: usize) -> Result<(), Trouble> {
        self.leave_alone(index)?;
        let (region, node) = self.nodes[index].place();
        self.cuts.cut(Place::Clients.address(region), Place::Node(region, node), Cut::Drop)?;
        let from = self.address(index);
        self.cuts.cut(from, Place::Clients, Cut::Drop)
    }

    /// Starts a node; returns at once.
    ///
    /// # Errors
    /// It runs, or cannot be started.
    pub fn launch(&mut self, index: usize) -> Result<(), Trouble> {
        let binary = self.binary.clone();
        self.nodes[index].launch(&binary)
    }

    /// Makes a node's folder new, as `meridian format` does.
    ///
    /// # Errors
    /// The command fails.
    pub fn format(&mut self, index: usize) -> Result<(), Trouble> {
        let binary = self.binary.clone();
        self.nodes[index].format(&binary)
    }

    /// Runs a command as an operator does, from where clients are.
    ///
    /// # Errors
    /// It cannot be run; what it comes to is in [`Said`].
    pub fn operate(&self, arguments: &[&str]) -> Result<Said, Trouble> {
        enter(Place::Clients, || {
            let ended = Command::new(&self.binary).args(arguments).stdin(Stdio::null()).output();
            let ended = ended.context("an operator's command")?;
            let text = [ended.stdout, ended.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            Ok(Said { done: ended.status.success(), text: text.concat() })
        })
    }

    /// SIGKILL to these at once; returns when all are gone.
    ///
    /// # Errors
    /// One stays.
    pub fn kill(&mut self, indices: &[usize]) -> Result<(), Trouble> {
        for index in indices {
            self.nodes[*index].signal(rustix::process::Signal::KILL);
        }
        for index in indices {
            self.nodes[*index].wait_gone(Duration::from_secs(30))?;
        }
        Ok(())
    }

    /// Waits until every node that is in use and runs is ready.
    ///
    /// # Errors
    /// One ends, or is not ready in time.
    pub fn wait_all_ready(&mut self) -> Result<(), Trouble> {
        for index in self.in_use() {
            if self.nodes[index].runs() {
                self.wait_ready(index)?;
            }
        }
        Ok(())
    }

    /// Waits until a node is ready.
    ///
    /// # Errors
    /// It ends, or is not ready in time.
    pub fn wait_ready(&mut self, index: usize) -> Result<(), Trouble> {
        let until = Instant::now() + READY_WITHIN;
        loop {
            if matches!(self.get(index, "/readyz"), Ok((200, _))) {
                return Ok(());
            }
            let node = &mut self.nodes[index];
            if !node.runs() {
                return Err(Trouble::broken(format!(
                    "{} ended before it was ready:\n{}",
                    node.name,
                    node.log_tail()
                )));
            }
            if Instant::now() > until {
                return Err(Trouble::broken(format!(
                    "{} is not ready in time:\n{}",
                    node.name,
                    node.log_tail()
                )));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Asks a node's admin listener.
    ///
    /// # Errors
    /// It does not answer.
    pub fn get(&self, index: usize, path: &str) -> Result<(u16, String), Trouble> {
        clients::get(config::admin_address(self.nodes[index].place()), path)
    }

    /// The sum of a metric's series whose line contains `labels`; none while the node does not answer or has none.
    pub fn metric(&self, index: usize, name: &str, labels: &str) -> Option<f64> {
        let (_, text) = self.get(index, "/metrics").ok()?;
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(labels));
        let values: Vec<f64> = lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// A file of the scenario's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where everything lies.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves configurations, logs and records behind when the world goes; what nodes stored goes all the same.
    pub fn keep(&mut self) {
        for node in &mut self.nodes {
            node.signal(rustix::process::Signal::KILL);
            let _ = node.wait_gone(Duration::from_secs(30));
            node.discard();
        }
        self.folder.disable_cleanup(true);
    }

    /// A place's address, as other nodes see it.
    pub fn address(&self, index: usize) -> std::net::Ipv4Addr {
        let (region, node) = self.nodes[index].place();
        Place::of_node(region, node)
    }
}

impl Node {
    /// Its disk that loses power.
    ///
    /// # Errors
    /// It has another.
    pub fn power(&self) -> Result<&PowerFs, Trouble> {
        match self.disk() {
            Some(Disk::Power(power)) => Ok(power),
            _ => Err(Trouble::tool(format!("{} is not on a disk that loses power", self.name))),
        }
    }

    /// Its disk that is soon full.
    ///
    /// # Errors
    /// It has another.
    pub fn small(&self) -> Result<&SmallDisk, Trouble> {
        match self.disk() {
            Some(Disk::Small(small)) => Ok(small),
            _ => Err(Trouble::tool(format!("{} is not on a small disk", self.name))),
        }
    }
}
