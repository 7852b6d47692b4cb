//! The publisher's laws, step by step; over seeds in `seeds`.

#[path = "core_seeds.rs"]
mod seeds;

use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_batch::{Codec, Event, Limits, decode};
use meridian_types::{ProducerEpoch, ProducerId, Timestamp};
use meridian_wire::v1::publish_batches_response::Result as Answer;
use meridian_wire::v1::{self, PublishBatchesRequest, PublishBatchesResponse};
use meridian_wire::{ApiError, Reason};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::core::{Core, Outcome, Settings};
use super::error::{PublishError, Stored};
use super::receipt::Waiters;
use crate::client::NodeIndex;

/// The only node, where there is one.
const NODE: NodeIndex = NodeIndex(0);
const OTHER: NodeIndex = NodeIndex(1);

fn settings(partitions: u32, batch_bytes: usize) -> Settings {
    Settings {
        stream: v1::StreamRef { tenant: "default".into(), stream: "s".into() },
        partitions,
        codec: Codec::None,
        batch_bytes,
        progress_timeout: Duration::from_secs(120),
        answer_timeout: Duration::from_secs(40),
        session_idle: Duration::from_secs(1800),
        min_backoff: Duration::from_millis(50),
        max_backoff: Duration::from_secs(2),
    }
}

impl Waiters for Vec<u64> {
    type One = u64;
    type Ticket = ();

    fn add(&mut self, number: u64) {
        self.push(number);
    }
}

/// A core with a clock of its own; waiters are the numbers of events.
struct Bench {
    core: Core<Vec<u64>>,
    now: Instant,
    next: u64,
    sessions: i64,
}

impl Bench {
    fn new(partitions: u32, batch_bytes: usize) -> Self {
        let now = Instant::now();
        let core = Core::new(settings(partitions, batch_bytes), now, StdRng::seed_from_u64(1));
        Self { core, now, next: 0, sessions: 0 }
    }

    /// Connected, with a session. Every event is a batch of its own.
    fn ready() -> Self {
        let mut bench = Self::new(1, 1);
        bench.session();
        bench.core.on_connected(bench.now, NODE);
        bench
    }

    fn session(&mut self) {
        self.core.on_session(ProducerId(self.sessions), ProducerEpoch(0));
        self.sessions += 1;
    }

    fn push(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        let value = Some(Bytes::copy_from_slice(&number.to_be_bytes()));
        let event = Event { value, timestamp: Timestamp(1), ..Event::default() };
        self.core.push(self.now, &event, None, number).unwrap();
        number
    }

    fn send(&mut self) -> Vec<PublishBatchesRequest> {
        std::iter::from_fn(|| self.core.next_request(self.now, NODE)).collect()
    }

    fn ok(&mut self, request: &PublishBatchesRequest, offset: u64) {
        let response = published(request, offset, false);
        self.core.on_answer(self.now, response);
    }

    fn refuse(&mut self, request: &PublishBatchesRequest, reason: Reason) {
        let error = Answer::Error(ApiError::new(reason, "because").into());
        let response = PublishBatchesResponse { request_id: request.request_id, result: Some(error) };
        self.core.on_answer(self.now, response);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.core.on_time(self.now);
    }

    /// (event, its error) in the order in which they were decided.
    fn outcomes(&mut self) -> Vec<(u64, Option<PublishError>)> {
        let outcomes = self.core.take_outcomes();
        let flat = |outcome: Outcome<Vec<u64>>| {
            let error = outcome.result.err();
            outcome.waiters.into_iter().map(move |waiter| (waiter, error.clone())).collect::<Vec<_>>()
        };
        outcomes.into_iter().flat_map(flat).collect()
    }

    fn acked(&mut self) -> Vec<u64> {
        self.outcomes().into_iter().filter(|(_, error)| error.is_none()).map(|(event, _)| event).collect()
    }
}

/// (producer, sequence, events' numbers) of a request.
fn content(request: &PublishBatchesRequest) -> (i64, i32, Vec<u64>) {
    let records = decode(request.batch.clone(), &Limits::DEFAULT).unwrap();
    let producer = records.info().producer.unwrap();
    let numbers = records
        .map(|record| u64::from_be_bytes(record.event.value.unwrap().as_ref().try_into().unwrap()))
        .collect();
    (producer.id.0, producer.sequence.get(), numbers)
}

fn published(request: &PublishBatchesRequest, offset: u64, duplicate: bool) -> PublishBatchesResponse {
    let lane = v1::Lane {
        stream_id: 1,
        partition: request.partition,
        origin: Some(v1::Origin { region: 1, incarnation: 1 }),
    };
    let first = v1::Position { lane: Some(lane), offset, hlc: 1, regions: vec!["us".into()] };
    let events = content(request).2.len() as u32;
    let published = v1::PublishedBatch { first: Some(first), events, duplicate };
    PublishBatchesResponse { request_id: request.request_id, result: Some(Answer::Published(published)) }
}

#[test]
fn sends_at_once_while_a_slot_is_free_and_batches_the_rest() {
    let mut bench = Bench::new(1, 64 * 1024);
    bench.session();
    bench.core.on_connected(bench.now, NODE);
    for _ in 0..5 {
        bench.push();
        assert_eq!(bench.send().len(), 1);
    }
    for _ in 0..7 {
        bench.push();
    }
    assert!(bench.send().is_empty(), "five batches are in flight");
    let first = PublishBatchesRequest { request_id: 1, ..PublishBatchesRequest::default() };
    // The answer to the first frees a slot, and all that waited goes as one batch.
    let mut response = published_of_one(&first);
    response.request_id = 1;
    bench.core.on_answer(bench.now, response);
    let next = bench.send();
    assert_eq!(next.len(), 1);
    assert_eq!(content(&next[0]), (0, 5, vec![5, 6, 7, 8, 9, 10, 11]));
}

fn published_of_one(request: &PublishBatchesRequest) -> PublishBatchesResponse {
    let lane =
        v1::Lane { stream_id: 1, partition: 0, origin: Some(v1::Origin { region: 1, incarnation: 1 }) };
    let first = v1::Position { lane: Some(lane), offset: 0, hlc: 1, regions: vec![] };
    let published = v1::PublishedBatch { first: Some(first), events: 1, duplicate: false };
    PublishBatchesResponse { request_id: request.request_id, result: Some(Answer::Published(published)) }
}

#[test]
fn a_batch_closes_at_its_size_and_keyless_events_go_round() {
    let mut bench = Bench::new(3, 200);
    bench.session();
    bench.core.on_connected(bench.now, NODE);
    for _ in 0..30 {
        bench.push();
    }
    let requests = bench.send();
    assert!(requests.iter().all(|request| request.batch.len() <= 200));
    let mut seen: Vec<u32> = requests.iter().map(|request| request.partition).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, [0, 1, 2]);
    let mut all: Vec<u64> = requests.iter().flat_map(|request| content(request).2).collect();
    all.sort_unstable();
    assert_eq!(all, (0..30).collect::<Vec<_>>());
}

#[test]
fn after_a_broken_connection_the_same_bytes_are_sent_again_in_order() {
    let mut bench = Bench::ready();
    (0..3).for_each(|_| _ = bench.push());
    let before = bench.send();
    bench.core.on_disconnected(NODE, None);
    bench.push();
    assert!(bench.send().is_empty(), "nobody to send to");
    bench.core.on_connected(bench.now, NODE);
    let after = bench.send();
    assert_eq!(after.len(), 4);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.batch, after.batch);
        assert_ne!(before.request_id, after.request_id);
    }
    for (offset, request) in after.iter().enumerate() {
        bench.ok(request, offset as u64);
    }
    assert_eq!(bench.acked(), [0, 1, 2, 3]);
}

#[test]
fn the_window_spans_five_from_the_oldest_without_an_answer() {
    let mut bench = Bench::ready();
    (0..10).for_each(|_| _ = bench.push());
    let first = bench.send();
    assert_eq!(first.len(), 5);
    // All but the oldest are answered: were five more sent, the server would forget the oldest.
    for (offset, request) in first.iter().enumerate().skip(1) {
        bench.ok(request, offset as u64);
    }
    assert!(bench.send().is_empty());
    bench.ok(&first[0], 0);
    assert_eq!(bench.send().len(), 5);
}

#[test]
fn a_refusal_that_passes_rewinds_to_it_and_what_came_after() {
    let mut bench = Bench::ready();
    (0..3).for_each(|_| _ = bench.push());
    let requests = bench.send();
    bench.refuse(&requests[0], Reason::Overloaded);
    bench.pass(Duration::from_secs(3));
    assert!(bench.send().is_empty(), "two answers are still to come");
    bench.refuse(&requests[1], Reason::OutOfSequence);
    bench.refuse(&requests[2], Reason::OutOfSequence);
    bench.pass(Duration::from_secs(3));
    let again = bench.send();
    assert_eq!(again.iter().map(|r| content(r).1).collect::<Vec<_>>(), [0, 1, 2]);
    again.iter().enumerate().for_each(|(offset, request)| bench.ok(request, offset as u64));
    assert_eq!(bench.acked(), [0, 1, 2]);
}

#[test]
fn a_session_whose_first_batch_was_refused_for_now_has_not_expired() {
    let mut bench = Bench::ready();
    (0..2).for_each(|_| _ = bench.push());
    let requests = bench.send();
    bench.refuse(&requests[0], Reason::Overloaded);
    // The server has never heard of the producer, and sees a sequence that is not 0.
    bench.refuse(&requests[1], Reason::ProducerExpired);
    bench.pass(Duration::from_secs(3));
    let again = bench.send();
    again.iter().enumerate().for_each(|(offset, request)| bench.ok(request, offset as u64));
    assert_eq!(bench.acked(), [0, 1]);
}

#[test]
fn a_server_that_says_when_is_not_asked_before() {
    let mut bench = Bench::ready();
    bench.push();
    let request = bench.send().remove(0);
    let error = ApiError::new(Reason::Overloaded, "later").retry_after(Duration::from_secs(9));
    let result = Some(Answer::Error(error.into()));
    bench.core.on_answer(bench.now, PublishBatchesResponse { request_id: request.request_id, result });
    bench.pass(Duration::from_millis(8900));
    assert!(bench.send().is_empty());
    assert!(bench.core.wakes_at().is_some_and(|at| at > bench.now));
    bench.pass(Duration::from_millis(200));
    assert_eq!(bench.send().len(), 1);
}

#[test]
fn a_batch_that_fails_takes_all_that_came_after_it_with_it_and_none_before() {
    let mut bench = Bench::ready();
    (0..7).for_each(|_| _ = bench.push());
    let requests = bench.send();
    // The second is refused before the first is answered: nothing is decided yet.
    bench.refuse(&requests[1], Reason::BadBatch);
    assert!(bench.outcomes().is_empty());
    bench.refuse(&requests[2], Reason::OutOfSequence);
    bench.ok(&requests[0], 0);
    let outcomes = bench.outcomes();
    assert_eq!(outcomes[0], (0, None));
    assert!(matches!(&outcomes[1], (1, Some(PublishError::Refused { stored: Stored::No, .. }))));
    assert_eq!(outcomes.len(), 7);
    for (event, outcome) in outcomes.iter().enumerate().skip(2) {
        let (number, Some(PublishError::Abandoned { stored: Stored::No, .. })) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(*number, event as u64);
    }
    // What is sent from now on belongs to a new session, once the old answers are in.
    bench.push();
    assert!(bench.core.wants_session());
    bench.session();
    assert!(bench.send().is_empty(), "batches 4 and 5 are still out");
    bench.refuse(&requests[3], Reason::OutOfSequence);
    bench.refuse(&requests[4], Reason::OutOfSequence);
    bench.pass(Duration::ZERO);
    let next = bench.send();
    assert_eq!(content(&next[0]), (1, 0, vec![7]));
}

#[test]
fn an_expired_session_says_whether_the_batch_may_be_stored() {
    for (broken, stored) in [(false, Stored::No), (true, Stored::Unknown)] {
        let mut bench = Bench::ready();
        bench.push();
        let mut request = bench.send().remove(0);
        if broken {
            bench.core.on_disconnected(NODE, None);
            bench.core.on_connected(bench.now, NODE);
            request = bench.send().remove(0);
        }
        bench.refuse(&request, Reason::ProducerExpired);
        let outcomes = bench.outcomes();
        assert!(
            matches!(&outcomes[0].1, Some(PublishError::ProducerExpired { stored: s, .. }) if *s == stored),
            "{outcomes:?}"
        );
    }
}

#[test]
fn a_sequence_that_is_wrong_for_the_oldest_is_no_passing_trouble() {
    let mut bench = Bench::ready();
    bench.push();
    let request = bench.send().remove(0);
    bench.refuse(&request, Reason::OutOfSequence);
    assert!(matches!(bench.outcomes()[0].1, Some(PublishError::OutOfSequence { .. })));
}

#[test]
fn a_fenced_producer_ends() {
    let mut bench = Bench::ready();
    bench.push();
    bench.push();
    let requests = bench.send();
    bench.refuse(&requests[0], Reason::ProducerFenced);
    let outcomes = bench.outcomes();
    assert_eq!(outcomes.len(), 2);
    assert!(matches!(outcomes[1].1, Some(PublishError::ProducerFenced { .. })));
    let event = Event { value: Some(Bytes::new()), timestamp: Timestamp(1), ..Event::default() };
    let refused = bench.core.push(bench.now, &event, None, 9);
    assert!(matches!(refused, Err(PublishError::ProducerFenced { .. })));
}

#[test]
fn time_without_progress_ends_it_and_tells_what_is_open() {
    let mut bench = Bench::ready();
    bench.pass(Duration::from_secs(500));
    (0..7).for_each(|_| _ = bench.push());
    let requests = bench.send();
    bench.pass(Duration::from_secs(100));
    bench.ok(&requests[0], 0);
    bench.pass(Duration::from_secs(119));
    assert!(bench.core.failed().is_none(), "progress was made 119 s ago");
    bench.core.on_trouble("connection refused".into());
    bench.pass(Duration::from_secs(1));
    let outcomes = bench.outcomes();
    let Some(PublishError::Stalled { events, sent, last, stored, .. }) = &outcomes[1].1 else {
        panic!("{outcomes:?}")
    };
    assert_eq!((*events, *sent, last.as_str(), *stored), (6, 4, "connection refused", Stored::Unknown));
    assert!(matches!(outcomes[6].1, Some(PublishError::Stalled { stored: Stored::No, .. })));
}

#[test]
fn silence_on_an_open_connection_is_noticed() {
    let mut bench = Bench::ready();
    bench.pass(Duration::from_secs(100));
    assert!(!bench.core.is_silent(bench.now, NODE), "nothing was asked");
    bench.push();
    bench.send();
    bench.pass(Duration::from_secs(39));
    assert!(!bench.core.is_silent(bench.now, NODE));
    bench.pass(Duration::from_secs(1));
    assert!(bench.core.is_silent(bench.now, NODE));
}

#[test]
fn a_partition_that_was_idle_for_long_takes_a_new_session() {
    let mut bench = Bench::ready();
    bench.push();
    let request = bench.send().remove(0);
    bench.ok(&request, 0);
    bench.pass(Duration::from_secs(1799));
    bench.push();
    let request = bench.send().remove(0);
    assert_eq!(content(&request), (0, 1, vec![1]));
    bench.ok(&request, 1);
    bench.pass(Duration::from_secs(1800));
    bench.push();
    assert!(bench.send().is_empty());
    assert!(bench.core.wants_session());
    bench.session();
    assert_eq!(content(&bench.send()[0]), (1, 0, vec![2]));
}

#[test]
fn what_breaks_a_limit_is_refused_alone() {
    let mut bench = Bench::ready();
    let large = Bytes::from(vec![0; meridian_types::limits::EVENT_BYTES + 1]);
    let event = Event { value: Some(large), timestamp: Timestamp(1), ..Event::default() };
    let refused = bench.core.push(bench.now, &event, None, 9);
    assert!(matches!(refused, Err(PublishError::Event(_))), "{refused:?}");
    let small = Event { value: None, timestamp: Timestamp(1), ..Event::default() };
    let missing = bench.core.push(bench.now, &small, Some(meridian_types::Partition(1)), 9);
    assert!(matches!(missing, Err(PublishError::NoSuchPartition { partitions: 1, .. })));
    assert_eq!(bench.core.open(), 0);
    assert!(!bench.core.can_send(bench.now, NODE), "nothing is to be sent");
    let number = bench.push();
    assert_eq!(content(&bench.send()[0]).2, [number]);
}

/// With a second node, connected too.
fn two_nodes() -> Bench {
    let mut bench = Bench::ready();
    bench.core.on_connected(bench.now, OTHER);
    bench.core.set_targets(bench.now, &[NODE], true);
    bench
}

impl Bench {
    fn send_to(&mut self, node: NodeIndex) -> Vec<PublishBatchesRequest> {
        std::iter::from_fn(|| self.core.next_request(self.now, node)).collect()
    }

    fn move_to(&mut self, node: NodeIndex) {
        self.core.set_targets(self.now, &[node], true);
    }
}

fn sequences(requests: &[PublishBatchesRequest]) -> Vec<i32> {
    requests.iter().map(|request| content(request).1).collect()
}

#[test]
fn a_partition_goes_to_its_new_leader_once_the_old_one_has_answered_all() {
    let mut bench = two_nodes();
    (0..3).for_each(|_| _ = bench.push());
    let old = bench.send_to(NODE);
    bench.move_to(OTHER);
    bench.push();
    assert!(bench.send_to(OTHER).is_empty(), "three are still at the old leader");
    assert!(bench.send_to(NODE).is_empty(), "nothing new goes to it");
    bench.ok(&old[0], 0);
    bench.refuse(&old[1], Reason::NotLeader);
    assert!(bench.core.take_stale());
    bench.pass(Duration::from_millis(100));
    assert!(bench.send_to(OTHER).is_empty(), "one is still there");
    bench.refuse(&old[2], Reason::OutOfSequence);
    bench.pass(Duration::from_millis(100));
    let new = bench.send_to(OTHER);
    assert_eq!(sequences(&new), [1, 2, 3]);
    assert_eq!((&new[0].batch, &new[1].batch), (&old[1].batch, &old[2].batch));
    assert!(bench.core.is_unneeded(NODE));
    new.iter().zip(1..).for_each(|(request, offset)| bench.ok(request, offset));
    assert_eq!(bench.acked(), [0, 1, 2, 3]);
}

#[test]
fn a_leader_that_hangs_is_asked_about_and_then_left_and_its_late_answers_say_nothing() {
    let mut bench = two_nodes();
    (0..2).for_each(|_| _ = bench.push());
    let old = bench.send_to(NODE);
    assert!(!bench.core.take_stale());
    bench.pass(Duration::from_millis(300));
    assert!(bench.core.take_stale(), "who leads now?");
    bench.pass(Duration::from_millis(200));
    assert!(!bench.core.take_stale(), "it was just asked");
    bench.move_to(OTHER);
    bench.pass(Duration::ZERO);
    let new = bench.send_to(OTHER);
    assert_eq!(sequences(&new), [0, 1]);
    assert!(bench.core.is_unneeded(NODE), "what was left there would be in the way of what goes there next");
    // It had stored them after all, or it was deposed before: whatever it says is no answer to what was sent again.
    bench.ok(&old[0], 70);
    bench.refuse(&old[1], Reason::NotLeader);
    assert!(bench.outcomes().is_empty());
    new.iter().zip(0..).for_each(|(request, offset)| bench.ok(request, offset));
    assert_eq!(bench.acked(), [0, 1]);
}

#[test]
fn a_deposed_leader_that_has_just_answered_is_given_a_moment() {
    let mut bench = two_nodes();
    (0..2).for_each(|_| _ = bench.push());
    let old = bench.send_to(NODE);
    bench.ok(&old[0], 0);
    bench.move_to(OTHER);
    bench.pass(Duration::from_millis(299));
    assert!(bench.send_to(OTHER).is_empty(), "its answer may be on the way");
    bench.pass(Duration::from_millis(1));
    assert_eq!(sequences(&bench.send_to(OTHER)), [1], "it has become silent");
}

#[test]
fn a_node_that_answers_others_is_left_all_the_same() {
    let mut bench = Bench::new(2, 1);
    bench.session();
    bench.core.set_targets(bench.now, &[NODE, NODE], true);
    bench.core.on_connected(bench.now, NODE);
    bench.core.on_connected(bench.now, OTHER);
    (0..2).for_each(|_| _ = bench.push());
    let old = bench.send_to(NODE);
    bench.core.set_targets(bench.now, &[OTHER, NODE], true);
    bench.pass(Duration::from_millis(290));
    bench.ok(&old[1], 0);
    bench.push();
    bench.push();
    let more = bench.send_to(NODE);
    bench.pass(Duration::from_millis(209));
    assert!(!more.is_empty() && bench.send_to(OTHER).is_empty());
    bench.pass(Duration::from_millis(1));
    assert_eq!(content(&bench.send_to(OTHER)[0]).2, content(&old[0]).2);
}

#[test]
fn a_node_that_breaks_off_takes_only_its_own_partitions_along() {
    let mut bench = Bench::new(2, 1);
    bench.session();
    bench.core.set_targets(bench.now, &[NODE, OTHER], true);
    bench.core.on_connected(bench.now, NODE);
    bench.core.on_connected(bench.now, OTHER);
    (0..2).for_each(|_| _ = bench.push());
    let (here, there) = (bench.send_to(NODE), bench.send_to(OTHER));
    assert_eq!((here[0].partition, there[0].partition), (0, 1));
    bench.core.on_disconnected(NODE, None);
    assert_eq!(bench.core.wants_links(bench.now), [NODE]);
    bench.core.set_targets(bench.now, &[OTHER, OTHER], true);
    assert!(bench.core.wants_links(bench.now).is_empty());
    let again = bench.send_to(OTHER);
    assert_eq!((again.len(), &again[0].batch), (1, &here[0].batch));
    bench.ok(&there[0], 0);
    bench.ok(&again[0], 0);
    assert_eq!(bench.acked(), [1, 0]);
}

#[test]
fn a_deposed_leaders_word_on_sequences_is_doubted_for_a_while() {
    for (reason, ends_well) in [(Reason::OutOfSequence, true), (Reason::ProducerExpired, false)] {
        let mut bench = two_nodes();
        bench.push();
        let first = bench.send_to(NODE);
        bench.ok(&first[0], 0);
        bench.acked();
        bench.push();
        for try_again in 0.. {
            let Some(request) = bench.send_to(NODE).pop() else { panic!("try {try_again}") };
            assert_eq!(content(&request).1, 1);
            if ends_well && try_again == 3 {
                bench.ok(&request, 1);
                assert_eq!(bench.acked(), [1]);
                break;
            }
            bench.refuse(&request, reason);
            if !ends_well && let Some((event, error)) = bench.outcomes().pop() {
                assert!(matches!(error, Some(PublishError::ProducerExpired { .. })), "{error:?}");
                assert!(event == 1 && try_again > 2);
                break;
            }
            assert!(bench.core.take_stale(), "is it the leader at all?");
            bench.pass(Duration::from_secs(2));
        }
    }
}
