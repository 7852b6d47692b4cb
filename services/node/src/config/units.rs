//! Sizes and durations as people write them in `node.toml`: `64MiB`, `80ms`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why a size or a duration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a size.
    #[error("{0:?} is not a size; write a whole number and a unit, as in 64MiB (units: B, KiB, MiB, GiB)")]
    Size(String),
    /// Not a duration.
    #[error("{0:?} is not a duration; write a whole number and a unit, as in 80ms (units: us, ms, s, m, h)")]
    Duration(String),
}

/// Splits `64MiB` into 64 and `MiB`.
fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..digits].parse().ok()?, text[digits..].trim_start()))
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// So many MiB.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// The bare number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError::Size(text.to_owned());
        let (count, unit) = split(text).ok_or_else(error)?;
        let (_, factor) = SIZES.iter().find(|(name, _)| *name == unit).ok_or_else(error)?;
        count.checked_mul(*factor).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, factor) in SIZES {
            if self.0.is_multiple_of(factor) && (self.0 > 0 || factor == 1) {
                return write!(f, "{}{name}", self.0 / factor);
            }
        }
        Ok(())
    }
}

/// A duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

impl Span {
    /// So many milliseconds.
    pub const fn millis(count: u64) -> Self {
        Self(Duration::from_millis(count))
    }

    /// The standard library's type.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        span.0
    }
}

const SPANS: [(&str, u64); 5] =
    [("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError::Duration(text.to_owned());
        let (count, unit) = split(text).ok_or_else(error)?;
        let (_, factor) = SPANS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?;
        count.checked_mul(*factor).map(|us| Self(Duration::from_micros(us))).ok_or_else(error)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX);
        // Minutes and hours are for reading only: 90 s should stay 90s.
        for (name, factor) in &SPANS[2..] {
            if us.is_multiple_of(*factor) {
                return write!(f, "{}{name}", us / factor);
            }
        }
        Ok(())
    }
}

macro_rules! strings {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = UnitError;

            fn try_from(text: String) -> Result<Self, UnitError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    };
}

strings!(ByteSize);
strings!(Span);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_print() {
        for (text, bytes) in
            [("0B", 0), ("512B", 512), ("4KiB", 4096), ("64MiB", 64 << 20), ("3GiB", 3 << 30)]
        {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)));
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
        assert_eq!(ByteSize(1500).to_string(), "1500B");
        assert_eq!("64 MiB".parse(), Ok(ByteSize::mib(64)));
        for bad in
            ["", "64", "MiB", "64MB", "-1KiB", "1.5GiB", "99999999999999999999B", "18446744073709551615KiB"]
        {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_read_and_print() {
        for (text, us) in [("80ms", 80_000), ("150us", 150), ("2s", 2_000_000), ("90s", 90_000_000)] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_micros(us))));
            assert_eq!(Span(Duration::from_micros(us)).to_string(), text);
        }
        assert_eq!("2m".parse::<Span>().map(Span::get), Ok(Duration::from_secs(120)));
        assert_eq!("1h".parse::<Span>().map(Span::get), Ok(Duration::from_secs(3600)));
        for bad in ["", "80", "ms", "80 parsecs", "-1s", "1.5s", "18446744073709551615s"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }
}
