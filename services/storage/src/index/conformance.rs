//! What every [`KeyValue`] has to do, run by both twins, and a comparison of one with the other.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{Batch, Direction, Family, KeyRange, KeyValue, Pair};

/// A floor that can lose power.
pub(super) trait Subject: Sized {
    /// The floor.
    fn kv(&self) -> &dyn KeyValue;
    /// Loses what was not flushed and comes back.
    #[must_use]
    fn crash(self) -> Self;
}

/// All laws, each on a new subject.
pub(super) fn suite<S: Subject>(new: impl Fn() -> S) {
    starts_empty(new());
    the_later_change_holds(new());
    families_are_apart(new());
    scans_go_both_ways_within_their_range(new());
    a_crash_goes_back_to_the_flush_over_all_families(new());
    a_deletion_is_flushed_and_lost_like_a_put(new());
    a_flush_without_changes_is_well(new());
}

fn put(kv: &dyn KeyValue, family: Family, key: &[u8], value: &[u8]) {
    let mut batch = Batch::default();
    batch.put(family, key, value);
    kv.write(batch).expect("a write");
}

fn delete(kv: &dyn KeyValue, family: Family, key: &[u8]) {
    let mut batch = Batch::default();
    batch.delete(family, key);
    kv.write(batch).expect("a write");
}

fn get(kv: &dyn KeyValue, family: Family, key: &[u8]) -> Option<Vec<u8>> {
    kv.get(family, key).expect("a read")
}

fn all(kv: &dyn KeyValue, family: Family) -> Vec<Pair> {
    kv.scan(family, &KeyRange::all(), Direction::Forward, usize::MAX).expect("a scan")
}

fn starts_empty(subject: impl Subject) {
    for &family in Family::ALL {
        assert_eq!(all(subject.kv(), family), []);
        assert_eq!(get(subject.kv(), family, b"key"), None);
    }
}

fn the_later_change_holds(subject: impl Subject) {
    let kv = subject.kv();
    let mut batch = Batch::default();
    batch.put(Family::Lanes, *b"a", *b"1");
    batch.put(Family::Lanes, *b"a", *b"2");
    batch.put(Family::Lanes, *b"b", *b"1");
    batch.delete(Family::Lanes, *b"b");
    batch.delete(Family::Lanes, *b"c");
    batch.put(Family::Lanes, *b"c", *b"");
    kv.write(batch).expect("a write");
    let rows = [(b"a".to_vec(), b"2".to_vec()), (b"c".to_vec(), Vec::new())];
    assert_eq!(all(kv, Family::Lanes), rows);
    assert_eq!(get(kv, Family::Lanes, b"c"), Some(Vec::new()), "an empty value is a value");
}

fn families_are_apart(subject: impl Subject) {
    let kv = subject.kv();
    for (number, &family) in (0u8..).zip(Family::ALL) {
        put(kv, family, b"key", &[number]);
    }
    for (number, &family) in (0u8..).zip(Family::ALL) {
        assert_eq!(all(kv, family), [(b"key".to_vec(), vec![number])]);
    }
}

fn scans_go_both_ways_within_their_range(subject: impl Subject) {
    let kv = subject.kv();
    let keys: [&[u8]; 7] = [b"a", b"b", b"b\0", b"ba", b"b\xff", b"c", b"\xff\xff"];
    // Half of them flushed, half of them not: a scan has to merge them.
    for key in keys.iter().step_by(2) {
        put(kv, Family::Offsets, key, key);
    }
    kv.flush().expect("a flush");
    for key in keys.iter().skip(1).step_by(2) {
        put(kv, Family::Offsets, key, key);
    }
    let scan = |range: &KeyRange, direction, limit| -> Vec<Vec<u8>> {
        let pairs = kv.scan(Family::Offsets, range, direction, limit).expect("a scan");
        pairs.into_iter().map(|(key, _)| key).collect()
    };
    let b = KeyRange::prefix(b"b");
    assert_eq!(scan(&b, Direction::Forward, 9), [&b"b"[..], b"b\0", b"ba", b"b\xff"]);
    assert_eq!(scan(&b, Direction::Reverse, 9), [&b"b\xff"[..], b"ba", b"b\0", b"b"]);
    assert_eq!(scan(&b, Direction::Forward, 2), [&b"b"[..], b"b\0"]);
    assert_eq!(scan(&b, Direction::Reverse, 1), [b"b\xff"]);
    assert!(scan(&b, Direction::Reverse, 0).is_empty());
    assert_eq!(scan(&KeyRange::prefix_from(b"b", b"ba"), Direction::Forward, 9), [&b"ba"[..], b"b\xff"]);
    assert_eq!(scan(&KeyRange::prefix_through(b"b", b"b"), Direction::Reverse, 9), [b"b"]);
    assert_eq!(scan(&KeyRange::prefix_through(b"b", b"bz"), Direction::Reverse, 1), [b"ba"]);
    assert_eq!(scan(&KeyRange::prefix(b"\xff"), Direction::Reverse, 9), [b"\xff\xff"]);
    assert!(scan(&KeyRange::prefix(b"d"), Direction::Reverse, 9).is_empty());
    assert!(
        scan(&KeyRange::prefix_from(b"b", b"x"), Direction::Forward, 9).is_empty(),
        "it ends before it begins"
    );
    assert_eq!(scan(&KeyRange::all(), Direction::Forward, usize::MAX), keys);
}

fn a_crash_goes_back_to_the_flush_over_all_families(subject: impl Subject) {
    let subject = subject.crash();
    let write = |kv: &dyn KeyValue, value: &[u8]| {
        let mut batch = Batch::default();
        for &family in Family::ALL {
            batch.put(family, *b"key", value);
        }
        kv.write(batch).expect("a write");
    };
    write(subject.kv(), b"flushed");
    subject.kv().flush().expect("a flush");
    write(subject.kv(), b"lost");
    put(subject.kv(), Family::Marks, b"lost", b"too");
    let subject = subject.crash();
    for &family in Family::ALL {
        assert_eq!(all(subject.kv(), family), [(b"key".to_vec(), b"flushed".to_vec())]);
    }
    write(subject.kv(), b"after");
    subject.kv().flush().expect("a flush");
    let subject = subject.crash().crash();
    for &family in Family::ALL {
        assert_eq!(get(subject.kv(), family, b"key"), Some(b"after".to_vec()));
    }
}

fn a_deletion_is_flushed_and_lost_like_a_put(subject: impl Subject) {
    put(subject.kv(), Family::Usage, b"a", b"1");
    put(subject.kv(), Family::Usage, b"b", b"1");
    subject.kv().flush().expect("a flush");
    delete(subject.kv(), Family::Usage, b"a");
    subject.kv().flush().expect("a flush");
    delete(subject.kv(), Family::Usage, b"b");
    assert_eq!(all(subject.kv(), Family::Usage), []);
    let subject = subject.crash();
    assert_eq!(all(subject.kv(), Family::Usage), [(b"b".to_vec(), b"1".to_vec())]);
}

fn a_flush_without_changes_is_well(subject: impl Subject) {
    subject.kv().flush().expect("a flush");
    put(subject.kv(), Family::Cursors, b"a", b"1");
    subject.kv().flush().expect("a flush");
    subject.kv().flush().expect("a flush");
    let subject = subject.crash();
    assert_eq!(get(subject.kv(), Family::Cursors, b"a"), Some(b"1".to_vec()));
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<(Family, Vec<u8>, Option<Vec<u8>>)>),
    Get(Family, Vec<u8>),
    Scan(Family, Vec<u8>, Option<Vec<u8>>, bool, usize),
    Flush,
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Few short keys, so that they meet, also as prefixes of each other.
    let family = || prop::sample::select(&Family::ALL[..4]);
    let key = || prop::collection::vec(prop::sample::select(&[0u8, 1, 0x7f, 0xff][..]), 0..3);
    let value = || prop::option::weighted(0.7, prop::collection::vec(any::<u8>(), 0..40));
    let change = (family(), key().prop_filter("RocksDB's keys", |key| !key.is_empty()), value());
    let step = prop_oneof![
        8 => prop::collection::vec(change, 0..6).prop_map(Step::Write),
        4 => (family(), key()).prop_map(|(family, key)| Step::Get(family, key)),
        6 => (family(), key(), prop::option::of(key()), any::<bool>(), 0usize..5)
            .prop_map(|(family, from, to, forward, limit)| Step::Scan(family, from, to, forward, limit)),
        2 => Just(Step::Flush),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..60)
}

/// Random steps, done by both: every answer is the same, and so is what is left.
pub(super) fn compare<A: Subject, B: Subject>(a: impl Fn() -> A, b: impl Fn() -> B) {
    let mut runner = TestRunner::new(Config { cases: 48, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&steps(), |steps| {
        let (mut a, mut b) = (a(), b());
        for step in steps {
            match step {
                Step::Write(changes) => {
                    let mut batch = Batch::default();
                    for (family, key, value) in changes {
                        match value {
                            Some(value) => batch.put(family, key, value),
                            None => batch.delete(family, key),
                        }
                    }
                    prop_assert_eq!(a.kv().write(batch.clone()), b.kv().write(batch));
                }
                Step::Get(family, key) => prop_assert_eq!(a.kv().get(family, &key), b.kv().get(family, &key)),
                Step::Scan(family, from, to, forward, limit) => {
                    let range = KeyRange { from, to };
                    let direction = if forward { Direction::Forward } else { Direction::Reverse };
                    let one = a.kv().scan(family, &range, direction, limit);
                    prop_assert_eq!(one, b.kv().scan(family, &range, direction, limit));
                }
                Step::Flush => prop_assert_eq!(a.kv().flush(), b.kv().flush()),
                Step::Crash => (a, b) = (a.crash(), b.crash()),
            }
        }
        let (a, b) = (a.crash(), b.crash());
        for &family in Family::ALL {
            prop_assert_eq!(all(a.kv(), family), all(b.kv(), family));
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}
