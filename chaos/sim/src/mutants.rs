//! Whether the checkers bite: each fault of `meridian_types::mutant` in turn, until the checker of the law that it breaks
//! catches it.

use meridian_types::mutant::Mutant;

use crate::check::{Breach, Law};
use crate::run;

/// What became of a mutant.
#[derive(Clone, Debug)]
pub struct Caught {
    /// Which.
    pub mutant: Mutant,
    /// The first seed in which the checker of its law caught it, and which breaks nothing without it; and how.
    pub by: Option<(u64, Breach)>,
    /// In how many seeds before another checker was first: what is wrong often shows in more than one way.
    pub others: usize,
    /// How many seeds were tried.
    pub tried: u64,
}

/// The law that a mutant breaks, and whose checker is to catch it.
pub fn law(mutant: Mutant) -> Law {
    match mutant {
        Mutant::AckBeforeFlush
        | Mutant::OldEpochCounts
        | Mutant::BeyondMatched
        | Mutant::DuplicateEarly
        | Mutant::OneMajority
        | Mutant::ShortestWins
        | Mutant::OldDurableMark
        | Mutant::DoubtCounts => Law::DurableAck,
        Mutant::PromiseNotSynced
        | Mutant::FencedCounts
        | Mutant::FencedReports
        | Mutant::DoubtFollowsAtOnce => Law::PromisesHold,
        Mutant::NoTruncation => Law::SameBytes,
        Mutant::UncommittedLeaves => Law::OnlyCommittedLeaves,
        Mutant::ResumeTooFar | Mutant::PastForgotten | Mutant::PublishesTooEarly => Law::NoHoleNoTwin,
        Mutant::StaleRead => Law::LinearizableReads,
        Mutant::AppliedPastFlushed => Law::MarksInOrder,
        Mutant::CutNotWritten | Mutant::PastIsReplayed | Mutant::MarkForgotten => Law::StoredLast,
        Mutant::RestartedLeads => Law::OneWriter,
        Mutant::HlcGoesBack => Law::HlcRises,
        Mutant::DoubtEndsEarly | Mutant::DoubtNotWritten => Law::InDoubt,
    }
}

/// Tries seeds from `from` on.
pub fn catch(mutant: Mutant, from: u64, seeds: u64, jobs: usize) -> Caught {
    let mut first: Option<(u64, Breach)> = None;
    let mut others = Vec::new();
    run::histories(from..from + seeds, jobs, Some(mutant), |outcome| {
        match outcome.breach {
            Some(breach) if breach.law != law(mutant) => others.push(outcome.seed),
            Some(breach)
                if first.as_ref().is_none_or(|(seed, _)| outcome.seed < *seed)
                    // Nothing is shown by a seed that fails as it is.
                    && run::history(outcome.seed, None, false).breach.is_none() =>
            {
                first = Some((outcome.seed, breach));
            }
            _ => {}
        }
        first.is_none()
    });
    let caught_at = first.as_ref().map_or(u64::MAX, |(seed, _)| *seed);
    let tried = if first.is_some() { caught_at - from + 1 } else { seeds };
    let others = others.into_iter().filter(|seed| *seed < caught_at).count();
    Caught { mutant, by: first, others, tried }
}
