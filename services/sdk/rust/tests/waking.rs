//! Who is woken: an event that has to wait for something else is not forgotten, silence is noticed whatever else is waited
//! for, and what is dropped leaves nothing.

mod support;

use std::time::Duration;

use meridian_sdk::types::Partition;
use meridian_sdk::{Event, PublishError, PublisherOptions};
use support::{FakeServer, Faults, client, small_batches};
use tokio::time::{sleep, timeout};

/// Longer than any of this takes, and less than the timers that would hide that nobody was woken.
const SOON: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_after_its_session_was_forgotten_gets_another() {
    let server = FakeServer::start(6, 1);
    let options = PublisherOptions { progress_timeout: Duration::from_secs(1), ..small_batches() };
    let publisher = client(&[server.endpoint()]).publisher("s", options).await.unwrap();
    publisher.send(Event::new("1")).await.unwrap().await.unwrap();
    server.store.lock().forget_producers();
    let expired = publisher.send(Event::new("2")).await.unwrap().await;
    assert!(matches!(expired, Err(PublishError::ProducerExpired { .. })), "{expired:?}");
    publisher.flush().await.unwrap_err();
    // Every timer that was set has fired.
    sleep(Duration::from_secs(3)).await;
    let delivery = publisher.send(Event::new("2")).await.unwrap();
    timeout(SOON, delivery).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_after_a_long_pause_gets_a_session() {
    let server = FakeServer::start(6, 1);
    let second = Duration::from_secs(1);
    let options = PublisherOptions { progress_timeout: second, session_idle: second, ..small_batches() };
    let publisher = client(&[server.endpoint()]).publisher("s", options).await.unwrap();
    publisher.send(Event::new("1")).await.unwrap().await.unwrap();
    sleep(3 * second).await;
    let delivery = publisher.send(Event::new("2")).await.unwrap();
    timeout(SOON, delivery).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_noticed_while_another_partition_pauses() {
    let server = FakeServer::start(6, 2);
    let options = PublisherOptions { answer_timeout: Duration::from_millis(500), ..small_batches() };
    let publisher = client(&[server.endpoint()]).publisher("s", options).await.unwrap();
    let to = |partition| Event::new("x").to_partition(Partition(partition));
    publisher.send(to(0)).await.unwrap().await.unwrap();
    publisher.send(to(1)).await.unwrap().await.unwrap();
    let refuse_first = Some(Duration::from_secs(30));
    server.faults(Faults { refuse_first, mute: true, ..Faults::default() });
    let _paused = publisher.send(to(0)).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let silent = publisher.send(to(1)).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    server.faults(Faults { refuse_first, ..Faults::default() });
    timeout(SOON, silent).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_noticed_after_a_new_session() {
    for seed in 0..8 {
        let server = FakeServer::start(seed, 1);
        let options = PublisherOptions { answer_timeout: Duration::from_millis(500), ..small_batches() };
        let publisher = client(&[server.endpoint()]).publisher("s", options).await.unwrap();
        publisher.send(Event::new("1")).await.unwrap().await.unwrap();
        server.store.lock().forget_producers();
        publisher.send(Event::new("2")).await.unwrap().await.unwrap_err();
        server.faults(Faults { mute: true, ..Faults::default() });
        let delivery = publisher.send(Event::new("2")).await.unwrap();
        sleep(Duration::from_millis(700)).await;
        server.faults(Faults::default());
        timeout(SOON, delivery).await.unwrap_or_else(|_| panic!("seed {seed}: nobody noticed")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_publishers_leave_no_connection() {
    let server = FakeServer::start(6, 1);
    let client = client(&[server.endpoint()]);
    for _ in 0..10 {
        let publisher = client.publisher("s", small_batches()).await.unwrap();
        publisher.send(Event::new("1")).await.unwrap().await.unwrap();
    }
    let left = async {
        while established(server.address.port()) > 1 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, left).await.expect("the client's own connection is left, and no publisher's");
}

/// Connections to a port of the loopback.
fn established(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let to = format!("0100007F:{port:04X}");
    let is_to = |line: &&str| {
        let mut columns = line.split_whitespace().skip(2);
        columns.next() == Some(&to) && columns.next() == Some("01")
    };
    table.lines().filter(is_to).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_may_be_as_large_as_they_like() {
    let server = FakeServer::start(6, 1);
    let options = PublisherOptions { batch_bytes: usize::MAX, ..small_batches() };
    let publisher = client(&[server.endpoint()]).publisher("s", options).await.unwrap();
    publisher.send(Event::new(vec![1; 20_000])).await.unwrap().await.unwrap();
}
