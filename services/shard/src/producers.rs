//! Which batches of idempotent producers have been appended, so that a retry is found and answered (DESIGN §5).

use std::collections::BTreeMap;

use meridian_batch::Producer;
use meridian_storage::index::{PRODUCER_BATCHES, ProducerState, RememberedBatch};
use meridian_types::{Hlc, Offset, Origin, Partition, ProducerEpoch, ProducerId, Seq, StreamId};

/// A producer in a lane of this shard.
pub(crate) type Who = (StreamId, Partition, ProducerId);

/// What a batch is, seen against its producer's earlier ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The next one.
    New,
    /// A retry of this one.
    Duplicate(RememberedBatch),
    /// A retry of this one, which an earlier incarnation of the region wrote.
    DuplicateOf(Origin, RememberedBatch),
    /// Of an older epoch than this.
    Fenced(ProducerEpoch),
    /// Nothing is known of the producer, and this is not its first.
    Expired,
    /// The next would have been this.
    OutOfSequence(i32),
}

/// Covers every appended frame. What a shard's index holds is looked up when a producer first shows up after a start
/// ([`Producers::learn`]), so memory is bounded by the cache, and forgetting loses nothing.
#[derive(Debug)]
pub struct Producers {
    known: BTreeMap<Who, Known>,
    clock: u64,
    capacity: usize,
    /// How many were looked up since the last clearing.
    learnt: usize,
}

/// What is known of a producer.
#[derive(Debug, Default)]
struct Known {
    /// When it was last used, by [`Producers::clock`].
    used: u64,
    state: Option<ProducerState>,
    /// What it wrote in the newest earlier incarnation that knows it: a restored region goes on from there.
    past: Option<(Origin, ProducerState)>,
}

impl Producers {
    /// Remembers up to `capacity` producers beyond those with frames that are not applied yet.
    pub fn new(capacity: usize) -> Self {
        Self { known: BTreeMap::new(), clock: 0, capacity, learnt: 0 }
    }

    /// Whether the index has been asked about this producer.
    pub fn knows(&self, stream: StreamId, partition: Partition, id: ProducerId) -> bool {
        self.known.contains_key(&(stream, partition, id))
    }

    /// What the index holds of a producer that was not known here: the applied frames' part. Ignored for a known one.
    pub fn learn(
        &mut self,
        stream: StreamId,
        partition: Partition,
        id: ProducerId,
        state: Option<ProducerState>,
    ) {
        self.clock += 1;
        let learnt = Known { used: self.clock, state, past: None };
        self.known.entry((stream, partition, id)).or_insert(learnt);
    }

    /// What an earlier incarnation of the region has of a producer that was just learnt.
    pub fn learn_past(
        &mut self,
        stream: StreamId,
        partition: Partition,
        id: ProducerId,
        past: (Origin, ProducerState),
    ) {
        if let Some(known) = self.known.get_mut(&(stream, partition, id)) {
            known.past = Some(past);
        }
    }

    /// Makes room before another one is learnt. Without it producers whose batches are all refused, so that nothing is
    /// ever applied, would pile up.
    pub fn make_room(&mut self, applied: Seq) {
        self.learnt += 1;
        // A clearing looks at all of them: once in a while is enough.
        if self.learnt > self.capacity / 4 {
            self.learnt = 0;
            self.forget(applied);
        }
    }

    /// Judges a batch of `events` events. The producer must be known.
    pub fn judge(
        &mut self,
        stream: StreamId,
        partition: Partition,
        producer: Producer,
        events: u32,
    ) -> Verdict {
        self.clock += 1;
        let Some(known) = self.known.get_mut(&(stream, partition, producer.id)) else {
            return Verdict::Expired;
        };
        known.used = self.clock;
        let first = producer.sequence.get();
        let past = known.past.as_ref();
        let Some(state) = known.state.as_ref().or(past.map(|(_, state)| state)) else {
            return if first == 0 { Verdict::New } else { Verdict::Expired };
        };
        if producer.epoch < state.epoch {
            return Verdict::Fenced(state.epoch);
        }
        if producer.epoch > state.epoch {
            return if first == 0 { Verdict::New } else { Verdict::OutOfSequence(0) };
        }
        let last = producer.sequence.plus(events.saturating_sub(1)).get();
        let of = |state: &ProducerState| {
            state.batches.iter().find(|b| b.first_sequence == first && b.last_sequence == last).copied()
        };
        if let Some(original) = known.state.as_ref().and_then(of) {
            return Verdict::Duplicate(original);
        }
        if let Some((origin, past)) = past.filter(|(_, past)| past.epoch == producer.epoch)
            && let Some(original) = of(past)
        {
            return Verdict::DuplicateOf(*origin, original);
        }
        let expected = state.batches.last().map_or(0, |b| next_sequence(b.last_sequence));
        if first == expected { Verdict::New } else { Verdict::OutOfSequence(expected) }
    }

    /// Notes an appended frame of a known producer.
    pub fn appended(
        &mut self,
        (stream, partition): (StreamId, Partition),
        producer: Producer,
        events: u32,
        (base_offset, seq, hlc): (Offset, Seq, Hlc),
    ) {
        self.clock += 1;
        let batch = RememberedBatch {
            first_sequence: producer.sequence.get(),
            last_sequence: producer.sequence.plus(events.saturating_sub(1)).get(),
            base_offset,
            seq,
            hlc,
        };
        let known = self.known.entry((stream, partition, producer.id)).or_default();
        known.used = self.clock;
        match &mut known.state {
            Some(state) if state.epoch == producer.epoch => {
                if state.batches.len() == PRODUCER_BATCHES {
                    state.batches.remove(0);
                }
                state.batches.push(batch);
            }
            state => *state = Some(ProducerState { epoch: producer.epoch, batches: vec![batch] }),
        }
    }

    /// Forgets the longest unused producers beyond the capacity, but none with a frame that the index has not.
    pub fn forget(&mut self, applied: Seq) {
        // A quarter over, so that the sorting is paid for by many batches.
        if self.known.len() <= self.capacity + self.capacity / 4 {
            return;
        }
        let mut idle: Vec<(u64, Who)> = self
            .known
            .iter()
            .filter(|(_, known)| {
                known.state.as_ref().and_then(|s| s.batches.last()).is_none_or(|batch| batch.seq <= applied)
            })
            .map(|(who, known)| (known.used, *who))
            .collect();
        idle.sort_unstable();
        let surplus = self.known.len().saturating_sub(self.capacity);
        for (_, who) in idle.into_iter().take(surplus) {
            self.known.remove(&who);
        }
    }
}

/// 0 follows 2³¹ − 1, as in Kafka.
fn next_sequence(last: i32) -> i32 {
    last.wrapping_add(1) & i32::MAX
}

#[cfg(test)]
mod tests {
    use meridian_batch::Sequence;

    use super::*;

    const LANE: (StreamId, Partition) = (StreamId(1), Partition(0));

    fn producer(epoch: i16, sequence: i32) -> Producer {
        let sequence = Sequence::new(sequence).unwrap();
        Producer { id: ProducerId(7), epoch: ProducerEpoch(epoch), sequence }
    }

    fn with(batches: u32) -> Producers {
        let mut producers = Producers::new(8);
        producers.learn(LANE.0, LANE.1, ProducerId(7), None);
        for i in 0..batches {
            let p = producer(0, (i * 10) as i32);
            assert_eq!(producers.judge(LANE.0, LANE.1, p, 10), Verdict::New);
            producers.appended(LANE, p, 10, (Offset(u64::from(i) * 10), Seq(u64::from(i) + 1), Hlc(1)));
        }
        producers
    }

    fn judge(producers: &mut Producers, epoch: i16, sequence: i32, events: u32) -> Verdict {
        producers.judge(LANE.0, LANE.1, producer(epoch, sequence), events)
    }

    #[test]
    fn the_last_five_are_found_again() {
        let mut producers = with(7);
        for i in 2..7 {
            let Verdict::Duplicate(original) = judge(&mut producers, 0, i * 10, 10) else {
                panic!("batch {i}")
            };
            assert_eq!(original.base_offset, Offset(i as u64 * 10));
        }
        assert_eq!(judge(&mut producers, 0, 10, 10), Verdict::OutOfSequence(70));
        assert_eq!(
            judge(&mut producers, 0, 60, 9),
            Verdict::OutOfSequence(70),
            "the same start, another batch"
        );
        assert_eq!(judge(&mut producers, 0, 80, 1), Verdict::OutOfSequence(70));
        assert_eq!(judge(&mut producers, 0, 70, 1), Verdict::New);
    }

    #[test]
    fn epochs_fence_and_begin_anew() {
        let mut producers = with(2);
        assert_eq!(judge(&mut producers, 1, 5, 1), Verdict::OutOfSequence(0));
        assert_eq!(judge(&mut producers, 1, 0, 1), Verdict::New);
        producers.appended(LANE, producer(1, 0), 1, (Offset(20), Seq(3), Hlc(2)));
        assert_eq!(judge(&mut producers, 0, 20, 1), Verdict::Fenced(ProducerEpoch(1)));
    }

    #[test]
    fn an_unknown_producer_starts_at_zero_or_not_at_all() {
        let mut producers = Producers::new(8);
        assert_eq!(judge(&mut producers, 0, 0, 1), Verdict::Expired, "the index was not asked");
        producers.learn(LANE.0, LANE.1, ProducerId(7), None);
        assert_eq!(judge(&mut producers, 0, 4, 1), Verdict::Expired);
        assert_eq!(judge(&mut producers, 0, 0, 1), Verdict::New);
    }

    #[test]
    fn sequences_wrap() {
        let mut producers = Producers::new(8);
        let last = RememberedBatch {
            first_sequence: i32::MAX - 1,
            last_sequence: i32::MAX,
            base_offset: Offset(0),
            seq: Seq(1),
            hlc: Hlc(1),
        };
        let state = ProducerState { epoch: ProducerEpoch(0), batches: vec![last] };
        producers.learn(LANE.0, LANE.1, ProducerId(7), Some(state));
        assert_eq!(judge(&mut producers, 0, 0, 3), Verdict::New);
    }

    /// Of a region that was restored: what was acknowledged before is answered from there, and nothing is stored twice.
    #[test]
    fn a_new_incarnation_goes_on_where_the_one_before_ended() {
        let old = with(3);
        let past = old.known[&(LANE.0, LANE.1, ProducerId(7))].state.clone().unwrap();
        let origin = Origin::first(meridian_types::RegionId(4));
        let mut producers = Producers::new(8);
        producers.learn(LANE.0, LANE.1, ProducerId(7), None);
        producers.learn_past(LANE.0, LANE.1, ProducerId(7), (origin, past));
        let Verdict::DuplicateOf(of, original) = judge(&mut producers, 0, 20, 10) else { panic!("a twin") };
        assert_eq!((of, original.base_offset), (origin, Offset(20)));
        assert_eq!(judge(&mut producers, 0, 0, 1), Verdict::OutOfSequence(30));
        assert_eq!(judge(&mut producers, 0, 30, 1), Verdict::New);
        producers.appended(LANE, producer(0, 30), 1, (Offset(0), Seq(2), Hlc(9)));
        assert!(matches!(judge(&mut producers, 0, 30, 1), Verdict::Duplicate(_)));
        assert!(matches!(judge(&mut producers, 0, 10, 10), Verdict::DuplicateOf(..)), "still");
        assert_eq!(judge(&mut producers, 0, 31, 1), Verdict::New);
        assert_eq!(judge(&mut producers, 1, 0, 1), Verdict::New, "a new epoch begins anew");
    }

    #[test]
    fn those_that_are_only_ever_refused_do_not_pile_up() {
        let mut producers = Producers::new(16);
        for id in 0..10_000 {
            producers.make_room(Seq::ZERO);
            producers.learn(LANE.0, LANE.1, ProducerId(id), None);
            let p =
                Producer { id: ProducerId(id), epoch: ProducerEpoch(0), sequence: Sequence::new(9).unwrap() };
            assert_eq!(producers.judge(LANE.0, LANE.1, p, 1), Verdict::Expired);
            assert!(producers.known.len() <= 16 + 16 / 4 + 16 / 4 + 1, "{}", producers.known.len());
        }
    }

    #[test]
    fn forgets_only_what_the_index_has() {
        let mut producers = Producers::new(4);
        for id in 0..10 {
            producers.learn(LANE.0, LANE.1, ProducerId(id), None);
            let p = Producer { id: ProducerId(id), epoch: ProducerEpoch(0), sequence: Sequence::ZERO };
            producers.appended(LANE, p, 1, (Offset(id as u64), Seq(id as u64 + 1), Hlc(1)));
        }
        producers.forget(Seq(2));
        assert!(
            !producers.knows(LANE.0, LANE.1, ProducerId(0))
                && !producers.knows(LANE.0, LANE.1, ProducerId(1))
        );
        assert!((2..10).all(|id| producers.knows(LANE.0, LANE.1, ProducerId(id))));
        producers.forget(Seq(10));
        assert!((6..10).all(|id| producers.knows(LANE.0, LANE.1, ProducerId(id))));
        assert!((0..6).all(|id| !producers.knows(LANE.0, LANE.1, ProducerId(id))));
    }
}
