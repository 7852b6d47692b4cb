//! The page says what was measured, marks what is no figure, and is Markdown.

use super::*;
use crate::latency::Quantiles;
use crate::limits::Sync;
use crate::measure::tests::outcome;
use crate::plan::Load;

fn run() -> Run {
    let sync = |bytes, p50, rate| Sync { bytes, took: Quantiles { p50, p99: 2 * p50, max: 3 * p50 }, rate };
    let limits = |factor: f64| Limits {
        disk: [
            sync(4 << 10, 1000, 4e6 * factor),
            sync(64 << 10, 1500, 40e6 * factor),
            sync(1 << 20, 5000, 104_857_600.0 * factor),
        ],
        tcp: 1_048_576_000.0 * factor,
    };
    let text = str::to_owned;
    Run {
        machine: Machine {
            cpu: text("A Processor"),
            cores: 2,
            memory_kib: 24 << 20,
            kernel: text("6.0"),
            file_system: text("ext4"),
            load: text("0.1 0.2 0.3"),
            rustc: text("rustc 1"),
            commit: text("abc"),
            date: text("2026-01-01 00:00 UTC"),
        },
        profile: Profile::Release,
        servers: Some(Profile::Release),
        spans: Spans::FULL,
        limits: [limits(1.0), limits(0.5)],
        round_trips: vec![
            (World::Alone, vec![]),
            (World::Two, vec![(text("us → eu"), Duration::from_micros(400))]),
            (World::Wan, vec![(text("us → eu"), Duration::from_micros(80_400))]),
        ],
        outcomes: vec![
            outcome(World::Alone, Load::SdkMax),
            outcome(World::Two, Load::SdkMax),
            outcome(World::Wan, Load::SdkRate(5000)),
        ],
        compared: vec![],
        took: Duration::from_secs(100),
    }
}

fn line<'a>(page: &'a str, row: &str, nth: usize) -> Vec<&'a str> {
    let begins = format!("| {row} |");
    let line = page.lines().filter(|line| line.starts_with(&begins)).nth(nth).expect(row);
    line.trim_matches('|').split(" | ").map(str::trim).collect()
}

#[test]
fn ratios_are_to_the_better_limit_of_the_same_run() {
    let page = run().render();
    let row = line(&page, "alone-sdk-max", 0);
    // 1,000 events of 1 KiB a second: 0.98 MiB of 100 MiB of disk, and of 1,000 MiB of TCP; 2 ms to 1 ms of fdatasync.
    assert_eq!(row[2..], ["1,000", "1.0", "1.0 %", "0.1 %", "2.00 / 4.00 / 6.00", "2.0×", "–"]);
    assert_eq!(line(&page, "two-sdk-max", 0)[8], "1.5 s");
}

#[test]
fn lag_is_told_above_one_way() {
    let page = run().render();
    let row = line(&page, "wan-sdk-5000", 0);
    assert_eq!(row[1], "SDK, 5,000 events/s");
    assert_eq!(row[5..], ["45.0 / 90.0 / 135", "5.00", "5.0×", "yes"]);
}

#[test]
fn a_late_row_is_marked_and_kept() {
    let mut late = run();
    late.outcomes[2].held = Some(0.5);
    assert_eq!(line(&late.render(), "wan-sdk-5000", 0)[8], "INVALID: sent at 50 % of the rate");
}

#[test]
fn costs_name_every_process_and_who_else_was_busy() {
    let mut noisy = run();
    noisy.outcomes[0].usage.others = 0.5;
    let page = noisy.render();
    let row = line(&page, "alone-sdk-max", 1);
    assert_eq!(
        row[1..],
        ["12,000", "us-1 1.5, eu-2 0.5", "166.7", "us-1 100, eu-2 90", "1.0", "0.50 NOISY", "0.00", "agrees"]
    );
    assert!(!line(&page, "two-sdk-max", 1)[6].contains("NOISY"));
    assert!(page.contains("other work to do during 1 of 3 rows") && !run().render().contains("other work"));
}

#[test]
fn every_row_has_its_command_and_each_world_its_own() {
    let page = run().render();
    let row = line(&page, "wan-sdk-5000", 2);
    assert_eq!(row[1], "`cargo run --locked --release -p meridian-benches -- --only wan-sdk-5000`");
    let world = line(&page, "wan", 0);
    assert_eq!(world[1], "`meridian dev --processes --regions us,eu --wan us-eu=80ms`");
    assert_eq!(world[2], "us → eu 80 ms");
    assert_eq!(line(&page, "two", 0)[2], "us → eu below 1 ms");
}

#[test]
fn figures_that_are_not_of_a_release_say_so_before_any_figure() {
    assert!(!run().render().contains("**"));
    let dev = Run { profile: Profile::Dev, servers: Some(Profile::Dev), ..run() }.render();
    assert!(dev.find("**Dev profile").unwrap() < dev.find('|').unwrap());
    assert!(dev.contains("`cargo run --locked -p meridian-benches`"));
    let foreign = Run { servers: None, ..run() }.render();
    assert!(foreign.contains("does not know its profile"));
}

#[test]
fn every_line_of_a_table_has_as_many_cells_as_its_head() {
    let page = run().render();
    let mut columns = None;
    for line in page.lines() {
        if !line.starts_with('|') {
            columns = None;
            continue;
        }
        let cells = line.matches('|').count();
        assert_eq!(*columns.get_or_insert(cells), cells, "{line}");
    }
    assert!(page.ends_with("|\n"));
}
