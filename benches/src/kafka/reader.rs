//! Reads a topic of one cluster, all partitions from the beginning.

use bytes::Bytes;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::error::BenchError;
use crate::plan::PARTITIONS;

/// Reads one topic. Partitions are assigned: there is no group that could balance.
pub struct Reader {
    consumer: StreamConsumer,
}

impl Reader {
    /// Begins to fetch.
    pub fn new(config: &ClientConfig, topic: &str) -> Result<Self, BenchError> {
        let consumer: StreamConsumer = config.create()?;
        let mut partitions = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            partitions.add_partition_offset(topic, partition as i32, Offset::Beginning)?;
        }
        consumer.assign(&partitions)?;
        Ok(Self { consumer })
    }

    /// The value of the next event, of whichever partition.
    ///
    /// # Errors
    /// What the client says, or an event without a value.
    pub async fn next(&mut self) -> Result<Bytes, BenchError> {
        let message = self.consumer.recv().await?;
        let value = message.payload().map(Bytes::copy_from_slice);
        value.ok_or_else(|| BenchError::wrong("an event was read that has no value"))
    }
}
