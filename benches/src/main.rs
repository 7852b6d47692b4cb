//! Measures Meridian through its real gateway, and writes `RESULTS.md`.
//!
//! Flows in: a binary `meridian` and a folder on a disk. Flows out: one page. Must never write a figure that was not
//! measured in this run, nor one of a run in which an event was lost, doubled or differs between regions.

mod compared;
mod error;
mod latency;
mod limits;
mod load;
mod machine;
mod measure;
mod pace;
mod plan;
mod reader;
mod results;
mod server;
mod text;
mod usage;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::{BenchError, io};
use crate::limits::Limits;
use crate::machine::Machine;
use crate::measure::Outcome;
use crate::plan::{Row, Spans};
use crate::results::Run;
use crate::server::Server;

/// What `--only` takes for three nodes beside one.
const COMPARED: &str = "compared";

/// Measures Meridian through its real gateway.
///
/// Starts its own regions, over loopback, and ends them. A whole run writes benches/RESULTS.md; a quick one, or one of
/// some rows, prints the page unless --out is given.
#[derive(Debug, Parser)]
struct Args {
    /// Half a minute for a look, and not for keeping.
    #[arg(long)]
    quick: bool,
    /// Only this row; again for more. `compared` is the region of three nodes beside that of one.
    #[arg(long, value_name = "ROW")]
    only: Vec<String>,
    /// Where the page goes.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// An empty or new folder to measure in, on the disk that is meant; a new one in ./data if not given.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Args {
    fn rows(&self) -> Result<Vec<Row>, BenchError> {
        if self.only.is_empty() {
            return Ok(if self.quick { plan::quick() } else { plan::all() });
        }
        let all = plan::all();
        let mut names: Vec<_> = all.iter().map(|row| row.name()).collect();
        names.push(COMPARED.to_owned());
        if let Some(unknown) = self.only.iter().find(|name| !names.contains(name)) {
            return Err(BenchError::wrong(format!(
                "there is no row {unknown}; there are {}",
                names.join(", ")
            )));
        }
        Ok(all.into_iter().filter(|row| self.only.contains(&row.name())).collect())
    }

    fn compares(&self) -> bool {
        if self.only.is_empty() { !self.quick } else { self.only.iter().any(|name| name == COMPARED) }
    }

    fn spans(&self) -> Spans {
        if self.quick { Spans::QUICK } else { Spans::FULL }
    }

    /// None: it is printed.
    fn out(&self) -> Option<PathBuf> {
        let whole = !self.quick && self.only.is_empty();
        // Cargo tells a program that it runs where the program's crate is.
        let folder = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| "benches".into(), PathBuf::from);
        self.out.clone().or_else(|| whole.then(|| folder.join("RESULTS.md")))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let dir =
        args.data.clone().unwrap_or_else(|| PathBuf::from(format!("data/bench-{}", std::process::id())));
    let outcome = tokio::select! {
        outcome = run(&args, &dir) => outcome,
        // What is dropped here ends its servers.
        error = told_to_end() => Err(error),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            eprintln!("nothing was written; what the regions stored and said may be in {}", dir.display());
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args, dir: &Path) -> Result<(), BenchError> {
    let rows = args.rows()?;
    let server = tokio::task::spawn_blocking(Server::find).await??;
    let begun = Instant::now();
    std::fs::create_dir_all(dir).map_err(io(format!("make the folder {}", dir.display())))?;
    if std::fs::read_dir(dir).map_err(io("read the folder"))?.next().is_some() {
        return Err(BenchError::wrong(format!("{} is not empty: name a new folder", dir.display())));
    }
    let machine = Machine::ask(dir);
    let spans = args.spans();
    let before = measure_limits(dir, spans).await?;

    let (mut round_trips, mut outcomes) = (Vec::new(), Vec::new());
    for world in plan::World::ALL {
        let rows: Vec<Row> = rows.iter().copied().filter(|row| row.world == world).collect();
        if rows.is_empty() {
            continue;
        }
        eprintln!("starting world {}", world.name());
        let running = world::World::start(&server.path, world, dir.join(world.name())).await?;
        let trips = running.round_trips().await?;
        if let Some((link, trip)) = trips.iter().find(|(_, trip)| *trip < world.round_trip()) {
            let asked = world.round_trip();
            return Err(BenchError::wrong(format!("link {link} takes {trip:?} and should take {asked:?}")));
        }
        round_trips.push((world, trips));
        for row in rows {
            let outcome = Box::pin(measure::measure(&running, row, spans)).await?;
            eprintln!("{}", line(&outcome));
            outcomes.push(outcome);
        }
        running.end().await?;
    }

    let compared = if args.compares() {
        Box::pin(compared::compare(&server.path, dir, spans)).await?
    } else {
        Vec::new()
    };
    let limits = [before, measure_limits(dir, spans).await?];
    let took = begun.elapsed();
    let (profile, servers) = (server::PROFILE, server.profile);
    let page =
        Run { machine, profile, servers, spans, limits, round_trips, outcomes, compared, took }.render();
    match args.out() {
        Some(path) => {
            std::fs::write(&path, page).map_err(io(format!("write {}", path.display())))?;
            eprintln!("every row verified in {:.0} s; written to {}", took.as_secs_f64(), path.display());
        }
        None => print!("{page}"),
    }
    std::fs::remove_dir(dir).map_err(io("remove the folder that was measured in"))
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

async fn measure_limits(dir: &Path, spans: Spans) -> Result<Limits, BenchError> {
    eprintln!("measuring what the machine can do");
    let dir = dir.to_path_buf();
    tokio::task::spawn_blocking(move || Limits::measure(&dir, spans.limit)).await?
}

/// A row in one line, while the others are still measured.
fn line(outcome: &Outcome) -> String {
    let mut line = format!(
        "{}: {} events/s, ack ms {}",
        outcome.row.name(),
        text::count(outcome.rate.round() as u64),
        text::quantiles(&outcome.ack)
    );
    if let Some(lag) = &outcome.lag {
        line += &format!(", lag ms {}", text::quantiles(lag));
    }
    if let Some(drained) = outcome.drained.filter(|drained| *drained > Duration::from_secs(1)) {
        line += &format!(", drained after {:.1} s", drained.as_secs_f64());
    }
    if let Some(why) = outcome.invalid() {
        line += &format!(" INVALID: {why}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_kept_only_if_it_is_whole_or_asked_for() {
        let args = |text: &[&str]| Args::try_parse_from([&["x"], text].concat()).unwrap();
        assert!(args(&[]).out().unwrap().ends_with("RESULTS.md"));
        assert_eq!(args(&["--quick"]).out(), None);
        assert_eq!(args(&["--only", "two-sdk-5000"]).out(), None);
        assert_eq!(args(&["--quick", "--out", "page"]).out(), Some("page".into()));
        assert!(args(&["--only", "nosuch"]).rows().is_err());
        assert_eq!(args(&["--only", "two-sdk-5000"]).rows().unwrap().len(), 1);
        let compared = args(&["--only", "compared"]);
        assert!(compared.compares() && compared.rows().unwrap().is_empty());
        assert!(args(&[]).compares() && !args(&["--quick"]).compares());
    }
}
