//! What a figure came to. Pure.

use crate::plan::{Bound, Figure, Measure, Row};
use crate::record::{Outcome, Record};

/// A figure, judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The median of our turns.
    pub ours: Option<f64>,
    /// The median of theirs.
    pub theirs: Option<f64>,
    /// Ours to theirs, or ours where it stands by itself.
    pub value: Option<f64>,
    /// The least and the most of turn by turn.
    pub range: Option<(f64, f64)>,
    /// What it is to be.
    pub bound: Bound,
}

impl Judged {
    /// Judges by what was recorded.
    pub fn of(row: &Row, figure: &Figure, records: &[Record]) -> Self {
        let values = |case: &str| values(row, case, figure.measure, records);
        let ours = values(figure.ours);
        let theirs = figure.theirs.map(values);
        let pairs: Vec<f64> = match &theirs {
            None => ours.iter().map(|(_, value)| *value).collect(),
            Some(theirs) => ours
                .iter()
                .filter_map(|(turn, value)| {
                    let other = theirs.iter().find(|(other, _)| other == turn)?.1;
                    (other > 0.0).then(|| value / other)
                })
                .collect(),
        };
        let of = |values: &[(usize, f64)]| median(values.iter().map(|(_, value)| *value).collect());
        let (ours, theirs) = (of(&ours), theirs.as_deref().map(of));
        let value = match theirs {
            None => ours,
            Some(theirs) => ours.zip(theirs.filter(|theirs| *theirs > 0.0)).map(|(a, b)| a / b),
        };
        let least = pairs.iter().copied().min_by(f64::total_cmp);
        let most = pairs.iter().copied().max_by(f64::total_cmp);
        Self { ours, theirs: theirs.flatten(), value, range: least.zip(most), bound: figure.bound }
    }

    /// In a word.
    pub fn verdict(&self) -> &'static str {
        match self.value {
            None => "NO FIGURE",
            Some(_) if self.bound == Bound::AtLeast(0.0) => "–",
            Some(value) if self.bound.holds(value) => "reached",
            Some(_) => "MISSED",
        }
    }
}

/// Turn by turn, of those that are figures.
pub fn values(row: &Row, case: &str, measure: Measure, records: &[Record]) -> Vec<(usize, f64)> {
    valid(row.name, case, records)
        .filter_map(|(turn, outcome)| Some((turn, value(measure, outcome)?)))
        .collect()
}

/// What is a figure of the load that it names.
pub fn valid<'a>(
    row: &'a str,
    case: &'a str,
    records: &'a [Record],
) -> impl Iterator<Item = (usize, &'a Outcome)> {
    let of_case = move |record: &&Record| record.row == row && record.case == case;
    let outcomes = records.iter().filter(of_case);
    let outcomes = outcomes.filter_map(|record| Some((record.turn, record.result.as_ref().ok()?)));
    outcomes.filter(|(_, outcome)| outcome.invalid.is_none())
}

/// The middle one; of an even number the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        len if len.is_multiple_of(2) => Some(f64::midpoint(values[middle - 1], values[middle])),
        _ => Some(values[middle]),
    }
}

/// A measure of an outcome, in the unit of [`unit`].
pub fn value(measure: Measure, outcome: &Outcome) -> Option<f64> {
    let cpu = outcome.usage.servers();
    let micros = |micros: u64| micros as f64 / 1000.0;
    let (ack, lag) = (outcome.ack.as_ref(), outcome.lag.as_ref());
    let events = outcome.events as f64;
    match measure {
        Measure::Rate => (outcome.rate > 0.0).then(|| outcome.sustained()),
        Measure::Bytes => (outcome.bytes > 0.0).then_some(outcome.bytes / f64::from(1 << 20)),
        Measure::RatePerCpu => (cpu > 0.0).then(|| events / cpu),
        Measure::Cpu => (events > 0.0 && cpu > 0.0).then(|| cpu * 1e6 / events),
        Measure::AckP50 => ack.map(|ack| micros(ack.p50)),
        Measure::AckP99 => ack.map(|ack| micros(ack.p99)),
        Measure::LagP50 => lag.map(|lag| micros(lag.p50)),
        Measure::LagP99 => lag.map(|lag| micros(lag.p99)),
        Measure::AboveOneWay => outcome.above_one_way.map(micros),
        Measure::Memory => {
            let most = outcome.usage.most_memory();
            (most > 0).then(|| most as f64 / f64::from(1 << 20))
        }
        Measure::Seconds => outcome.seconds,
        Measure::Read => outcome.read.map(|bytes| bytes as f64 / f64::from(1 << 20)),
    }
}

/// A measure in words, with its unit.
pub const fn words(measure: Measure) -> &'static str {
    match measure {
        Measure::Rate => "events/s",
        Measure::Bytes => "MiB/s",
        Measure::RatePerCpu => "events for a CPU second of the servers",
        Measure::Cpu => "server CPU, µs an event",
        Measure::AckP50 => "ack p50, ms",
        Measure::AckP99 => "ack p99, ms",
        Measure::LagP50 => "lag p50, ms",
        Measure::LagP99 => "lag p99, ms",
        Measure::AboveOneWay => "lag p50 above one way, ms",
        Measure::Memory => "peak memory of a node, MiB",
        Measure::Seconds => "seconds",
        Measure::Read => "read of the disk, MiB",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Bound::{AtLeast, AtMost};

    fn record(case: &str, turn: usize, rate: f64, invalid: bool) -> Record {
        let invalid = invalid.then(|| "late".to_owned());
        let outcome = Outcome { rate, events: 10, invalid, ..Outcome::default() };
        let (commit, when, row) = ("c".to_owned(), "now".to_owned(), "r".to_owned());
        Record { commit, when, row, case: case.to_owned(), turn, counted: 1.0, result: Ok(outcome) }
    }

    fn figure(bound: Bound) -> Figure {
        Figure { measure: Measure::Rate, ours: "a", theirs: Some("b"), bound }
    }

    #[test]
    fn the_ratio_is_of_medians_and_the_range_turn_by_turn() {
        let row = Row { name: "r", title: "", cases: vec![], figures: vec![], quick: true };
        let mut records = vec![record("a", 1, 10.0, false), record("b", 1, 10.0, false)];
        records.extend([record("a", 2, 30.0, false), record("b", 2, 10.0, false)]);
        records.extend([record("a", 3, 20.0, false), record("b", 3, 5.0, false)]);
        let judged = Judged::of(&row, &figure(AtLeast(2.0)), &records);
        assert_eq!((judged.ours, judged.theirs, judged.value), (Some(20.0), Some(10.0), Some(2.0)));
        assert_eq!((judged.range, judged.verdict()), (Some((1.0, 4.0)), "reached"));
        assert_eq!(Judged::of(&row, &figure(AtMost(1.9)), &records).verdict(), "MISSED");
        // What is no figure does not count, and what has no pair is in no ratio of its turn.
        records.push(record("a", 4, 1000.0, true));
        records.push(record("b", 4, 10.0, false));
        assert_eq!(Judged::of(&row, &figure(AtLeast(2.0)), &records), judged);
        assert_eq!(Judged::of(&row, &figure(AtLeast(2.0)), &records[..1]).verdict(), "NO FIGURE");
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(
            [vec![], vec![3.0], vec![2.0, 1.0], vec![9.0, 1.0, 2.0]].map(median),
            [None, Some(3.0), Some(1.5), Some(2.0)]
        );
    }
}
