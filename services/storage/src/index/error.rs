//! What the typed index can answer besides rows.

use meridian_types::{Lane, Offset, Seq, ShardId};

use super::keys::Family;
use super::{KvError, RowError};

/// Why the index did not do what was asked. A refused run has changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The floor failed.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// A row is not one.
    #[error(
        "the index is damaged (a row of {}, key {}: {error}): move its folder away and start again, it is \
         derived from the volume", .family.name(), hex(.key)
    )]
    Row {
        /// Where it is.
        family: Family,
        /// Its key.
        key: Vec<u8>,
        /// What is wrong with it.
        error: RowError,
    },
    /// Rows without a format: not an index, or its making was tampered with.
    #[error("the index holds rows but no format: it was not made by this program; name an empty folder")]
    NoFormat,
    /// The index is of a newer version.
    #[error(
        "the index has format {found}, this version knows up to {known}: start the newer version of the node"
    )]
    NewerFormat {
        /// What it is.
        found: u32,
        /// The newest that this code knows.
        known: u32,
    },
    /// A run does not go on where the shard stands.
    #[error("shard {shard} is to be applied from {expected}, not from {got}: replay from the applied mark")]
    NotNext {
        /// The shard.
        shard: ShardId,
        /// The seq after the applied mark, or after the frame before.
        expected: Seq,
        /// What came.
        got: Seq,
    },
    /// A frame whose chain does not continue the frame before.
    #[error(
        "frame {seq} of shard {shard} does not follow the frame that is applied before it: fence the copy"
    )]
    Chain {
        /// The shard.
        shard: ShardId,
        /// The seq of the frame.
        seq: Seq,
    },
    /// A frame of another shard in the run.
    #[error("a frame of shard {got} (seq {seq}) in a run of shard {shard}: one run holds one shard")]
    OtherShard {
        /// The shard of the run.
        shard: ShardId,
        /// The shard of the frame.
        got: ShardId,
        /// The seq of the frame.
        seq: Seq,
    },
    /// A batch does not begin where its lane ends.
    #[error(
        "lane {lane} ends at {end}, the frame {seq} begins at {got}: the log contradicts itself, fence the copy"
    )]
    LaneGap {
        /// The lane.
        lane: Lane,
        /// Its end.
        end: Offset,
        /// The base offset that came.
        got: Offset,
        /// The frame.
        seq: Seq,
    },
    /// A lane turns up in a second shard of its origin.
    #[error("lane {lane} lives in shard {home}, frame {seq} brings it in shard {got}: fence the copy")]
    LaneElsewhere {
        /// The lane.
        lane: Lane,
        /// Where its frames were so far.
        home: ShardId,
        /// Where this one came from.
        got: ShardId,
        /// The frame.
        seq: Seq,
    },
    /// A frame is stored again that is not applied, or is not the one that is.
    #[error("frame {seq} of shard {shard} is not the one that is applied: its place is not changed")]
    NotApplied {
        /// The shard.
        shard: ShardId,
        /// The frame.
        seq: Seq,
    },
    /// A frame of events without any, or past the last offset there is.
    #[error(
        "frame {seq} of lane {lane} holds {events} events: no leader appends such a frame, fence the copy"
    )]
    EventCount {
        /// The lane.
        lane: Lane,
        /// The frame.
        seq: Seq,
        /// How many it says.
        events: u32,
    },
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
