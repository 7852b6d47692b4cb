//! The gRPC services that clients call: translate, authenticate, route, push back.
//!
//! Flows in: requests of clients. Flows out: batches for shards, proposals for the catalog, and answers. Must never open
//! a file or know where a frame lies: it reads through the shard's reader, and what it refuses it refuses before an offset
//! is given.

mod admit;
mod answered;
mod at_risk;
mod batches;
mod budget;
mod call;
mod cluster;
mod connections;
mod events;
mod following;
mod held;
mod latest;
mod mending;
mod metered;
mod metered_body;
mod metrics;
mod news;
mod nodes;
mod operators;
mod outgoing;
mod peers;
mod publish;
mod reads;
mod received;
mod serve;
mod shared;
mod streams;
mod subscribe;
mod waiting;

pub use budget::ByteBudget;
pub use connections::{ClientStream, Connection, accept, accepted};
pub use metered::MeteredLayer;
pub use metrics::{Metrics, collect_links, collect_shards};
pub use reads::{READ_BYTES, ReadServer};
pub use serve::{ServeOptions, routes};
pub use shared::{CURSOR_BYTES, DECODED_BYTES, Gateway, GatewayConfig, GatewayParts};
