//! The scenarios: each injects one fault of `FAULTS.md`, by its number, while everybody publishes and reads.
//!
//! Flows in: a seed. Flows out: a verdict over the record, or why there is none. Must never call a run good that it has
//! not checked, nor inject what it does not count.

mod catalogue;
mod clocks;
mod cut_off;
mod damaged;
mod deposed;
mod failover;
mod fenced;
mod figures;
mod flipped;
mod full_disk;
mod last_tail;
mod lost_region;
mod middle;
mod no_progress;
mod one_way;
mod own_flush;
mod power;
mod producers;
mod quorum;
mod raft_files;
mod raw;
mod relayed;
mod restored;
mod sets;
mod stage;
mod stopped;
mod sync_error;
mod two_claim;
mod wan_down;
mod wiped_disk;

pub use catalogue::{Scenario, all};
pub use stage::Stage;

use crate::laws::Verdict;
use crate::trouble::Trouble;

/// What a run of a scenario is told.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Where its chance comes from.
    pub seed: u64,
    /// Fewer rounds, for the choice that every test run makes.
    pub short: bool,
}

impl Run {
    /// So many rounds, or a few.
    fn rounds(self, all: u32, few: u32) -> u32 {
        if self.short { few } else { all }
    }
}

type Outcome = Result<Verdict, Trouble>;
