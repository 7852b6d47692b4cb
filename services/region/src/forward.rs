//! Publishes that met the wrong node, on their way to the leader's.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use meridian_shard::{Ack, Reject};
use meridian_types::NodeId;
use parking_lot::Mutex;
use tokio::sync::oneshot;

type Answer = oneshot::Sender<Result<Ack, Reject>>;

/// Who waits for which node's answer.
#[derive(Default)]
pub(crate) struct Forwards {
    next: AtomicU64,
    waiting: Mutex<HashMap<NodeId, HashMap<u64, Answer>>>,
}

impl Forwards {
    /// A number for a publish, and what its answer will arrive at. It ends without one where the answer may be lost:
    /// whether the batch is stored is then not known, and a retry finds out.
    pub fn begin(&self, node: NodeId) -> (u64, oneshot::Receiver<Result<Ack, Reject>>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, waiting) = oneshot::channel();
        self.waiting.lock().entry(node).or_default().insert(id, answer);
        (id, waiting)
    }

    /// An answer came; none: the node stops.
    pub fn answered(&self, node: NodeId, id: u64, answer: Option<Result<Ack, Reject>>) {
        let waiting = self.waiting.lock().get_mut(&node).and_then(|waiting| waiting.remove(&id));
        if let (Some(waiting), Some(answer)) = (waiting, answer) {
            let _ = waiting.send(answer);
        }
    }

    /// A connection from or to the node broke: answers may be lost.
    pub fn lost(&self, node: NodeId) {
        let lost = self.waiting.lock().remove(&node);
        drop(lost);
    }
}
