//! One JVM: started, waited for, told to end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::time::timeout;

use super::settings::jvm;
use crate::error::{BenchError, io};
use crate::site::Site;
use crate::usage::Watched;

/// How long a JVM may take to start or end, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A running JVM; it ends with this value.
#[derive(Debug)]
pub struct Server {
    /// us, eu, or mm2.
    pub name: &'static str,
    /// The process.
    pub child: Child,
    /// What it says.
    pub log: PathBuf,
}

impl Server {
    /// Starts it.
    pub fn start(
        name: &'static str,
        site: &Site,
        dir: &Path,
        jars: &Path,
        heap: &[&str],
        main: &str,
        properties: &Path,
    ) -> Result<Self, BenchError> {
        let log = dir.join(format!("{name}.log"));
        let mut command = site.command("java", &log)?;
        command.args(jvm(heap, dir, jars, main)).arg(properties);
        let child = command.spawn().map_err(io("start java; is a Java 17 or later installed?"))?;
        Ok(Self { name, child, log })
    }

    /// Its process.
    pub fn watched(&self) -> Option<Watched> {
        self.child.id().map(|pid| Watched { name: self.name.to_owned(), pid })
    }

    /// The end of what it said.
    pub fn said(&self) -> String {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Tells it to end, and waits until it has.
    pub async fn end(mut self) -> Result<(), BenchError> {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            kill(Pid::from_raw(pid), Signal::SIGTERM).map_err(|e| io("end a server")(e.into()))?;
        }
        let ended = timeout(PATIENCE, self.child.wait()).await;
        let what = || BenchError::wrong(format!("{} does not end when told to:\n{}", self.name, self.said()));
        ended.map_err(|_| what())?.map_err(io("wait for a server"))?;
        Ok(())
    }
}
