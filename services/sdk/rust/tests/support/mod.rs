//! A region made of memory, for tests of clients: one node that keeps streams, sequences and lanes as the protocol says,
//! and misbehaves on request; and a wire that breaks.

// Each test binary uses a part of this.
#![allow(dead_code, missing_docs, unused_imports)]

pub mod proxy;
pub mod server;
pub mod store;

use std::time::Duration;

use meridian_sdk::{Client, ClientOptions, PublisherOptions};

pub use proxy::CutProxy;
pub use server::FakeServer;
pub use store::{Faults, Store};

/// A client that does not wait long.
pub fn client(endpoints: &[String]) -> Client {
    let options = ClientOptions {
        min_backoff: Duration::from_millis(1),
        max_backoff: Duration::from_millis(20),
        retry_for: Duration::from_secs(10),
        ..ClientOptions::default()
    };
    Client::connect(endpoints.to_vec(), options).unwrap()
}

/// Small batches, so that there are many.
pub fn small_batches() -> PublisherOptions {
    PublisherOptions {
        batch_bytes: 2048,
        progress_timeout: Duration::from_secs(30),
        ..PublisherOptions::default()
    }
}
