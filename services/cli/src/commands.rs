//! The command line: one variant a command, one file each.

use clap::{Parser, Subcommand};

use crate::exit::{self, Failure, Outcome};
use crate::{consume, demo, dev, format, lag, node, publish, region, serve, shard, stream, verify};

/// Meridian, a globally distributed event bus: publish in any region, read the same bytes everywhere.
#[derive(Debug, Parser)]
#[command(name = "meridian", version, after_help = exit::TABLE, after_long_help = exit::TABLE)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create, read, list, change and delete streams.
    #[command(subcommand, after_help = exit::TABLE)]
    Stream(stream::Command),
    /// Publish the lines of an NDJSON file, each once and in order by key.
    #[command(after_help = exit::TABLE)]
    Publish(publish::Args),
    /// Read every region's events of a stream from one region.
    #[command(after_help = exit::TABLE)]
    Consume(consume::Args),
    /// Prove that every region holds the same bytes of a stream, read from their disks.
    #[command(after_help = exit::TABLE)]
    Verify(verify::Args),
    /// How far each region's copy of each other region is, and what would be lost with a region now.
    #[command(after_help = exit::TABLE)]
    Lag(lag::Args),
    /// The nodes of the cluster; add one, take one out of use.
    #[command(subcommand, after_help = exit::TABLE)]
    Node(node::Command),
    /// The shards: who leads them, who has replicas, how far they are; move a replica.
    #[command(subcommand, after_help = exit::TABLE)]
    Shard(shard::Command),
    /// A region as a whole: how many replicas it keeps; restore one that lost its majority.
    #[command(subcommand, after_help = exit::TABLE)]
    Region(region::Command),
    /// Run a world of regions on this machine, with a simulated WAN between them.
    #[command(after_help = exit::TABLE)]
    Dev(dev::Args),
    /// Run one node.
    #[command(after_help = exit::TABLE)]
    Serve(serve::Args),
    /// Make a new node's data folder, before its first start.
    #[command(after_help = exit::TABLE)]
    Format(format::Args),
    /// Three regions, a region killed on the way, and the proof that nothing was lost.
    #[command(after_help = exit::TABLE)]
    Demo(demo::Args),
}

impl Command {
    /// Runs the command to its end.
    pub fn run(self) -> Outcome {
        match self {
            Self::Stream(command) => block_on(stream::run(command)),
            Self::Publish(args) => block_on(publish::run(args)),
            Self::Consume(args) => block_on(consume::run(args)),
            Self::Verify(args) => block_on(verify::run(args)),
            Self::Lag(args) => block_on(lag::run(args)),
            Self::Node(command) => block_on(node::run(command)),
            Self::Shard(command) => block_on(shard::run(command)),
            Self::Region(command) => block_on(region::run(command)),
            Self::Dev(args) => block_on(dev::run(args)),
            Self::Serve(args) => serve::run(&args),
            Self::Format(args) => format::run(&args),
            Self::Demo(args) => block_on(demo::run(args)),
        }
    }
}

/// Runs a client command. Servers build runtimes of their own.
fn block_on(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        Failure::input(format!("cannot start threads: {error}; raise the limit (ulimit -u)"))
    })?;
    let outcome = runtime.block_on(command);
    // A thread may sit in a read of stdin that never returns.
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_commands_of_the_tour_parse() {
        for line in [
            "meridian stream create flights --partitions 4 --cluster c.json --region us",
            "meridian stream list --endpoint http://127.0.0.1:7401 --json",
            "meridian publish flights --file f.ndjson.gz --key-field tailnum --timeout 2m --cluster c.json --region us",
            "meridian publish flights --file - --endpoint 127.0.0.1:7401",
            "meridian consume flights --from start --until-caught-up --with-metadata --cluster c.json --region eu",
            "meridian publish flights --file - --endpoint 127.0.0.1:7401,127.0.0.1:7402",
            "meridian node list --json --cluster c.json",
            "meridian node add --config node.toml",
            "meridian node add --config node.toml --endpoint a:1",
            "meridian node add 4 --region us --disk d --peer a:2 --client a:1 --cluster c.json",
            "meridian node drain 2 --undo --cluster c.json --region us",
            "meridian node remove 2 --endpoint a:1",
            "meridian shard list --cluster c.json",
            "meridian shard move --shard us/3 --from 1 --to 4 --cluster c.json --region us",
            "meridian region restore us --lost 1,2 --dry-run --cluster c.json",
            "meridian region set-replication 5 --cluster c.json --region us",
            "meridian verify flights --json --cluster c.json",
            "meridian lag --watch --json --cluster c.json",
            "meridian dev --regions us,eu --nodes 1 --data d --base-port 7401 --wan us-eu=80ms --processes --respawn",
            "meridian serve --config node.toml",
            "meridian format --config node.toml",
            "meridian demo --events f.ndjson --key-field tailnum",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn a_target_is_one_thing() {
        let both = "meridian stream list --endpoint a:1 --cluster c.json";
        assert!(Cli::try_parse_from(both.split(' ')).is_err());
        let region_alone = "meridian stream list --endpoint a:1 --region us";
        assert!(Cli::try_parse_from(region_alone.split(' ')).is_err());
    }
}
