//! The other nodes, and how messages to and from them are checked.

use std::sync::Arc;

use meridian_types::{ClusterUuid, DiskUuid, NodeId};
use meridian_wire::v1::RaftHeader;
use meridian_wire::v1::raft_service_client::RaftServiceClient;
use meridian_wire::{ApiError, Reason};
use tonic::transport::Channel;
use uuid::Uuid;

use crate::machine::Machine;
use crate::store::{Identity, Store};

/// The largest message: more than any batch of entries, commands being bounded, and than a snapshot's piece.
pub(super) const MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// Reaches the peer listeners of other nodes. A group asks for channels on its own runtime alone, and a connection lives on the
/// runtime where its channel was made: so these are to be made for the group, and shared with nothing that runs elsewhere.
pub trait PeerChannels: Send + Sync + 'static {
    /// A channel to a node, made now or before. Does not wait until it is connected.
    ///
    /// # Errors
    /// [`NoChannel`] where the node's address is not known.
    fn channel(&self, node: NodeId) -> Result<Channel, NoChannel>;
}

/// Why there is no way to a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no way to node {node}: {why}")]
pub struct NoChannel {
    /// Which node.
    pub node: NodeId,
    /// Why.
    pub why: String,
}

/// Who this node is to the others, and they to it.
pub(super) struct Peers<M> {
    me: Identity,
    generation: u16,
    channels: Arc<dyn PeerChannels>,
    store: Store<M>,
}

impl<M: Machine> Peers<M> {
    pub(super) fn new(
        me: Identity,
        generation: u16,
        channels: Arc<dyn PeerChannels>,
        store: Store<M>,
    ) -> Self {
        Self { me, generation, channels, store }
    }

    pub(super) fn me(&self) -> NodeId {
        self.me.node
    }

    /// The cluster: what the machine says, and before it says anything what the store was bound to.
    pub(super) fn cluster(&self) -> Option<ClusterUuid> {
        self.store.published.version().machine.cluster().or_else(|| self.store.cluster())
    }

    pub(super) fn client(&self, to: NodeId) -> Result<RaftServiceClient<Channel>, NoChannel> {
        let channel = self.channels.channel(to)?;
        Ok(RaftServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES))
    }

    pub(super) fn header(&self, to: NodeId) -> RaftHeader {
        let to_disk = self.store.published.version().machine.disk_of(to);
        RaftHeader {
            group: M::GROUP.to_owned(),
            cluster_uuid: self.cluster().map_or_else(String::new, |cluster| cluster.to_string()),
            from_node: self.me.node.0,
            from_disk: self.me.disk.to_string(),
            to_node: to.0,
            to_disk: to_disk.map_or_else(String::new, |disk| disk.to_string()),
            // As builds that know no other say it.
            generation: if self.generation == 1 { 0 } else { u32::from(self.generation) },
        }
    }

    /// Who speaks. A fresh node binds itself to the first cluster that speaks to it.
    pub(super) fn check(&self, header: Option<&RaftHeader>) -> Result<NodeId, ApiError> {
        let refuse = |message: String| Err(ApiError::new(Reason::PeerRefused, message));
        let Some(header) = header else { return refuse("a Raft message without a header".into()) };
        if header.group != M::GROUP {
            return refuse(format!("this is the group {}, not {:?}", M::GROUP, header.group));
        }
        let generation = header.generation.max(1);
        if generation != u32::from(self.generation) {
            return refuse(format!(
                "this is generation {} of the group {}, not {generation}",
                self.generation,
                M::GROUP
            ));
        }
        if header.to_node != self.me.node.0 {
            return refuse(format!(
                "this is node {}, not {}; an address leads to the wrong node",
                self.me.node, header.to_node
            ));
        }
        if !header.to_disk.is_empty() && header.to_disk != self.me.disk.to_string() {
            return refuse(format!(
                "node {} is known by disk {}, this is {}: a node that lost its disk is another node",
                self.me.node, header.to_disk, self.me.disk
            ));
        }
        let from = NodeId(header.from_node);
        // What a removed node says counts no more, in whatever term it thinks it is; but for as long as it is a member its
        // voice may be needed to do without it.
        let version = self.store.published.version();
        let is_member = version.membership.nodes().any(|(id, _)| *id == u64::from(from.0));
        if version.machine.is_removed(from) && !is_member {
            let message = format!("node {from} was removed for ever");
            return Err(ApiError::new(Reason::NodeRemoved, message));
        }
        let disk = uuid(&header.from_disk).map(DiskUuid);
        let known = self.store.published.version().machine.disk_of(from);
        if disk.is_none() || known.is_some() && known != disk {
            return refuse(format!(
                "node {from} speaks from disk {:?}, not the one it is known by: a node that lost its disk is another node",
                header.from_disk
            ));
        }
        let Some(cluster) = uuid(&header.cluster_uuid).map(ClusterUuid) else {
            return refuse(format!("node {from} names no cluster"));
        };
        match self.cluster() {
            Some(ours) if ours == cluster => Ok(from),
            Some(ours) => refuse(format!("node {from} is of cluster {cluster}, this is {ours}")),
            None => match self.store.bind(cluster) {
                Ok(()) => Ok(from),
                Err(error) => refuse(error.to_string()),
            },
        }
    }
}

fn uuid(text: &str) -> Option<Uuid> {
    Uuid::parse_str(text).ok().filter(|uuid| !uuid.is_nil())
}
