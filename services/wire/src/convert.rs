//! Between generated messages and the newtypes of `types`.

use meridian_types::{Incarnation, Lane, Origin, Partition, RegionId, ShardId, ShardNo, StreamId};
use uuid::Uuid;

use crate::v1;

/// A message that lacks a field it must have, or has one out of range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field that must be there is not.
    #[error("the message has no {0}")]
    Missing(&'static str),
    /// A number that does not fit what it names.
    #[error("{field} {value} is out of range")]
    Range {
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// Text that is no uuid.
    #[error("{0} is no uuid")]
    Uuid(&'static str),
}

/// Reads an origin that must be there.
///
/// # Errors
/// [`WireError`] where it is absent or out of range.
pub fn origin(message: Option<&v1::Origin>) -> Result<Origin, WireError> {
    let origin = message.ok_or(WireError::Missing("origin"))?;
    let range = |field, value: u32| {
        u16::try_from(value).map_err(|_| WireError::Range { field, value: u64::from(value) })
    };
    Ok(Origin {
        region: RegionId(range("origin.region", origin.region)?),
        incarnation: Incarnation(range("origin.incarnation", origin.incarnation)?),
    })
}

/// Reads a uuid.
///
/// # Errors
/// [`WireError::Uuid`] with the field's name.
pub fn parse_uuid(field: &'static str, text: &str) -> Result<Uuid, WireError> {
    Uuid::parse_str(text).map_err(|_| WireError::Uuid(field))
}

impl From<Origin> for v1::Origin {
    fn from(origin: Origin) -> Self {
        Self { region: u32::from(origin.region.0), incarnation: u32::from(origin.incarnation.0) }
    }
}

impl From<Lane> for v1::Lane {
    fn from(lane: Lane) -> Self {
        Self { stream_id: lane.stream.0, partition: lane.partition.0, origin: Some(lane.origin.into()) }
    }
}

impl TryFrom<&v1::Lane> for Lane {
    type Error = WireError;

    fn try_from(lane: &v1::Lane) -> Result<Self, WireError> {
        Ok(Self {
            stream: StreamId(lane.stream_id),
            partition: Partition(lane.partition),
            origin: origin(lane.origin.as_ref())?,
        })
    }
}

impl From<ShardId> for v1::ShardRef {
    fn from(shard: ShardId) -> Self {
        Self { origin: Some(shard.origin.into()), number: u32::from(shard.no.0) }
    }
}

impl TryFrom<&v1::ShardRef> for ShardId {
    type Error = WireError;

    fn try_from(shard: &v1::ShardRef) -> Result<Self, WireError> {
        let no = u16::try_from(shard.number)
            .map_err(|_| WireError::Range { field: "shard.number", value: u64::from(shard.number) })?;
        Ok(Self { origin: origin(shard.origin.as_ref())?, no: ShardNo(no) })
    }
}
