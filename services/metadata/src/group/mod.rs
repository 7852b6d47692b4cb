//! A Raft group on this node: openraft behind our own small interface, on a runtime of its own, so that load elsewhere
//! cannot starve its heartbeats.
//!
//! Flows in: commands, and Raft's messages of the other nodes. Flows out: the machine's versions, at once and whatever
//! Raft does; replies; barriers. Must never be waited for by publishing, subscribing or mirroring, and must never go on
//! after a failure of Raft or its storage: that ends the process.

mod config;
mod handle;
mod keeper;
mod network;
mod peers;
mod propose;
mod server;
mod session;
mod standing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;

pub use config::{Config, OnFatal, abort};
pub use handle::{CatalogHandle, GroupHandle, PlacementHandle, Role, Status};
pub use keeper::WantedNodes;
pub use peers::{NoChannel, PeerChannels};
pub use propose::{BootstrapError, ProposeError};
pub use server::{RaftServer, RaftServers};
pub use standing::Standing;

use crate::catalog::Catalog;
use crate::machine::Machine;
use crate::placement::Placement;
use crate::store::{Store, StoreError};
use session::Shared;

/// The catalog's group.
pub type CatalogGroup = Group<Catalog>;
/// The group of a region's placement.
pub type PlacementGroup = Group<Placement>;

/// How long the runtime's last tasks may take to end.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Why a group does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What is stored, or the disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Settings that contradict each other.
    #[error("the settings of Raft: {0}")]
    Config(String),
    /// The system gave no threads.
    #[error("no threads for Raft: {0}")]
    Threads(std::io::Error),
    /// Raft itself.
    #[error("Raft does not start: {0}")]
    Raft(String),
}

/// A running group. Dropping it stops Raft at once, as a crash would; [`Group::close`] does it in order.
pub struct Group<M: Machine> {
    shared: Arc<Shared<M>>,
    runtime: Option<Runtime>,
}

impl<M: Machine> Group<M> {
    /// Opens the store and starts Raft. The state is there when this returns, with or without a quorum.
    ///
    /// `channels` reaches the other nodes. `on_fatal` is called once, when Raft or its storage fails: it must end the
    /// process ([`abort`] does), for what the disk has is then not known.
    ///
    /// # Errors
    /// [`StartError`]; nothing that was stored is changed then.
    pub async fn start(
        config: Config,
        channels: Arc<dyn PeerChannels>,
        on_fatal: OnFatal,
    ) -> Result<Self, StartError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.threads.max(2))
            .thread_name(format!("raft-{}", M::GROUP))
            .enable_all()
            .build()
            .map_err(StartError::Threads)?;
        let handle = runtime.handle().clone();
        // From here on the runtime is dropped with `shutdown_background`, also when opening fails.
        let mut starting = RuntimeGuard(Some(runtime));
        let started = handle
            .spawn(async move {
                let store = Store::<M>::open(&config.dir, config.identity())?;
                let runtime = tokio::runtime::Handle::current();
                let shared = Shared::new(config, store, channels, on_fatal, runtime);
                if let Err(error) = shared.start().await {
                    shared.store.disk.close();
                    return Err(error);
                }
                Ok(shared)
            })
            .await
            .map_err(|error| StartError::Raft(error.to_string()))?;
        Ok(Self { shared: started?, runtime: starting.0.take() })
    }

    /// What the rest of the node uses. Cheap to clone, and good on any runtime.
    pub fn handle(&self) -> GroupHandle<M> {
        GroupHandle::new(Arc::clone(&self.shared))
    }

    /// What answers the other nodes.
    pub fn server(&self) -> RaftServer<M> {
        RaftServer::new(self.handle())
    }

    /// Stops Raft and lets go of the files. Handles go on serving the last state.
    pub async fn close(mut self) {
        self.handle().stop().await;
        self.shared.store.disk.close();
        if let Some(runtime) = self.runtime.take() {
            let _ = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(SHUTDOWN)).await;
        }
    }
}

impl<M: Machine> Drop for Group<M> {
    fn drop(&mut self) {
        self.shared.abandon();
        drop(RuntimeGuard(self.runtime.take()));
    }
}

/// A runtime must not be dropped where tasks run.
struct RuntimeGuard(Option<Runtime>);

impl Drop for RuntimeGuard {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
