//! A restore that begins by itself: nodes came in the place of a majority of those that decide in the region, or on one of its shards.
//!
//! That their disks are lost was said by an operator, one by one, as the new nodes were added; here only the rest is done that
//! `meridian region restore` would. More careful than an operator may be: it waits until everyone answers who may
//! still hold something, or know of another set of voters, so that nothing is given up that is only out of reach.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use meridian_metadata::catalog::{Catalog, Change, Command, NodeRow, Past, RestoreRegion};
use meridian_metadata::{CatalogHandle, PlacementHandle, Role};
use meridian_types::{Clock, NodeId, RegionName, Seq, ShardId};
use meridian_wire::v1;
use meridian_wire::v1::cluster_service_client::ClusterServiceClient;
use tonic::transport::Endpoint;

use crate::region::Region;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// While the region's placement has a leader it has a majority, whatever was said of disks: it empties the replaced nodes
/// itself. Some elections' time without one.
const LEADERLESS: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
const PROPOSE_WITHIN: Duration = Duration::from_secs(10);

/// Restores the region once that is due, for ever.
pub async fn keep_restored(
    region: RegionName,
    neighbours: Region,
    placement: PlacementHandle,
    catalog: CatalogHandle,
    clock: Arc<dyn Clock>,
) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut led = Instant::now();
    let mut silent: BTreeMap<NodeId, Instant> = BTreeMap::new();
    let mut said = String::new();
    loop {
        looks.tick().await;
        let standing = placement.standing_of(placement.status().node, ANSWER_WITHIN).await;
        if standing.is_none_or(|standing| standing.leader.is_some()) {
            led = Instant::now();
        }
        let replaced = catalog.state().replaced(&region);
        silent.retain(|node, _| replaced.contains(node));
        for node in &replaced {
            if neighbours.is_live(*node) {
                silent.remove(node);
            } else {
                silent.entry(*node).or_insert_with(Instant::now);
            }
        }
        let done = if replaced.is_empty() {
            continue;
        } else if led.elapsed() >= LEADERLESS {
            attempt(&region, &placement, &catalog, &*clock).await
        } else {
            let gone = silent.iter().filter(|(_, since)| since.elapsed() >= LEADERLESS);
            let gone = gone.map(|(node, _)| *node).collect();
            attempt_for_shards(&region, &gone, &placement, &catalog, &*clock).await
        };
        if let Err(why) = done
            && why != said
        {
            tracing::warn!(%region, why, "disks of this region were replaced and nobody leads it, or some of its shards; it is not yet restored; trying on");
            said = why;
        }
    }
}

async fn attempt(
    region: &RegionName,
    placement: &PlacementHandle,
    catalog: &CatalogHandle,
    clock: &dyn Clock,
) -> Result<(), String> {
    let state = catalog.state();
    let remaining = state.remaining(region);
    let asked = remaining.iter().map(|node| placement.standing_of(*node, ANSWER_WITHIN));
    let mut standings = Vec::new();
    let mut strangers = BTreeSet::new();
    for (node, standing) in remaining.iter().zip(join_all(asked).await) {
        // Whoever does not say how placement stands may be one of a majority that lives.
        let standing =
            standing.ok_or_else(|| format!("node {node} does not say how placement stands; start it"))?;
        if standing.configs.is_empty() {
            strangers.insert(*node);
        }
        standings.push(standing);
    }
    let restore = state.due_restore(region, &standings);
    let restore = restore.ok_or("a majority of those that decide is left; start them")?;
    tracing::warn!("a majority of the region's disks was replaced");
    carry_out(restore, &strangers, catalog, clock).await
}

/// Placement has a majority, and some of its sets of replicas have not. Only who leads it looks, and knows that it does: what it knows of
/// the sets is true.
async fn attempt_for_shards(
    region: &RegionName,
    gone: &BTreeSet<NodeId>,
    placement: &PlacementHandle,
    catalog: &CatalogHandle,
    clock: &dyn Clock,
) -> Result<(), String> {
    if gone.is_empty()
        || placement.status().role != Role::Leader
        || placement.barrier(ANSWER_WITHIN).await.is_err()
    {
        return Ok(());
    }
    let state = catalog.state();
    let Some(restore) = state.due_restore_of_shards(region, &placement.state(), gone) else { return Ok(()) };
    for node in &restore.lost {
        if answers(&state, *node, ANSWER_WITHIN).await {
            return Err(format!("node {node} was replaced, is not heard in its region, and answers; end it"));
        }
    }
    tracing::warn!(set = ?restore.voters, "a majority of a shard's disks was replaced");
    carry_out(restore, &BTreeSet::new(), catalog, clock).await
}

/// Asks everyone what is left, and has the region restored.
async fn carry_out(
    restore: RestoreRegion,
    strangers: &BTreeSet<NodeId>,
    catalog: &CatalogHandle,
    clock: &dyn Clock,
) -> Result<(), String> {
    let state = catalog.state();
    let asked = state.may_hold(&restore, strangers);
    let answers = join_all(asked.iter().map(|node| held_by(node, ANSWER_WITHIN))).await;
    let mut silent = Vec::new();
    let mut said = Vec::new();
    for (node, answer) in asked.iter().zip(answers) {
        match answer {
            Some(shards) => said.push(shards),
            None => silent.push(node.id.to_string()),
        }
    }
    if !silent.is_empty() {
        return Err(format!(
            "nodes {} do not answer and may hold what nobody else has; start them, or give up what they have by \
             `meridian region restore`",
            silent.join(", ")
        ));
    }
    let restore = RestoreRegion { past: past(&state, &restore, &said), ..restore };
    tracing::warn!(?restore, "the region is restored");
    let command = Command::new(clock.now(), Change::RestoreRegion(restore));
    match catalog.propose(command, PROPOSE_WITHIN).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(refusal)) => Err(refusal.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// How far anyone holds each shard that is of the past, or is about to be, and who of the region does.
fn past(catalog: &Catalog, restore: &RestoreRegion, said: &[v1::ListShardsResponse]) -> Vec<Past> {
    let applied = |shard: &v1::Shard| {
        let shard_ref = v1::ShardRef { origin: shard.origin, number: shard.number };
        let id = ShardId::try_from(&shard_ref).ok()?;
        Some(((id.origin, shard.number), Seq(shard.applied)))
    };
    let stays = |node| catalog.node(node).is_some_and(|row| row.region == restore.region);
    let said: Vec<_> = said
        .iter()
        .map(|said| {
            let node = NodeId(said.node);
            (node, stays(node), said.shards.iter().filter_map(applied).collect())
        })
        .collect();
    let origins = catalog.past_after(restore.region).into_iter();
    origins.map(|(origin, shards)| Past::of(origin, shards, &said)).collect()
}

/// What a node says it holds; none: it does not answer. Its address may lead to another node, whose answer counts for nothing.
async fn held_by(node: &NodeRow, within: Duration) -> Option<v1::ListShardsResponse> {
    let answer = async {
        let channel = Endpoint::from_shared(node.client_address.clone()).ok()?.connect().await.ok()?;
        let answer = ClusterServiceClient::new(channel)
            .list_shards(v1::ListShardsRequest { durable: true })
            .await
            .ok()?;
        Some(answer.into_inner()).filter(|answer| answer.node == node.id.0)
    };
    tokio::time::timeout(within, answer).await.ok().flatten()
}

/// Whether a node answers its clients: its disk is not lost.
pub async fn answers(catalog: &Catalog, node: NodeId, within: Duration) -> bool {
    match catalog.node(node) {
        Some(row) => held_by(row, within.min(ANSWER_WITHIN)).await.is_some(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use meridian_metadata::catalog::{Genesis, MAX_FEATURE_LEVEL, RegionRow};
    use meridian_types::{ClusterUuid, DiskUuid, Incarnation, RegionId, Timestamp};

    use super::*;

    #[test]
    fn of_each_past_shard_the_longest_counts_and_whoever_holds_some_is_named() {
        let mut catalog = Catalog::default();
        let first = NodeRow {
            id: NodeId(1),
            region: RegionId(1),
            disk: DiskUuid(
                meridian_wire::parse_uuid("disk", "00000000-0000-4000-8000-000000000001").unwrap(),
            ),
            peer_address: "http://127.0.0.1:1".into(),
            client_address: "http://127.0.0.1:2".into(),
            max_feature_level: MAX_FEATURE_LEVEL,
            added: false,
            replaces: None,
        };
        let genesis = Genesis {
            cluster: ClusterUuid::default(),
            feature_level: MAX_FEATURE_LEVEL,
            regions: vec![RegionRow::first(RegionId(1), RegionName::new("us").unwrap(), 3)],
            nodes: vec![first.clone()],
        };
        catalog.apply(Command::new(Timestamp(1), Change::Genesis(genesis))).unwrap();
        let add = |id: u32| {
            let disk = format!("00000000-0000-4000-8000-00000000000{id}");
            let disk = DiskUuid(meridian_wire::parse_uuid("disk", &disk).unwrap());
            let address = |port: u32| format!("http://127.0.0.1:{port}");
            let (peer_address, client_address) = (address(100 + id), address(200 + id));
            Change::RegisterNode(NodeRow {
                id: NodeId(id),
                disk,
                peer_address,
                client_address,
                ..first.clone()
            })
        };
        catalog.apply(Command::new(Timestamp(1), add(2))).unwrap();
        let restore = |incarnation: u16| RestoreRegion {
            region: RegionId(1),
            incarnation: Incarnation(incarnation),
            voters: vec![NodeId(9)],
            lost: vec![],
            past: vec![],
        };
        let said = |node: u32, shards: &[(u32, u32, u64)]| v1::ListShardsResponse {
            node,
            shards: shards
                .iter()
                .map(|(incarnation, number, applied)| v1::Shard {
                    origin: Some(v1::Origin { region: 1, incarnation: *incarnation }),
                    number: *number,
                    applied: *applied,
                    ..v1::Shard::default()
                })
                .collect(),
            ..v1::ListShardsResponse::default()
        };
        let lost = RestoreRegion { voters: vec![NodeId(2)], lost: vec![NodeId(2)], ..restore(1) };
        let add_again = add(3);
        catalog.apply(Command::new(Timestamp(2), Change::RestoreRegion(lost))).unwrap();
        catalog.apply(Command::new(Timestamp(3), add_again)).unwrap();
        let all = [
            said(1, &[(1, 0, 99), (2, 0, 5), (2, 2, 1), (3, 0, 4)]),
            said(3, &[(2, 0, 4), (2, 2, 7), (2, 9, 9)]),
            said(7, &[(1, 1, 3), (2, 0, 6)]),
        ];
        let past = past(&catalog, &restore(2), &all);
        let through = |past: &Past| {
            let all = (0..3).filter_map(|no| past.through(no)).collect::<Vec<_>>();
            (past.origin.incarnation.0, all)
        };
        assert_eq!(
            past.iter().map(through).collect::<Vec<_>>(),
            [(1, vec![Seq(99), Seq(3), Seq(0)]), (2, vec![Seq(6), Seq(0), Seq(7)])],
            "of all that is over"
        );
        let held = |node: u32, at: usize| past[at].held.get(&NodeId(node)).cloned();
        assert_eq!(held(1, 0), Some(vec![Seq(99), Seq(0), Seq(0)]));
        assert_eq!(
            (held(3, 0), held(7, 1)),
            (None, None),
            "one holds nothing of it, the other is of elsewhere"
        );
        assert_eq!(held(3, 1), Some(vec![Seq(4), Seq(0), Seq(7)]));
    }
}
