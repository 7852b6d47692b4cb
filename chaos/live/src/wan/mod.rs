//! A WAN of our own between regions: what a router sends to another region goes through user space, and comes out later,
//! fewer, slower or not at all.
//!
//! Flows in: IP packets from a TUN device in each region's router, and a [`Profile`] for each direction, changeable at any
//! time. Flows out: the same packets on the other region's device. Must never hold more than a profile's queue and what
//! is in flight, nor reorder the packets of a direction.

mod line;
mod profile;
mod relay;

pub use line::{Counted, Line};
pub use profile::Profile;
pub use relay::Relay;
