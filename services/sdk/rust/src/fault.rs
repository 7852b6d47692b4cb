//! What a failed call means: try again, or give up. Pure.

use std::time::Duration;

use meridian_wire::{ApiError, Reason, v1};
use tonic::{Code, Status};

use crate::SdkError;

/// What to do about a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Another try may work.
    Retry {
        /// Not before this, if the server said so.
        after: Option<Duration>,
        /// What the server called it; none where the connection broke.
        reason: Option<Reason>,
        /// What happened, for people.
        text: String,
    },
    /// No other try will end differently.
    Refused(ApiError),
    /// Not from Meridian, and final.
    Foreign { code: Code, message: String },
}

/// Codes under which a server says "not now".
const fn is_passing(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded)
}

/// Judges a status.
pub(crate) fn of_status(status: &Status) -> Fault {
    if let Some(error) = ApiError::from_status(status) {
        return of_error(error, status.code());
    }
    match status.code() {
        // What the transport makes of a connection that breaks depends on when it breaks.
        code if is_passing(code) || matches!(code, Code::Unknown | Code::Internal | Code::Cancelled) => {
            Fault::broken(text_of(status))
        }
        code => Fault::Foreign { code, message: status.message().to_owned() },
    }
}

/// Judges an error inside a stream of answers.
pub(crate) fn of_message(message: &v1::Error) -> Fault {
    let code = i32::try_from(message.code).map_or(Code::Unknown, Code::from_i32);
    of_error(ApiError::from_message(message), code)
}

/// The code is the sender's, so that a reason which this build does not know is judged too.
fn of_error(error: ApiError, code: Code) -> Fault {
    if is_passing(code) {
        Fault::Retry { after: error.retry_after, reason: Some(error.reason), text: error.to_string() }
    } else {
        Fault::Refused(error)
    }
}

/// A transport's status says little itself; its sources say what happened.
fn text_of(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let more = error.to_string();
        if !more.is_empty() && !text.contains(&more) {
            text = if text.is_empty() { more } else { format!("{text}: {more}") };
        }
        source = error.source();
    }
    if text.is_empty() { status.code().to_string() } else { text }
}

impl Fault {
    /// A connection that broke, or on which nothing comes.
    pub(crate) fn broken(text: impl Into<String>) -> Self {
        Self::Retry { after: None, reason: None, text: text.into() }
    }

    /// The error of a caller that gives up now.
    pub(crate) fn give_up(self, endpoints: &str, waited: Duration) -> SdkError {
        let endpoints = endpoints.to_owned();
        match self {
            Self::Retry { text, .. } => SdkError::Unreachable { endpoints, waited, last: text },
            Self::Refused(error) => SdkError::Refused(error),
            Self::Foreign { code, message } => {
                SdkError::Foreign { endpoints, code: format!("{code:?}"), message }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_says_not_now_is_asked_again_when_it_said() {
        for reason in [Reason::Overloaded, Reason::NotLeader, Reason::DiskFull, Reason::DeadlineExceeded] {
            let error = ApiError::new(reason, "later").retry_after(Duration::from_millis(70));
            let expected = Fault::Retry {
                after: Some(Duration::from_millis(70)),
                reason: Some(reason),
                text: format!("{reason}: later"),
            };
            assert_eq!(of_status(&Status::from(error.clone())), expected);
            assert_eq!(of_message(&v1::Error::from(error)), expected);
        }
    }

    #[test]
    fn a_refusal_is_final() {
        for reason in [Reason::StreamNotFound, Reason::BadBatch, Reason::VersionConflict, Reason::Internal] {
            let error = ApiError::new(reason, "no");
            assert_eq!(of_status(&Status::from(error.clone())), Fault::Refused(error));
        }
    }

    #[test]
    fn a_broken_connection_is_tried_again_but_another_service_is_not() {
        assert!(matches!(of_status(&Status::unknown("transport error")), Fault::Retry { .. }));
        assert!(matches!(of_status(&Status::unavailable("refused")), Fault::Retry { .. }));
        assert!(matches!(of_status(&Status::unimplemented("")), Fault::Foreign { .. }));
    }

    #[test]
    fn an_unknown_reason_is_judged_by_its_code() {
        let mut error = v1::Error::from(ApiError::new(Reason::Overloaded, "later"));
        error.reason = "TOO_MANY_MOONS".into();
        assert!(matches!(of_message(&error), Fault::Retry { .. }));
    }
}
