//! Who is woken when there is something to do: the task of the connection that it concerns, and else the one that opens
//! connections. A wake that nobody waits for is kept until somebody does.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::client::NodeIndex;

/// The tasks of a publisher.
#[derive(Default)]
pub(super) struct Wake {
    opener: Notify,
    links: RwLock<HashMap<NodeIndex, Arc<Notify>>>,
}

impl Wake {
    /// Until the task that opens connections is woken.
    pub(super) async fn opener(&self) {
        self.opener.notified().await;
    }

    /// What wakes the task of a connection that begins now.
    pub(super) fn begin(&self, node: NodeIndex) -> Arc<Notify> {
        let notify = Arc::new(Notify::new());
        self.links.write().insert(node, Arc::clone(&notify));
        notify
    }

    /// That connection is no more.
    pub(super) fn end(&self, node: NodeIndex) {
        self.links.write().remove(&node);
    }

    /// There is something for that node.
    pub(super) fn one(&self, node: NodeIndex) {
        match self.links.read().get(&node) {
            Some(link) => link.notify_one(),
            None => self.opener.notify_one(),
        }
    }

    /// There is something that may concern anyone.
    pub(super) fn all(&self) {
        self.opener.notify_one();
        self.links.read().values().for_each(|link| link.notify_one());
    }
}
