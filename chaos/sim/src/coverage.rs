//! How often each fault and each branch of the cores occurred, so that a run shows that it tested.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// Counts by name. Names are `kind: what`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    counts: BTreeMap<Cow<'static, str>, u64>,
}

impl Coverage {
    /// One more.
    pub fn met(&mut self, what: impl Into<Cow<'static, str>>) {
        self.add(what, 1);
    }

    /// So many more.
    pub fn add(&mut self, what: impl Into<Cow<'static, str>>, times: u64) {
        if times > 0 {
            *self.counts.entry(what.into()).or_default() += times;
        }
    }

    /// How often.
    pub fn of(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    /// Sums over histories.
    pub fn merge(&mut self, other: &Self) {
        for (what, times) in &other.counts {
            self.add(what.clone(), *times);
        }
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counts.iter().map(|(name, times)| (name.as_ref(), *times))
    }
}
