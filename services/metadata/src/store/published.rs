//! The machine as it is now, for readers that wait for nothing.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::raft::{LogId, StoredMembership};

/// A version of the machine and where in the log it stands.
pub(crate) struct Version<M> {
    pub machine: Arc<M>,
    pub applied: Option<LogId>,
    pub membership: StoredMembership,
}

/// The newest version, and word of newer ones.
pub(crate) struct Published<M> {
    version: ArcSwap<Version<M>>,
    /// How many log entries have been applied: the last one's index and one.
    applied: watch::Sender<u64>,
    /// Held by who makes the next version.
    pub(super) making: Mutex<()>,
}

impl<M> Published<M> {
    pub(super) fn new(version: Version<M>) -> Self {
        let applied = watch::Sender::new(count(version.applied.as_ref()));
        Self { version: ArcSwap::from_pointee(version), applied, making: Mutex::new(()) }
    }

    pub(crate) fn version(&self) -> Arc<Version<M>> {
        self.version.load_full()
    }

    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    pub(super) fn publish(&self, version: Version<M>) {
        let applied = count(version.applied.as_ref());
        self.version.store(Arc::new(version));
        self.applied.send_replace(applied);
    }
}

/// How many entries there are up to and with one.
pub(crate) fn count(id: Option<&LogId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}
