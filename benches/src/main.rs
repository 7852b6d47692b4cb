//! Measures Meridian and its peers side by side, on the same machine, at the same work, and writes what came of it.
//!
//! Flows in: a binary `meridian`, the peers that scripts fetch, and a folder on a disk. Flows out: records, a page, pictures.
//! Must never write a figure that was not measured, nor one of a run in which an event was lost, doubled or differs
//! between regions.

mod cluster;
mod error;
mod files;
mod jetstream;
mod kafka;
mod latency;
mod limits;
mod load;
mod machine;
mod measure;
mod meridian;
mod pace;
mod plan;
mod read;
mod record;
mod recovery;
mod results;
mod rows;
mod run;
mod server;
mod site;
mod tally;
mod text;
mod tools;
mod usage;
mod wan;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::{BenchError, io};
use crate::plan::{Row, Spans};

/// How long anything may take that should take seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures Meridian beside NATS JetStream and Kafka with MirrorMaker 2.
///
/// Starts all servers itself, over loopback or in network namespaces, and ends them. Without options it takes some minutes
/// and writes benches/RESULTS.md; with --full hours, row by row, and goes on where it was interrupted.
#[derive(Debug, Parser)]
struct Args {
    /// Every row, and longer.
    #[arg(long)]
    full: bool,
    /// One short turn for a look, and not for keeping.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Only this row; again for more.
    #[arg(long, value_name = "ROW")]
    only: Vec<String>,
    /// Only this case of rows, by its name; again for more.
    #[arg(long, value_name = "CASE")]
    case: Vec<String>,
    /// Turns, if not as many as usual.
    #[arg(long, value_name = "N")]
    turns: Option<usize>,
    /// Where records are kept; what is in there of this commit is not measured again. A new file if not given, but with --full.
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,
    /// Where the page goes; the records and the pictures go beside it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// An empty or new folder to measure in, on the disk that is meant; a new one in ./data if not given.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Lists the rows.
    #[arg(long)]
    list: bool,
}

impl Args {
    fn rows(&self) -> Result<Vec<Row>, BenchError> {
        let mut rows = rows::all();
        let names: Vec<_> = rows.iter().map(|row| row.name).collect();
        if let Some(unknown) = self.only.iter().find(|name| !names.contains(&name.as_str())) {
            let what = format!("there is no row {unknown}; there are {}", names.join(", "));
            return Err(BenchError::wrong(what));
        }
        let is_wanted = |row: &Row| match self.only.is_empty() {
            true => row.quick || self.full,
            false => self.only.iter().any(|name| name == row.name),
        };
        rows.retain(is_wanted);
        for row in &mut rows {
            row.cases.retain(|case| self.case.is_empty() || self.case.contains(&case.name));
            let names: Vec<_> = row.cases.iter().map(|case| case.name.as_str()).collect();
            row.figures.retain(|figure| {
                names.contains(&figure.ours) && figure.theirs.is_none_or(|theirs| names.contains(&theirs))
            });
        }
        rows.retain(|row| !row.cases.is_empty());
        if rows.is_empty() {
            return Err(BenchError::wrong("no case has such a name; --list shows them"));
        }
        Ok(rows)
    }

    fn spans(&self) -> Spans {
        let spans = match (self.full, self.quick) {
            (true, _) => Spans::FULL,
            (false, true) => Spans::QUICK,
            (false, false) => Spans::SHORT,
        };
        Spans { turns: self.turns.unwrap_or(spans.turns), ..spans }
    }

    /// None: it is printed.
    fn out(&self) -> Option<PathBuf> {
        let is_whole = !self.quick && self.only.is_empty() && self.case.is_empty();
        self.out.clone().or_else(|| is_whole.then(|| tools::folder().join("RESULTS.md")))
    }

    /// None: in the folder that is measured in.
    fn records(&self) -> Option<PathBuf> {
        let kept =
            || std::env::var_os("MERIDIAN_BUILD").map(|build| PathBuf::from(build).join("bench.jsonl"));
        self.records.clone().or_else(|| if self.full { kept() } else { None })
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        for row in rows::all() {
            let cases: Vec<_> = row.cases.iter().map(|case| case.name.as_str()).collect();
            println!("{:17} {}\n{:17}   {}", row.name, row.title, "", cases.join(", "));
        }
        return ExitCode::SUCCESS;
    }
    let dir = args.data.clone();
    let dir = dir.unwrap_or_else(|| PathBuf::from(format!("data/bench-{}", std::process::id())));
    let outcome = tokio::select! {
        outcome = run(&args, dir.clone()) => outcome,
        // What is dropped here ends its servers.
        error = told_to_end() => Err(error),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            eprintln!("what the servers stored and said may be in {}", dir.display());
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args, dir: PathBuf) -> Result<bool, BenchError> {
    let plan = run::Plan { rows: args.rows()?, spans: args.spans(), dir, records: args.records() };
    let run = plan.run().await?;
    let page = run.page();
    match args.out() {
        Some(path) => {
            std::fs::write(&path, page).map_err(io(format!("write {}", path.display())))?;
            run.write_beside(&path)?;
            eprintln!("written to {}", path.display());
        }
        None => print!("{page}"),
    }
    for failure in run.failures() {
        eprintln!("failed: {failure}");
    }
    Ok(run.failures().is_empty())
}

/// Ctrl-C, or SIGTERM.
async fn told_to_end() -> BenchError {
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => return io("listen for SIGTERM")(error),
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    BenchError::wrong("told to end")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &[&str]) -> Args {
        Args::try_parse_from([&["x"], text].concat()).unwrap()
    }

    #[test]
    fn a_page_is_kept_only_if_it_is_whole_or_asked_for() {
        assert!(args(&[]).out().unwrap().ends_with("RESULTS.md"));
        assert_eq!(args(&["--quick"]).out(), None);
        assert_eq!(args(&["--only", "lag-5000"]).out(), None);
        assert_eq!(args(&["--quick", "--out", "page"]).out(), Some("page".into()));
    }

    #[test]
    fn rows_and_cases_are_chosen_by_name_and_figures_go_with_their_cases() {
        assert!(args(&["--only", "nosuch"]).rows().is_err());
        assert!(args(&["--only", "lag-5000", "--case", "nosuch"]).rows().is_err());
        let one = args(&["--only", "lag-5000", "--case", "meridian", "--case", "jetstream-lazy"]);
        let rows = one.rows().unwrap();
        assert_eq!((rows.len(), rows[0].cases.len()), (1, 2));
        assert!(rows[0].figures.iter().all(|figure| figure.theirs == Some("jetstream-lazy")));
        assert!(args(&["--full"]).rows().unwrap().len() > args(&[]).rows().unwrap().len());
    }
}
