//! One life of Raft after another on the same store: a switch stops Raft alone, the state stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use meridian_types::NodeId;
use openraft::Raft;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::Fatal;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore};

use super::StartError;
use super::config::{Config, OnFatal};
use super::network::Network;
use super::peers::{PeerChannels, Peers};
use crate::machine::Machine;
use crate::raft::TypeConfig;
use crate::store::{MachineStore, Store};

/// openraft, with our machine.
pub(super) type GroupRaft<M> = Raft<TypeConfig, MachineStore<M>>;

/// What every handle shares.
pub(super) struct Shared<M: Machine> {
    pub config: Config,
    pub store: Store<M>,
    pub peers: Arc<Peers<M>>,
    pub runtime: Handle,
    /// One snapshot at a time is taken in, for each is held in memory until it is whole.
    pub installing: Semaphore,
    /// Whose messages Raft last took as its leader's, and when. Raft itself names a leader for as long as it knows of no later
    /// vote, which may be for ever.
    pub followed: parking_lot::Mutex<Option<(NodeId, Instant)>>,
    on_fatal: OnFatal,
    session: ArcSwapOption<Session<M>>,
    switch: Mutex<()>,
}

struct Session<M: Machine> {
    raft: GroupRaft<M>,
    /// Set before Raft is stopped on purpose.
    ending: Arc<AtomicBool>,
}

impl<M: Machine> Shared<M> {
    pub(super) fn new(
        config: Config,
        store: Store<M>,
        channels: Arc<dyn PeerChannels>,
        on_fatal: OnFatal,
        runtime: Handle,
    ) -> Arc<Self> {
        let peers = Arc::new(Peers::new(config.identity(), config.generation, channels, store.clone()));
        Arc::new(Self {
            config,
            store,
            peers,
            runtime,
            installing: Semaphore::new(1),
            followed: parking_lot::Mutex::new(None),
            on_fatal,
            session: ArcSwapOption::empty(),
            switch: Mutex::new(()),
        })
    }

    /// Raft, unless it is stopped.
    pub(super) fn raft(&self) -> Option<GroupRaft<M>> {
        self.session.load().as_ref().map(|session| session.raft.clone())
    }

    /// Starts Raft where it is stopped. Must run on the group's runtime.
    pub(super) async fn start(&self) -> Result<(), StartError> {
        let _switch = self.switch.lock().await;
        if self.session.load().is_some() {
            return Ok(());
        }
        let config = Arc::new(self.config.raft(M::GROUP)?);
        let network = Network::new(Arc::clone(&self.peers));
        let id = u64::from(self.config.node.0);
        let raft = Raft::new(id, config, network, self.store.log(), self.store.machine())
            .await
            .map_err(|error| StartError::Raft(error.to_string()))?;
        let ending = Arc::new(AtomicBool::new(false));
        self.runtime.spawn(watch(raft.clone(), Arc::clone(&ending), Arc::clone(&self.on_fatal)));
        self.session.store(Some(Arc::new(Session { raft, ending })));
        Ok(())
    }

    /// Stops Raft. Must run on the group's runtime.
    pub(super) async fn stop(&self) {
        let _switch = self.switch.lock().await;
        if let Some(session) = self.session.swap(None) {
            session.ending.store(true, Ordering::SeqCst);
            if let Err(error) = session.raft.shutdown().await {
                tracing::warn!(group = M::GROUP, %error, "Raft did not end in order");
            }
        }
    }

    /// The runtime is about to go: what ends now ends on purpose.
    pub(super) fn abandon(&self) {
        if let Some(session) = self.session.swap(None) {
            session.ending.store(true, Ordering::SeqCst);
        }
    }
}

/// Sees to it that a failure of Raft is a failure of the process.
async fn watch<M: Machine>(raft: GroupRaft<M>, ending: Arc<AtomicBool>, on_fatal: OnFatal) {
    let mut metrics = raft.metrics();
    drop(raft);
    let what = loop {
        // Cloned at once: the core waits for whoever holds the reference.
        let running = metrics.borrow_watched().running_state.clone();
        match running {
            Ok(()) => {}
            Err(Fatal::Stopped) => break "it stopped by itself".to_owned(),
            Err(fatal) => break fatal.to_string(),
        }
        if metrics.changed().await.is_err() {
            break "its core is gone".to_owned();
        }
    };
    if !ending.load(Ordering::SeqCst) {
        on_fatal(&what);
    }
}
