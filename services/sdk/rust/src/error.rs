//! What can go wrong with a call.

use std::time::Duration;

use meridian_types::NameError;
use meridian_wire::ApiError;

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SdkError {
    /// Nobody to talk to.
    #[error("no endpoint given; name at least one node of a region, as http://HOST:PORT")]
    NoEndpoints,
    /// Text that is no endpoint.
    #[error("{endpoint:?} is no endpoint ({reason}); write it as http://HOST:PORT")]
    Endpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A name that no server would take.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The server understood, and refuses.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// No node answered, or none could help, for as long as was allowed.
    #[error(
        "nothing came of it at {endpoints} for {:.1} s (last: {last}); check that a node runs there and is ready",
        waited.as_secs_f64()
    )]
    Unreachable {
        /// Which nodes were tried.
        endpoints: String,
        /// For how long.
        waited: Duration,
        /// What the last try came to.
        last: String,
    },
    /// An answer that is not Meridian's, and that trying again does not change.
    #[error("{endpoints} answered {code}: {message}; is it a client listener of Meridian?")]
    Foreign {
        /// Which nodes were tried.
        endpoints: String,
        /// The gRPC code.
        code: String,
        /// The text with it.
        message: String,
    },
    /// An answer that contradicts the protocol.
    #[error("the server broke the protocol: {0}; check that client and node are of compatible versions")]
    Protocol(String),
}
