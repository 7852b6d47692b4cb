//! `meridian node`: the nodes of the cluster, and taking one out of use.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};
use futures::future::join_all;
use meridian_sdk::v1::{GetTopologyResponse, Node};
use meridian_types::NodeId;
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};
use crate::target::Target;
use crate::{exit, human, output};

/// What to do with nodes.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show all nodes.
    List(List),
    /// Move a node's replicas and leaderships to others of its region, so that it can be removed. The same again is no
    /// error.
    Drain(Drain),
    /// Take a drained or lost node out of its region for good: neither its id nor its disk is taken again.
    Remove(Remove),
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
}

/// Runs the command.
pub async fn run(command: Command) -> Outcome {
    match command {
        Command::List(args) => list(args).await,
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
            eprintln!("node {node} is no part of region {} any more", region.name);
            Ok(Exit::Ok)
        }
    }
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
        }
    }
}

impl Row {
    fn state(&self) -> &'static str {
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
    }
}
