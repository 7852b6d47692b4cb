//! Runs scenarios one after the other, remembers what is done, prints the table.
//!
//! Flows in: names, and how often. Flows out: a table, and whether all is well. Must never count as done what was
//! interrupted.

mod result;
mod state;
mod table;

use std::time::Instant;

pub use result::{Ended, RunResult};
pub use state::State;
pub use table::table;

use crate::scenario::{Run, Scenario};
use crate::trouble::Trouble;

/// Breaches that are printed.
const SHOWN: usize = 12;

/// Runs one scenario once.
pub fn run_once(scenario: &Scenario, run: Run, time: u32) -> RunResult {
    let begun = Instant::now();
    let (verdict, ended) = match (scenario.run)(run) {
        Ok(verdict) if verdict.breaches.is_empty() => (verdict, Ended::Ok),
        Ok(verdict) => {
            let why = some_of(&verdict.breaches);
            (verdict, Ended::Failed(why))
        }
        Err(Trouble::Skip(reason)) => (Default::default(), Ended::Skipped(reason)),
        Err(trouble) => (Default::default(), Ended::Failed(trouble.to_string())),
    };
    let seconds = begun.elapsed().as_secs_f64();
    RunResult { scenario: scenario.name.to_owned(), time, seed: run.seed, seconds, verdict, ended }
}

/// The first breaches: a lane that is missing breaks a law with each of its events. The record has them all.
fn some_of(breaches: &[String]) -> String {
    let mut lines: Vec<String> = breaches.iter().take(SHOWN).cloned().collect();
    if breaches.len() > SHOWN {
        lines.push(format!("and {} more", breaches.len() - SHOWN));
    }
    lines.join("\n")
}
