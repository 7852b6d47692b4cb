//! `meridian node`: the nodes of the cluster, adding one, and taking one out of use.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use futures::future::join_all;
use meridian_node::config::NodeConfig;
use meridian_node::folder;
use meridian_sdk::v1::{AddNodeRequest, GetTopologyResponse, Node};
use meridian_types::NodeId;
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};
use crate::target::{Anywhere, Target};
use crate::{exit, human, output};

/// What to do with nodes.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show all nodes.
    List(List),
    /// Admit a new node to the cluster, or make the new addresses of a known one known. The same again is no error.
    #[command(long_about = ADD)]
    Add(Add),
    /// Move a node's replicas and leaderships to others of its region, so that it can be removed. The same again is no
    /// error.
    Drain(Drain),
    /// Take a drained or lost node out of the cluster for good: neither its id nor its disk is taken again.
    Remove(Remove),
}

const ADD: &str = "Admit a new node to the cluster, or make the new addresses of a known one known. The same again is no \
error.

On the new machine, write a node.toml with the cluster's [cluster] section, and under [node] a new id, the region, \
advertise_peer and advertise_client. Then: meridian format, meridian node add, meridian serve, each with --config node.toml, \
the last two in either order. From elsewhere the same is said with ID, --region, --disk, --peer and --client.";

/// `node add`.
#[derive(Debug, Args)]
pub struct Add {
    /// The new node's configuration, beside its formatted folder. Without --cluster or --endpoint the nodes that it names
    /// are asked.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["node", "region", "disk", "peer", "client"])]
    config: Option<PathBuf>,
    /// The new node's id, where there is no --config.
    #[arg(required_unless_present = "config", requires_all = ["region", "disk", "peer", "client"])]
    node: Option<u32>,
    /// The region that it is to be in.
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// Its disk's uuid, as `meridian format` printed it.
    #[arg(long, value_name = "UUID")]
    disk: Option<String>,
    /// What the other nodes dial, as http://HOST:PORT.
    #[arg(long, value_name = "URL")]
    peer: Option<String>,
    /// What clients dial, as http://HOST:PORT.
    #[arg(long, value_name = "URL")]
    client: Option<String>,
    /// A node of that region whose disk is lost, or given up for ever: once the new one is there the other is drained and
    /// removed by itself. Said of a majority of a region, it lets the region go on under its next incarnation.
    #[arg(long, value_name = "NODE")]
    replaces: Option<u32>,
    /// Give up if no node answers for so long.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = human::parse_time)]
    timeout: Duration,
    #[command(flatten)]
    target: Anywhere,
}

/// `node list`.
#[derive(Debug, Args)]
pub struct List {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// A region of which no node answers for so long is unreachable.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = human::parse_time)]
    timeout: Duration,
    #[command(flatten)]
    target: Target,
}

/// `node drain`.
#[derive(Debug, Args)]
pub struct Drain {
    /// The node's id.
    node: u32,
    /// Take it into use again.
    #[arg(long)]
    undo: bool,
    /// Give up if no node answers for so long.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = human::parse_time)]
    timeout: Duration,
    #[command(flatten)]
    target: Target,
}

/// `node remove`.
#[derive(Debug, Args)]
pub struct Remove {
    /// The node's id.
    node: u32,
    /// Give up if no node answers for so long.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = human::parse_time)]
    timeout: Duration,
    #[command(flatten)]
    target: Target,
}

/// A node, as its own region knows it, or another where that is silent.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    node: u32,
    region: String,
    endpoint: String,
    disk: String,
    /// Null: whoever answered does not know.
    live: Option<bool>,
    draining: Option<bool>,
    /// False: it was admitted, and has not come yet.
    joined: Option<bool>,
}

/// Runs the command.
pub async fn run(command: Command) -> Outcome {
    match command {
        Command::List(args) => list(args).await,
        Command::Add(args) => add(args).await,
        Command::Drain(args) => {
            let node = NodeId(args.node);
            let region = args.target.region_of(node, args.timeout).await?;
            region.client.admin().drain_node(node, args.undo).await?;
            if args.undo {
                eprintln!("node {node} of region {} is in use again", region.name);
            } else {
                eprintln!(
                    "node {node} of region {} is draining; `meridian shard list` shows what it still has",
                    region.name
                );
            }
            Ok(Exit::Ok)
        }
        Command::Remove(args) => {
            let node = NodeId(args.node);
            let region = args.target.region_of(node, args.timeout).await?;
            region.client.admin().remove_node(node).await?;
            eprintln!(
                "node {node} is no part of region {} any more; end it where it runs, and delete its folder",
                region.name
            );
            Ok(Exit::Ok)
        }
    }
}

async fn add(args: Add) -> Outcome {
    let (request, seeds) = match &args.config {
        Some(file) => of_config(file)?,
        None => {
            // clap has seen to it that all are there.
            let text = |value: &Option<String>| value.clone().unwrap_or_default();
            let url = |value: &Option<String>| {
                let text = text(value);
                if text.contains("://") { text } else { format!("http://{text}") }
            };
            let request = AddNodeRequest {
                cluster_uuid: String::new(),
                node: args.node.unwrap_or_default(),
                region: text(&args.region),
                disk_uuid: text(&args.disk),
                peer: url(&args.peer),
                client: url(&args.client),
                ..AddNodeRequest::default()
            };
            (request, Vec::new())
        }
    };
    let client = args.target.client(seeds, args.timeout)?;
    let (node, region) = (request.node, request.region.clone());
    let request = AddNodeRequest { replaces: args.replaces.unwrap_or(0), ..request };
    if client.admin().add_node(request).await? {
        eprintln!("node {node} is admitted to region {region}; it joins once it runs: meridian node list");
    } else {
        eprintln!("node {node} of region {region} was known; what it says of its addresses counts");
    }
    Ok(Exit::Ok)
}

/// What a node's own file and folder say of it, and whom of its cluster to ask.
fn of_config(file: &Path) -> Result<(AddNodeRequest, Vec<String>), Failure> {
    let bad = |error: &dyn std::error::Error| Failure::input(error.to_string());
    let config = NodeConfig::load(file).map_err(|error| bad(&error))?;
    let identity = folder::identity(&config).map_err(|error| bad(&error))?;
    let (peer, client) = config.own_addresses();
    let others = config.cluster.nodes.iter().filter(|other| other.id != config.node.id);
    let seeds = others.map(|other| other.client.clone()).collect();
    let request = AddNodeRequest {
        cluster_uuid: config.cluster.uuid.to_string(),
        node: config.node.id.0,
        region: config.node.region.to_string(),
        disk_uuid: identity.disk.to_string(),
        peer,
        client,
        ..AddNodeRequest::default()
    };
    Ok((request, seeds))
}

async fn list(args: List) -> Outcome {
    let regions = args.target.named_or_all(args.timeout).await?;
    let asked = regions.iter().map(|region| async {
        let answer = region.client.admin().topology().await;
        answer.map_err(|error| (exit::of_client(&error), format!("region {}: {error}", region.name)))
    });
    let (mut topologies, mut silent) = (Vec::new(), Vec::new());
    for answer in join_all(asked).await {
        match answer {
            Ok(topology) => topologies.push(topology),
            Err(error) => silent.push(error),
        }
    }
    if topologies.is_empty() {
        let exit = silent.first().map_or(Exit::Unreachable, |(exit, _)| *exit);
        let lines: Vec<String> = silent.into_iter().map(|(_, text)| text).collect();
        return Err(Failure { exit, message: lines.join("\n") });
    }
    let rows = merge(&topologies);
    if args.json {
        output::json(&rows)?;
        return Ok(Exit::Ok);
    }
    let columns = |node: &str, region: &str, state: &str, endpoint: &str, disk: &str| {
        output::line(format_args!("{node:>5} {region:<10} {state:<10} {endpoint:<28} {disk}"))
    };
    columns("NODE", "REGION", "STATE", "ENDPOINT", "DISK")?;
    for row in &rows {
        columns(&row.node.to_string(), &row.region, row.state(), &row.endpoint, &row.disk)?;
    }
    for (_, text) in silent {
        output::line(format_args!("not asked for its nodes' state: {text}"))?;
    }
    Ok(Exit::Ok)
}

/// Every node once; what its own region says of it counts.
fn merge(topologies: &[GetTopologyResponse]) -> Vec<Row> {
    let mut rows: BTreeMap<(String, u32), Row> = BTreeMap::new();
    for topology in topologies {
        for node in &topology.nodes {
            let key = (node.region.clone(), node.id);
            if node.region == topology.region || !rows.contains_key(&key) {
                rows.insert(key, Row::from(node));
            }
        }
    }
    rows.into_values().collect()
}

impl From<&Node> for Row {
    fn from(node: &Node) -> Self {
        Self {
            node: node.id,
            region: node.region.clone(),
            endpoint: node.endpoint.clone(),
            disk: node.disk_uuid.clone(),
            live: node.live,
            draining: node.draining,
            joined: node.joined,
        }
    }
}

impl Row {
    fn state(&self) -> &'static str {
        if self.joined == Some(false) {
            return "not joined";
        }
        match (self.live, self.draining) {
            (Some(false), _) => "dead",
            (_, Some(true)) => "draining",
            (Some(true), _) => "live",
            (None, _) => "?",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u32, region: &str, live: Option<bool>) -> Node {
        Node { id, region: region.into(), live, ..Node::default() }
    }

    fn topology(region: &str, nodes: Vec<Node>) -> GetTopologyResponse {
        GetTopologyResponse { region: region.into(), nodes, ..GetTopologyResponse::default() }
    }

    #[test]
    fn a_regions_own_word_on_its_nodes_counts() {
        let eu = topology("eu", vec![node(1, "us", None), node(2, "eu", Some(false)), node(3, "ap", None)]);
        let us = topology("us", vec![node(1, "us", Some(true)), node(2, "eu", None), node(3, "ap", None)]);
        let rows = merge(&[eu, us]);
        let states: Vec<(u32, &str)> = rows.iter().map(|row| (row.node, row.state())).collect();
        assert_eq!(states, [(3, "?"), (2, "dead"), (1, "live")]);

        let waits = Node { joined: Some(false), ..node(4, "us", Some(false)) };
        assert_eq!(merge(&[topology("us", vec![waits])])[0].state(), "not joined");
    }
}
