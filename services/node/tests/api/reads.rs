//! What a node gives the other nodes of its region of its own replicas, on the peer listener: to no stranger, and no more than it
//! serves itself.

use meridian_types::{Origin, Partition, RegionId, ShardId, ShardNo, StreamId, shard_of};
use meridian_wire::v1;
use meridian_wire::v1::read_service_client::ReadServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::support::*;

const SHARDS: u16 = 4;

fn client(node: &TestNode) -> ReadServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", node.config.listen.peer)).unwrap();
    ReadServiceClient::new(endpoint.connect_lazy())
}

/// As the node would ask itself: the only one that its region knows.
async fn call(node: &TestNode) -> v1::ReadCall {
    let topology = node.cluster().get_topology(v1::GetTopologyRequest {}).await.unwrap().into_inner();
    let from = v1::Hello {
        cluster_uuid: topology.cluster_uuid.clone(),
        min_version: 1,
        max_version: 1,
        region: "us".to_owned(),
        node: 1,
        disk_uuid: topology.nodes[0].disk_uuid.clone(),
        boot: 1,
        incarnation: 1,
    };
    v1::ReadCall { from: Some(from), to_node: 1 }
}

fn shards() -> Vec<ShardId> {
    (0..SHARDS).map(|no| ShardId { origin: Origin::first(RegionId(1)), no: ShardNo(no) }).collect()
}

fn refs(shards: &[ShardId]) -> Vec<v1::ShardRef> {
    shards.iter().map(|shard| (*shard).into()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_node_of_the_region_that_means_this_one_is_answered() {
    let node = TestNode::start().await;
    let good = call(&node).await;
    let ask = async |call: Option<v1::ReadCall>| {
        let request = v1::ReadExtentsRequest { call, ..v1::ReadExtentsRequest::default() };
        client(&node).read_extents(request).await.map(drop).map_err(|status| status.code())
    };
    assert_eq!(ask(Some(good.clone())).await, Ok(()));
    let mut bad = vec![None, Some(v1::ReadCall { to_node: 2, ..good.clone() })];
    for change in [
        |hello: &mut v1::Hello| hello.cluster_uuid = "00000000-0000-4000-8000-00000000000c".to_owned(),
        |hello: &mut v1::Hello| hello.disk_uuid = "00000000-0000-4000-8000-0000000000d4".to_owned(),
        |hello: &mut v1::Hello| hello.node = 7,
        |hello: &mut v1::Hello| hello.region = "eu".to_owned(),
    ] {
        let mut call = good.clone();
        change(call.from.as_mut().unwrap());
        bad.push(Some(call));
    }
    for call in bad {
        assert_eq!(ask(call.clone()).await, Err(Code::PermissionDenied), "{call:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_serves_is_read_listed_digested_and_watched_and_the_rest_is_named() {
    let node = TestNode::start().await;
    let stream = node.create("a", 2).await;
    node.create("other", 2).await;
    node.fill("a", 0, &["one", "two", "three"]).await;
    let (mut client, call) = (client(&node), Some(call(&node).await));
    let elsewhere = ShardId { origin: Origin::first(RegionId(9)), no: ShardNo(0) };
    let (shards, unknown) = (refs(&[shards(), vec![elsewhere]].concat()), refs(&[elsewhere]));

    let request = v1::ReadExtentsRequest {
        call: call.clone(),
        stream_id: stream.id,
        shards: shards.clone(),
        time_ms: None,
    };
    let extents = client.read_extents(request).await.unwrap().into_inner();
    assert_eq!(extents.not_here, unknown);
    let lane = extents.lanes[0].lane;
    let found: Vec<_> = extents.lanes.iter().map(|extent| (extent.start, extent.end, extent.at)).collect();
    assert_eq!(found, [(0, 3, Some(3))]);

    // The only replica of each is a majority of its set; what it does not lead is not confirmed.
    let request = v1::ReadLatestRequest { call: call.clone(), stream_id: stream.id, shards: shards.clone() };
    assert_eq!(client.read_latest(request).await.unwrap().into_inner(), extents);

    let mut read = async |lane: Option<v1::Lane>, from, max_bytes| {
        let request = v1::ReadLaneRequest { call: call.clone(), lane, from, max_bytes };
        let mut answers = client.read_lane(request).await.map_err(refusal)?.into_inner();
        let (mut bases, mut end) = (Vec::new(), None);
        while let Some(answer) = answers.message().await.unwrap() {
            assert_eq!(end, None, "the end comes last");
            match answer.end {
                Some(at) => end = Some(at),
                None => bases.push(answer.base_offset),
            }
        }
        Ok::<_, meridian_wire::ApiError>((bases, end))
    };
    assert_eq!(read(lane, 0, 1 << 20).await, Ok((vec![0, 1, 2], Some(3))));
    assert_eq!(read(lane, 1, 1).await, Ok((vec![1], Some(3))), "one at least");
    assert_eq!(read(lane, 9, 1 << 20).await, Ok((vec![], Some(3))));
    let nowhere = lane.map(|lane| v1::Lane { origin: Some(elsewhere.origin.into()), ..lane });
    assert_eq!(read(nowhere, 0, 1).await.unwrap_err().reason, meridian_wire::Reason::NotReady);

    let request = v1::ReadDigestRequest { call: call.clone(), lane, start: 0, end: 3 };
    let digest = client.read_digest(request).await.unwrap().into_inner();
    let request = v1::DigestLaneRequest { stream: Some(named("a")), lane, start: 0, end: 3 };
    assert_eq!(node.cluster().digest_lane(request).await.unwrap().into_inner(), digest);

    // Watched, it says what it serves, and then what has grown, of this stream alone.
    let (requests, queued) = mpsc::channel(4);
    let watch = v1::WatchLanesRequest { call, stream_id: stream.id, watch: shards, leave: vec![] };
    requests.send(watch).await.unwrap();
    let mut news = client.watch_lanes(ReceiverStream::new(queued)).await.unwrap().into_inner();
    let mut next = async || {
        let answer = tokio::time::timeout(WITHIN, news.message()).await.expect("news in time");
        answer.unwrap().expect("it goes on")
    };
    let told = next().await;
    let grown: Vec<v1::Lane> = vec![];
    assert_eq!((told.here.len(), told.not_here, told.grown), (usize::from(SHARDS), unknown, grown));
    node.fill("other", 0, &["not watched"]).await;
    node.fill("a", 1, &["four"]).await;
    let told = next().await;
    let lanes: Vec<u32> = told.grown.iter().map(|lane| lane.partition).collect();
    assert_eq!((lanes, told.here.len()), (vec![1], 0));
    // What was left is no more told of.
    let no = shard_of(StreamId(stream.id), Partition(1), SHARDS);
    let left = ShardId { origin: Origin::first(RegionId(1)), no };
    let other =
        (2..64).map(Partition).find(|partition| shard_of(StreamId(stream.id), *partition, SHARDS) != no);
    let other = other.expect("a partition of another shard").0;
    let settings = Some(v1::StreamSettings { partitions: 64, ..v1::StreamSettings::default() });
    let update = v1::UpdateStreamRequest { stream: Some(named("a")), settings, expected_version: 0 };
    node.streams().update_stream(update).await.unwrap();
    let leave = v1::WatchLanesRequest { leave: refs(&[left]), ..v1::WatchLanesRequest::default() };
    requests.send(leave).await.unwrap();
    // It is heard once the watch of another is answered.
    let again = refs(&shards_without(left)[..1]);
    let watch = v1::WatchLanesRequest { watch: again.clone(), ..v1::WatchLanesRequest::default() };
    requests.send(watch).await.unwrap();
    assert_eq!(next().await.here, again);
    node.fill("a", 1, &["five"]).await;
    node.fill("a", other, &["six"]).await;
    let told = next().await;
    assert_eq!(told.grown.iter().map(|lane| lane.partition).collect::<Vec<_>>(), [other]);
}

fn shards_without(left: ShardId) -> Vec<ShardId> {
    shards().into_iter().filter(|shard| *shard != left).collect()
}
