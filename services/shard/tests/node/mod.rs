//! A node's shards over a simulated disk and an index in memory, process after process.
#![allow(dead_code)] // each test uses a part of it

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use meridian_batch::{BatchBuilder, Codec, Event, Producer, Sequence};
use meridian_shard::{HostConfig, NoPeers, Publish, RequestId, ShardHost, SoleReplica};
use meridian_storage::index::{Index, MemoryKeyValue};
use meridian_storage::{
    Chain, Frame, FrameHeader, FrameKind, Identity, Recovered, SimDisk, Volume, VolumeConfig, VolumeError,
    VolumeWriter, WriterConfig, WriterHandle,
};
use meridian_types::{
    Boot, ClusterUuid, DiskUuid, Hlc, LogEpoch, NodeId, Offset, Origin, Partition, ProducerEpoch, ProducerId,
    RegionId, Seq, ShardId, ShardNo, StreamId, SystemClock, TenantId, shard_of,
};
use parking_lot::Mutex;
use tokio::sync::watch;

pub const STREAM: StreamId = StreamId(1);
pub const HOME: Origin = Origin::first(RegionId(1));
/// A shard of another region, of which this node holds a copy.
pub const COPY: ShardId = ShardId { origin: Origin::first(RegionId(2)), no: ShardNo(5) };
pub const SHARDS: u16 = 2;
const ME: NodeId = NodeId(1);
const CONFIG: VolumeConfig =
    VolumeConfig { file_bytes: 64 << 10, max_round_bytes: 16 << 10, stock: 1, reserve_bytes: 0 };

/// What outlives a process.
pub struct Machine {
    pub disk: SimDisk,
    pub kv: Arc<MemoryKeyValue>,
    pub boot: u64,
    /// What its region writes as.
    pub home: Origin,
    /// After how long without frames the volume is told what is applied.
    pub mark_after: Duration,
    /// After how long without entries an empty round proves the last one.
    pub idle: Duration,
}

/// A process.
pub struct Process {
    pub host: Arc<ShardHost>,
    pub index: Arc<Index>,
    pub recovered: Recovered,
    writer: WriterHandle,
    thread: JoinHandle<()>,
    /// Becomes true when the disk has failed.
    pub failed: watch::Receiver<bool>,
    /// What should have ended the process beyond that.
    fatal: Arc<Mutex<Vec<String>>>,
}

impl Machine {
    pub fn new(seed: u64) -> Self {
        let disk = SimDisk::new(seed);
        Identity::format_as(&disk, ClusterUuid::default(), ME, DiskUuid::default(), [7; 16])
            .expect("an empty disk");
        Self {
            disk,
            kv: Arc::new(MemoryKeyValue::new()),
            boot: 0,
            home: HOME,
            mark_after: Duration::from_secs(3600),
            idle: Duration::from_millis(1),
        }
    }

    /// Starts a process on the current runtime. `None`: the disk failed meanwhile.
    pub fn start(&mut self) -> Option<Process> {
        self.boot += 1;
        let index = Arc::new(Index::open(self.kv.clone()).expect("an index"));
        let applied = |shard| index.applied(shard).expect("a mark").map_or(Seq::ZERO, |mark| mark.seq);
        let (volume, recovered) = match Volume::open(Arc::new(self.disk.clone()), CONFIG, &applied) {
            Ok(opened) => opened,
            Err(VolumeError::Io { .. }) => return None,
            Err(error) => panic!("{error}"),
        };
        let reader = volume.reader();
        let (failing, failed) = watch::channel(false);
        let config = WriterConfig { idle: self.idle, ..WriterConfig::default() };
        let on_fatal = Box::new(move |_| {
            failing.send_replace(true);
        });
        let (writer, thread) = VolumeWriter::spawn(volume, config, on_fatal).expect("two threads");
        let fatal = Arc::new(Mutex::new(Vec::new()));
        let said = fatal.clone();
        let opened = ShardHost::open(
            HostConfig {
                me: ME,
                boot: Boot(self.boot),
                home: self.home,
                shards: SHARDS,
                tail_bytes: 2_000,
                producers: 4,
                flush_every: Duration::from_secs(3600),
                mark_after: self.mark_after,
            },
            index.clone(),
            reader,
            writer.clone(),
            Arc::new(SystemClock),
            Arc::new(SoleReplica { node: ME, boot: Boot(self.boot) }),
            Arc::new(NoPeers),
            recovered.clone(),
            Arc::new(move |what| said.lock().push(what)),
        );
        let Ok(host) = opened else {
            // Nothing of this process may touch the disk when the next one starts.
            writer.shutdown();
            thread.join().expect("the writer");
            return None;
        };
        Some(Process { host: Arc::new(host), index, recovered, writer, thread, failed, fatal })
    }

    /// Ends a process in order: the writer writes the empty round that proves the last one. Its runtime must be gone.
    /// The index is back at its last flush.
    pub fn end(&mut self, process: Process) {
        let Process { host, writer, thread, fatal, index, .. } = process;
        drop((host, index));
        writer.shutdown();
        thread.join().expect("the writer");
        assert!(fatal.lock().is_empty(), "{:?}", fatal.lock());
        self.kv.crash();
    }

    /// Ends a process in the middle of whatever its disk does next. Its runtime must be gone. The disk is then to lose
    /// its power, or not, and the index is back at its last flush.
    pub fn kill(&mut self, process: Process) {
        if !self.disk.crashed() {
            self.disk.crash_at(self.disk.ops() + 1);
        }
        self.end(process);
    }
}

impl Process {
    /// Waits until each shard at home takes publishes, or never will. False: the disk failed before.
    pub async fn settled(&self) -> bool {
        for shard in self.host.all() {
            let mut watch = shard.watch();
            let mut failed = self.failed.clone();
            tokio::select! {
                settled = watch.wait_for(|p| p.ready || p.damaged) => {
                    settled.expect("a task");
                }
                _ = failed.wait_for(|failed| *failed) => return false,
            }
        }
        true
    }

    /// Waits for something that never comes once the disk has failed.
    pub async fn unless_failed<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        let mut failed = self.failed.clone();
        tokio::select! {
            done = wait => Some(done),
            _ = failed.wait_for(|failed| *failed) => None,
        }
    }
}

/// A runtime for one process.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

/// A partition that lives in a shard of this region.
pub fn partition_in(no: u16) -> Partition {
    (0..).map(Partition).find(|&partition| shard_of(STREAM, partition, SHARDS) == ShardNo(no)).expect("one")
}

pub fn home(no: u16) -> ShardId {
    ShardId { origin: HOME, no: ShardNo(no) }
}

/// A batch of one producer, whose bytes are told by its first sequence.
pub fn publish(partition: Partition, sequence: i32, events: u32, bytes: usize) -> Publish {
    let producer = Producer {
        id: ProducerId(i64::from(partition.0) + 100),
        epoch: ProducerEpoch(0),
        sequence: Sequence::new(sequence).expect("a sequence"),
    };
    let mut builder = BatchBuilder::new(Codec::None).with_producer(producer);
    for i in 0..events {
        let mut value = format!("{partition} {sequence} {i} ").into_bytes();
        value.resize(value.len() + bytes, b'.');
        builder.push(&Event { value: Some(Bytes::from(value)), ..Event::default() }).expect("a small event");
    }
    Publish {
        request: RequestId(0),
        tenant: TenantId::DEFAULT,
        stream: STREAM,
        partition,
        batch: builder.build().expect("a small batch"),
        events,
        producer: Some(producer),
    }
}

/// The log of [`COPY`], as its origin committed it.
pub fn mirrored(count: u64) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    for seq in 1..=count {
        let fields = FrameHeader {
            kind: FrameKind::Tick,
            origin: COPY.origin,
            shard: COPY.no,
            seq: Seq(seq),
            log_epoch: LogEpoch(1),
            hlc: Hlc(seq),
            tenant: TenantId(0),
            stream: StreamId(0),
            partition: Partition(0),
            base_offset: Offset::ZERO,
            events: 0,
            payload_len: 0,
            payload_crc: 0,
            chain: Chain::GENESIS,
        };
        let before = frames.last().map_or(Chain::GENESIS, |frame| frame.header.chain);
        frames.push(Frame::build(fields, before, Bytes::from(vec![seq as u8; 200])));
    }
    frames
}
