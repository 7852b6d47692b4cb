//! One node: its configuration, its folder, its process. It ends with the value.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::time::{sleep, timeout};

use crate::PATIENCE;
use crate::error::{BenchError, io};
use crate::site::Site;
use crate::usage::Watched;

const POLL: Duration = Duration::from_millis(5);

/// Where a node is to listen, and what it is called.
#[derive(Clone, Debug)]
pub struct Seat {
    /// Its region's place.
    pub site: Site,
    /// Its number in the cluster, from 1.
    pub id: usize,
    ports: [u16; 3],
}

impl Seat {
    /// With free ports.
    pub fn new(site: &Site, id: usize) -> Result<Self, BenchError> {
        let ports = [site.free_port()?, site.free_port()?, site.free_port()?];
        Ok(Self { site: site.clone(), id, ports })
    }

    /// What clients dial.
    pub fn client(&self) -> String {
        format!("http://{}", self.at(0))
    }

    fn at(&self, port: usize) -> String {
        format!("{}:{}", self.site.address, self.ports[port])
    }
}

/// A running node.
pub struct Node {
    /// Where.
    pub seat: Seat,
    dir: PathBuf,
    process: Child,
}

impl Node {
    /// Formats it and starts it; it is not ready yet.
    ///
    /// # Errors
    /// It refuses.
    pub async fn start(binary: &Path, seat: Seat, all: &[Seat], dir: PathBuf) -> Result<Self, BenchError> {
        std::fs::create_dir_all(&dir).map_err(io("make a node's folder"))?;
        std::fs::write(dir.join("node.toml"), config(&seat, all)).map_err(io("write a node.toml"))?;
        let mut format = command(binary, "format", &seat, &dir)?;
        if !format.status().await.map_err(io("format a node"))?.success() {
            return Err(BenchError::wrong(format!("a node cannot be formatted; it said:\n{}", said(&dir))));
        }
        let process = command(binary, "serve", &seat, &dir)?.spawn().map_err(io("start a node"))?;
        Ok(Self { seat, dir, process })
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// It ends, or is not ready in time.
    pub async fn until_ready(&mut self) -> Result<(), BenchError> {
        let begun = Instant::now();
        while !is_ready(&self.seat.at(2)).await {
            let ended = self.process.try_wait().map_err(io("ask after a node"))?;
            if ended.is_some() || begun.elapsed() > PATIENCE {
                return Err(BenchError::wrong(format!(
                    "a node did not come up; it said:\n{}",
                    said(&self.dir)
                )));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Its process.
    pub fn watched(&self) -> Watched {
        let name = format!("{}-{}", self.seat.site.region, self.seat.id);
        Watched { name, pid: self.process.id().unwrap_or_default() }
    }

    /// Sends its process a signal.
    ///
    /// # Errors
    /// The system refuses.
    pub fn signal(&self, signal: Signal) -> Result<(), BenchError> {
        let pid = self.process.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.ok_or_else(|| BenchError::wrong("a node has ended"))?;
        kill(Pid::from_raw(pid), signal).map_err(|e| io(format!("send {signal} to a node"))(e.into()))
    }

    /// Ends it at once.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn kill(&mut self) -> Result<(), BenchError> {
        self.process.kill().await.map_err(io("kill a node"))
    }

    /// Starts it again after it was killed; it is not ready yet.
    ///
    /// # Errors
    /// The system refuses.
    pub fn start_again(&mut self, binary: &Path) -> Result<(), BenchError> {
        let mut serve = command(binary, "serve", &self.seat, &self.dir)?;
        self.process = serve.spawn().map_err(io("start a node"))?;
        Ok(())
    }

    /// Ends it as an operator would.
    ///
    /// # Errors
    /// It does not end.
    pub async fn end(mut self) -> Result<(), BenchError> {
        self.signal(Signal::SIGTERM)?;
        let ended = timeout(PATIENCE, self.process.wait()).await;
        ended
            .map_err(|_| BenchError::wrong("a node does not end when told to"))?
            .map_err(io("wait for a node"))?;
        Ok(())
    }
}

fn command(
    binary: &Path,
    what: &str,
    seat: &Seat,
    dir: &Path,
) -> Result<tokio::process::Command, BenchError> {
    let mut command = seat.site.command(binary, &dir.join(format!("{what}.log")))?;
    command.arg(what).arg("--config").arg(dir.join("node.toml"));
    Ok(command)
}

fn said(dir: &Path) -> String {
    ["format.log", "serve.log"].map(|log| std::fs::read_to_string(dir.join(log)).unwrap_or_default()).concat()
}

/// Its `node.toml`: the defaults, but for names and addresses.
fn config(seat: &Seat, all: &[Seat]) -> String {
    let mut regions: Vec<&str> = all.iter().map(|seat| seat.site.region).collect();
    regions.dedup();
    let regions: Vec<_> =
        (1..).zip(regions).map(|(id, name)| format!("{{ id = {id}, name = \"{name}\" }}")).collect();
    let nodes = all.iter().map(|node| {
        let (region, id) = (node.site.region, node.id);
        let (peer, client) = (node.at(1), node.client());
        format!("{{ id = {id}, region = \"{region}\", peer = \"http://{peer}\", client = \"{client}\" }}")
    });
    let nodes: Vec<_> = nodes.collect();
    let (id, region) = (seat.id, seat.site.region);
    let [client, peer, admin] = [0, 1, 2].map(|port| seat.at(port));
    let beyond = !seat.site.address.is_loopback();
    format!(
        "[node]\nid = {id}\nregion = \"{region}\"\ndata = \"data\"\n\n\
         [cluster]\nuuid = \"6d657269-6469-416e-8062-656e63686573\"\n\
         regions = [{}]\nnodes = [{}]\n\n\
         [listen]\nclient = \"{client}\"\npeer = \"{peer}\"\nadmin = \"{admin}\"\ninsecure_non_loopback = {beyond}\n",
        regions.join(", "),
        nodes.join(", ")
    )
}

async fn is_ready(admin: &str) -> bool {
    let ask = async {
        let mut connection = TcpStream::connect(admin).await?;
        connection.write_all(b"GET /readyz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    ask.await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_knows_itself_and_the_others() {
        let sites = [Site::loopback("us"), Site::loopback("eu")];
        let all = [Seat::new(&sites[0], 1).unwrap(), Seat::new(&sites[1], 2).unwrap()];
        let text = config(&all[1], &all);
        assert!(text.contains("id = 2\nregion = \"eu\""), "{text}");
        assert!(text.contains("regions = [{ id = 1, name = \"us\" }, { id = 2, name = \"eu\" }]"), "{text}");
        assert!(text.contains(&format!("client = \"{}\" }}]", all[1].client())), "{text}");
        assert!(text.contains("insecure_non_loopback = false"), "{text}");
    }
}
