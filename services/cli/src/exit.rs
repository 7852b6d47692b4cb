//! How a command ends.

use std::process::ExitCode;

use meridian_sdk::{ConsumeError, PublishError, Reason, SdkError};

/// For `--help`.
pub const TABLE: &str = "\
Exit codes:
  0    done
  1    what was checked is not so (verify: copies differ, are behind or cannot be asked)
  2    usage, or bad input (a file, a line, a name, a limit)
  3    the server refused
  4    no node answered in time
  130  ended by Ctrl-C";

/// An exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// What was checked is not so.
    NotSo = 1,
    /// Usage, or bad input.
    BadInput = 2,
    /// The server refused.
    Refused = 3,
    /// No node answered in time.
    Unreachable = 4,
    /// Ended by Ctrl-C.
    Interrupted = 130,
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub struct Failure {
    /// How it ends.
    pub exit: Exit,
    /// What is wrong, and what to do. Empty: everything was said.
    pub message: String,
}

/// What a command comes to.
pub type Outcome = Result<Exit, Failure>;

impl Failure {
    /// Bad usage or input.
    pub fn input(message: impl Into<String>) -> Self {
        Self { exit: Exit::BadInput, message: message.into() }
    }
}

impl From<SdkError> for Failure {
    fn from(error: SdkError) -> Self {
        Self { exit: of_client(&error), message: error.to_string() }
    }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        Self { exit: of_publish(&error), message: error.to_string() }
    }
}

impl From<ConsumeError> for Failure {
    fn from(error: ConsumeError) -> Self {
        let exit = match &error {
            ConsumeError::Client(error) => of_client(error),
            ConsumeError::OtherStream { .. } => Exit::BadInput,
            ConsumeError::Hole { .. } | ConsumeError::Damaged { .. } => Exit::NotSo,
            ConsumeError::Protocol(_) => Exit::Refused,
        };
        Self { exit, message: error.to_string() }
    }
}

/// The exit code of a client's error.
pub fn of_client(error: &SdkError) -> Exit {
    match error {
        SdkError::NoEndpoints | SdkError::Endpoint { .. } | SdkError::Name(_) => Exit::BadInput,
        SdkError::Refused(error) if is_bad_input(error.reason) => Exit::BadInput,
        SdkError::Refused(_) | SdkError::Foreign { .. } | SdkError::Protocol(_) => Exit::Refused,
        SdkError::Unreachable { .. } => Exit::Unreachable,
    }
}

/// Whether the server refuses what was given, whatever its state: the same as what is refused before it is asked.
fn is_bad_input(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::InvalidArgument | Reason::BadName | Reason::BadPartitionCount | Reason::BadCursor
    )
}

fn of_publish(error: &PublishError) -> Exit {
    match error {
        PublishError::Client(error) => of_client(error),
        PublishError::Event(_) | PublishError::NoSuchPartition { .. } => Exit::BadInput,
        PublishError::Abandoned { earlier, .. } => of_publish(earlier),
        PublishError::Stalled { .. } => Exit::Unreachable,
        PublishError::ProducerExpired { .. }
        | PublishError::ProducerFenced { .. }
        | PublishError::OutOfSequence { .. }
        | PublishError::Refused { .. }
        | PublishError::Protocol(_)
        | PublishError::Closed => Exit::Refused,
    }
}

/// Says what went wrong, and gives the code to the system.
pub fn finish(outcome: Outcome) -> ExitCode {
    let exit = match outcome {
        Ok(exit) => exit,
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("meridian: {}", failure.message);
            }
            failure.exit
        }
    };
    ExitCode::from(exit as u8)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use meridian_sdk::{ApiError, Reason, Stored};

    use super::*;

    #[test]
    fn each_kind_of_error_has_its_code() {
        let refused = SdkError::Refused(ApiError::new(Reason::StreamNotFound, "no stream of that name"));
        let unreachable =
            SdkError::Unreachable { endpoints: "a".into(), waited: Duration::ZERO, last: "b".into() };
        assert_eq!(Failure::from(refused.clone()).exit, Exit::Refused);
        let limit = SdkError::Refused(ApiError::new(Reason::BadPartitionCount, "at most 1024"));
        assert_eq!(Failure::from(limit).exit, Exit::BadInput);
        assert_eq!(Failure::from(unreachable).exit, Exit::Unreachable);
        assert_eq!(Failure::from(SdkError::NoEndpoints).exit, Exit::BadInput);
        assert_eq!(Failure::from(PublishError::Client(refused.clone())).exit, Exit::Refused);
        let abandoned = PublishError::Abandoned {
            earlier: std::sync::Arc::new(PublishError::Stalled {
                waited: Duration::ZERO,
                events: 1,
                sent: 1,
                last: String::new(),
                stored: Stored::Unknown,
            }),
            stored: Stored::Unknown,
        };
        assert_eq!(Failure::from(abandoned).exit, Exit::Unreachable);
    }

    #[test]
    fn the_table_names_every_code() {
        for exit in
            [Exit::Ok, Exit::NotSo, Exit::BadInput, Exit::Refused, Exit::Unreachable, Exit::Interrupted]
        {
            assert!(TABLE.contains(&format!("\n  {:<3}  ", exit as u8)), "{exit:?}");
        }
    }
}
