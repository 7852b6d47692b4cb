//! What can go wrong with a volume.

use std::io;

use meridian_types::{Seq, ShardId};

use crate::frame::FrameError;
use crate::identity::IdentityError;
use crate::place::Place;

/// Why a volume cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The folder's identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The configuration makes no sense.
    #[error("volume configuration: {0}")]
    Config(&'static str),
    /// Written by a newer version of Meridian.
    #[error("{name} was written by a newer version ({what}): upgrade; nothing was written")]
    Newer {
        /// The file.
        name: String,
        /// What is not known to this build.
        what: String,
    },
    /// The volume's files are gone.
    #[error(
        "the volume's files are gone from a folder that had them: restore them, or give this node up and add it under \
         a new id"
    )]
    Lost,
    /// No room for the first file.
    #[error("the disk has no room for a volume file: free some space, then start again")]
    NoSpace,
    /// The disk fails.
    #[error("{action} {name}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        name: String,
        /// The disk's answer.
        source: io::Error,
    },
}

/// Why a round was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Nothing was acknowledged; may be tried again when there is room.
    #[error("the disk is full: free some space; writing goes on by itself")]
    NoSpace,
    /// The disk failed: what it holds is unknown, so the process has to end. Never retried.
    #[error("the disk failed, what it holds is unknown, and this process must end: {0}")]
    Fatal(#[source] io::Error),
    /// An entry that no file can hold. Nothing was written.
    #[error("a round of {bytes} bytes does not fit into a volume file, which takes {max}")]
    TooLarge {
        /// The round's length.
        bytes: u64,
        /// The longest that a file holds.
        max: u64,
    },
    /// A frame that does not follow the last one of its shard: a bug of the caller. Nothing was written.
    #[error("shard {shard}: frame {found} after {last}; each frame follows the one before it, or a Cut")]
    OutOfOrder {
        /// The shard.
        shard: ShardId,
        /// The last frame.
        last: Seq,
        /// The frame that was to be written.
        found: Seq,
    },
}

/// Why a place could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk fails.
    #[error("read {place:?}: {source}")]
    Io {
        /// Where.
        place: Place,
        /// The disk's answer.
        source: io::Error,
    },
    /// The bytes are damaged: quarantine the frame and fetch it elsewhere.
    #[error("the frame at {place:?} is damaged: {source}")]
    Damaged {
        /// Where.
        place: Place,
        /// What is wrong with it.
        source: FrameError,
    },
    /// The place is in no file, or past what is synced.
    #[error("{0:?} is outside the volume")]
    Outside(Place),
    /// Another frame is there: the index is wrong about it.
    #[error("{place:?} holds frame {found_shard}:{found_seq}, not {shard}:{seq}")]
    Other {
        /// Where.
        place: Place,
        /// The shard that was asked for.
        shard: ShardId,
        /// The seq that was asked for.
        seq: Seq,
        /// The shard that is there.
        found_shard: ShardId,
        /// The seq that is there.
        found_seq: Seq,
    },
}
