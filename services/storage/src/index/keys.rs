//! The key catalogue: every row of the index, on one screen.
//!
//! Keys are big-endian and of fixed width (but for cursors), so that they sort as the numbers in them do. Values are
//! little-endian; `v` is a version byte ([`rows`](super::rows) has the codecs).
//!
//! ```text
//! shard = origin u32 ‖ number u16                    6 bytes      origin = region u16 ‖ incarnation u16
//! lane  = stream u64 ‖ partition u32 ‖ origin u32   16 bytes      place  = file u64 ‖ at u64 ‖ len u32
//!
//! family     key                        value
//! default    "format"                   format u32
//! places     shard ‖ first seq u64      v ‖ count u16 ‖ count × place
//! offsets    lane ‖ base offset u64     v ‖ shard number u16 ‖ count u16 ‖ count × (events u32 ‖ seq u64 ‖ place)
//! times      lane ‖ timestamp u64       v ‖ base offset u64
//! lanes      lane                       v ‖ shard number u16 ‖ tenant u32 ‖ start u64 ‖ end u64 ‖ last hlc u64
//!                                         ‖ last timestamp u64 ‖ max timestamp u64 ‖ bytes u64 ‖ events u64
//! producers  lane ‖ producer id u64     v ‖ epoch i16 ‖ count u8 ‖ count × (first sequence i32 ‖ last sequence i32
//!                                         ‖ base offset u64 ‖ seq u64 ‖ hlc u64), oldest first
//! cursors    kind u8 ‖ name             what the owner put there
//! usage      tenant u32 ‖ stream u64    v ‖ events u64 ‖ bytes u64
//!            ‖ shard
//! marks      shard                      v ‖ seq u64 ‖ log epoch u32 ‖ hlc u64 ‖ chain 16 bytes
//! ```
//!
//! - A row of `places` is for frames that follow each other in a shard and were applied at once, one of `offsets` for those of
//!   them that hold events of one lane. Which frames share a row is no matter, and differs after a crash. In format 1 each had a
//!   row of its own (version 1: a place; events u32 ‖ shard number u16 ‖ seq u64 ‖ place); such rows are read, and stay.
//! - `times` has a row only for a batch whose highest timestamp exceeds those of all batches before it in the lane. The
//!   first batch that reaches a time is always such a batch, so the first row at or after the time names it.
//! - `usage` is kept by shard, so that shards are applied side by side without a common row; it is summed when read.
//! - A lane's origin is its shard's, so its row and its offsets hold the shard's number only.

use meridian_types::{
    Lane, Offset, Origin, Partition, ProducerId, Seq, ShardId, ShardNo, StreamId, TenantId, Timestamp,
};

use super::rows::RowError;

/// The format that this code writes. A higher one is refused before anything is written.
pub const FORMAT: u32 = 2;

/// The key of the format, in [`Family::Default`].
pub const FORMAT_KEY: &[u8] = b"format";

/// Length of a shard in a key.
pub const SHARD_BYTES: usize = 6;

/// Length of a lane in a key.
pub const LANE_BYTES: usize = 16;

macro_rules! families {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),+ $(,)?) => {
        /// The column families of the catalogue.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Family {
            $($(#[$doc])* $variant),+
        }

        impl Family {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its name on disk.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }
    };
}

families! {
    /// The format. (RocksDB demands a family of this name.)
    Default = "default",
    /// Where each frame lies.
    Places = "places",
    /// Which frame holds an offset.
    Offsets = "offsets",
    /// Which batch reached a time first.
    Times = "times",
    /// What each lane adds up to.
    Lanes = "lanes",
    /// The last batches of each producer.
    Producers = "producers",
    /// Positions that mirrors and groups keep.
    Cursors = "cursors",
    /// What tenants have stored.
    Usage = "usage",
    /// How far each shard is applied.
    Marks = "marks",
}

impl Family {
    /// How many bytes at the start of its keys say whose row it is. Rows of one owner are written in the order of their keys.
    pub const fn prefix_bytes(self) -> usize {
        match self {
            Self::Places | Self::Marks => SHARD_BYTES,
            Self::Offsets | Self::Times | Self::Lanes | Self::Producers => LANE_BYTES,
            Self::Default | Self::Cursors | Self::Usage => 4,
        }
    }
}

/// `shard`: in `marks`, and the prefix of the shard's places.
pub fn shard(shard: ShardId) -> [u8; SHARD_BYTES] {
    let mut key = [0; SHARD_BYTES];
    key[..4].copy_from_slice(&shard.origin.to_u32().to_be_bytes());
    key[4..].copy_from_slice(&shard.no.0.to_be_bytes());
    key
}

/// `shard ‖ seq`: in `places`.
pub fn place(id: ShardId, seq: Seq) -> [u8; SHARD_BYTES + 8] {
    let mut key = [0; SHARD_BYTES + 8];
    key[..SHARD_BYTES].copy_from_slice(&shard(id));
    key[SHARD_BYTES..].copy_from_slice(&seq.0.to_be_bytes());
    key
}

/// `lane`: in `lanes`, and the prefix of the lane's rows elsewhere.
pub fn lane(lane: Lane) -> [u8; LANE_BYTES] {
    let mut key = [0; LANE_BYTES];
    key[..8].copy_from_slice(&lane.stream.0.to_be_bytes());
    key[8..12].copy_from_slice(&lane.partition.0.to_be_bytes());
    key[12..].copy_from_slice(&lane.origin.to_u32().to_be_bytes());
    key
}

/// `stream`: the prefix of the lanes of a stream.
pub fn stream(stream: StreamId) -> [u8; 8] {
    stream.0.to_be_bytes()
}

/// `lane ‖ base offset`: in `offsets`.
pub fn offset(lane: Lane, base_offset: Offset) -> [u8; LANE_BYTES + 8] {
    under_lane(lane, base_offset.0)
}

/// `lane ‖ timestamp`: in `times`.
pub fn time(lane: Lane, timestamp: Timestamp) -> [u8; LANE_BYTES + 8] {
    under_lane(lane, timestamp.0)
}

/// `lane ‖ producer id`: in `producers`. Ids of idempotent producers are not negative, so they sort as they are.
pub fn producer(lane: Lane, id: ProducerId) -> [u8; LANE_BYTES + 8] {
    under_lane(lane, id.0.cast_unsigned())
}

/// `tenant ‖ stream`: the prefix of a stream's usage.
pub fn usage_of(tenant: TenantId, stream: StreamId) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&tenant.0.to_be_bytes());
    key[4..].copy_from_slice(&stream.0.to_be_bytes());
    key
}

/// `tenant ‖ stream ‖ shard`: in `usage`.
pub fn usage(tenant: TenantId, stream: StreamId, id: ShardId) -> [u8; 12 + SHARD_BYTES] {
    let mut key = [0; 12 + SHARD_BYTES];
    key[..12].copy_from_slice(&usage_of(tenant, stream));
    key[12..].copy_from_slice(&shard(id));
    key
}

/// `kind ‖ name`: in `cursors`.
pub fn cursor(kind: u8, name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + name.len());
    key.push(kind);
    key.extend_from_slice(name);
    key
}

/// Reads `shard`.
pub fn parse_shard(key: &[u8]) -> Result<ShardId, RowError> {
    let key: &[u8; SHARD_BYTES] = key.try_into().map_err(|_| RowError::Key)?;
    let [a, b, c, d, e, f] = *key;
    let origin = Origin::from_u32(u32::from_be_bytes([a, b, c, d]));
    Ok(ShardId { origin, no: ShardNo(u16::from_be_bytes([e, f])) })
}

/// Reads `shard ‖ seq`.
pub fn parse_place(key: &[u8]) -> Result<(ShardId, Seq), RowError> {
    let (id, seq) = key.split_at_checked(SHARD_BYTES).ok_or(RowError::Key)?;
    Ok((parse_shard(id)?, Seq(parse_u64(seq)?)))
}

/// Reads `lane`.
pub fn parse_lane(key: &[u8]) -> Result<Lane, RowError> {
    let (stream, rest) = key.split_first_chunk::<8>().ok_or(RowError::Key)?;
    let (partition, origin) = rest.split_first_chunk::<4>().ok_or(RowError::Key)?;
    let origin: [u8; 4] = origin.try_into().map_err(|_| RowError::Key)?;
    Ok(Lane {
        stream: StreamId(u64::from_be_bytes(*stream)),
        partition: Partition(u32::from_be_bytes(*partition)),
        origin: Origin::from_u32(u32::from_be_bytes(origin)),
    })
}

/// Reads `lane ‖ a number`: a base offset, a timestamp or a producer's id.
pub fn parse_under_lane(key: &[u8]) -> Result<(Lane, u64), RowError> {
    let (lane, number) = key.split_at_checked(LANE_BYTES).ok_or(RowError::Key)?;
    Ok((parse_lane(lane)?, parse_u64(number)?))
}

/// What the value under [`FORMAT_KEY`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredFormat {
    /// Nothing: the index is new.
    Absent,
    /// The format that this code writes.
    Current,
    /// An older one, which it reads.
    Older,
    /// One of a newer version.
    Newer(u32),
    /// Not a format.
    Garbled,
}

impl StoredFormat {
    /// Reads the value.
    pub fn of(value: Option<&[u8]>) -> Self {
        let Some(value) = value else { return Self::Absent };
        match value.try_into().map(u32::from_le_bytes) {
            Ok(FORMAT) => Self::Current,
            Ok(1..FORMAT) => Self::Older,
            Ok(0) | Err(_) => Self::Garbled,
            Ok(found) => Self::Newer(found),
        }
    }
}

fn under_lane(id: Lane, number: u64) -> [u8; LANE_BYTES + 8] {
    let mut key = [0; LANE_BYTES + 8];
    key[..LANE_BYTES].copy_from_slice(&lane(id));
    key[LANE_BYTES..].copy_from_slice(&number.to_be_bytes());
    key
}

fn parse_u64(bytes: &[u8]) -> Result<u64, RowError> {
    Ok(u64::from_be_bytes(bytes.try_into().map_err(|_| RowError::Key)?))
}

#[cfg(test)]
mod tests {
    use meridian_types::{Incarnation, RegionId};
    use proptest::prelude::*;

    use super::*;

    const SHARD: ShardId = ShardId {
        origin: Origin { region: RegionId(0x0102), incarnation: Incarnation(0x0304) },
        no: ShardNo(0x0506),
    };
    const LANE: Lane = Lane {
        stream: StreamId(0x1112_1314_1516_1718),
        partition: Partition(0x2122_2324),
        origin: SHARD.origin,
    };

    fn hex(key: &[u8]) -> String {
        key.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What is on disks already. A key that changes here needs a new format and a way to read the old one.
    #[test]
    fn golden_keys() {
        let names: Vec<&str> = Family::ALL.iter().map(|family| family.name()).collect();
        let on_disk =
            ["default", "places", "offsets", "times", "lanes", "producers", "cursors", "usage", "marks"];
        assert_eq!(names, on_disk);
        assert_eq!(FORMAT_KEY, b"format");
        assert_eq!(hex(&shard(SHARD)), "010203040506");
        assert_eq!(hex(&place(SHARD, Seq(0xa1a2_a3a4_a5a6_a7a8))), "010203040506a1a2a3a4a5a6a7a8");
        assert_eq!(hex(&lane(LANE)), "11121314151617182122232401020304");
        assert_eq!(hex(&stream(LANE.stream)), "1112131415161718");
        assert_eq!(hex(&offset(LANE, Offset(0xb1))), "1112131415161718212223240102030400000000000000b1");
        assert_eq!(hex(&time(LANE, Timestamp(0xc1))), "1112131415161718212223240102030400000000000000c1");
        assert_eq!(
            hex(&producer(LANE, ProducerId(0xd1))),
            "1112131415161718212223240102030400000000000000d1"
        );
        assert_eq!(hex(&cursor(2, b"name")), "026e616d65");
        assert_eq!(
            hex(&usage(TenantId(0x3132_3334), StreamId(0x41), SHARD)),
            "313233340000000000000041010203040506"
        );
    }

    #[test]
    fn formats() {
        assert_eq!(StoredFormat::of(None), StoredFormat::Absent);
        assert_eq!(StoredFormat::of(Some(&[1, 0, 0, 0])), StoredFormat::Older);
        assert_eq!(StoredFormat::of(Some(&[2, 0, 0, 0])), StoredFormat::Current);
        assert_eq!(StoredFormat::of(Some(&[3, 0, 0, 0])), StoredFormat::Newer(3));
        assert_eq!(StoredFormat::of(Some(&[0, 0, 0, 0])), StoredFormat::Garbled);
        assert_eq!(StoredFormat::of(Some(&[1])), StoredFormat::Garbled);
    }

    fn shards() -> impl Strategy<Value = ShardId> {
        (any::<u32>(), any::<u16>())
            .prop_map(|(origin, no)| ShardId { origin: Origin::from_u32(origin), no: ShardNo(no) })
    }

    fn lanes() -> impl Strategy<Value = Lane> {
        (any::<u64>(), any::<u32>(), any::<u32>()).prop_map(|(stream, partition, origin)| Lane {
            stream: StreamId(stream),
            partition: Partition(partition),
            origin: Origin::from_u32(origin),
        })
    }

    proptest! {
        #[test]
        fn keys_sort_as_what_is_in_them(a in (shards(), any::<u64>()), b in (shards(), any::<u64>())) {
            let key = |(id, seq): (ShardId, u64)| place(id, Seq(seq));
            prop_assert_eq!(key(a).cmp(&key(b)), a.cmp(&b));
            prop_assert_eq!(parse_place(&key(a)), Ok((a.0, Seq(a.1))));
        }

        #[test]
        fn keys_of_lanes_too(a in (lanes(), any::<u64>()), b in (lanes(), any::<u64>())) {
            let key = |(id, number): (Lane, u64)| offset(id, Offset(number));
            prop_assert_eq!(key(a).cmp(&key(b)), a.cmp(&b));
            prop_assert_eq!(parse_under_lane(&key(a)), Ok(a));
        }

        #[test]
        fn keys_of_another_length_are_refused(key in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(parse_shard(&key).is_ok(), key.len() == SHARD_BYTES);
            prop_assert_eq!(parse_place(&key).is_ok(), key.len() == SHARD_BYTES + 8);
            prop_assert_eq!(parse_lane(&key).is_ok(), key.len() == LANE_BYTES);
            prop_assert_eq!(parse_under_lane(&key).is_ok(), key.len() == LANE_BYTES + 8);
        }
    }
}
