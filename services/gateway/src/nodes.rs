//! What operators see of nodes, and how nodes come and go. What is decided is a row of the catalog or of placement; their
//! groups' leaders make it true.

use std::collections::BTreeSet;
use std::time::Duration;

use meridian_metadata::catalog::{self, Command, NODES_CHANGE, NodeRow, Past, RestoreRegion};
use meridian_metadata::placement::{Change, Join, NodeState};
use meridian_region::answers;
use meridian_types::limits::NODE_IDS;
use meridian_types::{DiskUuid, Incarnation, NodeId, Origin, RegionName, Seq};
use meridian_wire::{ApiError, Reason, endpoint, parse_uuid, v1};
use tokio::time::{Instant, timeout_at};

use crate::operators::refused;
use crate::shared::Gateway;

/// How long an operator waits for the catalog.
const PROPOSE_WITHIN: Duration = Duration::from_secs(10);
/// How long a caller is kept waiting in all who does not say how long it waits.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long an operator waits until the Raft groups do without a removed node.
const LET_GO_WITHIN: Duration = Duration::from_secs(10);

/// How long to wait on behalf of a caller who waits so many milliseconds: it is to hear why nothing happens.
fn patience(timeout_ms: u64) -> Duration {
    match timeout_ms {
        0 => PATIENCE,
        told => (Duration::from_millis(told) * 4 / 5).min(PATIENCE),
    }
}

impl Gateway {
    /// Whether a node of this region is being emptied; none: it is of another region.
    pub(crate) fn is_draining_node(&self, node: NodeId) -> Option<bool> {
        let state = self.region().placement();
        state.node(node).map(|row| row.state == NodeState::Draining)
    }

    /// Whether a node takes part in this region; none: it is of another.
    pub(crate) fn is_joined_node(&self, node: &NodeRow) -> Option<bool> {
        let state = self.region().placement();
        let here = state.founded().is_some_and(|founded| founded.region == node.region);
        here.then(|| state.node(node.id).is_some())
    }

    /// The sets of voters that decide in this region, as this node's Raft knows them.
    pub(crate) async fn deciders(&self) -> Vec<v1::Deciders> {
        let standing = self.region().standing().await.unwrap_or_default();
        let nodes = |voters: &BTreeSet<NodeId>| voters.iter().map(|node| node.0).collect();
        standing.configs.iter().map(|voters| v1::Deciders { nodes: nodes(voters) }).collect()
    }

    /// Whether a node of this region was heard lately; none: it is of another region.
    pub(crate) fn is_live_node(&self, node: &NodeRow) -> Option<bool> {
        self.is_joined_node(node).map(|joined| joined && self.region().is_live(node.id))
    }

    /// Admits a node, or takes up its addresses.
    pub(crate) async fn add_node(
        &self,
        request: &v1::AddNodeRequest,
    ) -> Result<v1::AddNodeResponse, ApiError> {
        self.check_ready()?;
        let within = patience(request.timeout_ms);
        let cluster = self.me().cluster;
        if !request.cluster_uuid.is_empty() && request.cluster_uuid != cluster.to_string() {
            return Err(ApiError::new(
                Reason::PeerRefused,
                format!(
                    "node {} is for cluster {}, this is cluster {cluster}; ask a node of that cluster, or format the \
                     folder for this one",
                    request.node, request.cluster_uuid
                ),
            ));
        }
        let bad = |message: String| ApiError::new(Reason::InvalidArgument, message);
        if !(1..=NODE_IDS).contains(&request.node) {
            return Err(bad(format!("a node's id is 1 to {NODE_IDS}, not {}", request.node)));
        }
        let disk = DiskUuid(parse_uuid("disk_uuid", &request.disk_uuid)?);
        let mut addresses =
            [&request.peer, &request.client].map(|address| address.trim_end_matches('/').to_owned());
        for (what, address) in ["peer", "client"].into_iter().zip(&addresses) {
            endpoint(address).map_err(|why| bad(format!("the {what} address {why}")))?;
        }
        let state = self.catalog().state();
        let region = RegionName::new(request.region.as_str()).ok();
        let Some(region) = region.as_ref().and_then(|name| state.region_named(name)) else {
            let names: Vec<&str> = state.regions().map(|row| row.name.as_str()).collect();
            return Err(ApiError::new(
                Reason::CatalogRefused,
                format!(
                    "there is no region {:?} in this cluster; there are: {}",
                    request.region,
                    names.join(", ")
                ),
            ));
        };
        let region = region.id;
        let replaces = (request.replaces > 0).then_some(NodeId(request.replaces));
        let is_said = |old| state.node(NodeId(request.node)).is_some_and(|row| row.replaces == Some(old));
        if let Some(old) = replaces.filter(|old| !is_said(*old))
            && answers(&state, old, within / 3).await
        {
            return Err(ApiError::new(
                Reason::CatalogRefused,
                format!(
                    "node {old} answers: its disk is not lost; add node {} without it, then `meridian node drain {old}`, or                      end node {old} first",
                    request.node
                ),
            ));
        }
        self.allow_changes(within / 3).await?;
        let state = self.catalog().state();
        let known = state.node(NodeId(request.node));
        let [peer_address, client_address] = addresses.each_mut().map(std::mem::take);
        let row = NodeRow {
            id: NodeId(request.node),
            region,
            disk,
            peer_address,
            client_address,
            // What it knows it says itself once it is here.
            max_feature_level: known.map_or(state.feature_level(), |known| known.max_feature_level),
            added: known.is_none_or(|known| known.added),
            replaces,
        };
        self.change_catalog(catalog::Change::RegisterNode(row), within / 3).await?;
        Ok(v1::AddNodeResponse { added: known.is_none() })
    }

    /// Has a node emptied, or used again.
    pub(crate) async fn drain_node(
        &self,
        request: &v1::DrainNodeRequest,
    ) -> Result<v1::DrainNodeResponse, ApiError> {
        let node = NodeId(request.node);
        self.wish(if request.undo { Change::Undrain { node } } else { Change::Drain { node } }).await?;
        Ok(v1::DrainNodeResponse {})
    }

    /// Takes an emptied node out of its region, and then out of the cluster.
    pub(crate) async fn remove_node(
        &self,
        request: &v1::RemoveNodeRequest,
    ) -> Result<v1::RemoveNodeResponse, ApiError> {
        let node = NodeId(request.node);
        match self.never_joined(node) {
            // Nothing can have come to be on it in between.
            Some(join) => {
                self.check_ready()?;
                let changes = vec![Change::Join(join), Change::Drain { node }, Change::Remove { node }];
                self.region().wish_all(changes).await.map_err(refused)?;
            }
            None => self.wish(Change::Remove { node }).await?,
        }
        self.allow_changes(PROPOSE_WITHIN).await?;
        self.change_catalog(catalog::Change::RemoveNode(node), PROPOSE_WITHIN).await?;
        if node == self.me().node {
            let message =
                format!("node {node} is removed, and hears no more of it; ask another node of its region");
            return Err(ApiError::new(Reason::NotReady, message).retry_after(Duration::from_millis(200)));
        }
        self.until_let_go(node).await?;
        Ok(v1::RemoveNodeResponse {})
    }

    /// Has a region go on under its next incarnation.
    pub(crate) async fn restore_region(
        &self,
        request: v1::RestoreRegionRequest,
    ) -> Result<v1::RestoreRegionResponse, ApiError> {
        let state = self.catalog().state();
        let region = RegionName::new(request.region.as_str()).ok();
        let region = region.as_ref().and_then(|name| state.region_named(name)).ok_or_else(|| {
            ApiError::new(Reason::CatalogRefused, format!("there is no region {:?}", request.region))
        })?;
        let incarnation = u16::try_from(request.incarnation).map_err(|_| {
            let message = format!("there is no incarnation {}", request.incarnation);
            ApiError::new(Reason::InvalidArgument, message)
        })?;
        let before = Origin { region: region.id, incarnation: Incarnation(incarnation) };
        let recovered = Past {
            origin: before,
            elsewhere: request.recovered.into_iter().map(Seq).collect(),
            ..Past::default()
        };
        let past = request.past.into_iter().map(Past::try_from).collect::<Result<Vec<_>, _>>()?;
        // What older clients say.
        let past = past.into_iter().chain((!recovered.elsewhere.is_empty()).then_some(recovered)).collect();
        let nodes = |ids: Vec<u32>| ids.into_iter().map(NodeId).collect::<Vec<_>>();
        let restore = RestoreRegion {
            region: region.id,
            incarnation: Incarnation(incarnation),
            voters: nodes(request.voters),
            lost: nodes(request.lost),
            past,
        };
        tracing::warn!(?restore, "an operator has a region restored");
        let within = patience(request.timeout_ms);
        self.allow_changes(within / 2).await?;
        let (of, lost) = (region.id, restore.lost.clone());
        let changed = self.change_catalog(catalog::Change::RestoreRegion(restore), within / 2).await;
        // It may be done although it was not answered, and is asked for again.
        let state = self.catalog().state();
        let is_next =
            state.region(of).is_some_and(|row| row.incarnation.0.checked_sub(1) == Some(incarnation));
        if !is_next || !lost.iter().all(|node| state.is_removed(*node)) {
            changed?;
        }
        Ok(v1::RestoreRegionResponse { incarnation: u32::from(incarnation) + 1 })
    }

    /// A node that was admitted to this region and has not come.
    fn never_joined(&self, node: NodeId) -> Option<Join> {
        let (state, catalog) = (self.region().placement(), self.catalog().state());
        let row = catalog.node(node)?;
        let here = state.founded().is_some_and(|founded| founded.region == row.region);
        (here && state.node(node).is_none() && !state.is_removed(node)).then(|| Join {
            node,
            disk: row.disk,
            peer_address: row.peer_address.clone(),
            client_address: row.client_address.clone(),
        })
    }

    /// Clusters that older builds founded are raised to the level that nodes come and go at: an operator asks for it now.
    async fn allow_changes(&self, within: Duration) -> Result<(), ApiError> {
        while self.catalog().state().feature_level() < NODES_CHANGE {
            let next = self.catalog().state().feature_level() + 1;
            self.change_catalog(catalog::Change::RaiseFeatureLevel(next), within).await?;
        }
        Ok(())
    }

    async fn change_catalog(&self, change: catalog::Change, within: Duration) -> Result<(), ApiError> {
        let command = Command::new(self.clock().now(), change);
        self.catalog().propose(command, within).await??;
        Ok(())
    }

    /// Waits until neither Raft group counts on a node: only then may it be ended.
    async fn until_let_go(&self, node: NodeId) -> Result<(), ApiError> {
        let deadline = Instant::now() + LET_GO_WITHIN;
        let (mut catalog, mut placement) = (self.catalog().changed(), self.region().changed());
        loop {
            catalog.mark_unchanged();
            placement.mark_unchanged();
            let status = self.catalog().status();
            let counts = status.voters.contains(&node) || status.learners.contains(&node);
            if !counts && self.region().has_let_go_of(node) {
                return Ok(());
            }
            let changed = async {
                tokio::select! {
                    _ = catalog.changed() => {}
                    _ = placement.changed() => {}
                }
            };
            if timeout_at(deadline, changed).await.is_err() {
                let message = format!(
                    "node {node} is removed, but a Raft group still counts on it: more than half of its other voters must \
                     run; leave node {node} running if it does, and ask again"
                );
                return Err(ApiError::new(Reason::NotReady, message).retry_after(Duration::from_secs(1)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_is_answered_before_it_gives_up() {
        for timeout in [100, 2_000, 5_000, 60_000] {
            assert!(patience(timeout) < Duration::from_millis(timeout));
        }
        assert_eq!((patience(0), patience(u64::MAX)), (PATIENCE, PATIENCE), "older clients do not say");
    }
}
