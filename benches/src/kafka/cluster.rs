//! One region of Kafka: a node that is broker and controller.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::types::RDKafkaErrorCode;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::server::{PATIENCE, Server};
use super::settings::{self, BROKER_HEAP, TOOL_HEAP, jvm};
use super::{Flush, Tuned};
use crate::error::{BenchError, io};
use crate::plan::PARTITIONS;
use crate::site::{Site, until_listening};

const POLL: Duration = Duration::from_millis(50);

/// A running cluster.
pub struct Cluster {
    /// Its process.
    pub server: Server,
    /// What clients dial.
    pub address: SocketAddr,
    admin: AdminClient<DefaultClientContext>,
}

impl Cluster {
    /// Formats its storage, starts it, and waits until it listens.
    pub async fn start(site: &Site, flush: Flush, jars: &Path, dir: &Path) -> Result<Self, BenchError> {
        let address = SocketAddr::new(site.address, site.free_port()?);
        let controller = SocketAddr::new(site.address, site.free_port()?);
        let file = dir.join(format!("{}.properties", site.region));
        let text = settings::broker(flush, address, controller, &dir.join(site.region));
        std::fs::write(&file, text).map_err(io("write a broker's settings"))?;

        let said = dir.join(format!("{}-format.log", site.region));
        let mut format = site.command("java", &said)?;
        // Sixteen bytes in base64.
        let id = format!("MeridianBenchmark{}AAA", site.region);
        format.args(jvm(&TOOL_HEAP, dir, jars, "kafka.tools.StorageTool"));
        format.args(["format", "--standalone", "--cluster-id", &id, "--config"]).arg(&file);
        let status = format.status().await.map_err(io("start java; is a Java 17 or later installed?"))?;
        if !status.success() {
            let said = std::fs::read_to_string(&said).unwrap_or_default();
            return Err(BenchError::wrong(format!("Kafka's storage was not formatted:\n{said}")));
        }

        let mut server = Server::start(site.region, site, dir, jars, &BROKER_HEAP, "kafka.Kafka", &file)?;
        until_listening((site.address, address.port()), &mut server.child, &server.log, PATIENCE).await?;
        let admin = settings::client(address).create()?;
        Ok(Self { server, address, admin })
    }

    /// Creates a topic, and waits until its partitions are led.
    pub async fn create(&self, topic: &str) -> Result<(), BenchError> {
        let new = NewTopic::new(topic, PARTITIONS as i32, TopicReplication::Fixed(1));
        let results = self.admin.create_topics(&[new], &options()).await?;
        results.into_iter().try_for_each(|result| result.map(drop).map_err(refused))?;
        // It is said to be there before its partitions are led.
        let begun = Instant::now();
        while let Err(error) = self.stored(topic).await {
            if begun.elapsed() > PATIENCE {
                return Err(error);
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Removes a topic and what it holds.
    pub async fn remove(&self, topic: &str) -> Result<(), BenchError> {
        let results = self.admin.delete_topics(&[topic], &options()).await?;
        results.into_iter().try_for_each(|result| result.map(drop).map_err(refused))
    }

    /// How many events a topic holds. Exact: without transactions and compaction every offset is an event.
    pub async fn stored(&self, topic: &str) -> Result<u64, BenchError> {
        let (config, topic) = (settings::reader(Tuned::Latency, self.address), topic.to_owned());
        spawn_blocking(move || {
            // A new client each time: one that asked for a topic too early keeps to it that there is none.
            let asking: BaseConsumer = config.create()?;
            let mut events = 0;
            for partition in 0..PARTITIONS {
                let (low, high) = asking.fetch_watermarks(&topic, partition as i32, PATIENCE)?;
                events += high.abs_diff(low);
            }
            Ok(events)
        })
        .await?
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE))
}

fn refused((topic, code): (String, RDKafkaErrorCode)) -> BenchError {
    BenchError::wrong(format!("Kafka refuses topic {topic}: {code}"))
}
