//! Who is at the other end.

use std::ops::RangeInclusive;
use std::sync::Arc;

use meridian_types::{Boot, ClusterUuid, DiskUuid, Incarnation, NodeId, RegionName};
use meridian_wire::{ApiError, PEER_VERSIONS, Reason, parse_uuid, v1};

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its cluster.
    pub cluster: ClusterUuid,
    /// Its region.
    pub region: RegionName,
    /// Its number.
    pub node: NodeId,
    /// Its disk.
    pub disk: DiskUuid,
    /// How often it has started on that disk.
    pub boot: Boot,
    /// The incarnation of its region that it serves; zero: an older build, which does not say.
    pub incarnation: Incarnation,
}

impl Identity {
    /// The first message of a link, from either side.
    pub fn to_hello(&self) -> v1::Hello {
        v1::Hello {
            cluster_uuid: self.cluster.to_string(),
            min_version: *PEER_VERSIONS.start(),
            max_version: *PEER_VERSIONS.end(),
            region: self.region.to_string(),
            node: self.node.0,
            disk_uuid: self.disk.to_string(),
            boot: self.boot.0,
            incarnation: self.incarnation.0.into(),
        }
    }
}

/// A peer's Hello, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerHello {
    /// What it says of itself.
    pub identity: Identity,
    /// What it speaks.
    pub versions: RangeInclusive<u32>,
}

impl PeerHello {
    /// Reads a Hello.
    ///
    /// # Errors
    /// A field is absent or malformed.
    pub fn read(hello: &v1::Hello) -> Result<Self, ApiError> {
        let identity = Identity {
            cluster: ClusterUuid(parse_uuid("cluster_uuid", &hello.cluster_uuid)?),
            region: RegionName::new(hello.region.as_str())
                .map_err(|error| ApiError::new(Reason::BadName, error.to_string()))?,
            node: NodeId(hello.node),
            disk: DiskUuid(parse_uuid("disk_uuid", &hello.disk_uuid)?),
            boot: Boot(hello.boot),
            incarnation: Incarnation(u16::try_from(hello.incarnation).unwrap_or(u16::MAX)),
        };
        Ok(Self { identity, versions: hello.min_version..=hello.max_version })
    }

    /// The checks that need no catalog: one cluster, and a version that both speak.
    ///
    /// # Errors
    /// PEER_REFUSED or VERSION_UNSUPPORTED.
    pub fn check(&self, me: &Identity) -> Result<(), ApiError> {
        if self.identity.cluster != me.cluster {
            let (theirs, mine) = (self.identity.cluster, me.cluster);
            return Err(ApiError::new(
                Reason::PeerRefused,
                format!("node {} is of cluster {theirs}, this is cluster {mine}", self.identity.node),
            ));
        }
        if self.versions.start() > PEER_VERSIONS.end() || self.versions.end() < PEER_VERSIONS.start() {
            return Err(ApiError::new(
                Reason::VersionUnsupported,
                format!(
                    "the peer speaks versions {:?}, this node {PEER_VERSIONS:?}: upgrade the older one",
                    self.versions
                ),
            ));
        }
        Ok(())
    }
}

impl PeerHello {
    /// What nodes of one region ask of each other besides: that both serve one incarnation. A survivor that does not know yet that
    /// its region is restored would lead what is over, and take for a copy what it is to write.
    ///
    /// # Errors
    /// PEER_REFUSED. It passes once both have learnt of the restore.
    pub fn check_neighbour(&self, me: &Identity) -> Result<(), ApiError> {
        let Identity { node, region, incarnation, .. } = &self.identity;
        let what = if *region != me.region {
            format!("node {node} is of region {region}")
        } else if *incarnation != me.incarnation && *incarnation != Incarnation(0) {
            let mine = me.incarnation;
            format!(
                "node {node} serves incarnation {incarnation} of region {region}, this node {mine}; one of them is to learn of the restore"
            )
        } else {
            return Ok(());
        };
        Err(ApiError::new(Reason::PeerRefused, what))
    }
}

/// What the catalog knows against a peer: an unknown node, another disk, another region.
pub type Vetting = Arc<dyn Fn(&PeerHello) -> Result<(), ApiError> + Send + Sync>;
