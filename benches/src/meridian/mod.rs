//! Meridian: its processes, and its clients as others would use them.

mod calls;
mod messages;
mod node;
mod reader;
mod sdk;
mod world;

pub use calls::Calls;
pub use messages::Messages;
pub use reader::Reader;
pub use sdk::Sdk;
pub use world::{Region, World};
