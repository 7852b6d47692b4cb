//! Deliberate faults in the cores, so that the simulation can show that its checkers bite.
//!
//! Builds without debug assertions have no switch: [`is`] is `false` there, and the branches that ask it are gone.

/// A fault that can be switched on. Each breaks one law.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutant {
    /// A leader counts its own frames as flushed when it appends them.
    AckBeforeFlush,
    /// A fence is answered before its promise is synced.
    PromiseNotSynced,
    /// A leader counts frames of earlier epochs before one of its own is flushed at a majority.
    OldEpochCounts,
    /// A follower keeps what its new leader does not have.
    NoTruncation,
    /// A follower reports what it has flushed beyond what it has in common with its leader, and that counts.
    BeyondMatched,
    /// A duplicate is acknowledged while its original is not committed.
    DuplicateEarly,
    /// A leader shows frames to readers and mirrors before they are committed.
    UncommittedLeaves,
    /// A copy asks for one frame too far and takes it.
    ResumeTooFar,
    /// A leader answers a linearizable read without asking its followers.
    StaleRead,
    /// The index is given frames that this node has not flushed.
    AppliedPastFlushed,
    /// An election under a changed replica set asks the new set alone.
    OneMajority,
    /// A cut is made in memory alone.
    CutNotWritten,
    /// A process leads on the word of an election of its earlier life.
    RestartedLeads,
    /// A fenced leader goes on counting and acknowledging.
    FencedCounts,
    /// A fenced follower goes on appending and reporting in the lower epoch.
    FencedReports,
    /// An election is won by whoever answers first, not by the longest log.
    ShortestWins,
    /// A durable mark of an earlier leadership of a copy counts.
    OldDurableMark,
    /// A leader's clock that goes back takes the hlc with it.
    HlcGoesBack,
    /// What a damaged replica says of its log counts in an election, as if it were sure.
    DoubtCounts,
    /// A doubt is over as soon as the log agrees with a leader's.
    DoubtEndsEarly,
    /// A doubt is in memory alone.
    DoubtNotWritten,
    /// A damaged replica follows without having asked what it may have promised.
    DoubtFollowsAtOnce,
    /// A survivor keeps what it had not applied under an incarnation that is over.
    PastIsReplayed,
    /// What the volume says was applied is not heeded: a survivor keeps only what its index has flushed.
    MarkForgotten,
    /// A restored region does not look for a producer in its past incarnations.
    PastForgotten,
    /// A restored region takes publishes before it holds again what is left of the past.
    PublishesTooEarly,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 26] = [
        Self::AckBeforeFlush,
        Self::PromiseNotSynced,
        Self::OldEpochCounts,
        Self::NoTruncation,
        Self::BeyondMatched,
        Self::DuplicateEarly,
        Self::UncommittedLeaves,
        Self::ResumeTooFar,
        Self::StaleRead,
        Self::AppliedPastFlushed,
        Self::OneMajority,
        Self::CutNotWritten,
        Self::RestartedLeads,
        Self::FencedCounts,
        Self::FencedReports,
        Self::ShortestWins,
        Self::OldDurableMark,
        Self::HlcGoesBack,
        Self::DoubtCounts,
        Self::DoubtEndsEarly,
        Self::DoubtNotWritten,
        Self::DoubtFollowsAtOnce,
        Self::PastIsReplayed,
        Self::MarkForgotten,
        Self::PastForgotten,
        Self::PublishesTooEarly,
    ];
}

#[cfg(debug_assertions)]
mod switch {
    use std::cell::Cell;

    use super::Mutant;

    thread_local!(static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) });

    /// Whether this thread runs with that fault.
    pub fn is(mutant: Mutant) -> bool {
        ACTIVE.get() == Some(mutant)
    }

    /// Runs `work` with a fault, on this thread alone.
    pub fn with<T>(mutant: Option<Mutant>, work: impl FnOnce() -> T) -> T {
        struct Restore(Option<Mutant>);
        impl Drop for Restore {
            fn drop(&mut self) {
                ACTIVE.set(self.0);
            }
        }
        let _restore = Restore(ACTIVE.replace(mutant));
        work()
    }
}

#[cfg(debug_assertions)]
pub use switch::{is, with};

/// Never: this build has no switch.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn is(_mutant: Mutant) -> bool {
    false
}
