//! A node that lacks the rest of its region: started alone, it gives readers what it holds and takes nothing.

use std::time::{Duration, Instant};

use meridian_chaos::{Setup, World, until};
use meridian_sdk::v1::cluster_service_client::ClusterServiceClient;
use meridian_sdk::v1::event_service_client::EventServiceClient;
use meridian_sdk::v1::subscribe_request::Request;
use meridian_sdk::v1::subscribe_response::Response;
use meridian_sdk::v1::subscribe_start::From;
use meridian_sdk::{ApiError, Reason, v1};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

const STREAM: &str = "alone";
const EVENTS: u64 = 400;
const WITHIN: Duration = Duration::from_secs(120);

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().expect("a runtime")
}

fn channel(runtime: &Runtime, endpoint: &str) -> Channel {
    let _inside = runtime.enter();
    Endpoint::from_shared(endpoint.to_owned()).expect("an endpoint").connect_lazy()
}

fn stream() -> Option<v1::StreamRef> {
    Some(v1::StreamRef { tenant: "default".to_owned(), stream: STREAM.to_owned() })
}

fn publish(world: &World) {
    let lines: Vec<String> = (0..EVENTS).map(|number| format!(r#"{{"number":{number}}}"#)).collect();
    world.publish("us", STREAM, &lines, &[]);
}

/// How many events a node lists.
fn listed(runtime: &Runtime, channel: &Channel) -> Result<u64, Status> {
    let mut client = ClusterServiceClient::new(channel.clone());
    let answer = runtime.block_on(client.list_lanes(v1::ListLanesRequest { stream: stream() }))?;
    Ok(answer.into_inner().lanes.iter().map(|lane| lane.end).sum())
}

fn subscribe(
    runtime: &Runtime,
    channel: &Channel,
    from: From,
) -> Result<Streaming<v1::SubscribeResponse>, Status> {
    let start = v1::SubscribeStart { stream: stream(), from: Some(from), credit_bytes: 1 << 30 };
    let request = v1::SubscribeRequest { request: Some(Request::Start(start)) };
    let mut client = EventServiceClient::new(channel.clone());
    Ok(runtime.block_on(client.subscribe(tokio_stream::once(request)))?.into_inner())
}

/// The next word within a time; none: it is quiet.
fn next(
    runtime: &Runtime,
    answers: &mut Streaming<v1::SubscribeResponse>,
    within: Duration,
) -> Option<Response> {
    let message = runtime.block_on(async { tokio::time::timeout(within, answers.message()).await }).ok()?;
    let message = message.unwrap_or_else(|status| panic!("the subscription ended: {status:?}"));
    Some(message.expect("it goes on").response.expect("a word"))
}

#[track_caller]
fn not_ready(status: Status) {
    let error = ApiError::from_status(&status).expect("an error of Meridian");
    assert_eq!(error.reason, Reason::NotReady, "{error}");
    assert!(error.message.contains("a majority of its region's nodes must run"), "{error}");
}

#[test]
fn a_node_that_is_started_alone_gives_readers_what_it_holds_and_takes_nothing() {
    let runtime = runtime();
    let mut world = World::start_with(Setup { regions: &["us"], wan: "", settings: None }, 3);
    world.create_stream(STREAM, 4);
    publish(&world);
    for node in world.names() {
        let channel = channel(&runtime, world.endpoint(&node));
        until(&format!("{node} holds all"), WITHIN, || match listed(&runtime, &channel) {
            Ok(EVENTS) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    // In order, so that what is applied is on the disk.
    for node in world.names() {
        world.terminate(&node);
    }
    world.launch("us-1");
    let channel = channel(&runtime, world.endpoint("us-1"));
    let mut answers = until("us-1 serves readers", WITHIN, || {
        subscribe(&runtime, &channel, From::Earliest(v1::Earliest {})).map_err(|status| status.to_string())
    });
    assert!(!world.is_ready("us-1"));
    let mut events = 0;
    while events < EVENTS {
        match next(&runtime, &mut answers, WITHIN).expect("all that it holds, in time") {
            Response::Batch(batch) => events += u64::from(batch.events),
            Response::Started(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(listed(&runtime, &channel).expect("what it holds is listed"), EVENTS);
    let quiet = next(&runtime, &mut answers, Duration::from_secs(2));
    assert_eq!(quiet, None, "it cannot know that this is all");

    let mut client = EventServiceClient::new(channel.clone());
    let event = v1::Event { value: Some("x".into()), ..v1::Event::default() };
    let request =
        v1::PublishRequest { stream: stream(), events: vec![event], ..v1::PublishRequest::default() };
    not_ready(runtime.block_on(client.publish(request)).map(drop).expect_err("it leads nothing"));
    not_ready(
        runtime
            .block_on(client.latest(v1::LatestRequest { stream: stream() }))
            .map(drop)
            .expect_err("nor this"),
    );
    not_ready(
        subscribe(&runtime, &channel, From::Latest(v1::Latest {})).map(drop).expect_err("nor where it ends"),
    );

    // The same subscription goes on as the others come.
    for node in ["us-2", "us-3"] {
        world.launch(node);
    }
    for node in world.names() {
        world.wait_ready(&node);
    }
    publish(&world);
    let begun = Instant::now();
    let mut is_all = false;
    while !(is_all && events == 2 * EVENTS) {
        assert!(begun.elapsed() < WITHIN, "{events} events");
        match next(&runtime, &mut answers, WITHIN).expect("the rest, in time") {
            Response::Batch(batch) => (events, is_all) = (events + u64::from(batch.events), false),
            Response::Mark(mark) => is_all = mark.caught_up,
            other => panic!("{other:?}"),
        }
    }
}
