//! `meridian verify`: whether every region holds the same bytes of a stream.

use std::time::Duration;

use meridian_sdk::verify::{CopyReport, CopyStatus, LaneReport, RegionStatus, RemoteCopy, Report, verify};
use tokio::time::Instant;

use crate::exit::{Exit, Failure, Outcome};
use crate::target::Target;
use crate::{human, output};

const POLL: Duration = Duration::from_millis(500);

/// `meridian verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The stream.
    stream: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// While copies are only behind or unreachable, look again for so long.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = human::parse_time)]
    wait: Duration,
    /// A region of which no node answers for so long is unreachable.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = human::parse_time)]
    timeout: Duration,
    #[command(flatten)]
    target: Target,
}

/// Runs the command.
pub async fn run(args: Args) -> Outcome {
    let regions = args.target.all(args.timeout).await?;
    let copies: Vec<RemoteCopy> =
        regions.iter().map(|region| RemoteCopy::new(&region.name, &args.stream, &region.client)).collect();
    let until = Instant::now() + args.wait;
    let report = loop {
        let report = verify(&args.stream, &copies).await;
        if report.agree || Instant::now() >= until || !may_heal(&report) {
            break report;
        }
        tokio::time::sleep(POLL).await;
    };
    if let Some(failure) = nothing_to_compare(&report) {
        return Err(failure);
    }
    if args.json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(if report.agree { Exit::Ok } else { Exit::NotSo })
}

/// Whether time alone may make the copies agree.
fn may_heal(report: &Report) -> bool {
    report
        .lanes
        .iter()
        .flat_map(|lane| &lane.copies)
        .all(|copy| !matches!(copy.status, CopyStatus::Differs { .. } | CopyStatus::Damaged { .. }))
}

/// Where no region could be asked there is no answer, not even "no".
fn nothing_to_compare(report: &Report) -> Option<Failure> {
    if report.silent_regions() < report.regions.len() {
        return None;
    }
    let mut exit = Exit::Unreachable;
    let mut lines = Vec::new();
    for region in &report.regions {
        match &region.status {
            RegionStatus::Refused { error } => {
                exit = Exit::Refused;
                lines.push(format!("region {}: {error}", region.region));
            }
            RegionStatus::Unreachable { error } => lines.push(format!("region {}: {error}", region.region)),
            RegionStatus::Answered => {}
        }
    }
    Some(Failure { exit, message: lines.join("\n") })
}

/// Prints a report for people.
pub fn print(report: &Report) -> Result<(), Failure> {
    let regions: Vec<&str> = report.regions.iter().map(|region| region.region.as_str()).collect();
    let mut header = format!("{:>9} {:<10}", "PARTITION", "ORIGIN");
    for region in &regions {
        header += &format!(" {region:>16}");
    }
    output::line(format_args!("{header}  BLAKE3"))?;
    for lane in &report.lanes {
        let mut row = format!("{:>9} {:<10}", lane.partition, lane.origin);
        for copy in &lane.copies {
            row += &format!(" {:>16}", cell(copy));
        }
        let digest = lane.copies.iter().find_map(|copy| copy.digest.as_deref()).unwrap_or_default();
        let digest = if lane.agree { digest.get(..16).unwrap_or_default() } else { "-" };
        output::line(format_args!("{row}  {digest}"))?;
    }
    for region in &report.regions {
        match &region.status {
            RegionStatus::Answered => {}
            RegionStatus::Unreachable { error } => {
                output::line(format_args!("region {} is unreachable: {error}", region.region))?;
            }
            RegionStatus::Refused { error } => {
                output::line(format_args!("region {} refuses: {error}", region.region))?;
            }
        }
    }
    for lane in report.disagreeing() {
        for complaint in lane.copies.iter().filter_map(|copy| complaint(lane, copy)) {
            output::line(complaint)?;
        }
    }
    let (events, lanes) = (human::events(report.events), human::counted(report.lanes.len() as u64, "lane"));
    output::line(if report.agree && report.lanes.is_empty() {
        format!("{}: no events yet in {} regions ({})", report.stream, regions.len(), regions.join(", "))
    } else if report.agree {
        format!(
            "{}: {events} in {lanes}, byte-identical in {} regions ({})",
            report.stream,
            regions.len(),
            regions.join(", ")
        )
    } else {
        format!("{}: {}", report.stream, verdict(report))
    })
}

/// Why copies that do not agree do not, in a few words: that some differ is another matter than that some are late.
fn verdict(report: &Report) -> String {
    if !may_heal(report) {
        return "the copies DIFFER".to_owned();
    }
    let copies = || report.lanes.iter().flat_map(|lane| &lane.copies);
    let some_behind = copies().any(|copy| matches!(copy.status, CopyStatus::Behind { .. }));
    let some_silent = report.silent_regions() > 0
        || copies().any(|copy| matches!(copy.status, CopyStatus::Unreachable | CopyStatus::Refused { .. }));
    let why = match (some_behind, some_silent) {
        (true, true) => "copies are behind, and regions cannot be asked",
        (true, false) => "copies are behind; `--wait 30s` waits for them",
        _ => "regions cannot be asked",
    };
    format!("not proven: {why}; what could be compared is the same")
}

fn cell(copy: &CopyReport) -> String {
    let range = match (copy.start, copy.end) {
        (Some(0), Some(end)) => end.to_string(),
        (Some(start), Some(end)) => format!("{start}..{end}"),
        _ => String::new(),
    };
    match copy.status {
        CopyStatus::Ok => range,
        CopyStatus::Behind { behind_by } => format!("{range} (-{behind_by})"),
        CopyStatus::Differs { .. } => "DIFFERS".to_owned(),
        CopyStatus::Damaged { .. } => "DAMAGED".to_owned(),
        CopyStatus::Unreachable => "unreachable".to_owned(),
        CopyStatus::Refused { .. } => "refused".to_owned(),
    }
}

/// What is wrong with a copy, in words; nothing for what was said of the whole region.
fn complaint(lane: &LaneReport, copy: &CopyReport) -> Option<String> {
    let place = format!("partition {} from {}: region {}", lane.partition, lane.origin, copy.region);
    let range = || format!("{}..{}", copy.start.unwrap_or_default(), copy.end.unwrap_or_default());
    match &copy.status {
        CopyStatus::Ok | CopyStatus::Unreachable => None,
        CopyStatus::Behind { behind_by } if copy.start == copy.end => {
            Some(format!("{place} is behind by {behind_by} (it holds nothing yet)"))
        }
        CopyStatus::Behind { behind_by } => {
            Some(format!("{place} is behind by {behind_by} (it holds {})", range()))
        }
        CopyStatus::Differs { differs_at, from } => {
            Some(format!("{place} differs from {from} at offset {differs_at}"))
        }
        CopyStatus::Damaged { damaged_at: Some(at), damage } => {
            Some(format!("{place} is damaged at offset {at}: {damage}"))
        }
        CopyStatus::Damaged { damaged_at: None, damage } => Some(format!("{place} is damaged: {damage}")),
        CopyStatus::Refused { error } => Some(format!("{place} refuses: {error}")),
    }
}
