//! The one table from errors to gRPC status: each reason is stable, has one code, and travels as
//! `google.rpc.ErrorInfo` (domain [`DOMAIN`]) with `google.rpc.RetryInfo` where waiting helps.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{WireError, v1};

/// `ErrorInfo.domain` of every error of Meridian.
pub const DOMAIN: &str = "meridian";

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $text:literal => $code:ident,)*) => {
        /// Why a request is refused. The text is part of the interface and never changes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// `ErrorInfo.reason`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$variant => $text,)* }
            }

            /// The gRPC code that it travels under.
            pub const fn code(self) -> Code {
                match self { $(Reason::$variant => Code::$code,)* }
            }

            /// The inverse of [`Reason::as_str`].
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Reason::$variant),)* _ => None }
            }
        }
    };
}

reasons! {
    /// A field is absent or out of range.
    InvalidArgument = "INVALID_ARGUMENT" => InvalidArgument,
    /// A stream, tenant or region name that is not allowed.
    BadName = "BAD_NAME" => InvalidArgument,
    /// Zero partitions, or more than the limit, or fewer than there are.
    BadPartitionCount = "BAD_PARTITION_COUNT" => InvalidArgument,
    /// A partition that the stream does not have.
    NoSuchPartition = "NO_SUCH_PARTITION" => OutOfRange,
    /// An event over the limit.
    EventTooLarge = "EVENT_TOO_LARGE" => InvalidArgument,
    /// A batch over the limit, as sent or as it decompresses.
    BatchTooLarge = "BATCH_TOO_LARGE" => InvalidArgument,
    /// A batch that is cut short, mangled, or says what is not so.
    BadBatch = "BAD_BATCH" => InvalidArgument,
    /// A cursor that is mangled, of another stream, or of a newer version.
    BadCursor = "BAD_CURSOR" => InvalidArgument,
    /// No stream of that name in that tenant.
    StreamNotFound = "STREAM_NOT_FOUND" => NotFound,
    /// No such tenant.
    TenantNotFound = "TENANT_NOT_FOUND" => NotFound,
    /// A stream of that name with other settings.
    StreamExists = "STREAM_EXISTS" => AlreadyExists,
    /// The stream was changed by another meanwhile.
    VersionConflict = "VERSION_CONFLICT" => Aborted,
    /// A durability that is not offered.
    DurabilityUnavailable = "DURABILITY_UNAVAILABLE" => Unimplemented,
    /// An older epoch of a producer.
    ProducerFenced = "PRODUCER_FENCED" => FailedPrecondition,
    /// The producer's session is gone: whether the batch was stored cannot be told any more.
    ProducerExpired = "PRODUCER_EXPIRED" => FailedPrecondition,
    /// A sequence that is neither the next nor one of the last.
    OutOfSequence = "OUT_OF_SEQUENCE" => FailedPrecondition,
    /// The node takes no more for now.
    Overloaded = "OVERLOADED" => ResourceExhausted,
    /// The disk is at its reserve.
    DiskFull = "DISK_FULL" => ResourceExhausted,
    /// The reader takes nothing; its place is given to others.
    SlowReader = "SLOW_READER" => ResourceExhausted,
    /// The shard has no leader here now.
    NotLeader = "NOT_LEADER" => Unavailable,
    /// The node is starting, stopping or not yet part of a cluster.
    NotReady = "NOT_READY" => Unavailable,
    /// No node of the region that serves the shard is within reach of the one that was asked.
    ShardUnreachable = "SHARD_UNREACHABLE" => Unavailable,
    /// The catalog has no leader within reach.
    CatalogUnavailable = "CATALOG_UNAVAILABLE" => Unavailable,
    /// The catalog refuses the change.
    CatalogRefused = "CATALOG_REFUSED" => FailedPrecondition,
    /// The region's placement refuses the change.
    PlacementRefused = "PLACEMENT_REFUSED" => FailedPrecondition,
    /// Not durable as asked within the deadline; it may be stored all the same.
    DeadlineExceeded = "DEADLINE_EXCEEDED" => DeadlineExceeded,
    /// Stored bytes that do not read back as they were written.
    Damaged = "DAMAGED" => DataLoss,
    /// Another cluster, an unknown node or region, or a node with another disk.
    PeerRefused = "PEER_REFUSED" => PermissionDenied,
    /// The cluster does not know the node: an operator has to admit it.
    NodeUnknown = "NODE_UNKNOWN" => PermissionDenied,
    /// The node was removed for ever.
    NodeRemoved = "NODE_REMOVED" => PermissionDenied,
    /// No version that both speak.
    VersionUnsupported = "VERSION_UNSUPPORTED" => FailedPrecondition,
    /// Something that should not happen; the log says more.
    Internal = "INTERNAL" => Internal,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error as a client gets it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct ApiError {
    /// What a program acts on.
    pub reason: Reason,
    /// What a person reads: what is wrong, and what to do.
    pub message: String,
    /// How long to wait before trying again, where that helps.
    pub retry_after: Option<Duration>,
    /// Facts: the limit, the name, the offset.
    pub metadata: BTreeMap<String, String>,
}

impl ApiError {
    /// An error without facts.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), retry_after: None, metadata: BTreeMap::new() }
    }

    /// Adds a fact.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Reads back what a server of Meridian sent; `None` where the status is another's (a proxy, the transport).
    pub fn from_status(status: &Status) -> Option<Self> {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN)?;
        Some(Self {
            reason: Reason::parse(&info.reason)?,
            message: status.message().to_owned(),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
            metadata: info.metadata.clone().into_iter().collect(),
        })
    }

    /// Reads back an error inside a stream of answers. A reason that this build does not know becomes
    /// [`Reason::Internal`] with the sender's text kept in the message.
    pub fn from_message(error: &v1::Error) -> Self {
        let (reason, message) = match Reason::parse(&error.reason) {
            Some(reason) => (reason, error.message.clone()),
            None => (Reason::Internal, format!("{}: {}", error.reason, error.message)),
        };
        Self {
            reason,
            message,
            retry_after: (error.retry_after_ms > 0).then(|| Duration::from_millis(error.retry_after_ms)),
            metadata: error.metadata.clone(),
        }
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let metadata: HashMap<String, String> = error.metadata.into_iter().collect();
        let mut details = ErrorDetails::new();
        details.set_error_info(error.reason.as_str(), DOMAIN, metadata);
        if let Some(wait) = error.retry_after {
            details.set_retry_info(Some(wait));
        }
        Status::with_error_details(error.reason.code(), error.message, details)
    }
}

impl From<ApiError> for v1::Error {
    fn from(error: ApiError) -> Self {
        Self {
            code: error.reason.code() as u32,
            reason: error.reason.as_str().to_owned(),
            message: error.message,
            retry_after_ms: error
                .retry_after
                .map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1)),
            metadata: error.metadata,
        }
    }
}

impl From<WireError> for ApiError {
    fn from(error: WireError) -> Self {
        Self::new(Reason::InvalidArgument, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_both_ways() {
        for &reason in Reason::ALL {
            let error =
                ApiError::new(reason, "what to do").with("limit", 8).retry_after(Duration::from_millis(250));
            let status = Status::from(error.clone());
            assert_eq!(status.code(), reason.code());
            assert_eq!(ApiError::from_status(&status), Some(error.clone()));
            assert_eq!(ApiError::from_message(&v1::Error::from(error.clone())), error);
        }
    }

    #[test]
    fn anothers_status_is_not_ours() {
        assert_eq!(ApiError::from_status(&Status::unavailable("connection refused")), None);
    }
}
