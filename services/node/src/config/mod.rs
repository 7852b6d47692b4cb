//! `node.toml`: everything a node is told before it starts.
//!
//! Flows in: a file. Flows out: a checked [`NodeConfig`], or an error that names the file, the key and what to write
//! instead. Must never accept a key that it does not know, nor a setting that is not acted upon: what does not work yet
//! is refused.

mod check;
mod error;
mod memory;
mod units;
mod wan_table;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use meridian_types::limits::DEFAULT_SHARDS;
use meridian_types::{ClusterUuid, NodeId, RegionId, RegionName};
use serde::{Deserialize, Serialize};

pub use check::MOST_NODES;
pub use error::ConfigError;
pub use units::{ByteSize, Span, UnitError};
pub use wan_table::{WanError, WanTable};

/// A node's configuration, as in its `node.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Which node this is.
    pub node: NodeSection,
    /// The cluster it belongs to.
    pub cluster: ClusterSection,
    /// Where it listens.
    #[serde(default)]
    pub listen: ListenSection,
    /// Certificates; refused until TLS works.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tls: TlsSection,
    /// Bounds on memory and on clients.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: LimitsSection,
    /// The volume.
    #[serde(default, skip_serializing_if = "is_default")]
    pub storage: StorageSection,
    /// The catalog's Raft group.
    #[serde(default, skip_serializing_if = "is_default")]
    pub raft: RaftSection,
    /// Who leads the region's shards, and which of its nodes hold them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub placement: PlacementSection,
    /// Simulated round trips between regions, for worlds on one machine: `us-eu = "80ms"`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub wan: WanTable,
    /// What is logged, and how.
    #[serde(default, skip_serializing_if = "is_default")]
    pub log: LogSection,
    /// Threads.
    #[serde(default, skip_serializing_if = "is_default")]
    pub runtime: RuntimeSection,
    /// The file that this was read from; relative paths in it are relative to its folder.
    #[serde(skip)]
    pub file: PathBuf,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// `[node]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSection {
    /// The node's number: unique in the cluster, never reused, not even after its disk was lost.
    pub id: NodeId,
    /// The region that it is in.
    pub region: RegionName,
    /// Its data folder, relative to the file's own.
    #[serde(default = "here")]
    pub data: PathBuf,
    /// Of a node that is added to a founded cluster: what the other nodes dial, as `http://host:port`. Founders say it in
    /// `cluster.nodes`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub advertise_peer: Option<String>,
    /// Of the same: what clients dial, as `http://host:port`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub advertise_client: Option<String>,
}

fn here() -> PathBuf {
    PathBuf::from(".")
}

/// `[cluster]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSection {
    /// Names the cluster; peers of another are refused.
    pub uuid: ClusterUuid,
    /// The regions of the genesis.
    pub regions: Vec<RegionEntry>,
    /// The nodes of the first start; they are the catalog's first voters. A node that is added later is not among them, and
    /// need not name all: it asks them whether it was admitted.
    pub nodes: Vec<NodeEntry>,
}

/// `[[cluster.regions]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionEntry {
    /// The region's number, from 1.
    pub id: RegionId,
    /// Its name.
    pub name: RegionName,
    /// How many shards its first incarnation has.
    #[serde(default = "default_shards")]
    pub shards: u16,
}

fn default_shards() -> u16 {
    DEFAULT_SHARDS
}

/// `[[cluster.nodes]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeEntry {
    /// The node's number.
    pub id: NodeId,
    /// The region that it is in.
    pub region: RegionName,
    /// What the other nodes dial, as `http://host:port`.
    pub peer: String,
    /// What clients dial, as `http://host:port`.
    pub client: String,
}

/// `[listen]`: loopback unless set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenSection {
    /// For clients.
    pub client: SocketAddr,
    /// For other nodes.
    pub peer: SocketAddr,
    /// For operators: health, readiness, metrics.
    pub admin: SocketAddr,
    /// Allows listeners that other machines can reach although nothing is encrypted or authenticated yet.
    #[serde(skip_serializing_if = "is_default")]
    pub insecure_non_loopback: bool,
}

impl Default for ListenSection {
    fn default() -> Self {
        Self {
            client: SocketAddr::from(([127, 0, 0, 1], 7401)),
            peer: SocketAddr::from(([127, 0, 0, 1], 7501)),
            admin: SocketAddr::from(([127, 0, 0, 1], 7601)),
            insecure_non_loopback: false,
        }
    }
}

impl ListenSection {
    /// Each listener with the name of its key.
    pub fn all(&self) -> [(&'static str, SocketAddr); 3] {
        [("client", self.client), ("peer", self.peer), ("admin", self.admin)]
    }
}

/// `[tls]`: known keys, so that a file that asks for TLS is told that it comes later, and is never served in plain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSection {
    /// The certificate of the client listener.
    pub client_cert: Option<PathBuf>,
    /// Its key.
    pub client_key: Option<PathBuf>,
    /// Who signs clients' certificates.
    pub client_ca: Option<PathBuf>,
    /// The certificate shown to and by peers.
    pub peer_cert: Option<PathBuf>,
    /// Its key.
    pub peer_key: Option<PathBuf>,
    /// Who signs peers' certificates.
    pub peer_ca: Option<PathBuf>,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Bytes of publishes that are taken in, until the shard is done with them, over all clients; beyond,
    /// RESOURCE_EXHAUSTED.
    pub publish_bytes_in_flight: ByteSize,
    /// How many connections clients may have open at once; one more is closed at once.
    pub connections: usize,
    /// How many bytes a client may send ahead on one connection: HTTP/2's window. Half of it for one request.
    pub connection_window_bytes: ByteSize,
    /// How many requests may be open at once, streams among them; beyond, RESOURCE_EXHAUSTED.
    pub requests: usize,
    /// How many subscriptions may be open at once.
    pub subscribers: usize,
    /// Bytes of batches on their way to subscribers, over all of them; beyond, they wait for each other.
    pub delivery_bytes_in_flight: ByteSize,
    /// After how long a client that takes nothing of what it asked for is cut off. After the same again its connection is
    /// closed.
    pub slow_reader: Span,
    /// The most bytes that are read at once for one subscription; a larger batch is read alone.
    pub subscriber_buffer_bytes: ByteSize,
    /// Bytes that a peer may push ahead of what is stored, over all shards of a link: what may be on its way. A line that loses packets
    /// carries half of it in a round trip.
    pub link_credit_bytes: ByteSize,
    /// Bytes that are on their way to each other node of the region, over all shards; beyond, its copies fall behind and
    /// read what they lack later.
    pub replication_bytes: ByteSize,
    /// Bytes of the shards' newest frames that are kept in memory, over all shards.
    pub tail_bytes: ByteSize,
    /// Memory of the index: its cache and its write buffers.
    pub index_memory_bytes: ByteSize,
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            publish_bytes_in_flight: ByteSize::mib(64),
            connections: 1024,
            connection_window_bytes: ByteSize::mib(1),
            requests: 2048,
            subscribers: 1024,
            delivery_bytes_in_flight: ByteSize::mib(64),
            slow_reader: Span::millis(30_000),
            subscriber_buffer_bytes: ByteSize(256 << 10),
            link_credit_bytes: ByteSize::mib(64),
            replication_bytes: ByteSize::mib(16),
            tail_bytes: ByteSize::mib(32),
            index_memory_bytes: ByteSize::mib(64),
        }
    }
}

impl LimitsSection {
    /// A link's credit, as sizes of windows and buffers come.
    pub fn link_credit(&self) -> usize {
        usize::try_from(self.link_credit_bytes.0).unwrap_or(usize::MAX)
    }
}

/// `[storage]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageSection {
    /// The size of each file of the volume.
    pub file_bytes: ByteSize,
    /// The most bytes that are written and synced at once.
    pub max_round_bytes: ByteSize,
    /// How many zero-written files are kept ready.
    pub stock: usize,
}

impl Default for StorageSection {
    fn default() -> Self {
        Self { file_bytes: ByteSize::mib(64), max_round_bytes: ByteSize::mib(4), stock: 2 }
    }
}

/// `[raft]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RaftSection {
    /// How often the catalog's leader is heard from.
    pub heartbeat: Span,
    /// The shortest silence after which a voter asks for votes.
    pub election_min: Span,
    /// The longest.
    pub election_max: Span,
    /// Lets `POST /raft/stop` and `/raft/start` on the admin listener stop Raft alone, for tests.
    #[serde(skip_serializing_if = "is_default")]
    pub test_switch: bool,
}

impl Default for RaftSection {
    fn default() -> Self {
        Self {
            heartbeat: Span::millis(500),
            election_min: Span::millis(2000),
            election_max: Span::millis(4000),
            test_switch: false,
        }
    }
}

/// `[placement]`: the Raft group of the region's nodes, and what it decides about their shards. To be the same on all of
/// them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlacementSection {
    /// How often the group's leader is heard from.
    pub heartbeat: Span,
    /// The shortest silence after which a node asks for votes.
    pub election_min: Span,
    /// The longest.
    pub election_max: Span,
    /// A node that was not heard for so long is dead: others lead its shards.
    pub dead_after: Span,
    /// A node that is dead for longer is replaced: its replicas are made on other nodes.
    pub grace: Span,
    /// Replicas of each shard, of which a majority must live; 1 to 7, and as many as the region has nodes if those are
    /// fewer. Best odd: the even one more lets no more of them fail.
    pub replication: u8,
}

impl Default for PlacementSection {
    fn default() -> Self {
        Self {
            heartbeat: Span::millis(100),
            election_min: Span::millis(400),
            election_max: Span::millis(800),
            dead_after: Span::millis(1000),
            grace: Span::millis(300_000),
            replication: 3,
        }
    }
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// A level, or `tracing` directives such as `info,meridian_mirror=debug`.
    pub level: String,
    /// One line of text, or one JSON object, an event.
    pub format: LogFormat,
}

impl Default for LogSection {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// `[runtime]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuntimeSection {
    /// Worker threads; 0: one for each CPU. Half as many unless it is set: the volume, the index and Raft have threads of their own.
    pub workers: usize,
}

impl Default for RuntimeSection {
    fn default() -> Self {
        Self { workers: std::thread::available_parallelism().map_or(1, |cpus| (cpus.get() / 2).max(1)) }
    }
}

impl NodeConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, the key and what to write instead.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| ConfigError::Read { file: file.to_owned(), source })?;
        Self::parse(file, &text)
    }

    /// Checks a file's text; `file` is what errors name and what relative paths start from.
    ///
    /// # Errors
    /// As [`NodeConfig::load`].
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text)
            .map_err(|source| ConfigError::Parse { file: file.to_owned(), source: Box::new(source) })?;
        file.clone_into(&mut config.file);
        config.check()?;
        Ok(config)
    }

    /// The text of a `node.toml` that says this; sections that say nothing but defaults are left out.
    ///
    /// # Errors
    /// A path in it that is not UTF-8.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string_pretty(self)
    }

    /// The data folder.
    pub fn data_dir(&self) -> PathBuf {
        let folder = self.file.parent().unwrap_or(Path::new(""));
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        if self.node.data == Path::new(".") { folder.to_owned() } else { folder.join(&self.node.data) }
    }

    /// The region that this node is in.
    pub fn region(&self) -> &RegionEntry {
        // `check` has found it; a config built by hand that skipped it gets the first.
        let own = self.cluster.regions.iter().find(|r| r.name == self.node.region);
        own.unwrap_or(&self.cluster.regions[0])
    }

    /// Whether this node takes part in the first start.
    pub fn is_founder(&self) -> bool {
        self.cluster.nodes.iter().any(|n| n.id == self.node.id)
    }

    /// What the other nodes and what clients dial to reach this one.
    pub fn own_addresses(&self) -> (String, String) {
        match self.cluster.nodes.iter().find(|n| n.id == self.node.id) {
            Some(own) => (own.peer.clone(), own.client.clone()),
            None => {
                let or_empty = |address: &Option<String>| address.clone().unwrap_or_default();
                (or_empty(&self.node.advertise_peer), or_empty(&self.node.advertise_client))
            }
        }
    }

    /// How many other nodes of the first start are in this node's region.
    pub fn neighbours(&self) -> usize {
        self.cluster.nodes.iter().filter(|n| n.region == self.node.region && n.id != self.node.id).count()
    }

    /// A region by its name.
    pub fn region_named(&self, name: &RegionName) -> Option<&RegionEntry> {
        self.cluster.regions.iter().find(|r| r.name == *name)
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod tests_support;
