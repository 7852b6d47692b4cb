//! A publisher that records every call and every answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use meridian_sdk::{Codec, Event, PublisherOptions};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::record::value::value;
use crate::record::{Recorder, What};
use crate::trouble::Trouble;
use crate::world::World;

/// What one publisher does.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Events a second.
    pub rate: u32,
    /// How many keys they have.
    pub keys: u64,
    /// Bytes of each event, beyond its id.
    pub padding: usize,
    /// How they are compressed: not at all where their bytes are looked for on a disk.
    pub codec: Codec,
    /// How long no acknowledgement may come before the publisher gives up, as a client's setting.
    pub patience: Duration,
}

impl Default for Load {
    fn default() -> Self {
        Self { rate: 200, keys: 16, padding: 64, codec: Codec::Lz4, patience: Duration::from_secs(180) }
    }
}

/// A publisher at work.
#[derive(Debug)]
pub struct Publishing {
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Publishing {
    /// Begins to publish in a region, as publisher `REGION/NUMBER`.
    ///
    /// # Errors
    /// The world has ended.
    pub fn start(
        world: &World,
        recorder: &Recorder,
        region: u8,
        number: u32,
        stream: &str,
        load: Load,
    ) -> Result<Self, Trouble> {
        let name = format!("{}/{number}", world.regions()[usize::from(region) - 1]);
        let stop = Arc::new(AtomicBool::new(false));
        let publishes = Publishes {
            endpoints: world.endpoints(region),
            stream: stream.to_owned(),
            name,
            load,
            recorder: recorder.clone(),
            stop: Arc::clone(&stop),
        };
        Ok(Self { stop, task: world.clients.spawn(publishes.run())? })
    }

    /// Stops sending; what is under way is waited for.
    ///
    /// # Errors
    /// It panicked.
    pub fn stop(self, world: &World) -> Result<(), Trouble> {
        self.stop.store(true, Ordering::Release);
        world.clients.join(self.task)
    }
}

struct Publishes {
    endpoints: Vec<String>,
    stream: String,
    name: String,
    load: Load,
    recorder: Recorder,
    stop: Arc<AtomicBool>,
}

impl Publishes {
    async fn run(self) {
        let mut next = 0;
        // A publisher that ended is followed by another; each end is in the record, as an error of its events.
        while !self.stop.load(Ordering::Acquire) {
            if let Err(error) = self.publish(&mut next).await {
                let id = format!("{}/-", self.name);
                self.recorder.note(What::Error { id, error });
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }

    async fn publish(&self, next: &mut u64) -> Result<(), String> {
        let client =
            crate::world::client(self.endpoints.clone(), self.load.patience).map_err(|t| t.to_string())?;
        let options =
            // Small batches: many of them are under way when something happens.
            PublisherOptions {
                batch_bytes: 2048,
                codec: self.load.codec,
                progress_timeout: self.load.patience,
                ..PublisherOptions::default()
            };
        let publisher = client.publisher(&self.stream, options).await.map_err(|error| error.to_string())?;
        let mut ticks = interval(Duration::from_secs_f64(1.0 / f64::from(self.load.rate.max(1))));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut answers = JoinSet::new();
        let mut failed = None;
        while !self.stop.load(Ordering::Acquire) && failed.is_none() {
            ticks.tick().await;
            let (id, key) = (format!("{}/{next}", self.name), format!("key-{}", *next % self.load.keys));
            *next += 1;
            self.recorder.note(What::Call { id: id.clone(), key: key.clone() });
            let value = value(&id, self.load.padding);
            // A full publisher lets nobody in: whoever stops must not wait for that.
            let sent = timeout(self.load.patience, publisher.send(Event::new(value).with_key(key))).await;
            match sent {
                Ok(Ok(delivery)) => {
                    let recorder = self.recorder.clone();
                    answers.spawn(async move { recorder.note(answer(id, delivery.await)) });
                }
                Ok(Err(error)) => failed = Some((id, error.to_string())),
                Err(_) => failed = Some((id, "send did not return".to_owned())),
            }
        }
        if let Some((id, error)) = failed {
            self.recorder.note(What::Error { id, error });
        }
        if timeout(self.load.patience, publisher.flush()).await.is_err() {
            // Dropping it answers all that is left.
            drop(publisher);
        }
        while answers.join_next().await.is_some() {}
        Ok(())
    }
}

fn answer(id: String, answer: Result<meridian_sdk::Ack, meridian_sdk::PublishError>) -> What {
    match answer {
        Ok(ack) => What::Ack {
            id,
            lane: crate::record::lane_name(&ack.lane),
            offset: ack.offset.0,
            hlc: ack.hlc.0,
            duplicate: ack.duplicate,
        },
        Err(error) => What::Error { id, error: error.to_string() },
    }
}
