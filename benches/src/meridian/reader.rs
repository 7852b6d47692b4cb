//! The SDK's consumer.

use bytes::Bytes;
use meridian_sdk::{Consumer, ConsumerOptions, Item, StartFrom};
use tokio::time::timeout;

use super::Region;
use crate::PATIENCE;
use crate::error::BenchError;

/// Reads a stream from its beginning.
pub struct Reader {
    consumer: Consumer,
}

impl Reader {
    /// Begins. The stream is empty.
    pub async fn new(region: &Region, stream: &str) -> Result<Self, BenchError> {
        let options = ConsumerOptions { from: StartFrom::Start, ..ConsumerOptions::default() };
        let mut consumer = region.client.consumer(stream, options)?;
        // An empty stream is caught up with at once.
        let first = timeout(PATIENCE, consumer.next()).await;
        match first.map_err(|_| BenchError::wrong(format!("reading {stream} does not begin")))?? {
            Item::Mark(mark) if mark.caught_up => Ok(Self { consumer }),
            item => Err(BenchError::wrong(format!("stream {stream} should be empty, and has {item:?}"))),
        }
    }

    /// The next value.
    pub async fn next(&mut self) -> Result<Bytes, BenchError> {
        let none = || BenchError::wrong("an event was read that is none of ours");
        loop {
            if let Some(event) = self.consumer.try_next() {
                return event.value.ok_or_else(none);
            }
            match self.consumer.next().await? {
                Item::Event(event) => return event.value.ok_or_else(none),
                Item::Gap(gap) => return Err(BenchError::wrong(format!("offsets are missing: {gap:?}"))),
                Item::Mark(_) => {}
            }
        }
    }
}
