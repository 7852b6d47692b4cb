//! `run`, `replay` and `mutants`.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use meridian_sim::coverage::Coverage;
use meridian_sim::{mutants, run};
use meridian_types::mutant::Mutant;

/// Simulates the cores of Meridian and checks the laws.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs many histories.
    Run {
        /// How many.
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// The first seed; `MERIDIAN_SEED` where it is set.
        #[arg(long)]
        from: Option<u64>,
        /// On how many threads; as many as there are cores.
        #[arg(long, default_value_t = cores())]
        jobs: usize,
        /// Stops after so many minutes.
        #[arg(long)]
        minutes: Option<u64>,
        /// With this fault in the cores.
        #[arg(long)]
        mutant: Option<String>,
    },
    /// Runs one history again and shows what happened.
    Replay {
        /// Which.
        seed: u64,
        /// Every line of its trace.
        #[arg(long)]
        trace: bool,
        /// With this fault in the cores.
        #[arg(long)]
        mutant: Option<String>,
    },
    /// Tries each fault of the cores until a checker catches it.
    Mutants {
        /// At most so many seeds each.
        #[arg(long, default_value_t = 2000)]
        seeds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// On how many threads; as many as there are cores.
        #[arg(long, default_value_t = cores())]
        jobs: usize,
        /// This one alone.
        #[arg(long)]
        only: Option<String>,
    },
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Run { seeds, from, jobs, minutes, mutant } => {
            let seed = std::env::var("MERIDIAN_SEED").ok().and_then(|text| text.parse().ok());
            many(seeds, from.or(seed).unwrap_or(0), jobs, minutes, mutant_of(mutant.as_deref()))
        }
        Command::Replay { seed, trace, mutant } => replay(seed, trace, mutant_of(mutant.as_deref())),
        Command::Mutants { seeds, from, jobs, only } => table(seeds, from, jobs, mutant_of(only.as_deref())),
    }
}

fn mutant_of(name: Option<&str>) -> Option<Mutant> {
    let name = name?;
    let found = Mutant::ALL.into_iter().find(|mutant| format!("{mutant:?}") == name);
    Some(found.unwrap_or_else(|| panic!("no mutant is called {name}: {:?}", Mutant::ALL)))
}

fn many(seeds: u64, from: u64, jobs: usize, minutes: Option<u64>, mutant: Option<Mutant>) -> ExitCode {
    let began = Instant::now();
    let limit = minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let (mut histories, mut events, mut operations, mut faults, mut simulated) =
        (0u64, 0u64, 0u64, 0u64, 0u64);
    let mut met = Coverage::default();
    let (mut broken, mut thin) = (Vec::new(), Vec::new());
    run::histories(from..from.saturating_add(seeds), jobs, mutant, |outcome| {
        histories += 1;
        events += outcome.events;
        operations += outcome.operations;
        faults += outcome.faults;
        simulated += outcome.lasted;
        met.merge(&outcome.met);
        if outcome.is_thin() {
            thin.push(outcome.seed);
        }
        if let Some(breach) = outcome.breach {
            println!("seed {}: {}: {}", outcome.seed, breach.law, breach.what);
            broken.push(outcome.seed);
        }
        limit.is_none_or(|limit| began.elapsed() < limit)
    });
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    println!("what was met, over {histories} histories:");
    for (what, times) in met.iter() {
        println!("  {times:>12}  {what}");
    }
    println!(
        "{histories} histories in {:.1} s: {:.0} seeds and {:.0} events a minute; {} events, {} operations and {} faults a history; {} s simulated",
        minutes * 60.0,
        histories as f64 / minutes,
        events as f64 / minutes,
        events / histories.max(1),
        operations / histories.max(1),
        faults / histories.max(1),
        simulated / 1_000_000,
    );
    if !thin.is_empty() {
        println!("too little happened in {} seeds: {thin:?}", thin.len());
        return ExitCode::FAILURE;
    }
    if broken.is_empty() {
        println!("no law was broken");
        return ExitCode::SUCCESS;
    }
    broken.sort_unstable();
    println!("{} seeds broke a law: {broken:?}; see `replay SEED --trace`", broken.len());
    ExitCode::FAILURE
}

fn replay(seed: u64, trace: bool, mutant: Option<Mutant>) -> ExitCode {
    let outcome = run::history(seed, mutant, trace);
    let mut out = io::stdout().lock();
    for line in &outcome.lines {
        // Whoever reads on has seen enough, as `head` has.
        if writeln!(out, "{line}").is_err() {
            return ExitCode::FAILURE;
        }
    }
    drop(out);
    println!("seed {seed}: {} events, trace {:032x}", outcome.events, outcome.hash);
    match outcome.breach {
        None => {
            println!("no law was broken");
            ExitCode::SUCCESS
        }
        Some(breach) => {
            println!("{}: {}", breach.law, breach.what);
            ExitCode::FAILURE
        }
    }
}

fn table(seeds: u64, from: u64, jobs: usize, only: Option<Mutant>) -> ExitCode {
    let (mut caught_all, mut count) = (0, 0);
    println!(
        "| mutant | breaks, and is caught by the checker of | seeds it took | the seed, which passes unmutated | seeds before in which another checker was first |"
    );
    println!("| --- | --- | --- | --- | --- |");
    for mutant in Mutant::ALL.into_iter().filter(|mutant| only.is_none_or(|only| only == *mutant)) {
        let caught = mutants::catch(mutant, from, seeds, jobs);
        let (law, tried, others) = (mutants::law(mutant), caught.tried, caught.others);
        count += 1;
        match caught.by {
            Some((seed, breach)) => {
                caught_all += 1;
                println!("| {mutant:?} | {law} | {tried} | {seed} | {others} |");
                eprintln!("  {mutant:?}: {}", breach.what);
            }
            None => println!("| {mutant:?} | {law}: NOT CAUGHT | {tried} | – | {others} |"),
        }
    }
    println!("{caught_all} of {count} mutants were caught by the checker of the law that they break");
    if caught_all == count { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
