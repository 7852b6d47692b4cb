//! One network for each world: a namespace a node, one a region for its bridge and its end of the WAN, one for clients.
//!
//! Flows in: how many regions and nodes. Flows out: namespaces that processes are started in, and directed cuts between
//! any two of them. Must never touch the machine's own network: nothing here has a route out of these namespaces.

mod address;
mod cuts;
mod enter;
mod namespaces;

pub(crate) use address::region_of;
pub use address::{CLIENT_HOST, PREFIX, Place};
pub use cuts::{Cut, Cuts};
pub use enter::{enter, enter_for_good};
pub use namespaces::Namespaces;
pub(crate) use namespaces::route_wan;
