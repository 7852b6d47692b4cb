//! A line of the record.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What happened, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Microseconds since the record began, of a clock that nobody steps.
    pub at: u64,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// A publisher was given an event. Its id is unique: `REGION/PUBLISHER/NUMBER`, numbers rise in the order of calls.
    Call {
        /// The event.
        id: String,
        /// Its key.
        key: String,
    },
    /// It was acknowledged.
    Ack {
        /// The event.
        id: String,
        /// Where it is.
        lane: String,
        /// Where in its lane.
        offset: u64,
        /// When, in hybrid logical time.
        hlc: u64,
        /// An earlier try had stored it.
        duplicate: bool,
    },
    /// The publisher was told that it is not acknowledged.
    Error {
        /// The event.
        id: String,
        /// What it was told.
        error: String,
    },
    /// A consumer was given an event.
    Seen {
        /// Which consumer.
        consumer: String,
        /// Where the event is.
        lane: String,
        /// Where in its lane.
        offset: u64,
        /// Which event.
        id: String,
    },
    /// A consumer was told that offsets are missing, or reading ended with an error.
    Missing {
        /// Which consumer.
        consumer: String,
        /// What it was told.
        reason: String,
    },
    /// A node is asked where the stream ends.
    Asked {
        /// Which node.
        node: String,
    },
    /// It said.
    Told {
        /// Which node.
        node: String,
        /// For lanes of which region that is linearizable.
        region: u16,
        /// Behind the last event of each lane.
        ends: BTreeMap<String, u64>,
    },
    /// The scenario injected a fault; those that count have a number, healing has none.
    Fault {
        /// In words.
        what: String,
        /// Whether it counts as one more injected.
        counts: bool,
    },
}
