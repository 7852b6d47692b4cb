//! How the records of a batch are compressed.

use std::fmt;

/// How the records of a batch are compressed: bits 0–2 of its attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// RFC 1952, one member.
    Gzip,
    /// Snappy blocks in the framing of the Java library; bare snappy is read as well.
    Snappy,
    /// One LZ4 frame of independent blocks.
    Lz4,
    /// One Zstandard frame.
    Zstd,
}

impl Codec {
    /// Every codec.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The number in attributes.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// The codec with this number in attributes.
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::None),
            1 => Some(Self::Gzip),
            2 => Some(Self::Snappy),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Its name, as in Kafka's `compression.type`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_kafkas() {
        assert_eq!(Codec::ALL.map(Codec::id), [0, 1, 2, 3, 4]);
        for codec in Codec::ALL {
            assert_eq!(Codec::from_id(codec.id()), Some(codec));
        }
        assert!((5..=7).all(|id| Codec::from_id(id).is_none()));
    }
}
