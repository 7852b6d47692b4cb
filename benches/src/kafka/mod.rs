//! Apache Kafka beside Meridian: one node in each region, and MirrorMaker 2 at the second. Flows in: options, sites,
//! events. Flows out: processes to watch, acknowledgements, events. Must never leave a process behind.

mod cluster;
mod connect;
mod publisher;
mod reader;
mod server;
mod settings;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

pub use self::publisher::{Mode, Publisher};
pub use self::reader::Reader;

use self::cluster::Cluster;
use self::connect::Connect;
use crate::PATIENCE;
use crate::error::{BenchError, io};
use crate::pace::{Events, Stamp};
use crate::plan::{Flush, Spans, Tuned, VALUE_BYTES};
use crate::site::Site;
use crate::tally::Tally;
use crate::usage::Watched;

const POLL: Duration = Duration::from_millis(50);
/// What goes through before anything is counted, so that it is compiled code that is measured.
const WARM_UP: (&str, u64) = ("warm-up", 50_000);

/// How it is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// In every cluster.
    pub flush: Flush,
    /// Of everything but the brokers.
    pub tuned: Tuned,
}

/// One running cluster, or two and MirrorMaker 2. The processes end with this value.
pub struct Kafka {
    options: Options,
    dir: PathBuf,
    clusters: Vec<Cluster>,
    mirror: Option<Connect>,
}

impl Kafka {
    /// Starts it in a folder that is not there yet, a cluster at each site and MirrorMaker 2 at the second, and sends
    /// some events all the way, so that no JVM's start and first steps are measured. `jars` is what `fetch.sh` printed.
    ///
    /// # Errors
    /// What does not start, with what it said.
    pub async fn start(
        jars: &Path,
        options: Options,
        sites: &[Site],
        dir: PathBuf,
    ) -> Result<Self, BenchError> {
        std::fs::create_dir_all(&dir).map_err(io("make Kafka's folder"))?;
        let dir = dir.canonicalize().map_err(io("find Kafka's folder"))?;
        let (name, text) = settings::LOG4J;
        std::fs::write(dir.join(name), text).map_err(io("write how Kafka logs"))?;
        let starting = sites.iter().map(|site| Cluster::start(site, options.flush, jars, &dir));
        let clusters = futures::future::try_join_all(starting).await?;
        let mirror = match (sites, &clusters[..]) {
            ([_, site], [_, target]) => Some(Connect::start(site, target.address, jars, &dir).await?),
            ([_], _) => None,
            _ => return Err(BenchError::wrong("Kafka is run in one region or in two")),
        };
        let kafka = Self { options, dir, clusters, mirror };
        kafka.warm_up().await?;
        Ok(kafka)
    }

    async fn warm_up(&self) -> Result<(), BenchError> {
        let (stream, events) = WARM_UP;
        self.create(stream).await?;
        self.mirror(stream).await?;
        let made = Events::new(VALUE_BYTES);
        for (mode, from, to) in [(Mode::Single, 0, events / 25), (Mode::Batched, events / 25, events)] {
            let tally = Arc::new(Tally::new(Spans::QUICK, None));
            let mut publisher = self.publisher(stream, mode, Arc::clone(&tally)).await?;
            for index in from..to {
                let due = tally.clock().now();
                publisher.send(made.key(index), made.value(Stamp { index, due }), due).await?;
            }
            publisher.finish().await?;
        }
        self.verify(stream, events).await?;
        self.remove(stream).await
    }

    /// Its processes: us, eu, mm2.
    pub fn nodes(&self) -> Vec<Watched> {
        let servers = self.clusters.iter().map(|cluster| &cluster.server);
        servers
            .chain(self.mirror.iter().map(|mirror| &mirror.server))
            .filter_map(|one| one.watched())
            .collect()
    }

    /// Creates a topic in every cluster. MirrorMaker 2 knows of it and holds: its tasks have started and do not poll.
    ///
    /// # Errors
    /// What a cluster or MirrorMaker 2 says.
    pub async fn create(&self, stream: &str) -> Result<(), BenchError> {
        for cluster in &self.clusters {
            cluster.create(stream).await?;
        }
        let (Some(mirror), [source, target]) = (&self.mirror, &self.clusters[..]) else { return Ok(()) };
        let config = settings::mirror(self.options.tuned, source.address, target.address, stream);
        mirror.prepare(stream, &config).await
    }

    /// Lets MirrorMaker 2 mirror a topic that was created. Catching up with a backlog counts from this call: tasks begin
    /// to poll within it, and it comes back once they say that they run. Nothing to do in one region.
    ///
    /// # Errors
    /// What MirrorMaker 2 says.
    pub async fn mirror(&self, stream: &str) -> Result<(), BenchError> {
        match &self.mirror {
            Some(mirror) => mirror.release(stream).await,
            None => Ok(()),
        }
    }

    /// Removes a topic everywhere, and what mirrors it.
    ///
    /// # Errors
    /// What a cluster or MirrorMaker 2 says.
    pub async fn remove(&self, stream: &str) -> Result<(), BenchError> {
        if let Some(mirror) = &self.mirror {
            mirror.remove(stream).await?;
        }
        for cluster in &self.clusters {
            cluster.remove(stream).await?;
        }
        Ok(())
    }

    /// Publishes into the first cluster.
    ///
    /// # Errors
    /// What the client says.
    pub async fn publisher(
        &self,
        stream: &str,
        mode: Mode,
        tally: Arc<Tally>,
    ) -> Result<Publisher, BenchError> {
        let config = settings::publisher(self.options.tuned, mode, self.cluster(0)?.address);
        Publisher::new(config, stream, tally).await
    }

    /// Reads all partitions of a topic from the beginning.
    ///
    /// # Errors
    /// What the client says.
    pub async fn reader(&self, region: usize, stream: &str) -> Result<Reader, BenchError> {
        Reader::new(&settings::reader(self.options.tuned, self.cluster(region)?.address), stream)
    }

    /// How many events a region holds of a topic.
    ///
    /// # Errors
    /// What the client says.
    pub async fn stored(&self, region: usize, stream: &str) -> Result<u64, BenchError> {
        self.cluster(region)?.stored(stream).await
    }

    /// Waits until every cluster holds exactly so many.
    ///
    /// # Errors
    /// One holds more, or fewer and gets no more.
    pub async fn verify(&self, stream: &str, events: u64) -> Result<(), BenchError> {
        for (region, cluster) in self.clusters.iter().enumerate() {
            let (mut last, mut since) = (0, Instant::now());
            loop {
                let stored = self.stored(region, stream).await?;
                if stored == events {
                    break;
                }
                if stored > last {
                    (last, since) = (stored, Instant::now());
                }
                if stored > events || since.elapsed() > PATIENCE {
                    return Err(BenchError::wrong(differs(cluster.server.name, stream, events, stored)));
                }
                sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// Ends it and removes what it stored.
    ///
    /// # Errors
    /// A process that does not end.
    pub async fn end(self) -> Result<(), BenchError> {
        if let Some(mirror) = self.mirror {
            mirror.server.end().await?;
        }
        for cluster in self.clusters {
            cluster.server.end().await?;
        }
        std::fs::remove_dir_all(&self.dir).map_err(io("remove Kafka's folder"))
    }

    fn cluster(&self, region: usize) -> Result<&Cluster, BenchError> {
        self.clusters.get(region).ok_or_else(|| BenchError::wrong(format!("there is no region {region}")))
    }
}

fn differs(region: &str, stream: &str, events: u64, stored: u64) -> String {
    let difference = stored.abs_diff(events);
    let how = if stored > events {
        format!("{difference} more than that: MirrorMaker 2 writes again what it did not see acknowledged")
    } else {
        format!("{difference} fewer, and none came any more")
    };
    format!("topic {stream}: {events} acknowledged, and {region} holds {stored}, {how}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_how_many_more_or_fewer() {
        assert!(differs("eu", "row", 10, 12).contains("eu holds 12, 2 more"));
        assert!(differs("eu", "row", 10, 7).contains("eu holds 7, 3 fewer"));
    }
}
