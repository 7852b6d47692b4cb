//! Each law finds its breach, and nothing where there is none.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_sdk::verify::Report;

use super::*;
use crate::record::{Finals, Row};

fn row(offset: u64, number: u64) -> Row {
    Row { offset, id: format!("us/0/{number}"), key: "k".to_owned(), hlc: 100 + offset }
}

fn evidence(change: impl FnOnce(&mut Vec<Entry>, &mut Vec<Row>)) -> Verdict {
    sound(change).judge()
}

fn sound(change: impl FnOnce(&mut Vec<Entry>, &mut Vec<Row>)) -> Evidence {
    let mut entries = Vec::new();
    for number in 0..4 {
        let id = format!("us/0/{number}");
        let at = number * 1000;
        entries.push(Entry { at, what: What::Call { id: id.clone(), key: "k".to_owned() } });
        let lane = "0@r1.1".to_owned();
        let ack = What::Ack { id: id.clone(), lane: lane.clone(), offset: number, hlc: 0, duplicate: false };
        entries.push(Entry { at: at + 10, what: ack });
        entries.push(Entry {
            at: at + 20,
            what: What::Seen { consumer: "eu".to_owned(), lane, offset: number, id },
        });
    }
    let mut rows: Vec<Row> = (0..4).map(|number| row(number, number)).collect();
    let good = rows.clone();
    change(&mut entries, &mut rows);
    let lanes = |rows: Vec<Row>| BTreeMap::from([("0@r1.1".to_owned(), rows)]);
    let regions = BTreeMap::from([("eu".to_owned(), lanes(rows)), ("us".to_owned(), lanes(good))]);
    let report =
        Report { agree: true, events: 4, stream: String::new(), regions: Vec::new(), lanes: Vec::new() };
    Evidence { entries, finals: Finals { regions, report }, errors_allowed: false, given_up: Vec::new() }
}

fn says(verdict: &Verdict, what: &str) {
    assert!(verdict.breaches.iter().any(|breach| breach.contains(what)), "{what}: {verdict:#?}");
}

#[test]
fn a_sound_run_breaks_nothing() {
    let verdict = evidence(|_, _| {});
    assert_eq!((verdict.acknowledged, verdict.breaches.len(), verdict.silence_ms), (4, 0, 0), "{verdict:#?}");
}

#[test]
fn a_lost_event_is_lost_in_the_region_that_lacks_it() {
    let verdict = evidence(|_, rows| drop(rows.pop()));
    assert_eq!(verdict.lost, 1);
    says(&verdict, "is not there in [\"eu\"]");
    says(&verdict, "and eu does not hold it there");
    says(&verdict, "eu (3)");
}

#[test]
fn a_twin_a_stranger_a_hole_and_a_swap_are_found() {
    let twin = evidence(|_, rows| rows.push(row(4, 1)));
    assert_eq!(twin.doubled, 1);
    says(&twin, "order: us/0/1 at 4");
    says(&evidence(|_, rows| rows.push(row(4, 9))), "never published");
    says(&evidence(|_, rows| rows.push(row(5, 9))), "goes on at 5 where 4");
    says(&evidence(|_, rows| rows[2].hlc = 7), "time: ");
}

#[test]
fn an_error_and_a_gap_are_heard_and_silence_is_measured() {
    let verdict = evidence(|entries, _| {
        let id = "us/0/4".to_owned();
        entries.push(Entry { at: 4000, what: What::Call { id: id.clone(), key: String::new() } });
        entries.push(Entry { at: 904_000, what: What::Error { id, error: "no".to_owned() } });
        let missing = What::Missing { consumer: "eu".to_owned(), reason: "gap".to_owned() };
        entries.push(Entry { at: 905_000, what: missing });
        entries.push(Entry { at: 905_000, what: What::Fault { what: String::new(), counts: true } });
    });
    says(&verdict, "error: us/0/4");
    says(&verdict, "consumer eu: gap");
    assert_eq!((verdict.silence_ms, verdict.injected), (900, 1));
}

#[test]
fn a_lane_without_an_answer_is_measured_while_other_lanes_go_on() {
    let call = |at, id: &str| Entry { at, what: What::Call { id: id.to_owned(), key: String::new() } };
    let ack = |at, id: &str, lane: &str| {
        let (id, lane) = (id.to_owned(), lane.to_owned());
        Entry { at, what: What::Ack { id, lane, offset: 0, hlc: 0, duplicate: false } }
    };
    let entries = [
        call(100, "us/0/0"),
        call(110, "us/0/1"),
        call(120, "us/1-7/0"),
        ack(200, "us/0/0", "a"),
        call(210, "us/0/2"),
        ack(300, "us/0/2", "a"),
        ack(700, "us/0/1", "b"),
        ack(9000, "us/1-7/0", "a"),
    ];
    assert_eq!(longest_silence(&entries).as_micros(), 590, "us/1-7 is none of the SDK's");
}

#[test]
fn a_lane_that_stands_still_is_measured_while_others_go_on() {
    let ack = |at, lane: &str| {
        let id = format!("us/0/{at}");
        Entry { at, what: What::Ack { id, lane: lane.to_owned(), offset: 0, hlc: 0, duplicate: false } }
    };
    let entries = [ack(100, "a"), ack(110, "b"), ack(200, "a"), ack(300, "a"), ack(910, "b"), ack(920, "a")];
    let stall = |since, now| {
        longest_stall(&entries, "us/0", Duration::from_micros(since), Duration::from_micros(now)).as_micros()
    };
    assert_eq!((stall(150, 950), stall(915, 950), stall(915, 3000)), (800, 620, 2090));
}

#[test]
fn an_end_that_is_told_too_early_is_stale() {
    let told = |asked_at: usize, node: &str, region, end| {
        evidence(|entries, _| {
            let ends = BTreeMap::from([("0@r1.1".to_owned(), end)]);
            entries.push(Entry { at: 4000, what: What::Told { node: node.to_owned(), region, ends } });
            let (at, node) = (entries[asked_at].at, "us-1".to_owned());
            entries.insert(asked_at, Entry { at, what: What::Asked { node } });
        })
    };
    // Entries are calls, acknowledgements and what a consumer is given, in turns: 4 is the second acknowledgement.
    let stale = told(5, "us-1", 1, 1);
    says(&stale, "us-1 said at 0.004 s that 0@r1.1 ends at 1, and 1 was acknowledged");
    for sound in [told(5, "us-1", 1, 2), told(4, "us-1", 1, 1), told(5, "us-1", 2, 0), told(5, "us-2", 1, 0)]
    {
        assert_eq!((&sound.breaches[..], sound.reads), (&[][..], 1));
    }
}

/// The last event is gone everywhere; it and the one before were in no region but the one that lost its disks.
fn restored(held: usize, change: impl FnOnce(&mut Evidence)) -> Verdict {
    let mut evidence = sound(|_, _| ());
    for lanes in evidence.finals.regions.values_mut() {
        lanes.values_mut().for_each(|rows| rows.truncate(3));
    }
    for entry in &mut evidence.entries {
        if let What::Seen { consumer, .. } = &mut entry.what {
            "us".clone_into(consumer);
        }
    }
    let held = BTreeMap::from([("0@r1.1".to_owned(), (0..held as u64).map(|n| row(n, n)).collect())]);
    let (origin, region) = ("r1.1".to_owned(), "us".to_owned());
    evidence.given_up.push(GivenUp { origin, region, held, at: 4000 });
    change(&mut evidence);
    evidence.judge()
}

#[test]
fn what_nobody_who_was_left_held_is_given_up_and_nothing_else() {
    let gone = restored(2, |_| ());
    assert_eq!((gone.lost, gone.given_up, &gone.breaches[..]), (0, 1, &[][..]));
    let held = restored(4, |_| ());
    assert_eq!((held.lost, held.given_up), (1, 0));
    says(&held, "does not hold what was left of 0@r1.1");
    let elsewhere = restored(2, |evidence| "r1.2".clone_into(&mut evidence.given_up[0].origin));
    assert_eq!(elsewhere.lost, 1, "another incarnation's");
    let other = restored(2, |evidence| {
        for lanes in evidence.finals.regions.values_mut() {
            lanes.values_mut().for_each(|rows| rows.push(row(3, 9)));
        }
    });
    assert_eq!(other.lost, 1, "something else stands in its place");
    says(&restored(2, |evidence| "eu".clone_into(&mut evidence.given_up[0].region)), "consumer us was given");
}

#[test]
fn an_incarnation_that_is_over_acknowledges_nothing_more() {
    let acked = |duplicate| {
        restored(2, |evidence| {
            let (id, lane) = ("us/0/1".to_owned(), "0@r1.1".to_owned());
            evidence
                .entries
                .push(Entry { at: 5000, what: What::Ack { id, lane, offset: 1, hlc: 0, duplicate } });
        })
    };
    says(&acked(false), "after that was over");
    assert_eq!(acked(true).breaches, [""; 0], "a retry is told where it is");
}
