//! `meridian region restore`: a region that lost a majority of its disks goes on under its next incarnation.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::Args;
use futures::future::join_all;
use meridian_sdk::v1::{self, GetLagResponse, GetTopologyResponse, ListShardsResponse};
use meridian_sdk::{Client, ClientOptions};
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};
use crate::target::Anywhere;
use crate::{human, output};

/// A node that does not answer for so long is taken as silent.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// `region restore`.
#[derive(Debug, Args)]
pub struct Restore {
    /// The region.
    region: String,
    /// Its nodes whose disks are lost, or given up. They and their disks are refused for ever: what they alone had is
    /// lost.
    #[arg(long, value_name = "NODE", value_delimiter = ',', required = true)]
    lost: Vec<u32>,
    /// Say what would be recovered and what is missing, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Give up if no node answers for so long.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = human::parse_time)]
    timeout: Duration,
    #[command(flatten)]
    target: Anywhere,
}

/// What a restore would do.
#[derive(Debug, PartialEq, Serialize)]
struct Plan {
    region: String,
    /// The one that ends.
    incarnation: u32,
    /// The nodes that decide in the region.
    voters: Vec<u32>,
    lost: Vec<u32>,
    /// The nodes that found it anew.
    founders: Vec<u32>,
    /// By number.
    shards: Vec<Recovered>,
    /// Events that were known of and that nobody who answers has; null: nobody who answers can say.
    missing_events: Option<u64>,
    missing_bytes: Option<u64>,
    /// Nodes, of any region, that did not answer: they may have more.
    silent: Vec<u32>,
}

/// What is left of a shard.
#[derive(Debug, PartialEq, Serialize)]
struct Recovered {
    number: u32,
    /// The last frame that somebody who answers holds.
    through: u64,
    /// Who; null: nobody holds any of it.
    node: Option<u32>,
    region: Option<String>,
}

/// What a node said of itself.
struct Said {
    shards: ListShardsResponse,
    topology: GetTopologyResponse,
    lag: GetLagResponse,
}

/// Runs the command.
pub async fn run(args: Restore) -> Outcome {
    let client = args.target.client(Vec::new(), args.timeout)?;
    let topology = client.admin().topology().await?;
    let said = ask(&topology).await;
    let plan = plan(&topology, &args.region, &args.lost, &said)?;
    if args.json {
        output::json(&plan)?;
    } else {
        print(&plan)?;
    }
    if args.dry_run {
        return Ok(Exit::Ok);
    }
    let request = v1::RestoreRegionRequest {
        region: plan.region.clone(),
        incarnation: plan.incarnation,
        voters: plan.voters.clone(),
        lost: plan.lost.clone(),
        recovered: plan.shards.iter().map(|shard| shard.through).collect(),
    };
    let incarnation = client.admin().restore_region(request).await?;
    eprintln!(
        "region {} writes as incarnation {incarnation} from now on; nodes {} found it, and publishing opens once they hold \
         what is listed. Nodes {} are refused for ever",
        plan.region,
        list(&plan.founders),
        list(&plan.lost)
    );
    Ok(Exit::Ok)
}

async fn ask(topology: &GetTopologyResponse) -> Vec<Said> {
    let asked = topology.nodes.iter().map(|node| async {
        let options = ClientOptions { retry_for: ANSWER_WITHIN, discover: false, ..ClientOptions::default() };
        let client = Client::connect(vec![node.endpoint.clone()], options).ok()?;
        let answers = async {
            let admin = client.admin();
            let shards = admin.list_shards().await.ok()?;
            let (topology, lag) = (admin.topology().await.ok()?, admin.lag().await.ok()?);
            // An address may lead to another node.
            (shards.node == node.id).then_some(Said { shards, topology, lag })
        };
        tokio::time::timeout(2 * ANSWER_WITHIN, answers).await.ok().flatten()
    });
    join_all(asked).await.into_iter().flatten().collect()
}

fn plan(topology: &GetTopologyResponse, region: &str, lost: &[u32], said: &[Said]) -> Result<Plan, Failure> {
    let Some(row) = topology.regions.iter().find(|row| row.name == region) else {
        let names: Vec<&str> = topology.regions.iter().map(|row| row.name.as_str()).collect();
        return Err(Failure::input(format!(
            "there is no region {region:?} in this cluster; there are: {}",
            names.join(", ")
        )));
    };
    let nodes: Vec<u32> =
        topology.nodes.iter().filter(|node| node.region == region).map(|node| node.id).collect();
    let mut lost = lost.to_vec();
    lost.sort_unstable();
    lost.dedup();
    if let Some(other) = lost.iter().find(|node| !nodes.contains(node)) {
        return Err(Failure::input(format!(
            "node {other} is not of region {region}, which has: {}",
            list(&nodes)
        )));
    }
    let answers = |node: &u32| said.iter().any(|said| said.shards.node == *node);
    if let Some(node) = lost.iter().find(|node| answers(node)) {
        return Err(Failure {
            exit: Exit::Refused,
            message: format!("node {node} answers: it is not lost; if it is to be given up, end it first"),
        });
    }
    let founders: Vec<u32> = nodes.iter().filter(|node| !lost.contains(node)).copied().collect();
    let shards = (0..row.shards).map(|number| recovered(topology, row, number, said)).collect();
    let silent = topology.nodes.iter().map(|node| node.id).filter(|node| !answers(node));
    let missing = missing(region, said);
    Ok(Plan {
        region: region.to_owned(),
        incarnation: row.incarnation,
        voters: voters(region, &nodes, said),
        founders,
        shards,
        missing_events: missing.map(|(events, _)| events),
        missing_bytes: missing.map(|(_, bytes)| bytes),
        silent: silent.filter(|node| !lost.contains(node)).collect(),
        lost,
    })
}

/// Those that take part in the region, as any of them knows it, for one may have been away while others came; where none
/// answers, all that the catalog has: the more, the more must be named as lost.
fn voters(region: &str, nodes: &[u32], said: &[Said]) -> Vec<u32> {
    let survivors = said.iter().filter(|said| said.shards.region == region);
    let joined = survivors.flat_map(|said| &said.topology.nodes).filter(|node| node.joined == Some(true));
    let joined: BTreeSet<u32> = joined.map(|node| node.id).filter(|node| nodes.contains(node)).collect();
    if joined.is_empty() { nodes.to_vec() } else { joined.into_iter().collect() }
}

/// The longest that anyone holds of a shard. What is applied was committed, in every copy.
fn recovered(topology: &GetTopologyResponse, row: &v1::Region, number: u32, said: &[Said]) -> Recovered {
    let is_it = |shard: &&v1::Shard| {
        let origin = shard.origin.unwrap_or_default();
        (origin.region, origin.incarnation, shard.number) == (row.id, row.incarnation, number)
    };
    let held = said.iter().filter_map(|said| {
        let shard = said.shards.shards.iter().find(is_it)?;
        Some((shard.applied, std::cmp::Reverse(said.shards.node)))
    });
    let best = held.max().filter(|(through, _)| *through > 0);
    let node = best.map(|(_, node)| node.0);
    let region = node.and_then(|node| topology.nodes.iter().find(|row| row.id == node));
    Recovered {
        number,
        through: best.map_or(0, |(through, _)| through),
        node,
        region: region.map(|row| row.region.clone()),
    }
}

/// What the region last told of and no other has: the least that any other region lacks, by what its links were last told.
fn missing(region: &str, said: &[Said]) -> Option<(u64, u64)> {
    let mut lacks: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for said in said.iter().filter(|said| said.shards.region != region) {
        for link in said.lag.inbound.iter().filter(|link| link.origin == region) {
            let backlog = link.backlog.unwrap_or_default();
            let (events, bytes) = lacks.entry(&said.shards.region).or_default();
            *events += backlog.events;
            *bytes += backlog.bytes;
        }
    }
    // A survivor has it.
    let survives = said.iter().any(|said| said.shards.region == region);
    if survives { Some((0, 0)) } else { lacks.into_values().min() }
}

fn print(plan: &Plan) -> Result<(), Failure> {
    output::line(format_args!(
        "region {}: incarnation {} ends, {} begins; nodes {} decided in it, {} are lost, {} found it anew",
        plan.region,
        plan.incarnation,
        plan.incarnation + 1,
        list(&plan.voters),
        list(&plan.lost),
        list(&plan.founders)
    ))?;
    output::line(format_args!("{:<12} {:>12}  {}", "SHARD", "RECOVERED", "FROM"))?;
    for shard in &plan.shards {
        let from = match (&shard.node, &shard.region) {
            (Some(node), Some(region)) => format!("node {node} of {region}"),
            _ => "nobody who answers holds any of it".to_owned(),
        };
        let name = format!("{}/{}", plan.region, shard.number);
        output::line(format_args!("{name:<12} {:>12}  {from}", human::count(shard.through)))?;
    }
    match (plan.missing_events, plan.missing_bytes) {
        (Some(0), _) => output::line(format_args!(
            "missing: nothing that was told of; what the lost nodes had acknowledged and told nobody of is gone"
        )),
        (Some(events), Some(bytes)) => output::line(format_args!(
            "missing: {} ({}) at least, which were told of and which nobody who answers has",
            human::events(events),
            human::bytes(bytes)
        )),
        _ => output::line(format_args!("missing: not known, for no other region answers")),
    }?;
    if !plan.silent.is_empty() {
        output::line(format_args!("not asked, for they are silent: nodes {}", list(&plan.silent)))?;
    }
    Ok(())
}

fn list(nodes: &[u32]) -> String {
    if nodes.is_empty() {
        return "none".to_owned();
    }
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(joined: &[u32]) -> GetTopologyResponse {
        let node = |id: u32, region: &str| v1::Node {
            id,
            region: region.into(),
            joined: (region == "us").then_some(joined.contains(&id)),
            ..v1::Node::default()
        };
        GetTopologyResponse {
            regions: vec![v1::Region { id: 1, name: "us".into(), incarnation: 1, shards: 2 }],
            nodes: vec![
                node(1, "us"),
                node(2, "us"),
                node(3, "us"),
                node(4, "us"),
                node(7, "eu"),
                node(8, "ap"),
            ],
            ..GetTopologyResponse::default()
        }
    }

    fn said(node: u32, region: &str, applied: [u64; 2], lacks: u64) -> Said {
        let shard = |number: usize| v1::Shard {
            origin: Some(v1::Origin { region: 1, incarnation: 1 }),
            number: number as u32,
            applied: applied[number],
            ..v1::Shard::default()
        };
        let backlog = Some(v1::Backlog { events: lacks, bytes: 10 * lacks, oldest_ms: 0 });
        let link = v1::Link { origin: "us".into(), backlog, ..v1::Link::default() };
        Said {
            shards: ListShardsResponse { node, region: region.into(), shards: vec![shard(0), shard(1)] },
            topology: topology(&[1, 2, 3]),
            lag: GetLagResponse { inbound: vec![link], ..GetLagResponse::default() },
        }
    }

    #[test]
    fn each_shard_is_taken_from_whoever_has_most_of_it() {
        let all = [said(3, "us", [5, 0], 0), said(7, "eu", [9, 4], 3), said(8, "ap", [7, 6], 1)];
        let plan = plan(&topology(&[]), "us", &[2, 1], &all).unwrap();
        let rows: Vec<_> = plan.shards.iter().map(|shard| (shard.through, shard.node)).collect();
        assert_eq!(rows, [(9, Some(7)), (6, Some(8))]);
        assert_eq!((plan.voters, plan.lost, plan.founders), (vec![1, 2, 3], vec![1, 2], vec![3, 4]));
        assert_eq!((plan.missing_events, plan.silent), (Some(0), vec![4]));
    }

    #[test]
    fn without_a_survivor_the_others_say_what_is_missing() {
        let others = [said(7, "eu", [9, 4], 3), said(8, "ap", [7, 6], 1)];
        let all_lost = plan(&topology(&[]), "us", &[1, 2, 3], &others).unwrap();
        assert_eq!((all_lost.missing_events, all_lost.missing_bytes), (Some(1), Some(10)));
        assert_eq!(all_lost.voters, [1, 2, 3, 4], "nobody can say who decided: all that there are");
        let nobody = plan(&topology(&[]), "us", &[1, 2, 3], &[]).unwrap();
        assert_eq!((nobody.missing_events, nobody.shards[0].node), (None, None));
    }

    #[test]
    fn who_was_away_while_others_came_to_decide_does_not_say_alone_who_does() {
        let mut newer = said(4, "us", [9, 9], 0);
        newer.topology = topology(&[3, 4]);
        let plan = plan(&topology(&[]), "us", &[1, 2], &[said(3, "us", [5, 5], 0), newer]).unwrap();
        assert_eq!(plan.voters, [1, 2, 3, 4], "the catalog refuses it, if more than half of these are left");
    }

    #[test]
    fn a_node_that_answers_is_not_lost_and_one_of_elsewhere_neither() {
        let all = [said(1, "us", [5, 5], 0), said(7, "eu", [9, 4], 3)];
        assert_eq!(plan(&topology(&[]), "us", &[1, 2], &all).unwrap_err().exit, Exit::Refused);
        assert_eq!(plan(&topology(&[]), "us", &[2, 7], &all).unwrap_err().exit, Exit::BadInput);
        assert_eq!(plan(&topology(&[]), "sa", &[2], &all).unwrap_err().exit, Exit::BadInput);
    }
}
