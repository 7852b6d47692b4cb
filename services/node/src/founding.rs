//! How a node becomes part of its cluster: the first start of all writes the genesis, once; every later one waits for
//! nothing but its own disk.
//!
//! A formatted node that has never heard of its cluster greets the others. One that they know by another disk is told so,
//! and ends. Only when all founders have greeted each other, each saying which disk it has, does the lowest of them
//! propose the genesis. With the WAN cut nobody greets back, so nothing is founded and nothing is served: a lost disk under a
//! known id can never start a second history.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meridian_metadata::catalog::{Catalog, Change, Command, Genesis, NodeRow, RegionRow};
use meridian_metadata::placement::{Found, Join};
use meridian_metadata::{CatalogHandle, PeerChannels as _, PlacementHandle};
use meridian_mirror::{Identity, PeerHello, Vetting};
use meridian_types::{Clock, DiskUuid, Incarnation, NodeId, RegionId, RegionName};
use meridian_wire::v1::peer_service_client::PeerServiceClient;
use meridian_wire::{ApiError, Reason};

use crate::config::NodeConfig;
use crate::peers::PeerWays;

/// The catalog commands that this build knows.
const FEATURE_LEVEL: u32 = 1;
const AGAIN_AFTER: Duration = Duration::from_millis(300);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Why a node is not let into its cluster.
#[derive(Debug, thiserror::Error)]
pub enum FoundingError {
    /// A peer refuses it.
    #[error("node {peer} refuses this node: {error}")]
    Refused {
        /// Which peer.
        peer: NodeId,
        /// Why.
        error: ApiError,
    },
    /// The catalog knows this node's id by another disk, or not at all.
    #[error("{0}")]
    NotThisNode(String),
}

/// What the catalog knows against a peer.
pub fn vetting(catalog: CatalogHandle) -> Vetting {
    Arc::new(move |peer: &PeerHello| {
        let state = catalog.state();
        if state.cluster().is_none() {
            // Not founded: founders greet each other, and the genesis says which disks are meant.
            return Ok(());
        }
        let refuse = |message: String| Err(ApiError::new(Reason::PeerRefused, message));
        let id = &peer.identity;
        let Some(node) = state.node(id.node) else {
            return refuse(format!("the catalog knows no node {}", id.node));
        };
        if node.disk != id.disk {
            return refuse(format!(
                "node {} is known by disk {}, this is {}: a node that lost its disk is another node; give it a new id",
                id.node, node.disk, id.disk
            ));
        }
        match state.region(node.region) {
            Some(region) if region.name == id.region => Ok(()),
            _ => refuse(format!("node {} is not in region {}", id.node, id.region)),
        }
    })
}

/// Waits until this node is part of a founded cluster; founds it where that is this node's part.
///
/// # Errors
/// [`FoundingError`]: this node will never be let in as it is.
pub async fn join(
    config: &NodeConfig,
    me: &Identity,
    catalog: &CatalogHandle,
    ways: &Arc<PeerWays>,
    clock: &dyn Clock,
) -> Result<(), FoundingError> {
    let mut disks = BTreeMap::from([(me.node, me.disk)]);
    let mut said = false;
    while catalog.state().cluster().is_none() {
        for peer in config.cluster.nodes.iter().filter(|node| node.id != me.node) {
            match greet(me, ways, peer.id).await {
                Ok(disk) => {
                    disks.insert(peer.id, disk);
                }
                Err(Greeting::Refused(error)) => return Err(FoundingError::Refused { peer: peer.id, error }),
                Err(Greeting::NoAnswer(why)) => {
                    tracing::debug!(node = %peer.id, why, "a founder does not answer yet");
                    disks.remove(&peer.id);
                }
            }
        }
        let all = disks.len() == config.cluster.nodes.len();
        let lowest = config.cluster.nodes.iter().map(|node| node.id).min() == Some(me.node);
        if all && lowest {
            found(config, catalog, &disks, clock).await;
        } else if !all && !said {
            said = true;
            tracing::info!(
                "this disk knows no cluster yet: waiting until all founders have greeted each other; nothing is served before"
            );
        }
        // Told by the catalog as soon as it arrives.
        let mut changed = catalog.changed();
        let _ = tokio::time::timeout(AGAIN_AFTER, changed.changed()).await;
    }
    let state = catalog.state();
    check_regions(config, &state)?;
    match state.node(me.node) {
        Some(node) if node.disk == me.disk => Ok(()),
        Some(node) => Err(FoundingError::NotThisNode(format!(
            "node {} is known by disk {}, this folder has disk {}: a node that lost its disk is another node; give it a new id",
            me.node, node.disk, me.disk
        ))),
        None => Err(FoundingError::NotThisNode(format!(
            "the catalog knows no node {}: nodes are added to a founded cluster in a later release",
            me.node
        ))),
    }
}

/// Waits until this region's placement is founded; founds it where that is this node's part: the lowest of the region's
/// founders.
///
/// # Errors
/// [`FoundingError`]: this node will never be let in as it is.
pub async fn place(
    config: &NodeConfig,
    me: &Identity,
    catalog: &CatalogHandle,
    placement: &PlacementHandle,
) -> Result<(), FoundingError> {
    let mut changed = placement.changed();
    while placement.state().founded().is_none() {
        let state = catalog.state();
        let Some(region) = state.region_named(&me.region) else {
            return Err(FoundingError::NotThisNode(format!("the catalog knows no region {}", me.region)));
        };
        let nodes: Vec<Join> = state
            .nodes()
            .filter(|node| node.region == region.id)
            .map(|node| Join {
                node: node.id,
                disk: node.disk,
                peer_address: node.peer_address.clone(),
                client_address: node.client_address.clone(),
            })
            .collect();
        if nodes.iter().map(|node| node.node).min() == Some(me.node) {
            let replication = config.placement.replication;
            let found = Found { cluster: me.cluster, region: region.id, replication, nodes };
            if let Err(error) = placement.bootstrap(found, Duration::from_secs(10)).await {
                tracing::warn!(%error, "the region's placement is not founded yet; trying again");
            }
        }
        let _ = tokio::time::timeout(AGAIN_AFTER, changed.changed()).await;
    }
    Ok(())
}

/// What the file says of the regions is what the cluster was founded with: what differs would be ignored otherwise.
fn check_regions(config: &NodeConfig, state: &Catalog) -> Result<(), FoundingError> {
    let founded: BTreeMap<_, _> =
        state.regions().map(|region| (region.id, (region.name.clone(), region.shards))).collect();
    let configured: BTreeMap<_, _> = config
        .cluster
        .regions
        .iter()
        .map(|region| (region.id, (region.name.clone(), region.shards)))
        .collect();
    if founded == configured {
        return Ok(());
    }
    let list = |regions: &BTreeMap<RegionId, (RegionName, u16)>| {
        let all = regions.iter().map(|(id, (name, shards))| format!("{id} = {name} with {shards} shards"));
        all.collect::<Vec<_>>().join(", ")
    };
    Err(FoundingError::NotThisNode(format!(
        "cluster.regions differs from what the cluster was founded with: it has {}, this file has {}; make them the same",
        list(&founded),
        list(&configured)
    )))
}

async fn found(
    config: &NodeConfig,
    catalog: &CatalogHandle,
    disks: &BTreeMap<NodeId, DiskUuid>,
    clock: &dyn Clock,
) {
    let regions = config
        .cluster
        .regions
        .iter()
        .map(|region| RegionRow {
            id: region.id,
            name: region.name.clone(),
            incarnation: Incarnation(1),
            shards: region.shards,
        })
        .collect();
    let nodes = config
        .cluster
        .nodes
        .iter()
        .filter_map(|node| {
            Some(NodeRow {
                id: node.id,
                region: config.region_named(&node.region)?.id,
                disk: *disks.get(&node.id)?,
                peer_address: node.peer.clone(),
                client_address: node.client.clone(),
                max_feature_level: FEATURE_LEVEL,
            })
        })
        .collect();
    let genesis = Genesis { cluster: config.cluster.uuid, feature_level: FEATURE_LEVEL, regions, nodes };
    tracing::info!(cluster = %config.cluster.uuid, "all founders have met: founding the cluster");
    let command = Command::new(clock.now(), Change::Genesis(genesis));
    if let Err(error) = catalog.bootstrap(command, Duration::from_secs(20)).await {
        tracing::warn!(%error, "the founding is not through yet; trying again");
    }
}

enum Greeting {
    Refused(ApiError),
    NoAnswer(String),
}

async fn greet(me: &Identity, ways: &Arc<PeerWays>, node: NodeId) -> Result<DiskUuid, Greeting> {
    let channel = ways.channel(node).map_err(|error| Greeting::NoAnswer(error.to_string()))?;
    let mut client = PeerServiceClient::new(channel);
    let answer = tokio::time::timeout(ANSWER_WITHIN, client.greet(me.to_hello())).await;
    let hello = match answer {
        Ok(Ok(hello)) => hello.into_inner(),
        Ok(Err(status)) => {
            return Err(match ApiError::from_status(&status) {
                Some(error) if matches!(error.reason, Reason::PeerRefused | Reason::VersionUnsupported) => {
                    Greeting::Refused(error)
                }
                _ => Greeting::NoAnswer(status.to_string()),
            });
        }
        Err(_) => return Err(Greeting::NoAnswer("no answer in time".to_owned())),
    };
    let peer = PeerHello::read(&hello).and_then(|peer| peer.check(me).map(|()| peer));
    match peer {
        Ok(peer) if peer.identity.node == node => Ok(peer.identity.disk),
        Ok(peer) => Err(Greeting::NoAnswer(format!("its address leads to node {}", peer.identity.node))),
        Err(error) => Err(Greeting::Refused(error)),
    }
}
