//! Placement's driver: decides from who is heard and what replicas answer which elections to hold and which sets to change.
//!
//! Flows in: heartbeats, fence answers, the placement state and the time. Flows out: changes to propose, replicas to
//! fence, elections to tell. Must never do I/O, read a clock or draw a random number, and never be needed for safety: it
//! runs on the node that leads the placement group, is made anew with each leadership, and a deposed one may still speak.
//! What it proposes is checked by the machine, in the order of the group's log. That the elected has every committed frame
//! rests on `election.rs` alone.

mod config;
mod core;
mod effect;
mod election;
mod input;
mod lead;
mod liveness;
mod rank;
mod repair;
#[cfg(test)]
mod tests;
mod watch;

pub use config::Config;
pub use core::Driver;
pub use effect::{Effect, Election};
pub use input::{FenceAnswer, FenceOutcome, Heartbeat, Input, Led};
pub use liveness::Liveness;
