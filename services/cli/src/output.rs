//! Standard output. A reader that went away (`| head`) ends a command quietly.

use std::fmt;
use std::io::{self, Write};

use crate::exit::{Exit, Failure};

/// Prints a line.
pub fn line(text: impl fmt::Display) -> Result<(), Failure> {
    writeln!(io::stdout().lock(), "{text}").map_err(failed)
}

/// Prints a value as one line of JSON.
pub fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::input(error.to_string()))?;
    line(text)
}

/// What a failed write to stdout means.
pub fn failed(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure { exit: Exit::Ok, message: String::new() };
    }
    Failure::input(format!("cannot write to stdout: {error}"))
}
