//! A consumer that records what it is given.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use meridian_sdk::{ConsumerOptions, Item};
use meridian_types::Lane;
use tokio::task::JoinHandle;

use crate::record::value::event_id;
use crate::record::{Recorder, What};
use crate::trouble::Trouble;
use crate::world::World;

/// What a lane is called in records: partition and origin.
pub(crate) fn lane_name(lane: &Lane) -> String {
    format!("{}@{}", lane.partition, lane.origin)
}

/// A consumer at work, reading all lanes in one region from the start on.
#[derive(Debug)]
pub struct Consuming {
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Consuming {
    /// Begins to read.
    ///
    /// # Errors
    /// The world has ended.
    pub fn start(world: &World, recorder: &Recorder, region: u8, stream: &str) -> Result<Self, Trouble> {
        let stop = Arc::new(AtomicBool::new(false));
        let name = world.regions()[usize::from(region) - 1].clone();
        let work =
            consume(world.endpoints(region), stream.to_owned(), name, recorder.clone(), Arc::clone(&stop));
        Ok(Self { stop, task: world.clients.spawn(work)? })
    }

    /// Ends it.
    ///
    /// # Errors
    /// It panicked.
    pub fn stop(self, world: &World) -> Result<(), Trouble> {
        self.stop.store(true, Ordering::Release);
        world.clients.join(self.task)
    }
}

async fn consume(
    endpoints: Vec<String>,
    stream: String,
    name: String,
    recorder: Recorder,
    stop: Arc<AtomicBool>,
) {
    let patience = Duration::from_secs(300);
    let client = match crate::world::client(endpoints, patience) {
        Ok(client) => client,
        Err(trouble) => return recorder.note(What::Missing { consumer: name, reason: trouble.to_string() }),
    };
    let options = ConsumerOptions { timeout: patience, ..ConsumerOptions::default() };
    let mut consumer = match client.consumer(&stream, options) {
        Ok(consumer) => consumer,
        Err(error) => return recorder.note(What::Missing { consumer: name, reason: error.to_string() }),
    };
    while !stop.load(Ordering::Acquire) {
        let Ok(item) = tokio::time::timeout(Duration::from_millis(200), consumer.next()).await else {
            continue;
        };
        match item {
            Ok(Item::Event(event)) => recorder.note(What::Seen {
                consumer: name.clone(),
                lane: lane_name(&event.lane),
                offset: event.offset.0,
                id: event_id(event.value.as_ref()),
            }),
            Ok(Item::Gap(gap)) => {
                let reason = format!("gap {}..{} of {}: {}", gap.first, gap.next, gap.lane, gap.reason);
                recorder.note(What::Missing { consumer: name.clone(), reason });
            }
            Ok(Item::Mark(_)) => {}
            Err(error) => return recorder.note(What::Missing { consumer: name, reason: error.to_string() }),
        }
    }
}
