//! All shards of a node: opened from what the volume and the index hold, found by id.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use meridian_storage::index::{Index, IndexError};
use meridian_storage::{Entry, Recovered, RecoveredShard, Submission, VolumeReader, WriterHandle};
use meridian_types::{
    Boot, Clock, LeaderEpoch, NodeId, Offset, Origin, Partition, Seq, ShardId, ShardNo, StreamId,
};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::task::{ShardTask, Unapplied};
use crate::{
    Home, Opening, Peers, Placement, Proven, Reader, Recovery, RepairError, Replica, ShardHandle, Tails,
    Totals, frame_effects, tail,
};

/// How long closing waits for the shards' tasks.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// How often it is looked at least whether the index is to be flushed.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// So many volume files are begun between two flushes of the index, and some more while one is under way. A start after a crash reads
/// them again: at the rate at which a disk writes, the time between flushes alone would be gigabytes.
const FILES_AHEAD: usize = 8;

/// How a host is set up.
#[derive(Clone, Copy, Debug)]
pub struct HostConfig {
    /// This node.
    pub me: NodeId,
    /// How often it has started on its disk.
    pub boot: Boot,
    /// Its region's incarnation.
    pub home: Origin,
    /// How many shards that has.
    pub shards: u16,
    /// Bytes of newest frames kept in memory, over all shards.
    pub tail_bytes: usize,
    /// Idempotent producers kept in memory, for each shard.
    pub producers: usize,
    /// How often the index is flushed at least, so that a restart replays little.
    pub flush_every: Duration,
    /// After how long without frames the volume is told how far a shard is applied, so that a crash forgets none of it.
    pub mark_after: Duration,
}

/// Why a host does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The index cannot be read.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// What tasks share.
struct Parts {
    config: HostConfig,
    index: Arc<Index>,
    volume: VolumeReader,
    writer: WriterHandle,
    clock: Arc<dyn Clock>,
    placement: Arc<dyn Placement>,
    peers: Arc<dyn Peers>,
    fatal: Arc<dyn Fn(String) + Send + Sync>,
    reader: Reader,
    tails: Arc<Tails>,
}

/// The shards of a node.
pub struct ShardHost {
    parts: Parts,
    shards: Mutex<HashMap<ShardId, ShardHandle>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    promises: BTreeMap<ShardId, LeaderEpoch>,
    /// Damage hides what it held: a shard of which nothing was found may have been there.
    hidden: bool,
}

impl ShardHost {
    /// Opens every shard that is at home here or that the volume or the index knows, on the current tokio runtime.
    /// `fatal` ends the process: it is called where going on could break a law.
    ///
    /// # Errors
    /// [`OpenError`]. A shard that is damaged above its applied mark opens, serves what is applied, and is in doubt; below
    /// it, it goes on without the frames that are damaged, until they are repaired.
    #[allow(clippy::too_many_arguments)]
    pub fn open(
        config: HostConfig,
        index: Arc<Index>,
        volume: VolumeReader,
        writer: WriterHandle,
        clock: Arc<dyn Clock>,
        placement: Arc<dyn Placement>,
        peers: Arc<dyn Peers>,
        recovered: Recovered,
        fatal: Arc<dyn Fn(String) + Send + Sync>,
    ) -> Result<Self, OpenError> {
        let reader = Reader::new(index.clone(), volume.clone());
        let tails = Tails::new(config.tail_bytes);
        let parts = Parts { config, index, volume, writer, clock, placement, peers, fatal, reader, tails };
        let promises = recovered.promises.iter().map(|(&shard, promise)| (shard, promise.epoch)).collect();
        let hidden = recovered.hidden;
        let host = Self { parts, shards: Mutex::default(), tasks: Mutex::default(), promises, hidden };

        let mut lanes: HashMap<ShardId, Lanes> = HashMap::new();
        for (lane, state) in host.parts.index.all_lanes()? {
            let known = lanes.entry(state.shard).or_default();
            known.next.insert((lane.stream, lane.partition), state.end);
            known.totals.events += state.events;
            known.totals.bytes += state.bytes;
        }
        let home = (0..config.shards).map(|no| ShardId { origin: config.home, no: ShardNo(no) });
        let indexed = host.parts.index.shards()?;
        let mut found = recovered.shards;
        let ids: std::collections::BTreeSet<ShardId> = home
            .chain(found.keys().copied())
            .chain(indexed.iter().map(|&(shard, _)| shard))
            .chain(host.promises.keys().copied())
            .collect();
        for id in ids {
            let opened = host.start(id, lanes.remove(&id).unwrap_or_default(), found.remove(&id))?;
            host.shards.lock().insert(id, opened);
        }
        Ok(host)
    }

    fn start(
        &self,
        shard: ShardId,
        lanes: Lanes,
        found: Option<RecoveredShard>,
    ) -> Result<ShardHandle, OpenError> {
        let Parts { config, index, volume, .. } = &self.parts;
        let home = if shard.origin == config.home { Home::Origin } else { Home::Copy };
        let applied = index.applied(shard)?;
        let promised = self.promises.get(&shard).copied().unwrap_or_default();
        let recovery = Recovery { applied, lanes: lanes.next, promised };
        let mut replica = Replica::recover(shard, config.me, config.boot, home, recovery, config.producers);
        let tail = self.parts.tails.tail();
        let mut unapplied = VecDeque::new();
        let applied_seq = applied.map_or(Seq::ZERO, |mark| mark.seq);
        if let Some(found) = &found {
            self.parts.reader.relocate(shard, &found.moved)?;
        }
        let is_past = Opening::is_past(shard, config.home, promised);
        let mut opening = Opening::of(found.as_ref(), applied_seq, self.hidden, is_past);
        for (seq, place) in std::mem::take(&mut opening.replay) {
            let frame = match volume.read_expecting(place, shard, seq) {
                Ok(frame) => frame,
                Err(error) => {
                    tracing::error!(%shard, %seq, %error, "a frame cannot be read again");
                    opening.breaks_at(seq);
                    break;
                }
            };
            let effects = frame_effects(&frame, place);
            if let Err(fault) = replica.replay(&frame) {
                tracing::error!(%shard, %seq, %fault, "a frame does not follow the one before it");
                opening.breaks_at(seq);
                break;
            }
            unapplied.push_back(Unapplied { effects, flushed: true });
            tail.append(tail::Unapplied::OnDisk(seq, place));
        }
        if let Some(why) = opening.why {
            tracing::error!(%shard, applied = %applied_seq, unsure_from = ?opening.unsure, why, "this shard's log is damaged here");
        }
        if let Some(from) = opening.give_up {
            self.give_up(shard, from);
        }
        if opening.promise_hidden {
            replica.set_promise_hidden();
        }
        if let Some(from) = opening.unsure {
            replica.set_unsure(from);
        }

        for range in opening.damaged.iter() {
            self.parts.reader.quarantine().add(shard, range);
        }
        self.parts.reader.add_tail(shard, tail.clone());
        let task = ShardTask {
            replica,
            shard,
            index: index.clone(),
            writer: self.parts.writer.clone(),
            clock: self.parts.clock.clone(),
            placement: self.parts.placement.clone(),
            peers: self.parts.peers.clone(),
            reader: self.parts.reader.clone(),
            fatal: self.parts.fatal.clone(),
            tail,
            unapplied,
            totals: lanes.totals,
            mark_after: config.mark_after,
            was_applied: found.as_ref().map_or(Seq::ZERO, |found| found.applied),
        };
        let (handle, joined) = task.spawn();
        self.tasks.lock().push(joined);
        Ok(handle)
    }

    /// What a past incarnation had not applied goes, before anybody sees it.
    fn give_up(&self, shard: ShardId, from: Seq) {
        tracing::warn!(%shard, %from, "the shard's incarnation is over: what is above the applied mark is given up here");
        let entries = vec![Entry::Cut { shard, from }];
        self.parts.writer.submit(Submission { shard, entries, done: Box::new(|_| {}) });
    }

    /// A shard that is open.
    pub fn get(&self, shard: ShardId) -> Option<ShardHandle> {
        self.shards.lock().get(&shard).cloned()
    }

    /// A shard, opened empty if nothing is held of it yet: another origin's that is to be mirrored.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn ensure(&self, shard: ShardId) -> Result<ShardHandle, OpenError> {
        if let Some(handle) = self.get(shard) {
            return Ok(handle);
        }
        let mut shards = self.shards.lock();
        if let Some(handle) = shards.get(&shard) {
            return Ok(handle.clone());
        }
        let handle = self.start(shard, Lanes::default(), None)?;
        shards.insert(shard, handle.clone());
        Ok(handle)
    }

    /// The shard of a partition of a stream that this region is the origin of.
    pub fn home_shard_id(&self, stream: StreamId, partition: Partition) -> ShardId {
        let no = meridian_types::shard_of(stream, partition, self.parts.config.shards);
        ShardId { origin: self.parts.config.home, no }
    }

    /// That shard, if it is open here.
    pub fn home_shard(&self, stream: StreamId, partition: Partition) -> Option<ShardHandle> {
        self.get(self.home_shard_id(stream, partition))
    }

    /// Every open shard, by id.
    pub fn all(&self) -> Vec<ShardHandle> {
        let mut all: Vec<ShardHandle> = self.shards.lock().values().cloned().collect();
        all.sort_by_key(|handle| handle.id);
        all
    }

    /// This region's incarnation.
    pub fn home(&self) -> Origin {
        self.parts.config.home
    }

    /// Reads what is applied.
    pub fn reader(&self) -> Reader {
        self.parts.reader.clone()
    }

    /// Stores frames again that are damaged here: in the volume first, then in the index. How many they were.
    ///
    /// # Errors
    /// [`RepairError`].
    pub async fn store_again(&self, proven: Proven) -> Result<u64, RepairError> {
        self.parts.reader.store_again(&self.parts.writer, proven).await
    }

    /// How many bytes of all shards wait for the volume.
    pub fn queued_bytes(&self) -> u64 {
        self.parts.writer.queued_bytes()
    }

    /// The disk is at its reserve: nothing can be appended for now.
    pub fn is_full(&self) -> bool {
        self.parts.writer.is_full()
    }

    /// Flushes the index every so often, and sooner where much is written, for ever.
    pub async fn keep_flushing(&self) {
        let flush_every = self.parts.config.flush_every;
        let mut ticks = tokio::time::interval(flush_every.min(LOOK_EVERY));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let restarts = self.parts.writer.restarts();
        let (mut last, mut last_at, mut kept_back) = (Seq::ZERO.0, Instant::now(), 0);
        loop {
            ticks.tick().await;
            // What a flush leaves waiting is not applied yet, or never will be: that is no reason for the next one.
            let waiting = restarts.waiting();
            kept_back = waiting.min(kept_back);
            if last_at.elapsed() < flush_every && waiting < kept_back + FILES_AHEAD {
                continue;
            }
            last_at = Instant::now();
            self.parts.volume.forget_unused();
            let applied: u64 = self.all().iter().map(|shard| shard.progress().applied.0).sum();
            if applied == last {
                continue;
            }
            last = applied;
            self.flush_index().await;
            kept_back = restarts.waiting();
        }
    }

    /// Flushes the index and waits for it.
    pub async fn flush_index(&self) {
        let (index, restarts) = (self.parts.index.clone(), self.parts.writer.restarts().clone());
        let is_damaged = !self.parts.reader.quarantine().first_of_each().is_empty();
        let flush = move || restarts.keep_in(&index, is_damaged).and_then(|()| index.flush());
        match tokio::task::spawn_blocking(flush).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => (self.parts.fatal)(format!("the index cannot be flushed: {error}")),
            Err(error) => tracing::warn!(%error, "the index flush did not run to its end"),
        }
    }

    /// Drops all handles, waits for the tasks to end, and flushes the index.
    pub async fn close(&self) {
        self.shards.lock().clear();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        // Handles that someone still holds keep a task alive: the process ends anyway.
        let all = futures::future::join_all(tasks);
        if tokio::time::timeout(CLOSE_WITHIN, all).await.is_err() {
            tracing::debug!("some shard tasks are still in use");
        }
        self.flush_index().await;
    }
}

/// What the index says of a shard's lanes.
#[derive(Default)]
struct Lanes {
    next: BTreeMap<(StreamId, Partition), Offset>,
    totals: Totals,
}
