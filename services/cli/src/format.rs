//! `meridian format`: makes a new node's data folder.

use std::path::PathBuf;

use meridian_node::config::NodeConfig;
use meridian_node::folder;

use crate::exit::{Exit, Failure, Outcome};
use crate::output;

/// `meridian format`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The node's configuration.
    #[arg(long, value_name = "FILE", default_value = "node.toml")]
    config: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let config = NodeConfig::load(&args.config).map_err(|error| Failure::input(error.to_string()))?;
    let made = folder::format(&config).map_err(|error| Failure::input(error.to_string()))?;
    output::line(format_args!(
        "{}: formatted for node {} of cluster {}, disk {}",
        config.data_dir().display(),
        made.node,
        made.cluster,
        made.disk
    ))?;
    Ok(Exit::Ok)
}
