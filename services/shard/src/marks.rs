//! How far a replica is, and the order that its marks keep.

use meridian_types::Seq;
use meridian_types::mutant::{self, Mutant};

/// The marks of a replica. *trimmed* and *checkpointed* belong to the index and are checked there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The last frame handed to the volume.
    pub appended: Seq,
    /// The last frame on stable storage here.
    pub flushed: Seq,
    /// The last frame on stable storage at a majority, counted only once a frame of the leader's epoch is.
    pub committed: Seq,
    /// The last frame whose effects are in the index.
    pub applied: Seq,
}

impl Marks {
    /// Nothing is applied that this node has not flushed, or a power cut leaves an index that points past its volume.
    pub fn applicable(&self) -> Seq {
        if mutant::is(Mutant::AppliedPastFlushed) {
            return self.committed;
        }
        self.committed.min(self.flushed)
    }

    /// Holds the marks to their order. A breach is a bug and ends the process before it can be acknowledged.
    ///
    /// # Panics
    /// On a breach.
    pub fn check(&self) {
        assert!(self.applied <= self.applicable(), "applied ≤ min(committed, flushed): {self:?}");
        assert!(
            self.committed.max(self.flushed) <= self.appended,
            "max(committed, flushed) ≤ appended: {self:?}"
        );
    }
}
