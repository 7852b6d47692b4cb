//! The catalog over three nodes with real commands: apply, forward, snapshot, install, restart, leaders that die.

mod common;

use std::time::{Duration, Instant};

use common::*;
use meridian_metadata::catalog::{Change, Outcome, RefusalCode};
use meridian_metadata::{BootstrapError, ProposeError, Role};
use meridian_types::{NodeId, StreamName, TenantId};
use meridian_wire::v1::raft_service_client::RaftServiceClient;
use meridian_wire::v1::{RaftBarrierRequest, RaftHeader, RaftProposeRequest};
use meridian_wire::{ApiError, Reason};

fn has(node: &Node, name: &str) -> bool {
    node.handle().state().stream_named(TenantId::DEFAULT, &StreamName::new(name).unwrap()).is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_takes_commands_and_shows_them_at_once() {
    let (net, mut nodes) = nodes(3, |_| ()).await;
    assert!(!nodes[0].handle().is_initialized());
    assert_eq!(nodes[1].handle().state().cluster(), None);
    found(&net, &nodes).await;
    for (i, node) in nodes.iter().enumerate() {
        let name = format!("s{i}");
        let stream = make(&node.handle(), &name).await;
        assert_eq!(stream.id.0, i as u64 + 1);
        assert!(has(node, &name), "who was answered sees it");
    }
    for node in &nodes {
        node.handle().barrier(LONG).await.unwrap();
        assert!(
            (0..3).all(|i| has(node, &format!("s{i}"))),
            "what was answered before a barrier is seen after it"
        );
        assert!(node.handle().is_initialized());
        until("it knows who votes and who leads", || {
            let status = node.handle().status();
            status.voters == [NodeId(1), NodeId(2), NodeId(3)] && status.leader.is_some()
        })
        .await;
    }
    let refused = nodes[2].handle().propose(at(9, Change::Genesis(genesis(&net, &[1, 2, 3]))), LONG).await;
    assert_eq!(refused.unwrap().unwrap_err().code, RefusalCode::AlreadyFounded);
    // Founding again, after a crash of the founder for all it knows, changes nothing.
    found(&net, &nodes).await;

    let command = create("once");
    let first = nodes[0].handle().propose(command.clone(), LONG).await.unwrap();
    let again = nodes[1].handle().propose(command, LONG).await.unwrap();
    assert_eq!(first, again);
    assert!(matches!(first, Ok(Outcome::StreamCreated { created: true, .. })));

    let mut changed = nodes[1].handle().changed();
    changed.mark_unchanged();
    make(&nodes[0].handle(), "word-of-it").await;
    tokio::time::timeout(LONG, changed.changed()).await.unwrap().unwrap();
    agree(&nodes).await;
    for node in &mut nodes {
        node.down().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_die_and_nothing_is_lost() {
    let (_net, mut nodes) = cluster(3, |_| ()).await;
    let mut made = 0;
    for round in 0..3 {
        let leader = leader(&nodes).await;
        let other = (leader + 1) % 3;
        for _ in 0..5 {
            make(&nodes[other].handle(), &format!("s{made}")).await;
            made += 1;
        }
        let before = nodes[leader].handle().state();
        nodes[leader].down().await;
        for _ in 0..5 {
            make(&nodes[other].handle(), &format!("s{made}")).await;
            made += 1;
        }
        nodes[leader].up().await;
        let after = nodes[leader].handle().state();
        assert!(
            after.revision() >= before.revision(),
            "round {round}: what it showed it shows at once again"
        );
        assert!(before.streams().all(|stream| after.stream(stream.id) == Some(stream)), "round {round}");
    }
    let state = agree(&nodes).await;
    assert_eq!(state.streams().count(), made);
    for node in &mut nodes {
        node.down().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_for_longer_than_the_log_gets_a_snapshot() {
    let (_net, mut nodes) = cluster(3, |config| {
        config.snapshot_after = 20;
        config.keep_entries = 5;
    })
    .await;
    make(&nodes[0].handle(), "before").await;
    until("it knows what came before", || has(&nodes[2], "before")).await;
    nodes[2].down().await;
    let snapshots = nodes[2].config.dir.join("snapshots");
    assert_eq!(std::fs::read_dir(&snapshots).unwrap().count(), 0);
    for i in 0..90 {
        make(&nodes[0].handle(), &format!("s{i}")).await;
    }
    until("the others have let go of what it lacks", || {
        nodes[..2].iter().all(|node| node.handle().status().snapshot_index > Some(60))
    })
    .await;
    nodes[2].up().await;
    assert!(has(&nodes[2], "before"), "it knows by itself what it knew");
    let state = agree(&nodes).await;
    assert_eq!(state.streams().count(), 91);
    until("it has the others' snapshot, and keeps only one", || {
        nodes[2].handle().status().snapshot_index > Some(60)
            && std::fs::read_dir(&snapshots).unwrap().count() == 1
    })
    .await;

    // And from its own snapshot and log alone.
    let before = nodes[2].handle().state();
    for node in &mut nodes {
        node.down().await;
    }
    nodes[2].up().await;
    assert_eq!(nodes[2].handle().state().to_bytes(), before.to_bytes());
    nodes[2].down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_the_state_is_served_and_commands_fail_in_time() {
    let (_net, mut nodes) = cluster(3, |_| ()).await;
    make(&nodes[0].handle(), "known").await;
    agree(&nodes).await;
    for node in &nodes[..2] {
        node.handle().stop().await;
        assert_eq!(node.handle().status().role, Role::Stopped);
    }
    let third = nodes[2].handle();
    for change in ["now", "after a restart"] {
        assert!(has(&nodes[2], "known"), "{change}");
        let third = nodes[2].handle();
        let within = Duration::from_secs(2);
        let start = Instant::now();
        let error = third.propose(create("lost"), within).await.unwrap_err();
        assert!(start.elapsed() < within * 10, "took {:?}", start.elapsed());
        assert!(matches!(error, ProposeError::NoLeader { .. } | ProposeError::Unknown { .. }), "{error}");
        assert_eq!(ApiError::from(error).reason, Reason::CatalogUnavailable);
        assert!(third.barrier(Duration::from_millis(500)).await.is_err());
        assert!(has(&nodes[2], "known"), "{change}");
        nodes[2].down().await;
        assert!(third.state().cluster().is_some(), "a handle outlives its group");
        assert!(matches!(third.propose(create("x"), within).await, Err(ProposeError::Stopped { .. })));
        nodes[2].up().await;
    }
    assert!(third.state().cluster().is_some());
    let stopped = nodes[0].handle().propose(create("x"), LONG).await;
    assert!(matches!(stopped, Err(ProposeError::Stopped { .. })));
    assert!(has(&nodes[0], "known"), "a stopped node serves what it knows");
    for node in &nodes[..2] {
        node.handle().start().await.unwrap();
    }
    make(&nodes[2].handle(), "again").await;
    agree(&nodes).await;
    for node in &mut nodes {
        node.down().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_does_nothing_more() {
    let (net, mut nodes) = cluster(3, |_| ()).await;
    let old = leader(&nodes).await;
    let others: Vec<usize> = (0..3).filter(|i| *i != old).collect();
    for other in &others {
        net.cut(nodes[old].id, nodes[*other].id);
    }
    let lost = create("cut-off");
    let error = nodes[old].handle().propose(lost.clone(), Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(error, ProposeError::Unknown { .. } | ProposeError::NoLeader { .. }), "{error}");
    assert!(
        nodes[old].handle().barrier(Duration::from_secs(1)).await.is_err(),
        "no linearizable read from it"
    );
    make(&nodes[others[0]].handle(), "with-the-rest").await;
    assert!(!has(&nodes[old], "with-the-rest"));
    net.heal();
    // The same wish again, anywhere: done once, whether the first try's entry survived or not.
    nodes[others[1]].handle().propose(lost.clone(), LONG).await.unwrap().unwrap();
    nodes[old].handle().propose(lost, LONG).await.unwrap().unwrap();
    let state = agree(&nodes).await;
    assert_eq!(state.streams().count(), 2);
    for node in &mut nodes {
        node.down().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founding_that_was_cut_short_goes_on() {
    let (net, mut nodes) = nodes(3, |_| ()).await;
    nodes[1].down().await;
    nodes[2].down().await;
    let command = at(1, Change::Genesis(genesis(&net, &[1, 2, 3])));
    let error = nodes[0].handle().bootstrap(command.clone(), Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(error, BootstrapError::Propose(_)), "{error}");
    nodes[0].down().await;
    for node in &mut nodes {
        node.up().await;
    }
    let first = nodes[0].handle();
    assert!(first.is_initialized());
    assert_eq!((first.state().cluster(), first.cluster()), (None, Some(CLUSTER)));
    first.bootstrap(command.clone(), LONG).await.unwrap();
    first.bootstrap(command, LONG).await.unwrap();
    let state = agree(&nodes).await;
    assert_eq!((state.cluster(), state.revision()), (Some(CLUSTER), 1));

    let mut other = genesis(&net, &[1, 2, 3]);
    other.cluster = meridian_types::ClusterUuid(uuid::Uuid::from_u128(0xBAD));
    let error = first.bootstrap(at(1, Change::Genesis(other)), LONG).await.unwrap_err();
    assert!(matches!(error, BootstrapError::Store(_)), "{error}");
    for node in &mut nodes {
        node.down().await;
    }
}

/// The lowest founder may be gone for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_found_the_same_found_it_once() {
    let (net, mut nodes) = nodes(3, |_| ()).await;
    nodes[0].down().await;
    let command = at(1, Change::Genesis(genesis(&net, &[1, 2, 3])));
    let other = at(2, Change::Genesis(genesis(&net, &[1, 2, 3])));
    let (second, third) = (nodes[1].handle(), nodes[2].handle());
    let (one, two) = tokio::join!(second.bootstrap(command.clone(), LONG), third.bootstrap(other, LONG));
    one.unwrap();
    two.unwrap();
    nodes[0].up().await;
    nodes[0].handle().bootstrap(command, LONG).await.unwrap();
    let state = agree(&nodes).await;
    assert_eq!((state.cluster(), state.revision()), (Some(CLUSTER), 1));
    let terms =
        nodes.iter().map(|node| node.handle().status().leader).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(terms.len(), 1, "{terms:?}");
    for node in &mut nodes {
        node.down().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_nodes_with_another_disk_are_refused() {
    let (net, mut nodes) = cluster(3, |_| ()).await;
    make(&nodes[0].handle(), "known").await;
    agree(&nodes).await;
    let good = header();
    let mut client = RaftServiceClient::connect(format!("http://{}", net.address(1))).await.unwrap();
    let ask = |header: Option<RaftHeader>| RaftBarrierRequest { header, timeout_ms: 30_000 };
    client.barrier(ask(Some(good.clone()))).await.expect("the good header is good");
    let uuid = uuid::Uuid::from_u128(0xBAD).to_string();
    for bad in [
        RaftHeader { cluster_uuid: uuid.clone(), ..good.clone() },
        RaftHeader { cluster_uuid: String::new(), ..good.clone() },
        RaftHeader { from_disk: uuid.clone(), ..good.clone() },
        RaftHeader { from_disk: "nonsense".into(), ..good.clone() },
        RaftHeader { to_disk: uuid, ..good.clone() },
        RaftHeader { to_node: 3, ..good.clone() },
        RaftHeader { generation: 2, ..good.clone() },
        RaftHeader { group: "placement".into(), ..good.clone() },
    ] {
        let status = client.barrier(ask(Some(bad.clone()))).await.expect_err(&format!("{bad:?}"));
        assert_eq!(ApiError::from_status(&status).unwrap().reason, Reason::PeerRefused, "{bad:?}");
    }
    assert!(client.barrier(ask(None)).await.is_err());
    let nonsense =
        RaftProposeRequest { header: Some(good), command: vec![0xff; 9].into(), timeout_ms: 30_000 };
    assert!(client.propose(nonsense).await.is_err(), "what no machine reads does not enter the log");

    // A wiped disk under a known id: a new uuid, an empty folder. It is told nothing and counts for nothing.
    nodes[2].down().await;
    let wiped = Node::new(3, &net, |config| config.disk = disk(9)).await;
    nodes[2] = wiped;
    make(&nodes[0].handle(), "with-two-of-three").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(nodes[2].handle().state().cluster(), None);
    assert!(!nodes[2].handle().is_initialized());
    for node in &mut nodes {
        node.down().await;
    }
}
