//! A restore that begins by itself: nodes came in the place of a majority of those that decide in the region.
//!
//! That their disks are lost was said by an operator, one by one, as the new nodes were added; here only the rest is done that
//! `meridian region restore` would. More careful than an operator may be: it waits until everyone answers who may
//! still hold something, or know of another set of voters, so that nothing is given up that is only out of reach.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use meridian_metadata::catalog::{Catalog, Change, Command, NodeRow, RestoreRegion};
use meridian_metadata::{CatalogHandle, PlacementHandle};
use meridian_types::{Clock, NodeId, RegionName, Seq};
use meridian_wire::v1;
use meridian_wire::v1::cluster_service_client::ClusterServiceClient;
use tonic::transport::Endpoint;

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
    placement: PlacementHandle,
    catalog: CatalogHandle,
    clock: Arc<dyn Clock>,
) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut led = Instant::now();
    let mut said = String::new();
    loop {
        looks.tick().await;
        let standing = placement.standing_of(placement.status().node, ANSWER_WITHIN).await;
        if standing.is_none_or(|standing| standing.leader.is_some()) {
            led = Instant::now();
        }
        if led.elapsed() < LEADERLESS || catalog.state().replaced(&region).is_empty() {
            continue;
        }
        if let Err(why) = attempt(&region, &placement, &catalog, &*clock).await
            && why != said
        {
            tracing::warn!(%region, why, "disks of this region were replaced and nobody leads it; it is not yet restored; trying on");
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
    let asked = state.may_hold(&restore, &strangers);
    let answers = join_all(asked.iter().map(|node| held_by(node))).await;
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
    let recovered = recovered(&state, &restore, &said);
    let restore = RestoreRegion { recovered, ..restore };
    tracing::warn!(?restore, "a majority of the region's disks was replaced: it is restored");
    let command = Command::new(clock.now(), Change::RestoreRegion(restore));
    match catalog.propose(command, PROPOSE_WITHIN).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(refusal)) => Err(refusal.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// How far anyone holds each shard of the incarnation that ends. What is applied was committed, in every copy.
fn recovered(catalog: &Catalog, restore: &RestoreRegion, said: &[v1::ListShardsResponse]) -> Vec<Seq> {
    let mut held: BTreeMap<u32, u64> = BTreeMap::new();
    for shard in said.iter().flat_map(|said| &said.shards) {
        let origin = shard.origin.unwrap_or_default();
        if (origin.region, origin.incarnation)
            == (u32::from(restore.region.0), u32::from(restore.incarnation.0))
        {
            let through = held.entry(shard.number).or_default();
            *through = shard.applied.max(*through);
        }
    }
    let shards = catalog.region(restore.region).map_or(0, |row| u32::from(row.shards));
    (0..shards).map(|number| Seq(held.get(&number).copied().unwrap_or(0))).collect()
}

/// What a node says it holds; none: it does not answer. Its address may lead to another node, whose answer counts for nothing.
async fn held_by(node: &NodeRow) -> Option<v1::ListShardsResponse> {
    let answer = async {
        let channel = Endpoint::from_shared(node.client_address.clone()).ok()?.connect().await.ok()?;
        let answer = ClusterServiceClient::new(channel).list_shards(v1::ListShardsRequest {}).await.ok()?;
        Some(answer.into_inner()).filter(|answer| answer.node == node.id.0)
    };
    tokio::time::timeout(ANSWER_WITHIN, answer).await.ok().flatten()
}

/// Whether a node answers its clients: its disk is not lost.
pub async fn answers(catalog: &Catalog, node: NodeId) -> bool {
    match catalog.node(node) {
        Some(row) => held_by(row).await.is_some(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use meridian_metadata::catalog::{Genesis, MAX_FEATURE_LEVEL, RegionRow};
    use meridian_types::{ClusterUuid, DiskUuid, Incarnation, RegionId, Timestamp};

    use super::*;

    #[test]
    fn of_each_shard_the_longest_counts_and_only_of_the_incarnation_that_ends() {
        let mut catalog = Catalog::default();
        let node = NodeRow {
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
            nodes: vec![node],
        };
        catalog.apply(Command::new(Timestamp(1), Change::Genesis(genesis))).unwrap();
        let restore = RestoreRegion {
            region: RegionId(1),
            incarnation: Incarnation(2),
            voters: vec![],
            lost: vec![],
            recovered: vec![],
        };
        let said = |shards: &[(u32, u32, u64)]| v1::ListShardsResponse {
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
        let all = [said(&[(1, 0, 99), (2, 0, 5), (2, 2, 1)]), said(&[(2, 0, 4), (2, 2, 7), (2, 9, 9)])];
        assert_eq!(recovered(&catalog, &restore, &all), [Seq(5), Seq(0), Seq(7)]);
    }
}
