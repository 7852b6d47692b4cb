//! A node that is told to stop answers what it took, takes no more, and has kept all that it answered.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use meridian_wire::Reason::NotReady;
use meridian_wire::{ApiError, v1};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::*;

const PUBLISHERS: u32 = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_is_answered_and_nothing_new_is_taken() {
    let mut node = TestNode::start().await;
    node.create("a", 2).await;
    let watch = HealthCheckRequest { service: String::new() };
    let mut health = HealthClient::new(node.connect()).watch(watch).await.unwrap().into_inner();
    assert_eq!(health.message().await.unwrap().unwrap().status(), ServingStatus::Serving);

    // Single publishes, again and again, over several connections.
    let stopping = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let mut publishers = Vec::new();
    for number in 0..PUBLISHERS {
        let (channel, stopping, answered) = (node.connect(), stopping.clone(), answered.clone());
        publishers.push(tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            let mut client = events(channel);
            loop {
                let event = v1::Event { partition: Some(number % 2), ..value_event("x") };
                match client.publish(publish_of("a", vec![event])).await {
                    Ok(answer) => {
                        if acknowledged.is_empty() {
                            answered.fetch_add(1, Ordering::SeqCst);
                        }
                        let results = answer.into_inner().results;
                        acknowledged.push((number % 2, position(&results[0]).expect("a position").offset));
                    }
                    Err(status) => {
                        assert!(stopping.load(Ordering::SeqCst), "refused before it stops: {status:?}");
                        // Refused by the node, or turned away by HTTP/2 before the node saw it: below it is shown that
                        // nothing which the node took was left without an answer.
                        let refused = ApiError::from_status(&status).map(|error| error.reason);
                        assert!(matches!(refused, None | Some(NotReady)), "{status:?}");
                        return acknowledged;
                    }
                }
            }
        }));
    }
    // A stream of batches that is never ended by its client.
    let (requests, outgoing) = tokio::sync::mpsc::channel(64);
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut answers = events(node.connect()).publish_batches(outgoing).await.unwrap().into_inner();
    let sender = tokio::spawn(async move {
        let mut sent = 0u64;
        loop {
            let batch = batch_request("a", (sent % 2) as u32, batch_of(&["y"], None));
            if requests.send(v1::PublishBatchesRequest { request_id: sent, ..batch }).await.is_err() {
                return;
            }
            sent += 1;
        }
    });
    let published = Arc::new(AtomicUsize::new(0));
    let counted = published.clone();
    let batches = tokio::spawn(async move {
        let mut acknowledged = Vec::new();
        loop {
            match answers.message().await {
                Ok(Some(answer)) => match answer.result.unwrap() {
                    v1::publish_batches_response::Result::Published(published) => {
                        counted.fetch_add(1, Ordering::SeqCst);
                        let first = published.first.unwrap();
                        acknowledged.push((first.lane.unwrap().partition, first.offset));
                    }
                    v1::publish_batches_response::Result::Error(error) => {
                        assert_eq!(error.reason, "NOT_READY");
                    }
                },
                Ok(None) => panic!("it ended without saying why"),
                Err(status) => return (acknowledged, refusal(status)),
            }
        }
    });
    // And a reader.
    let start = v1::SubscribeStart { stream: Some(named("a")), credit_bytes: 1 << 30, ..Default::default() };
    let start = v1::SubscribeRequest { request: Some(v1::subscribe_request::Request::Start(start)) };
    let outgoing = tokio_stream::StreamExt::chain(
        tokio_stream::once(start),
        tokio_stream::pending::<v1::SubscribeRequest>(),
    );
    let mut reading = events(node.connect()).subscribe(outgoing).await.unwrap().into_inner();
    let reader = tokio::spawn(async move {
        loop {
            match reading.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended as if all had been read"),
                Err(status) => return refusal(status),
            }
        }
    });

    until("every publisher is under way", async || {
        answered.load(Ordering::SeqCst) == PUBLISHERS as usize && published.load(Ordering::SeqCst) > 10
    })
    .await;
    stopping.store(true, Ordering::SeqCst);
    let begun = std::time::Instant::now();
    node.tell_to_stop();
    assert_eq!(health.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    drop(health);
    let (mut acknowledged, end) = batches.await.unwrap();
    assert_eq!(end.reason, NotReady, "{end}");
    assert!(acknowledged.len() > 10, "{}", acknowledged.len());
    assert_eq!(reader.await.unwrap().reason, NotReady);
    for publisher in publishers {
        let own = publisher.await.unwrap();
        assert!(!own.is_empty());
        acknowledged.extend(own);
    }
    node.stopped().await;
    assert!(begun.elapsed() < Duration::from_secs(30), "nobody held it up: {:?}", begun.elapsed());
    sender.abort();

    let distinct: BTreeSet<_> = acknowledged.iter().collect();
    assert_eq!(distinct.len(), acknowledged.len(), "no offset is given twice");
    node.again().await;
    let stored = node.end("a", 0).await + node.end("a", 1).await;
    assert_eq!(stored, acknowledged.len() as u64, "what was taken was answered");
    for partition in 0..2 {
        let end = node.end("a", partition).await;
        let last = acknowledged.iter().filter(|(p, _)| *p == partition).map(|(_, offset)| *offset).max();
        assert!(end > last.unwrap(), "partition {partition} ends at {end}, {last:?} was acknowledged");
        let request = v1::ListLanesRequest { stream: Some(named("a")) };
        let lanes = node.cluster().list_lanes(request).await.unwrap().into_inner().lanes;
        let lane = lanes.iter().find(|lane| lane.lane.unwrap().partition == partition).unwrap();
        let digest = v1::DigestLaneRequest { stream: Some(named("a")), lane: lane.lane, start: 0, end };
        let digest = node.cluster().digest_lane(digest).await.unwrap().into_inner();
        assert_eq!((digest.events, digest.damaged_at), (end, None), "every one reads back");
    }
    node.fill("a", 0, &["after"]).await;
}
