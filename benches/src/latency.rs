//! Times by quantile. Flows in: durations. Flows out: quantiles in microseconds.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Over an hour counts as an hour.
const MOST_MICROS: u64 = 3_600_000_000;

/// Times, to three digits, from a microsecond to an hour.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// None yet.
    pub fn new() -> Self {
        // Fixed bounds: one that grows by itself saturates at what it has grown to.
        let histogram = Histogram::new_with_bounds(1, MOST_MICROS, 3);
        Self(histogram.unwrap_or_else(|_| unreachable!("these bounds and three digits are allowed")))
    }

    /// One more.
    pub fn record(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(MOST_MICROS);
        self.0.saturating_record(micros);
    }

    /// Those of another one as well.
    pub fn merge(&mut self, other: &Self) {
        // Both have the same bounds, so this adds counts and cannot fail.
        let added = self.0.add(&other.0);
        debug_assert!(added.is_ok());
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// None if there were none.
    pub fn quantiles(&self) -> Option<Quantiles> {
        let at = |part: f64| self.0.value_at_quantile(part);
        let curve = CURVE.iter().map(|percentile| (*percentile, at(percentile / 100.0)));
        (self.count() > 0).then(|| Quantiles {
            p50: at(0.5),
            p99: at(0.99),
            max: self.0.max(),
            curve: curve.collect(),
        })
    }
}

/// The percentiles of a curve.
const CURVE: [f64; 14] =
    [0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.0, 99.0, 99.5, 99.9, 99.95, 99.99, 100.0];

/// In microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Half are below.
    pub p50: u64,
    /// One in a hundred is above.
    pub p99: u64,
    /// The worst.
    pub max: u64,
    /// Percentile by percentile.
    pub curve: Vec<(f64, u64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let (mut all, mut half) = (Latencies::new(), Latencies::new());
        assert_eq!(all.quantiles(), None);
        (1..=50).for_each(|ms| all.record(Duration::from_millis(ms)));
        (51..=100).for_each(|ms| half.record(Duration::from_millis(ms)));
        all.merge(&half);
        let Quantiles { p50, p99, max, curve } = all.quantiles().unwrap();
        let near = |micros: u64, ms: u64| micros.abs_diff(ms * 1000) <= ms;
        assert!(near(p50, 50) && near(p99, 99) && near(max, 100), "{p50} {p99} {max}");
        assert!(curve.is_sorted_by_key(|(_, micros)| *micros) && curve.len() == CURVE.len());
        assert_eq!(all.count(), 100);
    }

    #[test]
    fn what_is_out_of_bounds_counts_as_the_bound() {
        let mut all = Latencies::new();
        all.record(Duration::from_secs(7200));
        all.record(Duration::ZERO);
        let quantiles = all.quantiles().unwrap();
        assert!(quantiles.max.abs_diff(MOST_MICROS) <= MOST_MICROS / 1000);
        assert_eq!(quantiles.p50, 0);
    }
}
