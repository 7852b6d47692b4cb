//! NATS JetStream as a peer: one server a region, a stream in the first, and a mirror of it in the second.
//!
//! Flows in: the binary that `benches/peers/jetstream/fetch.sh` builds. Flows out: streams to publish to and to read.
//! Must never make it look worse than its own best client does: publishing costs less CPU here than by the Go client.

mod ack;
mod api;
mod publisher;
mod reader;
mod servers;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

pub use self::publisher::{Mode, Publisher};
pub use self::reader::Reader;
use self::servers::Server;
use crate::PATIENCE;
use crate::error::{BenchError, io};
use crate::plan::Sync;
use crate::site::Site;
use crate::tally::Tally;
use crate::usage::Watched;

const POLL: Duration = Duration::from_millis(20);

/// How the servers are set up.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// When a message is synced.
    pub sync: Sync,
}

/// Running servers, one a region. They end with the value.
#[derive(Debug)]
pub struct JetStream {
    dir: PathBuf,
    servers: Vec<Server>,
}

impl JetStream {
    /// Starts them in a folder that is not there yet, and waits until each serves and reaches the others.
    ///
    /// # Errors
    /// What a server said that did not come up.
    pub async fn start(
        binary: &Path,
        options: Options,
        sites: &[Site],
        dir: PathBuf,
    ) -> Result<Self, BenchError> {
        std::fs::create_dir_all(&dir).map_err(io("make the folder of the servers"))?;
        let mut servers: Vec<Server> = Vec::new();
        for site in sites {
            let server = Server::start(binary, options, site, servers.first(), &dir).await?;
            servers.push(server);
        }
        for (from, to) in servers.iter().flat_map(|from| servers.iter().map(move |to| (from, to))) {
            from.api.until_reached(to.region()).await?;
        }
        Ok(Self { dir, servers })
    }

    /// The processes, named by their regions.
    pub fn nodes(&self) -> Vec<Watched> {
        self.servers.iter().filter_map(Server::watched).collect()
    }

    /// Creates a stream in the first region: one replica, in files.
    ///
    /// # Errors
    /// What the server said.
    pub async fn create(&self, stream: &str) -> Result<(), BenchError> {
        self.server(0)?.api.create_stream(stream).await
    }

    /// Creates its mirror in the second region, and waits until it reads from the first.
    ///
    /// # Errors
    /// What the server said.
    pub async fn mirror(&self, stream: &str) -> Result<(), BenchError> {
        let (origin, api) = (self.server(0)?.region(), &self.server(1)?.api);
        api.create_mirror(stream, origin).await?;
        let begun = Instant::now();
        while !api.stream(stream).await?.is_mirroring() {
            patient(begun, || format!("the mirror of {stream} does not begin"))?;
            sleep(POLL).await;
        }
        Ok(())
    }

    /// A publisher in the first region, on a connection of its own.
    ///
    /// # Errors
    /// It cannot connect.
    pub async fn publisher(
        &self,
        stream: &str,
        mode: Mode,
        tally: Arc<Tally>,
    ) -> Result<Publisher, BenchError> {
        Publisher::new(self.server(0)?.address, stream, mode, tally).await
    }

    /// A reader of a region's stream from its first message on, on a connection of its own.
    ///
    /// # Errors
    /// It cannot connect, or the stream is not there.
    pub async fn reader(&self, region: usize, stream: &str) -> Result<Reader, BenchError> {
        let server = self.server(region)?;
        Reader::new(server.address, &server.api, stream).await
    }

    /// How many messages a region's stream has.
    ///
    /// # Errors
    /// The stream is not there.
    pub async fn stored(&self, region: usize, stream: &str) -> Result<u64, BenchError> {
        Ok(self.server(region)?.api.stream(stream).await?.state.messages)
    }

    /// Waits until every region has exactly so many, numbered alike and of as many bytes.
    ///
    /// # Errors
    /// They do not come to that in time.
    pub async fn verify(&self, stream: &str, events: u64) -> Result<(), BenchError> {
        let begun = Instant::now();
        loop {
            let mut states = Vec::new();
            for server in &self.servers {
                states.push(server.api.stream(stream).await?.state);
            }
            if states.iter().all(|state| *state == states[0] && state.is_all_of(events)) {
                return Ok(());
            }
            patient(begun, || {
                format!("stream {stream}: {events} acknowledged, and the regions have {states:?}")
            })?;
            sleep(POLL).await;
        }
    }

    /// Ends the servers and removes what they stored.
    ///
    /// # Errors
    /// One does not end when told to.
    pub async fn end(self) -> Result<(), BenchError> {
        // The one that dials first, so that it does not dial a server that is gone.
        for server in self.servers.into_iter().rev() {
            server.end().await?;
        }
        std::fs::remove_dir_all(&self.dir).map_err(io("remove what the servers stored"))
    }

    fn server(&self, region: usize) -> Result<&Server, BenchError> {
        self.servers.get(region).ok_or_else(|| BenchError::wrong(format!("there is no region {region}")))
    }
}

/// An error once it took too long.
fn patient(begun: Instant, what: impl FnOnce() -> String) -> Result<(), BenchError> {
    if begun.elapsed() > PATIENCE { Err(BenchError::wrong(what())) } else { Ok(()) }
}
