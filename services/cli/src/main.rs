//! The binary `meridian`.
//!
//! Flows in: a command line. Flows out: what was asked for on stdout, everything else on stderr, and an exit code that
//! means something. Must never contain a server crate, other than through `node` for `serve` and `dev`.

mod cluster_file;
mod commands;
mod consume;
mod demo;
mod dev;
mod exit;
mod format;
mod human;
mod lag;
mod line;
mod node;
mod output;
mod publish;
mod reader;
mod region;
mod serve;
mod shard;
mod stream;
mod target;
mod verify;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let outcome = commands::Cli::parse().command.run();
    exit::finish(outcome)
}
