//! What a publish answers.

use bytes::Bytes;
use meridian_types::{Partition, partition_for_key};
use meridian_wire::v1;

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_is_answered_with_its_place() {
    let node = TestNode::start().await;
    let stream = node.create("a", 4).await;
    let events: Vec<v1::Event> = (0..40)
        .map(|n| match n % 3 {
            0 => v1::Event { key: Some(Bytes::from(format!("k{}", n % 7))), ..value_event(&n.to_string()) },
            1 => v1::Event { partition: Some(n % 4), ..value_event(&n.to_string()) },
            _ => value_event(&n.to_string()),
        })
        .collect();
    let mut ends = [0u64; 4];
    let mut last_hlc = [0u64; 4];
    for _ in 0..3 {
        let results = node.publish(publish_of("a", events.clone())).await.unwrap();
        assert_eq!(results.len(), events.len(), "one result for each event, in their order");
        let mut keyless = None;
        for (event, result) in events.iter().zip(&results) {
            let position = position(result).unwrap();
            let lane = position.lane.unwrap();
            assert_eq!(
                (lane.stream_id, lane.origin),
                (stream.id, Some(v1::Origin { region: 1, incarnation: 1 }))
            );
            match (event.partition, &event.key) {
                (Some(partition), _) => assert_eq!(lane.partition, partition),
                (None, Some(key)) => assert_eq!(Partition(lane.partition), partition_for_key(key, 4)),
                (None, None) => assert_eq!(*keyless.get_or_insert(lane.partition), lane.partition),
            }
            let partition = lane.partition as usize;
            assert_eq!(position.offset, ends[partition], "offsets without a gap");
            ends[partition] += 1;
            assert!(position.hlc >= last_hlc[partition] && position.hlc > 0);
            last_hlc[partition] = position.hlc;
            assert_eq!(position.regions, ["us"]);
        }
    }
    for (partition, end) in (0..).zip(ends) {
        assert_eq!(node.end("a", partition).await, end);
    }
}

/// One partition's trouble is not the others': each event has its own result.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_that_fails_in_part_says_so_event_by_event() {
    let node = TestNode::start().await;
    node.create("a", 2).await;
    let to = |partition| v1::Event { partition: Some(partition), ..value_event("x") };
    let results = node.publish(publish_of("a", vec![to(0), to(9), to(1), to(9)])).await.unwrap();
    assert_eq!(results.len(), 4);
    for (place, result) in results.into_iter().enumerate() {
        match result.result.unwrap() {
            v1::event_result::Result::Position(position) => {
                assert!(place % 2 == 0);
                assert_eq!((position.lane.unwrap().partition, position.offset), (place as u32 / 2, 0));
            }
            v1::event_result::Result::Error(error) => {
                assert!(place % 2 == 1);
                assert_eq!((error.reason.as_str(), error.code), ("NO_SUCH_PARTITION", 11));
            }
        }
    }
}

/// Batches of one stream are answered by their numbers, and keep their order in each lane.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_batches_keep_their_order() {
    let node = TestNode::start().await;
    node.create("a", 3).await;
    let requests: Vec<_> = (0..600u64)
        .map(|id| v1::PublishBatchesRequest {
            request_id: id,
            ..batch_request("a", (id % 3) as u32, batch_of(&[&id.to_string(), "second"], None))
        })
        .collect();
    let mut answers = node.events().publish_batches(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut got = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        let Some(v1::publish_batches_response::Result::Published(published)) = answer.result else {
            panic!("{answer:?}")
        };
        assert_eq!((published.events, published.duplicate), (2, false));
        let first = published.first.unwrap();
        assert_eq!(u64::from(first.lane.unwrap().partition), answer.request_id % 3);
        got.push((answer.request_id, first.offset));
    }
    got.sort_unstable();
    let expected: Vec<_> = (0..600).map(|id| (id, id / 3 * 2)).collect();
    assert_eq!(got, expected);
}

/// However many messages go over one stream, and however long the names, nothing of the budget stays behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_stream_of_batches_gives_back_all_that_it_took() {
    let node = TestNode::start_with(|config| {
        config.limits.publish_bytes_in_flight = meridian_node::config::ByteSize::mib(16);
    })
    .await;
    let name = "n".repeat(249);
    node.create(&name, 1).await;
    let (requests, outgoing) = tokio::sync::mpsc::channel(64);
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut answers = node.events().publish_batches(outgoing).await.unwrap().into_inner();
    let batch = batch_of(&["x"], None);
    let sender = tokio::spawn({
        let name = name.clone();
        async move {
            for id in 0..5000 {
                let request =
                    v1::PublishBatchesRequest { request_id: id, ..batch_request(&name, 0, batch.clone()) };
                requests.send(request).await.unwrap();
            }
            requests
        }
    });
    for _ in 0..5000 {
        answers.message().await.unwrap().unwrap();
    }
    let _open = sender.await.unwrap();
    until("no bytes stay behind", async || node.metric("meridian_request_bytes_in_hand").await == 0).await;
}
