//! `meridian region`: what holds for a region as a whole.

mod restore;

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::exit::{Exit, Outcome};
use crate::human;
use crate::target::Target;

/// What to do with regions.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Keep so many replicas of each of a region's shards and copies. Returns once that is decided; sets follow one node
    /// at a time, and `shard list` shows how far they are. The same again is no error.
    SetReplication(SetReplication),
    /// Have a region that lost a majority of its disks go on, under its next incarnation, with what others hold of it.
    Restore(restore::Restore),
}

/// `region set-replication`.
#[derive(Debug, Args)]
pub struct SetReplication {
    /// From 1, and no more than the region has active nodes. 3 survive the loss of any one, 5 that of any two.
    #[arg(value_parser = clap::value_parser!(u32).range(1..=255))]
    replicas: u32,
    /// Give up if no node answers for so long.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = human::parse_time)]
    timeout: Duration,
    #[command(flatten)]
    target: Target,
}

/// Runs the command.
pub async fn run(command: Command) -> Outcome {
    let args = match command {
        Command::SetReplication(args) => args,
        Command::Restore(args) => return restore::run(args).await,
    };
    let admin = args.target.region(args.timeout)?.admin();
    admin.set_replication(args.replicas).await?;
    let region = admin.topology().await?.region;
    eprintln!(
        "region {region} keeps {} replicas of each shard from now on; `meridian shard list` shows how far it is",
        args.replicas
    );
    Ok(Exit::Ok)
}
