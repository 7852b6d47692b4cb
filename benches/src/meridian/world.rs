//! Regions on this machine, each node a process. Nothing outlives the value.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use meridian_sdk::v1::StreamSettings;
use meridian_sdk::verify::{RemoteCopy, Report, verify};
use meridian_sdk::{Client, ClientOptions, SdkError};
use nix::sys::signal::Signal;
use tokio::time::sleep;

use super::node::{Node, Seat};
use crate::PATIENCE;
use crate::error::{BenchError, io};
use crate::plan::{PARTITIONS, Place};
use crate::site::Site;
use crate::usage::Watched;

const CREATED_AT_ONCE: usize = 64;
const POLL: Duration = Duration::from_millis(50);
/// Nodes of a region of three.
const TRIO: usize = 3;

/// A running world.
pub struct World {
    dir: PathBuf,
    nodes: Vec<Node>,
    regions: Vec<Region>,
}

/// One of its regions.
pub struct Region {
    /// Its name.
    pub name: &'static str,
    /// A client of it.
    pub client: Client,
    /// What a plain client dials.
    pub endpoint: String,
}

impl World {
    /// Starts it in a folder that is not there yet, and waits until it is ready.
    ///
    /// # Errors
    /// A node does not come up.
    pub async fn start(
        binary: &Path,
        place: Place,
        sites: &[Site],
        dir: PathBuf,
    ) -> Result<Self, BenchError> {
        let each = if place == Place::Trio { TRIO } else { 1 };
        let seats = sites.iter().flat_map(|site| std::iter::repeat_n(site, each));
        let seats: Vec<Seat> =
            (1..).zip(seats).map(|(id, site)| Seat::new(site, id)).collect::<Result<_, _>>()?;
        let mut nodes = Vec::new();
        for seat in &seats {
            let folder = dir.join(format!("node-{}", seat.id));
            nodes.push(Node::start(binary, seat.clone(), &seats, folder).await?);
        }
        for node in &mut nodes {
            node.until_ready().await?;
        }
        let regions = sites.iter().map(|site| Region::new(site, &seats)).collect::<Result<_, _>>()?;
        Ok(Self { dir, nodes, regions })
    }

    /// Its regions: events are published in the first, and read in the last.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Its processes.
    pub fn nodes(&self) -> Vec<Watched> {
        self.nodes.iter().map(Node::watched).collect()
    }

    /// Creates a stream, and waits until every region knows it.
    ///
    /// # Errors
    /// It is refused.
    pub async fn create(&self, stream: &str) -> Result<(), BenchError> {
        let settings = StreamSettings { partitions: PARTITIONS, ..StreamSettings::default() };
        self.regions[0].client.admin().create_stream(stream, settings).await?;
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

    /// Creates streams in which nothing will happen.
    ///
    /// # Errors
    /// One is refused.
    pub async fn create_many(&self, streams: u64) -> Result<(), BenchError> {
        let client = &self.regions[0].client;
        let settings = StreamSettings { partitions: PARTITIONS, ..StreamSettings::default() };
        let creating = futures::stream::iter(0..streams).map(|number| {
            let (admin, settings) = (client.admin(), settings.clone());
            async move { admin.create_stream(&format!("idle-{number}"), settings).await }
        });
        creating.buffer_unordered(CREATED_AT_ONCE).try_for_each(|_| async { Ok(()) }).await?;
        Ok(())
    }

    /// How many events of a stream a region holds.
    ///
    /// # Errors
    /// It cannot be asked.
    pub async fn stored(&self, region: usize, stream: &str) -> Result<u64, BenchError> {
        let lanes = self.regions[region].client.admin().list_lanes(stream).await?;
        Ok(lanes.iter().map(|lane| lane.end.0 - lane.start.0).sum())
    }

    /// Compares the stored bytes of a stream in all regions, until they agree or it is clear that they do not.
    ///
    /// # Errors
    /// They do not.
    pub async fn verify(&self, stream: &str, events: u64) -> Result<(), BenchError> {
        let copy = |region: &Region| RemoteCopy::new(region.name, stream, &region.client);
        let copies: Vec<RemoteCopy> = self.regions.iter().map(copy).collect();
        let begun = Instant::now();
        loop {
            let report: Report = verify(stream, &copies).await;
            if report.agree && report.events == events {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                let what = format!(
                    "stream {stream}: {events} acknowledged, {} held alike, {} lanes disagree; the first: {:?}",
                    report.events,
                    report.disagreeing().count(),
                    report.disagreeing().next()
                );
                return Err(BenchError::wrong(what));
            }
            sleep(POLL).await;
        }
    }

    /// Stops the second region's processes where they are.
    ///
    /// # Errors
    /// The system refuses.
    pub fn pause_second(&self) -> Result<(), BenchError> {
        self.signal_second(Signal::SIGSTOP)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// The system refuses.
    pub fn resume_second(&self) -> Result<(), BenchError> {
        self.signal_second(Signal::SIGCONT)
    }

    fn signal_second(&self, signal: Signal) -> Result<(), BenchError> {
        let first = self.regions[0].name;
        let mut others = self.nodes.iter().filter(|node| node.seat.site.region != first);
        others.try_for_each(|node| node.signal(signal))
    }

    /// The first node.
    pub fn first(&mut self) -> &mut Node {
        &mut self.nodes[0]
    }

    /// Ends it and removes what it stored.
    ///
    /// # Errors
    /// A node does not end.
    pub async fn end(self) -> Result<(), BenchError> {
        for node in self.nodes {
            node.end().await?;
        }
        std::fs::remove_dir_all(&self.dir).map_err(io("remove the world's folder"))
    }
}

impl Region {
    fn new(site: &Site, seats: &[Seat]) -> Result<Self, BenchError> {
        let ours = seats.iter().filter(|seat| seat.site.region == site.region);
        let endpoints: Vec<String> = ours.map(Seat::client).collect();
        let Some(endpoint) = endpoints.first().cloned() else {
            return Err(BenchError::wrong(format!("region {} has no node", site.region)));
        };
        let options = ClientOptions { retry_for: PATIENCE, ..ClientOptions::default() };
        Ok(Self { client: Client::connect(endpoints, options)?, endpoint, name: site.region })
    }
}
