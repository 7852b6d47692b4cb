//! Producers that retry, consumers that read on from their cursors anywhere, readers that want what is newest.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use meridian_batch::{BatchBuilder, Codec, Event as BatchEvent, Producer, Sequence};
use meridian_metadata::catalog::has_recovered;
use meridian_shard::{Ack, Input, Publish, Reject, RequestId, past_producer};
use meridian_types::{
    Incarnation, Lane, NodeId, Origin, Partition, ProducerEpoch, ProducerId, ShardId, StreamId, TenantId,
    shard_of,
};
use rand::RngExt as _;
use rand::rngs::Xoshiro256PlusPlus as Rng;

use super::{At, Event, World};
use crate::check::{Law, committed_leaves, incarnations};
use crate::host::Waiting;
use crate::swarm::Swarm;

const STREAM: StreamId = StreamId(1);
/// How long a client waits for an answer, in µs.
const PATIENCE: u64 = 400_000;

/// A batch that was not answered yet.
#[derive(Clone)]
struct Batch {
    number: u64,
    /// Among its client's batches.
    index: u64,
    publish: Publish,
    /// The try under way.
    ticket: Option<u64>,
    bytes: usize,
}

/// A client that publishes to one partition.
struct Client {
    id: ProducerId,
    epoch: ProducerEpoch,
    region: usize,
    partition: Partition,
    next_sequence: i32,
    made: u64,
    open: VecDeque<Batch>,
    /// When the last thing that it sent arrives: it keeps their order.
    arrives: u64,
    retrying: bool,
    /// How often in a row it was told that what it sends does not follow what is known of it.
    unknown: u32,
}

/// All clients.
pub struct Clients {
    all: Vec<Client>,
    consumers: usize,
    /// Old generations' batches that are still on some way.
    ghosts: Vec<(usize, Publish)>,
    numbers: u64,
    /// The first answer of each batch.
    answered: BTreeMap<u64, Ack>,
}

impl Clients {
    pub fn new(swarm: &Swarm, rng: &mut Rng) -> Self {
        let all = (0..swarm.producers)
            .map(|n| {
                let id = if rng.random_bool(0.8) { ProducerId(n as i64 + 1) } else { ProducerId::NONE };
                Client {
                    id,
                    epoch: ProducerEpoch(0),
                    region: rng.random_range(0..swarm.regions),
                    partition: Partition(rng.random_range(0..swarm.partitions)),
                    next_sequence: 0,
                    made: 0,
                    open: VecDeque::new(),
                    arrives: 0,
                    retrying: false,
                    unknown: 0,
                }
            })
            .collect();
        Self { all, consumers: swarm.consumers, ghosts: Vec::new(), numbers: 0, answered: BTreeMap::new() }
    }

    /// Where a client publishes.
    pub fn region_of(&self, client: usize) -> usize {
        self.all[client].region
    }

    pub fn open(&self) -> usize {
        self.all.iter().map(|client| client.open.len()).sum()
    }
}

impl World {
    pub(super) fn operation(&mut self) {
        if !self.calm {
            let delay = 1 + self.some(2 * self.swarm.op_every);
            self.after(delay, Event::Operation);
        }
        let done = match self.rng.random_range(0..20) {
            0..=11 => self.produce(),
            12..=16 => self.consume(),
            17 | 18 => self.read(),
            _ if self.chance(30) => self.renew(),
            _ => self.haunt(),
        };
        self.operations += u64::from(done.is_some());
    }

    fn shard(&self, region: usize, partition: Partition) -> ShardId {
        self.shard_under(self.origin(region), partition)
    }

    fn shard_under(&self, origin: Origin, partition: Partition) -> ShardId {
        ShardId { origin, no: shard_of(STREAM, partition, self.swarm.shards) }
    }

    fn produce(&mut self) -> Option<()> {
        let at = self.rng.random_range(0..self.clients.all.len());
        let (events, bytes) = (self.rng.random_range(1..4u32), self.rng.random_range(0..300));
        self.clients.numbers += 1;
        let number = self.clients.numbers;
        let client = &mut self.clients.all[at];
        // As Kafka's clients: a batch is at most so far ahead of the oldest without an answer.
        let oldest = client.open.front().map_or(client.made, |batch| batch.index);
        if client.made - oldest >= self.swarm.pipeline as u64 {
            return None;
        }
        let index = client.made;
        client.made += 1;
        let sequence = client.next_sequence;
        let producer = client.id.is_some().then(|| Producer {
            id: client.id,
            epoch: client.epoch,
            sequence: Sequence::new(sequence).expect("far from the last"),
        });
        client.next_sequence += events as i32;
        let publish = Publish {
            request: RequestId(0),
            tenant: TenantId::DEFAULT,
            stream: STREAM,
            partition: client.partition,
            batch: batch(number, producer, events, bytes),
            events,
            producer,
        };
        client.open.push_back(Batch { number, index, publish, ticket: None, bytes });
        self.met.met("operation: publish");
        self.kick(at);
        Some(())
    }

    /// A new producer under the same id: the old one's retries may still be on their way.
    fn renew(&mut self) -> Option<()> {
        let at = self.rng.random_range(0..self.clients.all.len());
        let client = &mut self.clients.all[at];
        if !client.id.is_some() || client.epoch.0 > 20 {
            return None;
        }
        client.epoch = ProducerEpoch(client.epoch.0 + 1);
        client.next_sequence = 0;
        let ghosts: Vec<(usize, Publish)> = client.open.drain(..).map(|batch| (at, batch.publish)).collect();
        self.clients.ghosts.extend(ghosts);
        self.met.met("operation: producer renewed");
        Some(())
    }

    /// A retry of a producer that was renewed since.
    fn haunt(&mut self) -> Option<()> {
        let ghosts = self.clients.ghosts.clone();
        let (client, publish) = self.pick(&ghosts)?;
        let node = self.guess(self.clients.all[client].region, publish.partition)?;
        self.met.met("operation: retry of an old producer epoch");
        let delay = self.some(self.swarm.way);
        let publish = Box::new(publish);
        self.after(delay, Event::Publish { node, client, ticket: 0, publish });
        Some(())
    }

    /// Who leads, as some node knows it, or as a client that is wrong.
    fn guess(&mut self, region: usize, partition: Partition) -> Option<NodeId> {
        let ids: Vec<NodeId> =
            self.nodes.values().filter(|node| node.region == region).map(|node| node.id).collect();
        let asked = self.pick(&ids)?;
        let shard = self.shard_under(self.home(asked), partition);
        let leader = self.nodes.get(&asked)?.placement.shard(shard)?.elected.map(|elected| elected.node);
        if self.chance(15) { self.pick(&ids) } else { leader.or(Some(asked)) }
    }

    /// Sends what is not under way, in order.
    pub(super) fn kick(&mut self, at: usize) {
        let (region, partition) = (self.clients.all[at].region, self.clients.all[at].partition);
        self.clients.all[at].retrying = false;
        let Some(node) = self.guess(region, partition) else { return self.retry_later(at) };
        let mut sent = Vec::new();
        for batch in self.clients.all[at].open.iter_mut().filter(|batch| batch.ticket.is_none()) {
            self.next_number += 1;
            batch.ticket = Some(self.next_number);
            sent.push((self.next_number, batch.number, batch.publish.clone()));
        }
        for (ticket, number, publish) in sent {
            let delay = 100 + self.some(self.swarm.way);
            let time = self.clients.all[at].arrives.max(self.now + delay);
            self.clients.all[at].arrives = time;
            let publish = Box::new(Publish { request: RequestId(number), ..publish });
            self.at(time, Event::Publish { node, client: at, ticket: number, publish });
            self.after(PATIENCE, Event::TimedOut { client: at, ticket });
        }
    }

    fn retry_later(&mut self, at: usize) {
        if !std::mem::replace(&mut self.clients.all[at].retrying, true) {
            let delay = 10_000 + self.some(100_000);
            self.after(delay, Event::Kick(at));
        }
    }

    pub(super) fn publish_arrives(&mut self, node: NodeId, client: usize, batch: u64, publish: Publish) {
        let shard = self.shard_under(self.home(node), publish.partition);
        let Some(at) = self.here(node) else { return };
        let recovered = self.has_recovered(at, shard);
        if !recovered {
            self.met.met("operation: held back, for the past is not recovered");
        }
        let Some(process) = self.process(at) else { return };
        let full = process.volume.is_full();
        if full {
            // As the gateway: before an offset is given. To the client it is one more reason to try again.
            self.met.met("operation: refused, the disk is full");
        }
        if full || !recovered || !self.process(at).is_some_and(|process| process.hosts.contains_key(&shard)) {
            let delay = self.some(self.swarm.way);
            return self.after(delay, Event::Answer { client, batch, answer: Err(Reject::NotLeader) });
        }
        let Some(process) = self.process(at) else { return };
        process.next_request += 1;
        let request = RequestId(process.next_request);
        let index = process.index.clone();
        let Some(host) = process.hosts.get_mut(&shard) else { return };
        let publish = Publish { request, ..publish };
        if let Some(producer) = publish.producer
            && host.replica.must_learn(publish.stream, publish.partition, producer.id)
        {
            let lane = Lane { stream: publish.stream, partition: publish.partition, origin: shard.origin };
            let learnt = index
                .producer(lane, producer.id)
                .and_then(|state| Ok((state, past_producer(&index, lane, producer.id)?)));
            match learnt {
                Ok((state, past)) => {
                    host.replica.learn(publish.stream, publish.partition, producer.id, state, past);
                }
                Err(error) => return self.judge(Law::OwnChecks, Err(error.to_string())),
            }
            self.met.met("replica: producer learnt from the index");
        }
        if let Some(host) = self.process(at).and_then(|process| process.hosts.get_mut(&shard)) {
            let waiting = Waiting::Publish { client, ticket: batch, publish: Box::new(publish.clone()) };
            host.answers.insert(request, waiting);
        }
        self.step(node, shard, Input::Publish(publish));
    }

    pub(super) fn answered(&mut self, at: usize, number: u64, answer: Result<Ack, Reject>) {
        self.trace.line(self.now, format_args!("client {at} hears of batch {number}: {answer:?}"));
        let client = &mut self.clients.all[at];
        let Some(place) = client.open.iter().position(|batch| batch.number == number) else { return };
        match answer {
            Ok(ack) => {
                client.open.remove(place);
                client.unknown = 0;
                let idempotent = client.id.is_some();
                self.met.met("operation: acknowledged");
                let first = *self.clients.answered.entry(number).or_insert(ack);
                if idempotent
                    && (first.lane, first.base_offset, first.seq) != (ack.lane, ack.base_offset, ack.seq)
                {
                    let what = format!("batch {number} is acknowledged as {first:?} and as {ack:?}");
                    self.judge(Law::NoHoleNoTwin, Err(what));
                }
            }
            Err(reject) => {
                if matches!(reject, Reject::ProducerFenced { .. }) {
                    let what = format!("batch {number} of the newest producer is refused: {reject}");
                    return self.judge(Law::NoHoleNoTwin, Err(what));
                }
                for batch in &mut client.open {
                    batch.ticket = None;
                }
                // What the region lost with its disks it does not know of any more: what is open begins anew.
                let unknown = matches!(reject, Reject::OutOfSequence { .. } | Reject::ProducerExpired);
                client.unknown += u32::from(unknown && place == 0);
                if client.unknown > 3
                    && self.groups[self.current[self.clients.all[at].region]].origin.incarnation.0 > 1
                {
                    self.judge_unknown(at);
                    self.begin_sequences_anew(at);
                }
                self.retry_later(at);
            }
        }
    }

    fn judge_unknown(&mut self, at: usize) {
        let client = &self.clients.all[at];
        let Some(producer) = client.open.front().and_then(|batch| batch.publish.producer) else { return };
        let now = self.origin(client.region);
        let before = Incarnation(now.incarnation.0.saturating_sub(1));
        let shard = self.shard_under(Origin { incarnation: before, ..now }, client.partition);
        let told = self.past.through.get(&shard).copied().unwrap_or_default();
        let verdict = incarnations::unknown(&self.laws.truth, shard, told, producer);
        self.judge(Law::NoHoleNoTwin, verdict);
    }

    /// A new epoch of the producer, in which what is open is sent once more.
    fn begin_sequences_anew(&mut self, at: usize) {
        self.met.met("operation: a producer begins anew, for its region has lost what it wrote");
        let clients = &mut self.clients;
        let client = &mut clients.all[at];
        client.unknown = 0;
        client.epoch = ProducerEpoch(client.epoch.0 + 1);
        client.next_sequence = 0;
        for open in &mut client.open {
            clients.numbers += 1;
            let sequence = Sequence::new(client.next_sequence).expect("far from the last");
            let producer =
                client.id.is_some().then_some(Producer { id: client.id, epoch: client.epoch, sequence });
            let events = open.publish.events;
            client.next_sequence += events as i32;
            let again = batch(clients.numbers, producer, events, open.bytes);
            clients.ghosts.push((at, open.publish.clone()));
            (open.publish.batch, open.publish.producer) = (again, producer);
            (open.number, open.ticket) = (clients.numbers, None);
        }
    }

    /// As `region.rs::has_recovered`.
    fn has_recovered(&mut self, at: At, shard: ShardId) -> bool {
        let region = self.nodes.get(&at.node).and_then(|node| node.catalog.region(shard.origin.region));
        let before = region.map(|region| region.held_before(shard)).unwrap_or_default();
        let Some(process) = self.process(at) else { return false };
        let applied = |shard| Some(process.hosts.get(&shard)?.replica.marks().applied);
        has_recovered(&before, applied)
    }

    pub(super) fn timed_out(&mut self, at: usize, ticket: u64) {
        let client = &mut self.clients.all[at];
        if client.open.iter().any(|batch| batch.ticket == Some(ticket)) {
            for batch in &mut client.open {
                batch.ticket = None;
            }
            self.met.met("operation: timed out");
            self.retry_later(at);
        }
    }

    /// Reads on from a cursor, at any node of any region.
    fn consume(&mut self) -> Option<()> {
        let consumer = self.rng.random_range(0..self.clients.consumers);
        let region = self.rng.random_range(0..self.swarm.regions);
        let partition = Partition(self.rng.random_range(0..self.swarm.partitions));
        let Origin { region: id, incarnation } = self.origin(region);
        let incarnation = Incarnation(self.rng.random_range(1..=incarnation.0));
        let origin = Origin { region: id, incarnation };
        let lane = Lane { stream: STREAM, partition, origin };
        let up: Vec<NodeId> = self.nodes.values().filter(|node| node.is_up()).map(|node| node.id).collect();
        let at = self.pick(&up).and_then(|id| self.here(id))?;
        let (cursor, shard) = (self.laws.cursors.of(consumer, lane), self.shard_under(origin, partition));
        let process = self.process(at)?;
        let read = match process.reader.lane_frames(lane, cursor, 3_000) {
            Ok(read) => read,
            Err(_) if process.reader.quarantine().counts(shard).0 > 0 => {
                self.met.met("operation: a damaged frame is not served");
                return Some(());
            }
            Err(error) => {
                let what = format!("node {} cannot read {lane} from {cursor}: {error}", at.node);
                self.judge(Law::StoredLast, Err(what));
                return None;
            }
        };
        let (mut frames, mut end) = (read.frames, read.end);
        if meridian_types::mutant::is(meridian_types::mutant::Mutant::UncommittedLeaves)
            && let Some(host) = process.hosts.get(&shard)
        {
            let from = frames.last().map_or(cursor, |frame| frame.header.next_offset());
            let all = host.view.iter().filter(|frame| frame.header.events > 0 && frame.header.lane() == lane);
            frames.extend(all.filter(|frame| frame.header.base_offset >= from).cloned());
            end = frames.last().map_or(end, |frame| frame.header.next_offset());
        }
        self.met.met("operation: consume");
        let verdict = committed_leaves::leave(&self.laws.truth, at.node, "a consumer", &frames);
        self.judge(Law::OnlyCommittedLeaves, verdict);
        let verdict = self.laws.cursors.given(consumer, lane, &frames, end);
        self.judge(Law::NoCursorAhead, verdict);
        Some(())
    }

    fn read(&mut self) -> Option<()> {
        let region = self.rng.random_range(0..self.swarm.regions);
        let partition = Partition(self.rng.random_range(0..self.swarm.partitions));
        let shard = self.shard(region, partition);
        let ids: Vec<NodeId> =
            self.nodes.values().filter(|node| node.region == region).map(|node| node.id).collect();
        // Whoever leads, or thinks so.
        let leads = |id: &&NodeId| {
            let process = self.nodes.get(id).and_then(|node| node.process.as_ref());
            process
                .and_then(|process| process.hosts.get(&shard))
                .is_some_and(|host| host.replica.leads().is_some())
        };
        let leaders: Vec<NodeId> = ids.iter().filter(leads).copied().collect();
        let at = self.pick(&leaders).and_then(|id| self.here(id))?;
        let acknowledged = self.laws.durable.highest(shard);
        let process = self.process(at)?;
        process.next_request += 1;
        let request = RequestId(process.next_request);
        if let Some(host) = process.hosts.get_mut(&shard) {
            host.answers.insert(request, Waiting::Read { acknowledged });
        }
        self.met.met("operation: linearizable read");
        self.step(at.node, shard, Input::Read { request });
        Some(())
    }
}

/// A batch whose bytes are told by its number.
fn batch(number: u64, producer: Option<Producer>, events: u32, bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    if let Some(producer) = producer {
        builder = builder.with_producer(producer);
    }
    for i in 0..events {
        let mut value = format!("{number} {i} ").into_bytes();
        value.resize(value.len() + bytes, b'.');
        builder
            .push(&BatchEvent { value: Some(Bytes::from(value)), ..BatchEvent::default() })
            .expect("a small event");
    }
    builder.build().expect("a small batch")
}
