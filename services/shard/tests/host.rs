//! The shards of a node over the real volume code on a simulated disk: what is acknowledged stands, where it stood.
//!
//! Faults 1, 7, 17, 31 and 37 over the whole of publish, apply and replay; 4 and 6 as far as one node can see them.

mod node;

use bytes::Bytes;
use meridian_batch::stamped;
use meridian_shard::{Ack, Publish, PublishError, ReadError, Reader, Reject};
use meridian_storage::index::Index;
use meridian_storage::volume::file_name;
use meridian_storage::{BLOCK, Chain, FRAME_HEADER_BYTES, Frame, FrameKind, Place, PowerLoss, Restart};
use meridian_types::{Lane, Offset, Partition, Seq, ShardId};
use node::{COPY, HOME, Machine, Process, SHARDS, STREAM, home, mirrored, partition_in, publish, runtime};
use rand::rngs::Xoshiro256PlusPlus as Rng;
use rand::{RngExt, SeedableRng};

const SEEDS: u64 = 150;
const LIVES: usize = 4;
const MIRRORED: u64 = 200;

/// `MERIDIAN_SEEDS` multiplies; `MERIDIAN_SEED=n` runs the one that failed.
fn seeds(base: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().map(|n| n.parse::<u64>().expect("a number"));
    match number("MERIDIAN_SEED") {
        Some(one) => one..one + 1,
        None => 0..base * number("MERIDIAN_SEEDS").unwrap_or(1),
    }
}

/// A batch that was sent, and what was answered.
struct Sent {
    publish: Publish,
    ack: Option<Ack>,
}

/// What the clients of a node know.
struct World {
    seed: u64,
    rng: Rng,
    machine: Machine,
    /// By partition: in the order sent.
    sent: Vec<(Partition, Vec<Sent>)>,
    copied: Vec<Frame>,
    /// How much of the copy was shown as durable.
    durable: Seq,
    met: Met,
}

/// What the seeds have met, so that the test knows that it tested.
#[derive(Debug, Default)]
struct Met {
    acknowledged: u64,
    in_doubt_and_stored: u64,
    in_doubt_and_lost: u64,
    duplicates: u64,
    replayed: u64,
    crashed_on_the_way: u64,
}

#[test]
fn what_is_acknowledged_stands_where_it_stood() {
    let mut met = Met::default();
    let seeds = seeds(SEEDS);
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let mut world = World::new(seed, std::mem::take(&mut met));
        for _ in 0..LIVES {
            world.live(true);
        }
        world.live(false);
        met = world.met;
    }
    println!("{met:?}");
    if count >= SEEDS {
        let often = [met.acknowledged, met.duplicates, met.replayed];
        assert!(often.into_iter().all(|times| times > count), "{met:?}");
        let rare = [met.crashed_on_the_way, met.in_doubt_and_stored, met.in_doubt_and_lost];
        assert!(rare.into_iter().all(|times| times > count / 10), "{met:?}");
    }
}

impl World {
    fn new(seed: u64, met: Met) -> Self {
        let sent = (0..SHARDS).map(|no| (partition_in(no), Vec::new())).collect();
        Self {
            seed,
            rng: Rng::seed_from_u64(seed),
            machine: Machine::new(seed),
            sent,
            copied: mirrored(MIRRORED),
            durable: Seq::ZERO,
            met,
        }
    }

    /// One process, to its end: a crash at any operation of its disk, then power loss or only its own death.
    fn live(&mut self, faults: bool) {
        if faults {
            let after = self.rng.random_range(1..60);
            self.machine.disk.crash_at(self.machine.disk.ops() + after);
        }
        let runtime = runtime();
        let process = runtime.block_on(async {
            let process = self.machine.start()?;
            self.met.replayed +=
                process.recovered.shards.values().map(|shard| shard.frames.len() as u64).sum::<u64>();
            assert!(
                process.recovered.damage.is_empty(),
                "seed {}: {:?}",
                self.seed,
                process.recovered.damage
            );
            if self.work(&process).await.is_none() {
                self.met.crashed_on_the_way += 1;
                assert!(faults, "seed {}: a disk that works", self.seed);
            }
            Some(process)
        });
        drop(runtime);
        if let Some(process) = process {
            self.machine.kill(process);
        } else {
            assert!(faults, "seed {}: it does not open on a disk that works", self.seed);
            self.machine.kv.crash();
        }
        match self.rng.random_range(0..4) {
            0 => self.machine.disk.kill(),
            1 => self.machine.disk.lose_power(PowerLoss::Nothing),
            2 => self.machine.disk.lose_power(PowerLoss::Everything),
            _ => self.machine.disk.lose_power(PowerLoss::Any),
        }
    }

    /// What happens in a process. `None`: its disk failed.
    async fn work(&mut self, process: &Process) -> Option<()> {
        // A disk that failed while the shards were opened has put them in doubt: they could not be read.
        if !process.settled().await || self.machine.disk.crashed() {
            return None;
        }
        self.retry(process).await?;
        self.check(process)?;
        for _ in 0..self.rng.random_range(1..12) {
            match self.rng.random_range(0..10) {
                0 => process.host.flush_index().await,
                1 | 2 => self.copy(process).await?,
                _ => self.publish(process).await?,
            }
        }
        self.check(process)
    }

    /// Sends a few batches at once, as a pipelining client does.
    async fn publish(&mut self, process: &Process) -> Option<()> {
        let mut under_way = Vec::new();
        for _ in 0..self.rng.random_range(1..6) {
            let to = self.rng.random_range(0..self.sent.len());
            let (partition, sent) = &mut self.sent[to];
            let sequence: u32 = sent.iter().map(|sent| sent.publish.events).sum();
            let (events, bytes) = (self.rng.random_range(1..5), self.rng.random_range(0..900));
            let publish = publish(*partition, sequence as i32, events, bytes);
            let shard = process.host.home_shard(STREAM, *partition).expect("a shard at home");
            let answer = shard.begin_publish(publish.clone()).await.expect("a task");
            sent.push(Sent { publish, ack: None });
            under_way.push((to, sent.len() - 1, answer));
        }
        for (to, at, answer) in under_way {
            let answer = process.unless_failed(answer).await?;
            let ack = answer.expect("a task").unwrap_or_else(|reject| panic!("seed {}: {reject}", self.seed));
            assert!(!ack.duplicate, "seed {}: sent once", self.seed);
            self.sent[to].1[at].ack = Some(ack);
            self.met.acknowledged += 1;
        }
        Some(())
    }

    /// Sends again what got no answer, in its order, and some of what did.
    async fn retry(&mut self, process: &Process) -> Option<()> {
        for to in 0..self.sent.len() {
            let shard = process.host.home_shard(STREAM, self.sent[to].0).expect("a shard at home");
            let first_in_doubt = self.sent[to].1.iter().position(|sent| sent.ack.is_none());
            let first_in_doubt = first_in_doubt.unwrap_or(self.sent[to].1.len());
            // A producer's last five batches are remembered.
            for at in first_in_doubt.saturating_sub(5)..first_in_doubt {
                let sent = &self.sent[to].1[at];
                if self.sent[to].1.len() - at > 5 {
                    continue;
                }
                let again = process.unless_failed(shard.publish(sent.publish.clone())).await?;
                let again = again.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
                let expected = sent.ack.map(|ack| Ack { duplicate: true, ..ack });
                assert_eq!(
                    Some(again),
                    expected,
                    "seed {}: a retry is answered with its original",
                    self.seed
                );
                self.met.duplicates += 1;
            }
            for at in first_in_doubt..self.sent[to].1.len() {
                let publish = self.sent[to].1[at].publish.clone();
                let again = process.unless_failed(shard.publish(publish)).await?;
                let ack = again.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
                if ack.duplicate {
                    self.met.in_doubt_and_stored += 1;
                } else {
                    self.met.in_doubt_and_lost += 1;
                }
                self.sent[to].1[at].ack = Some(Ack { duplicate: false, ..ack });
            }
        }
        Some(())
    }

    /// Hands the copy some frames, now and then some that it has, and waits for most of them.
    async fn copy(&mut self, process: &Process) -> Option<()> {
        let copy = process.host.ensure(COPY).expect("a copy");
        let mut watch = copy.watch();
        process.unless_failed(watch.wait_for(|progress| progress.ready)).await?.expect("a task");
        let held = copy.progress().appended.0;
        let from = held.saturating_sub(self.rng.random_range(0..3)) as usize;
        let to = (held as usize + self.rng.random_range(1..8)).min(self.copied.len());
        if from >= to {
            return Some(());
        }
        let epoch = copy.progress().leads.expect("it was ready");
        assert!(copy.copy(epoch, self.copied[from..to].to_vec()).await, "a task");
        if self.rng.random_bool(0.7) {
            let wait = watch.wait_for(|progress| progress.applied.0 as usize >= to);
            process.unless_failed(wait).await?.expect("a task");
            self.durable = self.durable.max(Seq(to as u64));
        }
        Some(())
    }

    /// Everything that was acknowledged, and nothing else, at its offsets; each log whole.
    /// `None`: the disk failed meanwhile.
    fn check(&self, process: &Process) -> Option<()> {
        let seed = self.seed;
        let reader = process.host.reader();
        for (partition, sent) in &self.sent {
            let lane = Lane { stream: STREAM, partition: *partition, origin: HOME };
            let stored = self.read(lane_from(&reader, lane, Offset::ZERO))?;
            assert_eq!(stored.len(), sent.len(), "seed {seed}: {lane} holds each batch once");
            let mut next = Offset::ZERO;
            for (frame, sent) in stored.iter().zip(sent) {
                let header = &frame.header;
                let ack = sent.ack.expect("all are answered");
                let place = (header.base_offset, header.seq, header.hlc);
                assert_eq!(place, (ack.base_offset, ack.seq, ack.hlc), "seed {seed}: {lane}");
                assert_eq!((header.base_offset, header.events), (next, sent.publish.events), "seed {seed}");
                let bytes = stamped(
                    Bytes::copy_from_slice(&sent.publish.batch),
                    header.base_offset,
                    header.log_epoch,
                );
                assert!(frame.payload == bytes, "seed {seed}: {lane} {next}: other bytes");
                next = header.next_offset();
            }
            if let Some(at) = stored.len().checked_sub(1) {
                let middle = &stored[at / 2].header;
                let tail = self.read(lane_from(&reader, lane, middle.base_offset))?;
                assert!(tail == stored[at / 2..], "seed {seed}: {lane} from {}", middle.base_offset);
            }
            let digest = self.read(reader.digest(lane, Offset::ZERO, Offset(u64::MAX)))?;
            if digest.damaged.is_some() && self.machine.disk.crashed() {
                return None;
            }
            let expected = digest_of(&stored);
            assert_eq!((digest.blake3, digest.damaged), (expected, None), "seed {seed}: {lane}");
            assert_eq!((digest.events, digest.frames), (next.0, stored.len() as u64), "seed {seed}: {lane}");
        }
        for shard in process.host.all() {
            let progress = shard.progress();
            let log = self.read(log_of(&reader, shard.id))?;
            assert_eq!(log.len() as u64, progress.applied.0, "seed {seed}: {}", shard.id);
            let mut chain = Chain::GENESIS;
            for (frame, seq) in log.iter().zip(1..) {
                assert!(
                    frame.header.seq == Seq(seq) && frame.follows(chain),
                    "seed {seed}: {} {seq}",
                    shard.id
                );
                chain = frame.header.chain;
                assert_eq!(self.read(reader.chain_at(shard.id, Seq(seq)))?, Some(chain), "seed {seed}");
            }
            assert_eq!(self.read(reader.chain_at(shard.id, Seq(log.len() as u64 + 1)))?, None);
            let events: u64 = log.iter().map(|frame| u64::from(frame.header.events)).sum();
            assert_eq!(progress.totals.events, events, "seed {seed}: {}", shard.id);
            if shard.id == COPY {
                assert!(log == self.copied[..log.len()], "seed {seed}: a copy is a prefix, byte for byte");
                assert!(progress.appended >= self.durable, "seed {seed}: what was durable is there");
            } else {
                assert_eq!(log[0].header.kind, FrameKind::EpochStart, "seed {seed}");
            }
        }
        Some(())
    }

    /// A disk that has crashed reads nothing more. Nothing else may stop a reader.
    fn read<T>(&self, read: Result<T, ReadError>) -> Option<T> {
        match read {
            Ok(read) => Some(read),
            Err(_) if self.machine.disk.crashed() => None,
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }
}

fn lane_from(reader: &Reader, lane: Lane, from: Offset) -> Result<Vec<Frame>, ReadError> {
    let (mut frames, mut next) = (Vec::new(), from);
    loop {
        let more = reader.lane_frames(lane, next, 3_000)?.frames;
        let Some(last) = more.last() else { return Ok(frames) };
        next = last.header.next_offset();
        frames.extend(more);
    }
}

fn log_of(reader: &Reader, shard: ShardId) -> Result<Vec<Frame>, ReadError> {
    let (mut frames, mut next) = (Vec::new(), Seq(1));
    loop {
        let more = reader.frames(shard, next, 3_000)?;
        let Some(last) = more.last() else { return Ok(frames) };
        next = last.header.seq.next();
        frames.extend(more);
    }
}

fn digest_of(frames: &[Frame]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for frame in frames {
        hasher.update(&frame.to_bytes());
    }
    *hasher.finalize().as_bytes()
}

// ---- damage

/// Two shards with a dozen batches each, published in turns, one round each; and where they lie.
struct Damaged {
    machine: Machine,
    acks: [Vec<Ack>; 2],
    places: [Vec<Place>; 2],
    next_sequence: [i32; 2],
}

impl Damaged {
    const BATCHES: usize = 12;

    fn new(seed: u64, flush_index: bool) -> Self {
        let mut damaged = Self {
            machine: Machine::new(seed),
            acks: [Vec::new(), Vec::new()],
            places: [Vec::new(), Vec::new()],
            next_sequence: [0, 0],
        };
        let runtime = runtime();
        let process = runtime.block_on(async {
            let process = damaged.machine.start().expect("a disk that works");
            assert!(process.settled().await);
            for _ in 0..Self::BATCHES {
                for no in 0..2 {
                    let ack = damaged.publish(&process, no).await.expect("an acknowledgement");
                    damaged.acks[no].push(ack);
                    let place = wait_for_place(&process, home(no as u16), ack.seq).await;
                    damaged.places[no].push(place);
                }
            }
            if flush_index {
                process.host.flush_index().await;
            }
            process
        });
        drop(runtime);
        // The empty round after the last one proves that it was synced: without it damage there would pass for a torn
        // write.
        damaged.end_in_order(process);
        damaged
    }

    fn end_in_order(&mut self, process: Process) {
        self.machine.end(process);
        self.machine.disk.kill();
    }

    async fn publish(&mut self, process: &Process, no: usize) -> Result<Ack, PublishError> {
        let partition = partition_in(no as u16);
        let shard = process.host.home_shard(STREAM, partition).expect("a shard at home");
        let ack = shard.publish(publish(partition, self.next_sequence[no], 2, 50)).await?;
        self.next_sequence[no] += 2;
        Ok(ack)
    }

    /// Starts anew, and hands the process to `check`.
    fn reopen(mut self, check: impl AsyncFnOnce(&mut Self, &Process)) {
        let runtime = runtime();
        let process = runtime.block_on(async {
            let process = self.machine.start().expect("a disk that works");
            assert!(process.settled().await);
            check(&mut self, &process).await;
            process
        });
        drop(runtime);
        self.machine.kill(process);
    }
}

async fn wait_for_place(process: &Process, shard: ShardId, seq: Seq) -> Place {
    let mut watch = process.host.get(shard).expect("a shard").watch();
    watch.wait_for(|progress| progress.applied >= seq).await.expect("a task");
    process.index.place(shard, seq).expect("an index").expect("a place")
}

fn lane(no: usize) -> Lane {
    Lane { stream: STREAM, partition: partition_in(no as u16), origin: HOME }
}

#[test]
fn a_flipped_bit_is_never_served_and_stops_its_shard_only_above_the_applied_mark() {
    for seed in seeds(40) {
        let mut rng = Rng::seed_from_u64(seed);
        let flushed = rng.random_bool(0.5);
        let damaged = Damaged::new(seed, flushed);
        let hit = rng.random_range(0..2);
        let other = 1 - hit;
        let at = rng.random_range(0..Damaged::BATCHES - 1);
        let place = damaged.places[hit][at];
        let byte = rng.random_range(FRAME_HEADER_BYTES as u64..u64::from(place.len));
        assert!(damaged.machine.disk.flip(
            &file_name(place.file),
            place.at + byte,
            1 << rng.random_range(0..8)
        ));

        damaged.reopen(async |damaged, process| {
            let shard = process.host.get(home(hit as u16)).expect("a shard");
            let progress = shard.progress();
            assert_eq!((progress.damaged, progress.ready), (!flushed, flushed), "seed {seed}");
            assert_eq!(shard.quarantined(), (u64::from(flushed), 0), "seed {seed}");
            let answer = damaged.publish(process, hit).await;
            if flushed {
                // What is damaged was applied: the log's end is known, and goes on.
                let before = damaged.acks[hit].last().expect("some").base_offset;
                assert_eq!(answer.expect("an acknowledgement").base_offset, before.plus(2), "seed {seed}");
            } else {
                assert_eq!(answer, Err(PublishError::Rejected(Reject::Damaged)), "seed {seed}");
            }
            let ack = damaged.publish(process, other).await.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            let before = damaged.acks[other].last().expect("some");
            assert_eq!(ack.base_offset, before.base_offset.plus(2), "seed {seed}: the other shard goes on");

            let reader = process.host.reader();
            wait_for_place(process, home(other as u16), ack.seq).await;
            let digest = reader.digest(lane(other), Offset::ZERO, Offset(u64::MAX)).expect("an index");
            let events = 2 * Damaged::BATCHES as u64 + 2;
            assert_eq!((digest.events, digest.damaged), (events, None), "seed {seed}");

            let bad = damaged.acks[hit][at].base_offset;
            let chain =
                reader.chain_at(home(hit as u16), damaged.acks[hit][at].seq).expect("its header is whole");
            assert_eq!(chain.is_some(), flushed, "seed {seed}: what follows it can be mirrored");
            let digest = reader.digest(lane(hit), Offset::ZERO, Offset(u64::MAX)).expect("an index");
            let served = reader.lane_frames(lane(hit), bad, 1 << 20);
            if flushed {
                assert_eq!(digest.damaged.map(|(offset, _)| offset), Some(bad), "seed {seed}");
                assert_eq!(digest.events, bad.0, "seed {seed}: the digest covers what is before");
                assert!(served.is_err(), "seed {seed}: what is damaged is never served");
                if bad > Offset::ZERO {
                    let before =
                        reader.lane_frames(lane(hit), Offset::ZERO, 1 << 20).expect("the first").frames;
                    let events: u64 = before.iter().map(|frame| u64::from(frame.header.events)).sum();
                    assert_eq!(events, bad.0, "seed {seed}: what is before it is");
                }
                let after = reader.lane_frames(lane(hit), bad.plus(2), 1).expect("the next").frames;
                assert_eq!(after[0].header.base_offset, bad.plus(2), "seed {seed}: and what is after it");
            } else {
                // Nothing was in the index: of what is above its mark that may be applied which the volume says was, and is sound.
                assert!(digest.events <= bad.0 && digest.damaged.is_none(), "seed {seed}: {}", digest.events);
                assert!(served.expect("an index").frames.is_empty(), "seed {seed}");
            }
        });
    }
}

#[test]
fn an_index_is_flushed_sooner_than_in_time_where_files_fill_up() {
    let mut machine = Machine::new(1);
    let runtime = runtime();
    let (process, written) = runtime.block_on(async {
        let process = machine.start().expect("a disk that works");
        assert!(process.settled().await);
        let host = process.host.clone();
        // Once an hour, says its configuration.
        let flushing = tokio::spawn(async move { host.keep_flushing().await });
        let (partition, mut written) = (partition_in(0), 0);
        let shard = process.host.home_shard(STREAM, partition).expect("a shard at home");
        let is_kept = |process: &Process| Restart::of(&process.index).expect("an index").is_some();
        while !is_kept(&process) {
            shard.publish(publish(partition, written, 1, 8 << 10)).await.expect("an acknowledgement");
            written += 1;
            assert!(written < 10_000, "nothing is flushed");
        }
        flushing.abort();
        (process, written)
    });
    drop(runtime);
    machine.kill(process);
    assert!(written > 8 * 7, "not at each file of 64 KiB: {written}");
    let index = Index::open(machine.kv.clone()).expect("an index");
    assert!(Restart::of(&index).expect("an index").is_some(), "after the crash a start begins in the middle");
}

#[test]
fn a_round_that_is_gone_without_a_trace_begins_no_second_history() {
    for (seed, flushed) in [(1, false), (2, true), (3, false), (4, true)] {
        let damaged = Damaged::new(seed, flushed);
        // The last round of shard 0, and with it the last frame that it acknowledged. Of shard 1 there is one after it.
        let place = *damaged.places[0].last().expect("some");
        let round = place.at - place.at % BLOCK as u64;
        damaged.machine.disk.zero(&file_name(place.file), round, BLOCK as u64);

        damaged.reopen(async |damaged, process| {
            assert!(process.recovered.hidden, "seed {seed}: {:?}", process.recovered.damage);
            let refused = damaged.publish(process, 0).await;
            assert_eq!(
                refused,
                Err(PublishError::Rejected(Reject::Damaged)),
                "seed {seed}: its end is not known"
            );
            damaged.publish(process, 1).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        });
    }
}

#[test]
fn what_was_only_feared_to_be_damaged_leaves_the_quarantine_and_what_is_stays() {
    for seed in 1..5 {
        let damaged = Damaged::new(seed, true);
        let at = seed as usize * 2;
        let (hit, shard) = (damaged.acks[0][at].seq, home(0));
        let place = damaged.places[0][at];
        assert!(damaged.machine.disk.flip(&file_name(place.file), place.at + FRAME_HEADER_BYTES as u64, 1));
        damaged.reopen(async |damaged, process| {
            let reader = process.host.reader();
            let last = damaged.acks[0].last().expect("some").seq;
            // As recovery does where a cut may be hidden.
            reader.quarantine().add(shard, Seq(1)..=last);
            for seq in (1..=last.0).map(Seq) {
                let stretch = reader.stretch(shard, seq).expect("an index").expect("it is applied");
                assert_eq!(reader.reread(&stretch), seq != hit, "seed {seed}: frame {seq}");
            }
            assert_eq!(reader.quarantine().first_of_each(), [(shard, hit)], "seed {seed}");
            assert_eq!(reader.quarantine().counts(shard), (1, 0), "seed {seed}: nothing was stored again");
        });
    }
}

#[test]
fn an_old_round_that_is_gone_costs_its_frames_alone() {
    for seed in 1..5 {
        let mut damaged = Damaged::new(seed, true);
        let lost = *damaged.places[0].last().expect("some");
        let rt = runtime();
        let process = rt.block_on(async {
            let process = damaged.machine.start().expect("a disk that works");
            assert!(process.settled().await);
            for no in 0..2 {
                let ack = damaged.publish(&process, no).await.expect("an acknowledgement");
                wait_for_place(&process, home(no as u16), ack.seq).await;
            }
            process.host.flush_index().await;
            process
        });
        drop(rt);
        damaged.end_in_order(process);
        // In an earlier epoch than what follows it: a cut could have stood there, but all of it was applied.
        damaged.machine.disk.zero(&file_name(lost.file), lost.at - lost.at % BLOCK as u64, BLOCK as u64);

        damaged.reopen(async |damaged, process| {
            assert!(process.recovered.hidden, "seed {seed}: {:?}", process.recovered.damage);
            for no in 0..2 {
                damaged.publish(process, no).await.unwrap_or_else(|e| panic!("seed {seed}: shard {no}: {e}"));
            }
            let shard = process.host.get(home(0)).expect("a shard");
            assert!(!shard.progress().damaged && shard.quarantined().0 > 0, "seed {seed}");
        });
    }
}

#[test]
fn a_shard_that_may_be_hidden_whole_begins_no_second_history() {
    let mut damaged = Damaged {
        machine: Machine::new(7),
        acks: [Vec::new(), Vec::new()],
        places: [Vec::new(), Vec::new()],
        next_sequence: [0, 0],
    };
    let rt = runtime();
    let process = rt.block_on(async {
        let process = damaged.machine.start().expect("a disk that works");
        assert!(process.settled().await);
        damaged.publish(&process, 0).await.expect("an acknowledgement");
        loop {
            let ack = damaged.publish(&process, 1).await.expect("an acknowledgement");
            if wait_for_place(&process, home(1), ack.seq).await.file > 1 {
                return process;
            }
        }
    });
    drop(rt);
    damaged.end_in_order(process);
    // All that shard 0 has lies in the first file; the second proves that there was something in it.
    damaged.machine.disk.zero(&file_name(1), BLOCK as u64, u64::from(u32::MAX));

    damaged.reopen(async |damaged, process| {
        assert!(process.recovered.hidden && !process.recovered.shards.contains_key(&home(0)));
        for no in 0..2 {
            let refused = damaged.publish(process, no).await;
            assert_eq!(refused, Err(PublishError::Rejected(Reject::Damaged)), "shard {no}");
        }
    });
}

#[test]
fn a_copy_whose_end_is_lost_asks_again_and_goes_on() {
    for hides in [true, false] {
        let mut machine = Machine::new(9);
        let frames = mirrored(20);
        let rt = runtime();
        let (process, place) = rt.block_on(async {
            let process = machine.start().expect("a disk that works");
            assert!(process.settled().await);
            let copy = process.host.ensure(COPY).expect("a copy");
            copy.watch().wait_for(|progress| progress.ready).await.expect("a task");
            for part in [&frames[..6], &frames[6..7], &frames[7..9]] {
                assert!(copy.copy(copy.progress().leads.expect("it is ready"), part.to_vec()).await);
                let to = part.last().expect("some").header.seq;
                copy.watch().wait_for(|progress| progress.applied >= to).await.expect("a task");
            }
            let place = process.index.place(COPY, Seq(7)).expect("an index").expect("a place");
            (process, place)
        });
        drop(rt);
        machine.end(process);
        machine.disk.kill();
        if hides {
            let round = place.at - place.at % BLOCK as u64;
            machine.disk.zero(&file_name(place.file), round, BLOCK as u64);
        } else {
            machine.disk.flip(&file_name(place.file), place.at + FRAME_HEADER_BYTES as u64 + 7, 1);
        }

        let rt = runtime();
        let process = rt.block_on(async {
            let process = machine.start().expect("a disk that works");
            assert!(process.recovered.hidden == hides && !process.recovered.damage.is_empty());
            let copy = process.host.get(COPY).expect("a copy");
            copy.watch().wait_for(|progress| progress.ready).await.expect("a task");
            // Only then does it have to ask for what follows: two leaderships of a copy must not be taken for one.
            assert!(copy.progress().appended == Seq(6), "{:?}", copy.progress());
            assert!(!copy.progress().damaged && copy.progress().leads > Some(meridian_types::LeaderEpoch(1)));
            assert!(copy.copy(copy.progress().leads.expect("it is ready"), frames[6..].to_vec()).await);
            copy.watch().wait_for(|progress| progress.applied == Seq(20)).await.expect("a task");
            assert!(log_of(&process.host.reader(), COPY).expect("frames") == frames);
            process
        });
        drop(rt);
        machine.kill(process);
        machine.disk.kill();

        let rt = runtime();
        let process = rt.block_on(async {
            let process = machine.start().expect("a disk that works");
            let found = &process.recovered.shards[&COPY];
            assert!(
                found.doubt.is_none() && found.unsure_from.is_none() && found.missing.is_empty(),
                "{found:?}"
            );
            let copy = process.host.get(COPY).expect("a copy");
            assert!(!copy.progress().damaged && copy.progress().appended == Seq(20));
            process
        });
        drop(rt);
        machine.kill(process);
    }
}
