//! The page of results. Flows in: what was recorded. Flows out: Markdown. Pure; never a figure that was not measured.

mod judged;
mod pictures;
#[cfg(test)]
mod tests;

use crate::error::BenchError;
use crate::latency::Quantiles;
use crate::limits::{Limits, SyncRate};
use crate::machine::Machine;
use crate::plan::{Bound, Measure, Row, Spans, Sync, System, VALUE_BYTES};
use crate::record::{Outcome, Record};
use crate::server::Profile;
use crate::text::{Table, count, mib, quantiles};
pub use pictures::Picture;

use judged::{Judged, median, valid, value, words};

/// Where pictures are, beside the page.
pub const FOLDER: &str = "pictures";
/// Above this, figures are those of a machine that had other things to do.
const NOISY_CORES: f64 = 0.25;

/// What a page is made of.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// What was to be measured.
    pub rows: &'a [Row],
    /// For how long.
    pub spans: Spans,
    /// Where, and of what.
    pub machine: &'a Machine,
    /// This program's profile.
    pub built: Profile,
    /// The servers', if known.
    pub servers: Option<Profile>,
    /// Before the rows and after them.
    pub limits: &'a [Limits; 2],
    /// What came of it.
    pub records: &'a [Record],
    /// How long the last part of the run took.
    pub seconds: f64,
}

impl Page<'_> {
    /// As Markdown.
    pub fn render(&self) -> String {
        let mut text = String::from("# Meridian beside its peers\n\n");
        text += "Written by the program in this folder, never by hand. Servers, publishers and readers are processes on one\n";
        text += "machine and share its cores and its one disk. **Every event that Meridian acknowledges is on stable storage;**\n";
        text += "there is no other setting. Cases of a row take turns. A ratio is of medians; its range is turn by turn. After each\n";
        text += "run each region was asked for what it holds: of Meridian's the stored bytes were compared. Events a second are those\n";
        text += "acknowledged in the counted span, or those mirrored over the whole load, if that is less. In the rows' tables the median is\n\
             followed by the least and the most of all turns.\n\n";
        text += &self.profiles();
        text += &self.noise();
        text += &self.figures();
        text += &self.gallery();
        text += &self.about();
        text += &self.limits();
        for row in self.rows {
            text += &self.row(row);
        }
        text += "## Settings\n\n";
        text +=
            "Peers' versions and settings, with the reasons, are in [peers/jetstream](peers/jetstream) and\n";
        text += "[peers/kafka](peers/kafka). Meridian runs with its defaults.\n";
        text
    }

    /// Of which profile the figures are, marked where it is not the one to judge by.
    fn profiles(&self) -> String {
        match (self.built, self.servers) {
            (Profile::Release, Some(Profile::Release)) => String::new(),
            (_, None) => {
                "**The servers' binary was named by MERIDIAN_BIN: this program does not know its profile.**\n\n"
                    .to_owned()
            }
            _ => "**Dev profile: dependencies optimised at 3, Meridian's own crates at 1, with debug assertions, for\n\
                  servers and this program alike. A release build has other figures.**\n\n"
                .to_owned(),
        }
    }

    /// Said before any figure: a shared machine is worse in its tails than the same machine alone.
    fn noise(&self) -> String {
        let outcomes = self.records.iter().filter_map(|record| record.result.as_ref().ok());
        let noisy = outcomes.filter(|outcome| outcome.usage.others > NOISY_CORES).count();
        match noisy {
            0 => String::new(),
            _ => format!(
                "**The machine had other work to do during {noisy} of {} runs: theirs are figures of a part of this machine,\n\
                 and their tails are mostly its queue for a core.**\n\n",
                self.records.len()
            ),
        }
    }

    fn figures(&self) -> String {
        let mut text = String::from("## Figures to reach\n\n");
        let heads =
            ["row", "what", "ours", "against", "theirs", "ratio", "turn by turn", "to reach", "verdict"];
        let mut table = Table::new(&heads);
        for row in self.rows {
            for figure in &row.figures {
                let judged = Judged::of(row, figure, self.records);
                let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
                let is_ratio = figure.theirs.is_some();
                let range = judged.range.filter(|_| is_ratio);
                table.row(vec![
                    row.name.to_owned(),
                    words(figure.measure).to_owned(),
                    number(judged.ours),
                    figure.theirs.unwrap_or("–").to_owned(),
                    number(judged.theirs),
                    number(judged.value.filter(|_| is_ratio)),
                    range.map_or_else(
                        || "–".to_owned(),
                        |(a, b)| format!("{} to {}", self::number(a), self::number(b)),
                    ),
                    to_reach(figure.bound, is_ratio),
                    judged.verdict().to_owned(),
                ]);
            }
        }
        if let Some(cells) = self.memory_of_all() {
            table.row(cells);
        }
        text += &table.end();
        text
    }

    /// The most memory that any node of ours took in any row, and any of JetStream's at its defaults.
    fn memory_of_all(&self) -> Option<Vec<String>> {
        let most = |system: System| {
            let cases = self.rows.iter().flat_map(|row| row.cases.iter().map(move |case| (row.name, case)));
            let of_system = cases.filter(|(_, case)| case.system == system);
            let outcomes = of_system.flat_map(|(row, case)| valid(row, &case.name, self.records));
            outcomes.filter_map(|(_, outcome)| value(Measure::Memory, outcome)).max_by(f64::total_cmp)
        };
        let (ours, theirs) = (most(System::Meridian)?, most(System::JetStream(Sync::Lazy))?);
        let (ratio, bound) = (ours / theirs, Bound::AtMost(0.5));
        let judged =
            Judged { ours: Some(ours), theirs: Some(theirs), value: Some(ratio), range: None, bound };
        Some(
            [
                "all of these",
                words(Measure::Memory),
                &number(ours),
                "jetstream-lazy",
                &number(theirs),
                &number(ratio),
                "–",
                &to_reach(bound, true),
                judged.verdict(),
            ]
            .map(str::to_owned)
            .to_vec(),
        )
    }

    /// The pictures that go with it.
    ///
    /// # Errors
    /// Drawing fails.
    pub fn pictures(&self) -> Result<Vec<Picture>, BenchError> {
        pictures::draw(self.rows, self.records)
    }

    fn gallery(&self) -> String {
        let pictures = self.pictures().unwrap_or_default();
        let shown = |picture: &Picture| format!("![{}]({FOLDER}/{})\n\n", picture.title, picture.name);
        pictures.iter().map(shown).collect()
    }

    fn about(&self) -> String {
        let machine = self.machine;
        let mut table = Table::new(&["", "this run"]);
        let mut row = |name: &str, value: String| table.row(vec![name.to_owned(), value]);
        row("when", machine.date.clone());
        row("commit", machine.commit.clone());
        row("processor", format!("{}, {} cores", machine.cpu, machine.cores));
        row("memory", format!("{:.1} GiB", machine.memory_kib as f64 / f64::from(1 << 20)));
        row("kernel", format!("Linux {}", machine.kernel));
        row("file system", machine.file_system.clone());
        row("compiler", machine.rustc.clone());
        row("load average before", machine.load.clone());
        let spans = self.spans;
        let (warm, counted) = (spans.warm.as_secs_f64(), spans.counted.as_secs_f64());
        row("each load", format!("{warm} s warm-up, {counted} s counted, {} turns", spans.turns));
        row("values", format!("{VALUE_BYTES} bytes that do not compress, unless the row says otherwise"));
        row("whole run", format!("{:.0} s", self.seconds));
        table.end()
    }

    fn limits(&self) -> String {
        let mut text = String::from("## What this machine can do\n\n");
        text += "Measured before the rows and after them.\n\n";
        let mut table = Table::new(&["limit", "before", "after"]);
        let [before, after] = self.limits;
        for (one, two) in before.disk.iter().zip(&after.disk) {
            let cell = |sync: &SyncRate| format!("{} ms, {} MiB/s", quantiles(&sync.took), mib(sync.rate));
            let kib = one.bytes / 1024;
            let name = format!("write {kib} KiB + fdatasync, p50 / p99 / max, sequential over written zeros");
            table.row(vec![name, cell(one), cell(two)]);
        }
        for (name, rate) in [
            ("loopback TCP, one connection", [before.tcp, after.tcp]),
            ("memory copy, 1 GiB", [before.copy, after.copy]),
            ("CRC-32C of 1 KiB", [before.crc, after.crc]),
        ] {
            table.row(vec![
                name.to_owned(),
                format!("{} MiB/s", mib(rate[0])),
                format!("{} MiB/s", mib(rate[1])),
            ]);
        }
        text + &table.end()
    }

    fn row(&self, row: &Row) -> String {
        let mut text = format!("## {}: {}\n\n", row.name, row.title);
        let heads = [
            "case",
            "turns",
            "events/s",
            "MiB/s",
            "ack ms p50 / p99 / max",
            "lag ms p50 / p99 / max",
            "s",
            "server CPU, µs an event",
            "client CPU, µs an event",
            "peak MiB of a node",
        ];
        let mut table = Table::new(&heads);
        for case in &row.cases {
            let outcomes: Vec<&Outcome> =
                valid(row.name, &case.name, self.records).map(|(_, outcome)| outcome).collect();
            let cell = |measure| spread(outcomes.iter().filter_map(|o| value(measure, o)).collect());
            let own = |o: &&Outcome| (o.events > 0).then(|| o.usage.own * 1e6 / o.events as f64);
            table.row(vec![
                case.name.clone(),
                outcomes.len().to_string(),
                cell(Measure::Rate),
                cell(Measure::Bytes),
                times_cell(outcomes.iter().filter_map(|outcome| outcome.ack.as_ref())),
                times_cell(outcomes.iter().filter_map(|outcome| outcome.lag.as_ref())),
                cell(Measure::Seconds),
                cell(Measure::Cpu),
                spread(outcomes.iter().filter_map(own).collect()),
                cell(Measure::Memory),
            ]);
        }
        text += &table.end();
        text += &format!("`cargo run --locked --release -p meridian-benches -- --only {}`\n\n", row.name);
        text += &self.troubles(row);
        text
    }

    /// What is no figure, and why.
    fn troubles(&self, row: &Row) -> String {
        let of_row = self.records.iter().filter(|record| record.row == row.name);
        let trouble = |record: &Record| {
            let (why, what) = match &record.result {
                Err(error) => ("failed", error.as_str()),
                Ok(outcome) => match (&outcome.invalid, &outcome.note) {
                    (Some(invalid), _) => ("no figure", invalid.as_str()),
                    (None, Some(note)) => ("note", note.as_str()),
                    (None, None) => return None,
                },
            };
            let what = what.lines().next().unwrap_or_default();
            Some(format!("- {} turn {}: {why}: {what}\n", record.case, record.turn))
        };
        let lines: String = of_row.filter_map(trouble).collect();
        if lines.is_empty() { lines } else { lines + "\n" }
    }
}

fn to_reach(bound: Bound, is_ratio: bool) -> String {
    let unit = if is_ratio { "×" } else { "" };
    match bound {
        Bound::AtLeast(0.0) => "shown".to_owned(),
        Bound::AtLeast(bound) => format!("at least {bound}{unit}"),
        Bound::AtMost(bound) => format!("at most {bound}{unit}"),
    }
}

/// Three digits, or all of a large number.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => count(value.round() as u64),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The median, and where there are several the least and the most.
fn spread(values: Vec<f64>) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    let several = values.len() > 1;
    match median(values) {
        None => "–".to_owned(),
        Some(median) if several => format!("{} ({} to {})", number(median), number(least), number(most)),
        Some(median) => number(median),
    }
}

/// Each quantile, turn by turn put together.
fn times_cell<'a>(times: impl Iterator<Item = &'a Quantiles>) -> String {
    let times: Vec<_> = times.collect();
    if times.is_empty() {
        return "–".to_owned();
    }
    let of =
        |pick: fn(&Quantiles) -> u64| spread(times.iter().map(|one| pick(one) as f64 / 1000.0).collect());
    format!("{} / {} / {}", of(|one| one.p50), of(|one| one.p99), of(|one| one.max))
}
