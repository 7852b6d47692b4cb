//! One node of a world: started, watched, ended, and started again where that is asked for.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::error::io;
use super::world::Board;
use super::{DevError, DevEvent, Launcher, NodeError, PlannedNode, ready};
use crate::config::NodeConfig;

/// How long a node may drain before it is killed.
const END_WITHIN: Duration = Duration::from_secs(10);
/// Between a death and the next start; doubled while it dies young.
const RESPAWN_AFTER: Duration = Duration::from_millis(500);
const RESPAWN_AFTER_MOST: Duration = Duration::from_secs(10);
/// A node that lived so long did not die of its start.
const GROWN_UP: Duration = Duration::from_secs(60);
/// How much of a log an error repeats.
const LOG_TAIL_BYTES: u64 = 2048;

/// What a node is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Started, not yet ready.
    Starting,
    /// Ready.
    Ready,
    /// Not ready in time, still running.
    NotReady,
    /// Dead, how it died, and the end of its log.
    Dead(String, String),
    /// Ended as told.
    Ended,
}

/// What a node can be told.
pub(super) enum Order {
    /// SIGKILL, answered once it is dead.
    Kill(oneshot::Sender<Result<(), DevError>>),
    /// Start, answered once it is started.
    Start(oneshot::Sender<Result<(), DevError>>),
    /// End: SIGTERM, then SIGKILL; answered once it has ended.
    End(oneshot::Sender<()>),
}

/// What a member is made of.
pub(super) struct Member {
    pub node: PlannedNode,
    pub world: PathBuf,
    pub config: NodeConfig,
    pub launcher: Launcher,
    pub respawn: bool,
    pub ready_within: Duration,
    pub board: Arc<Board>,
    pub events: mpsc::UnboundedSender<DevEvent>,
    pub state: watch::Sender<State>,
    pub orders: mpsc::UnboundedReceiver<Order>,
}

/// A node that runs.
enum Running {
    Process {
        child: Box<Child>,
        /// Held open for as long as the node is to run; taken out of `child`, whose `wait` would close it.
        _stdin: Option<ChildStdin>,
    },
    Task {
        task: JoinHandle<Result<(), NodeError>>,
        stop: CancellationToken,
    },
}

impl Running {
    /// How it ended. May be cancelled and called again.
    async fn ended(&mut self) -> String {
        match self {
            Self::Process { child, .. } => match child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => format!("cannot be waited for: {error}"),
            },
            Self::Task { task, .. } => match task.await {
                Ok(Ok(())) => "it ended by itself".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            },
        }
    }

    /// Asks it to drain, waits, and ends it the hard way if it does not.
    async fn end(mut self) {
        match &self {
            Self::Process { child, .. } => {
                if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
                    // It may have died just now; the wait tells.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
                }
            }
            Self::Task { stop, .. } => stop.cancel(),
        }
        if timeout(END_WITHIN, self.ended()).await.is_err() {
            match &mut self {
                Self::Process { child, .. } => {
                    let _ = child.kill().await;
                }
                Self::Task { task, .. } => task.abort(),
            }
        }
    }
}

impl Member {
    /// Runs the node, and follows orders until told to end it or the world is dropped.
    pub async fn run(mut self) {
        let mut running = self.start_or_tell();
        let mut started = Instant::now();
        let mut probe = Some(Box::pin(self.probe()));
        let mut patience = Some(started + self.ready_within);
        let mut respawn_at = None;
        let mut respawn_after = RESPAWN_AFTER;
        loop {
            let mut death = None;
            tokio::select! {
                how = ended(&mut running), if running.is_some() => death = Some(how),
                () = at(respawn_at), if respawn_at.is_some() => {
                    respawn_at = None;
                    running = self.start_or_tell();
                    started = Instant::now();
                    probe = Some(Box::pin(self.probe()));
                    patience = Some(started + self.ready_within);
                    if running.is_none() {
                        respawn_at = Some(started + respawn_after);
                        (probe, patience) = (None, None);
                    }
                }
                () = done(&mut probe), if probe.is_some() && running.is_some() => {
                    (probe, patience) = (None, None);
                    let pid = pid_of(running.as_ref());
                    self.board.set_pid(self.node.id, pid);
                    self.state.send_replace(State::Ready);
                    self.tell(DevEvent::Ready { node: self.node.name.clone(), pid, after: started.elapsed() });
                }
                () = at(patience), if patience.is_some() && running.is_some() => {
                    patience = None;
                    self.state.send_replace(State::NotReady);
                    self.tell(DevEvent::NotReady { node: self.node.name.clone(), after: self.ready_within });
                }
                order = self.orders.recv() => match order {
                    Some(Order::Kill(answer)) => {
                        let killed = match &mut running {
                            Some(Running::Process { child, .. }) => match child.start_kill() {
                                Ok(()) => {
                                    death = Some(ended(&mut running).await);
                                    Ok(())
                                }
                                Err(error) => Err(io(self.node.folder(&self.world))(error)),
                            },
                            Some(Running::Task { .. }) => Err(DevError::NotAProcess(self.node.name.clone())),
                            None => Ok(()),
                        };
                        let _ = answer.send(killed);
                    }
                    Some(Order::Start(answer)) => {
                        let begun = if running.is_some() {
                            Err(DevError::Running(self.node.name.clone()))
                        } else {
                            respawn_at = None;
                            self.start().map(|node| {
                                running = Some(node);
                                started = Instant::now();
                                probe = Some(Box::pin(self.probe()));
                                patience = Some(started + self.ready_within);
                            })
                        };
                        let _ = answer.send(begun);
                    }
                    Some(Order::End(answer)) => {
                        if let Some(running) = running {
                            running.end().await;
                            self.tell(DevEvent::Ended { node: self.node.name.clone() });
                        }
                        self.state.send_replace(State::Ended);
                        let _ = answer.send(());
                        return;
                    }
                    None => {
                        if let Some(running) = running {
                            running.end().await;
                        }
                        return;
                    }
                },
            }
            if let Some(how) = death {
                running = None;
                (probe, patience) = (None, None);
                self.died(how);
                if self.respawn {
                    if started.elapsed() > GROWN_UP {
                        respawn_after = RESPAWN_AFTER;
                    }
                    respawn_at = Some(Instant::now() + respawn_after);
                    self.tell(DevEvent::Respawning { node: self.node.name.clone(), after: respawn_after });
                    respawn_after = (respawn_after * 2).min(RESPAWN_AFTER_MOST);
                }
            }
        }
    }

    fn probe(&self) -> impl Future<Output = ()> + Send + use<> {
        ready::ready(self.node.admin_port)
    }

    fn start_or_tell(&self) -> Option<Running> {
        self.start().map_err(|error| self.died(error.to_string())).ok()
    }

    fn start(&self) -> Result<Running, DevError> {
        let running = match &self.launcher {
            Launcher::InProcess(serve) => {
                let stop = CancellationToken::new();
                let task = tokio::spawn(serve(self.config.clone(), stop.clone()));
                Running::Task { task, stop }
            }
            Launcher::Processes { exe } => {
                let mut child = self.spawn(exe)?;
                Running::Process { _stdin: child.stdin.take(), child: Box::new(child) }
            }
        };
        self.state.send_replace(State::Starting);
        let pid = pid_of(Some(&running));
        self.tell(DevEvent::Started { node: self.node.name.clone(), pid });
        Ok(running)
    }

    fn spawn(&self, exe: &Path) -> Result<Child, DevError> {
        let path = self.node.log_file(&self.world);
        let log = OpenOptions::new().create(true).append(true).open(&path).map_err(io(&path))?;
        let same = log.try_clone().map_err(io(&path))?;
        Command::new(exe)
            .arg("serve")
            .arg("--config")
            .arg(&self.config.file)
            // Its stdin ends when this process does, whatever ended it: no node is left behind.
            .arg("--until-stdin-ends")
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(same)
            // A Ctrl-C at the terminal is for this process alone, which then ends its nodes in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(io(exe))
    }

    fn died(&self, how: String) {
        let log = tail_of(&self.node.log_file(&self.world));
        self.state.send_replace(State::Dead(how.clone(), log));
        self.tell(DevEvent::Died { node: self.node.name.clone(), how });
    }

    fn tell(&self, event: DevEvent) {
        // Nobody may be listening.
        let _ = self.events.send(event);
    }
}

async fn ended(running: &mut Option<Running>) -> String {
    match running {
        Some(running) => running.ended().await,
        None => std::future::pending().await,
    }
}

async fn done(probe: &mut Option<std::pin::Pin<Box<impl Future<Output = ()>>>>) {
    match probe {
        Some(probe) => probe.await,
        None => std::future::pending().await,
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

fn pid_of(running: Option<&Running>) -> u32 {
    match running {
        Some(Running::Process { child, .. }) => child.id().unwrap_or(0),
        _ => std::process::id(),
    }
}

/// The last lines of a log.
pub(super) fn tail_of(log: &Path) -> String {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(log)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
