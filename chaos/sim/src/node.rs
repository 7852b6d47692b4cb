//! A node: what outlives its process, and the process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use meridian_metadata::catalog::Catalog;
use meridian_metadata::driver::Heartbeat;
use meridian_metadata::placement::Placement;
use meridian_mirror::{DurableBoard, Feed, LegId, Legs};
use meridian_shard::{Home, LogPoint, Opening, ReadError, Reader, Recovery, Replica, Totals, frame_effects};
use meridian_storage::index::{Index, MemoryKeyValue};
use meridian_storage::{
    Disk, Entry, Frame, Identity, Recovered, Restart, SimDisk, Volume, VolumeConfig, VolumeError,
};
use meridian_types::{
    Boot, ClusterUuid, DiskUuid, Hlc, LeaderEpoch, NodeId, Offset, Origin, Partition, Seq, ShardId, StreamId,
    Timestamp,
};
use uuid::Uuid;

use crate::check::stored::StoredLog;
use crate::host::{Host, Unapplied};
use crate::queue::Queue;

/// How many idempotent producers a shard keeps in memory: few, so that the index is asked.
const PRODUCERS: usize = 3;
/// The cluster.
pub const CLUSTER: ClusterUuid = ClusterUuid(Uuid::from_u128(7));

/// A node.
pub struct Node {
    pub id: NodeId,
    /// Its region, by place.
    pub region: usize,
    pub disk: SimDisk,
    pub kv: Arc<MemoryKeyValue>,
    pub boot: u64,
    /// How far its clock is off, in milliseconds.
    pub skew: i64,
    /// What its disk has synced, for the checkers.
    pub stored: BTreeMap<ShardId, StoredLog>,
    /// What it has applied of its region's placement, and how many commands that is.
    pub placement: Placement,
    pub applied: usize,
    /// The same of the catalog.
    pub catalog: Catalog,
    pub learnt: usize,
    /// What its process writes as, and the placement group that it takes part in.
    pub home: Origin,
    pub group: usize,
    pub process: Option<Process>,
    /// As `stored`, with the round that was being written when the process ended.
    pub in_flight: BTreeMap<ShardId, StoredLog>,
    /// It stands still until then.
    pub frozen_until: u64,
    /// Its disk has no room for another file.
    pub full: bool,
    /// Bits have flipped on its disk.
    pub flipped: bool,
    /// The last round that it has synced: a whole header that proves all before it.
    pub proven: u64,
}

/// A process.
pub struct Process {
    pub life: u64,
    pub boot: Boot,
    pub volume: Volume,
    pub index: Arc<Index>,
    pub reader: Reader,
    pub hosts: BTreeMap<ShardId, Host>,
    pub queue: Queue,
    pub round_due: bool,
    pub next_request: u64,
    /// Links into this region, by the place of the source region.
    pub links: BTreeMap<usize, Link>,
    /// Mirrors that read here, by connection.
    pub sessions: BTreeMap<u64, Session>,
    pub board: DurableBoard,
    /// What each node said last, and when: for a driver that begins here.
    pub heard: BTreeMap<NodeId, (Heartbeat, Timestamp)>,
    /// What is to be synced before the process goes on with something.
    pub synced_at: u64,
    /// Damage hides what the volume held: a shard of which nothing was found may have been there.
    pub hidden: bool,
}

/// The copy's end of a link.
pub struct Link {
    pub legs: Legs,
    /// The connection of each leg that has one.
    pub ways: BTreeMap<LegId, u64>,
    /// Legs that are being opened, and which attempt counts.
    pub opening: BTreeMap<NodeId, u64>,
    /// At the main leg.
    pub attempts: u32,
}

/// The source's end of a link.
pub struct Session {
    pub feed: Feed,
    pub to: NodeId,
    pub to_region: usize,
}

impl Node {
    /// A node with an empty disk.
    pub fn new(id: NodeId, region: usize, seed: u64, (catalog, learnt): (Catalog, usize)) -> Self {
        let disk = SimDisk::new(seed ^ (u64::from(id.0) << 40));
        let uuid = disk_uuid(id);
        Identity::format_as(&disk, CLUSTER, id, uuid, [7; 16]).expect("an empty disk");
        Self {
            id,
            region,
            disk,
            kv: Arc::new(MemoryKeyValue::new()),
            boot: 0,
            skew: 0,
            stored: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            placement: Placement::default(),
            applied: 0,
            catalog,
            learnt,
            home: Origin::default(),
            group: 0,
            process: None,
            frozen_until: 0,
            full: false,
            flipped: false,
            proven: 0,
        }
    }

    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Starts a process, as `host.rs::open` does; `shards`: those that every node opens.
    ///
    /// # Errors
    /// Why it does not start, which on a sound disk is a breach.
    pub fn start(&mut self, life: u64, config: VolumeConfig, shards: &[ShardId]) -> Result<Started, String> {
        self.boot += 1;
        let home = self.home;
        let index = Arc::new(Index::open(self.kv.clone()).map_err(|e| e.to_string())?);
        let applied = |shard| index.applied(shard).ok().flatten().map_or(Seq::ZERO, |mark| mark.seq);
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        // What is damaged in files that are passed comes out when it is read, and here not everything is.
        let restart = Restart::of(&index).map_err(|e| e.to_string())?.filter(|_| !self.flipped);
        let (volume, recovered) = Volume::open_at(disk, config, restart.as_ref(), &applied)
            .map_err(|e: VolumeError| e.to_string())?;
        self.proven = volume.next_round() - 1;
        let reader = Reader::new(index.clone(), volume.reader());
        let mut process = Process {
            life,
            boot: Boot(self.boot),
            volume,
            index,
            reader,
            hosts: BTreeMap::new(),
            queue: Queue::default(),
            round_due: false,
            next_request: 0,
            links: BTreeMap::new(),
            sessions: BTreeMap::new(),
            board: DurableBoard::default(),
            heard: BTreeMap::new(),
            synced_at: 0,
            hidden: recovered.hidden,
        };
        let mut ids: Vec<ShardId> =
            recovered.shards.keys().chain(recovered.promises.keys()).chain(shards).copied().collect();
        ids.extend(process.index.shards().map_err(|e| e.to_string())?.into_iter().map(|(shard, _)| shard));
        ids.sort_unstable();
        ids.dedup();
        let mut replayed = 0;
        for id in ids {
            let (host, count) = process.recover(self.id, id, home, &recovered, self.stored.get(&id))?;
            replayed += count;
            if let Some(from) = host.gives_up {
                process.queue.give_up(id, from);
            }
            process.hosts.insert(id, host);
        }
        self.process = Some(process);
        Ok(Started { recovered, replayed })
    }
}

/// What a start found.
pub struct Started {
    pub recovered: Recovered,
    pub replayed: u64,
}

/// A node's disk.
pub fn disk_uuid(id: NodeId) -> DiskUuid {
    DiskUuid(Uuid::from_u128(u128::from(id.0) + 1_000))
}

impl Process {
    /// Opens a shard that nothing is held of.
    pub fn ensure(&mut self, me: NodeId, id: ShardId, home: Origin) -> &mut Host {
        let (boot, hidden) = (self.boot, self.hidden);
        self.hosts.entry(id).or_insert_with(|| {
            let mut replica =
                Replica::recover(id, me, boot, home_of(id, home), Recovery::default(), PRODUCERS);
            if let Some(from) = Opening::of(None, Seq::ZERO, hidden, false).unsure {
                replica.set_unsure(from);
            }
            host(id, home, replica)
        })
    }

    fn recover(
        &self,
        me: NodeId,
        id: ShardId,
        home: Origin,
        recovered: &Recovered,
        stored: Option<&StoredLog>,
    ) -> Result<(Host, u64), String> {
        let error = |e: &dyn std::fmt::Display| format!("shard {id}: {e}");
        let applied = self.index.applied(id).map_err(|e| error(&e))?;
        let mut next: BTreeMap<(StreamId, Partition), Offset> = BTreeMap::new();
        let mut totals = Totals::default();
        for (lane, state) in self.index.all_lanes().map_err(|e| error(&e))? {
            if state.shard == id {
                next.insert((lane.stream, lane.partition), state.end);
                totals.events += state.events;
                totals.bytes += state.bytes;
            }
        }
        let promised = recovered.promises.get(&id).map_or(LeaderEpoch(0), |promise| promise.epoch);
        let recovery = Recovery { applied, lanes: next, promised };
        let replica = Replica::recover(id, me, self.boot, home_of(id, home), recovery, PRODUCERS);
        let mut host = host(id, home, replica);
        host.totals = totals;
        host.applied_hlc = applied.map_or(Hlc::ZERO, |mark| mark.hlc);
        let applied_seq = applied.map_or(Seq::ZERO, |mark| mark.seq);
        let found = recovered.shards.get(&id);
        if let Some(found) = found {
            self.reader.relocate(id, &found.moved).map_err(|e| error(&e))?;
        }
        let is_past = Opening::is_past(id, home, promised);
        let mut opening = Opening::of(found, applied_seq, recovered.hidden, is_past);
        host.is_past = is_past;
        host.view = self.applied_log(id, applied_seq, &opening, stored)?;
        let mut replayed = 0;
        for (seq, place) in std::mem::take(&mut opening.replay) {
            let frame = self.volume.reader().read_expecting(place, id, seq).map_err(|e| error(&e))?;
            let effects = frame_effects(&frame, place);
            if let Err(fault) = host.replica.replay(&frame) {
                if recovered.damage.is_empty() {
                    return Err(error(&fault));
                }
                opening.breaks_at(seq);
                break;
            }
            host.unapplied.push_back(Unapplied { effects, flushed: true });
            host.view.push(frame);
            replayed += 1;
        }
        if let Some(from) = opening.unsure {
            host.replica.set_unsure(from);
        }
        host.gives_up = opening.give_up;
        if opening.promise_hidden {
            host.replica.set_promise_hidden();
        }
        host.was_applied = found.map_or(Seq::ZERO, |found| found.applied);
        for range in opening.damaged.iter() {
            self.reader.quarantine().add(id, range);
        }
        Ok((host, replayed))
    }

    /// The applied part of a log, for the checkers. What cannot be read must be what recovery has found damaged; there they
    /// know what was stored.
    fn applied_log(
        &self,
        id: ShardId,
        applied: Seq,
        opening: &Opening,
        stored: Option<&StoredLog>,
    ) -> Result<Vec<Frame>, String> {
        // A reader of its own: what it finds is not what the process knows.
        let reader = Reader::new(self.index.clone(), self.volume.reader());
        let (mut view, mut from) = (Vec::new(), Seq(1));
        while from <= applied {
            let mut frames = match reader.frames(id, from, 1 << 20) {
                Err(ReadError::Volume(_)) if opening.damaged.contains(from) => {
                    let at = usize::try_from(from.0 - 1).unwrap_or(usize::MAX);
                    stored.and_then(|log| log.frames.get(at)).cloned().into_iter().collect()
                }
                read => read.map_err(|e| format!("shard {id}: frame {from} cannot be read: {e}"))?,
            };
            let Some(last) = frames.last() else {
                return Err(format!("shard {id}: frame {from} is not there"));
            };
            from = last.header.seq.next();
            view.append(&mut frames);
        }
        Ok(view)
    }

    /// Moves what the replica wants written to the queue.
    pub fn submit(&mut self, shard: ShardId) {
        let Some(host) = self.hosts.get_mut(&shard) else { return };
        if !host.to_submit.is_empty() {
            host.mark(shard);
            let mut entries: Vec<Entry> = std::mem::take(&mut host.to_submit);
            if let from @ Some(_) = host.replica.doubt_to_write() {
                entries.insert(0, Entry::Doubt { shard, from });
            }
            self.queue.frames(shard, entries);
        }
    }

    /// The newest applied frame at or below `seq` whose epoch is at most `epoch`; none: it cannot be read.
    pub fn newest(&self, shard: ShardId, seq: Seq, epoch: meridian_types::LogEpoch) -> Option<LogPoint> {
        self.reader.newest(shard, seq, epoch).ok()
    }

    /// Nothing here is damaged as far as it knows, and nothing in doubt.
    pub fn is_sound(&self) -> bool {
        self.reader.quarantine().first_of_each().is_empty()
            && self.hosts.values().all(|host| host.replica.unsure_from().is_none())
    }
}

fn home_of(id: ShardId, home: Origin) -> Home {
    if id.origin == home { Home::Origin } else { Home::Copy }
}

fn host(id: ShardId, home: Origin, replica: Replica) -> Host {
    let (seen, marked) = (replica.marks().committed, replica.marks().applied);
    Host {
        home: home_of(id, home),
        replica,
        unapplied: VecDeque::new(),
        view: Vec::<Frame>::new(),
        to_submit: Vec::new(),
        marked,
        marking: false,
        totals: Totals::default(),
        applied_hlc: Hlc::ZERO,
        fault: None,
        fences: Vec::new(),
        answers: BTreeMap::new(),
        pumps: BTreeMap::new(),
        set: None,
        counted: Default::default(),
        seen,
        showing: false,
        asking: false,
        gives_up: None,
        was_applied: Seq::ZERO,
        is_past: false,
    }
}
