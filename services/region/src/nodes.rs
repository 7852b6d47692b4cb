//! The region's nodes, as the catalog admits them and as placement removes them: executes what placement says is due, while
//! this node leads that group.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use meridian_metadata::catalog::{self, Catalog};
use meridian_metadata::members::{Rule, Wanted};
use meridian_metadata::placement::{Change, Command, Join, Placement, reply_from_bytes};
use meridian_metadata::{CatalogHandle, PlacementHandle, WantedNodes};
use meridian_types::{Clock, NodeId, RegionName};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
const PROPOSE_WITHIN: Duration = Duration::from_secs(5);

/// Keeps a region's placement and its group's members what the catalog and placement say, for ever.
pub async fn keep_nodes(
    region: RegionName,
    placement: PlacementHandle,
    catalog: CatalogHandle,
    clock: Arc<dyn Clock>,
) {
    let members = wanted(region, placement.clone(), catalog.clone());
    tokio::join!(
        placement.clone().keep_members(Rule::Placement, members),
        keep_joined(placement, catalog, clock)
    );
}

/// The nodes that the group should have. One that placement knows is not dropped because this node's copy of the catalog is
/// behind.
fn wanted(region: RegionName, placement: PlacementHandle, catalog: CatalogHandle) -> WantedNodes {
    Arc::new(move || members(&region, &placement.state(), &catalog.state()))
}

fn members(region: &RegionName, placement: &Placement, catalog: &Catalog) -> BTreeMap<NodeId, Wanted> {
    let Some(region) = catalog.region_named(region).map(|row| row.id) else { return BTreeMap::new() };
    let joined = placement.nodes().map(|(node, row)| (node, &row.peer_address));
    let admitted = catalog.nodes().filter(|node| node.region == region);
    let admitted = admitted.map(|node| (node.id, &node.peer_address));
    joined
        .chain(admitted)
        .filter(|(node, _)| !placement.is_removed(*node))
        .map(|(node, address)| (node, Wanted { region, address: address.clone() }))
        .collect()
}

async fn keep_joined(placement: PlacementHandle, catalog: CatalogHandle, clock: Arc<dyn Clock>) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut said = BTreeSet::new();
    loop {
        looks.tick().await;
        let Some(seen) = placement.seen() else { continue };
        let due = placement.state().due(&catalog.state(), &seen);
        for change in due.joins {
            let Change::Join(Join { node, .. }) = change else { continue };
            match propose(&placement, change).await {
                Ok(()) => {
                    tracing::info!(%node, "the node is part of this region, at the addresses that the catalog says")
                }
                Err(why) if said.insert((node, why.clone())) => {
                    tracing::warn!(%node, why, "the node cannot join this region; trying on");
                }
                Err(_) => {}
            }
        }
        for change in due.leaves {
            match propose(&placement, change.clone()).await {
                Ok(()) => tracing::info!(?change, "another node came in its place"),
                Err(why) if said.insert((NodeId(0), why.clone())) => {
                    tracing::warn!(?change, why, "a node that was replaced is not yet gone; trying on");
                }
                Err(_) => {}
            }
        }
        for node in due.gone {
            let command = catalog::Command::new(clock.now(), catalog::Change::RemoveNode(node));
            let why = match catalog.propose(command, PROPOSE_WITHIN).await {
                Ok(Ok(_)) => continue,
                Ok(Err(refusal)) => refusal.to_string(),
                Err(error) => error.to_string(),
            };
            if said.insert((node, why.clone())) {
                tracing::warn!(%node, why, "the catalog is not yet told that the node is gone; trying on");
            }
        }
    }
}

async fn propose(placement: &PlacementHandle, change: Change) -> Result<(), String> {
    let command = Command { changes: vec![change] }.to_bytes();
    let reply = placement.propose_bytes(command, PROPOSE_WITHIN).await.map_err(|error| error.to_string())?;
    let outcomes = reply_from_bytes(&reply).map_err(|error| error.to_string())?;
    match outcomes.into_iter().next() {
        Some(Err(refusal)) => Err(refusal.to_string()),
        Some(Ok(())) | None => Ok(()),
    }
}
