//! `meridian region restore`: a region that lost a majority of its disks goes on under its next incarnation.

use std::collections::BTreeMap;
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
    /// What is left of every incarnation that is over then, and with whom.
    #[serde(skip)]
    past: Vec<v1::PastShards>,
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
    /// None where it is not ready, as a survivor may be.
    lag: Option<GetLagResponse>,
}

/// Runs the command.
pub async fn run(args: Restore) -> Outcome {
    let client = args.target.client(Vec::new(), args.timeout)?;
    let topology = client.admin().topology().await?;
    let said = ask(&topology, ANSWER_WITHIN.min(args.timeout / 3)).await;
    let plan = plan(&topology, &args.region, &args.lost, &said)?;
    if args.json {
        output::json(&plan)?;
    } else {
        print(&plan)?;
    }
    if args.dry_run {
        let left = plan.voters.iter().filter(|voter| !plan.lost.contains(voter)).count();
        if left > plan.voters.len() / 2 {
            eprintln!(
                "{left} of the {} nodes that decide are left, a majority: this will be refused, unless a shard has lost the majority of its replicas",
                plan.voters.len()
            );
        }
        return Ok(Exit::Ok);
    }
    let request = v1::RestoreRegionRequest {
        region: plan.region.clone(),
        incarnation: plan.incarnation,
        voters: plan.voters.clone(),
        lost: plan.lost.clone(),
        past: plan.past.clone(),
        ..v1::RestoreRegionRequest::default()
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

async fn ask(topology: &GetTopologyResponse, within: Duration) -> Vec<Said> {
    let asked = topology.nodes.iter().map(|node| async {
        let options = ClientOptions { retry_for: within, discover: false, ..ClientOptions::default() };
        let client = Client::connect(vec![node.endpoint.clone()], options).ok()?;
        let answers = async {
            let admin = client.admin();
            let shards = admin.list_durable_shards().await.ok()?;
            let topology = admin.topology().await.ok()?;
            // An address may lead to another node.
            (shards.node == node.id).then_some((shards, topology))
        };
        let (shards, topology) = tokio::time::timeout(within, answers).await.ok()??;
        // What it holds and who decides is known before it is ready; how far its links are, it does not say then.
        let lag = tokio::time::timeout(within, client.admin().lag()).await.ok().and_then(Result::ok);
        Some(Said { shards, topology, lag })
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
    let past = past(topology, row, &founders, said);
    let silent = topology.nodes.iter().map(|node| node.id).filter(|node| !answers(node));
    let missing = missing(region, said);
    Ok(Plan {
        region: region.to_owned(),
        incarnation: row.incarnation,
        voters: voters(row, &nodes, &lost, said),
        founders,
        shards,
        past,
        missing_events: missing.map(|(events, _)| events),
        missing_bytes: missing.map(|(_, bytes)| bytes),
        silent: silent.filter(|node| !lost.contains(node)).collect(),
        lost,
    })
}

/// Who decides in the region: the catalog looks at one set, and refuses where more than half of it is left. So that is one of a
/// survivor who knows of a majority, if there is one; else one that is lost: of those that decide on placement, or a shard's. Where
/// nobody knows, all that the catalog has: the more, the more must be named as lost.
fn voters(row: &v1::Region, nodes: &[u32], lost: &[u32], said: &[Said]) -> Vec<u32> {
    let is_lost = |set: &[u32]| 2 * set.iter().filter(|node| !lost.contains(node)).count() <= set.len();
    let survivors = || said.iter().filter(|said| said.shards.region == row.name);
    let known: Vec<Vec<&[u32]>> = survivors()
        .map(|said| said.topology.deciders.iter().map(|set| &set.nodes[..]).collect::<Vec<_>>())
        .filter(|sets: &Vec<_>| !sets.is_empty())
        .collect();
    // Both must agree where one set replaces another. Who was away while others came to decide knows old ones.
    let decide = |sets: &&Vec<&[u32]>| !sets.iter().any(|set| is_lost(set));
    if let Some(sets) = known.iter().find(decide) {
        return lost_shard(row.id, &survivors, is_lost).unwrap_or_else(|| sets[0].to_vec());
    }
    let lost_set = known.iter().flatten().find(|set| is_lost(set));
    lost_set.map_or_else(|| nodes.to_vec(), |set| set.to_vec())
}

/// A set of replicas without a majority, as it is known last.
fn lost_shard<'a, S: Iterator<Item = &'a Said>>(
    region: u32,
    survivors: &impl Fn() -> S,
    is_lost: impl Fn(&[u32]) -> bool,
) -> Option<Vec<u32>> {
    // A copy of what another region writes is there again.
    let is_own = |shard: &&v1::Shard| shard.origin.is_some_and(|origin| origin.region == region);
    let mut newest: BTreeMap<(u32, u32, u32), (u32, &[u32])> = BTreeMap::new();
    for shard in survivors()
        .flat_map(|said| &said.shards.shards)
        .filter(|shard| !shard.members.is_empty() && is_own(shard))
    {
        let origin = shard.origin.unwrap_or_default();
        let known = newest.entry((origin.region, origin.incarnation, shard.number)).or_default();
        if shard.version >= known.0 {
            *known = (shard.version, &shard.members);
        }
    }
    newest.into_values().map(|(_, members)| members).find(|members| is_lost(members)).map(<[u32]>::to_vec)
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

/// Of every incarnation that is over once this one of `region` is: how far anyone holds its shards, and what the founders lack of that.
fn past(
    topology: &GetTopologyResponse,
    region: &v1::Region,
    founders: &[u32],
    said: &[Said],
) -> Vec<v1::PastShards> {
    let held = |said: &Said, origin: v1::Origin, number: u32| {
        let mut shards = said.shards.shards.iter();
        let shard = shards.find(|shard| (shard.origin, shard.number) == (Some(origin), number));
        shard.map_or(0, |shard| shard.applied)
    };
    let over = topology.regions.iter().flat_map(|row| {
        let end = row.incarnation + u32::from(row.id == region.id);
        (1..end).map(move |incarnation| (v1::Origin { region: row.id, incarnation }, row.shards))
    });
    over.map(|(origin, shards)| {
        let all = |said: &Said| (0..shards).map(|number| held(said, origin, number)).collect::<Vec<u64>>();
        let said: Vec<(u32, Vec<u64>)> = said.iter().map(|said| (said.shards.node, all(said))).collect();
        let longest = |at: usize, stays: Option<bool>| {
            let asked =
                said.iter().filter(|(node, _)| stays.is_none_or(|stays| founders.contains(node) == stays));
            asked.map(|(_, held)| held[at]).max().unwrap_or(0)
        };
        let through: Vec<u64> = (0..shards as usize).map(|at| longest(at, None)).collect();
        let lacks =
            |held: &[u64]| through.iter().zip(held).map(|(through, seq)| through - seq).collect::<Vec<u64>>();
        let elsewhere: Vec<u64> = (0..shards as usize).map(|at| longest(at, Some(false))).collect();
        let holds =
            |(node, held): &&(u32, Vec<u64>)| founders.contains(node) && held.iter().any(|seq| *seq > 0);
        let holder = |(node, held): &(u32, Vec<u64>)| v1::PastHolder { node: *node, lacks: lacks(held) };
        let holders = said.iter().filter(holds).map(holder).collect();
        let elsewhere_lacks = lacks(&elsewhere);
        v1::PastShards { origin: Some(origin), holders, elsewhere_lacks, through }
    })
    .collect()
}

/// What the region last told of and no other has: the least that any other region lacks, by what its links were last told.
fn missing(region: &str, said: &[Said]) -> Option<(u64, u64)> {
    let mut lacks: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for said in said.iter().filter(|said| said.shards.region != region) {
        let Some(lag) = &said.lag else { continue };
        for link in lag.inbound.iter().filter(|link| link.origin == region) {
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

    fn topology(deciders: &[u32]) -> GetTopologyResponse {
        let node = |id: u32, region: &str| v1::Node { id, region: region.into(), ..v1::Node::default() };
        let set = v1::Deciders { nodes: deciders.to_vec() };
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
            deciders: if deciders.is_empty() { vec![] } else { vec![set] },
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
            lag: Some(GetLagResponse { inbound: vec![link], ..GetLagResponse::default() }),
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
    fn what_is_left_is_told_with_who_holds_it_for_each_incarnation_that_is_over() {
        let mut topology = topology(&[]);
        topology.regions[0].incarnation = 2;
        topology.regions.push(v1::Region { id: 2, name: "eu".into(), incarnation: 2, shards: 1 });
        let mut all = [said(3, "us", [5, 0], 0), said(4, "us", [0, 0], 0), said(7, "eu", [9, 4], 3)];
        let mut more = |at: usize, region: u32, incarnation: u32, applied: u64| {
            let origin = Some(v1::Origin { region, incarnation });
            all[at].shards.shards.push(v1::Shard { origin, applied, ..v1::Shard::default() });
        };
        more(2, 1, 2, 30);
        more(0, 1, 2, 20);
        more(0, 2, 1, 8);
        more(0, 2, 2, 99);
        let past = plan(&topology, "us", &[2, 1], &all).unwrap().past;
        let holder = |node: u32, lacks: &[u64]| v1::PastHolder { node, lacks: lacks.to_vec() };
        let of = |region: u32, incarnation: u32, through: &[u64], holders, elsewhere_lacks: &[u64]| {
            v1::PastShards {
                origin: Some(v1::Origin { region, incarnation }),
                through: through.to_vec(),
                holders,
                elsewhere_lacks: elsewhere_lacks.to_vec(),
            }
        };
        let expected = [
            of(1, 1, &[9, 4], vec![holder(3, &[4, 4])], &[0, 0]),
            of(1, 2, &[30, 0], vec![holder(3, &[10, 0])], &[0, 0]),
            of(2, 1, &[8], vec![holder(3, &[0])], &[8]),
        ];
        assert_eq!(
            past, expected,
            "nothing of what eu writes, nothing of nodes that are of elsewhere or have nothing"
        );
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
    fn the_set_that_is_named_has_a_majority_where_any_survivor_knows_of_one() {
        let knows = |node: u32, deciders: &[&[u32]]| {
            let mut said = said(node, "us", [5, 5], 0);
            said.topology.deciders =
                deciders.iter().map(|set| v1::Deciders { nodes: set.to_vec() }).collect();
            said
        };
        let voters = |lost: &[u32], said: &[Said]| plan(&topology(&[]), "us", lost, said).unwrap().voters;
        let older = || knows(3, &[&[1, 2, 3]]);
        assert_eq!(voters(&[1, 2], &[older()]), [1, 2, 3]);
        assert_eq!(voters(&[1], &[older()]), [1, 2, 3], "the catalog refuses it");
        // Node 4 joined, and does not vote yet, or has never been spoken to.
        assert_eq!(voters(&[1, 2], &[older(), knows(4, &[&[1, 2, 3]])]), [1, 2, 3]);
        assert_eq!(voters(&[1, 2], &[knows(4, &[]), older()]), [1, 2, 3]);
        assert_eq!(voters(&[1, 2], &[knows(4, &[])]), [1, 2, 3, 4], "nobody knows");
        // Node 3 was away while 4 came to decide alone: the catalog refuses it.
        assert_eq!(voters(&[1, 2], &[older(), knows(4, &[&[4]])]), [4]);
        let joint = knows(3, &[&[2, 3, 4], &[1, 2, 3]]);
        assert_eq!(voters(&[1, 2], &[joint]), [1, 2, 3], "both would have to agree");
    }

    #[test]
    fn a_shard_that_lost_its_majority_is_named_where_placement_has_one() {
        let with = |node: u32, sets: &[(u32, &[u32])]| {
            let mut said = said(node, "us", [5, 5], 0);
            said.topology.deciders = vec![v1::Deciders { nodes: vec![1, 2, 3, 4, 5] }];
            for (shard, (version, members)) in said.shards.shards.iter_mut().zip(sets) {
                (shard.version, shard.members) = (*version, members.to_vec());
            }
            said
        };
        let voters = |said: &[Said]| plan(&topology(&[]), "us", &[1, 2], said).unwrap().voters;
        let (hurt, well): (&[u32], &[u32]) = (&[1, 2, 4], &[2, 3, 4]);
        assert_eq!(voters(&[with(3, &[(1, well), (1, hurt)])]), hurt);
        assert_eq!(voters(&[with(3, &[(1, well), (2, well)])]), [1, 2, 3, 4, 5], "the catalog refuses it");
        let newer = [with(3, &[(1, well), (1, hurt)]), with(4, &[(1, well), (2, well)])];
        assert_eq!(voters(&newer), [1, 2, 3, 4, 5], "it was repaired meanwhile");
    }

    #[test]
    fn a_survivor_that_is_not_ready_is_asked_all_the_same() {
        let mut survivor = said(3, "us", [5, 0], 0);
        survivor.lag = None;
        let plan = plan(&topology(&[]), "us", &[1, 2], &[survivor, said(7, "eu", [4, 4], 3)]).unwrap();
        assert_eq!((plan.silent, plan.missing_events), (vec![4, 8], Some(0)));
        let rows: Vec<_> = plan.shards.iter().map(|shard| (shard.through, shard.node)).collect();
        assert_eq!(rows, [(5, Some(3)), (4, Some(7))]);
    }

    #[test]
    fn a_node_that_answers_is_not_lost_and_one_of_elsewhere_neither() {
        let all = [said(1, "us", [5, 5], 0), said(7, "eu", [9, 4], 3)];
        assert_eq!(plan(&topology(&[]), "us", &[1, 2], &all).unwrap_err().exit, Exit::Refused);
        assert_eq!(plan(&topology(&[]), "us", &[2, 7], &all).unwrap_err().exit, Exit::BadInput);
        assert_eq!(plan(&topology(&[]), "sa", &[2], &all).unwrap_err().exit, Exit::BadInput);
    }
}
