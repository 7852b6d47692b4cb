//! Newtypes for every number that names or counts something, so that a swapped offset and seq does not compile.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }

        impl $name {
            /// The bare number.
            pub const fn get(self) -> $inner {
                self.0
            }
        }
    };
}

number!(
    /// A region's number. Given once by the genesis or the catalog, never reused.
    RegionId(u16)
);
number!(
    /// The number of a region's incarnation, from 1. A region that lost a shard's majority gets a new one.
    Incarnation(u16)
);
number!(
    /// A node's number, unique in the cluster and never reused.
    NodeId(u32)
);
number!(
    /// A tenant's number. [`TenantId::DEFAULT`] is there from the genesis.
    TenantId(u32)
);
number!(
    /// A stream's number. Never reused, so that a deleted stream's frames are never taken for another's.
    StreamId(u64)
);
number!(
    /// A partition of a stream, from 0.
    Partition(u32)
);
number!(
    /// The number of a shard within its origin, from 0.
    ShardNo(u16)
);
number!(
    /// An event's position in its lane, contiguous from 0.
    Offset(u64)
);
number!(
    /// A frame's position in its shard's log, contiguous from 1. 0 means "before the first frame".
    Seq(u64)
);
number!(
    /// A leadership in a shard's origin, written in frames and strictly rising from 1. 0: none yet.
    LogEpoch(u32)
);
number!(
    /// A leadership of a shard's replica set in one hosting region; in promises and handshakes, never in a frame.
    LeaderEpoch(u32)
);
number!(
    /// The version of a shard's replica set, from 1, rising with each change of its members.
    SetVersion(u32)
);
number!(
    /// How often a node's process has started on its disk, from 1.
    Boot(u64)
);
number!(
    /// An idempotent producer, as in Kafka. -1: not idempotent.
    ProducerId(i64)
);
number!(
    /// A producer's epoch, as in Kafka. -1: not idempotent.
    ProducerEpoch(i16)
);

impl TenantId {
    /// The tenant `default`.
    pub const DEFAULT: Self = Self(1);
}

impl Offset {
    /// The first offset of every lane.
    pub const ZERO: Self = Self(0);

    /// The offset `events` further on.
    #[must_use]
    pub const fn plus(self, events: u64) -> Self {
        Self(self.0 + events)
    }
}

impl Seq {
    /// Before the first frame of a shard.
    pub const ZERO: Self = Self(0);

    /// The seq after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The seq before this one; of [`Seq::ZERO`], itself.
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl LogEpoch {
    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl SetVersion {
    /// The version after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl LeaderEpoch {
    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// In the origin the two epochs are one number (DESIGN §2).
    pub const fn in_origin(self) -> LogEpoch {
        LogEpoch(self.0)
    }
}

impl ProducerId {
    /// What a batch of a producer that is not idempotent carries.
    pub const NONE: Self = Self(-1);

    /// Whether this names an idempotent producer.
    pub const fn is_some(self) -> bool {
        self.0 >= 0
    }
}

/// A region's incarnation: the one writer of its lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// Which region.
    pub region: RegionId,
    /// Which of its incarnations.
    pub incarnation: Incarnation,
}

impl Origin {
    /// The first incarnation of a region.
    pub const fn first(region: RegionId) -> Self {
        Self { region, incarnation: Incarnation(1) }
    }

    /// The epochs of this incarnation's placement are above this one, so that a promise tells under which incarnation it was given,
    /// and none of an earlier one counts. (Four million elections of a shard are more than a region lives for; where they are not,
    /// those of the next incarnation are as those of a placement that was not founded anew.)
    pub const fn epochs_after(self) -> LeaderEpoch {
        let earlier = self.incarnation.0.saturating_sub(1);
        LeaderEpoch((if earlier > 255 { 255 } else { earlier as u32 }) << 22)
    }

    /// Whether it is over where the region writes as `now`.
    pub fn is_past(self, now: Self) -> bool {
        self.region == now.region && self.incarnation < now.incarnation
    }

    /// As in frames and keys: region in the high 16 bits, incarnation in the low.
    pub const fn to_u32(self) -> u32 {
        ((self.region.0 as u32) << 16) | self.incarnation.0 as u32
    }

    /// The inverse of [`Origin::to_u32`].
    pub const fn from_u32(value: u32) -> Self {
        Self { region: RegionId((value >> 16) as u16), incarnation: Incarnation(value as u16) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}.{}", self.region, self.incarnation)
    }
}

/// The unit of placement, replication and mirroring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId {
    /// Whose log it is.
    pub origin: Origin,
    /// Which of the origin's shards.
    pub no: ShardNo,
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.origin, self.no)
    }
}

/// A log with contiguous offsets: one partition of one stream as one origin wrote it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lane {
    /// The stream.
    pub stream: StreamId,
    /// The partition.
    pub partition: Partition,
    /// The only region incarnation that appends to it.
    pub origin: Origin,
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}@{}", self.stream, self.partition, self.origin)
    }
}

/// The end of a replica's log: what elections compare. Ordered by epoch first, as in Raft: a longer log of an older epoch
/// may hold what was never committed, and a shorter one of a newer epoch holds all that was (DESIGN §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogEnd {
    /// The log epoch of the last frame; 0 where there is none.
    pub epoch: LogEpoch,
    /// The seq of the last frame; [`Seq::ZERO`] where there is none.
    pub seq: Seq,
}

impl fmt::Display for LogEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.seq)
    }
}

macro_rules! uuid_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

uuid_newtype!(
    /// Names a cluster. Made with the genesis; peers of another cluster are refused.
    ClusterUuid
);
uuid_newtype!(
    /// Names a disk. Made when its folder is first used; a node that lost its disk is another node.
    DiskUuid
);
