//! Nodes that come to a running group and go from it: learner, voter, removed, with leaders killed in between.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use meridian_metadata::Role;
use meridian_metadata::catalog::{Change, MAX_FEATURE_LEVEL, NodeRow};
use meridian_metadata::members::{Rule, Wanted};
use meridian_types::{NodeId, RegionId};
use meridian_wire::v1::raft_service_client::RaftServiceClient;
use meridian_wire::v1::{RaftBarrierRequest, RaftHeader};
use meridian_wire::{ApiError, Reason};

/// Has a node keep the group's members what the catalog says, whenever it leads.
fn keep(node: &Node) {
    let handle = node.handle();
    let catalog = handle.clone();
    let wanted = move || -> BTreeMap<NodeId, Wanted> {
        let state = catalog.state();
        let row = |node: &Arc<NodeRow>| {
            (node.id, Wanted { region: node.region, address: node.peer_address.clone() })
        };
        state.nodes().map(row).collect()
    };
    tokio::spawn(handle.keep_members(Rule::Catalog, Arc::new(wanted)));
}

fn register(net: &Net, id: u32, region: u16) -> Change {
    Change::RegisterNode(NodeRow {
        id: NodeId(id),
        region: RegionId(region),
        disk: disk(id),
        peer_address: net.address(id).to_string(),
        client_address: format!("http://127.0.0.1:{}", 8000 + id),
        max_feature_level: MAX_FEATURE_LEVEL,
        added: false,
        replaces: None,
    })
}

async fn change(node: &Node, change: Change) {
    node.handle().propose(at(5, change), LONG).await.unwrap().unwrap();
}

/// All that are up, but for one, know these voters and learners.
async fn members(nodes: &[Node], but: Option<u32>, voters: &[u32], learners: &[u32]) {
    let ids = |ids: &[u32]| ids.iter().map(|&id| NodeId(id)).collect::<Vec<_>>();
    until(&format!("voters {voters:?}, learners {learners:?}"), || {
        nodes.iter().filter(|node| node.is_up() && Some(node.id) != but).all(|node| {
            let status = node.handle().status();
            (status.voters, status.learners) == (ids(voters), ids(learners))
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_come_vote_and_go_while_leaders_die() {
    let (net, mut nodes) = cluster(3, |_| ()).await;
    nodes.iter().for_each(keep);
    make(&nodes[0].handle(), "before").await;

    // The fourth learns: four would let no more of them fail than three.
    nodes.push(Node::new(4, &net, |_| ()).await);
    keep(&nodes[3]);
    assert!(nodes[3].handle().state().cluster().is_none());
    change(&nodes[1], register(&net, 4, 1)).await;
    members(&nodes, None, &[1, 2, 3], &[4]).await;
    until("it knows itself", || nodes[3].handle().state().node(NodeId(4)).is_some()).await;
    assert_eq!(nodes[3].handle().status().role, Role::Learner);
    make(&nodes[3].handle(), "asked-of-a-learner").await;

    // With the fifth both vote, although the leader has just died.
    let dead = leader(&nodes).await;
    nodes[dead].down().await;
    nodes.push(Node::new(5, &net, |_| ()).await);
    keep(&nodes[4]);
    let other = (dead + 1) % 3;
    change(&nodes[other], register(&net, 5, 2)).await;
    members(&nodes, None, &[1, 2, 3, 4, 5], &[]).await;
    make(&nodes[4].handle(), "with-four-of-five").await;
    nodes[dead].up().await;
    keep(&nodes[dead]);
    members(&nodes, None, &[1, 2, 3, 4, 5], &[]).await;

    // One that is gone for good is removed, and then the one that leads.
    nodes[dead].down().await;
    let lost = nodes[dead].id;
    change(&nodes[other], Change::RemoveNode(NodeId(lost))).await;
    let rest: Vec<u32> = (1..=5).filter(|id| *id != lost).collect();
    members(&nodes, None, &rest, &[]).await;
    let leads = leader(&nodes).await;
    let leaves = nodes[leads].id;
    change(&nodes[leads], Change::RemoveNode(NodeId(leaves))).await;
    let rest: Vec<u32> = rest.into_iter().filter(|id| *id != leaves).collect();
    members(&nodes, Some(leaves), &rest, &[]).await;
    nodes[leads].down().await;

    let stays = nodes.iter().position(|node| node.id == rest[0]).unwrap();
    make(&nodes[stays].handle(), "with-three").await;
    let state = agree(&nodes).await;
    assert_eq!(state.nodes().map(|node| node.id.0).collect::<Vec<_>>(), rest);
    assert_eq!(state.streams().count(), 4);

    // What a removed node says counts no more.
    let header = RaftHeader {
        group: "catalog".into(),
        cluster_uuid: CLUSTER.to_string(),
        from_node: leaves,
        from_disk: disk(leaves).to_string(),
        to_node: rest[0],
        to_disk: disk(rest[0]).to_string(),
        generation: 0,
    };
    let mut client = RaftServiceClient::connect(format!("http://{}", net.address(rest[0]))).await.unwrap();
    let ask = RaftBarrierRequest { header: Some(header), timeout_ms: 1000 };
    let status = client.barrier(ask).await.unwrap_err();
    assert_eq!(ApiError::from_status(&status).unwrap().reason, Reason::NodeRemoved);

    // One of three may fail, as before.
    nodes[stays].down().await;
    let last = nodes.iter().position(Node::is_up).unwrap();
    make(&nodes[last].handle(), "with-two-of-three").await;
    for node in &mut nodes {
        node.down().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_the_one_that_stays_goes_on_alone() {
    let (_net, mut nodes) = cluster(2, |_| ()).await;
    nodes.iter().for_each(keep);
    let leads = leader(&nodes).await;
    change(&nodes[leads], Change::RemoveNode(NodeId(nodes[leads].id))).await;
    let (leaves, stays) = (nodes[leads].id, 1 - leads);
    members(&nodes, Some(leaves), &[nodes[stays].id], &[]).await;
    nodes[leads].down().await;
    make(&nodes[stays].handle(), "alone").await;
    tokio::time::timeout(Duration::from_secs(30), nodes[stays].handle().barrier(LONG))
        .await
        .unwrap()
        .unwrap();
    nodes[stays].down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_becomes_three() {
    let (net, mut nodes) = cluster(1, |_| ()).await;
    keep(&nodes[0]);
    for id in [2, 3] {
        assert_eq!(nodes[0].handle().status().voters, [NodeId(1)], "two voters are worse than one");
        nodes.push(Node::new(id, &net, |_| ()).await);
        keep(&nodes[id as usize - 1]);
        change(&nodes[0], register(&net, id, 1)).await;
        until("it has the catalog", || nodes[id as usize - 1].handle().state().node(NodeId(id)).is_some())
            .await;
    }
    members(&nodes, None, &[1, 2, 3], &[]).await;
    nodes[0].down().await;
    make(&nodes[2].handle(), "without-the-first").await;
    for node in &mut nodes {
        node.down().await;
    }
}
