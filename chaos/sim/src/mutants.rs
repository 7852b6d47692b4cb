//! Whether the checkers bite: each fault of `meridian_types::mutant` in turn, until a checker catches it.

use meridian_types::mutant::Mutant;

use crate::check::Breach;
use crate::run;

/// What became of a mutant.
#[derive(Clone, Debug)]
pub struct Caught {
    /// Which.
    pub mutant: Mutant,
    /// The first seed that caught it and breaks nothing without it, and how.
    pub by: Option<(u64, Breach)>,
    /// How many seeds were tried.
    pub tried: u64,
}

/// Tries seeds from `from` on.
pub fn catch(mutant: Mutant, from: u64, seeds: u64, jobs: usize) -> Caught {
    let mut first: Option<(u64, Breach)> = None;
    run::histories(from..from + seeds, jobs, Some(mutant), |outcome| {
        if let Some(breach) = outcome.breach
            && first.as_ref().is_none_or(|(seed, _)| outcome.seed < *seed)
            // Nothing is shown by a seed that fails as it is.
            && run::history(outcome.seed, None, false).breach.is_none()
        {
            first = Some((outcome.seed, breach));
        }
        first.is_none()
    });
    let tried = first.as_ref().map_or(seeds, |(seed, _)| seed - from + 1);
    Caught { mutant, by: first, tried }
}
