//! Followers are fed: a task for each, which reads the shard's log to its end and sends what is new.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use meridian_shard::{Message, ReadError, Reader, ShardHandle};
use meridian_storage::Frame;
use meridian_types::{LeaderEpoch, NodeId, Seq, ShardId};
use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::convert::replica_to_wire;
use crate::way::Way;

/// Bytes of frames in a word, unless one frame alone has more.
const CHUNK: usize = 256 * 1024;
/// After how long a frame that cannot be read is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The feeds that are under way.
#[derive(Default)]
pub(crate) struct Feeds(Mutex<HashMap<ShardId, HashMap<NodeId, AbortHandle>>>);

impl Feeds {
    /// Feeds a node in the place of an earlier feed.
    pub fn start(&self, to: NodeId, feed: Feed) {
        let shard = feed.shard.id;
        let task = tokio::spawn(feed.run()).abort_handle();
        if let Some(old) = self.0.lock().entry(shard).or_default().insert(to, task) {
            old.abort();
        }
    }

    /// Feeds nobody any more.
    pub fn stop_all(&self) {
        for task in self.0.lock().drain().flat_map(|(_, tasks)| tasks.into_values()) {
            task.abort();
        }
    }

    /// Feeds nobody of this shard any more.
    pub fn stop(&self, shard: ShardId) {
        for task in self.0.lock().remove(&shard).into_iter().flatten() {
            task.1.abort();
        }
    }
}

/// One shard's log on its way to one follower.
pub(crate) struct Feed {
    pub shard: ShardHandle,
    pub reader: Reader,
    pub way: Arc<Way>,
    pub epoch: LeaderEpoch,
    /// The last frame that the follower has.
    pub after: Seq,
}

impl Feed {
    /// Ends with the leadership, or with the connection: the follower then asks anew, and that starts another feed.
    async fn run(mut self) {
        let mut watch = self.shard.watch();
        let mut session = None;
        let mut told = Seq::ZERO;
        loop {
            let progress = watch.borrow_and_update().clone();
            if progress.leads.is_none_or(|epoch| epoch < self.epoch) && progress.promised > self.epoch {
                return;
            }
            let (epoch, committed) = (self.epoch, progress.committed);
            let message = if progress.appended > self.after {
                let frames = match self.read().await {
                    Ok(frames) => frames,
                    Err(error) => {
                        tracing::error!(shard = %self.shard.id, after = %self.after, %error, "a follower cannot be fed; it is tried again");
                        // The read has quarantined the frame, and it may be repaired.
                        tokio::time::sleep(RETRY).await;
                        continue;
                    }
                };
                match frames.last() {
                    Some(last) => {
                        self.after = last.header.seq;
                        Some(Message::Frames { epoch, frames, committed })
                    }
                    None => None,
                }
            } else if committed > told {
                Some(Message::Committed { epoch, seq: committed })
            } else {
                None
            };
            match message {
                Some(message) => {
                    told = committed;
                    let word = replica_to_wire(self.shard.id, &message);
                    session = self.way.say_bulk(word, session).await;
                    if session.is_none() {
                        return;
                    }
                }
                None => {
                    if watch.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn read(&self) -> Result<Vec<Frame>, ReadError> {
        let (shard, from) = (self.shard.id, self.after.next());
        if let Some(frames) = self.reader.log_cached(shard, from, CHUNK) {
            return Ok(frames);
        }
        let reader = self.reader.clone();
        tokio::task::spawn_blocking(move || reader.log(shard, from, CHUNK)).await.unwrap_or(Ok(Vec::new()))
    }
}
