//! One node: a process, its folder and its disk.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::clock::Clock;
use crate::disk::{PowerFs, SmallDisk};
use crate::net::{Place, enter};
use crate::trouble::{Context as _, Trouble};
use crate::world::{DiskKind, Plan};

const LOG_TAIL_LINES: usize = 15;

/// What a node stores on.
#[derive(Debug)]
pub enum Disk {
    /// A folder.
    Plain,
    /// A file system that loses power on command.
    Power(PowerFs),
    /// A small file system.
    Small(SmallDisk),
}

/// A node. Dropped, its process is killed before its disk goes.
#[derive(Debug)]
pub struct Node {
    /// As in its folder and in reports: `us-1`.
    pub name: String,
    place: (u8, u8),
    folder: PathBuf,
    child: Option<Child>,
    last: Option<ExitStatus>,
    clock: Option<Clock>,
    disk: Option<Disk>,
}

impl Node {
    /// Makes its folder, disk and configuration.
    pub(super) fn lay_out(
        name: String,
        place: (u8, u8),
        world: &Path,
        config: &str,
        plan: &Plan,
    ) -> Result<Self, Trouble> {
        let folder = world.join(&name);
        let data = folder.join("data");
        std::fs::create_dir_all(&data).context(data.display())?;
        std::fs::write(folder.join("node.toml"), config).context(folder.display())?;
        let disk = match plan.disk {
            DiskKind::Power => Disk::Power(PowerFs::mount(&folder.join("backing"), &data)?),
            DiskKind::Small(mebibytes) if place.0 == 1 => {
                Disk::Small(SmallDisk::make(&folder, &data, mebibytes)?)
            }
            DiskKind::Plain | DiskKind::Small(_) => Disk::Plain,
        };
        // mkfs puts a folder of its own into what `format` wants empty.
        if matches!(disk, Disk::Small(_)) {
            let _ = std::fs::remove_dir(data.join("lost+found"));
        }
        let clock = if plan.clocks { Some(Clock::new(&folder.join("clock"))?) } else { None };
        Ok(Self { name, place, folder, child: None, last: None, clock, disk: Some(disk) })
    }

    /// Its region's number, and its own within it.
    pub fn place(&self) -> (u8, u8) {
        self.place
    }

    /// Its data folder, as the node sees it.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Its configuration.
    pub fn config(&self) -> PathBuf {
        self.folder.join("node.toml")
    }

    /// What it stores on.
    pub fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    /// Its clock.
    ///
    /// # Errors
    /// The plan asked for none.
    pub fn clock(&self) -> Result<&Clock, Trouble> {
        self.clock.as_ref().ok_or_else(|| Trouble::tool(format!("{} has no clock of its own", self.name)))
    }

    fn command(&self, binary: &Path, command: &str) -> Command {
        let mut line = Command::new(binary);
        line.arg(command).arg("--config").arg(self.config()).stdin(Stdio::null());
        line
    }

    pub(super) fn format(&mut self, binary: &Path) -> Result<(), Trouble> {
        let made = self.command(binary, "format").output().context("meridian format")?;
        if made.status.success() {
            Ok(())
        } else {
            let said = String::from_utf8_lossy(&made.stderr).into_owned();
            Err(Trouble::tool(format!("{} cannot be formatted: {said}", self.name)))
        }
    }

    pub(super) fn launch(&mut self, binary: &Path) -> Result<(), Trouble> {
        if self.runs() {
            return Err(Trouble::tool(format!("{} runs already", self.name)));
        }
        let path = self.folder.join("log");
        let log = OpenOptions::new().create(true).append(true).open(&path).context(path.display())?;
        let same = log.try_clone().context(path.display())?;
        let mut line = self.command(binary, "serve");
        // Its stdin ends when this process does, whatever ended it: no node is left behind.
        line.arg("--until-stdin-ends").stdin(Stdio::piped()).stdout(log).stderr(same).process_group(0);
        if let Some(clock) = &self.clock {
            line.envs(clock.environment());
        }
        let (region, node) = self.place;
        let child = enter(Place::Node(region, node), move || line.spawn().context("meridian serve"))?;
        self.child = Some(child);
        Ok(())
    }

    /// Whether its process is there.
    pub fn runs(&mut self) -> bool {
        if let Some(child) = &mut self.child
            && let Ok(Some(status)) = child.try_wait()
        {
            (self.child, self.last) = (None, Some(status));
        }
        self.child.is_some()
    }

    /// How its last process ended.
    pub fn last_exit(&self) -> Option<ExitStatus> {
        self.last
    }

    /// Sends a signal, if it runs.
    pub fn signal(&mut self, signal: Signal) {
        let pid = self.child.as_ref().and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?));
        if let Some(pid) = pid {
            // It may have ended just now; it is our child still, so the number is no other's.
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits until its process is gone.
    ///
    /// # Errors
    /// It stays.
    pub fn wait_gone(&mut self, within: Duration) -> Result<(), Trouble> {
        let until = Instant::now() + within;
        while self.runs() {
            if Instant::now() > until {
                return Err(Trouble::broken(format!("{} does not end within {within:?}", self.name)));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Its memory in bytes, as the kernel counts it.
    pub fn resident_bytes(&self) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.as_ref()?.id())).ok()?;
        let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    /// All of its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Lets go of its disk and what it stored; for a world that is kept for its logs.
    pub(super) fn discard(&mut self) {
        self.disk = None;
        for name in ["data", "data.aside", "backing"] {
            // What cannot be removed stays: it is in a folder of temporary files.
            let _ = std::fs::remove_dir_all(self.folder.join(name));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(Disk::Power(power)) = &self.disk {
            // A process that waits for a sync cannot die.
            power.release_syncs(crate::disk::Release::Abandon);
        }
        self.signal(Signal::KILL);
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
    }
}
