//! What the fake region keeps.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use meridian_batch::{BatchView, Limits, Record, decode, stamped, validate};
use meridian_types::{
    Incarnation, Lane, LogEpoch, Offset, Origin, Partition, RegionId, ShardNo, StreamId, shard_of,
};
use meridian_wire::v1::{self, StreamSettings};
use meridian_wire::{ApiError, Reason};

/// The region's own name.
pub const REGION: &str = "us";

/// How many shards it has.
pub const SHARDS: u16 = 16;

/// Misbehaviour, by chance or for good.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// How often a batch is refused for now.
    pub overloaded: f64,
    /// How often an answer is held back behind the next ones.
    pub late: f64,
    /// Batches are taken and never answered.
    pub mute: bool,
    /// How long an answer takes.
    pub delay: Duration,
    /// Partition 0 is refused, to be sent again after so long.
    pub refuse_first: Option<Duration>,
    /// So many subscriptions find damage behind their first batches.
    pub damaged: u32,
}

/// The nodes of the region, and who leads its shards. With no leaders named, any node takes anything.
#[derive(Default)]
pub struct Placement {
    /// What clients dial, by the node's id.
    pub endpoints: BTreeMap<u32, String>,
    /// (epoch, leader) of each shard.
    pub leaders: BTreeMap<u16, (u32, Option<u32>)>,
    /// Whether it is asked so early that it does not know the question.
    pub is_old: bool,
    /// Nodes that store what they are sent, and answer nothing.
    pub silent: BTreeSet<u32>,
    /// Nodes that do not run.
    pub down: BTreeSet<u32>,
    /// How many batches came to a node, by its id.
    pub taken: BTreeMap<u32, u64>,
    /// How many came to a node that does not lead, and were passed on.
    pub passed_on: u64,
    /// How many were refused because nobody leads.
    pub leaderless: u64,
    /// What operators asked for.
    pub asked: Vec<String>,
}

impl Placement {
    /// Who leads each shard from now on, in the next epoch.
    pub fn lead(&mut self, leader: impl Fn(u16) -> Option<u32>) {
        for shard in 0..SHARDS {
            let epoch = self.leaders.get(&shard).map_or(0, |known| known.0);
            self.leaders.insert(shard, (epoch + 1, leader(shard)));
        }
    }
}

pub struct Stored {
    pub base: u64,
    pub events: u32,
    pub hlc: u64,
    pub bytes: Bytes,
}

#[derive(Default)]
pub struct Log {
    pub batches: Vec<Stored>,
    pub end: u64,
}

pub struct Stream {
    pub row: v1::Stream,
    pub lanes: BTreeMap<(Partition, Origin), Log>,
}

/// (next sequence, the last five batches: sequence, events, offset), as Kafka's broker keeps it.
type Sequences = (i32, VecDeque<(i32, i32, u64)>);

#[derive(Default)]
pub struct Store {
    pub streams: BTreeMap<String, Stream>,
    producers: HashMap<(i64, u64, u32), Sequences>,
    next_producer: i64,
    next_stream: u64,
    hlc: u64,
    pub faults: Faults,
    pub duplicates: u64,
    pub placement: Placement,
    /// Batches that were taken while it was mute.
    pub unanswered: u64,
}

fn not_found(name: &str) -> ApiError {
    ApiError::new(Reason::StreamNotFound, format!("there is no stream {name}; create it"))
}

pub fn own_origin() -> Origin {
    Origin { region: RegionId(1), incarnation: Incarnation(1) }
}

impl Store {
    pub fn create(&mut self, name: &str, settings: StreamSettings) -> Result<(v1::Stream, bool), ApiError> {
        if settings.partitions == 0 || settings.partitions > 1024 {
            return Err(ApiError::new(Reason::BadPartitionCount, "a stream has 1 to 1,024 partitions"));
        }
        if let Some(there) = self.streams.get(name) {
            if there.row.settings.as_ref() == Some(&settings) {
                return Ok((there.row.clone(), false));
            }
            return Err(ApiError::new(Reason::StreamExists, "a stream of that name has other settings"));
        }
        self.next_stream += 1;
        let row = v1::Stream {
            id: self.next_stream,
            name: Some(v1::StreamRef { tenant: "default".into(), stream: name.into() }),
            settings: Some(settings.clone()),
            created_at_ms: 1,
            version: 1,
        };
        let mut lanes = BTreeMap::new();
        for partition in 0..settings.partitions {
            lanes.insert((Partition(partition), own_origin()), Log::default());
        }
        self.streams.insert(name.into(), Stream { row: row.clone(), lanes });
        Ok((row, true))
    }

    pub fn stream(&mut self, name: Option<&v1::StreamRef>) -> Result<&mut Stream, ApiError> {
        let name = name.ok_or_else(|| ApiError::new(Reason::InvalidArgument, "no stream"))?;
        self.streams.get_mut(&name.stream).ok_or_else(|| not_found(&name.stream))
    }

    pub fn init_producer(&mut self) -> i64 {
        self.next_producer += 1;
        self.next_producer
    }

    pub fn forget_producers(&mut self) {
        self.producers.clear();
    }

    /// What a node does with a batch: it takes it as the leader, or passes it on to the leader.
    pub fn append_at(
        &mut self,
        node: u32,
        request: &v1::PublishBatchesRequest,
    ) -> Result<v1::PublishedBatch, ApiError> {
        *self.placement.taken.entry(node).or_default() += 1;
        if !self.placement.leaders.is_empty() {
            let stream = StreamId(self.stream(request.stream.as_ref())?.row.id);
            let ShardNo(shard) = shard_of(stream, Partition(request.partition), SHARDS);
            match self.placement.leaders[&shard].1 {
                Some(leader) if leader == node => {}
                Some(leader) if !self.placement.down.contains(&leader) => self.placement.passed_on += 1,
                _ => {
                    self.placement.leaderless += 1;
                    let error = ApiError::new(Reason::NotLeader, "an election is under way");
                    return Err(error.retry_after(Duration::from_millis(5)));
                }
            }
        }
        self.append(request)
    }

    pub fn append(&mut self, request: &v1::PublishBatchesRequest) -> Result<v1::PublishedBatch, ApiError> {
        let info = validate(&request.batch, &Limits::DEFAULT)
            .map_err(|error| ApiError::new(Reason::BadBatch, error.to_string()))?;
        let hlc = self.hlc + 1;
        let name = request.stream.as_ref().map_or("", |stream| &stream.stream);
        // Not through `stream()`, which would borrow the producers too.
        let stream = self.streams.get_mut(name).ok_or_else(|| not_found(name))?;
        let id = stream.row.id;
        let origin = own_origin();
        let partition = Partition(request.partition);
        let log = stream
            .lanes
            .get_mut(&(partition, origin))
            .ok_or_else(|| ApiError::new(Reason::NoSuchPartition, "no such partition"))?;
        let (mut first, mut duplicate) = (log.end, false);
        if let Some(producer) = info.producer {
            let key = (producer.id.0, id, request.partition);
            let sequence = producer.sequence.get();
            if sequence != 0 && !self.producers.contains_key(&key) {
                return Err(ApiError::new(Reason::ProducerExpired, "no session of this producer"));
            }
            let (next, last) = self.producers.entry(key).or_default();
            let events = info.events as i32;
            if let Some(at) = last.iter().find(|(s, e, _)| (*s, *e) == (sequence, events)) {
                (first, duplicate) = (at.2, true);
            } else if sequence != *next {
                let text = format!("sequence {sequence} where {next} should come");
                return Err(ApiError::new(Reason::OutOfSequence, text));
            } else {
                *next += events;
                last.push_back((sequence, events, first));
                if last.len() > 5 {
                    last.pop_front();
                }
            }
        }
        if duplicate {
            self.duplicates += 1;
        } else {
            log.push(&request.batch, info.events, hlc);
            self.hlc = hlc;
        }
        let lane = Lane { stream: StreamId(id), partition, origin };
        let first =
            v1::Position { lane: Some(lane.into()), offset: first, hlc, regions: vec![REGION.to_owned()] };
        Ok(v1::PublishedBatch { first: Some(first), events: info.events, duplicate })
    }

    /// Another region's events, as a mirror brings them.
    pub fn mirror(&mut self, stream: &str, region: u16, partition: u32, batch: &Bytes) {
        let origin = Origin::first(RegionId(region));
        let events = BatchView::new(batch).unwrap().records_count() as u32;
        self.hlc += 1;
        let hlc = self.hlc;
        let lanes = &mut self.streams.get_mut(stream).unwrap().lanes;
        lanes.entry((Partition(partition), origin)).or_default().push(batch, events, hlc);
    }

    /// Everything in a partition of this region's own, in order.
    pub fn read(&self, stream: &str, partition: u32) -> Vec<Record> {
        let log = &self.streams[stream].lanes[&(Partition(partition), own_origin())];
        let records = |batch: &Stored| decode(batch.bytes.clone(), &Limits::DEFAULT).unwrap();
        log.batches.iter().flat_map(records).collect()
    }
}

impl Log {
    fn push(&mut self, batch: &Bytes, events: u32, hlc: u64) {
        let bytes = stamped(batch.clone(), Offset(self.end), LogEpoch(1));
        self.batches.push(Stored { base: self.end, events, hlc, bytes });
        self.end += u64::from(events);
    }
}
