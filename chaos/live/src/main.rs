//! `meridian-chaos-live`: lists and runs the scenarios. Exit code 0: all is well; 1: a law was broken; 2: it cannot run.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use meridian_chaos_live::runner::{Ended, State, run_once, table};
use meridian_chaos_live::say;
use meridian_chaos_live::scenario::{Run, Scenario, all};
use meridian_chaos_live::trouble::Trouble;
use rand::RngExt as _;

/// Faults of the network, the disk and the clock on real processes.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the scenarios.
    List,
    /// Runs scenarios, all unless named.
    Run {
        /// Names or their beginnings: `01`, `20-wan-down`.
        names: Vec<String>,
        /// Goes on where an earlier run was interrupted.
        #[arg(long)]
        resume: bool,
        /// How often each is run.
        #[arg(long, default_value_t = 1)]
        times: u32,
        /// Where chance comes from; a new one for each run unless set.
        #[arg(long)]
        seed: Option<u64>,
        /// Fewer rounds.
        #[arg(long)]
        short: bool,
        /// Where it is remembered what is done.
        #[arg(long, default_value = "chaos-live.jsonl")]
        state: PathBuf,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::List => {
            for scenario in all() {
                say(&format!("{:<26} {}", scenario.name, scenario.promise));
            }
            ExitCode::SUCCESS
        }
        Command::Run { names, resume, times, seed, short, state } => {
            let done = chosen(&names)
                .and_then(|scenarios| run(&scenarios, State::open(&state, resume)?, times, seed, short));
            match done {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => ExitCode::from(1),
                Err(trouble) => {
                    say(&format!("meridian-chaos-live: {trouble}"));
                    ExitCode::from(2)
                }
            }
        }
    }
}

fn chosen(names: &[String]) -> Result<Vec<Scenario>, Trouble> {
    let all = all();
    if let Some(unknown) =
        names.iter().find(|name| !all.iter().any(|scenario| scenario.name.starts_with(*name)))
    {
        return Err(Trouble::tool(format!("there is no scenario {unknown}; `list` names them")));
    }
    let wanted =
        |scenario: &Scenario| names.is_empty() || names.iter().any(|name| scenario.name.starts_with(name));
    Ok(all.into_iter().filter(wanted).collect())
}

/// Whether all is well.
fn run(
    scenarios: &[Scenario],
    mut state: State,
    times: u32,
    seed: Option<u64>,
    short: bool,
) -> Result<bool, Trouble> {
    if (1..=times).all(|time| scenarios.iter().all(|scenario| state.has(scenario.name, time))) {
        // That run came to its end: this is another.
        state = state.anew()?;
    }
    for time in 1..=times {
        for scenario in scenarios {
            if state.has(scenario.name, time) {
                continue;
            }
            let seed = seed.unwrap_or_else(|| rand::rng().random_range(0..1_000_000_000));
            say(&format!("== {} (run {time} of {times}, MERIDIAN_SEED={seed})", scenario.name));
            let result = run_once(scenario, Run { seed, short }, time);
            match &result.ended {
                Ended::Ok => say(&format!("   OK after {:.0} s", result.seconds)),
                Ended::Failed(why) => say(&format!("   FAILED after {:.0} s:\n{why}", result.seconds)),
                Ended::Skipped(reason) => say(&format!("SKIPPED: {}: {reason}", scenario.name)),
            }
            state.add(result)?;
        }
    }
    say(&format!("\n{}", table(&state.done)));
    Ok(!state.done.iter().any(|run| matches!(run.ended, Ended::Failed(_))))
}
