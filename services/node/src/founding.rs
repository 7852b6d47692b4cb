//! How a node becomes part of its cluster: the first start of all writes the genesis, once; every later one waits for
//! nothing but its own disk, and a moment for anybody who says that it was removed. A node that is added later waits until an
//! operator has admitted it, and the leaders of the Raft groups bring it the rest.
//!
//! A formatted node that has never heard of its cluster greets the others. One that they know by another disk is told so,
//! and ends. Only when all founders have greeted each other, each saying which disk it has, does the lowest of them
//! propose the genesis. With the WAN cut nobody greets back, so nothing is founded and nothing is served: a lost disk under a
//! known id can never start a second history.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use meridian_metadata::catalog::{Catalog, Change, Command, Genesis, MAX_FEATURE_LEVEL, NodeRow, RegionRow};
use meridian_metadata::placement::{Found, Join};
use meridian_metadata::{CatalogHandle, PeerChannels as _, PlacementHandle, Standing};
use meridian_mirror::{Identity, PeerHello, Vetting};
use meridian_types::{Clock, DiskUuid, NodeId, RegionId, RegionName};
use meridian_wire::v1::peer_service_client::PeerServiceClient;
use meridian_wire::{ApiError, Reason};
use tokio::task::JoinSet;

use crate::config::NodeConfig;
use crate::peers::PeerWays;

const AGAIN_AFTER: Duration = Duration::from_millis(300);
/// Between two questions that are in no hurry.
const ASK_EVERY: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The lowest of a region's founders founds it within this, where it lives.
const LOWEST_WITHIN: Duration = Duration::from_secs(5);
const STANDING_WITHIN: Duration = Duration::from_secs(2);
/// Who does not answer for so long holds up no start.
const WANTED_WITHIN: Duration = Duration::from_secs(2);

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
        let id = &peer.identity;
        if state.is_removed(id.node) || state.is_removed_disk(id.disk) {
            let message =
                format!("node {} was removed for ever; its id and its disk are taken no more", id.node);
            return Err(ApiError::new(Reason::NodeRemoved, message));
        }
        let Some(node) = state.node(id.node) else {
            return Err(ApiError::new(Reason::NodeUnknown, format!("the cluster knows no node {}", id.node)));
        };
        let refuse = |message: String| Err(ApiError::new(Reason::PeerRefused, message));
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
    let mut said = BTreeSet::new();
    let mut say = |what: String| {
        if said.insert(what.clone()) {
            tracing::info!("{what}");
        }
    };
    let mut changed = catalog.changed();
    let state = loop {
        changed.mark_unchanged();
        let state = catalog.state();
        if state.is_removed(me.node) {
            return Err(FoundingError::NotThisNode(format!(
                "node {} was removed for ever; format an empty folder under a new id",
                me.node
            )));
        }
        // A new node gets the catalog from its first entry on: for a moment it knows the cluster, and not yet itself.
        if state.node(me.node).is_some() {
            break state;
        }
        match meet(config, me, ways).await? {
            Met::Unknown => say(format!(
                "node {} is not part of the cluster yet, and waits to be admitted: meridian node add --config {}",
                me.node,
                config.file.display()
            )),
            Met::All(disks) if state.cluster().is_none() => {
                let lowest = config.cluster.nodes.iter().map(|node| node.id).min();
                if config.is_founder() && lowest == Some(me.node) {
                    found(config, catalog, &disks, clock).await;
                }
            }
            Met::All(_) | Met::Some if !config.is_founder() => {
                say(format!("node {} waits until it is admitted and the catalog comes", me.node));
            }
            Met::All(_) => {}
            Met::Some => {
                say("this disk knows no cluster yet: waiting until all founders have greeted each other; \
                              nothing is served before"
                    .to_owned())
            }
        }
        // Told by the catalog as soon as it arrives.
        let _ = tokio::time::timeout(AGAIN_AFTER, changed.changed()).await;
    };
    check_regions(config, &state)?;
    match state.node(me.node) {
        Some(node) if node.disk != me.disk => Err(FoundingError::NotThisNode(format!(
            "node {} is known by disk {}, this folder has disk {}: a node that lost its disk is another node; give it a new id",
            me.node, node.disk, me.disk
        ))),
        Some(node) => {
            let (peer, client) = config.own_addresses();
            if (&peer, &client) != (&node.peer_address, &node.client_address) {
                tracing::warn!(
                    peer,
                    client,
                    known_peer = node.peer_address,
                    known_client = node.client_address,
                    "the cluster knows this node at other addresses; to tell it: meridian node add --config {}",
                    config.file.display()
                );
            }
            still_wanted(me, catalog, ways).await
        }
        None => Ok(()),
    }
}

/// Before a node that knows its cluster serves: nobody who answers soon says that it was removed while it was down. Nodes that
/// were given up with their region are a majority to each other; what they acknowledged would be nobody's. Twice in a row,
/// as in [`until_removed`]: until then it answers in the Raft groups, and has no shards.
async fn still_wanted(
    me: &Identity,
    catalog: &CatalogHandle,
    ways: &Arc<PeerWays>,
) -> Result<(), FoundingError> {
    let mut told = false;
    loop {
        let state = catalog.state();
        let mut asked = JoinSet::new();
        for peer in state.nodes().map(|node| node.id).filter(|node| *node != me.node) {
            let (me, ways) = (me.clone(), ways.clone());
            asked.spawn(async move { (peer, greet(&me, &ways, peer).await) });
        }
        let refused = async {
            while let Some(answer) = asked.join_next().await {
                match answer {
                    Ok((peer, Err(Greeting::Refused(error)))) if error.reason == Reason::NodeRemoved => {
                        return Some(FoundingError::Refused { peer, error });
                    }
                    _ => {}
                }
            }
            None
        };
        match tokio::time::timeout(WANTED_WITHIN, refused).await.ok().flatten() {
            None if !told => return Ok(()),
            // Who was removed once is for ever; only, nobody was there to say it again.
            None => {}
            Some(error) if told => return Err(error),
            Some(error) => {
                tracing::warn!(%error, "this node serves nothing");
                told = true;
            }
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// How far the greetings are.
enum Met {
    /// A founded cluster does not know this node.
    Unknown,
    /// All founders have greeted back, from these disks.
    All(BTreeMap<NodeId, DiskUuid>),
    /// Not all have.
    Some,
}

async fn meet(config: &NodeConfig, me: &Identity, ways: &Arc<PeerWays>) -> Result<Met, FoundingError> {
    let others = config.cluster.nodes.iter().map(|node| node.id).filter(|node| *node != me.node);
    let others: Vec<NodeId> = others.collect();
    let mut disks = BTreeMap::from([(me.node, me.disk)]);
    let mut unknown = false;
    for &peer in &others {
        match greet(me, ways, peer).await {
            Ok(disk) => drop(disks.insert(peer, disk)),
            Err(Greeting::Refused(error)) if error.reason == Reason::NodeUnknown => unknown = true,
            Err(Greeting::Refused(error)) => return Err(FoundingError::Refused { peer, error }),
            Err(Greeting::NoAnswer(why)) => {
                tracing::debug!(node = %peer, why, "a founder does not answer yet");
            }
        }
    }
    Ok(match (unknown, disks.len() > others.len()) {
        (true, _) => Met::Unknown,
        (false, true) => Met::All(disks),
        (false, false) => Met::Some,
    })
}

/// Waits until another node says that this one was removed for ever. It may have been while it was down, and then nobody
/// tells it unasked. Twice in a row: who goes is needed a moment longer, where Raft needs its voice to do without it.
pub async fn until_removed(me: &Identity, catalog: &CatalogHandle, ways: &Arc<PeerWays>) -> FoundingError {
    let (mut asked, mut told) = (NodeId(0), false);
    loop {
        tokio::time::sleep(ASK_EVERY).await;
        let state = catalog.state();
        let others = || state.nodes().map(|node| node.id).filter(|node| *node != me.node);
        let Some(peer) = others().find(|node| *node > asked).or_else(|| others().next()) else { continue };
        asked = peer;
        told = match greet(me, ways, peer).await {
            Err(Greeting::Refused(error)) if error.reason == Reason::NodeRemoved => {
                if told {
                    return FoundingError::Refused { peer, error };
                }
                true
            }
            // Another that was removed with it says nothing against it; who was removed once is for ever.
            _ => told,
        };
    }
}

/// Tells the catalog which commands this build knows, where it is known by another: after an upgrade, or because whoever
/// admitted it could not say.
pub async fn report_level(me: NodeId, catalog: CatalogHandle, clock: Arc<dyn Clock>) {
    loop {
        let Some(known) = catalog.state().node(me).cloned() else { return };
        if known.max_feature_level == MAX_FEATURE_LEVEL {
            return;
        }
        let row = NodeRow { max_feature_level: MAX_FEATURE_LEVEL, ..NodeRow::clone(&known) };
        let command = Command::new(clock.now(), Change::RegisterNode(row));
        match catalog.propose(command, Duration::from_secs(10)).await {
            Ok(Ok(_)) => return,
            Ok(Err(refusal)) => {
                tracing::warn!(%refusal, "the catalog does not take up which commands this build knows");
                return;
            }
            Err(_) => tokio::time::sleep(ASK_EVERY).await,
        }
    }
}

/// Waits until this region's placement is founded; founds it where that is this node's part: that of the lowest of the region's
/// founders that answers. Founding is the same whoever does it, and may be done by two at once: it names the same voters.
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
    let began = Instant::now();
    while placement.state().founded().is_none() {
        let state = catalog.state();
        let Some(region) = state.region_named(&me.region) else {
            return Err(FoundingError::NotThisNode(format!("the catalog knows no region {}", me.region)));
        };
        let nodes = founders(&state, region);
        let is_founder = nodes.iter().any(|node| node.node == me.node);
        let is_lowest = is_founder && nodes.iter().all(|node| node.node >= me.node);
        // The lowest has its time; who begins later than the others may find them founded.
        let mut founds = is_lowest;
        if is_founder && !is_lowest && began.elapsed() >= LOWEST_WITHIN {
            let of_it = || state.nodes().filter(|node| node.region == region.id && node.id != me.node);
            let asked = of_it().map(|node| placement.standing_of(node.id, STANDING_WITHIN));
            let standings = of_it().map(|node| node.id).zip(join_all(asked).await).collect();
            founds = is_my_turn(me.node, &nodes, &standings);
        }
        if founds {
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

/// Who founds a region's placement; nobody where one of them is gone, for then others have founded it before.
fn founders(state: &Catalog, region: &RegionRow) -> Vec<Join> {
    let nodes: Vec<Join> = state
        .nodes()
        // Those that were added since join a region that is founded.
        .filter(|node| match &region.founders[..] {
            [] => node.region == region.id && !node.added,
            founders => founders.contains(&node.id),
        })
        .map(|node| Join {
            node: node.id,
            disk: node.disk,
            peer_address: node.peer_address.clone(),
            client_address: node.client_address.clone(),
        })
        .collect();
    if region.founders.len() > nodes.len() { Vec::new() } else { nodes }
}

/// Whether a founder that is not the lowest founds: none below it answers, and nobody who does knows of a group.
fn is_my_turn(me: NodeId, founders: &[Join], standings: &BTreeMap<NodeId, Option<Standing>>) -> bool {
    let answer = |node: &NodeId| standings.get(node).is_some_and(Option::is_some);
    let lower = founders.iter().map(|founder| founder.node).filter(|node| *node < me);
    let is_founded = standings.values().flatten().any(|standing| !standing.configs.is_empty());
    !is_founded && !lower.into_iter().any(|node| answer(&node))
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
        .map(|region| RegionRow::first(region.id, region.name.clone(), region.shards))
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
                max_feature_level: MAX_FEATURE_LEVEL,
                added: false,
                replaces: None,
            })
        })
        .collect();
    let genesis = Genesis { cluster: config.cluster.uuid, feature_level: MAX_FEATURE_LEVEL, regions, nodes };
    tracing::info!(cluster = %config.cluster.uuid, "all founders have met: founding the cluster");
    let command = Command::new(clock.now(), Change::Genesis(genesis));
    if let Err(error) = catalog.bootstrap(command, Duration::from_secs(20)).await {
        tracing::warn!(%error, "the founding is not through yet; trying again");
    }
}

/// What does not become better by asking again; but for [`Reason::NodeUnknown`], which an operator can change.
fn is_final(reason: Reason) -> bool {
    use Reason::{NodeRemoved, NodeUnknown, PeerRefused, VersionUnsupported};
    matches!(reason, PeerRefused | NodeUnknown | NodeRemoved | VersionUnsupported)
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
                Some(error) if is_final(error.reason) => Greeting::Refused(error),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_founder_that_answers_founds_and_nobody_where_a_group_is_known_of() {
        let founder = |id: u32| Join {
            node: NodeId(id),
            disk: DiskUuid::default(),
            peer_address: String::new(),
            client_address: String::new(),
        };
        let founders: Vec<Join> = [3, 4, 5].map(founder).into();
        let turn = |me: u32, answers: &[(u32, Option<&[u32]>)]| {
            let standing = |voters: &[u32]| Standing {
                configs: if voters.is_empty() {
                    vec![]
                } else {
                    vec![voters.iter().map(|id| NodeId(*id)).collect()]
                },
                leader: None,
            };
            let answers = answers.iter().map(|(node, voters)| (NodeId(*node), voters.map(standing)));
            is_my_turn(NodeId(me), &founders, &answers.collect())
        };
        assert!(turn(4, &[(3, None), (5, Some(&[]))]));
        assert!(turn(4, &[(3, None), (5, None)]));
        assert!(turn(5, &[(3, None), (4, None)]));
        assert!(!turn(4, &[(3, Some(&[])), (5, Some(&[]))]), "the lowest lives");
        assert!(!turn(5, &[(3, None), (4, Some(&[]))]));
        assert!(!turn(4, &[(3, None), (5, Some(&[3, 4, 5]))]), "it was founded before the lowest died");
        assert!(!turn(4, &[(3, None), (5, None), (9, Some(&[5, 8, 9]))]), "and others have come since");
    }
}
