//! `meridian demo`: three regions over a simulated WAN, events published in all of them at once, one region's process
//! killed half way, and at the end the proof that every region holds the same bytes.

mod events;
mod publish;
mod screen;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use meridian_node::config::WanTable;
use meridian_node::dev::{DevEvent, DevOptions, World};
use meridian_sdk::v1::StreamSettings;
use meridian_sdk::verify::{RemoteCopy, verify};
use meridian_sdk::{Client, ClientOptions};
use meridian_types::RegionName;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::events::Source;
use self::publish::Publishing;
use self::screen::Screen;
use crate::exit::{Exit, Failure, Outcome};
use crate::{dev, human, output, serve};

const REGIONS: [&str; 3] = ["us", "eu", "ap"];
const WAN: &str = "us-eu=80ms,us-ap=120ms,eu-ap=150ms";
const STREAM: &str = "demo";
const PARTITIONS: u32 = 4;
/// The one that is killed.
const VICTIM: &str = "eu";
/// For how long it is dead at least.
const DEAD_FOR: Duration = Duration::from_secs(5);
/// How long anything may take that should take seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// `meridian demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Your events, one JSON value a line (.ndjson), packed with gzip or not. Made ones if not given.
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// The field of your events whose value is the key.
    #[arg(long, value_name = "NAME", requires = "events")]
    key_field: Option<String>,
    /// How many events to make, over all regions.
    #[arg(long, value_name = "N", default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(300..))]
    count: u64,
    /// Spread publishing over about so long.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = human::parse_time)]
    pace: Duration,
    /// Where the world lies. A fresh folder under ./data if not given, removed if all goes well.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Runs the command.
pub async fn run(args: Args) -> Outcome {
    let stop = CancellationToken::new();
    serve::end_with_signals(stop.clone())?;
    let (folder, keep) = match &args.data {
        Some(folder) if folder.join("dev.json").exists() => {
            let folder = folder.display();
            return Err(Failure::input(format!(
                "{folder} holds a world already; the demo needs a new folder"
            )));
        }
        Some(folder) => (folder.clone(), true),
        None => (PathBuf::from(format!("data/demo-{}", std::process::id())), false),
    };
    let source = match &args.events {
        Some(path) => Source::file(path, args.key_field.clone(), REGIONS.len()).await?,
        None => Source::made(args.count, REGIONS.len()),
    };
    let outcome = tokio::select! {
        outcome = Demo::run(&args, source, &folder) => outcome,
        () = stop.cancelled() => Err(Failure { exit: Exit::Interrupted, message: "interrupted".to_owned() }),
    };
    let done = matches!(outcome, Ok(Exit::Ok));
    if done && !keep {
        let _ = std::fs::remove_dir_all(&folder);
    } else if !done {
        eprintln!("the world is left in {}: its nodes' logs are there", folder.display());
    }
    outcome
}

struct Demo {
    world: World,
    clients: Vec<Client>,
    screen: Arc<Screen>,
}

impl Demo {
    async fn run(args: &Args, source: Source, folder: &Path) -> Outcome {
        let screen = Arc::new(Screen::new());
        screen.say(format!("starting regions {} with a simulated WAN: {WAN}", REGIONS.join(", ")));
        let world = start(folder, &screen).await?;
        let clients = clients(&world)?;
        let demo = Self { world, clients, screen };
        let outcome = demo.act(args, source).await;
        demo.screen.finish();
        demo.world.end().await;
        outcome
    }

    /// Everything between the start of the world and its end.
    async fn act(&self, args: &Args, source: Source) -> Outcome {
        let settings = StreamSettings { partitions: PARTITIONS, ..StreamSettings::default() };
        self.clients[0].admin().create_stream(STREAM, settings).await?;
        self.round_trips().await?;

        let total: u64 = source.counts.iter().sum();
        self.screen.say(format!(
            "publishing {} from {} in all regions at once, into one stream of {PARTITIONS} partitions",
            human::events(total),
            source.name
        ));
        self.screen.begin(total, &REGIONS);
        let publishing = Publishing::start(&self.clients, &source, STREAM, args.pace);
        let watching =
            watch::start(&self.clients, STREAM, &REGIONS, Arc::clone(&self.screen), publishing.acked());
        let played = self.play(&publishing, total).await;
        let published = match played {
            Ok(()) => publishing.finish().await,
            Err(failure) => Err(failure),
        };
        let caught_up = match published {
            Ok(()) => self.catch_up(total).await,
            Err(failure) => Err(failure),
        };
        watching.abort();
        self.screen.finish();
        caught_up?;
        self.prove(total).await
    }

    /// Measures each link before anything is published; less than was asked for is no WAN.
    async fn round_trips(&self) -> Result<(), Failure> {
        let asked: WanTable = wan()?;
        let regions = names()?;
        let mut short = Vec::new();
        for (to, client) in regions.iter().zip(&self.clients) {
            for from in regions.iter().filter(|from| *from != to) {
                let measured = timeout(PATIENCE, measured(client, from.as_str()));
                let measured = measured.await.map_err(|_| Failure {
                    exit: Exit::Unreachable,
                    message: format!("no round trip between {from} and {to} was measured"),
                })??;
                let asked = asked.round_trip(from, to);
                self.screen.say(format!(
                    "  link {from} -> {to}: round trip {} measured, {} asked for",
                    human::time(measured),
                    human::time(asked)
                ));
                if measured < asked {
                    short.push(format!("{from} -> {to}"));
                }
            }
        }
        if short.is_empty() {
            return Ok(());
        }
        let message = format!("shorter than what was asked for: {}", short.join(", "));
        Err(Failure { exit: Exit::NotSo, message })
    }

    /// Half way, kills a region's process; lets the others go on; starts it again.
    async fn play(&self, publishing: &Publishing, total: u64) -> Result<(), Failure> {
        let at = REGIONS.iter().position(|region| *region == VICTIM).unwrap_or_default();
        let node = format!("{VICTIM}-1");
        publishing.until(PATIENCE, |acked| acked.iter().sum::<u64>() >= total / 2).await?;
        self.world.kill(&node).await?;
        let before = publishing.counts();
        let killed = Instant::now();
        self.screen.say(format!(
            "SIGKILL to {node}: region {VICTIM} is gone, with {} of its own acknowledged",
            human::events(before[at])
        ));

        let others = |acked: &[u64]| others(acked, at);
        let target = (others(&before) + total / 20).min(others(publishing.totals()));
        publishing.until(PATIENCE, |acked| others(acked) >= target).await?;
        tokio::time::sleep_until(killed + DEAD_FOR).await;
        let meanwhile = others(&publishing.counts()) - others(&before);
        self.screen.say(format!(
            "{} later the other two regions have acknowledged {} more; starting {node} again",
            human::time(killed.elapsed()),
            human::events(meanwhile)
        ));
        self.world.start_node(&node).await?;
        self.world.ready(&node, PATIENCE).await?;
        self.screen.say(format!("{node} is back"));
        Ok(())
    }

    /// Until each region holds every event.
    async fn catch_up(&self, total: u64) -> Result<(), Failure> {
        let begun = Instant::now();
        self.screen.say("everything is acknowledged; waiting until each region holds all of it");
        loop {
            let mut held = Vec::new();
            for client in &self.clients {
                held.push(watch::held(client, STREAM).await?);
            }
            if held.iter().all(|events| *events >= total) {
                self.screen.say(format!("caught up after {}", human::time(begun.elapsed())));
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                let held: Vec<_> = held.iter().map(|events| human::count(*events)).collect();
                let message = format!("the regions hold {} of {}", held.join(", "), human::events(total));
                return Err(Failure { exit: Exit::NotSo, message });
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// The stored bytes of every copy of every lane, compared.
    async fn prove(&self, total: u64) -> Outcome {
        let copies: Vec<_> = REGIONS
            .iter()
            .zip(&self.clients)
            .map(|(region, client)| RemoteCopy::new(*region, STREAM, client))
            .collect();
        let report = verify(STREAM, &copies).await;
        crate::verify::print(&report)?;
        if !report.agree {
            return Ok(Exit::NotSo);
        }
        if report.events != total {
            let (held, asked) = (human::events(report.events), human::count(total));
            return Err(Failure {
                exit: Exit::NotSo,
                message: format!("{held} are held, {asked} were published"),
            });
        }
        output::line(format_args!(
            "{} published, {} acknowledged, {} held by each of {} regions: none lost, none doubled",
            human::count(total),
            human::count(total),
            human::count(report.events),
            REGIONS.len()
        ))?;
        Ok(Exit::Ok)
    }
}

fn others(acked: &[u64], victim: usize) -> u64 {
    acked.iter().enumerate().filter(|(i, _)| *i != victim).map(|(_, events)| events).sum()
}

fn wan() -> Result<WanTable, Failure> {
    WAN.parse().map_err(|error: meridian_node::config::WanError| Failure::input(error.to_string()))
}

fn names() -> Result<Vec<RegionName>, Failure> {
    REGIONS
        .iter()
        .map(|name| RegionName::new(*name).map_err(|error| Failure::input(error.to_string())))
        .collect()
}

async fn start(folder: &Path, screen: &Arc<Screen>) -> Result<World, Failure> {
    let options =
        DevOptions { regions: Some(names()?), wan: Some(wan()?), ..DevOptions::new(folder.to_path_buf()) };
    let (tell, mut events) = mpsc::unbounded_channel();
    let printer = Arc::clone(screen);
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            // What the demo does itself it says itself.
            if matches!(
                event,
                DevEvent::Ready { .. } | DevEvent::NotReady { .. } | DevEvent::ClusterFile { .. }
            ) {
                printer.say(format!("  {event}"));
            }
        }
    });
    Ok(World::start(options, dev::processes()?, tell).await?)
}

fn clients(world: &World) -> Result<Vec<Client>, Failure> {
    let options = ClientOptions { retry_for: PATIENCE, ..ClientOptions::default() };
    let cluster = world.cluster();
    let endpoints =
        cluster.regions.iter().map(|r| r.nodes.iter().map(|node| node.endpoint.clone()).collect());
    endpoints.map(|endpoints| Ok(Client::connect(endpoints, options.clone())?)).collect()
}

/// The round trip of the link from `origin`, once it was measured.
async fn measured(client: &Client, origin: &str) -> Result<Duration, Failure> {
    loop {
        let lag = client.admin().lag().await?;
        let link = lag.inbound.iter().find(|link| link.origin == origin);
        if let Some(us) = link.and_then(|link| link.round_trip_us) {
            return Ok(Duration::from_micros(us));
        }
        sleep(Duration::from_millis(100)).await;
    }
}
