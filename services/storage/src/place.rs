//! Where a frame lies in a volume.

/// Where a frame lies: in which file, from which byte, how long.
///
/// A place is handed out only once the round that holds it is synced, so an index never points past its volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The volume file's number. Never reused, also when the file's bytes are.
    pub file: u64,
    /// The position of the frame's header in that file, in bytes.
    pub at: u64,
    /// The length of header and payload, in bytes.
    pub len: u32,
}
