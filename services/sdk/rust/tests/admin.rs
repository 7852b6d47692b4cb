//! Streams and verification over real sockets to fake regions.

mod support;

use bytes::Bytes;
use meridian_batch::{BatchBuilder, Codec};
use meridian_sdk::types::Timestamp;
use meridian_sdk::v1::StreamSettings;
use meridian_sdk::verify::{CopyStatus, RemoteCopy, verify};
use meridian_sdk::{Reason, SdkError};
use support::{CutProxy, FakeServer, client};

fn settings(partitions: u32) -> StreamSettings {
    StreamSettings { partitions, ..StreamSettings::default() }
}

#[tokio::test]
async fn streams_come_and_go() {
    let server = FakeServer::start(1, 1);
    let admin = client(&[server.endpoint()]).admin();
    for name in ["a", "b", "c", "d"] {
        assert!(admin.create_stream(name, settings(2)).await.unwrap().1);
    }
    assert!(!admin.create_stream("a", settings(2)).await.unwrap().1);
    let refused = admin.create_stream("a", settings(3)).await;
    assert!(matches!(refused, Err(SdkError::Refused(e)) if e.reason == Reason::StreamExists));
    let names: Vec<String> = admin
        .list_streams()
        .await
        .unwrap()
        .into_iter()
        .map(|stream| stream.name.unwrap_or_default().stream)
        .collect();
    assert_eq!(names, ["a", "b", "c", "d", "s"]);
    let updated = admin.update_stream("a", settings(4), 1).await.unwrap();
    assert_eq!(updated.version, 2);
    let stale = admin.update_stream("a", settings(5), 1).await;
    assert!(matches!(stale, Err(SdkError::Refused(e)) if e.reason == Reason::VersionConflict));
    admin.delete_stream("a").await.unwrap();
    let gone = admin.delete_stream("a").await;
    assert!(matches!(gone, Err(SdkError::Refused(e)) if e.reason == Reason::StreamNotFound));
}

#[tokio::test]
async fn what_holds_for_a_region_is_asked_of_it() {
    let server = FakeServer::start(6, 1);
    client(std::slice::from_ref(&server.endpoint())).admin().set_replication(5).await.unwrap();
    let restore = meridian_sdk::v1::RestoreRegionRequest {
        region: "us".to_owned(),
        incarnation: 1,
        lost: vec![1, 2],
        ..Default::default()
    };
    let incarnation =
        client(std::slice::from_ref(&server.endpoint())).admin().restore_region(restore).await.unwrap();
    assert_eq!(incarnation, 2);
    let asked = server.store.lock().placement.asked.clone();
    assert_eq!(asked, ["replicas 5", "restore us 1 without [1, 2]"]);
}

#[tokio::test]
async fn a_change_whose_answer_was_lost_is_no_error() {
    for seed in 0..40 {
        let server = FakeServer::start(seed, 1);
        let proxy = CutProxy::start(server.address, seed, 600).await;
        let through = client(std::slice::from_ref(&proxy.endpoint)).admin();
        // Healing, or it would be cut before it says anything.
        tokio::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
            proxy.heal();
            tokio::time::sleep(std::time::Duration::from_secs(10)).await;
        });
        through.create_stream("x", settings(1)).await.unwrap();
        let updated = through.update_stream("x", settings(2), 1).await;
        assert_eq!(updated.unwrap_or_else(|error| panic!("seed {seed}: {error}")).version, 2);
        through.delete_stream("x").await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

#[tokio::test]
async fn regions_are_compared_over_the_network() {
    let (us, eu) = (FakeServer::start(1, 1), FakeServer::start(2, 1));
    for number in 0..50 {
        for server in [&us, &eu] {
            let value = Some(Bytes::from(format!("{number}")));
            let event = meridian_batch::Event { value, timestamp: Timestamp(1), ..Default::default() };
            let mut builder = BatchBuilder::new(Codec::None);
            builder.push(&event).unwrap();
            server.store.lock().mirror("s", 1, 0, &builder.build().unwrap());
        }
    }
    let copies = [
        RemoteCopy::new("us", "s", &client(&[us.endpoint()])),
        RemoteCopy::new("eu", "s", &client(&[eu.endpoint()])),
    ];
    let report = verify("s", &copies).await;
    assert!(report.agree, "{report:?}");
    assert_eq!(report.events, 50);
    {
        let mut store = eu.store.lock();
        let log = store.streams.get_mut("s").unwrap().lanes.values_mut().next().unwrap();
        let mut bytes = log.batches[33].bytes.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        log.batches[33].bytes = bytes.into();
    }
    let report = verify("s", &copies).await;
    assert!(!report.agree);
    let differs = CopyStatus::Differs { differs_at: 33, from: "us".to_owned() };
    assert_eq!(report.lanes[0].copies[1].status, differs);
}
