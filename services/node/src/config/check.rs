//! What a type cannot say: how the values of a `node.toml` must fit each other.

use std::collections::BTreeMap;
use std::net::IpAddr;

use meridian_types::limits::SHARDS;
use meridian_wire::endpoint;

use super::{ConfigError, NodeConfig, Span};

/// Room for the largest batch and its headers in one round and one file.
const LEAST_FILE_BYTES: u64 = 16 << 20;
const LEAST_ROUND_BYTES: u64 = 64 << 10;
/// A publish of the largest batch must fit, or it could never be taken.
const LEAST_IN_FLIGHT: u64 = 16 << 20;
/// HTTP/2's own default, and the most that it allows.
const LEAST_WINDOW: u64 = 64 << 10;
const MOST_WINDOW: u64 = (1 << 31) - 1;
/// The most nodes of the first start: each is a voter of the catalog, whose leader writes to all of them.
pub const MOST_NODES: usize = 64;
/// Of one shard.
const MOST_REPLICAS: u8 = 7;
/// More files and tasks than a process should have.
const MOST_AT_ONCE: usize = 1 << 20;

impl NodeConfig {
    /// Checks how the values fit each other; [`NodeConfig::parse`] calls it, and so must who builds one by hand.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] names the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_tls()?;
        self.check_regions()?;
        self.check_nodes()?;
        self.check_self()?;
        self.check_listeners()?;
        self.check_numbers()?;
        self.check_groups()?;
        self.check_wan()
    }

    fn invalid(&self, key: impl Into<String>, reason: impl Into<String>) -> ConfigError {
        ConfigError::Invalid { file: self.file.clone(), key: key.into(), reason: reason.into() }
    }

    fn check_tls(&self) -> Result<(), ConfigError> {
        let tls = &self.tls;
        let set = [
            ("client_cert", &tls.client_cert),
            ("client_key", &tls.client_key),
            ("client_ca", &tls.client_ca),
            ("peer_cert", &tls.peer_cert),
            ("peer_key", &tls.peer_key),
            ("peer_ca", &tls.peer_ca),
        ];
        match set.iter().find(|(_, value)| value.is_some()) {
            None => Ok(()),
            Some((key, _)) => Err(self.invalid(
                format!("tls.{key}"),
                "this release does not speak TLS yet, and would serve in plain what you asked to be encrypted; \
                 remove [tls], or wait for a release that has it",
            )),
        }
    }

    fn check_regions(&self) -> Result<(), ConfigError> {
        let regions = &self.cluster.regions;
        if regions.is_empty() {
            return Err(self.invalid("cluster.regions", "name at least one region"));
        }
        let (mut ids, mut names) = (BTreeMap::new(), BTreeMap::new());
        for (i, region) in regions.iter().enumerate() {
            let key = |field: &str| format!("cluster.regions[{i}].{field}");
            if region.id.get() == 0 {
                return Err(self.invalid(key("id"), "regions are numbered from 1"));
            }
            if let Some(first) = ids.insert(region.id, i) {
                return Err(self.invalid(
                    key("id"),
                    format!("{} is already the number of cluster.regions[{first}]", region.id),
                ));
            }
            if let Some(first) = names.insert(&region.name, i) {
                return Err(self.invalid(
                    key("name"),
                    format!("{} is already the name of cluster.regions[{first}]", region.name),
                ));
            }
            if !(1..=SHARDS).contains(&region.shards) {
                return Err(
                    self.invalid(key("shards"), format!("{} is not within 1 and {SHARDS}", region.shards))
                );
            }
        }
        Ok(())
    }

    fn check_nodes(&self) -> Result<(), ConfigError> {
        if self.cluster.nodes.is_empty() {
            return Err(
                self.invalid("cluster.nodes", "name the nodes of the first start, this one among them")
            );
        }
        let count = self.cluster.nodes.len();
        if count > MOST_NODES {
            return Err(self.invalid("cluster.nodes", format!("{count} are too many; at most {MOST_NODES}")));
        }
        let (mut ids, mut addresses) = (BTreeMap::new(), BTreeMap::new());
        for (i, node) in self.cluster.nodes.iter().enumerate() {
            let key = |field: &str| format!("cluster.nodes[{i}].{field}");
            if node.id.get() == 0 {
                return Err(self.invalid(key("id"), "nodes are numbered from 1"));
            }
            if let Some(first) = ids.insert(node.id, i) {
                return Err(self.invalid(
                    key("id"),
                    format!("{} is already the number of cluster.nodes[{first}]", node.id),
                ));
            }
            if self.region_named(&node.region).is_none() {
                return Err(
                    self.invalid(key("region"), format!("{} is not among cluster.regions", node.region))
                );
            }
            for (field, url) in [("peer", &node.peer), ("client", &node.client)] {
                endpoint(url).map_err(|reason| self.invalid(key(field), reason))?;
                if let Some(first) = addresses.insert(url.as_str(), key(field)) {
                    return Err(self.invalid(key(field), format!("{url} is already {first}")));
                }
            }
        }
        if !self.is_founder() {
            return Ok(());
        }
        for region in &self.cluster.regions {
            if !self.cluster.nodes.iter().any(|n| n.region == region.name) {
                return Err(self.invalid(
                    "cluster.nodes",
                    format!("region {} has no node; every region of the genesis needs one", region.name),
                ));
            }
        }
        Ok(())
    }

    fn check_self(&self) -> Result<(), ConfigError> {
        let own = &self.node;
        let advertised =
            [("node.advertise_peer", &own.advertise_peer), ("node.advertise_client", &own.advertise_client)];
        let Some(founder) = self.cluster.nodes.iter().find(|n| n.id == own.id) else {
            return self.check_added(advertised);
        };
        if let Some((key, _)) = advertised.into_iter().find(|(_, address)| address.is_some()) {
            return Err(self.invalid(
                key,
                format!("node {} is among cluster.nodes, which say where it is; remove this key", own.id),
            ));
        }
        if founder.region != own.region {
            return Err(self.invalid(
                "node.region",
                format!(
                    "is {}, but cluster.nodes says that node {} is in {}",
                    own.region, own.id, founder.region
                ),
            ));
        }
        Ok(())
    }

    /// A node that is to be added to a founded cluster, or was.
    fn check_added(&self, advertised: [(&str, &Option<String>); 2]) -> Result<(), ConfigError> {
        let own = &self.node;
        let known: Vec<_> = self.cluster.nodes.iter().map(|n| n.id.to_string()).collect();
        if own.id.get() == 0 {
            return Err(self.invalid("node.id", "nodes are numbered from 1"));
        }
        for (key, address) in advertised {
            let Some(address) = address else {
                return Err(self.invalid(
                    "node.id",
                    format!(
                        "{} is not among cluster.nodes ({}); a node that is added to a founded cluster says where it \
                         is: set node.advertise_peer and node.advertise_client",
                        own.id,
                        known.join(", ")
                    ),
                ));
            };
            endpoint(address).map_err(|reason| self.invalid(key, reason))?;
            if let Some(other) = self.cluster.nodes.iter().find(|n| [&n.peer, &n.client].contains(&address)) {
                return Err(self.invalid(key, format!("{address} is already that of node {}", other.id)));
            }
        }
        if own.advertise_peer == own.advertise_client {
            return Err(self.invalid("node.advertise_client", "is already node.advertise_peer"));
        }
        if self.region_named(&own.region).is_none() {
            return Err(self.invalid("node.region", format!("{} is not among cluster.regions", own.region)));
        }
        Ok(())
    }

    fn check_listeners(&self) -> Result<(), ConfigError> {
        let listeners = self.listen.all();
        for (i, (name, address)) in listeners.iter().enumerate() {
            if let Some((other, _)) = listeners[..i].iter().find(|(_, a)| a == address && a.port() != 0) {
                return Err(self.invalid(
                    format!("listen.{name}"),
                    format!("{address} is already listen.{other}; give each listener its own port"),
                ));
            }
            if !address.ip().is_loopback() && !self.listen.insecure_non_loopback {
                return Err(self.invalid(
                    format!("listen.{name}"),
                    format!(
                        "{address} can be reached from other machines, and this release neither encrypts nor \
                         authenticates; listen on 127.0.0.1, or accept it with listen.insecure_non_loopback = true"
                    ),
                ));
            }
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        let (limits, storage) = (&self.limits, &self.storage);
        let least = [
            ("limits.publish_bytes_in_flight", limits.publish_bytes_in_flight.get(), LEAST_IN_FLIGHT),
            ("limits.delivery_bytes_in_flight", limits.delivery_bytes_in_flight.get(), LEAST_IN_FLIGHT),
            ("limits.connection_window_bytes", limits.connection_window_bytes.get(), LEAST_WINDOW),
            ("limits.subscriber_buffer_bytes", limits.subscriber_buffer_bytes.get(), 64 << 10),
            ("limits.link_credit_bytes", limits.link_credit_bytes.get(), LEAST_IN_FLIGHT),
            ("limits.replication_bytes", limits.replication_bytes.get(), LEAST_IN_FLIGHT),
            ("limits.tail_bytes", limits.tail_bytes.get(), 1 << 20),
            ("limits.index_memory_bytes", limits.index_memory_bytes.get(), 8 << 20),
            ("storage.file_bytes", storage.file_bytes.get(), LEAST_FILE_BYTES),
            ("storage.max_round_bytes", storage.max_round_bytes.get(), LEAST_ROUND_BYTES),
        ];
        for (key, value, least) in least {
            if value < least {
                let (value, least) = (super::ByteSize(value), super::ByteSize(least));
                return Err(self.invalid(key, format!("{value} is too little; at least {least}")));
            }
        }
        if limits.subscribers == 0 {
            return Err(self.invalid("limits.subscribers", "0 would let nobody read; at least 1"));
        }
        let counts = [("limits.connections", limits.connections), ("limits.requests", limits.requests)];
        for (key, count) in counts {
            if !(1..=MOST_AT_ONCE).contains(&count) {
                return Err(self.invalid(key, format!("{count} is not within 1 and {MOST_AT_ONCE}")));
            }
        }
        if limits.connection_window_bytes.get() > MOST_WINDOW {
            return Err(self.invalid("limits.connection_window_bytes", "HTTP/2 allows less than 2GiB"));
        }
        if limits.slow_reader.get().is_zero() {
            return Err(self.invalid("limits.slow_reader", "must be above 0"));
        }
        if storage.max_round_bytes > storage.file_bytes {
            return Err(
                self.invalid("storage.max_round_bytes", "a round must fit in a file (storage.file_bytes)")
            );
        }
        if !storage.file_bytes.get().is_multiple_of(4096) {
            return Err(self.invalid("storage.file_bytes", "must be a multiple of 4KiB"));
        }
        if self.log.level.trim().is_empty() {
            return Err(self.invalid("log.level", "is empty; write info, or another level"));
        }
        if self.runtime.workers > 1024 {
            return Err(self.invalid("runtime.workers", "at most 1024; 0 means one for each CPU"));
        }
        Ok(())
    }

    fn check_groups(&self) -> Result<(), ConfigError> {
        let (raft, placement) = (&self.raft, &self.placement);
        self.check_election("raft", raft.heartbeat, raft.election_min, raft.election_max)?;
        self.check_election(
            "placement",
            placement.heartbeat,
            placement.election_min,
            placement.election_max,
        )?;
        if placement.dead_after.get() < placement.heartbeat.get() * 2 {
            return Err(self.invalid(
                "placement.dead_after",
                format!("{} is less than two heartbeats ({})", placement.dead_after, placement.heartbeat),
            ));
        }
        if placement.grace < placement.dead_after {
            return Err(self.invalid(
                "placement.grace",
                format!("{} is less than placement.dead_after ({})", placement.grace, placement.dead_after),
            ));
        }
        if !(1..=MOST_REPLICAS).contains(&placement.replication) {
            return Err(self.invalid(
                "placement.replication",
                format!("{} is not within 1 and {MOST_REPLICAS}", placement.replication),
            ));
        }
        Ok(())
    }

    /// A Raft group's times.
    fn check_election(
        &self,
        section: &str,
        heartbeat: Span,
        min: Span,
        max: Span,
    ) -> Result<(), ConfigError> {
        let invalid = |key: &str, reason: String| Err(self.invalid(format!("{section}.{key}"), reason));
        // Raft counts in these.
        if heartbeat < Span::millis(1) {
            return invalid("heartbeat", format!("{heartbeat} is too little; at least 1ms"));
        }
        if min.get() < heartbeat.get() * 2 {
            return invalid("election_min", format!("{min} is less than two heartbeats ({heartbeat})"));
        }
        if max <= min {
            return invalid("election_max", format!("must be above {section}.election_min, or votes split"));
        }
        Ok(())
    }

    fn check_wan(&self) -> Result<(), ConfigError> {
        if self.wan.is_empty() {
            return Ok(());
        }
        let regions: Vec<_> = self.cluster.regions.iter().map(|r| r.name.clone()).collect();
        self.wan
            .resolve(&regions)
            .map_err(|error| self.invalid(format!("wan.{}", error.key()), error.to_string()))?;
        // A delay on top of a real distance would be a lie about both.
        let peers = self.cluster.nodes.iter().enumerate();
        let peers = peers.map(|(i, node)| (format!("cluster.nodes[{i}].peer"), &node.peer));
        let own = self.node.advertise_peer.iter().map(|peer| ("node.advertise_peer".to_owned(), peer));
        for (key, peer) in peers.chain(own) {
            if !endpoint(peer).is_ok_and(|host| host_is_loopback(&host)) {
                return Err(self.invalid(
                    "wan",
                    format!("round trips are simulated on one machine only, and {key} is {peer}"),
                ));
            }
        }
        Ok(())
    }
}

fn host_is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
