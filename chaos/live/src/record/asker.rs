//! Asks a node where the stream ends, again and again, and records what it is told: a linearizable read, also of a node that was
//! deposed and does not know it yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use meridian_sdk::{Client, ClientOptions};
use tokio::task::JoinHandle;

use crate::record::{Recorder, What, lane_name};
use crate::trouble::{Context as _, Trouble};
use crate::world::World;

const EVERY: Duration = Duration::from_millis(400);
/// Short, so that a node which goes on after it stood still finds a question that is younger than what others did meanwhile.
const WITHIN: Duration = Duration::from_secs(1);

/// Questions to one node.
#[derive(Debug)]
pub struct Asking {
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Asking {
    /// Begins to ask a node.
    ///
    /// # Errors
    /// The world has ended.
    pub fn start(world: &World, recorder: &Recorder, index: usize, stream: &str) -> Result<Self, Trouble> {
        let stop = Arc::new(AtomicBool::new(false));
        let options = ClientOptions {
            discover: false,
            connect_timeout: WITHIN,
            attempt_timeout: WITHIN,
            retry_for: WITHIN,
            ..ClientOptions::default()
        };
        let client = Client::connect(vec![world.endpoint(index)], options).context("a client")?;
        let asks = Asks {
            client,
            node: world.node(index).name.clone(),
            stream: stream.to_owned(),
            recorder: recorder.clone(),
            stop: Arc::clone(&stop),
        };
        Ok(Self { stop, task: world.clients.spawn(asks.run())? })
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

struct Asks {
    client: Client,
    node: String,
    stream: String,
    recorder: Recorder,
    stop: Arc<AtomicBool>,
}

impl Asks {
    async fn run(self) {
        while !self.stop.load(Ordering::Acquire) {
            self.recorder.note(What::Asked { node: self.node.clone() });
            // A node that does not know says so, or nothing: that is no answer, and breaks no law.
            if let Ok(latest) = self.client.latest(&self.stream).await {
                let ends = latest.cursor.lanes().map(|(lane, next)| (lane_name(&lane), next.0)).collect();
                let region = latest.confirmed.region.0;
                self.recorder.note(What::Told { node: self.node.clone(), region, ends });
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}
