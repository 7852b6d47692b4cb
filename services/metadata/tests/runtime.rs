//! Raft's messages are made, sent and answered on its own runtime: what stands still elsewhere in a node holds up none of it.

mod common;

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use meridian_metadata::{CatalogGroup, NoChannel, PeerChannels, RaftServers};
use meridian_types::NodeId;
use meridian_wire::v1;
use meridian_wire::v1::raft_service_server::RaftService as _;
use tempfile::TempDir;
use tonic::Request;
use tonic::transport::Channel;

/// Knows no way, and notes which threads ask for one.
#[derive(Default)]
struct NoWays(Mutex<Vec<String>>);

impl PeerChannels for NoWays {
    fn channel(&self, node: NodeId) -> Result<Channel, NoChannel> {
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        self.0.lock().unwrap().push(thread);
        Err(NoChannel { node, why: "a test".into() })
    }
}

#[test]
fn a_vote_is_given_though_the_runtime_that_took_the_call_stands_still() {
    let main = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = TempDir::new().unwrap();
    let config = config(1, dir.path().join("catalog"));
    let group =
        main.block_on(CatalogGroup::start(config, Arc::new(NoWays::default()), never_fatal())).unwrap();
    let servers = RaftServers::new(group.server(), None);
    let request = v1::RaftVoteRequest {
        header: Some(header()),
        vote: Some(v1::RaftVote { term: 7, node: 2, committed: false }),
        last_log_id: None,
        leadership_transfer: false,
        pre_vote: false,
    };
    let mut call = pin!(servers.vote(Request::new(request)));
    // Once, and from here on this runtime runs nothing: whatever is done now is done elsewhere.
    let first = main.block_on(async { futures::poll!(call.as_mut()) });
    let start = std::time::Instant::now();
    while group.handle().status().term != 7 {
        assert!(start.elapsed() < LONG, "the vote waits for the runtime of whoever took the call");
        std::thread::sleep(Duration::from_millis(5));
    }
    let answer = match first {
        std::task::Poll::Ready(answer) => answer,
        std::task::Poll::Pending => main.block_on(call),
    };
    assert!(answer.unwrap().into_inner().granted);
    main.block_on(group.close());
}

#[tokio::test]
async fn ways_to_others_are_asked_for_on_the_groups_own_threads() {
    let dir = TempDir::new().unwrap();
    let ways = Arc::new(NoWays::default());
    let config = config(1, dir.path().join("catalog"));
    let group = CatalogGroup::start(config, ways.clone(), never_fatal()).await.unwrap();
    let net = Net::default();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for node in 1..=3 {
        net.place(node, listener.local_addr().unwrap());
    }
    // Asks the two others for their votes, and a barrier asks whoever may lead.
    let founding = at(1, meridian_metadata::catalog::Change::Genesis(genesis(&net, &[1, 2, 3])));
    assert!(group.handle().bootstrap(founding, Duration::from_secs(3)).await.is_err(), "alone");
    assert!(group.handle().barrier(Duration::from_millis(100)).await.is_err(), "alone");
    let asked = ways.0.lock().unwrap().clone();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|thread| thread == "raft-catalog"), "{asked:?}");
    group.close().await;
}
