//! `meridian serve`: one node, until it is told to end.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use meridian_node::config::NodeConfig;
use meridian_node::{ServeError, abort_on_panic, log, serve};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::{Exit, Failure, Outcome};

/// `meridian serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The node's configuration.
    #[arg(long, value_name = "FILE", default_value = "node.toml")]
    config: PathBuf,
    /// End when stdin ends: whoever started this node holds the other end, and takes the node along when it dies.
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
}

/// Runs the command. The runtime is the configuration's to size.
pub fn run(args: &Args) -> Outcome {
    abort_on_panic();
    let config = NodeConfig::load(&args.config).map_err(|error| Failure::input(error.to_string()))?;
    log::init(&config.log).map_err(|error| Failure::input(format!("{}: {error}", args.config.display())))?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if config.runtime.workers > 0 {
        builder.worker_threads(config.runtime.workers);
    }
    let runtime = builder.enable_all().thread_name("meridian").build().map_err(|error| {
        Failure::input(format!("cannot start threads: {error}; raise the limit (ulimit -u)"))
    })?;
    let stop = CancellationToken::new();
    if args.until_stdin_ends {
        end_with_stdin(stop.clone());
    }
    runtime.block_on(async { end_with_signals(stop.clone()) })?;
    let served = runtime.block_on(serve(config, stop));
    if matches!(served, Err(ServeError::Restored { .. })) {
        // In place: its id, its stdin and whoever watches it stay.
        let error = std::process::Command::new("/proc/self/exe").args(std::env::args_os().skip(1)).exec();
        return Err(Failure {
            exit: Exit::Refused,
            message: format!("cannot begin anew: {error}; start it again"),
        });
    }
    // What was acknowledged is on the disk; nothing that is left is worth waiting for.
    runtime.shutdown_background();
    served.map_err(refused).map(|()| Exit::Ok)
}

/// SIGTERM and Ctrl-C drain; a second one ends at once.
pub fn end_with_signals(stop: CancellationToken) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::input(format!("cannot listen for signals: {error}"));
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        stop.cancel();
        next().await;
        std::process::exit(Exit::Interrupted as i32);
    });
    Ok(())
}

/// The end of stdin drains too: whoever holds the other end is gone.
pub fn end_with_stdin(stop: CancellationToken) {
    // A thread of its own: a read of stdin cannot be cancelled.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        stop.cancel();
    });
}

/// What an operator can put right by settings alone is bad input: starting again would not help.
fn refused(error: ServeError) -> Failure {
    let exit = match &error {
        ServeError::Folder(_)
        | ServeError::Listen { .. }
        | ServeError::Descriptors(_)
        | ServeError::Founding(_) => Exit::BadInput,
        _ => Exit::Refused,
    };
    Failure { exit, message: error.to_string() }
}
