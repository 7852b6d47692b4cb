//! Pictures of what was recorded, as SVG. Pure.

use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::*;

use super::judged::{median, valid, value};
use super::number;
use crate::error::BenchError;
use crate::latency::Quantiles;
use crate::plan::{Flush, Measure, Row, Sync, System, Tuned, Work};
use crate::record::Record;

const WIDTH: u32 = 900;
const BAR: u32 = 26;
const MARGIN: u32 = 20;
const LABELS: u32 = 330;
/// Ours, then each setting of each peer.
const BLUE: RGBColor = RGBColor(31, 119, 180);
const SHADES: [RGBColor; 5] = [
    RGBColor(31, 119, 180),
    RGBColor(106, 174, 214),
    RGBColor(8, 48, 107),
    RGBColor(0, 150, 136),
    RGBColor(127, 127, 127),
];

/// One colour for each system in all pictures; where a row compares Meridian with itself, one for each case.
fn colour(row: &Row, at: usize) -> RGBColor {
    let is_alone = row.cases.iter().all(|case| case.system == System::Meridian);
    match row.cases[at].system {
        System::Meridian if is_alone => SHADES[at % SHADES.len()],
        System::Meridian => BLUE,
        System::JetStream(Sync::Lazy) => RGBColor(214, 39, 40),
        System::JetStream(Sync::Always) => RGBColor(150, 20, 60),
        System::Kafka(Flush::Default, Tuned::Throughput) => RGBColor(44, 160, 44),
        System::Kafka(Flush::Default, Tuned::Latency) => RGBColor(140, 190, 60),
        System::Kafka(Flush::EachMessage, _) => RGBColor(20, 90, 40),
    }
}

/// A picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// The file's name, without its folder.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// SVG.
    pub text: String,
}

/// All that can be drawn of these rows.
///
/// # Errors
/// Drawing fails.
pub fn draw(rows: &[Row], records: &[Record]) -> Result<Vec<Picture>, BenchError> {
    let is_growth = |row: &&Row| row.name.starts_with("growth-");
    let is_max = |row: &&Row| {
        row.cases.iter().any(|case| matches!(case.work, Work::Publish(load) if load.pace.is_none()))
    };
    let mut pictures = Vec::new();
    let throughput: Vec<&Row> = rows.iter().filter(is_max).collect();
    pictures.extend(bars(
        "throughput",
        "Events a second, median of turns",
        &throughput,
        Measure::Rate,
        records,
    )?);
    let growth: Vec<&Row> = rows.iter().filter(is_growth).collect();
    pictures.extend(bars(
        "growth",
        "Ack p99 in ms as things grow, median of turns",
        &growth,
        Measure::AckP99,
        records,
    )?);
    for row in rows.iter().filter(|row| row.name.contains("lag-") || row.name.ends_with("-lag")) {
        pictures.extend(curves(row, records)?);
    }
    Ok(pictures)
}

/// One bar a case, row by row; none if nothing was measured.
fn bars(
    name: &str,
    title: &str,
    rows: &[&Row],
    measure: Measure,
    records: &[Record],
) -> Result<Option<Picture>, BenchError> {
    let mut bars = Vec::new();
    for row in rows {
        // What a disk does alone is no number of events.
        let cases = row.cases.iter().enumerate().filter(|(_, case)| matches!(case.work, Work::Publish(_)));
        for (at, case) in cases {
            let values =
                valid(row.name, &case.name, records).filter_map(|(_, outcome)| value(measure, outcome));
            if let Some(middle) = median(values.collect()) {
                bars.push((format!("{}: {}", row.name, case.name), middle, colour(row, at)));
            }
        }
    }
    let most = bars.iter().map(|(_, value, _)| *value).fold(0.0, f64::max);
    if most <= 0.0 {
        return Ok(None);
    }
    let height = BAR * bars.len() as u32 + 3 * MARGIN;
    let text = svg((WIDTH, height), |area| {
        area.draw(&Text::new(title.to_owned(), (MARGIN as i32, MARGIN as i32 / 2), ("sans-serif", 17)))?;
        let width = f64::from(WIDTH - LABELS - 6 * MARGIN);
        for (at, (label, value, colour)) in bars.iter().enumerate() {
            let top = (2 * MARGIN + BAR * at as u32) as i32;
            let left = LABELS as i32;
            let right = left + ((value / most) * width).round().max(1.0) as i32;
            area.draw(&Text::new(label.clone(), (MARGIN as i32, top + 4), ("sans-serif", 14)))?;
            area.draw(&Rectangle::new([(left, top), (right, top + BAR as i32 - 6)], colour.filled()))?;
            area.draw(&Text::new(number(*value), (right + 6, top + 4), ("sans-serif", 14)))?;
        }
        Ok(())
    })?;
    Ok(Some(Picture { name: format!("{name}.svg"), title: title.to_owned(), text }))
}

/// Latency by percentile: how long the acknowledgement took, and how long the way to the other region's reader.
fn curves(row: &Row, records: &[Record]) -> Result<Option<Picture>, BenchError> {
    let mut lines = Vec::new();
    for (at, case) in row.cases.iter().enumerate() {
        let outcomes: Vec<_> = valid(row.name, &case.name, records).map(|(_, outcome)| outcome).collect();
        for (what, is_lag) in [("ack", false), ("lag", true)] {
            let times = outcomes
                .iter()
                .filter_map(|outcome| if is_lag { outcome.lag.as_ref() } else { outcome.ack.as_ref() });
            let points = middle_curve(&times.collect::<Vec<_>>());
            if !points.is_empty() {
                lines.push((format!("{} {what}", case.name), points, colour(row, at), is_lag));
            }
        }
    }
    let all = || lines.iter().flat_map(|(_, points, ..)| points).map(|(_, ms)| *ms);
    let most = all().fold(0.0, f64::max);
    if most <= 0.0 {
        return Ok(None);
    }
    let least = all().fold(most, f64::min).max(0.01);
    let title = format!("{}: latency in ms by percentile (thick: lag; thin: ack)", row.name);
    let text = svg((WIDTH, 480), |area| {
        let mut chart = ChartBuilder::on(&area)
            .caption(&title, ("sans-serif", 17))
            .margin(MARGIN)
            .x_label_area_size(30)
            .y_label_area_size(60)
            .build_cartesian_2d(Nines(0.0..4.0), (least..most * 1.2).log_scale())?;
        let label = |ms: &f64| number(*ms);
        chart
            .configure_mesh()
            .x_labels(5)
            .y_label_formatter(&label)
            .x_desc("percentile")
            .y_desc("ms")
            .draw()?;
        for (name, points, colour, is_lag) in &lines {
            let colour = *colour;
            let style = colour.stroke_width(if *is_lag { 3 } else { 1 });
            chart
                .draw_series(LineSeries::new(points.iter().copied(), style))?
                .label(name.clone())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .border_style(BLACK)
            .background_style(WHITE.mix(0.8))
            .draw()?;
        Ok(())
    })?;
    Ok(Some(Picture { name: format!("{}.svg", row.name), title, text }))
}

/// The median of turns at each percentile, by the number of nines: 90 % is 1, 99 % is 2.
fn middle_curve(times: &[&Quantiles]) -> Vec<(f64, f64)> {
    let Some(first) = times.first() else { return Vec::new() };
    let at = |index: usize, percentile: f64| {
        let values =
            times.iter().filter_map(|one| one.curve.get(index)).map(|(_, micros)| *micros as f64 / 1000.0);
        Some((nines(percentile), median(values.collect())?.max(0.001)))
    };
    let below_all = first.curve.iter().enumerate().filter(|(_, (percentile, _))| *percentile < 100.0);
    below_all.filter_map(|(index, (percentile, _))| at(index, *percentile)).collect()
}

fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile / 100.0).log10()
}

/// An axis of nines.
struct Nines(std::ops::Range<f64>);

impl Ranged for Nines {
    type FormatOption = plotters::coord::ranged1d::NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let part = (value - self.0.start) / (self.0.end - self.0.start);
        limit.0 + (part * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: plotters::coord::ranged1d::KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        vec![nines(0.0), nines(50.0), nines(90.0), nines(99.0), nines(99.9), nines(99.99)]
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.0.clone()
    }
}

impl ValueFormatter<f64> for Nines {
    fn format_ext(&self, value: &f64) -> String {
        let percentile = 100.0 * (1.0 - 10_f64.powf(-value));
        let text = format!("{percentile:.2}");
        format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn svg(
    size: (u32, u32),
    draw: impl FnOnce(Area<'_>) -> Result<(), Box<dyn std::error::Error>>,
) -> Result<String, BenchError> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        let wrong = |error| BenchError::wrong(format!("a picture cannot be drawn: {error}"));
        area.fill(&WHITE)
            .map_err(|error| BenchError::wrong(format!("a picture cannot be drawn: {error}")))?;
        draw(area).map_err(wrong)?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Case, Place, Publish, Shape};
    use crate::record::Outcome;

    #[test]
    fn what_was_measured_is_drawn_and_nothing_else() {
        let load = Publish::max(Shape::Batched, None);
        let case = |name: &str| {
            let (system, place) = (System::Meridian, Place::Alone);
            Case { name: name.to_owned(), system, place, work: Work::Publish(load) }
        };
        let row = |name| Row {
            name,
            title: "",
            cases: vec![case("one"), case("two")],
            figures: vec![],
            quick: true,
        };
        let times = Quantiles {
            p50: 500,
            p99: 900,
            max: 900,
            curve: vec![(0.0, 100), (50.0, 500), (99.0, 900), (100.0, 900)],
        };
        let outcome = Outcome { rate: 1234.0, events: 1, ack: Some(times), ..Outcome::default() };
        let record = |row: &str| Record {
            commit: "c".to_owned(),
            when: "now".to_owned(),
            row: row.to_owned(),
            case: "one".to_owned(),
            turn: 1,
            counted: 1.0,
            result: Ok(outcome.clone()),
        };
        let rows = [row("lag-1"), row("growth-1"), row("other")];
        let pictures = draw(&rows, &[record("lag-1"), record("growth-1")]).unwrap();
        let names: Vec<_> = pictures.iter().map(|picture| picture.name.as_str()).collect();
        assert_eq!(names, ["throughput.svg", "growth.svg", "lag-1.svg"]);
        assert!(pictures[0].text.contains("1,234") && pictures[0].text.contains("growth-1: one"));
        assert!(!pictures[0].text.contains("two"), "what was not measured has no bar");
        assert!(pictures[2].text.contains("99.9 %") && pictures[2].text.contains("one ack"));
        assert_eq!(draw(&rows, &[]).unwrap(), []);
        // An average of 100 percentiles would be none: the worst has no place on an axis of nines.
        assert_eq!(middle_curve(&[&outcome.ack.clone().unwrap()]).len(), 3);
    }
}
