//! `meridian consume`: every region's events, read from one region.

use std::collections::HashMap;
use std::io::{self, BufWriter, StdoutLock, Write as _};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::FutureExt as _;
use meridian_sdk::{Client, ConsumedEvent, ConsumerOptions, Gap, Item, StartFrom};
use meridian_types::{Cursor, Lane, Offset, RegionId, Timestamp};
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};
use crate::target::Target;
use crate::{human, output};

const BUFFER: usize = 1024 * 1024;

/// `meridian consume`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The stream.
    stream: String,
    /// Where to begin: start, end, a time (RFC 3339, or milliseconds since 1970), or a cursor.
    #[arg(long, value_name = "WHERE", default_value = "start", value_parser = parse_from)]
    from: StartFrom,
    /// End when everything that the region holds was read.
    #[arg(long)]
    until_caught_up: bool,
    /// End when every event was read that was acknowledged in this region, at any of its nodes, before this began, as the
    /// leaders of its shards confirm. Of other regions' events those that this region held then.
    #[arg(long, conflicts_with = "until_caught_up")]
    until_latest: bool,
    /// Print a JSON object for each event: partition, origin, offset, hlc, timestamp, key, value, headers.
    #[arg(long, visible_alias = "json")]
    with_metadata: bool,
    /// End after so many events.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// At the end print on stderr the cursor from which reading goes on, in this region or any other.
    #[arg(long)]
    print_cursor: bool,
    /// Give up if no node answers for so long.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = human::parse_time)]
    timeout: Duration,
    #[command(flatten)]
    target: Target,
}

fn parse_from(text: &str) -> Result<StartFrom, String> {
    match text {
        "start" | "earliest" => return Ok(StartFrom::Start),
        "end" | "latest" => return Ok(StartFrom::End),
        _ => {}
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let ms = text.parse().map_err(|_| format!("{text} is beyond any time in milliseconds"))?;
        return Ok(StartFrom::Time(Timestamp(ms)));
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        let ms =
            u64::try_from(time.as_millisecond()).map_err(|_| "no event is older than 1970".to_owned())?;
        return Ok(StartFrom::Time(Timestamp(ms)));
    }
    text.parse::<Cursor>().map(StartFrom::Cursor).map_err(|error| {
        format!(
            "neither start, end, a time such as 2013-01-01T10:00:00Z or 1357034400000, nor a cursor ({error})"
        )
    })
}

/// Runs the command.
pub async fn run(args: Args) -> Outcome {
    let client = args.target.region(args.timeout)?;
    let options =
        ConsumerOptions { from: args.from.clone(), timeout: args.timeout, ..ConsumerOptions::default() };
    let mut consumer = client.consumer(&args.stream, options)?;
    let goal = match args.until_latest {
        true => Some(Goal::new(&client.latest(&args.stream).await?.cursor)),
        false => None,
    };
    let mut printer = Printer::new(client, args.with_metadata).await?;
    let outcome = read(&args, goal, &mut consumer, &mut printer).await;
    // What was read is written, whatever ended the reading.
    let flushed = printer.out.flush().map_err(output::failed);
    if args.print_cursor
        && let Some(cursor) = consumer.cursor()
    {
        eprintln!("{cursor}");
    }
    let exit = outcome?;
    flushed?;
    Ok(exit)
}

async fn read(
    args: &Args,
    mut goal: Option<Goal>,
    consumer: &mut meridian_sdk::Consumer,
    printer: &mut Printer,
) -> Outcome {
    let mut left = args.limit.unwrap_or(u64::MAX);
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    while left > 0 && !goal.as_ref().is_some_and(Goal::is_reached) {
        // As long as there is more at hand it is only collected; then written out, before waiting for more.
        let item = match consumer.next().now_or_never() {
            Some(item) => item?,
            None => {
                printer.out.flush().map_err(output::failed)?;
                tokio::select! {
                    item = consumer.next() => item?,
                    _ = &mut interrupted => return Ok(Exit::Interrupted),
                }
            }
        };
        match item {
            Item::Event(event) => {
                printer.event(&event).await?;
                left -= 1;
                if let Some(goal) = &mut goal {
                    goal.pass(event.lane, event.offset.plus(1));
                }
            }
            Item::Gap(gap) => {
                printer.gap(&gap).await?;
                if let Some(goal) = &mut goal {
                    goal.pass(gap.lane, gap.next);
                }
            }
            Item::Mark(mark) if mark.caught_up && args.until_caught_up => return Ok(Exit::Ok),
            // Lanes in which reading began at or behind the goal bring nothing, and are known by marks alone.
            Item::Mark(mark) => {
                if let Some(goal) = &mut goal {
                    mark.cursor.lanes().for_each(|(lane, next)| goal.pass(lane, next));
                }
            }
        }
    }
    Ok(Exit::Ok)
}

/// What is still to be read, a lane's end each.
struct Goal(HashMap<Lane, Offset>);

impl Goal {
    fn new(cursor: &Cursor) -> Self {
        Self(cursor.lanes().filter(|(_, next)| *next > Offset::ZERO).collect())
    }

    /// A lane was read up to there.
    fn pass(&mut self, lane: Lane, next: Offset) {
        if self.0.get(&lane).is_some_and(|goal| next >= *goal) {
            self.0.remove(&lane);
        }
    }

    fn is_reached(&self) -> bool {
        self.0.is_empty()
    }
}

struct Printer {
    client: Client,
    with_metadata: bool,
    /// Only filled where names are printed.
    regions: HashMap<RegionId, String>,
    out: BufWriter<StdoutLock<'static>>,
}

impl Printer {
    async fn new(client: Client, with_metadata: bool) -> Result<Self, Failure> {
        let out = BufWriter::with_capacity(BUFFER, io::stdout().lock());
        let mut printer = Self { client, with_metadata, regions: HashMap::new(), out };
        if with_metadata {
            printer.learn_regions().await?;
        }
        Ok(printer)
    }

    async fn learn_regions(&mut self) -> Result<(), Failure> {
        let topology = self.client.admin().topology().await?;
        let named = topology.regions.into_iter();
        self.regions
            .extend(named.filter_map(|region| Some((RegionId(region.id.try_into().ok()?), region.name))));
        Ok(())
    }

    /// Learns the name of a region that joined after we began, once.
    async fn know(&mut self, region: RegionId) -> Result<(), Failure> {
        if !self.regions.contains_key(&region) {
            self.learn_regions().await?;
            self.regions.entry(region).or_insert_with(|| format!("r{region}"));
        }
        Ok(())
    }

    async fn event(&mut self, event: &ConsumedEvent) -> Result<(), Failure> {
        if self.with_metadata {
            self.know(event.lane.origin.region).await?;
            let row = EventRow::new(event, &self.regions);
            serde_json::to_writer(&mut self.out, &row).map_err(|error| output::failed(error.into()))?;
        } else {
            self.out.write_all(event.value.as_deref().unwrap_or_default()).map_err(output::failed)?;
        }
        self.out.write_all(b"\n").map_err(output::failed)
    }

    async fn gap(&mut self, gap: &Gap) -> Result<(), Failure> {
        eprintln!(
            "meridian: offsets {} to {} of lane {} are lost: {}",
            gap.first, gap.next, gap.lane, gap.reason
        );
        if !self.with_metadata {
            return Ok(());
        }
        self.know(gap.lane.origin.region).await?;
        let row = GapRow {
            gap: true,
            partition: gap.lane.partition.0,
            origin: name_of(&self.regions, gap.lane.origin.region),
            first: gap.first.0,
            next: gap.next.0,
            reason: &gap.reason,
        };
        serde_json::to_writer(&mut self.out, &row).map_err(|error| output::failed(error.into()))?;
        self.out.write_all(b"\n").map_err(output::failed)
    }
}

fn name_of(regions: &HashMap<RegionId, String>, region: RegionId) -> &str {
    regions.get(&region).map_or("?", String::as_str)
}

/// An event, as `--with-metadata` prints it. What is not UTF-8 is printed in base64 under another name.
#[derive(Serialize)]
struct EventRow<'a> {
    partition: u32,
    origin: &'a str,
    #[serde(skip_serializing_if = "is_first")]
    incarnation: u16,
    offset: u64,
    /// Milliseconds, a dot, a counter: too large for numbers that JSON's readers take for doubles.
    hlc: String,
    timestamp: u64,
    #[serde(flatten)]
    key: Key<'a>,
    #[serde(flatten)]
    value: Value<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<HeaderRow<'a>>,
}

#[derive(Serialize)]
enum Key<'a> {
    #[serde(rename = "key")]
    Text(Option<&'a str>),
    #[serde(rename = "key_base64")]
    Base64(String),
}

#[derive(Serialize)]
enum Value<'a> {
    #[serde(rename = "value")]
    Text(Option<&'a str>),
    #[serde(rename = "value_base64")]
    Base64(String),
}

#[derive(Serialize)]
struct HeaderRow<'a> {
    name: &'a str,
    #[serde(flatten)]
    value: Value<'a>,
}

#[derive(Serialize)]
struct GapRow<'a> {
    gap: bool,
    partition: u32,
    origin: &'a str,
    first: u64,
    next: u64,
    reason: &'a str,
}

fn is_first(incarnation: &u16) -> bool {
    *incarnation == 1
}

fn text_or_base64<'a, T>(
    bytes: Option<&'a [u8]>,
    text: impl FnOnce(Option<&'a str>) -> T,
    base64: impl FnOnce(String) -> T,
) -> T {
    match bytes.map(std::str::from_utf8) {
        None => text(None),
        Some(Ok(value)) => text(Some(value)),
        Some(Err(_)) => base64(BASE64.encode(bytes.unwrap_or_default())),
    }
}

impl<'a> EventRow<'a> {
    fn new(event: &'a ConsumedEvent, regions: &'a HashMap<RegionId, String>) -> Self {
        let headers = event.headers.iter().map(|header| HeaderRow {
            name: &header.key,
            value: text_or_base64(header.value.as_deref(), Value::Text, Value::Base64),
        });
        Self {
            partition: event.lane.partition.0,
            origin: name_of(regions, event.lane.origin.region),
            incarnation: event.lane.origin.incarnation.0,
            offset: event.offset.0,
            hlc: event.hlc.to_string(),
            timestamp: event.timestamp.0,
            key: text_or_base64(event.key.as_deref(), Key::Text, Key::Base64),
            value: text_or_base64(event.value.as_deref(), Value::Text, Value::Base64),
            headers: headers.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use meridian_sdk::Header;
    use meridian_types::{Hlc, Origin, Partition, StreamId};

    use super::*;

    #[test]
    fn where_to_begin_is_read_in_each_form() {
        assert_eq!(parse_from("start"), Ok(StartFrom::Start));
        assert_eq!(parse_from("end"), Ok(StartFrom::End));
        assert_eq!(parse_from("1357034400000"), Ok(StartFrom::Time(Timestamp(1_357_034_400_000))));
        assert_eq!(parse_from("2013-01-01T10:00:00Z"), Ok(StartFrom::Time(Timestamp(1_357_034_400_000))));
        assert_eq!(parse_from("2013-01-01T05:00:00-05:00"), parse_from("2013-01-01T10:00:00Z"));
        let mut cursor = Cursor::start(StreamId(7));
        cursor.set(Origin::first(RegionId(1)), Partition(2), Offset(3));
        assert_eq!(parse_from(&cursor.to_string()), Ok(StartFrom::Cursor(cursor.clone())));
        let mut cut = cursor.to_string();
        cut.pop();
        for bad in [&cut, "", "yesterday", "1969-12-31T00:00:00Z", "99999999999999999999999"] {
            assert!(parse_from(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_goal_is_reached_once_every_lane_was_read_as_far() {
        let lane = |partition| Lane {
            stream: StreamId(7),
            partition: Partition(partition),
            origin: Origin::first(RegionId(1)),
        };
        let mut cursor = Cursor::start(StreamId(7));
        assert!(Goal::new(&cursor).is_reached(), "an empty stream");
        for (partition, next) in [(0, 3), (1, 5), (2, 0)] {
            cursor.set(lane(partition).origin, Partition(partition), Offset(next));
        }
        let mut goal = Goal::new(&cursor);
        goal.pass(lane(0), Offset(2));
        goal.pass(lane(1), Offset(9));
        goal.pass(lane(7), Offset(9));
        assert!(!goal.is_reached(), "lane 0 is one short");
        goal.pass(lane(0), Offset(3));
        assert!(goal.is_reached());
    }

    #[test]
    fn a_row_gives_back_the_bytes() {
        let mut event = ConsumedEvent {
            lane: Lane { stream: StreamId(1), partition: Partition(2), origin: Origin::first(RegionId(3)) },
            offset: Offset(4),
            hlc: Hlc((5 << 16) | 6),
            timestamp: Timestamp(7),
            key: None,
            value: Some(Bytes::from_static(br#"{"a":"b"}"#)),
            headers: vec![],
        };
        let regions = HashMap::from([(RegionId(3), "ap".to_owned())]);
        let row = |event: &ConsumedEvent| serde_json::to_string(&EventRow::new(event, &regions)).unwrap();
        assert_eq!(
            row(&event),
            r#"{"partition":2,"origin":"ap","offset":4,"hlc":"5.6","timestamp":7,"key":null,"value":"{\"a\":\"b\"}"}"#
        );
        event.key = Some(Bytes::from_static(b"\xff"));
        event.value = None;
        event.headers.push(Header { key: "h".into(), value: Some(Bytes::from_static(b"v")) });
        event.lane.origin.incarnation.0 = 2;
        assert_eq!(
            row(&event),
            r#"{"partition":2,"origin":"ap","incarnation":2,"offset":4,"hlc":"5.6","timestamp":7,"key_base64":"/w==","value":null,"headers":[{"name":"h","value":"v"}]}"#
        );
    }
}
