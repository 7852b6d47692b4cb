//! The binaries that are measured: ours, built here, and the peers', each fetched by its own script.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{BenchError, io};
use crate::plan::{Row, System};
use crate::server::{Profile, Server};

/// Where they are.
#[derive(Clone, Debug)]
pub struct Tools {
    server: Server,
    jetstream: Option<PathBuf>,
    kafka: Option<PathBuf>,
}

impl Tools {
    /// Fetches what these rows need.
    ///
    /// # Errors
    /// Something cannot be built or fetched.
    pub fn fetch(rows: &[Row]) -> Result<Self, BenchError> {
        let systems = || rows.iter().flat_map(|row| &row.cases).map(|case| case.system);
        let wanted = |is: fn(System) -> bool, name: &str| {
            systems().any(is).then(|| run(&folder().join("peers").join(name).join("fetch.sh"))).transpose()
        };
        Ok(Self {
            jetstream: wanted(|system| matches!(system, System::JetStream(_)), "jetstream")?,
            kafka: wanted(|system| matches!(system, System::Kafka(..)), "kafka")?,
            server: Server::find()?,
        })
    }

    /// The binary `meridian`.
    pub fn meridian(&self) -> &Path {
        &self.server.path
    }

    /// With which profile that was built, if it was built here.
    pub fn profile(&self) -> Option<Profile> {
        self.server.profile
    }

    /// The binary `nats-server`.
    ///
    /// # Errors
    /// No row needed it.
    pub fn jetstream(&self) -> Result<&Path, BenchError> {
        self.jetstream.as_deref().ok_or_else(|| BenchError::wrong("JetStream was not fetched"))
    }

    /// Kafka's jars.
    ///
    /// # Errors
    /// No row needed them.
    pub fn kafka(&self) -> Result<&Path, BenchError> {
        self.kafka.as_deref().ok_or_else(|| BenchError::wrong("Kafka was not fetched"))
    }
}

/// The folder of this program's source, wherever it is called from.
pub fn folder() -> PathBuf {
    // Cargo tells a program that it runs where the program's crate is.
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| "benches".into(), PathBuf::from)
}

/// Runs a script; what it says last is where its peer is.
fn run(script: &Path) -> Result<PathBuf, BenchError> {
    eprintln!("fetching by {}", script.display());
    let output = Command::new(script)
        .stderr(Stdio::inherit())
        .output()
        .map_err(io(format!("run {}", script.display())))?;
    let said = String::from_utf8_lossy(&output.stdout);
    match said.lines().last() {
        Some(path) if output.status.success() => Ok(path.trim().into()),
        _ => Err(BenchError::wrong(format!("{} failed: see above", script.display()))),
    }
}
