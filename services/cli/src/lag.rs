//! `meridian lag`: how far each copy of each region is, and what would be lost with a region now.

use std::time::Duration;

use futures::future::join_all;
use meridian_sdk::Client;
use meridian_sdk::v1::{GetLagResponse, Link, link};
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};
use crate::target::Target;
use crate::{human, output};

/// `meridian lag`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Look again and again, until Ctrl-C.
    #[arg(long)]
    watch: bool,
    /// How often to look.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = human::parse_time)]
    interval: Duration,
    /// Print JSON, one object a look.
    #[arg(long)]
    json: bool,
    /// A region of which no node answers for so long is unreachable.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = human::parse_time)]
    timeout: Duration,
    #[command(flatten)]
    target: Target,
}

/// One look at all regions.
#[derive(Debug, PartialEq, Serialize)]
struct Look {
    links: Vec<LinkRow>,
    at_risk: Vec<RiskRow>,
    unreachable: Vec<SilentRow>,
}

/// How far `region`'s copy of `origin` is.
#[derive(Debug, PartialEq, Serialize)]
struct LinkRow {
    origin: String,
    region: String,
    state: &'static str,
    events: u64,
    bytes: u64,
    /// How long ago the oldest event that is missing was published.
    seconds: f64,
    round_trip_ms: Option<f64>,
    /// The region that events come through while the origin is out of reach; empty: they come directly.
    relay: String,
    reconnects: u64,
    faults: Vec<FaultRow>,
    /// Which region said so: the copy's own, or the origin, with what it last heard.
    reported_by: String,
}

#[derive(Debug, PartialEq, Serialize)]
struct FaultRow {
    shard: u32,
    seq: u64,
    reason: String,
    message: String,
}

/// What would be lost if the region were lost now.
#[derive(Debug, PartialEq, Serialize)]
struct RiskRow {
    region: String,
    events: u64,
    bytes: u64,
    seconds: f64,
    /// Shards of which nobody was in reach: what is at risk of them comes on top.
    unknown_shards: u32,
}

#[derive(Debug, PartialEq, Serialize)]
struct SilentRow {
    region: String,
    error: String,
}

/// Runs the command.
pub async fn run(args: Args) -> Outcome {
    let regions = args.target.nodes(args.timeout).await?;
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let look = tokio::select! {
            look = look(&regions) => look,
            _ = &mut interrupted => return Ok(Exit::Interrupted),
        };
        if !args.watch && look.unreachable.len() == regions.len() {
            let lines: Vec<String> =
                look.unreachable.iter().map(|row| format!("region {}: {}", row.region, row.error)).collect();
            return Err(Failure { exit: Exit::Unreachable, message: lines.join("\n") });
        }
        if args.json {
            output::json(&look)?;
        } else {
            print(&look, args.watch)?;
        }
        if !args.watch {
            return Ok(Exit::Ok);
        }
        tokio::select! {
            () = tokio::time::sleep(args.interval) => {}
            _ = &mut interrupted => return Ok(Exit::Interrupted),
        }
    }
}

async fn look(regions: &[(String, Vec<Client>)]) -> Look {
    let answers = join_all(regions.iter().map(|(name, nodes)| async {
        let told = join_all(
            nodes.iter().map(|node| async { node.admin().lag().await.map_err(|error| error.to_string()) }),
        );
        (name.clone(), gather(told.await))
    }))
    .await;
    merge(answers)
}

/// What a region's nodes say together: each mirrors the shards whose copies it leads. A node that is silent leads none for
/// long.
fn gather(told: Vec<Result<GetLagResponse, String>>) -> Result<GetLagResponse, String> {
    let mut all: Option<GetLagResponse> = None;
    let mut silent = String::new();
    for told in told {
        match (told, &mut all) {
            (Err(error), _) => silent = error,
            (Ok(told), None) => all = Some(told),
            (Ok(told), Some(all)) => {
                let unknown = |told: &GetLagResponse| told.at_risk.unwrap_or_default().unknown_shards;
                if unknown(&told) < unknown(all) {
                    (all.outbound, all.at_risk) = (told.outbound, told.at_risk);
                }
                for link in told.inbound {
                    match all.inbound.iter_mut().find(|known| known.origin == link.origin) {
                        Some(known) => add(known, link),
                        None => all.inbound.push(link),
                    }
                }
            }
        }
    }
    all.ok_or(silent)
}

/// Adds what another node's link from the same origin lacks. The worse state counts.
fn add(known: &mut Link, other: Link) {
    let badness = |link: &Link| match link.state() {
        link::State::Live => 0,
        link::State::Unspecified | link::State::Connecting => 1,
        link::State::Stalled => 2,
        link::State::Faulted => 3,
    };
    if badness(&other) > badness(known) {
        known.state = other.state;
    }
    if let Some(more) = other.backlog {
        let backlog = known.backlog.get_or_insert_default();
        backlog.events += more.events;
        backlog.bytes += more.bytes;
        backlog.oldest_ms = backlog.oldest_ms.max(more.oldest_ms);
    }
    known.round_trip_us = known.round_trip_us.into_iter().chain(other.round_trip_us).min();
    known.reconnects += other.reconnects;
    known.faults.extend(other.faults);
    if known.relay.is_empty() {
        known.relay = other.relay;
    }
}

/// A link is told by both of its ends; the copy's own word counts, and the origin's where the copy is silent.
fn merge(answers: Vec<(String, Result<GetLagResponse, String>)>) -> Look {
    let answered = |name: &str| answers.iter().any(|(region, answer)| region == name && answer.is_ok());
    let mut look = Look { links: Vec::new(), at_risk: Vec::new(), unreachable: Vec::new() };
    for (region, answer) in &answers {
        let lag = match answer {
            Ok(lag) => lag,
            Err(error) => {
                look.unreachable.push(SilentRow { region: region.clone(), error: error.clone() });
                continue;
            }
        };
        look.links.extend(lag.inbound.iter().map(|link| row(link, region)));
        let of_silent = lag.outbound.iter().filter(|link| !answered(&link.region));
        look.links.extend(of_silent.map(|link| row(link, region)));
        if let Some(risk) = &lag.at_risk {
            look.at_risk.push(RiskRow {
                region: region.clone(),
                events: risk.events,
                bytes: risk.bytes,
                seconds: risk.oldest_ms as f64 / 1000.0,
                unknown_shards: risk.unknown_shards,
            });
        }
    }
    look.links.sort_by(|a, b| (&a.origin, &a.region).cmp(&(&b.origin, &b.region)));
    look
}

fn row(link: &Link, reported_by: &str) -> LinkRow {
    let backlog = link.backlog.unwrap_or_default();
    LinkRow {
        origin: link.origin.clone(),
        region: link.region.clone(),
        state: match link.state() {
            link::State::Unspecified => "unknown",
            link::State::Connecting => "connecting",
            link::State::Live => "live",
            link::State::Stalled => "stalled",
            link::State::Faulted => "faulted",
        },
        events: backlog.events,
        bytes: backlog.bytes,
        seconds: backlog.oldest_ms as f64 / 1000.0,
        round_trip_ms: link.round_trip_us.map(|us| us as f64 / 1000.0),
        relay: link.relay.clone(),
        reconnects: link.reconnects,
        faults: link
            .faults
            .iter()
            .map(|fault| FaultRow {
                shard: fault.shard,
                seq: fault.seq,
                reason: fault.reason.clone(),
                message: fault.message.clone(),
            })
            .collect(),
        reported_by: reported_by.to_owned(),
    }
}

fn print(look: &Look, watch: bool) -> Result<(), Failure> {
    use std::io::IsTerminal as _;
    // Over the last look, where there is a screen to clear.
    if watch && std::io::stdout().is_terminal() {
        output::line("\x1b[2J\x1b[H")?;
    }
    output::line(format_args!(
        "{:<20} {:<11} {:>12} {:>12} {:>10} {:>12}",
        "LINK", "STATE", "EVENTS", "BYTES", "OLDEST", "ROUND TRIP"
    ))?;
    for link in &look.links {
        // What was known last may long be wrong.
        let is_known = !matches!(link.state, "unknown" | "connecting");
        let round_trip = link.round_trip_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
        output::line(format_args!(
            "{:<20} {:<11} {:>12} {:>12} {:>10} {:>12}",
            format!("{} -> {}", link.origin, link.region),
            // It flows, and not from there.
            if link.state == "live" && !link.relay.is_empty() { "relayed" } else { link.state },
            if is_known { human::count(link.events) } else { "?".to_owned() },
            if is_known { human::bytes(link.bytes) } else { "?".to_owned() },
            if is_known { age(link.seconds) } else { "?".to_owned() },
            round_trip,
        ))?;
        if !link.relay.is_empty() {
            output::line(format_args!("    {} is out of reach: through {}", link.origin, link.relay))?;
        }
        for fault in &link.faults {
            output::line(format_args!(
                "    FAULT shard {} at {}: {} {}",
                fault.shard, fault.seq, fault.reason, fault.message
            ))?;
        }
    }
    for risk in &look.at_risk {
        if risk.unknown_shards > 0 {
            output::line(format_args!(
                "{} of {}'s shards are out of reach: what would be lost of them is not known",
                risk.unknown_shards, risk.region
            ))?;
        }
        if risk.events == 0 {
            output::line(format_args!("if {} were lost now: nothing would be lost", risk.region))?;
            continue;
        }
        output::line(format_args!(
            "if {} were lost now: {}, {}, the oldest published {} ago",
            risk.region,
            human::events(risk.events),
            human::bytes(risk.bytes),
            age(risk.seconds),
        ))?;
    }
    for silent in &look.unreachable {
        output::line(format_args!(
            "region {} is unreachable, and what would be lost with it is not known: {}",
            silent.region, silent.error
        ))?;
    }
    Ok(())
}

fn age(seconds: f64) -> String {
    if seconds > 0.0 { human::time(Duration::from_secs_f64(seconds)) } else { "-".to_owned() }
}

#[cfg(test)]
mod tests {
    use meridian_sdk::v1::{AtRisk, Backlog};

    use super::*;

    fn link(origin: &str, region: &str, events: u64) -> Link {
        Link {
            origin: origin.into(),
            region: region.into(),
            state: link::State::Live.into(),
            backlog: Some(Backlog { events, bytes: events * 10, oldest_ms: 1500 }),
            ..Link::default()
        }
    }

    #[test]
    fn a_regions_nodes_each_tell_a_part() {
        let told = |events| GetLagResponse { inbound: vec![link("eu", "us", events)], ..Default::default() };
        let mut stalled = told(2);
        stalled.inbound[0].state = link::State::Stalled.into();
        let all = gather(vec![Ok(told(1)), Err("no answer".into()), Ok(stalled)]).unwrap();
        assert_eq!(all.inbound.len(), 1);
        assert_eq!(
            (all.inbound[0].backlog.unwrap().events, all.inbound[0].state()),
            (3, link::State::Stalled)
        );
        assert_eq!(gather(vec![Err("no answer".into())]), Err("no answer".into()));
        // Who reaches more of the region's shards knows better what is at risk.
        let risk = |events, unknown_shards| GetLagResponse {
            at_risk: Some(AtRisk { events, unknown_shards, ..AtRisk::default() }),
            ..Default::default()
        };
        let all = gather(vec![Ok(risk(1, 2)), Ok(risk(5, 0)), Ok(risk(3, 1))]).unwrap();
        assert_eq!(all.at_risk, risk(5, 0).at_risk);
    }

    #[test]
    fn the_copys_own_word_counts_and_the_origins_where_it_is_silent() {
        let us = GetLagResponse {
            inbound: vec![link("eu", "us", 1), link("ap", "us", 2)],
            outbound: vec![link("us", "eu", 30), link("us", "ap", 40)],
            at_risk: Some(AtRisk { events: 3, bytes: 30, oldest_ms: 20, unknown_shards: 0 }),
        };
        let eu = GetLagResponse { inbound: vec![link("us", "eu", 5)], ..GetLagResponse::default() };
        let look =
            merge(vec![("us".into(), Ok(us)), ("eu".into(), Ok(eu)), ("ap".into(), Err("no answer".into()))]);
        let links: Vec<(&str, &str, u64, &str)> = look
            .links
            .iter()
            .map(|l| (l.origin.as_str(), l.region.as_str(), l.events, l.reported_by.as_str()))
            .collect();
        assert_eq!(
            links,
            [("ap", "us", 2, "us"), ("eu", "us", 1, "us"), ("us", "ap", 40, "us"), ("us", "eu", 5, "eu")]
        );
        assert_eq!((look.at_risk.len(), look.at_risk[0].events), (1, 3));
        assert_eq!(look.unreachable[0].region, "ap");
        assert!((look.links[0].seconds - 1.5).abs() < f64::EPSILON);
    }
}
