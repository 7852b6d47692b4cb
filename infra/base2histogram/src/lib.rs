//! Histograms with logarithmic buckets, in the place of the crate of this name with which openraft counts how it runs.
//!
//! That one makes tables for all precisions that it offers, 25 MiB in each process, where openraft uses one of 252 buckets. This is that
//! one precision: its buckets need no table. Only what openraft names is here. It can go once openraft counts without
//! such tables (base2histogram after 0.2.3).

use std::fmt;
use std::marker::PhantomData;

/// A bucket is at most a quarter as wide as its least value.
const PRECISION_BITS: u32 = 2;
const PER_POWER: usize = 1 << PRECISION_BITS;
const BUCKETS: usize = PER_POWER * (u64::BITS - PRECISION_BITS + 1) as usize;
/// How long the longest bar of a chart is.
const BAR: u64 = 50;

/// Counts values. `T` is openraft's to name; nothing of it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Vec<u64>,
    _of: PhantomData<T>,
}

/// Of the values that were counted, the least of the bucket in which the percentile lies; zeros where none was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "p99_9 is the percentile 99.9")]
pub struct PercentileStats {
    /// How many values.
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p0_1, p1, p5, p10, p50, p90, p99, p99_9 } = self;
        write!(
            f,
            "samples={samples} p0.1={p0_1} p1={p1} p5={p5} p10={p10} p50={p50} p90={p90} p99={p99} p99.9={p99_9}"
        )
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Histogram<T> {
    /// An empty one.
    pub fn new() -> Self {
        Self { counts: vec![0; BUCKETS], _of: PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value so many times.
    pub fn record_n(&mut self, value: u64, times: u64) {
        if let Some(count) = self.counts.get_mut(bucket(value)) {
            *count = count.saturating_add(times);
        }
    }

    /// The usual percentiles.
    pub fn percentile_stats(&self) -> PercentileStats {
        let samples = self.counts.iter().fold(0u64, |sum, count| sum.saturating_add(*count));
        let of = |permille| self.percentile(permille, samples);
        PercentileStats {
            samples,
            p0_1: of(1),
            p1: of(10),
            p5: of(50),
            p10: of(100),
            p50: of(500),
            p90: of(900),
            p99: of(990),
            p99_9: of(999),
        }
    }

    /// By nearest rank.
    fn percentile(&self, permille: u128, samples: u64) -> u64 {
        let rank = (u128::from(samples) * permille).div_ceil(1000).max(1);
        let mut passed = 0;
        let found = self.counts.iter().position(|count| {
            passed += u128::from(*count);
            passed >= rank
        });
        found.map_or(0, least)
    }
}

/// The bucket of a value.
fn bucket(value: u64) -> usize {
    let shift = value.checked_ilog2().unwrap_or(0).saturating_sub(PRECISION_BITS);
    shift as usize * PER_POWER + (value >> shift) as usize
}

/// The least value of a bucket.
fn least(bucket: usize) -> u64 {
    let shift = (bucket / PER_POWER).saturating_sub(1);
    ((bucket - shift * PER_POWER) as u64) << shift
}

/// Histograms below each other, to be read.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart {
    named: Vec<(String, Histogram)>,
}

impl AsciiChart {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more.
    #[must_use]
    #[allow(clippy::should_implement_trait, reason = "openraft names it so")]
    pub fn add(mut self, name: &str, histogram: Histogram) -> Self {
        self.named.push((name.to_owned(), histogram));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, histogram) in &self.named {
            writeln!(f, "{name}")?;
            let most = histogram.counts.iter().copied().max().unwrap_or(0);
            for (bucket, count) in histogram.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                let long = u128::from(*count) * u128::from(BAR) / u128::from(most);
                writeln!(f, "{:>20} {:>12} {}", least(bucket), count, "#".repeat(long as usize))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_in_the_bucket_that_begins_at_or_before_it() {
        for bucket_no in 0..BUCKETS {
            assert_eq!(bucket(least(bucket_no)), bucket_no);
        }
        for power in 0..u64::BITS {
            for value in
                [(1u64 << power) - 1, 1 << power, (1 << power) + 1, (1 << power) | ((1 << power) >> 1)]
            {
                let from = least(bucket(value));
                assert!(from <= value && value - from <= from / 4, "{value} is in the bucket from {from}");
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_those_of_what_was_counted() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats(), PercentileStats::default());
        histogram.record_n(3, 98);
        histogram.record(1024);
        histogram.record(u64::MAX);
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p0_1, stats.p50, stats.p90), (100, 3, 3, 3));
        assert_eq!((stats.p99, stats.p99_9), (1024, least(BUCKETS - 1)));
    }

    #[test]
    fn a_chart_shows_each_bucket_that_has_something() {
        let mut histogram = Histogram::new();
        histogram.record_n(2, 4);
        histogram.record(700);
        let chart = AsciiChart::new().add("stage", histogram).to_string();
        let lines: Vec<_> = chart.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0], "stage");
        assert!(lines[1].ends_with(&"#".repeat(50)) && lines[2].contains(" 640 "), "{chart}");
    }
}
