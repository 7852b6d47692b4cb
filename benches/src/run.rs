//! A whole run: cases in alternation, each kept as soon as it is measured.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use crate::error::{BenchError, io};
use crate::files;
use crate::limits::Limits;
use crate::machine::Machine;
use crate::measure::Bench;
use crate::plan::{Case, Row, Spans};
use crate::record::{Outcome, Record, Records};
use crate::results::{self, Page};
use crate::text;
use crate::tools::Tools;

/// Written and removed before anything is measured: cold memory of a virtual machine is slow memory.
const WARM_UP_BYTES: u64 = 3 << 30;

/// What is to be measured.
#[derive(Debug)]
pub struct Plan {
    /// Which rows.
    pub rows: Vec<Row>,
    /// For how long.
    pub spans: Spans,
    /// Where: a new or empty folder.
    pub dir: PathBuf,
    /// What was measured before; none: nothing.
    pub records: Option<PathBuf>,
}

/// What was measured.
#[derive(Debug)]
pub struct Run {
    rows: Vec<Row>,
    spans: Spans,
    machine: Machine,
    built: crate::server::Profile,
    servers: Option<crate::server::Profile>,
    limits: [Limits; 2],
    records: Vec<Record>,
    seconds: f64,
}

impl Plan {
    /// Measures what was not measured yet.
    ///
    /// # Errors
    /// The machine refuses. What a case failed of is in its record.
    pub async fn run(self) -> Result<Run, BenchError> {
        let begun = Instant::now();
        let Self { rows, spans, dir, records } = self;
        let fetching = rows.clone();
        let tools = tokio::task::spawn_blocking(move || Tools::fetch(&fetching)).await??;
        std::fs::create_dir_all(&dir).map_err(io(format!("make the folder {}", dir.display())))?;
        if std::fs::read_dir(&dir).map_err(io("read the folder"))?.next().is_some() {
            return Err(BenchError::wrong(format!("{} is not empty: name a new folder", dir.display())));
        }
        // Servers are told of files in it, whatever folder they run in.
        let dir = dir.canonicalize().map_err(io("find the folder"))?;
        let machine = Machine::ask(&dir);
        let kept = records.unwrap_or_else(|| dir.join("records.jsonl"));
        let mut records = Records::open(&kept)?;
        eprintln!("warming up, and measuring what the machine can do");
        files::warm_up(&dir.join("warm"), WARM_UP_BYTES).await?;
        let before = limits(&dir, spans).await?;
        for row in &rows {
            eprintln!("{}: {}", row.name, row.title);
            for turn in 1..=spans.turns {
                for case in &row.cases {
                    let counted = spans.counted.as_secs_f64();
                    if records.has(&machine.commit, row.name, &case.name, turn, counted) {
                        continue;
                    }
                    let bench = Bench { tools: &tools, spans, dir: &dir.join("case") };
                    let result = Box::pin(bench.measure(case)).await.map_err(|error| error.to_string());
                    eprintln!("  {turn} {}: {}", case.name, line(&result));
                    records.add(record(&machine, row, case, turn, spans, result))?;
                }
            }
        }
        let limits = [before, limits(&dir, spans).await?];
        let of_these = |record: &&Record| {
            record.commit == machine.commit
                && record.counted == spans.counted.as_secs_f64()
                && rows.iter().any(|row| row.name == record.row)
        };
        let records = records.all().iter().filter(of_these).cloned().collect();
        if kept.starts_with(&dir) {
            std::fs::remove_file(&kept).map_err(io("remove the records"))?;
        }
        // Gone if nothing failed.
        for folder in [dir.join("warm"), dir] {
            let _ = std::fs::remove_dir(folder);
        }
        let (built, servers) = (crate::server::PROFILE, tools.profile());
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Run { rows, spans, machine, built, servers, limits, records, seconds })
    }
}

impl Run {
    /// The page.
    pub fn page(&self) -> String {
        self.as_page().render()
    }

    fn as_page(&self) -> Page<'_> {
        Page {
            rows: &self.rows,
            spans: self.spans,
            machine: &self.machine,
            built: self.built,
            servers: self.servers,
            limits: &self.limits,
            records: &self.records,
            seconds: self.seconds,
        }
    }

    /// Writes the records and the pictures beside the page.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn write_beside(&self, page: &Path) -> Result<(), BenchError> {
        let all = json!({ "machine": self.machine, "limits": self.limits, "records": self.records });
        let text = serde_json::to_string_pretty(&all)
            .map_err(|error| BenchError::wrong(format!("the records have no text: {error}")))?;
        let path = page.with_extension("json");
        std::fs::write(&path, text + "\n").map_err(io(format!("write {}", path.display())))?;
        let folder = page.with_file_name(results::FOLDER);
        std::fs::create_dir_all(&folder).map_err(io("make the folder of the pictures"))?;
        for picture in self.as_page().pictures()? {
            let path = folder.join(picture.name);
            std::fs::write(&path, picture.text).map_err(io(format!("write {}", path.display())))?;
        }
        Ok(())
    }

    /// What failed, in words.
    pub fn failures(&self) -> Vec<String> {
        let failed = |record: &Record| {
            let error = record.result.as_ref().err()?;
            Some(format!("{} {} turn {}: {error}", record.row, record.case, record.turn))
        };
        self.records.iter().filter_map(failed).collect()
    }
}

fn record(
    machine: &Machine,
    row: &Row,
    case: &Case,
    turn: usize,
    spans: Spans,
    result: Result<Outcome, String>,
) -> Record {
    Record {
        commit: machine.commit.clone(),
        when: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        row: row.name.to_owned(),
        case: case.name.clone(),
        turn,
        counted: spans.counted.as_secs_f64(),
        result,
    }
}

async fn limits(dir: &Path, spans: Spans) -> Result<Limits, BenchError> {
    let dir = dir.to_path_buf();
    tokio::task::spawn_blocking(move || Limits::measure(&dir, spans.limit)).await?
}

/// A case in one line, while the others are still measured.
fn line(result: &Result<Outcome, String>) -> String {
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(error) => return format!("FAILED: {error}"),
    };
    let mut line =
        format!("{} events/s, {} MiB/s", text::count(outcome.rate.round() as u64), text::mib(outcome.bytes));
    for (name, times) in [("ack", &outcome.ack), ("lag", &outcome.lag)] {
        if let Some(times) = times {
            line += &format!(", {name} ms {}", text::quantiles(times));
        }
    }
    if let Some(seconds) = outcome.seconds {
        line += &format!(", {seconds:.2} s");
    }
    line += &format!(
        ", server CPU {:.2} µs an event, own {:.2}",
        outcome.usage.servers() * 1e6 / outcome.events.max(1) as f64,
        outcome.usage.own * 1e6 / outcome.events.max(1) as f64
    );
    if let Some(why) = &outcome.invalid {
        line += &format!(" INVALID: {why}");
    }
    line
}
