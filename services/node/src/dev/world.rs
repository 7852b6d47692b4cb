//! A running world.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use meridian_types::NodeId;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::error::io;
use super::member::{Member, Order, State, tail_of};
use super::{ClusterFile, ClusterNode, ClusterRegion, DevError, DevEvent, DevOptions, Launcher, Plan};
use crate::lock::FolderLock;

const LOCK: &str = "dev.lock";
const CLUSTER_FILE: &str = "cluster.json";

/// A running world. End it with [`World::end`]; one that is dropped ends its nodes as well, but nobody waits for it.
#[derive(Debug)]
pub struct World {
    folder: PathBuf,
    plan: Plan,
    handles: Vec<Handle>,
    board: Arc<Board>,
    _lock: FolderLock,
}

#[derive(Debug)]
struct Handle {
    orders: mpsc::UnboundedSender<Order>,
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
}

/// `cluster.json`, as it is and on the disk.
#[derive(Debug)]
pub(super) struct Board {
    path: PathBuf,
    /// Nobody is told of a world of which a part is not there yet.
    inner: Mutex<(ClusterFile, bool)>,
    events: mpsc::UnboundedSender<DevEvent>,
}

impl Board {
    pub(super) fn set_pid(&self, id: NodeId, pid: u32) {
        let mut inner = self.inner.lock();
        inner.0.set_pid(id, pid);
        if inner.1
            && let Err(error) = inner.0.write(&self.path)
        {
            let _ = self.events.send(DevEvent::ClusterFile { error: error.to_string() });
        }
    }

    fn publish(&self) -> Result<(), DevError> {
        let mut inner = self.inner.lock();
        inner.1 = true;
        inner.0.write(&self.path)
    }
}

impl World {
    /// Starts a world and waits until all of its nodes are ready; then `cluster.json` is there.
    ///
    /// # Errors
    /// What is asked for cannot be, or a node died or was not ready in time; no node is left running then.
    pub async fn start(
        options: DevOptions,
        launcher: Launcher,
        events: mpsc::UnboundedSender<DevEvent>,
    ) -> Result<Self, DevError> {
        std::fs::create_dir_all(&options.data).map_err(io(&options.data))?;
        // What is written down (cluster.json, arguments of children) must hold from any other folder too.
        let folder = options.data.canonicalize().map_err(io(&options.data))?;
        let lock = FolderLock::acquire(&folder, LOCK)?;
        let options = DevOptions { data: folder.clone(), ..options };
        let mut plan = Plan::of(&options)?;
        plan.check_ports()?;
        let configs = plan.lay_out(&folder)?;

        for region in plan.none_may_fail() {
            // Nobody may be listening.
            let _ = events.send(DevEvent::NoneMayFail { region: region.clone() });
        }

        let path = folder.join(CLUSTER_FILE);
        // The last run's would be taken for this one's.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(&path)(error)),
            _ => {}
        }
        let file = cluster_file(&plan, &folder);
        let board = Arc::new(Board { path, inner: Mutex::new((file, false)), events: events.clone() });

        let mut handles = Vec::with_capacity(plan.nodes.len());
        for (node, config) in plan.nodes.iter().zip(configs) {
            let (orders, inbox) = mpsc::unbounded_channel();
            let (state, watcher) = watch::channel(State::Starting);
            let member = Member {
                node: node.clone(),
                world: folder.clone(),
                config,
                launcher: launcher.clone(),
                respawn: options.respawn,
                ready_within: options.ready_within,
                board: Arc::clone(&board),
                events: events.clone(),
                state,
                orders: inbox,
            };
            handles.push(Handle { orders, state: watcher, task: tokio::spawn(member.run()) });
        }
        let world = Self { folder, plan, handles, board, _lock: lock };
        match world.all_ready(&options).await.and_then(|()| world.board.publish()) {
            Ok(()) => Ok(world),
            Err(error) => {
                world.end().await;
                Err(error)
            }
        }
    }

    async fn all_ready(&self, options: &DevOptions) -> Result<(), DevError> {
        for node in &self.plan.nodes {
            self.ready(&node.name, options.ready_within).await?;
        }
        Ok(())
    }

    /// Waits until a node is ready.
    ///
    /// # Errors
    /// It died, or was not ready in time after its start.
    pub async fn ready(&self, name: &str, within: std::time::Duration) -> Result<(), DevError> {
        let mut state = self.handle(name)?.state.clone();
        let node = name.to_owned();
        let seen = state.wait_for(|state| *state != State::Starting).await;
        let seen = seen.map(|s| s.clone()).unwrap_or(State::Ended);
        match seen {
            State::Ready => Ok(()),
            State::Dead(how, log_tail) => Err(DevError::Died { node, how, log_tail }),
            State::Ended => Err(DevError::Died { node, how: "it was ended".into(), log_tail: String::new() }),
            State::Starting | State::NotReady => {
                let log_tail = self.log_tail(name);
                Err(DevError::NotReady { node, after: within, log_tail })
            }
        }
    }

    /// The world's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The world's plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where `cluster.json` is.
    pub fn cluster_path(&self) -> &Path {
        &self.board.path
    }

    /// What `cluster.json` says.
    pub fn cluster(&self) -> ClusterFile {
        self.board.inner.lock().0.clone()
    }

    /// SIGKILLs a node, as a power cut would; returns once it is dead.
    ///
    /// # Errors
    /// No such node, or it runs in this process.
    pub async fn kill(&self, name: &str) -> Result<(), DevError> {
        let (answer, killed) = oneshot::channel();
        self.order(name, Order::Kill(answer))?;
        killed.await.map_err(|_| DevError::NoSuchNode(name.to_owned()))?
    }

    /// Starts a node that is dead.
    ///
    /// # Errors
    /// No such node, it runs already, or it cannot be started.
    pub async fn start_node(&self, name: &str) -> Result<(), DevError> {
        let (answer, started) = oneshot::channel();
        self.order(name, Order::Start(answer))?;
        started.await.map_err(|_| DevError::NoSuchNode(name.to_owned()))?
    }

    /// Ends all nodes that were started here: each may drain for 10 s, then it is killed.
    pub async fn end(self) {
        let mut answers = Vec::new();
        for handle in &self.handles {
            let (answer, ended) = oneshot::channel();
            if handle.orders.send(Order::End(answer)).is_ok() {
                answers.push(ended);
            }
        }
        for ended in answers {
            let _ = ended.await;
        }
        for handle in self.handles {
            let _ = handle.task.await;
        }
    }

    fn order(&self, name: &str, order: Order) -> Result<(), DevError> {
        self.handle(name)?.orders.send(order).map_err(|_| DevError::NoSuchNode(name.to_owned()))
    }

    fn handle(&self, name: &str) -> Result<&Handle, DevError> {
        let at = self.plan.nodes.iter().position(|node| node.name == name);
        at.and_then(|at| self.handles.get(at)).ok_or_else(|| DevError::NoSuchNode(name.to_owned()))
    }

    fn log_tail(&self, name: &str) -> String {
        let node = self.plan.nodes.iter().find(|node| node.name == name);
        node.map(|node| tail_of(&node.log_file(&self.folder))).unwrap_or_default()
    }
}

fn cluster_file(plan: &Plan, folder: &Path) -> ClusterFile {
    let regions = plan.regions.iter().map(|region| ClusterRegion {
        name: region.name.clone(),
        nodes: plan
            .nodes_of(&region.name)
            .map(|node| ClusterNode {
                id: node.id,
                name: node.name.clone(),
                endpoint: node.endpoint(),
                admin: node.admin(),
                pid: 0,
                dir: node.folder(folder).display().to_string(),
            })
            .collect(),
    });
    ClusterFile { regions: regions.collect() }
}
