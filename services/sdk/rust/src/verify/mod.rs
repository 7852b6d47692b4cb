//! Proof that every region holds the same bytes of a stream: each copy reads its range back from its disk and gives a
//! digest; here digests and ends are compared. Never compares events itself, and never takes a copy's word for more
//! than the range it read.

mod check;
#[cfg(test)]
mod check_tests;
mod remote;
mod report;

pub use check::verify;
pub use remote::RemoteCopy;
pub use report::{CopyReport, CopyStatus, LaneReport, RegionReport, RegionStatus, Report};

use meridian_types::{Lane, Offset};

use crate::{LaneExtent, RangeDigest};

/// Why a copy could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No node of the region answers.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// A node answers, and refuses.
    #[error("refused: {0}")]
    Refused(String),
    /// What is stored does not read back.
    #[error("damaged: {0}")]
    Damaged(String),
}

/// One region's copy of one stream.
pub trait Copies {
    /// The region's name.
    fn region(&self) -> &str;
    /// What it holds.
    fn lanes(&self) -> impl Future<Output = Result<Vec<LaneExtent>, ReadError>>;
    /// The digest of the frames whose first offset is in `[start, end)`, read from the disk now.
    fn digest(
        &self,
        lane: Lane,
        start: Offset,
        end: Offset,
    ) -> impl Future<Output = Result<RangeDigest, ReadError>>;
}
