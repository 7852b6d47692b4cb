//! The Rust client of Meridian: publish to a region, read every region's events from it, administer, verify.
//!
//! Flows in: events, stream names, cursors, endpoints of one region's nodes. Flows out: acknowledgements with their
//! place, events in the order of their lanes, typed errors that say what to do. Must never publish an event twice or
//! out of its order within a partition, give a new number to a batch whose fate is unknown, skip an event silently,
//! or hold more memory than its options allow.
//!
//! The rules are in pure cores (`publisher::core`, `consumer::resume`, `verify::check`), driven by thin tasks.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use meridian_sdk::{Client, ClientOptions, Event, PublisherOptions};
//!
//! let client = Client::connect(vec!["http://127.0.0.1:7401".into()], ClientOptions::default())?;
//! let publisher = client.publisher("orders", PublisherOptions::default()).await?;
//! let delivery = publisher.send(Event::new("paid").with_key("order-17")).await?;
//! let ack = delivery.await?;
//! println!("stored at {} offset {}", ack.lane, ack.offset);
//! # Ok(())
//! # }
//! ```

mod admin;
mod backoff;
mod client;
mod consumer;
mod error;
mod fault;
mod options;
mod publisher;
pub mod verify;

pub use admin::{Admin, LaneExtent, RangeDigest};
pub use client::Client;
pub use consumer::{ConsumeError, ConsumedEvent, Consumer, Gap, Item, Latest, Mark};
pub use error::SdkError;
pub use meridian_batch::{BatchError, Codec, Header};
pub use meridian_types as types;
pub use meridian_wire::{ApiError, Reason, v1};
pub use options::{ClientOptions, ConsumerOptions, PublisherOptions, StartFrom};
pub use publisher::{Ack, Delivery, Event, PublishError, Publisher, Stored, TrySendError};
