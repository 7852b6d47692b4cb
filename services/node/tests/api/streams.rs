//! Streams: created, read, listed, changed, deleted.

use std::collections::BTreeMap;

use meridian_wire::Reason::*;
use meridian_wire::v1;

use crate::support::*;

fn settings(partitions: u32, team: &str) -> v1::StreamSettings {
    let labels = BTreeMap::from([("team".to_owned(), team.to_owned())]);
    v1::StreamSettings { partitions, labels, ..v1::StreamSettings::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_streams_life() {
    let node = TestNode::start().await;
    let mut streams = node.streams();
    let mut create = async |settings| {
        let request = v1::CreateStreamRequest { stream: Some(named("a")), settings: Some(settings) };
        streams.create_stream(request).await.map(|answer| answer.into_inner()).map_err(refusal)
    };
    let made = create(settings(3, "flights")).await.unwrap();
    let stream = made.stream.clone().unwrap();
    assert!(made.created);
    assert_eq!((stream.version, stream.settings.clone().unwrap()), (1, settings(3, "flights")));
    assert_eq!(stream.name, Some(named("a")));
    assert!(stream.created_at_ms > 1_700_000_000_000);
    let again = create(settings(3, "flights")).await.unwrap();
    assert_eq!((again.created, again.stream), (false, made.stream), "the same again is no error");
    let error = assert_reason(create(settings(4, "flights")).await, StreamExists, "other settings");
    assert!(error.message.contains("partitions 3, not 4"), "{error}");
    for (retention_ms, retention_bytes) in [(Some(60_000), None), (None, Some(1 << 30))] {
        let kept = v1::StreamSettings { retention_ms, retention_bytes, ..settings(3, "flights") };
        let error = assert_reason(create(kept).await, InvalidArgument, "what is not done yet is not taken");
        assert!(error.message.contains("retention"), "{error}");
    }

    let get = async || {
        let request = v1::GetStreamRequest { stream: Some(named("a")) };
        node.streams().get_stream(request).await.map(|a| a.into_inner().stream.unwrap()).map_err(refusal)
    };
    assert_eq!(get().await.unwrap(), stream);
    let update = async |settings, expected_version| {
        let request =
            v1::UpdateStreamRequest { stream: Some(named("a")), settings: Some(settings), expected_version };
        node.streams().update_stream(request).await.map(|a| a.into_inner().stream.unwrap()).map_err(refusal)
    };
    let grown = update(settings(5, "crew"), 1).await.unwrap();
    assert_eq!((grown.version, grown.id, grown.settings), (2, stream.id, Some(settings(5, "crew"))));
    let error = assert_reason(update(settings(6, "crew"), 1).await, VersionConflict, "an old version");
    assert_eq!(error.reason.code(), tonic::Code::Aborted);
    assert_reason(update(settings(4, "crew"), 0).await, BadPartitionCount, "partitions only grow");
    assert_eq!(get().await.unwrap().version, 2, "refusals change nothing");
    assert_eq!(update(settings(5, "crew"), 0).await.unwrap().version, 2, "nothing to change");

    node.fill("a", 4, &["x"]).await;
    let delete = v1::DeleteStreamRequest { stream: Some(named("a")) };
    node.streams().delete_stream(delete.clone()).await.unwrap();
    assert_reason(get().await, StreamNotFound, "deleted");
    assert_reason(node.streams().delete_stream(delete).await.map_err(refusal), StreamNotFound, "twice");
    let publish = node.publish(publish_of("a", vec![value_event("x")])).await;
    assert_reason(publish, StreamNotFound, "publish after the deletion");
    // The same name again is another stream.
    let made = node.create("a", 5).await;
    assert!(made.id > stream.id, "ids are never used again");
    assert_eq!(node.end("a", 4).await, 0, "and it is empty");
}

/// A publisher's open stream hears of a deletion, and of a partition that is new.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_stream_of_batches_follows_the_catalog() {
    let node = TestNode::start().await;
    node.create("a", 1).await;
    let (requests, outgoing) = tokio::sync::mpsc::channel(1);
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut answers = node.events().publish_batches(outgoing).await.unwrap().into_inner();
    let mut send = async |partition| {
        requests.send(batch_request("a", partition, batch_of(&["x"], None))).await.unwrap();
        match answers.message().await.unwrap().unwrap().result.unwrap() {
            v1::publish_batches_response::Result::Published(published) => Ok(published),
            v1::publish_batches_response::Result::Error(error) => {
                Err(meridian_wire::ApiError::from_message(&error))
            }
        }
    };
    assert!(send(0).await.is_ok());
    assert_reason(send(1).await, NoSuchPartition, "not yet");
    let update = v1::UpdateStreamRequest {
        stream: Some(named("a")),
        settings: Some(v1::StreamSettings { partitions: 2, ..v1::StreamSettings::default() }),
        expected_version: 0,
    };
    node.streams().update_stream(update).await.unwrap();
    assert!(send(1).await.is_ok());
    node.streams().delete_stream(v1::DeleteStreamRequest { stream: Some(named("a")) }).await.unwrap();
    assert_reason(send(0).await, StreamNotFound, "deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_come_in_pages() {
    let node = TestNode::start().await;
    let names = ["a", "b", "c", "d", "e"];
    for name in ["d", "a", "e", "b", "c"] {
        node.create(name, 1).await;
    }
    for size in [1, 2, 3, 5, 9, 0] {
        let mut got = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListStreamsRequest {
                tenant: "default".into(),
                page_size: size,
                page_token: page_token.clone(),
            };
            let page = node.streams().list_streams(request).await.unwrap().into_inner();
            assert!(size == 0 || page.streams.len() <= size as usize);
            got.extend(page.streams.into_iter().map(|stream| stream.name.unwrap().stream));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(got, names, "pages of {size}");
    }
}
