//! `meridian dev`: a world on one machine, until it is told to end.

use std::path::PathBuf;
use std::sync::Arc;

use meridian_node::config::{LogFormat, LogSection, WanTable};
use meridian_node::dev::{DevError, DevOptions, Launcher, NodeError, World};
use meridian_node::{abort_on_panic, log, serve as serve_node};
use meridian_types::RegionName;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::exit::{Exit, Failure, Outcome};
use crate::{output, serve};

/// `meridian dev`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The regions, in a new folder us,eu,ap.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    regions: Option<Vec<RegionName>>,
    /// Nodes in each region, in a new folder 1. Three let one of them fail, two let none; at most 64 in all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    nodes: Option<u32>,
    /// Where everything lies. A folder that holds a world goes on with it.
    #[arg(long, value_name = "DIR", default_value = "./data")]
    data: PathBuf,
    /// The first client port; peers listen 100 above, admin 200 above. Free ones are taken if not given.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    base_port: Option<u16>,
    /// Simulated round trips between regions, as us-eu=80ms,us-ap=150ms.
    #[arg(long, value_name = "PAIRS")]
    wan: Option<WanTable>,
    /// Each node is a process of its own, which can be killed and started again.
    #[arg(long)]
    processes: bool,
    /// Start a node again when it dies.
    #[arg(long)]
    respawn: bool,
    /// End when stdin ends: whoever started this world holds the other end, and takes the world along when it dies.
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
}

impl From<DevError> for Failure {
    fn from(error: DevError) -> Self {
        let exit = match &error {
            DevError::Died { .. } | DevError::NotReady { .. } => Exit::Unreachable,
            _ => Exit::BadInput,
        };
        Self { exit, message: error.to_string() }
    }
}

/// Runs the command.
pub async fn run(args: Args) -> Outcome {
    let stop = CancellationToken::new();
    serve::end_with_signals(stop.clone())?;
    if args.until_stdin_ends {
        serve::end_with_stdin(stop.clone());
    }
    let launcher = if args.processes { processes()? } else { in_process()? };
    let options = DevOptions {
        regions: args.regions,
        nodes: args.nodes,
        base_port: args.base_port,
        wan: args.wan,
        respawn: args.respawn,
        ..DevOptions::new(args.data)
    };
    let (tell, mut events) = mpsc::unbounded_channel();
    let printer = tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            eprintln!("{event}");
        }
    });
    let world = tokio::select! {
        world = World::start(options, launcher, tell) => world?,
        // The nodes end with the world that is dropped here; those of other processes see their stdin end.
        () = stop.cancelled() => return Ok(Exit::Interrupted),
    };
    show(&world)?;
    stop.cancelled().await;
    eprintln!("ending");
    world.end().await;
    let _ = printer.await;
    Ok(Exit::Ok)
}

fn show(world: &World) -> Result<(), Failure> {
    output::line(format_args!(
        "{:<12} {:<14} {:<26} {:<26} {:>8}  FOLDER",
        "REGION", "NODE", "CLIENTS", "ADMIN", "PROCESS"
    ))?;
    for region in &world.cluster().regions {
        for node in &region.nodes {
            output::line(format_args!(
                "{:<12} {:<14} {:<26} {:<26} {:>8}  {}",
                region.name.as_str(),
                node.name,
                node.endpoint,
                node.admin,
                node.pid,
                node.dir
            ))?;
        }
    }
    for (pair, span) in &world.plan().wan.0 {
        output::line(format_args!("round trip {pair}: {span} (simulated)"))?;
    }
    output::line(format_args!("cluster: {}", world.cluster_path().display()))
}

/// Each node as a process of this same binary.
pub fn processes() -> Result<Launcher, Failure> {
    let exe = std::env::current_exe()
        .map_err(|error| Failure::input(format!("cannot find this program's own file: {error}")))?;
    Ok(Launcher::Processes { exe })
}

fn in_process() -> Result<Launcher, Failure> {
    abort_on_panic();
    let level = std::env::var("MERIDIAN_LOG").unwrap_or_else(|_| "warn".to_owned());
    let section = LogSection { level, format: LogFormat::Text };
    log::init(&section).map_err(|error| Failure::input(error.to_string()))?;
    Ok(Launcher::InProcess(Arc::new(|config, stop| {
        Box::pin(async move { serve_node(config, stop).await.map_err(NodeError::from) })
    })))
}
