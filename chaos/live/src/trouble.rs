//! Why a scenario did not end well: one type, because the runner's table needs to know only three kinds.

use std::fmt;
use std::io;

/// What ended a scenario early, or a tool's failure.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The machine lacks something: root, a program, a feature of the kernel. Counted, never hidden.
    #[error("{0}")]
    Skip(String),
    /// A tool could not do its work: says nothing about the product.
    #[error("{0}")]
    Tool(String),
    /// The product broke a promise.
    #[error("{0}")]
    Broken(String),
}

impl Trouble {
    /// A tool's failure, in words.
    pub fn tool(what: impl fmt::Display) -> Self {
        Self::Tool(what.to_string())
    }

    /// A broken promise, in words.
    pub fn broken(what: impl fmt::Display) -> Self {
        Self::Broken(what.to_string())
    }
}

/// Says what was tried when a tool's call fails.
pub trait Context<T> {
    /// With what was tried before the reason.
    ///
    /// # Errors
    /// [`Trouble::Tool`]
    fn context(self, what: impl fmt::Display) -> Result<T, Trouble>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T, Trouble> {
        self.map_err(|error| Trouble::Tool(format!("{what}: {error}")))
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Tool(error.to_string())
    }
}
