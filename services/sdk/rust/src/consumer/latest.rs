//! Where a stream ends now, for a reader that must miss nothing which was acknowledged before it asked.

use meridian_types::{Cursor, Origin, StreamId};
use meridian_wire::v1;

use crate::SdkError;
use crate::client::{Client, events};

/// Where a stream ended when it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latest {
    /// Behind the last event of each lane. Who has read up to here ([`Cursor::has_reached`]), at whichever node of the region,
    /// has read every event that was acknowledged in this region before [`Client::latest`] was called.
    pub cursor: Cursor,
    /// What this region writes as. Only of its lanes is that said, those of its past incarnations among them: of others the cursor
    /// has what this region holds, and a node of their own region knows more.
    pub confirmed: Origin,
}

impl Client {
    /// Where a stream ends now, as a majority of the replicas of each of its shards in this region confirms.
    ///
    /// # Errors
    /// [`SdkError`]: among others that a shard had no leader for as long as was tried.
    pub async fn latest(&self, stream: &str) -> Result<Latest, SdkError> {
        let request = v1::LatestRequest { stream: Some(self.stream_ref(stream)?) };
        let ask = |channel| {
            let request = request.clone();
            async move { events(channel).latest(request).await }
        };
        let answer = self.call(self.options().attempt_timeout, ask).await?.value;
        let cursor =
            Cursor::from_bytes(&answer.cursor).map_err(|error| SdkError::Protocol(error.to_string()))?;
        if cursor.stream != StreamId(answer.stream_id) {
            return Err(SdkError::Protocol(format!(
                "a cursor of stream {} for stream {}",
                cursor.stream, answer.stream_id
            )));
        }
        let confirmed = meridian_wire::origin(answer.confirmed.as_ref());
        let confirmed = confirmed.map_err(|error| SdkError::Protocol(error.to_string()))?;
        Ok(Latest { cursor, confirmed })
    }
}
