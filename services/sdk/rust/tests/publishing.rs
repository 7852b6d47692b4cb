//! The publisher over real sockets to a fake region.

mod support;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use meridian_sdk::types::{Partition, partition_for_key};
use meridian_sdk::{
    Codec, Event, PublishError, Publisher, PublisherOptions, Reason, SdkError, Stored, TrySendError,
};
use support::{CutProxy, FakeServer, Faults, client, small_batches};

const PARTITIONS: u32 = 3;

/// Numbered events of a few keys.
fn events(count: u32) -> impl Iterator<Item = Event> {
    (0..count).map(|n| Event::new(format!("{{\"n\":{n}}}")).with_key(format!("key-{}", n % 17)))
}

async fn publish(publisher: &Publisher, count: u32) -> Vec<meridian_sdk::Ack> {
    let mut deliveries = Vec::new();
    for event in events(count) {
        deliveries.push(publisher.send(event).await.unwrap());
    }
    publisher.flush().await.unwrap();
    let mut acks = Vec::new();
    for delivery in deliveries {
        acks.push(delivery.await.unwrap());
    }
    acks
}

/// Every event is stored once, where its acknowledgement says, in the order of its key.
fn assert_stored(server: &FakeServer, acks: &[meridian_sdk::Ack]) {
    let mut stored: HashMap<(u32, u64), meridian_batch::Event> = HashMap::new();
    for partition in 0..PARTITIONS {
        for record in server.store.lock().read("s", partition) {
            stored.insert((partition, record.offset.0), record.event);
        }
    }
    assert_eq!(stored.len(), acks.len(), "one place for each event");
    let mut last: HashMap<Vec<u8>, u64> = HashMap::new();
    for (sent, ack) in events(acks.len() as u32).zip(acks) {
        let event = &stored[&(ack.lane.partition.0, ack.offset.0)];
        assert_eq!((&event.key, &event.value), (&sent.key, &sent.value));
        let key = sent.key.unwrap();
        assert_eq!(ack.lane.partition, partition_for_key(&key, PARTITIONS));
        assert_eq!(ack.regions.to_vec(), ["us"]);
        if let Some(before) = last.insert(key.to_vec(), ack.offset.0) {
            assert!(before < ack.offset.0, "a key keeps its order");
        }
    }
}

#[tokio::test]
async fn every_codec_arrives() {
    for codec in Codec::ALL {
        let server = FakeServer::start(1, PARTITIONS);
        let options = PublisherOptions { codec, ..small_batches() };
        let publisher = client(&[server.endpoint()]).publisher("s", options).await.unwrap();
        let acks = publish(&publisher, 500).await;
        assert_stored(&server, &acks);
        assert!(acks.iter().all(|ack| !ack.duplicate));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_cut_anywhere_lose_nothing_and_double_nothing() {
    let (mut cuts, mut duplicates) = (0, 0);
    // How often an answer is cut off depends on the machine: at least a dozen, and more until there were enough.
    for seed in 0..60 {
        if seed >= 12 && cuts > 30 && duplicates > 5 {
            break;
        }
        let server = FakeServer::start(seed, PARTITIONS);
        server.faults(Faults { overloaded: 0.03, late: 0.2, ..Faults::default() });
        let proxy = CutProxy::start(server.address, seed, 40_000).await;
        let publisher = client(std::slice::from_ref(&proxy.endpoint)).publisher("s", small_batches()).await;
        let publisher = publisher.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let acks = publish(&publisher, 4000).await;
        assert_stored(&server, &acks);
        cuts += proxy.cuts();
        duplicates += server.store.lock().duplicates;
    }
    // Or this would show nothing.
    assert!(cuts > 30, "{cuts} cuts");
    assert!(duplicates > 5, "{duplicates} batches were stored before their connection was cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_killed_and_comes_back_gets_the_rest() {
    let mut server = FakeServer::start(3, PARTITIONS);
    server.faults(Faults { delay: Duration::from_millis(1), ..Faults::default() });
    let publisher = client(&[server.endpoint()]).publisher("s", small_batches()).await.unwrap();
    let mut deliveries = Vec::new();
    for (n, event) in events(3000).enumerate() {
        deliveries.push(publisher.send(event).await.unwrap());
        if n % 1000 == 500 {
            server.kill();
            tokio::time::sleep(Duration::from_millis(50)).await;
            server.restart();
        }
    }
    publisher.flush().await.unwrap();
    let mut acks = Vec::new();
    for delivery in deliveries {
        acks.push(delivery.await.unwrap());
    }
    assert_stored(&server, &acks);
}

#[tokio::test]
async fn the_next_node_is_asked_when_one_is_dead() {
    let server = FakeServer::start(4, PARTITIONS);
    let dead = "http://127.0.0.1:9".to_owned();
    let publisher = client(&[dead, server.endpoint()]).publisher("s", small_batches()).await.unwrap();
    let acks = publish(&publisher, 50).await;
    assert_stored(&server, &acks);
}

#[tokio::test]
async fn an_unknown_stream_is_refused_at_once() {
    let server = FakeServer::start(5, PARTITIONS);
    let refused = client(&[server.endpoint()]).publisher("nope", small_batches()).await.err();
    let Some(PublishError::Client(SdkError::Refused(error))) = refused else { panic!("{refused:?}") };
    assert_eq!(error.reason, Reason::StreamNotFound);
    let bad = client(&[server.endpoint()]).publisher("a/b", small_batches()).await.err();
    assert!(matches!(bad, Some(PublishError::Client(SdkError::Name(_)))), "{bad:?}");
}

#[tokio::test]
async fn what_cannot_be_stored_says_so_and_what_follows_can() {
    let server = FakeServer::start(6, 1);
    let publisher = client(&[server.endpoint()]).publisher("s", small_batches()).await.unwrap();
    publisher.send(Event::new("1")).await.unwrap().await.unwrap();
    server.store.lock().forget_producers();
    let expired = publisher.send(Event::new("2")).await.unwrap().await;
    assert!(matches!(expired, Err(PublishError::ProducerExpired { stored: Stored::No, .. })), "{expired:?}");
    assert_eq!(publisher.flush().await, expired.map(|_| ()));
    // It is not there, and the caller knows: it may be sent again, under a new session.
    publisher.send(Event::new("2")).await.unwrap().await.unwrap();
    publisher.flush().await.unwrap();
    let values: Vec<_> =
        server.store.lock().read("s", 0).into_iter().map(|record| record.event.value.unwrap()).collect();
    assert_eq!(values, ["1", "2"]);
    let missing = publisher.send(Event::new("3").to_partition(Partition(1))).await;
    assert!(matches!(missing, Err(PublishError::NoSuchPartition { .. })));
}

#[tokio::test]
async fn what_is_tried_is_taken_while_there_is_room_and_given_back_where_there_is_none() {
    let server = FakeServer::start(7, PARTITIONS);
    server.faults(Faults { mute: true, ..Faults::default() });
    let memory = 4 * 1024 * 1024;
    let answer_timeout = Duration::from_millis(500);
    let options = PublisherOptions { memory_bytes: memory, answer_timeout, ..PublisherOptions::default() };
    let publisher = client(&[server.endpoint()]).publisher("s", options).await.unwrap();
    let event = |n: usize| Event::new(vec![n as u8; 10_000]).with_key(n.to_string());
    let mut deliveries = Vec::new();
    let back = loop {
        match publisher.try_send(event(deliveries.len())) {
            Ok(delivery) => deliveries.push(delivery),
            Err(TrySendError::Full(event)) => break *event,
            Err(TrySendError::Failed(error)) => panic!("{error}"),
        }
    };
    assert_eq!(back, event(deliveries.len()), "nothing of it is lost");
    assert!((350..=memory / 10_000).contains(&deliveries.len()), "{}", deliveries.len());
    server.faults(Faults::default());
    drop(deliveries.split_off(300));
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    publisher.flush().await.unwrap();
    publisher.try_send(back).unwrap().await.unwrap();
    let missing = publisher.try_send(event(0).to_partition(Partition(PARTITIONS)));
    assert!(matches!(missing, Err(TrySendError::Failed(PublishError::NoSuchPartition { .. }))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_bounded_and_time_without_progress_ends_it() {
    let server = FakeServer::start(7, PARTITIONS);
    server.faults(Faults { mute: true, ..Faults::default() });
    let memory = 4 * 1024 * 1024;
    let options = PublisherOptions {
        memory_bytes: memory,
        progress_timeout: Duration::from_secs(5),
        ..PublisherOptions::default()
    };
    let publisher = client(&[server.endpoint()]).publisher("s", options).await.unwrap();
    let value = vec![b'x'; 10_000];
    let mut deliveries = Vec::new();
    let begun = Instant::now();
    let error = loop {
        match publisher.send(Event::new(value.clone())).await {
            Ok(delivery) => deliveries.push(delivery),
            Err(error) => break error,
        }
        assert!(deliveries.len() * value.len() <= memory, "send must wait");
    };
    assert!(begun.elapsed() >= Duration::from_secs(5));
    let count = deliveries.len() as u64;
    assert!(count > 350, "{count}: almost all of the memory is of use");
    let PublishError::Stalled { events, sent, .. } = &error else { panic!("{error:?}") };
    assert!(*events == count && *sent > 0 && *sent < count, "{error:?} of {count}");
    for delivery in deliveries {
        assert!(matches!(delivery.await, Err(PublishError::Stalled { .. })));
    }
}

#[tokio::test]
async fn nobody_there_is_an_error_that_names_them() {
    let options = meridian_sdk::ClientOptions {
        retry_for: Duration::from_millis(300),
        ..meridian_sdk::ClientOptions::default()
    };
    let client = meridian_sdk::Client::connect(vec!["http://127.0.0.1:9".into()], options).unwrap();
    let begun = Instant::now();
    let error = client.publisher("s", small_batches()).await.err();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let Some(PublishError::Client(SdkError::Unreachable { endpoints, last, .. })) = error else {
        panic!("{error:?}")
    };
    assert_eq!(endpoints, "http://127.0.0.1:9");
    assert!(last.contains("refused"), "{last}");
}

#[tokio::test]
async fn dropping_a_publisher_settles_what_is_open() {
    let server = FakeServer::start(8, PARTITIONS);
    server.faults(Faults { mute: true, ..Faults::default() });
    let publisher = client(&[server.endpoint()]).publisher("s", small_batches()).await.unwrap();
    let delivery = publisher.send(Event::new("1")).await.unwrap();
    drop(publisher);
    assert_eq!(delivery.await, Err(PublishError::Closed));
}
