//! Where a stream ends now: behind everything that was acknowledged before it was asked.

use meridian_types::{Cursor, Offset, Origin, Partition, RegionId};
use meridian_wire::{Reason, v1};

use crate::support::*;

async fn latest(
    node: &TestNode,
    stream: &str,
) -> Result<(v1::LatestResponse, Cursor), meridian_wire::ApiError> {
    let request = v1::LatestRequest { stream: Some(named(stream)) };
    let answer = node.events().latest(request).await.map_err(refusal)?.into_inner();
    let cursor = Cursor::from_bytes(&answer.cursor).unwrap();
    Ok((answer, cursor))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_before_the_latest_position() {
    let node = TestNode::start().await;
    let stream = node.create("a", 2).await;
    node.create("other", 8).await;
    let us = Origin::first(RegionId(1));
    let (empty, cursor) = latest(&node, "a").await.unwrap();
    assert_eq!((empty.stream_id, empty.partitions, empty.confirmed), (stream.id, 2, Some(us.into())));
    assert_eq!(cursor, Cursor::start(meridian_types::StreamId(stream.id)));
    // At once, after each: nothing is waited for in between.
    for end in 1..=50 {
        node.fill("a", (end % 2) as u32, &["x"]).await;
        node.fill("other", (end % 8) as u32, &["x"]).await;
        let (_, cursor) = latest(&node, "a").await.unwrap();
        let ends = [0, 1].map(|partition| cursor.next(us, Partition(partition)));
        assert_eq!(ends, [Offset(end / 2), Offset(end.div_ceil(2))]);
        assert!(cursor.lanes().all(|(lane, _)| lane.stream.0 == stream.id), "no other stream's lanes");
    }
    assert_eq!(latest(&node, "absent").await.unwrap_err().reason, Reason::StreamNotFound);
    assert_eq!(latest(&node, "").await.unwrap_err().reason, Reason::BadName);
}
