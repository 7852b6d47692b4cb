//! Where the servers of one region run, and how they are reached.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::error::{BenchError, io};
use crate::plan::Place;

const POLL: Duration = Duration::from_millis(20);

/// A region's place on this machine.
#[derive(Clone, Debug)]
pub struct Site {
    /// The region's name: us or eu.
    pub region: &'static str,
    /// What its servers bind and others dial.
    pub address: IpAddr,
    /// The network namespace that they run in; none: this program's.
    pub namespace: Option<String>,
}

/// The first port that servers in a namespace of their own get.
const FIRST_PORT: u16 = 7400;
static NEXT_PORT: AtomicU16 = AtomicU16::new(FIRST_PORT);

impl Site {
    /// On the loopback, where all regions share one address and differ in ports.
    pub const fn loopback(region: &'static str) -> Self {
        Self { region, address: IpAddr::V4(Ipv4Addr::LOCALHOST), namespace: None }
    }

    /// A command that runs at this place, ends with the value that it is spawned into, and writes what it says to a file.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn command(&self, program: impl AsRef<OsStr>, log: &Path) -> Result<Command, BenchError> {
        let log = std::fs::File::create(log).map_err(io(format!("make the log {}", log.display())))?;
        let mut command = match &self.namespace {
            None => Command::new(program),
            Some(namespace) => {
                // It becomes the program: the process that is watched is the server itself.
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
        };
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(io("share the log"))?)
            .stderr(log)
            .kill_on_drop(true);
        Ok(command)
    }

    /// A port of this place that nobody listened on a moment ago.
    ///
    /// # Errors
    /// What binding it says.
    pub fn free_port(&self) -> Result<u16, BenchError> {
        if self.namespace.is_some() {
            // Nobody else is there.
            return Ok(NEXT_PORT.fetch_add(1, Ordering::Relaxed));
        }
        let listener = std::net::TcpListener::bind((self.address, 0)).map_err(io("find a free port"))?;
        Ok(listener.local_addr().map_err(io("find a free port"))?.port())
    }
}

/// The sites of a place on the loopback.
pub fn loopback(place: Place) -> Vec<Site> {
    place.regions().iter().map(|region| Site::loopback(region)).collect()
}

/// Waits until somebody listens there, or the process has ended.
///
/// # Errors
/// Not in time; what the process said is in the error.
pub async fn until_listening(
    address: (IpAddr, u16),
    server: &mut Child,
    log: &Path,
    patience: Duration,
) -> Result<(), BenchError> {
    let begun = Instant::now();
    while TcpStream::connect(address).await.is_err() {
        let ended = server.try_wait().map_err(io("ask after a server"))?;
        if ended.is_some() || begun.elapsed() > patience {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            return Err(BenchError::wrong(format!("a server did not come up; it said:\n{said}")));
        }
        sleep(POLL).await;
    }
    Ok(())
}
