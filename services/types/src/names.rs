//! Names that users give, checked once and then carried in types.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::NAME_BYTES;

/// Why a name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No name at all.
    #[error("{kind} name is empty; give 1 to {NAME_BYTES} of the characters a-z A-Z 0-9 . _ -")]
    Empty {
        /// What is named.
        kind: &'static str,
    },
    /// Longer than the limit.
    #[error("{kind} name has {bytes} bytes; at most {NAME_BYTES} are allowed")]
    TooLong {
        /// What is named.
        kind: &'static str,
        /// How long it is.
        bytes: usize,
    },
    /// A character that file names, metric labels or URLs could trip over.
    #[error("{kind} name {name:?} has the character {character:?}; allowed are a-z A-Z 0-9 . _ -")]
    Character {
        /// What is named.
        kind: &'static str,
        /// The name as given.
        name: String,
        /// The first character at fault.
        character: char,
    },
    /// `.`, `..`, or a first character that command lines take for an option.
    #[error("{kind} name {name:?} must start with a letter, a digit or '_'")]
    Start {
        /// What is named.
        kind: &'static str,
        /// The name as given.
        name: String,
    },
}

fn check(kind: &'static str, name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { kind });
    }
    if name.len() > NAME_BYTES {
        return Err(NameError::TooLong { kind, bytes: name.len() });
    }
    if let Some(character) =
        name.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-'))
    {
        return Err(NameError::Character { kind, name: name.to_owned(), character });
    }
    if name.starts_with(['.', '-']) {
        return Err(NameError::Start { kind, name: name.to_owned() });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks a name: 1 to 249 of `a-z A-Z 0-9 . _ -`, as Kafka's topics, and not starting with `.` or `-`.
            ///
            /// # Errors
            /// [`NameError`] says what is wrong.
            pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
                let name = name.into();
                check($kind, &name)?;
                Ok(Self(name))
            }

            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

name!(
    /// A stream's name, unique in its tenant.
    StreamName,
    "stream"
);
name!(
    /// A tenant's name.
    TenantName,
    "tenant"
);
name!(
    /// A region's name.
    RegionName,
    "region"
);

impl Default for TenantName {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_kafka_takes() {
        for good in ["orders", "Orders.v2", "_internal", "a-b_c.d", "0"] {
            assert!(StreamName::new(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn refuses_with_the_reason() {
        assert_eq!(StreamName::new(""), Err(NameError::Empty { kind: "stream" }));
        assert!(matches!(StreamName::new("a/b"), Err(NameError::Character { character: '/', .. })));
        assert!(matches!(StreamName::new("é"), Err(NameError::Character { character: 'é', .. })));
        assert!(matches!(StreamName::new(".."), Err(NameError::Start { .. })));
        assert!(matches!(StreamName::new("-x"), Err(NameError::Start { .. })));
        assert!(matches!(StreamName::new("x".repeat(250)), Err(NameError::TooLong { bytes: 250, .. })));
        assert!(StreamName::new("x".repeat(249)).is_ok());
    }
}
