//! Worlds of real processes to break: the harness of the tests in this crate.
//!
//! Flows in: which regions, how far apart. Flows out: nodes that run as processes of their own, signals to them, the
//! command line's answers, typed. Must never send a signal to a process that it did not start, leave one behind, or
//! reach into a node other than through what a user has: files, signals, ports, the binary.
//!
//! It panics where something cannot be done: its callers are tests, and a panic keeps the world's folder.

mod binary;
mod command;
mod consumed;
mod http;
mod load;
mod seed;
mod shards;
mod signals;
mod verified;
mod wait;
mod world;

pub use binary::meridian;
pub use command::{Background, Ended};
pub use consumed::{Row, consume, next_rows};
pub use http::{get, post};
pub use load::{Acked, Load, holds_exactly, longest_silence, numbers};
pub use seed::{Seed, say, skip};
pub use shards::{NodeRow, ShardRow};
pub use verified::{CopyReport, LaneReport, RegionReport, Report};
pub use wait::until;
pub use world::{Setup, World};
