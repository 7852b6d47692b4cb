//! Batches of events, encoded as Kafka's RecordBatch v2: the bytes that are stored, mirrored and delivered.
//!
//! Flows in: bytes that a client sent or that a log holds, and events to encode. Flows out: a typed verdict on the
//! bytes, the events in them, or new bytes. Must never do I/O, read a clock, trust a length that it has not checked,
//! or take more memory than [`Limits`] allows, whatever the bytes claim. The format is drawn in [`layout`].
//!
//! A batch is walked once, by the gateway, with [`validate`]. After that only [`stamp`] changes it, in the two fields
//! that lie outside its checksum.

mod builder;
mod codec;
mod compress;
mod decode;
mod decompress;
mod error;
mod event;
pub mod layout;
mod limits;
mod producer;
mod stamp;
mod validate;
mod varint;
mod view;
mod walk;

pub use builder::BatchBuilder;
pub use codec::Codec;
pub use decode::{Records, decode};
pub use error::{BatchError, RecordFault};
pub use event::{Event, Header, MAX_TIMESTAMP, Record};
pub use layout::HEADER_BYTES;
pub use limits::Limits;
pub use producer::{Producer, Sequence};
pub use stamp::{stamp, stamped};
pub use validate::{BatchInfo, validate};
pub use view::BatchView;
