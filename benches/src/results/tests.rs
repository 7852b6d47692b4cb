//! The page of made-up records.

use super::*;
use crate::plan::{Case, Figure, Place, Publish, Shape, Sync, System, Work};

fn row() -> Row {
    let case = |name: &str, system| {
        let work = Work::Publish(Publish::max(Shape::Single, Some(1)));
        Case { name: name.to_owned(), system, place: Place::Alone, work }
    };
    let figure = |measure, bound| Figure { measure, ours: "meridian", theirs: Some("jetstream-lazy"), bound };
    Row {
        name: "made-up",
        title: "A row",
        cases: vec![
            case("meridian", System::Meridian),
            case("jetstream-lazy", System::JetStream(Sync::Lazy)),
        ],
        figures: vec![
            figure(Measure::Rate, Bound::AtLeast(2.0)),
            figure(Measure::Cpu, Bound::AtMost(0.25)),
            figure(Measure::LagP99, Bound::AtMost(1.0)),
        ],
        quick: true,
    }
}

fn record(case: &str, turn: usize, result: Result<Outcome, String>) -> Record {
    let (commit, when, row) = ("c".to_owned(), "now".to_owned(), "made-up".to_owned());
    Record { commit, when, row, case: case.to_owned(), turn, counted: 10.0, result }
}

fn outcome(rate: f64, cpu: f64) -> Outcome {
    let mut outcome = Outcome { rate, bytes: rate * 1024.0, events: 1_000_000, ..Outcome::default() };
    outcome.usage.nodes = vec![("us-1".to_owned(), cpu)];
    outcome.usage.peak_rss = vec![100 << 20];
    outcome
}

fn page(records: &[Record], built: Profile) -> String {
    let machine = Machine::ask(std::path::Path::new("."));
    let disk = || SyncRate { bytes: 4096, took: crate::latency::Quantiles::default(), rate: 1e6 };
    let limits = || Limits { disk: [disk(), disk(), disk()], tcp: 1e9, copy: 1e9, crc: 1e9 };
    let (rows, limits) = ([row()], [limits(), limits()]);
    let (spans, servers) = (Spans::FULL, Some(built));
    let machine = &machine;
    Page { rows: &rows, spans, machine, built, servers, limits: &limits, records, seconds: 7.0 }.render()
}

#[test]
fn a_figure_is_reached_or_missed_or_none_and_no_row_is_left_out() {
    let records = [
        record("meridian", 1, Ok(outcome(3000.0, 2.0))),
        record("jetstream-lazy", 1, Ok(outcome(1000.0, 4.0))),
    ];
    let page = page(&records, Profile::Release);
    let line = |what: &str| page.lines().find(|line| line.contains(what)).unwrap().to_owned();
    assert_eq!(
        line("| events/s |"),
        "| made-up | events/s | 3,000 | jetstream-lazy | 1,000 | 3.00 | 3.00 to 3.00 | at least 2× | reached |"
    );
    assert!(line("µs an event | 2.00").ends_with("| 0.50 | 0.50 to 0.50 | at most 0.25× | MISSED |"));
    assert!(line("lag p99").ends_with("| NO FIGURE |"));
    assert!(page.contains("| meridian | 1 | 3,000 | 2.93 |"));
    assert!(!page.contains("Dev profile"));
    assert!(
        line("all of these").ends_with("| 100 | jetstream-lazy | 100 | 1.00 | – | at most 0.5× | MISSED |")
    );
}

#[test]
fn what_failed_and_what_is_no_figure_is_said() {
    let late = Outcome { invalid: Some("sent at 50 % of the rate".to_owned()), ..outcome(500.0, 1.0) };
    let records = [
        record("meridian", 1, Ok(late)),
        record("jetstream-lazy", 1, Err("it ended\nwith many words".to_owned())),
    ];
    let page = page(&records, Profile::Dev);
    assert!(page.contains("- meridian turn 1: no figure: sent at 50 % of the rate\n"));
    assert!(page.contains("- jetstream-lazy turn 1: failed: it ended\n") && !page.contains("many words"));
    assert!(page.contains("| meridian | 0 | – |") && page.contains("**Dev profile"));
}
