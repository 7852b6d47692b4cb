//! Everything that clients did and were told, line by line, and what the lanes hold in the end.
//!
//! Flows in: publishers' calls and answers, what consumers are given, what was injected when. Flows out: a JSON-lines
//! file that a person can read after a red run, and the evidence that the laws are checked over. Must never leave out an
//! answer, nor take an event without one for acknowledged.

mod asker;
mod consumer;
mod entry;
mod finals;
mod publisher;
mod recorder;
mod value;

pub use asker::Asking;
pub use consumer::Consuming;
pub use entry::{Entry, What};
pub use finals::{Finals, Reading, Row, read_finals, read_lanes, read_node};
pub use publisher::{Load, Publishing};
pub use recorder::Recorder;

pub(crate) use consumer::lane_name;
pub(crate) use value::RAW;
