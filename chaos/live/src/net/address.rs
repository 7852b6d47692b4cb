//! Names and addresses: everything about a place in the network follows from its numbers.

use std::net::Ipv4Addr;

/// What every namespace of ours is named after; leftovers of an interrupted run are found by it.
pub const PREFIX: &str = "mlive-";
/// The clients' host number in each region's network.
pub const CLIENT_HOST: u8 = 200;
const FIRST_NODE_HOST: u8 = 10;

/// Where something runs. Regions and nodes are numbered from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A region's router: its bridge, and its end of the WAN.
    Router(u8),
    /// A node: region, and number within it.
    Node(u8, u8),
    /// The clients of all regions: in each region's network with a foot of their own, so that they never cross the WAN.
    Clients,
}

impl Place {
    /// The namespace's name.
    pub fn namespace(self) -> String {
        match self {
            Self::Router(region) => format!("{PREFIX}r{region}"),
            Self::Node(region, node) => format!("{PREFIX}n{region}-{node}"),
            Self::Clients => format!("{PREFIX}clients"),
        }
    }

    /// Its address in a region's network.
    pub fn address(self, region: u8) -> Ipv4Addr {
        let host = match self {
            Self::Router(_) => 1,
            Self::Node(_, node) => FIRST_NODE_HOST + node,
            Self::Clients => CLIENT_HOST,
        };
        Ipv4Addr::new(10, 77, region, host)
    }

    /// A node's address.
    pub fn of_node(region: u8, node: u8) -> Ipv4Addr {
        Self::Node(region, node).address(region)
    }
}

/// All regions' networks.
pub const ALL: &str = "10.77.0.0/16";

/// The region that an address is in.
pub fn region_of(address: Ipv4Addr) -> Option<u8> {
    match address.octets() {
        [10, 77, region, _] => Some(region),
        _ => None,
    }
}
