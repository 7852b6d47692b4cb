//! How a run ended.

use serde::{Deserialize, Serialize};

use crate::laws::Verdict;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Every law held.
    Ok,
    /// Something was broken.
    Failed(String),
    /// The machine lacks something.
    Skipped(String),
}

/// One run of one scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// Which.
    pub scenario: String,
    /// The how many-th run of it, from 1.
    pub time: u32,
    /// Where its chance came from.
    pub seed: u64,
    /// How long it took.
    pub seconds: f64,
    /// What was counted.
    pub verdict: Verdict,
    /// How it ended.
    pub ended: Ended,
}
