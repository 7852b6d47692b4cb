//! Who is woken when there is something to do: the connection that it concerns, and else the task that opens connections. A
//! wake that nobody waits for is kept until somebody does.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use futures::task::AtomicWaker;
use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::client::NodeIndex;

/// A connection: a task that takes answers and watches the time, and an outgoing half that takes requests from the core
/// by itself, so that no event waits for that task.
#[derive(Default)]
pub(super) struct Link {
    task: Notify,
    outgoing: AtomicWaker,
    /// The outgoing half has begun: until then the task takes what is to be sent first.
    flows: AtomicBool,
    /// The task will look at the time by itself, soon enough for what is sent now.
    watched: AtomicBool,
    ended: AtomicBool,
}

impl Link {
    /// Until the connection's task is woken.
    pub(super) async fn woken(&self) {
        self.task.notified().await;
    }

    /// Wakes the connection's task.
    pub(super) fn wake_task(&self) {
        self.task.notify_one();
    }

    /// There may be something to send.
    pub(super) fn wake_outgoing(&self) {
        self.outgoing.wake();
    }

    /// Whom to wake when there is more to send.
    pub(super) fn outgoing_waits(&self, waker: &Waker) {
        self.outgoing.register(waker);
        self.flows.store(true, Ordering::SeqCst);
    }

    pub(super) fn flows(&self) -> bool {
        self.flows.load(Ordering::SeqCst)
    }

    /// Says whether the task will look at the time by itself.
    pub(super) fn set_watched(&self, watched: bool) {
        self.watched.store(watched, Ordering::SeqCst);
    }

    pub(super) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::SeqCst)
    }

    /// Nothing more is to be taken for it. To be said before the core hears that the connection is gone: what is taken
    /// after that would count for the next one.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.outgoing.wake();
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    fn wake(&self, waits: bool) {
        self.outgoing.wake();
        if waits || !self.flows() {
            self.task.notify_one();
        }
    }
}

/// Ends a link, also if its task is aborted: a body that nobody ends keeps its connection, and that the body.
pub(super) struct EndOnDrop(pub(super) Arc<Link>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The tasks of a publisher.
#[derive(Default)]
pub(super) struct Wake {
    opener: Notify,
    links: RwLock<HashMap<NodeIndex, Arc<Link>>>,
}

impl Wake {
    /// Until the task that opens connections is woken.
    pub(super) async fn opener(&self) {
        self.opener.notified().await;
    }

    /// A connection that begins now.
    pub(super) fn begin(&self, node: NodeIndex) -> Arc<Link> {
        let link = Arc::new(Link::default());
        self.links.write().insert(node, Arc::clone(&link));
        link
    }

    /// That connection is no more.
    pub(super) fn end(&self, node: NodeIndex) {
        if let Some(link) = self.links.write().remove(&node) {
            link.end();
        }
    }

    /// There is something to send to that node; `waits`: not yet, and its task must see to that.
    pub(super) fn one(&self, node: NodeIndex, waits: bool) {
        match self.links.read().get(&node) {
            Some(link) => link.wake(waits),
            None => self.opener.notify_one(),
        }
    }

    /// There is something that may concern anyone.
    pub(super) fn all(&self) {
        self.opener.notify_one();
        for link in self.links.read().values() {
            link.wake_outgoing();
            link.wake_task();
        }
    }
}
