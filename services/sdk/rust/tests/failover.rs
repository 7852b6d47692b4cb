//! Publishing to and reading from a region of several nodes, whose leaders move and whose nodes die.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use meridian_sdk::types::Partition;
use meridian_sdk::{Ack, Client, ConsumerOptions, Delivery, Event, Item, Publisher, StartFrom};
use support::{FakeServer, client, small_batches};

const PARTITIONS: u32 = 4;
/// What must be over long before a connection without answers would be replaced.
const SOON: Duration = Duration::from_secs(20);

/// Of a region of two nodes, of which the client is told one. By turns each leads a shard.
async fn region(seed: u64) -> (Vec<FakeServer>, Client, Publisher) {
    let nodes = FakeServer::region(seed, PARTITIONS, 2);
    nodes[0].store.lock().placement.lead(|shard| Some(1 + u32::from(shard) % 2));
    let client = client(&[nodes[0].endpoint()]);
    let publisher = client.publisher("s", small_batches()).await.unwrap();
    (nodes, client, publisher)
}

/// Numbered events, by turns into each partition.
async fn send(publisher: &Publisher, numbers: std::ops::Range<u32>) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for number in numbers {
        let event = Event::new(number.to_string()).to_partition(Partition(number % PARTITIONS));
        deliveries.push(publisher.send(event).await.unwrap());
    }
    deliveries
}

async fn acks(deliveries: Vec<Delivery>) -> Vec<Ack> {
    let mut acks = Vec::new();
    for delivery in deliveries {
        acks.push(delivery.await.unwrap());
    }
    acks
}

/// What is stored is `0..count`, each once, in each partition in order, and where the acknowledgements say.
fn assert_stored(node: &FakeServer, acks: &[Ack]) {
    let store = node.store.lock();
    for partition in 0..PARTITIONS {
        let stored: Vec<(u64, u32)> = store
            .read("s", partition)
            .into_iter()
            .map(|record| {
                let value = String::from_utf8(record.event.value.unwrap().to_vec()).unwrap();
                (record.offset.0, value.parse().unwrap())
            })
            .collect();
        let expected: Vec<(u64, u32)> = (0..acks.len() as u32)
            .filter(|number| number % PARTITIONS == partition)
            .map(|number| (acks[number as usize].offset.0, number))
            .collect();
        assert_eq!(stored, expected, "partition {partition}");
    }
}

#[tokio::test]
async fn every_batch_goes_straight_to_its_leader() {
    let (nodes, _, publisher) = region(1).await;
    let acks = acks(send(&publisher, 0..2000).await).await;
    assert_stored(&nodes[0], &acks);
    let store = nodes[0].store.lock();
    assert_eq!(store.placement.passed_on, 0);
    // Its four partitions are in shards of both.
    assert_eq!(store.placement.taken.len(), 2, "{:?}", store.placement.taken);
}

#[tokio::test]
async fn a_node_that_does_not_say_who_leads_is_published_to_all_the_same() {
    let nodes = FakeServer::region(2, PARTITIONS, 2);
    nodes[0].store.lock().placement.is_old = true;
    let publisher = client(&[nodes[0].endpoint()]).publisher("s", small_batches()).await.unwrap();
    let acks = acks(send(&publisher, 0..500).await).await;
    assert_stored(&nodes[0], &acks);
    assert_eq!(nodes[0].store.lock().placement.taken.keys().copied().collect::<Vec<_>>(), [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_that_move_in_the_middle_cost_a_retry_and_nothing_else() {
    let (nodes, _, publisher) = region(3).await;
    let mut deliveries = Vec::new();
    for round in 0..8 {
        deliveries.extend(send(&publisher, round * 500..round * 500 + 300).await);
        // An election: nobody leads, and that is noticed.
        let refused = {
            let mut store = nodes[0].store.lock();
            store.placement.lead(|_| None);
            store.placement.leaderless
        };
        deliveries.extend(send(&publisher, round * 500 + 300..round * 500 + 500).await);
        nodes[0].until(|store| store.placement.leaderless > refused).await;
        nodes[0].store.lock().placement.lead(|shard| Some(1 + (u32::from(shard) + round) % 2));
    }
    let acks = acks(deliveries).await;
    assert_stored(&nodes[0], &acks);
    // It goes straight to the new leaders in the end.
    let before = nodes[0].store.lock().placement.passed_on;
    publisher.flush().await.unwrap();
    publisher.send(Event::new("4000").to_partition(Partition(0))).await.unwrap().await.unwrap();
    let after = nodes[0].store.lock().placement.passed_on;
    assert!(after <= before + 1, "{before} {after}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_a_dying_node_stored_and_did_not_answer_are_there_once_and_in_order() {
    for dies in 0..2usize {
        let (mut nodes, _, publisher) = region(4).await;
        let first = send(&publisher, 0..400).await;
        publisher.flush().await.unwrap();
        nodes[0].store.lock().placement.silent.insert(dies as u32 + 1);
        let rest = send(&publisher, 400..2000).await;
        nodes[0].until(|store| store.unanswered >= 3).await;
        nodes[dies].kill();
        let lives = 2 - dies as u32;
        nodes[0].store.lock().placement.lead(|_| Some(lives));
        let acks = acks(first.into_iter().chain(rest).collect()).await;
        assert_stored(&nodes[0], &acks);
        let store = nodes[0].store.lock();
        assert!(store.duplicates >= 3, "{} were stored before", store.duplicates);
        assert!(acks.iter().any(|ack| ack.duplicate));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_hangs_is_left_once_another_leads() {
    let (nodes, _, publisher) = region(5).await;
    let begun = Instant::now();
    nodes[0].store.lock().placement.silent.insert(1);
    let deliveries = send(&publisher, 0..1000).await;
    nodes[0].until(|store| store.unanswered >= 3).await;
    nodes[0].store.lock().placement.lead(|_| Some(2));
    let acks = acks(deliveries).await;
    assert_stored(&nodes[0], &acks);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_goes_on_at_another_node() {
    for dies in 0..2 {
        let (mut nodes, client, publisher) = region(6).await;
        let options = ConsumerOptions { from: StartFrom::Start, timeout: SOON, ..ConsumerOptions::default() };
        let mut consumer = client.consumer("s", options).unwrap();
        let mut seen: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        let (mut count, mut published) = (0, 0);
        for round in 0..4u32 {
            let deliveries = send(&publisher, published..published + 500).await;
            published += 500;
            // In the middle of what was just sent.
            while count < published {
                if round == 1 && count == published - 250 {
                    let lives = 2 - dies as u32;
                    nodes[0].store.lock().placement.lead(|_| Some(lives));
                    nodes[dies].kill();
                }
                let Item::Event(event) = consumer.next().await.unwrap() else { continue };
                let value = String::from_utf8(event.value.unwrap().to_vec()).unwrap();
                let lane = seen.entry(event.lane.partition.0).or_default();
                assert_eq!(event.offset.0, lane.len() as u64);
                lane.push(value.parse().unwrap());
                count += 1;
            }
            acks(deliveries).await;
        }
        for (partition, numbers) in seen {
            let expected: Vec<u32> = (0..published).filter(|n| n % PARTITIONS == partition).collect();
            assert_eq!(numbers, expected, "partition {partition}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_calls_go_to_a_node_that_answers() {
    let (mut nodes, client, _publisher) = region(7).await;
    let begun = Instant::now();
    assert_eq!(client.admin().list_shards().await.unwrap().node, 1);
    nodes[0].kill();
    assert_eq!(client.admin().topology().await.unwrap().node, 2);
    nodes[0].restart();
    nodes[1].kill();
    assert_eq!(client.admin().topology().await.unwrap().node, 1);
    assert!(begun.elapsed() < SOON);
}
