//! Configuration and composition of one node, and of a world of nodes on one machine.
//!
//! Flows in: a `node.toml`. Flows out: a running node, or an error that says what to do. Must never decide anything
//! about data: it only reads settings, starts things, wires them to each other and ends them.

mod admin;
pub mod config;
mod descriptors;
pub mod dev;
mod files;
pub mod folder;
mod founding;
pub mod lock;
pub mod log;
mod peers;
mod serve;
mod shards;
mod socket_buffers;
pub mod wan;

pub use serve::{ServeError, abort_on_panic, serve, serve_on};
