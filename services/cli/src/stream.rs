//! `meridian stream`: rows of the catalog.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};
use meridian_sdk::v1::{Stream, StreamSettings};
use serde::Serialize;

use crate::exit::{Exit, Outcome};
use crate::target::Target;
use crate::{human, output};

/// What to do with streams.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a stream. The same again is no error.
    Create(Create),
    /// Show a stream.
    Get(Get),
    /// Show all streams.
    List(List),
    /// Change a stream's settings; what is not named stays. Partitions can only grow.
    Update(Update),
    /// Delete a stream and its events, in every region.
    Delete(Delete),
}

/// How long to try.
#[derive(Debug, Args)]
struct Patience {
    /// Give up if no node answers for so long.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = human::parse_time)]
    timeout: Duration,
}

/// `stream create`.
#[derive(Debug, Args)]
pub struct Create {
    /// The stream's name.
    stream: String,
    /// How many partitions: the unit of order by key, 1 to 1,024.
    #[arg(long, short, value_name = "N", default_value_t = 4)]
    partitions: u32,
    #[command(flatten)]
    keep: Keep,
    /// A label, KEY=VALUE; again for more.
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    target: Target,
}

/// How long and how much is kept.
#[derive(Debug, Args)]
struct Keep {
    /// How long events are kept, as 7d; for ever if not given. This release keeps all, and refuses this.
    #[arg(long, value_name = "TIME", value_parser = human::parse_time)]
    retention: Option<Duration>,
    /// How much of a lane is kept, as 10GiB; all if not given. This release keeps all, and refuses this.
    #[arg(long, value_name = "SIZE", value_parser = human::parse_bytes)]
    retention_bytes: Option<u64>,
}

/// `stream get`.
#[derive(Debug, Args)]
pub struct Get {
    /// The stream's name.
    stream: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    target: Target,
}

/// `stream list`.
#[derive(Debug, Args)]
pub struct List {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    target: Target,
}

/// `stream update`.
#[derive(Debug, Args)]
pub struct Update {
    /// The stream's name.
    stream: String,
    /// More partitions. Keys move to others with it.
    #[arg(long, short, value_name = "N")]
    partitions: Option<u32>,
    #[command(flatten)]
    keep: Keep,
    /// Keep events for ever, and all of them.
    #[arg(long, conflicts_with_all = ["retention", "retention_bytes"])]
    no_retention: bool,
    /// Set a label, KEY=VALUE; again for more.
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Take a label away.
    #[arg(long, value_name = "KEY")]
    remove_label: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    target: Target,
}

/// `stream delete`.
#[derive(Debug, Args)]
pub struct Delete {
    /// The stream's name.
    stream: String,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    target: Target,
}

/// A stream, as it is printed.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    tenant: String,
    id: u64,
    partitions: u32,
    retention_ms: Option<u64>,
    retention_bytes: Option<u64>,
    labels: BTreeMap<String, String>,
    created_at_ms: u64,
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<bool>,
}

/// Runs the command.
pub async fn run(command: Command) -> Outcome {
    match command {
        Command::Create(args) => create(args).await,
        Command::Get(args) => {
            let client = args.target.any(args.patience.timeout)?;
            let row = Row::from(client.admin().get_stream(&args.stream).await?);
            print(&row, args.json)
        }
        Command::List(args) => list(args).await,
        Command::Update(args) => update(args).await,
        Command::Delete(args) => {
            let client = args.target.any(args.patience.timeout)?;
            client.admin().delete_stream(&args.stream).await?;
            eprintln!("deleted stream {}", args.stream);
            Ok(Exit::Ok)
        }
    }
}

async fn create(args: Create) -> Outcome {
    let client = args.target.any(args.patience.timeout)?;
    let settings = StreamSettings {
        partitions: args.partitions,
        retention_ms: args.keep.retention.map(millis),
        retention_bytes: args.keep.retention_bytes,
        labels: args.label.into_iter().collect(),
    };
    let (stream, created) = client.admin().create_stream(&args.stream, settings).await?;
    let row = Row { created: Some(created), ..Row::from(stream) };
    if !args.json {
        let what = if created { "created" } else { "is there already, with these settings:" };
        eprintln!("stream {} {what}", row.name);
    }
    print(&row, args.json)
}

async fn list(args: List) -> Outcome {
    let client = args.target.any(args.patience.timeout)?;
    let rows: Vec<Row> = client.admin().list_streams().await?.into_iter().map(Row::from).collect();
    if args.json {
        output::json(&rows)?;
        return Ok(Exit::Ok);
    }
    let columns = |name: &str, partitions: &str, time: &str, size: &str, id: &str| {
        output::line(format_args!("{name:<32} {partitions:>10} {time:>12} {size:>12} {id:>8}"))
    };
    columns("STREAM", "PARTITIONS", "RETENTION", "SIZE LIMIT", "ID")?;
    for row in rows {
        let (time, size) = row.keeps();
        columns(&row.name, &row.partitions.to_string(), &time, &size, &row.id.to_string())?;
    }
    Ok(Exit::Ok)
}

async fn update(args: Update) -> Outcome {
    let client = args.target.any(args.patience.timeout)?;
    let admin = client.admin();
    let now = admin.get_stream(&args.stream).await?;
    let settings = changed(now.settings.unwrap_or_default(), &args);
    // The version makes sure that a change which came between is not undone.
    let row = Row::from(admin.update_stream(&args.stream, settings, now.version).await?);
    if !args.json {
        eprintln!("stream {} is now at version {}", row.name, row.version);
    }
    print(&row, args.json)
}

fn changed(mut settings: StreamSettings, args: &Update) -> StreamSettings {
    settings.partitions = args.partitions.unwrap_or(settings.partitions);
    if args.no_retention {
        (settings.retention_ms, settings.retention_bytes) = (None, None);
    }
    settings.retention_ms = args.keep.retention.map(millis).or(settings.retention_ms);
    settings.retention_bytes = args.keep.retention_bytes.or(settings.retention_bytes);
    for key in &args.remove_label {
        settings.labels.remove(key);
    }
    settings.labels.extend(args.label.iter().cloned());
    settings
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no label; write KEY=VALUE")),
    }
}

impl From<Stream> for Row {
    fn from(stream: Stream) -> Self {
        let name = stream.name.unwrap_or_default();
        let settings = stream.settings.unwrap_or_default();
        Self {
            name: name.stream,
            tenant: name.tenant,
            id: stream.id,
            partitions: settings.partitions,
            retention_ms: settings.retention_ms,
            retention_bytes: settings.retention_bytes,
            labels: settings.labels,
            created_at_ms: stream.created_at_ms,
            version: stream.version,
            created: None,
        }
    }
}

impl Row {
    fn keeps(&self) -> (String, String) {
        let time = self.retention_ms.map(|ms| human::time(Duration::from_millis(ms)));
        let size = self.retention_bytes.map(human::bytes);
        (time.unwrap_or_else(|| "for ever".to_owned()), size.unwrap_or_else(|| "none".to_owned()))
    }
}

fn print(row: &Row, as_json: bool) -> Outcome {
    if as_json {
        output::json(row)?;
        return Ok(Exit::Ok);
    }
    let (time, size) = row.keeps();
    output::line(format_args!("stream:      {} (id {}, tenant {})", row.name, row.id, row.tenant))?;
    output::line(format_args!("partitions:  {}", row.partitions))?;
    output::line(format_args!("retention:   {time}, size limit of a lane: {size}"))?;
    for (key, value) in &row.labels {
        output::line(format_args!("label:       {key}={value}"))?;
    }
    output::line(format_args!("version:     {}", row.version))?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::commands::{Cli, Command as Top};

    fn update(options: &str) -> Update {
        let line = format!("meridian stream update s --endpoint a:1 {options}");
        match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            Top::Stream(Command::Update(args)) => args,
            _ => panic!("an update"),
        }
    }

    #[test]
    fn an_update_changes_only_what_it_names() {
        let before = StreamSettings {
            partitions: 4,
            retention_ms: Some(5),
            retention_bytes: Some(6),
            labels: [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())].into(),
        };
        assert_eq!(changed(before.clone(), &update("")), before);
        let after = changed(before.clone(), &update("--partitions 8 --label a=3 --remove-label b"));
        assert_eq!(after.partitions, 8);
        assert_eq!(after.labels, [("a".to_owned(), "3".to_owned())].into());
        assert_eq!((after.retention_ms, after.retention_bytes), (Some(5), Some(6)));
        let free = changed(before, &update("--no-retention"));
        assert_eq!((free.retention_ms, free.retention_bytes), (None, None));
    }
}
