//! Faults on real processes that no SIGKILL shows: of the network, the disk and the clock, and the laws over what was
//! recorded meanwhile.
//!
//! Flows in: a list of scenarios. Flows out: a table of what was injected and what held. Must never touch the machine's
//! own network, disks or clock: everything happens in namespaces, mounts and files of its own, found by a prefix and
//! removed by the next run if this one is interrupted.

mod alone;
pub mod binary;
pub mod clock;
pub mod disk;
pub mod laws;
pub mod net;
pub mod record;
pub mod runner;
pub mod scenario;
pub mod shell;
mod skipped;
pub mod trouble;
pub mod wan;
pub mod world;

pub use alone::Alone;
pub use skipped::{or_skip, say};
