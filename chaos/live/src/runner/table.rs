//! The table that a person reads.

use std::fmt::Write as _;

use crate::runner::{Ended, RunResult};

/// What a row says of a failure; the run itself said it whole.
const WHY: usize = 120;

/// A row for each run, and a line that counts them.
pub fn table(runs: &[RunResult]) -> String {
    let mut text = format!(
        "{:<26} {:>8} {:>12} {:>6} {:>8} {:>7} {:>12} {:>7}  result\n",
        "fault", "injected", "acknowledged", "lost", "doubled", "reads", "longest gap", "took"
    );
    let (mut ok, mut failed, mut skipped) = (0, 0, 0);
    for run in runs {
        let result = match &run.ended {
            Ended::Ok => {
                ok += 1;
                match run.verdict.given_up {
                    0 => "OK".to_owned(),
                    gone => format!("OK, {gone} given up with the disks"),
                }
            }
            Ended::Failed(why) => {
                failed += 1;
                format!(
                    "FAILED: {}",
                    why.lines().next().unwrap_or_default().chars().take(WHY).collect::<String>()
                )
            }
            Ended::Skipped(reason) => {
                skipped += 1;
                format!("SKIPPED: {reason}")
            }
        };
        let verdict = &run.verdict;
        let _ = writeln!(
            text,
            "{:<26} {:>8} {:>12} {:>6} {:>8} {:>7} {:>10.2} s {:>5.0} s  {result}",
            run.scenario,
            verdict.injected,
            verdict.acknowledged,
            verdict.lost,
            verdict.doubled,
            verdict.reads,
            verdict.silence_ms as f64 / 1000.0,
            run.seconds,
        );
    }
    let _ = writeln!(text, "{ok} passed, {failed} failed, {skipped} skipped");
    text
}
