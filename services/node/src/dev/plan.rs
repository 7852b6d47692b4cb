//! A world's plan: what its folder remembers from the first run on.

use std::path::{Path, PathBuf};

use meridian_types::limits::DEFAULT_SHARDS;
use meridian_types::{ClusterUuid, NodeId, RegionId, RegionName};
use serde::{Deserialize, Serialize};

use super::error::io;
use super::{DevError, DevOptions, ports};
use crate::config::{
    ByteSize, ClusterSection, LimitsSection, ListenSection, MOST_NODES, NodeConfig, NodeEntry, NodeSection,
    RegionEntry, RuntimeSection, StorageSection, WanTable,
};
use crate::folder;

const FILE: &str = "dev.json";
/// How far a node's peer and admin ports are from its client port, with a base port.
const PEER_PORTS: u16 = 100;
const ADMIN_PORTS: u16 = 200;
const DEFAULT_REGIONS: [&str; 3] = ["us", "eu", "ap"];

/// The whole plan, as in `dev.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Names the cluster.
    pub cluster: ClusterUuid,
    /// The regions.
    pub regions: Vec<PlannedRegion>,
    /// The nodes.
    pub nodes: Vec<PlannedNode>,
    /// Simulated round trips.
    pub wan: WanTable,
    /// Whether every node's folder was formatted. From then on an unformatted folder is a lost disk.
    formatted: bool,
}

/// A region of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedRegion {
    /// Its number.
    pub id: RegionId,
    /// Its name.
    pub name: RegionName,
    /// Its shards.
    pub shards: u16,
}

/// A node of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedNode {
    /// Its number.
    pub id: NodeId,
    /// Its folder's name, as in `us-1`.
    pub name: String,
    /// Its region.
    pub region: RegionName,
    /// Where it listens for clients.
    pub client_port: u16,
    /// Where it listens for peers.
    pub peer_port: u16,
    /// Where it listens for operators.
    pub admin_port: u16,
}

impl PlannedNode {
    /// What clients dial.
    pub fn endpoint(&self) -> String {
        url(self.client_port)
    }

    /// What operators dial.
    pub fn admin(&self) -> String {
        url(self.admin_port)
    }

    /// Its folder in the world's.
    pub fn folder(&self, world: &Path) -> PathBuf {
        world.join(&self.name)
    }

    /// Its configuration file.
    pub fn config_file(&self, world: &Path) -> PathBuf {
        self.folder(world).join("node.toml")
    }

    /// Its log.
    pub fn log_file(&self, world: &Path) -> PathBuf {
        self.folder(world).join("log")
    }

    fn ports(&self) -> [(&'static str, u16); 3] {
        [("client", self.client_port), ("peer", self.peer_port), ("admin", self.admin_port)]
    }
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

impl Plan {
    /// The plan that the folder remembers, with the round trips now asked for; or a new one. The folder must be locked.
    ///
    /// # Errors
    /// The folder holds another world than is asked for, or what is asked for cannot be.
    pub(super) fn of(options: &DevOptions) -> Result<Self, DevError> {
        let file = options.data.join(FILE);
        let mut plan = match std::fs::read(&file) {
            Ok(text) => {
                let plan: Self = serde_json::from_slice(&text)
                    .map_err(|error| DevError::Plan { file: file.clone(), reason: error.to_string() })?;
                plan.check_asked(options)?;
                plan
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::new(options)?,
            Err(error) => return Err(io(&file)(error)),
        };
        if let Some(wan) = &options.wan {
            plan.wan.clone_from(wan);
        }
        let regions: Vec<_> = plan.regions.iter().map(|r| r.name.clone()).collect();
        plan.wan.resolve(&regions)?;
        Ok(plan)
    }

    fn new(options: &DevOptions) -> Result<Self, DevError> {
        let names = match &options.regions {
            Some(names) => names.clone(),
            None => DEFAULT_REGIONS
                .into_iter()
                .map(RegionName::new)
                .collect::<Result<_, _>>()
                .map_err(|error| DevError::Regions(error.to_string()))?,
        };
        if names.is_empty() {
            return Err(DevError::Regions("name at least one".to_owned()));
        }
        if let Some((i, name)) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
            return Err(DevError::Regions(format!("{name} is named twice (again as number {})", i + 1)));
        }
        let nodes = options.nodes.unwrap_or(1);
        let (each, regions) = (nodes as usize, names.len());
        if !(1..=MOST_NODES).contains(&each.saturating_mul(regions)) {
            return Err(DevError::Nodes { nodes, regions });
        }
        let mut plan = Self {
            cluster: ClusterUuid(uuid::Uuid::new_v4()),
            regions: Vec::new(),
            nodes: Vec::new(),
            wan: WanTable::default(),
            formatted: false,
        };
        let ports = choose_ports(options.base_port, each * regions)?;
        for ((region, name), ports) in (1u16..).zip(names).zip(ports.chunks_exact(each)) {
            for (number, &[client, peer, admin]) in (1..).zip(ports) {
                plan.nodes.push(PlannedNode {
                    // Unique over all regions.
                    id: NodeId(plan.nodes.len() as u32 + 1),
                    name: format!("{name}-{number}"),
                    region: name.clone(),
                    client_port: client,
                    peer_port: peer,
                    admin_port: admin,
                });
            }
            plan.regions.push(PlannedRegion { id: RegionId(region), name, shards: DEFAULT_SHARDS });
        }
        Ok(plan)
    }

    /// What is asked for again must be what is there.
    fn check_asked(&self, options: &DevOptions) -> Result<(), DevError> {
        let list = |names: &mut dyn Iterator<Item = &RegionName>| {
            names.map(RegionName::as_str).collect::<Vec<_>>().join(",")
        };
        let kept = list(&mut self.regions.iter().map(|r| &r.name));
        if let Some(asked) = &options.regions {
            let asked = list(&mut asked.iter());
            if asked != kept {
                return Err(DevError::OtherRegions { folder: options.data.clone(), kept, asked });
            }
        }
        if let Some(asked) = options.nodes {
            for PlannedRegion { name, .. } in &self.regions {
                let kept = self.nodes_of(name).count();
                if kept != asked as usize {
                    let (folder, region) = (options.data.clone(), name.clone());
                    return Err(DevError::OtherNodes { folder, region, kept, asked });
                }
            }
        }
        match (options.base_port, self.nodes.first()) {
            (Some(asked), Some(first)) if first.client_port != asked => {
                Err(DevError::OtherPorts { folder: options.data.clone(), kept: first.client_port, asked })
            }
            _ => Ok(()),
        }
    }

    /// A region's nodes.
    pub(super) fn nodes_of(&self, region: &RegionName) -> impl Iterator<Item = &PlannedNode> {
        self.nodes.iter().filter(move |node| node.region == *region)
    }

    /// The regions that stand still when one of their nodes does, although they have more than one.
    pub(super) fn none_may_fail(&self) -> impl Iterator<Item = &RegionName> {
        self.regions.iter().map(|region| &region.name).filter(|name| self.nodes_of(name).count() == 2)
    }

    /// Remembers the plan, writes each node's configuration, formats folders that are new. Returns the configurations.
    ///
    /// # Errors
    /// A configuration was changed by hand until it fits no more, or a formatted folder was lost.
    pub(super) fn lay_out(&mut self, world: &Path) -> Result<Vec<NodeConfig>, DevError> {
        // First of all: ports and uuid must be the same again even if this is cut short.
        self.save(world)?;
        let configs =
            self.nodes.iter().map(|node| self.configure(node, world)).collect::<Result<Vec<_>, _>>()?;
        if !self.formatted {
            for config in &configs {
                if !folder::is_formatted(config)? {
                    folder::format(config)?;
                }
            }
            self.formatted = true;
            self.save(world)?;
        }
        for config in &configs {
            // A folder that was formatted once and is empty now is refused here, before anything is started.
            drop(folder::Folder::take(config)?);
        }
        Ok(configs)
    }

    fn save(&self, world: &Path) -> Result<(), DevError> {
        let file = world.join(FILE);
        let text = serde_json::to_vec_pretty(self).map_err(|e| io(&file)(e.into()))?;
        crate::files::replace(&file, &text).map_err(io(&file))
    }

    /// The node's `node.toml`: written if it is new; kept if it is there, with the round trips now asked for.
    fn configure(&self, node: &PlannedNode, world: &Path) -> Result<NodeConfig, DevError> {
        let file = node.config_file(world);
        let folder = node.folder(world);
        std::fs::create_dir_all(&folder).map_err(io(&folder))?;
        if !file.exists() {
            let config = self.config(node, &file);
            config.check()?;
            write(&config)?;
            return Ok(config);
        }
        let mut config = NodeConfig::load(&file)?;
        let wanted = self.config(node, &file);
        let same = [
            ("node.id", config.node.id.to_string(), wanted.node.id.to_string()),
            ("cluster.uuid", config.cluster.uuid.to_string(), wanted.cluster.uuid.to_string()),
            ("listen.client", config.listen.client.to_string(), wanted.listen.client.to_string()),
            ("listen.peer", config.listen.peer.to_string(), wanted.listen.peer.to_string()),
            ("listen.admin", config.listen.admin.to_string(), wanted.listen.admin.to_string()),
        ];
        if let Some((key, found, wanted)) = same.into_iter().find(|(_, found, wanted)| found != wanted) {
            return Err(DevError::OtherConfig { file, key, found, wanted });
        }
        if config.wan != self.wan {
            config.wan.clone_from(&self.wan);
            config.check()?;
            write(&config)?;
        }
        Ok(config)
    }

    /// What a new node's configuration says of sizes. Several nodes a region share one machine: each takes little of it.
    fn sizes(&self) -> (LimitsSection, StorageSection, RuntimeSection) {
        if self.nodes.len() <= self.regions.len() {
            return Default::default();
        }
        let limits = LimitsSection {
            index_memory_bytes: ByteSize::mib(16),
            tail_bytes: ByteSize::mib(16),
            ..LimitsSection::default()
        };
        let storage = StorageSection { file_bytes: ByteSize::mib(16), stock: 1, ..StorageSection::default() };
        (limits, storage, RuntimeSection { workers: 1 })
    }

    fn config(&self, node: &PlannedNode, file: &Path) -> NodeConfig {
        let local = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let regions = self.regions.iter();
        let nodes = self.nodes.iter();
        let (limits, storage, runtime) = self.sizes();
        NodeConfig {
            node: NodeSection {
                id: node.id,
                region: node.region.clone(),
                data: ".".into(),
                advertise_peer: None,
                advertise_client: None,
            },
            cluster: ClusterSection {
                uuid: self.cluster,
                regions: regions
                    .map(|r| RegionEntry { id: r.id, name: r.name.clone(), shards: r.shards })
                    .collect(),
                nodes: nodes
                    .map(|n| NodeEntry {
                        id: n.id,
                        region: n.region.clone(),
                        peer: url(n.peer_port),
                        client: url(n.client_port),
                    })
                    .collect(),
            },
            listen: ListenSection {
                client: local(node.client_port),
                peer: local(node.peer_port),
                admin: local(node.admin_port),
                insecure_non_loopback: false,
            },
            tls: Default::default(),
            limits,
            storage,
            raft: Default::default(),
            placement: Default::default(),
            wan: self.wan.clone(),
            log: Default::default(),
            runtime,
            file: file.to_owned(),
        }
    }

    /// Whether all listeners can have their ports now.
    pub(super) fn check_ports(&self) -> Result<(), DevError> {
        let remedy = "--base-port with a new --data folder";
        for node in &self.nodes {
            for (listener, port) in node.ports() {
                ports::check(port).map_err(|source| DevError::PortInUse {
                    port,
                    listener,
                    node: node.name.clone(),
                    remedy,
                    source,
                })?;
            }
        }
        Ok(())
    }
}

fn write(config: &NodeConfig) -> Result<(), DevError> {
    let text = config.to_toml().map_err(|e| io(&config.file)(std::io::Error::other(e)))?;
    let text = format!(
        "# A node of a world made by `meridian dev`. Start it by hand with: meridian serve --config node.toml\n\n{text}"
    );
    crate::files::replace(&config.file, text.as_bytes()).map_err(io(&config.file))
}

/// Client, peer and admin port of each node.
fn choose_ports(base: Option<u16>, nodes: usize) -> Result<Vec<[u16; 3]>, DevError> {
    if let Some(base) = base {
        let last = u32::from(base) + u32::from(ADMIN_PORTS) + nodes as u32 - 1;
        if last > u32::from(u16::MAX) || nodes > usize::from(PEER_PORTS) || base == 0 {
            return Err(DevError::BasePort { base, nodes, last });
        }
        return Ok((0..nodes as u16)
            .map(|i| [base + i, base + PEER_PORTS + i, base + ADMIN_PORTS + i])
            .collect());
    }
    let free = ports::free(3 * nodes).ok_or(DevError::NoFreePorts(3 * nodes))?;
    Ok(free.chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect())
}
