//! Placement's machine: a region's nodes, the replica sets of its shards, and who leads them.
//!
//! Flows in: commands, in the order that Raft gives them. Flows out: a reply for each, and the state to read. Must never
//! do I/O, read a clock or draw a random number, and never judge who is alive: that is the driver's, whose word is
//! checked here against the state alone. A command is a batch; each of its changes is done or refused on its own.

mod apply;
mod command;
mod convert;
mod convert_rows;
mod elections;
mod joining;
mod machine;
mod nodes;
mod reply;
mod rows;
mod sets;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

pub use command::{Change, Command, Found, Join};
pub use joining::Due;
pub use machine::reply_from_bytes;
pub use reply::{Outcome, Refusal, RefusalCode, Reply};
pub use rows::{Elected, Founded, Move, NodeRow, NodeState, ShardRow, majority};
pub use state::Placement;
