//! The whole catalog as one protobuf message, and back.

use std::sync::Arc;

use bytes::Bytes;
use meridian_types::{ClusterUuid, DiskUuid, NodeId, Timestamp};
use meridian_wire::v1;
use prost::Message as _;
use uuid::Uuid;

use super::command::RequestId;
use super::convert::{reply_from_wire, request_id};
use super::reply::Refusal;
use super::rows::{NodeRow, RegionRow, StreamRow, TenantRow};
use super::state::{Answered, Catalog, Founded};
use crate::machine::Unsupported;

/// The layout of [`v1::CatalogState`]. Fields may be added under it; a change of meaning takes the next.
const VERSION: u32 = 1;

impl Catalog {
    /// Equal states give equal bytes: the lists are in rising order of their keys, maps inside rows too.
    pub fn to_bytes(&self) -> Bytes {
        let state = v1::CatalogState {
            version: VERSION,
            cluster_uuid: self.cluster().map_or_else(String::new, |cluster| cluster.to_string()),
            founded_at_ms: self.founded.map_or(0, |founded| founded.at.0),
            feature_level: self.feature_level,
            revision: self.revision,
            regions: self.regions.values().map(|row| row.as_ref().into()).collect(),
            nodes: self.nodes.values().map(|row| row.as_ref().into()).collect(),
            tenants: self.tenants.values().map(|row| row.as_ref().into()).collect(),
            streams: self.streams.values().map(|row| row.as_ref().into()).collect(),
            next_stream_id: self.next_stream,
            next_tenant_id: self.next_tenant,
            answered: self.answered.iter().map(|answered| answered_to_wire(answered)).collect(),
            removed_nodes: self
                .removed
                .iter()
                .map(|(id, disk)| v1::CatalogRemovedNode { id: id.0, disk_uuid: disk.to_string() })
                .collect(),
        };
        state.encode_to_vec().into()
    }

    /// The inverse of [`Catalog::to_bytes`].
    ///
    /// # Errors
    /// [`Unsupported`] for bytes that are no catalog, or one of a newer layout.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Unsupported> {
        let bad = |what: &str| Unsupported(format!("the catalog snapshot is damaged: {what}"));
        let state = v1::CatalogState::decode(bytes).map_err(|e| bad(&e.to_string()))?;
        if state.version != VERSION {
            return Err(Unsupported(format!(
                "the catalog snapshot has layout {}, this build knows {VERSION}; start the newer build",
                state.version
            )));
        }
        let refused = |refusal: Refusal| bad(&refusal.message);
        let mut catalog = Self {
            feature_level: state.feature_level,
            revision: state.revision,
            next_stream: state.next_stream_id,
            next_tenant: state.next_tenant_id,
            ..Self::default()
        };
        if !state.cluster_uuid.is_empty() {
            let cluster = Uuid::parse_str(&state.cluster_uuid).map_err(|_| bad("its cluster uuid"))?;
            catalog.founded =
                Some(Founded { cluster: ClusterUuid(cluster), at: Timestamp(state.founded_at_ms) });
        }
        for region in state.regions {
            let region = RegionRow::try_from(region).map_err(refused)?;
            catalog.regions.insert_mut(region.id, Arc::new(region));
        }
        for node in state.nodes {
            let node = NodeRow::try_from(node).map_err(refused)?;
            catalog.nodes.insert_mut(node.id, Arc::new(node));
        }
        for removed in state.removed_nodes {
            let disk = Uuid::parse_str(&removed.disk_uuid).map_err(|_| bad("a removed disk's uuid"))?;
            catalog.removed.insert_mut(NodeId(removed.id), DiskUuid(disk));
        }
        for tenant in state.tenants {
            let tenant = TenantRow::try_from(tenant).map_err(refused)?;
            catalog.tenants.insert_mut(tenant.id, Arc::new(tenant));
        }
        for stream in state.streams {
            let stream = StreamRow::try_from(stream).map_err(refused)?;
            let mut names = catalog.names.get(&stream.tenant).cloned().unwrap_or_default();
            names.insert_mut(stream.name.clone(), stream.id);
            catalog.names.insert_mut(stream.tenant, names);
            catalog.streams.insert_mut(stream.id, Arc::new(stream));
        }
        for answered in state.answered {
            let request: RequestId = request_id(&answered.request_id).map_err(refused)?;
            let reply = answered.reply.ok_or_else(|| bad("an answer without a reply"))?;
            let outcome = reply_from_wire(reply).map_err(refused)?.map_err(refused)?;
            catalog.answered.push_back(Arc::new(Answered { request, outcome }));
        }
        Ok(catalog)
    }
}

fn answered_to_wire(answered: &Answered) -> v1::CatalogAnswered {
    v1::CatalogAnswered {
        request_id: Bytes::copy_from_slice(answered.request.0.as_bytes()),
        reply: Some((&answered.outcome).into()),
    }
}
