//! The page of results. Flows in: what was measured. Flows out: Markdown. Pure; never a figure that was not measured.

use std::time::Duration;

use crate::compared::{self, Compared};
use crate::limits::Limits;
use crate::machine::Machine;
use crate::measure::Outcome;
use crate::plan::{Spans, VALUE_BYTES, World};
use crate::server::Profile;
use crate::text::{Table, above, count, mib, ms, percent, quantiles, times};

/// Above this, figures are those of a machine that had other things to do.
const NOISY_CORES: f64 = 0.25;

/// A whole run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Where, and of what.
    pub machine: Machine,
    /// This program's profile.
    pub profile: Profile,
    /// The servers', if known.
    pub servers: Option<Profile>,
    /// For how long each was measured.
    pub spans: Spans,
    /// Before the rows and after them.
    pub limits: [Limits; 2],
    /// Each link's name and round trip, by world.
    pub round_trips: Vec<(World, Vec<(String, Duration)>)>,
    /// Row by row.
    pub outcomes: Vec<Outcome>,
    /// Three nodes beside one, if that was measured.
    pub compared: Vec<Compared>,
    /// All of it.
    pub took: Duration,
}

impl Run {
    /// The page.
    pub fn render(&self) -> String {
        let best = self.limits[0].best(&self.limits[1]);
        let mut text = String::from("# First figures\n\n");
        text += "Written by the program in this folder (`make bench`), never by hand. Every row went through the real\n";
        text += "gateway of real processes on one machine, over loopback; publisher, servers and reader share its cores\n";
        text += "and its one disk.\n\n";
        text += &self.profiles();
        text += &self.noise();
        text += &self.about();
        text += &self.limits();
        text += &self.closed(&best);
        text += &self.open(&best);
        if !self.compared.is_empty() {
            text += &compared::render(&self.compared);
        }
        text += &self.costs();
        text += &self.links();
        text += &self.commands();
        text.truncate(text.trim_end().len());
        text.push('\n');
        text
    }

    /// Of which profile the figures are, marked where it is not the one to judge by.
    fn profiles(&self) -> String {
        match (self.profile, self.servers) {
            (Profile::Release, Some(Profile::Release)) => {
                "Servers and this program: release profile.\n\n".to_owned()
            }
            (_, None) => {
                "**The servers' binary was named by MERIDIAN_BIN: this program does not know its profile.**\n\n"
                    .to_owned()
            }
            _ => "**Dev profile: dependencies optimised at 3, Meridian's own crates at 1, with debug assertions, for\n\
                  servers and this program alike. A release build has other figures.**\n\n"
                .to_owned(),
        }
    }

    /// Said before any figure: a shared machine is worse in its tails than the same machine alone.
    fn noise(&self) -> String {
        let noisy = self.outcomes.iter().filter(|outcome| outcome.usage.others > NOISY_CORES).count();
        match noisy {
            0 => String::new(),
            _ => format!(
                "**The machine had other work to do during {noisy} of {} rows, marked NOISY below: theirs are figures of\n\
                 a part of this machine, and their tails are mostly its queue for a core.**\n\n",
                self.outcomes.len()
            ),
        }
    }

    fn about(&self) -> String {
        let machine = &self.machine;
        let mut table = Table::new(&["", "this run"]);
        let mut row = |name: &str, value: String| table.row(vec![name.to_owned(), value]);
        row("when", machine.date.clone());
        row("commit", machine.commit.clone());
        row("processor", format!("{}, {} cores", machine.cpu, machine.cores));
        row("memory", format!("{:.1} GiB", machine.memory_kib as f64 / f64::from(1 << 20)));
        row("kernel", format!("Linux {}", machine.kernel));
        row("file system", machine.file_system.clone());
        row("compiler", machine.rustc.clone());
        row("load average before", machine.load.clone());
        row(
            "each row",
            format!(
                "{} s warm-up, {} s counted",
                self.spans.warm.as_secs_f64(),
                self.spans.counted.as_secs_f64()
            ),
        );
        row("whole run", format!("{:.0} s", self.took.as_secs_f64()));
        table.end()
    }

    fn limits(&self) -> String {
        let mut text = String::from("## What this machine can do\n\n");
        text += "Measured before the rows and after them. Ratios below are to the better of the two.\n\n";
        let mut table = Table::new(&["limit", "before", "after"]);
        let [before, after] = &self.limits;
        for (one, two) in before.disk.iter().zip(&after.disk) {
            let cell = |sync: &crate::limits::Sync| {
                format!("{} ms, {} MiB/s", quantiles(&sync.took), mib(sync.rate))
            };
            let kib = one.bytes / 1024;
            table.row(vec![
                format!("write {kib} KiB + fdatasync, p50 / p99 / max, sequential over written zeros"),
                cell(one),
                cell(two),
            ]);
        }
        let tcp = |limits: &Limits| format!("{} MiB/s", mib(limits.tcp));
        table.row(vec!["loopback TCP, one connection".to_owned(), tcp(before), tcp(after)]);
        text + &table.end()
    }

    fn closed(&self, best: &Limits) -> String {
        let rows: Vec<_> = self.outcomes.iter().filter(|outcome| outcome.row.load.rate().is_none()).collect();
        if rows.is_empty() {
            return String::new();
        }
        let mut text = format!(
            "## As fast as it goes (closed loop, {VALUE_BYTES} bytes a value that do not compress)\n\n"
        );
        text += "Latency is from handing an event over to its acknowledgement, waiting for room included: with the SDK's\n";
        text += "defaults that is mostly the queue that a closed loop makes. *Of the disk* compares the values' bytes with\n";
        text += "1 MiB writes + fdatasync of the same disk; each region writes all of it. *Drained*: how long after the last\n";
        text += "acknowledgement the other region's reader had every event.\n\n";
        let heads = [
            "row",
            "publisher",
            "events/s",
            "MiB/s",
            "of the disk",
            "of TCP",
            "ack ms p50 / p99 / max",
            "p50 ÷ 4 KiB fdatasync",
            "drained",
        ];
        let mut table = Table::new(&heads);
        for outcome in rows {
            let bytes = outcome.rate * VALUE_BYTES as f64;
            let drained = outcome.drained.map(|drained| format!("{:.1} s", drained.as_secs_f64()));
            table.row(vec![
                outcome.row.name(),
                outcome.row.load.words(),
                count(outcome.rate.round() as u64),
                mib(bytes),
                percent(bytes, best.large_sync_rate()),
                percent(bytes, best.tcp),
                quantiles(&outcome.ack),
                times(outcome.ack.p50, best.small_sync_p50()),
                drained.unwrap_or_else(|| "–".to_owned()),
            ]);
        }
        text + &table.end()
    }

    fn open(&self, best: &Limits) -> String {
        let rows: Vec<_> = self.outcomes.iter().filter(|outcome| outcome.row.load.rate().is_some()).collect();
        if rows.is_empty() {
            return String::new();
        }
        let mut text = String::from("## At a fixed rate (open loop)\n\n");
        text += "Events are sent at due times, whatever the servers do, and every latency counts from when the event was\n";
        text += "due: a stall counts for all that it held up. *Lag*: until a reader in the other region had it. *Above one\n";
        text += "way*: the lag's p50 less half of the simulated round trip; the event is made durable twice on its way. A row\n";
        text += "whose sender was late offered another load than it says, and is marked INVALID.\n\n";
        let heads = [
            "row",
            "publisher",
            "sender late ms p50 / p99 / max",
            "ack ms p50 / p99 / max",
            "p50 ÷ 4 KiB fdatasync",
            "lag ms p50 / p99 / max",
            "above one way ms",
            "÷ 4 KiB fdatasync",
            "valid",
        ];
        let mut table = Table::new(&heads);
        let none = || "–".to_owned();
        for outcome in rows {
            let over = outcome.lag.and_then(|lag| above(lag.p50, outcome.row.world.one_way()));
            let rate = outcome.row.load.rate().unwrap_or_default();
            table.row(vec![
                outcome.row.name(),
                format!("{}, {} events/s", outcome.row.load.words(), count(rate)),
                outcome.late.as_ref().map_or_else(none, quantiles),
                quantiles(&outcome.ack),
                times(outcome.ack.p50, best.small_sync_p50()),
                outcome.lag.as_ref().map_or_else(none, quantiles),
                over.map_or_else(none, ms),
                over.map_or_else(none, |over| times(over, best.small_sync_p50())),
                outcome.invalid().map_or_else(|| "yes".to_owned(), |why| format!("INVALID: {why}")),
            ]);
        }
        text + &table.end()
    }

    fn costs(&self) -> String {
        let mut text = String::from("## What it took\n\n");
        text += "CPU time is user and system, from the first event to the last one read. Memory is the highest that the\n";
        text += "process's resident set ever was, so it only grows from row to row of a world. *Others*: cores that everything\n";
        text += "but these processes kept busy, the kernel's own threads included; *stolen*: cores that the host took away.\n";
        text += "Events: acknowledged, warm-up included; read in the other region, each once; and found with the same bytes in\n";
        text += "every region by the comparison of stored bytes that `meridian verify` makes.\n\n";
        let heads = [
            "row",
            "events",
            "server CPU s",
            "s for a million events",
            "peak MiB",
            "own CPU s",
            "others",
            "stolen",
            "verified",
        ];
        let mut table = Table::new(&heads);
        for outcome in &self.outcomes {
            let usage = &outcome.usage;
            let nodes = usage.nodes.iter().map(|(name, seconds)| format!("{name} {seconds:.1}"));
            let peaks = usage
                .nodes
                .iter()
                .zip(&usage.peak_rss)
                .map(|((name, _), peak)| format!("{name} {}", mib(*peak as f64)));
            let noisy = if usage.others > NOISY_CORES { " NOISY" } else { "" };
            table.row(vec![
                outcome.row.name(),
                count(outcome.total),
                nodes.collect::<Vec<_>>().join(", "),
                format!("{:.1}", outcome.cpu_per_million()),
                peaks.collect::<Vec<_>>().join(", "),
                format!("{:.1}", usage.own),
                format!("{:.2}{noisy}", usage.others),
                format!("{:.2}", usage.stolen),
                "agrees".to_owned(),
            ]);
        }
        text + &table.end()
    }

    fn links(&self) -> String {
        let mut table = Table::new(&["world", "started by", "round trips, as the nodes measure them"]);
        for (world, trips) in &self.round_trips {
            // Nodes measure in whole milliseconds.
            let trips = trips.iter().map(|(link, trip)| match trip.as_millis() {
                0 => format!("{link} below 1 ms"),
                millis => format!("{link} {millis} ms"),
            });
            let trips = trips.collect::<Vec<_>>().join(", ");
            table.row(vec![
                world.name().to_owned(),
                format!("`meridian {}`", world.arguments().join(" ")),
                if trips.is_empty() { "no link".to_owned() } else { trips },
            ]);
        }
        format!("## Worlds\n\n{}", table.end())
    }

    fn commands(&self) -> String {
        let flag = self.profile.flag().map(|flag| format!(" {flag}")).unwrap_or_default();
        let command = |rest: &str| format!("`cargo run --locked{flag} -p meridian-benches{rest}`");
        let mut table = Table::new(&["row", "command"]);
        table.row(vec!["all".to_owned(), command("")]);
        if !self.compared.is_empty() {
            table.row(vec!["three nodes beside one".to_owned(), command(" -- --only compared")]);
        }
        for outcome in &self.outcomes {
            let name = outcome.row.name();
            table.row(vec![name.clone(), command(&format!(" -- --only {name}"))]);
        }
        format!("## Commands\n\n{}", table.end())
    }
}

#[cfg(test)]
#[path = "results_tests.rs"]
mod tests;
