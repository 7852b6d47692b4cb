//! One system's servers, publishers and readers, whichever it is.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::BenchError;
use crate::jetstream::{self, JetStream};
use crate::kafka::{self, Kafka};
use crate::meridian::{self, Calls, Messages, Sdk, World};
use crate::plan::{Place, Shape, System};
use crate::site::Site;
use crate::tally::Tally;
use crate::tools::Tools;
use crate::usage::Watched;

/// Running servers. Nothing outlives the value.
pub enum Cluster {
    /// This project's.
    Meridian(World),
    /// NATS servers.
    JetStream(JetStream),
    /// Brokers, and MirrorMaker.
    Kafka(Box<Kafka>),
}

/// Hands events over.
pub enum Sender {
    /// Meridian's SDK.
    Sdk(Sdk),
    /// Meridian's `PublishBatches`, one event a message.
    Messages(Messages),
    /// Meridian's `Publish`.
    Calls(Calls),
    /// NATS's client.
    JetStream(jetstream::Publisher),
    /// Kafka's.
    Kafka(kafka::Publisher),
}

/// Reads a stream from its beginning.
pub enum Reader {
    /// Meridian's SDK.
    Meridian(Box<meridian::Reader>),
    /// NATS's client.
    JetStream(jetstream::Reader),
    /// Kafka's.
    Kafka(kafka::Reader),
}

impl Cluster {
    /// Starts the servers in a folder that is not there yet, and waits until they are ready.
    ///
    /// # Errors
    /// They do not come up; or a peer is asked to run where only Meridian does.
    pub async fn start(
        system: System,
        place: Place,
        sites: &[Site],
        tools: &Tools,
        dir: PathBuf,
    ) -> Result<Self, BenchError> {
        if place == Place::Trio && system != System::Meridian {
            return Err(BenchError::wrong("peers are measured with one node a region"));
        }
        Ok(match system {
            System::Meridian => Self::Meridian(World::start(tools.meridian(), place, sites, dir).await?),
            System::JetStream(sync) => {
                let options = jetstream::Options { sync };
                Self::JetStream(JetStream::start(tools.jetstream()?, options, sites, dir).await?)
            }
            System::Kafka(flush, tuned) => {
                let options = kafka::Options { flush, tuned };
                let servers = Kafka::start(tools.kafka()?, options, sites, dir).await?;
                Self::Kafka(Box::new(servers))
            }
        })
    }

    /// Its processes.
    pub fn nodes(&self) -> Vec<Watched> {
        match self {
            Self::Meridian(world) => world.nodes(),
            Self::JetStream(servers) => servers.nodes(),
            Self::Kafka(servers) => servers.nodes(),
        }
    }

    /// Creates a stream where events are published.
    ///
    /// # Errors
    /// It is refused.
    pub async fn create(&self, stream: &str) -> Result<(), BenchError> {
        match self {
            Self::Meridian(world) => world.create(stream).await,
            Self::JetStream(servers) => servers.create(stream).await,
            Self::Kafka(servers) => servers.create(stream).await,
        }
    }

    /// Mirrors it to the second region. Meridian mirrors every stream.
    ///
    /// # Errors
    /// It is refused.
    pub async fn mirror(&self, stream: &str) -> Result<(), BenchError> {
        match self {
            Self::Meridian(_) => Ok(()),
            Self::JetStream(servers) => servers.mirror(stream).await,
            Self::Kafka(servers) => servers.mirror(stream).await,
        }
    }

    /// Keeps the second region from mirroring: by stopping its processes, or because nobody told it to mirror yet.
    ///
    /// # Errors
    /// A process cannot be stopped.
    pub fn hold(&self) -> Result<(), BenchError> {
        match self {
            Self::Meridian(world) => world.pause_second(),
            Self::JetStream(_) | Self::Kafka(_) => Ok(()),
        }
    }

    /// Lets it mirror, and says how many events it had already.
    ///
    /// # Errors
    /// A process cannot go on, or the mirror is refused.
    pub async fn let_go(&self, stream: &str) -> Result<u64, BenchError> {
        match self {
            Self::Meridian(world) => {
                world.resume_second()?;
                world.stored(1, stream).await
            }
            Self::JetStream(servers) => servers.mirror(stream).await.map(|()| 0),
            Self::Kafka(servers) => servers.mirror(stream).await.map(|()| 0),
        }
    }

    /// A publisher in the first region.
    ///
    /// # Errors
    /// It cannot connect, or the system has no such shape.
    pub async fn sender(&self, stream: &str, shape: Shape, tally: Arc<Tally>) -> Result<Sender, BenchError> {
        let no_shape = || Err(BenchError::wrong("only Meridian is measured in this shape"));
        Ok(match self {
            Self::Meridian(world) => {
                let first = &world.regions()[0];
                match shape {
                    Shape::Batched => Sender::Sdk(Sdk::new(first, stream, None, tally).await?),
                    Shape::Batches(bytes) => Sender::Sdk(Sdk::new(first, stream, Some(bytes), tally).await?),
                    Shape::Single => Sender::Messages(Messages::new(first, stream, tally).await?),
                    Shape::Call => Sender::Calls(Calls::new(first, stream, tally).await?),
                }
            }
            Self::JetStream(servers) => {
                let mode = match shape {
                    Shape::Single => jetstream::Mode::Single,
                    Shape::Batched => jetstream::Mode::Batched,
                    Shape::Call | Shape::Batches(_) => return no_shape(),
                };
                Sender::JetStream(servers.publisher(stream, mode, tally).await?)
            }
            Self::Kafka(servers) => {
                let mode = match shape {
                    Shape::Single => kafka::Mode::Single,
                    Shape::Batched => kafka::Mode::Batched,
                    Shape::Batches(bytes) => kafka::Mode::Batches(bytes),
                    Shape::Call => return no_shape(),
                };
                Sender::Kafka(servers.publisher(stream, mode, tally).await?)
            }
        })
    }

    /// A reader in a region.
    ///
    /// # Errors
    /// It cannot connect.
    pub async fn reader(&self, region: usize, stream: &str) -> Result<Reader, BenchError> {
        Ok(match self {
            Self::Meridian(world) => {
                let reader = meridian::Reader::new(&world.regions()[region], stream).await?;
                Reader::Meridian(Box::new(reader))
            }
            Self::JetStream(servers) => Reader::JetStream(servers.reader(region, stream).await?),
            Self::Kafka(servers) => Reader::Kafka(servers.reader(region, stream).await?),
        })
    }

    /// How many events the second region holds.
    ///
    /// # Errors
    /// It cannot be asked.
    pub async fn mirrored(&self, stream: &str) -> Result<u64, BenchError> {
        match self {
            Self::Meridian(world) => world.stored(1, stream).await,
            Self::JetStream(servers) => servers.stored(1, stream).await,
            Self::Kafka(servers) => servers.stored(1, stream).await,
        }
    }

    /// Waits until each region holds exactly so many events, and the same, as far as the system can be asked.
    ///
    /// # Errors
    /// They do not.
    pub async fn verify(&self, stream: &str, events: u64) -> Result<(), BenchError> {
        match self {
            Self::Meridian(world) => world.verify(stream, events).await,
            Self::JetStream(servers) => servers.verify(stream, events).await,
            Self::Kafka(servers) => servers.verify(stream, events).await,
        }
    }

    /// Ends the servers and removes what they stored.
    ///
    /// # Errors
    /// They do not end.
    pub async fn end(self) -> Result<(), BenchError> {
        match self {
            Self::Meridian(world) => world.end().await,
            Self::JetStream(servers) => servers.end().await,
            Self::Kafka(servers) => servers.end().await,
        }
    }
}

impl Sender {
    /// Hands an event over; waits while the client's own bounds are reached.
    ///
    /// # Errors
    /// The client refuses it.
    pub async fn send(&mut self, key: Bytes, value: Bytes, due: Duration) -> Result<(), BenchError> {
        match self {
            Self::Sdk(sender) => sender.send(key, value, due).await,
            Self::Messages(sender) => sender.send(key, value, due).await,
            Self::Calls(sender) => sender.send(key, value, due).await,
            Self::JetStream(sender) => sender.send(value, due).await,
            Self::Kafka(sender) => sender.send(key, value, due).await,
        }
    }

    /// Waits until all are acknowledged, or something failed.
    ///
    /// # Errors
    /// The client ended.
    pub async fn finish(self) -> Result<(), BenchError> {
        match self {
            Self::Sdk(sender) => sender.finish().await,
            Self::Messages(sender) => sender.finish().await,
            Self::Calls(sender) => sender.finish().await,
            Self::JetStream(sender) => sender.finish().await,
            Self::Kafka(sender) => sender.finish().await,
        }
    }
}

impl Reader {
    /// The next value.
    ///
    /// # Errors
    /// Reading ended.
    pub async fn next(&mut self) -> Result<Bytes, BenchError> {
        match self {
            Self::Meridian(reader) => reader.next().await,
            Self::JetStream(reader) => reader.next().await,
            Self::Kafka(reader) => reader.next().await,
        }
    }
}
