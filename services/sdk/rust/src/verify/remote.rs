//! A copy behind a region's client.

use meridian_types::{Lane, Offset};
use meridian_wire::Reason;

use super::{Copies, ReadError};
use crate::{Admin, Client, LaneExtent, RangeDigest, SdkError};

/// A region's copy of a stream, asked over the network.
pub struct RemoteCopy {
    region: String,
    stream: String,
    admin: Admin,
}

impl RemoteCopy {
    /// The copy of `stream` in the region that `client` talks to.
    pub fn new(region: impl Into<String>, stream: impl Into<String>, client: &Client) -> Self {
        Self { region: region.into(), stream: stream.into(), admin: client.admin() }
    }
}

impl Copies for RemoteCopy {
    fn region(&self) -> &str {
        &self.region
    }

    async fn lanes(&self) -> Result<Vec<LaneExtent>, ReadError> {
        self.admin.list_lanes(&self.stream).await.map_err(read_error)
    }

    async fn digest(&self, lane: Lane, start: Offset, end: Offset) -> Result<RangeDigest, ReadError> {
        self.admin.digest(&self.stream, lane, start, end).await.map_err(read_error)
    }
}

fn read_error(error: SdkError) -> ReadError {
    match error {
        SdkError::Unreachable { .. } => ReadError::Unreachable(error.to_string()),
        SdkError::Refused(refusal) if refusal.reason == Reason::Damaged => {
            ReadError::Damaged(refusal.message)
        }
        error => ReadError::Refused(error.to_string()),
    }
}
