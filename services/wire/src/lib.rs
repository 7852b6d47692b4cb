//! What is said between processes: the generated protobuf, its conversions to `types`, and the one table from errors to
//! gRPC status. Makes no decision: it translates.

mod codec;
mod convert;
mod endpoint;
mod error;

pub use codec::{
    BoundedCodec, BoundedDecoder, GRPC_PREFIX, HTTP_FRAME, PUBLISH_EVENTS, PUBLISH_HEADERS, PublishCounts,
    count_publish, decode, frame_into, framed, framed_before,
};
pub use convert::{WireError, origin, parse_uuid};
pub use endpoint::endpoint;
pub use error::{ApiError, DOMAIN, Reason};
/// What every generated message is.
pub use prost::Message;

/// The package `meridian.v1`, generated.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("meridian.v1");
}

/// The compiled descriptors of `meridian.v1`, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The peer protocol versions that this build speaks.
pub const PEER_VERSIONS: std::ops::RangeInclusive<u32> = 1..=1;
