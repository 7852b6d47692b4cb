//! Regions on this machine, as processes of `meridian dev`. Nothing outlives the value.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use meridian_sdk::v1::StreamSettings;
use meridian_sdk::verify::{RemoteCopy, Report, verify};
use meridian_sdk::{Client, ClientOptions, SdkError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::error::{BenchError, io};
use crate::plan;
use crate::usage::Watched;

/// How long anything may take that should take seconds.
pub const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
const LOG: &str = "dev.log";

/// A running world.
pub struct World {
    dir: PathBuf,
    dev: Child,
    regions: Vec<Region>,
}

/// One of its regions.
pub struct Region {
    /// Its name.
    pub name: String,
    /// A client of it.
    pub client: Client,
    /// What a plain client dials.
    pub endpoint: String,
    nodes: Vec<Watched>,
}

/// What `cluster.json` says that is needed here.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct ClusterFile {
    regions: Vec<RegionEntry>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct RegionEntry {
    name: String,
    nodes: Vec<NodeEntry>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct NodeEntry {
    id: u64,
    endpoint: String,
    pid: u32,
}

impl World {
    /// Starts it in a folder that is not there yet, and waits until it is ready.
    pub async fn start(binary: &Path, world: plan::World, dir: PathBuf) -> Result<Self, BenchError> {
        std::fs::create_dir_all(&dir).map_err(io("make the world's folder"))?;
        let log = File::create(dir.join(LOG)).map_err(io("make the world's log"))?;
        let data = dir.join("data");
        let dev = Command::new(binary)
            .args(world.arguments())
            .arg("--data")
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(io("share the world's log"))?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(io("start the servers"))?;
        let mut started = Self { dir, dev, regions: Vec::new() };
        let cluster = started.cluster(&data.join("cluster.json")).await?;
        started.regions = cluster.regions.into_iter().map(Region::new).collect::<Result<_, _>>()?;
        Ok(started)
    }

    /// It writes its file once every node is ready.
    async fn cluster(&mut self, path: &Path) -> Result<ClusterFile, BenchError> {
        let begun = Instant::now();
        loop {
            if let Ok(text) = std::fs::read(path) {
                return serde_json::from_slice(&text)
                    .map_err(|error| BenchError::wrong(format!("cluster.json is not of its form: {error}")));
            }
            let ended = self.dev.try_wait().map_err(io("ask after the servers"))?;
            if ended.is_some() || begun.elapsed() > PATIENCE {
                let said = std::fs::read_to_string(self.dir.join(LOG)).unwrap_or_default();
                return Err(BenchError::wrong(format!("the servers did not come up; they said:\n{said}")));
            }
            sleep(POLL).await;
        }
    }

    /// Where events are published.
    pub fn first(&self) -> &Region {
        &self.regions[0]
    }

    /// Where they are read, if anywhere.
    pub fn second(&self) -> Option<&Region> {
        self.regions.get(1)
    }

    /// Its processes.
    pub fn nodes(&self) -> Vec<Watched> {
        self.regions.iter().flat_map(|region| region.nodes.clone()).collect()
    }

    /// Creates a stream, and waits until every region knows it.
    pub async fn create(&self, stream: &str) -> Result<(), BenchError> {
        let settings = StreamSettings { partitions: plan::PARTITIONS, ..StreamSettings::default() };
        self.first().client.admin().create_stream(stream, settings).await?;
        for region in &self.regions {
            let begun = Instant::now();
            while let Err(error) = region.client.admin().get_stream(stream).await {
                if !matches!(error, SdkError::Refused(_)) || begun.elapsed() > PATIENCE {
                    return Err(error.into());
                }
                sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// The round trip of each link as its nodes measure it, by name, once they have.
    pub async fn round_trips(&self) -> Result<Vec<(String, Duration)>, BenchError> {
        let mut trips = Vec::new();
        let begun = Instant::now();
        for region in &self.regions {
            for from in self.regions.iter().filter(|from| from.name != region.name) {
                let micros = loop {
                    let lag = region.client.admin().lag().await?;
                    let link = lag.inbound.iter().find(|link| link.origin == from.name);
                    if let Some(micros) = link.and_then(|link| link.round_trip_us) {
                        break micros;
                    }
                    if begun.elapsed() > PATIENCE {
                        let link = format!("{} → {}", from.name, region.name);
                        return Err(BenchError::wrong(format!("the link {link} measured no round trip")));
                    }
                    sleep(POLL).await;
                };
                trips.push((format!("{} → {}", from.name, region.name), Duration::from_micros(micros)));
            }
        }
        Ok(trips)
    }

    /// Compares the stored bytes of a stream in all regions, until they agree or it is clear that they do not.
    pub async fn verify(&self, stream: &str, events: u64) -> Result<(), BenchError> {
        let copies: Vec<RemoteCopy> =
            self.regions.iter().map(|region| RemoteCopy::new(&region.name, stream, &region.client)).collect();
        let begun = Instant::now();
        loop {
            let report: Report = verify(stream, &copies).await;
            if report.agree && report.events == events {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                let what = format!(
                    "stream {stream}: {events} acknowledged, {} held alike, {} lanes disagree",
                    report.events,
                    report.disagreeing().count()
                );
                return Err(BenchError::wrong(what));
            }
            sleep(POLL).await;
        }
    }

    /// Ends it and removes what it stored.
    pub async fn end(mut self) -> Result<(), BenchError> {
        if let Some(pid) = self.dev.id().and_then(|pid| i32::try_from(pid).ok()) {
            kill(Pid::from_raw(pid), Signal::SIGTERM).map_err(|e| io("end the servers")(e.into()))?;
        }
        let ended = timeout(PATIENCE, self.dev.wait()).await;
        ended
            .map_err(|_| BenchError::wrong("the servers do not end when told to"))?
            .map_err(io("wait for the servers"))?;
        std::fs::remove_dir_all(&self.dir).map_err(io("remove the world's folder"))
    }
}

impl Region {
    fn new(entry: RegionEntry) -> Result<Self, BenchError> {
        let endpoints: Vec<String> = entry.nodes.iter().map(|node| node.endpoint.clone()).collect();
        let Some(endpoint) = endpoints.first().cloned() else {
            return Err(BenchError::wrong(format!("region {} has no node", entry.name)));
        };
        let options = ClientOptions { retry_for: PATIENCE, ..ClientOptions::default() };
        let client = Client::connect(endpoints, options)?;
        let watched =
            |node: &NodeEntry| Watched { name: format!("{}-{}", entry.name, node.id), pid: node.pid };
        let nodes = entry.nodes.iter().map(watched).collect();
        Ok(Self { client, endpoint, nodes, name: entry.name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_dev_writes() {
        let text = r#"{"regions":[{"name":"us","nodes":[
            {"id":1,"endpoint":"http://127.0.0.1:7401","admin":"http://127.0.0.1:7601","pid":4711,"dir":"d"}]}]}"#;
        let file: ClusterFile = serde_json::from_str(text).unwrap();
        let region = Region::new(file.regions.into_iter().next().unwrap()).unwrap();
        assert_eq!(region.nodes, [Watched { name: "us-1".to_owned(), pid: 4711 }]);
    }
}
