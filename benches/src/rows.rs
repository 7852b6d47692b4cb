//! Every row of the benchmark, and the figures that it is to reach.

use crate::plan::Bound::{AtLeast, AtMost};
use crate::plan::Measure::{
    AboveOneWay, AckP50, AckP99, Bytes, Cpu, LagP50, LagP99, Memory, Rate, RatePerCpu, Read, Seconds,
};
use crate::plan::System::{JetStream, Kafka, Meridian};
use crate::plan::{
    Before, Bound, Case, Figure, Flush, Line, Measure, Place, Publish, Row, Shape, Sync, System, Tuned,
    VALUE_BYTES, WINDOW, Work,
};
use crate::text::count;

const LAZY: System = JetStream(Sync::Lazy);
const ALWAYS: System = JetStream(Sync::Always);
const KAFKA_FAST: System = Kafka(Flush::Default, Tuned::Throughput);
const KAFKA_SOON: System = Kafka(Flush::Default, Tuned::Latency);
const KAFKA_FAST_FLUSH: System = Kafka(Flush::EachMessage, Tuned::Throughput);
const KAFKA_SOON_FLUSH: System = Kafka(Flush::EachMessage, Tuned::Latency);

const GIB: u64 = 1 << 30;
const BACKLOG: u64 = 1_000_000;
const MEGABYTE: usize = 1_000_000;

/// All rows, in the order in which they are measured.
pub fn all() -> Vec<Row> {
    let mut rows = mirrored();
    rows.extend(alone());
    rows.extend(lag());
    rows.extend(catch_up());
    rows.extend(sizes());
    rows.extend(wan());
    rows.push(wan_lag());
    rows.extend(growth());
    rows.push(recovery());
    rows
}

fn case(name: &str, system: System, place: Place, work: Work) -> Case {
    Case { name: name.to_owned(), system, place, work }
}

/// Each system at the same work, by its own name.
fn each(systems: &[System], place: Place, work: Work) -> Vec<Case> {
    systems.iter().map(|system| case(system.name(), *system, place, work)).collect()
}

const fn figure(measure: Measure, ours: &'static str, theirs: &'static str, bound: Bound) -> Figure {
    Figure { measure, ours, theirs: Some(theirs), bound }
}

const fn against(measure: Measure, theirs: &'static str, bound: Bound) -> Figure {
    figure(measure, "meridian", theirs, bound)
}

fn mirrored() -> Vec<Row> {
    let batched = Work::Publish(Publish::max(Shape::Batched, None));
    let single = Work::Publish(Publish::max(Shape::Single, Some(WINDOW)));
    let packed = Work::Publish(Publish::max(Shape::Batches(64 << 10), None));
    let mut batches = each(&[Meridian], Place::Two, batched);
    // JetStream's clients send each message by itself; its batched ingest is a choice of its own.
    batches.extend(each(&[LAZY], Place::Two, single));
    let ingest = Work::Publish(Publish::max(Shape::Batched, Some(WINDOW)));
    batches.push(case("jetstream-lazy-batched", LAZY, Place::Two, ingest));
    batches.extend(each(&[KAFKA_FAST], Place::Two, batched));
    let kafkas = [Meridian, KAFKA_FAST, KAFKA_SOON, KAFKA_FAST_FLUSH, KAFKA_SOON_FLUSH];
    vec![
        Row {
            name: "mirror-batched",
            title: "Publish 1 KiB events, batched by each client at its defaults, with a live mirror",
            cases: batches,
            figures: vec![
                against(Rate, "jetstream-lazy", AtLeast(6.0)),
                against(Rate, "jetstream-lazy-batched", AtLeast(6.0)),
                against(Cpu, "jetstream-lazy", AtMost(0.25)),
                against(Rate, "kafka-throughput", AtLeast(5.0)),
                against(RatePerCpu, "kafka-throughput", AtLeast(5.0)),
                against(Memory, "jetstream-lazy", AtMost(0.5)),
            ],
            quick: true,
        },
        Row {
            name: "mirror-64k",
            title: "Publish 1 KiB events, about 64 KiB a batch (Kafka: its client's batch.size), with a live mirror",
            cases: vec![
                case("meridian", Meridian, Place::Two, packed),
                case("jetstream-lazy-batched", LAZY, Place::Two, ingest),
                case("kafka-64k", KAFKA_FAST, Place::Two, packed),
            ],
            figures: vec![],
            quick: false,
        },
        Row {
            name: "mirror-kafka",
            title: "The same with Kafka in each of its settings",
            cases: each(&kafkas, Place::Two, batched),
            figures: vec![
                against(Rate, "kafka-throughput", AtLeast(5.0)),
                against(Rate, "kafka-latency", AtLeast(5.0)),
                against(RatePerCpu, "kafka-throughput", AtLeast(5.0)),
                against(RatePerCpu, "kafka-latency", AtLeast(5.0)),
            ],
            quick: false,
        },
        Row {
            name: "mirror-single",
            title: "Publish 1 KiB events, one a message, 1,024 under way, with a live mirror",
            cases: each(&[Meridian, LAZY, ALWAYS], Place::Two, single),
            figures: vec![
                against(Rate, "jetstream-lazy", AtLeast(2.0)),
                against(Rate, "jetstream-always", AtLeast(60.0)),
                against(Memory, "jetstream-lazy", AtMost(0.5)),
            ],
            quick: true,
        },
    ]
}

fn alone() -> Vec<Row> {
    let single = |window| Work::Publish(Publish::max(Shape::Single, Some(window)));
    let megabytes = Publish::max(Shape::Batches(MEGABYTE), None);
    vec![
        Row {
            name: "alone-single",
            title: "Publish 1 KiB events, one a message, 1,024 under way, no mirror",
            cases: each(&[Meridian, LAZY, ALWAYS], Place::Alone, single(WINDOW)),
            figures: vec![
                against(Rate, "jetstream-always", AtLeast(60.0)),
                against(Rate, "jetstream-lazy", AtLeast(1.5)),
            ],
            quick: false,
        },
        Row {
            name: "alone-megabyte",
            title: "Publish 1 KiB events, about 1 MB a batch, no mirror",
            cases: vec![
                case("meridian", Meridian, Place::Alone, Work::Publish(megabytes)),
                case("disk", Meridian, Place::Alone, Work::Append(1 << 20)),
            ],
            figures: vec![against(Bytes, "disk", AtLeast(0.6))],
            quick: false,
        },
        Row {
            name: "alone-sync",
            title: "Publish 1 KiB events one after the other, each acknowledged before the next",
            cases: each(&[Meridian, ALWAYS, LAZY], Place::Alone, single(1)),
            figures: vec![against(AckP50, "jetstream-always", AtMost(0.8))],
            quick: true,
        },
        Row {
            name: "alone-call",
            title: "Publish 1 KiB events by the unary call, 64 under way, no mirror",
            cases: each(&[Meridian], Place::Alone, Work::Publish(Publish::max(Shape::Call, Some(64)))),
            figures: vec![],
            quick: false,
        },
        Row {
            name: "three-nodes",
            title: "A region of three nodes beside one: SDK batches, no mirror",
            cases: vec![
                case("three nodes", Meridian, Place::Trio, Work::Publish(Publish::max(Shape::Batched, None))),
                case("one node", Meridian, Place::Alone, Work::Publish(Publish::max(Shape::Batched, None))),
            ],
            figures: vec![figure(Rate, "three nodes", "one node", AtLeast(0.0))],
            quick: false,
        },
    ]
}

/// Kafka does not hold such a rate with one event a request: its client batches what waits, without lingering.
fn kafka_paced(place: Place, rate: u64) -> Case {
    let load = Publish { shape: Shape::Batched, ..Publish::paced(rate) };
    case(KAFKA_SOON.name(), KAFKA_SOON, place, Work::Publish(load))
}

fn lag() -> Vec<Row> {
    let row = |name, title, rate, quick, figures| {
        let mut cases = each(&[Meridian, LAZY], Place::Two, Work::Publish(Publish::paced(rate)));
        cases.push(kafka_paced(Place::Two, rate));
        Row { name, title, cases, figures, quick }
    };
    let fast = || {
        vec![against(LagP99, "jetstream-lazy", AtMost(0.5)), against(Memory, "jetstream-lazy", AtMost(0.5))]
    };
    vec![
        row(
            "lag-1000",
            "1,000 events a second, one a message, read in the other region",
            1_000,
            false,
            vec![],
        ),
        row(
            "lag-5000",
            "5,000 events a second, one a message, read in the other region",
            5_000,
            true,
            vec![
                against(AckP50, "jetstream-lazy", AtMost(1.7)),
                against(AckP99, "jetstream-lazy", AtMost(1.0)),
                against(LagP50, "jetstream-lazy", AtMost(1.5)),
                against(LagP99, "jetstream-lazy", AtMost(0.8)),
                against(LagP50, "kafka-latency", AtMost(0.1)),
                against(Memory, "jetstream-lazy", AtMost(0.5)),
            ],
        ),
        row(
            "lag-20000",
            "20,000 events a second, one a message, read in the other region",
            20_000,
            false,
            fast(),
        ),
        row(
            "lag-50000",
            "50,000 events a second, one a message, read in the other region",
            50_000,
            false,
            fast(),
        ),
    ]
}

fn catch_up() -> Vec<Row> {
    let mut catching_up = each(&[Meridian, LAZY, KAFKA_FAST], Place::Two, Work::CatchUp(BACKLOG));
    let bytes = BACKLOG * VALUE_BYTES as u64;
    catching_up.push(case("copying a file", Meridian, Place::Alone, Work::CopyFile(bytes)));
    vec![Row {
        name: "catch-up",
        title: "Mirror a backlog of 1,000,000 events of 1 KiB",
        cases: catching_up,
        // Each byte is read of the one disk and written to it: nobody is quicker than who does only that.
        figures: vec![
            against(Rate, "jetstream-lazy", AtLeast(4.0)),
            against(Rate, "copying a file", AtLeast(0.0)),
        ],
        quick: false,
    }]
}

fn sizes() -> Vec<Row> {
    let row = |name, title, size, window| Row {
        name,
        title,
        cases: each(
            &[Meridian, LAZY],
            Place::Two,
            Work::Publish(Publish { size, ..Publish::max(Shape::Single, Some(window)) }),
        ),
        figures: vec![],
        quick: false,
    };
    vec![
        row("size-100", "Publish events of 100 bytes, one a message, with a live mirror", 100, WINDOW),
        row("size-10k", "Publish events of 10 KiB, one a message, with a live mirror", 10 << 10, WINDOW),
        row("size-64k", "Publish events of 64 KiB, one a message, with a live mirror", 64 << 10, 256),
        // Key and headers count for the largest event, 1 MiB; and so does what JetStream takes by default.
        row(
            "size-1m",
            "Publish events of almost 1 MiB, one a message, with a live mirror",
            (1 << 20) - 4096,
            16,
        ),
    ]
}

fn wan() -> Vec<Row> {
    let line = |round_trip_ms, lost_of_million| Place::Wan(Line { round_trip_ms, lost_of_million });
    let paced = |line| {
        let mut cases = each(&[Meridian, LAZY], line, Work::Publish(Publish::paced(5_000)));
        cases.push(kafka_paced(line, 5_000));
        cases
    };
    let max = Work::Publish(Publish { readers: 1, ..Publish::max(Shape::Batched, None) });
    vec![
        Row {
            name: "wan-80-lag",
            title: "5,000 events a second, one a message, read over 80 ms of round trip",
            cases: paced(line(80, 0)),
            figures: vec![Figure {
                measure: AboveOneWay,
                ours: "meridian",
                theirs: None,
                bound: AtMost(1.5),
            }],
            quick: false,
        },
        Row {
            name: "wan-throughput",
            title: "SDK batches as fast as they go, mirrored through the WAN relay",
            cases: vec![
                case("no delay", Meridian, line(0, 0), max),
                case("80 ms", Meridian, line(80, 0), max),
                case("150 ms, 0.1 % lost", Meridian, line(150, 1_000), max),
            ],
            figures: vec![
                figure(Rate, "80 ms", "no delay", AtLeast(0.9)),
                figure(Rate, "150 ms, 0.1 % lost", "no delay", AtLeast(0.7)),
            ],
            quick: false,
        },
        Row {
            name: "wan-150-lag",
            title: "5,000 events a second, one a message, read over 150 ms of round trip with 0.1 % loss",
            cases: paced(line(150, 1_000)),
            figures: vec![],
            quick: false,
        },
    ]
}

/// Rates, lines and losses that [`wan`] has no row of its own for.
fn wan_lag() -> Row {
    let mut cases = Vec::new();
    for (round_trip_ms, lost_of_million) in [(80, 0), (80, 1_000), (150, 0), (150, 1_000)] {
        for rate in [1_000, 5_000, 20_000, 50_000] {
            if rate == 5_000 && matches!((round_trip_ms, lost_of_million), (80, 0) | (150, 1_000)) {
                continue;
            }
            let lost = if lost_of_million > 0 { ", 0.1 % lost" } else { "" };
            let line = Place::Wan(Line { round_trip_ms, lost_of_million });
            for system in [Meridian, LAZY] {
                let name = format!("{}, {round_trip_ms} ms{lost}, {}/s", system.name(), count(rate));
                cases.push(case(&name, system, line, Work::Publish(Publish::paced(rate))));
            }
        }
    }
    Row {
        name: "wan-lag",
        title: "Events at other rates, one a message, read over other lines",
        cases,
        figures: vec![],
        quick: false,
    }
}

fn growth() -> Vec<Row> {
    let paced = |readers, before| Work::Publish(Publish { readers, before, ..Publish::paced(5_000) });
    let alone = |name, readers, before| case(name, Meridian, Place::Alone, paced(readers, before));
    vec![
        Row {
            name: "growth-streams",
            title: "5,000 events a second beside many streams, almost all idle",
            cases: vec![
                alone("10 streams", 0, Before::Streams(9)),
                alone("100,000 streams", 0, Before::Streams(99_999)),
            ],
            figures: vec![figure(AckP99, "100,000 streams", "10 streams", AtMost(1.2))],
            quick: false,
        },
        Row {
            name: "growth-consumers",
            title: "5,000 events a second, read by many consumers",
            cases: vec![
                alone("1 consumer", 1, Before::Nothing),
                alone("10 consumers", 10, Before::Nothing),
                alone("100 consumers", 100, Before::Nothing),
            ],
            figures: vec![figure(AckP99, "100 consumers", "1 consumer", AtMost(1.2))],
            quick: false,
        },
        Row {
            name: "growth-volume",
            title: "5,000 events a second onto a large volume",
            cases: vec![
                alone("an empty volume", 0, Before::Nothing),
                alone("20 GB", 0, Before::Bytes(20_000_000_000)),
            ],
            figures: vec![figure(AckP99, "20 GB", "an empty volume", AtMost(1.2))],
            quick: false,
        },
    ]
}

fn recovery() -> Row {
    Row {
        name: "recovery",
        title: "Ready again after SIGKILL, with a volume of 10 GiB",
        cases: vec![
            case("meridian", Meridian, Place::Alone, Work::Recover(10 * GIB)),
            case("reading it once", Meridian, Place::Alone, Work::ReadFile(10 * GIB)),
        ],
        figures: vec![
            figure(Seconds, "meridian", "reading it once", AtMost(1.5)),
            // The index is intact: only what it had not on disk is read again.
            figure(Read, "meridian", "reading it once", AtMost(0.25)),
        ],
        quick: false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn rows_and_their_cases_have_names_of_their_own_and_figures_are_of_their_cases() {
        let rows = all();
        let names: BTreeSet<_> = rows.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), rows.len());
        for row in &rows {
            let cases: BTreeSet<_> = row.cases.iter().map(|case| case.name.as_str()).collect();
            assert_eq!(cases.len(), row.cases.len(), "{}", row.name);
            for figure in &row.figures {
                assert!(cases.contains(figure.ours), "{}: {}", row.name, figure.ours);
                assert!(figure.theirs.is_none_or(|theirs| cases.contains(theirs)), "{}", row.name);
            }
        }
    }
}
