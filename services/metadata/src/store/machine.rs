//! openraft's state machine over a [`Machine`]: in memory, rebuilt at a start from the snapshot and the committed log.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use openraft::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};

use super::disk::{Disk, blocking};
use super::published::{Published, Version};
use crate::machine::{Machine, Unsupported};
use crate::raft::{Entry, LogId, ReplyBytes, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};

/// The machine, its versions and its snapshots.
pub(crate) struct MachineStore<M> {
    disk: Arc<Disk>,
    published: Arc<Published<M>>,
}

impl<M> MachineStore<M> {
    pub(super) fn new(disk: Arc<Disk>, published: Arc<Published<M>>) -> Self {
        Self { disk, published }
    }
}

/// Applies one entry to a version in the making.
pub(super) fn apply_entry<M: Machine>(
    machine: &mut M,
    membership: &mut StoredMembership,
    entry: &Entry,
) -> Result<Bytes, Unsupported> {
    match &entry.payload {
        EntryPayload::Blank => Ok(Bytes::new()),
        EntryPayload::Normal(command) => machine.apply(&command.0),
        EntryPayload::Membership(set) => {
            *membership = StoredMembership::new(Some(entry.log_id), set.clone());
            Ok(Bytes::new())
        }
    }
}

impl<M: Machine> RaftStateMachine<TypeConfig> for MachineStore<M> {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder<M>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let version = self.published.version();
        Ok((version.applied, version.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        let mut batch = Vec::new();
        while let Some(entry) = entries.next().await {
            batch.push(entry?);
        }
        let mut replies = Vec::new();
        {
            let _making = self.published.making.lock();
            let before = self.published.version();
            let mut machine = M::clone(&before.machine);
            let mut membership = before.membership.clone();
            let mut applied = before.applied;
            for (entry, responder) in batch {
                // A Raft that was stopped may still hand over what the one started after it has applied already.
                if applied.is_some_and(|applied| applied.index >= entry.log_id.index) {
                    continue;
                }
                let reply = apply_entry(&mut machine, &mut membership, &entry).map_err(io::Error::other)?;
                applied = Some(entry.log_id);
                replies.extend(responder.map(|responder| (responder, reply)));
            }
            self.published.publish(Version { machine: Arc::new(machine), applied, membership });
        }
        // Only now: who is answered here finds its change in the state.
        for (responder, reply) in replies {
            responder.send(ReplyBytes(reply));
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder<M> {
        Builder { disk: Arc::clone(&self.disk), version: self.published.version() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Bytes) -> Result<(), io::Error> {
        let machine = M::restore(&snapshot).map_err(io::Error::other)?;
        self.disk.save_snapshot(meta, snapshot)?;
        let _making = self.published.making.lock();
        if self.published.version().applied < meta.last_log_id {
            self.published.publish(Version {
                machine: Arc::new(machine),
                applied: meta.last_log_id,
                membership: meta.last_membership.clone(),
            });
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.disk.load_snapshot()?)
    }
}

/// Makes a snapshot of one version while the machine goes on.
pub(crate) struct Builder<M> {
    disk: Arc<Disk>,
    version: Arc<Version<M>>,
}

impl<M: Machine> RaftSnapshotBuilder<TypeConfig> for Builder<M> {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let meta = SnapshotMeta {
            last_log_id: self.version.applied,
            last_membership: self.version.membership.clone(),
        };
        let state = blocking(|| self.version.machine.snapshot());
        self.disk.save_snapshot(&meta, state.clone())?;
        Ok(Snapshot { meta, snapshot: state })
    }
}
