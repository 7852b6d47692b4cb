//! The scenarios: each injects one fault of `FAULTS.md`, by its number, while everybody publishes and reads.
//!
//! Flows in: a seed. Flows out: a verdict over the record, or why there is none. Must never call a run good that it has
//! not checked, nor inject what it does not count.
//!
//! Those that need three nodes in a region (2 to 5, 11, 12, 14, 15, 30, 32, 35, 36, 38) are not here yet: a [`Plan`]
//! takes `nodes_each`, and `World` addresses nodes one by one, so each of them is one more file and one more row below.

mod catalogue;
mod clocks;
mod full_disk;
mod lost_region;
mod no_progress;
mod power;
mod producers;
mod raw;
mod stage;
mod sync_error;
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
