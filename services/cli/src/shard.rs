//! `meridian shard`: who leads each shard, who has replicas of it and how far they are; and moving a replica.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};
use futures::future::try_join_all;
use meridian_sdk::v1::{GetTopologyResponse, ListShardsResponse, Shard, shard::Role};
use meridian_types::{Incarnation, NodeId, Origin, RegionId, ShardId, ShardNo};
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};
use crate::target::{Region, Target};
use crate::{human, output};

/// What to do with shards.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show a region's shards and its copies of other regions', as one of its nodes knows them.
    List(List),
    /// Move a replica to another node of the region. Returns once that is decided; `shard list` shows how far it is.
    Move(Move),
}

/// `shard list`.
#[derive(Debug, Args)]
pub struct List {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Give up if no node of a region answers for so long.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = human::parse_time)]
    timeout: Duration,
    #[command(flatten)]
    target: Target,
}

/// `shard move`.
#[derive(Debug, Args)]
pub struct Move {
    /// The shard: the region that writes it, and its number, as us/3.
    #[arg(long, value_name = "ORIGIN/NO", value_parser = parse_shard)]
    shard: (String, u16),
    /// The node that gives its replica up.
    #[arg(long, value_name = "NODE")]
    from: u32,
    /// The node that gets it.
    #[arg(long, value_name = "NODE")]
    to: u32,
    /// Give up if no node answers for so long.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = human::parse_time)]
    timeout: Duration,
    #[command(flatten)]
    target: Target,
}

/// A shard, as a node of the region that holds it knows it.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    /// The region that writes it.
    origin: String,
    incarnation: u32,
    number: u32,
    /// The region that holds it.
    region: String,
    leader: Option<u32>,
    epoch: u32,
    members: Vec<u32>,
    learner: Option<u32>,
    version: u32,
    changing: bool,
    /// Whose marks these are.
    node: u32,
    role: &'static str,
    appended: u64,
    committed: u64,
    applied: u64,
    damaged: bool,
}

/// Runs the command.
pub async fn run(command: Command) -> Outcome {
    match command {
        Command::List(args) => list(args).await,
        Command::Move(args) => {
            let (from, to) = (NodeId(args.from), NodeId(args.to));
            let region = args.target.region_of(from, args.timeout).await?;
            let admin = region.client.admin();
            let (origin, number) = &args.shard;
            let shard = find(&admin.topology().await?, origin, *number)?;
            admin.move_shard(shard, from, to).await?;
            eprintln!(
                "region {}'s replica of shard {origin}/{number} moves from node {from} to node {to}; \
                 `meridian shard list` shows how far it is",
                region.name
            );
            Ok(Exit::Ok)
        }
    }
}

/// The shard of a region's present incarnation.
fn find(topology: &GetTopologyResponse, origin: &str, number: u16) -> Result<ShardId, Failure> {
    let Some(row) = topology.regions.iter().find(|row| row.name == origin) else {
        let names: Vec<&str> = topology.regions.iter().map(|row| row.name.as_str()).collect();
        return Err(Failure::input(format!(
            "there is no region {origin:?} in this cluster; there are: {}",
            names.join(", ")
        )));
    };
    if u32::from(number) >= row.shards {
        return Err(Failure::input(format!(
            "region {origin} has shards {origin}/0 to {origin}/{}, not {origin}/{number}",
            row.shards.saturating_sub(1)
        )));
    }
    match (u16::try_from(row.id), u16::try_from(row.incarnation)) {
        (Ok(region), Ok(incarnation)) => Ok(ShardId {
            origin: Origin { region: RegionId(region), incarnation: Incarnation(incarnation) },
            no: ShardNo(number),
        }),
        _ => Err(Failure { exit: Exit::Refused, message: format!("region {origin} has the id {}", row.id) }),
    }
}

fn parse_shard(text: &str) -> Result<(String, u16), String> {
    let wrong = || format!("{text:?} is no shard; write ORIGIN/NO, as us/3");
    let (origin, number) =
        text.rsplit_once('/').filter(|(origin, _)| !origin.is_empty()).ok_or_else(wrong)?;
    Ok((origin.to_owned(), number.parse().map_err(|_| wrong())?))
}

async fn list(args: List) -> Outcome {
    let regions = args.target.named_or_all(args.timeout).await?;
    let rows: Vec<Row> = try_join_all(regions.iter().map(ask)).await?.into_iter().flatten().collect();
    if args.json {
        output::json(&rows)?;
    } else {
        print(&rows)?;
    }
    Ok(Exit::Ok)
}

async fn ask(region: &Region) -> Result<Vec<Row>, Failure> {
    let admin = region.client.admin();
    let topology = admin.topology().await?;
    Ok(rows(&topology, &admin.list_shards().await?))
}

fn rows(topology: &GetTopologyResponse, listed: &ListShardsResponse) -> Vec<Row> {
    let names: BTreeMap<u32, &str> = topology.regions.iter().map(|row| (row.id, row.name.as_str())).collect();
    let row = |shard: &Shard| {
        let origin = shard.origin.unwrap_or_default();
        Row {
            origin: names
                .get(&origin.region)
                .map_or_else(|| format!("r{}", origin.region), |&n| n.to_owned()),
            incarnation: origin.incarnation,
            number: shard.number,
            region: listed.region.clone(),
            leader: shard.leader,
            epoch: shard.epoch,
            members: shard.members.clone(),
            learner: shard.learner,
            version: shard.version,
            changing: shard.changing,
            node: listed.node,
            role: match shard.role() {
                Role::Unspecified => "unknown",
                Role::Leader => "leader",
                Role::Follower => "follower",
                Role::Idle => "idle",
                Role::NotHere => "not here",
            },
            appended: shard.appended,
            committed: shard.committed,
            applied: shard.applied,
            damaged: shard.damaged,
        }
    };
    let mut rows: Vec<Row> = listed.shards.iter().map(row).collect();
    // A region's own shards first.
    rows.sort_by(|a, b| {
        let key = |row: &Row| (row.origin != row.region, row.origin.clone(), row.incarnation, row.number);
        key(a).cmp(&key(b))
    });
    rows
}

fn print(rows: &[Row]) -> Result<(), Failure> {
    let mut said = None;
    for row in rows {
        if said.replace((&row.region, row.node)) != Some((&row.region, row.node)) {
            output::line(format_args!("region {}, as node {} knows it:", row.region, row.node))?;
            output::line(format_args!(
                "{:<12} {:>6} {:>6} {:<16} {:>7} {:<9} {:>12} {:>12} {:>12}",
                "SHARD", "LEADER", "EPOCH", "NODES", "VERSION", "HERE", "APPENDED", "COMMITTED", "APPLIED"
            ))?;
        }
        let is_here = row.role != "not here";
        let mark = |seq: u64| if is_here { human::count(seq) } else { "-".to_owned() };
        output::line(format_args!(
            "{:<12} {:>6} {:>6} {:<16} {:>7} {:<9} {:>12} {:>12} {:>12}{}",
            format!("{}/{}", row.origin, row.number),
            row.leader.map_or_else(|| "none".to_owned(), |node| node.to_string()),
            row.epoch,
            row.nodes(),
            row.version,
            row.role,
            mark(row.appended),
            mark(row.committed),
            mark(row.applied),
            row.remark(),
        ))?;
    }
    Ok(())
}

impl Row {
    /// The members; a node that is to join them with a plus.
    fn nodes(&self) -> String {
        let mut nodes: Vec<String> = self.members.iter().map(ToString::to_string).collect();
        nodes.extend(self.learner.map(|node| format!("+{node}")));
        if nodes.is_empty() { "?".to_owned() } else { nodes.join(",") }
    }

    fn remark(&self) -> String {
        let mut remark = String::new();
        if self.changing {
            remark += "  changing";
        }
        if self.damaged {
            remark += "  DAMAGED";
        }
        remark
    }
}

#[cfg(test)]
mod tests {
    use meridian_sdk::v1;

    use super::*;

    fn topology() -> GetTopologyResponse {
        let region = |id, name: &str| v1::Region { id, name: name.into(), incarnation: 2, shards: 4 };
        let regions = vec![region(1, "eu"), region(2, "us")];
        GetTopologyResponse { regions, region: "us".into(), ..GetTopologyResponse::default() }
    }

    #[test]
    fn a_shard_is_named_by_its_origin_and_number() {
        assert_eq!(parse_shard("us/3"), Ok(("us".to_owned(), 3)));
        for bad in ["", "us", "us/", "/3", "us/-1", "us/x", "us/70000"] {
            assert!(parse_shard(bad).is_err(), "{bad:?}");
        }
        let shard = find(&topology(), "us", 3).unwrap();
        assert_eq!(shard.to_string(), "r2.2/3");
        for (origin, number) in [("sa", 0), ("us", 4)] {
            assert_eq!(find(&topology(), origin, number).unwrap_err().exit, Exit::BadInput);
        }
    }

    #[test]
    fn a_regions_own_shards_come_first() {
        let shard = |region, number| Shard {
            origin: Some(v1::Origin { region, incarnation: 2 }),
            number,
            members: vec![1, 2],
            learner: Some(3),
            role: Role::Leader.into(),
            ..Shard::default()
        };
        let shards = vec![shard(1, 0), shard(2, 1), shard(2, 0), shard(9, 0)];
        let listed = ListShardsResponse { node: 1, region: "us".into(), shards };
        let rows = rows(&topology(), &listed);
        let names: Vec<String> = rows.iter().map(|row| format!("{}/{}", row.origin, row.number)).collect();
        assert_eq!(names, ["us/0", "us/1", "eu/0", "r9/0"]);
        assert_eq!((rows[0].nodes().as_str(), rows[0].role), ("1,2,+3", "leader"));
    }
}
