//! A region with more nodes than replicas: whichever node a reader asks, it gets every lane of the region, each event once and in
//! order, while replicas move and nodes die; and where nobody has a lane any more, it is said, and never passed over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use meridian_batch::{Limits, decode};
use meridian_chaos::{Acked, Load, Setup, ShardRow, World, numbers, say, until};
use meridian_sdk::types::Cursor;
use meridian_sdk::v1::cluster_service_client::ClusterServiceClient;
use meridian_sdk::v1::event_service_client::EventServiceClient;
use meridian_sdk::v1::subscribe_request::Request;
use meridian_sdk::v1::subscribe_response::Response;
use meridian_sdk::v1::subscribe_start::From;
use meridian_sdk::{ApiError, Reason, v1};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

const STREAM: &str = "any-node";
/// More than there are shards: some of any node's lanes are at home elsewhere.
const PARTITIONS: u32 = 24;
const RATE: u32 = 400;
const WITHIN: Duration = Duration::from_secs(120);
/// A reader has less than this ahead, so that all have to be asked again and again.
const CREDIT: u64 = 64 * 1024;

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().expect("a runtime")
}

fn one_region() -> Setup<'static> {
    Setup { regions: &["us"], wan: "", settings: None }
}

fn stream() -> Option<v1::StreamRef> {
    Some(v1::StreamRef { tenant: "default".to_owned(), stream: STREAM.to_owned() })
}

fn channel(runtime: &Runtime, endpoint: &str) -> Channel {
    let _inside = runtime.enter();
    Endpoint::from_shared(endpoint.to_owned()).expect("an endpoint").connect_lazy()
}

/// Values by partition.
type Lanes = BTreeMap<u32, Vec<String>>;

/// What a reader has been given so far.
#[derive(Clone, Debug, Default)]
struct Given {
    events: u64,
    /// Up to where it was told that this is all.
    caught_up: Option<u64>,
}

/// One subscription at one node, from the start, which nothing but this test ends.
struct Reading {
    given: watch::Receiver<Given>,
    task: JoinHandle<Lanes>,
    total: watch::Sender<Option<u64>>,
}

impl Reading {
    fn start(runtime: &Runtime, world: &World, node: &str) -> Self {
        let channel = channel(runtime, world.endpoint(node));
        let (total, until) = watch::channel(None);
        let (show, given) = watch::channel(Given::default());
        let task = runtime.spawn(read(node.to_owned(), channel, until, show));
        Self { given, task, total }
    }

    fn given(&self) -> Given {
        self.given.borrow().clone()
    }

    /// What it got, once that is so many events and it was told that this is all.
    fn finish(self, runtime: &Runtime, events: u64) -> Lanes {
        self.total.send_replace(Some(events));
        let within = runtime.block_on(async { tokio::time::timeout(WITHIN, self.task).await });
        let given = self.given.borrow().clone();
        within.unwrap_or_else(|_| panic!("{given:?} of {events} in time")).expect("the reader goes on")
    }
}

async fn read(
    node: String,
    channel: Channel,
    mut until: watch::Receiver<Option<u64>>,
    show: watch::Sender<Given>,
) -> Lanes {
    let (requests, queued) = mpsc::channel(16);
    let start = v1::SubscribeStart {
        stream: stream(),
        from: Some(From::Earliest(v1::Earliest {})),
        credit_bytes: CREDIT,
    };
    let send = |request| v1::SubscribeRequest { request: Some(request) };
    requests.send(send(Request::Start(start))).await.expect("there is room");
    let answer = EventServiceClient::new(channel).subscribe(ReceiverStream::new(queued)).await;
    let mut answers = answer.unwrap_or_else(|status| panic!("{node}: {status}")).into_inner();
    let (mut lanes, mut given) = (Lanes::new(), Given::default());
    loop {
        let total = *until.borrow();
        if total.is_some_and(|total| given.events >= total && given.caught_up == Some(given.events)) {
            return lanes;
        }
        let message = tokio::select! {
            message = answers.message() => message,
            _ = until.changed(), if total.is_none() => continue,
        };
        let message = message.unwrap_or_else(|status| panic!("{node} ended a subscription: {status:?}"));
        match message.and_then(|message| message.response).unwrap_or_else(|| panic!("{node} ended one well"))
        {
            Response::Started(_) => {}
            Response::Batch(batch) => {
                let partition = batch.lane.expect("a lane").partition;
                let lane = lanes.entry(partition).or_default();
                assert_eq!(batch.first_wanted, lane.len() as u64, "{node}, partition {partition}");
                let bytes = batch.batch.len() as u64;
                for record in decode(batch.batch, &Limits::DEFAULT).expect("a batch") {
                    if record.offset.0 >= batch.first_wanted {
                        assert_eq!(record.offset.0, lane.len() as u64, "{node}, partition {partition}");
                        let value = record.event.value.expect("every event has a value");
                        lane.push(String::from_utf8(value.to_vec()).expect("text"));
                        given.events += 1;
                    }
                }
                let credit = send(Request::Credit(v1::Credit { bytes }));
                requests.send(credit).await.expect("the subscription goes on");
            }
            Response::Mark(mark) => {
                let cursor = Cursor::from_bytes(&mark.cursor).expect("a cursor");
                let marked: u64 = cursor.lanes().map(|(_, next)| next.0).sum();
                assert_eq!(marked, given.events, "{node}: a mark is behind what it marks");
                given.caught_up = mark.caught_up.then_some(given.events);
            }
            Response::Gap(gap) => panic!("{node} says that there is a gap: {gap:?}"),
        }
        show.send_replace(given.clone());
    }
}

/// What was acknowledged, by partition.
fn lanes_of(acked: &[Acked]) -> Lanes {
    let mut lanes = Lanes::new();
    for event in acked {
        let lane = lanes.entry(event.partition).or_default();
        assert_eq!(event.offset, lane.len() as u64, "{}", event.value);
        lane.push(event.value.clone());
    }
    lanes
}

fn list(runtime: &Runtime, channel: &Channel) -> Result<v1::ListLanesResponse, Status> {
    let mut client = ClusterServiceClient::new(channel.clone());
    let request = v1::ListLanesRequest { stream: stream() };
    runtime.block_on(async { Ok(client.list_lanes(request).await?.into_inner()) })
}

/// All nodes list the same lanes, with all that was acknowledged, and the same bytes in each.
fn all_list_and_digest_the_same(runtime: &Runtime, world: &World, lanes: &Lanes) {
    let mut first: Option<(v1::ListLanesResponse, Vec<v1::DigestLaneResponse>)> = None;
    for node in world.names() {
        let channel = channel(runtime, world.endpoint(&node));
        let listed = until(&format!("{node} lists everything"), WITHIN, || {
            // A follower applies a moment after its leader has acknowledged.
            let listed = list(runtime, &channel).map_err(|status| format!("{status:?}"))?;
            let ends: BTreeMap<u32, u64> =
                listed.lanes.iter().map(|held| (held.lane.expect("a lane").partition, held.end)).collect();
            let all = lanes.iter().all(|(partition, lane)| ends.get(partition) == Some(&(lane.len() as u64)));
            if all && ends.len() == lanes.len() { Ok(listed) } else { Err(format!("{ends:?}")) }
        });
        let mut client = ClusterServiceClient::new(channel);
        let digests: Vec<v1::DigestLaneResponse> = listed
            .lanes
            .iter()
            .map(|held| {
                let (lane, start, end) = (held.lane, held.start, held.end);
                let request = v1::DigestLaneRequest { stream: stream(), lane, start, end };
                let digest = runtime.block_on(client.digest_lane(request));
                digest.unwrap_or_else(|status| panic!("{node}: {status:?}")).into_inner()
            })
            .collect();
        for (held, digest) in listed.lanes.iter().zip(&digests) {
            assert_eq!((digest.events, digest.damaged_at), (held.end - held.start, None), "{node}: {held:?}");
        }
        match &first {
            None => first = Some((listed, digests)),
            Some(first) => {
                assert!(*first == (listed, digests), "{node} lists other lanes or bytes: {first:?}")
            }
        }
    }
}

/// Whichever node is asked where the stream ends, and at once: it is behind all that was acknowledged, though followers apply it
/// later, and a node without replicas never.
fn every_node_knows_the_latest(runtime: &Runtime, world: &World, lanes: &Lanes) {
    for node in world.names() {
        let mut client = EventServiceClient::new(channel(runtime, world.endpoint(&node)));
        let latest = runtime.block_on(client.latest(v1::LatestRequest { stream: stream() }));
        let latest = latest.unwrap_or_else(|status| panic!("{node}: {status:?}")).into_inner();
        let cursor = Cursor::from_bytes(&latest.cursor).expect("a cursor");
        let ends: BTreeMap<u32, u64> =
            cursor.lanes().map(|(lane, next)| (lane.partition.0, next.0)).collect();
        let acked: BTreeMap<u32, u64> =
            lanes.iter().map(|(partition, lane)| (*partition, lane.len() as u64)).collect();
        assert_eq!(ends, acked, "{node}");
    }
}

/// Waits until a reader has been given an event that was acknowledged after this call.
fn goes_on(runtime: &Runtime, what: &str, load: &mut Load, reading: &Reading) -> Duration {
    let begun = Instant::now();
    let before = reading.given().events;
    let _ = load.next_answer(runtime);
    until(what, WITHIN, || {
        let events = reading.given().events;
        if events > before { Ok(()) } else { Err(format!("{events} events")) }
    });
    begun.elapsed()
}

fn replicas(world: &World, node: &str) -> Vec<ShardRow> {
    let id = world.id_of(node);
    world.shards("us").into_iter().filter(|row| row.uses(id)).collect()
}

#[test]
fn every_node_gives_every_lane_while_replicas_move_and_holders_die() {
    let runtime = runtime();
    let mut world = World::start_with(one_region(), 5);
    let rows = world.settled_shards("us");
    assert!(rows.iter().all(|row| row.members.len() == 3), "nobody has all: {rows:?}");
    world.create_stream(STREAM, PARTITIONS);
    let mut load = Load::start(&runtime, &world, "us", STREAM, RATE, numbers());
    let _ = load.next_answer(&runtime);

    // The fifth node comes to hold nothing at all while a subscription there goes on.
    let empty = Reading::start(&runtime, &world, "us-5");
    let _ = goes_on(&runtime, "the subscription at us-5 begins", &mut load, &empty);
    let drain = world.id_of("us-5").to_string();
    let _ = world.cli(&["node", "drain", &drain]).ok();
    until("us-5 is empty", WITHIN, || {
        let used = replicas(&world, "us-5");
        if used.is_empty() { Ok(()) } else { Err(format!("{used:?}")) }
    });
    let _ = goes_on(&runtime, "the subscription goes on as us-5 holds nothing", &mut load, &empty);
    // And another is opened there once it does not; those at the others are not disturbed by any of this.
    let others: Vec<(String, Reading)> = ["us-1", "us-3", "us-4", "us-5"]
        .map(|node| (node.to_owned(), Reading::start(&runtime, &world, node)))
        .into();

    // A holder dies, which led some of what is read at the others.
    world.kill9("us-2");
    let killed = goes_on(&runtime, "the subscription goes on without us-2", &mut load, &empty);
    world.start_again("us-2");
    let rows = world.settled_shards("us");
    let _ = goes_on(&runtime, "the subscription goes on with us-2", &mut load, &empty);

    // A replica moves, of a shard whose leader is the one that leaves.
    let id = |node: &str| world.id_of(node);
    let row = rows.iter().find(|row| row.leader.is_some_and(|leader| leader != id("us-5")));
    let row = row.expect("a shard has a leader").clone();
    let from = row.leader.expect("it has one");
    let to = ["us-1", "us-2", "us-3", "us-4"].map(id).into_iter().find(|node| !row.members.contains(node));
    let to = to.expect("three of four hold it");
    let (shard, from_text, to_text) = (row.name(), from.to_string(), to.to_string());
    let _ = world.cli(&["shard", "move", "--shard", &shard, "--from", &from_text, "--to", &to_text]).ok();
    until("the replica is moved", WITHIN, || {
        let row = world.shards("us").into_iter().find(|row| row.name() == shard).expect("it is there");
        let done = row.members.contains(&to) && !row.uses(from) && !row.changing;
        if done { Ok(()) } else { Err(format!("{row:?}")) }
    });
    let moved = goes_on(&runtime, "the subscription goes on as a leader has moved", &mut load, &empty);

    let acked = load.finish(&runtime);
    let (lanes, events) = (lanes_of(&acked), acked.len() as u64);
    every_node_knows_the_latest(&runtime, &world, &lanes);
    assert!(lanes.len() > 16, "not all of 64 keys are in few partitions: {}", lanes.len());
    assert!(empty.finish(&runtime, events) == lanes, "the long reader at us-5 got others");
    for (node, reading) in others {
        assert!(reading.finish(&runtime, events) == lanes, "the reader at {node} got others");
    }
    // Alone, from the start, with nothing going on.
    for node in world.names() {
        let reading = Reading::start(&runtime, &world, &node);
        assert!(reading.finish(&runtime, events) == lanes, "{node} gives others");
    }
    all_list_and_digest_the_same(&runtime, &world, &lanes);
    say(&format!(
        "any_node: {events} events at each of 5 nodes; a reader at one without replicas had its next event {killed:.2?} after \
         a kill, {moved:.2?} after a move"
    ));
}

#[test]
fn a_lane_that_nobody_has_is_waited_for_and_never_passed_over() {
    let runtime = runtime();
    let mut world = World::start_with(one_region(), 4);
    let _ = world.settled_shards("us");
    let _ = world.cli(&["region", "set-replication", "1", "--region", "us"]).ok();
    until("each shard has one replica", WITHIN, || {
        let rows = world.shards("us");
        let odd = rows.iter().find(|row| row.members.len() != 1 || row.changing);
        odd.map_or(Ok(()), |row| Err(format!("{row:?}")))
    });
    world.create_stream(STREAM, PARTITIONS);
    let load = Load::start(&runtime, &world, "us", STREAM, 4 * RATE, numbers().take(3000));
    let acked = load.finish_all(&runtime);
    let (lanes, events) = (lanes_of(&acked), acked.len() as u64);
    for node in world.names() {
        let reading = Reading::start(&runtime, &world, &node);
        assert!(reading.finish(&runtime, events) == lanes, "{node} gives others");
    }
    all_list_and_digest_the_same(&runtime, &world, &lanes);

    // The only replica of some lanes is gone, for now.
    let rows = world.settled_shards("us");
    let asked = "us-1";
    let holder =
        rows.iter().map(|row| row.members[0]).find(|id| *id != world.id_of(asked)).expect("four hold them");
    let gone = world.name_of(holder);
    world.kill9(&gone);
    let reading = Reading::start(&runtime, &world, asked);
    let channel = channel(&runtime, world.endpoint(asked));
    let refused = list(&runtime, &channel).expect_err("a part of the lanes is no answer");
    let error = ApiError::from_status(&refused).expect("an error of Meridian");
    assert_eq!(error.reason, Reason::ShardUnreachable, "{error}");
    assert!(error.message.contains(&format!("held by node {holder}")), "{error}");
    assert!(error.retry_after.is_some(), "{error}");
    let rest = until("the reader has what is there", WITHIN, || {
        let given = reading.given();
        assert_eq!(given.caught_up, None, "it was told that this is all: {given:?}");
        if given.events > 0 { Ok(given.events) } else { Err(format!("{given:?}")) }
    });
    // Longer than it takes to be told that all was sent.
    let quiet = Instant::now();
    until("some time passes", WITHIN, || {
        let given = reading.given();
        assert!(given.caught_up.is_none() && given.events < events, "{given:?} of {events}");
        if quiet.elapsed() > Duration::from_secs(3) { Ok(()) } else { Err("not yet".to_owned()) }
    });
    world.start_again(&gone);
    let begun = Instant::now();
    assert!(reading.finish(&runtime, events) == lanes, "it got others");
    say(&format!(
        "any_node: {events} events of single replicas; {rest} while one was gone, all {:.2?} after it was ready again",
        begun.elapsed()
    ));
}
