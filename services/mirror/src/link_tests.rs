//! The link's laws, each in a few steps.

use std::time::Duration;

use super::*;
use crate::tests_support::{chain_at, log, mark, shard};

const CONFIG: LinkConfig =
    LinkConfig { credit_bytes: 8_000, stall_ms: 10_000, retry_ms: 1_000, hosting_incarnation: 3 };
const EPOCH: LeaderEpoch = LeaderEpoch(2);

/// A link, and what it has said of credit.
struct Rig {
    link: LinkCore,
    now: u64,
    /// On the connection that stands: what it has given.
    given: u64,
}

impl Rig {
    fn new() -> Self {
        Self { link: LinkCore::new(CONFIG), now: 1_000_000, given: 0 }
    }

    /// Connected, with a copy of each log that holds its first frames.
    fn connected(copies: &[(&[Frame], u64)]) -> Self {
        let mut rig = Self::new();
        for (log, held) in copies {
            rig.copy(log, *held, *held);
        }
        rig.step(LinkInput::Connected);
        rig
    }

    fn step(&mut self, input: LinkInput) -> Vec<LinkEffect> {
        if matches!(input, LinkInput::Connected) {
            self.given = 0;
        }
        let mut out = Vec::new();
        self.link.step(input, Timestamp(self.now), &mut out);
        self.given +=
            out.iter().map(|e| if let LinkEffect::Credit(bytes) = e { *bytes } else { 0 }).sum::<u64>();
        out
    }

    /// The copy of a log shows that it holds so many frames, so many of them durable.
    fn copy(&mut self, log: &[Frame], appended: u64, durable: u64) -> Vec<LinkEffect> {
        self.step(LinkInput::Copy(log[0].header.shard_id(), state(log, appended, durable)))
    }

    fn frames(&mut self, frames: &[Frame]) -> Vec<LinkEffect> {
        self.step(LinkInput::Frames { shard: frames[0].header.shard_id(), frames: frames.to_vec() })
    }

    fn refused(&mut self, shard: ShardId, reason: RefusedReason) -> Vec<LinkEffect> {
        self.step(LinkInput::Refused { shard, reason, last: Seq(1), message: "told so".into() })
    }

    /// Time passes, with ticks and, from a peer that lives, pongs.
    fn pass(&mut self, millis: u64, peer_lives: bool) -> Vec<LinkEffect> {
        let mut out = Vec::new();
        let until = self.now + millis;
        while self.now < until {
            self.now += 100;
            let effects = self.step(LinkInput::Tick);
            for effect in &effects {
                if matches!(effect, LinkEffect::Ping) && peer_lives {
                    self.step(LinkInput::Pong(Duration::from_millis(1)));
                }
            }
            out.extend(effects);
        }
        out
    }

    fn status(&self) -> LinkStatus {
        self.link.status(Timestamp(self.now))
    }
}

fn state(log: &[Frame], appended: u64, durable: u64) -> CopyState {
    CopyState {
        appended: Seq(appended),
        chain: chain_at(log, appended),
        durable: Seq(durable),
        totals: mark(durable).totals,
        hlc: mark(durable).hlc,
        leads: Some(EPOCH),
        follows: false,
        is_past: false,
        fault: None,
    }
}

fn fetches(effects: &[LinkEffect]) -> Vec<(ShardId, u64, Chain)> {
    effects
        .iter()
        .filter_map(|e| match e {
            LinkEffect::Fetch { shard, from, chain_before } => Some((*shard, from.0, *chain_before)),
            _ => None,
        })
        .collect()
}

fn appended(effects: &[LinkEffect]) -> Vec<Frame> {
    effects
        .iter()
        .filter_map(|e| if let LinkEffect::Append(_, _, frames) = e { Some(frames.clone()) } else { None })
        .flatten()
        .collect()
}

fn durable(effects: &[LinkEffect]) -> Vec<(ShardId, DurableMark)> {
    effects
        .iter()
        .filter_map(|e| if let LinkEffect::Durable(shard, mark) = e { Some((*shard, *mark)) } else { None })
        .collect()
}

fn reconnects(effects: &[LinkEffect]) -> usize {
    effects.iter().filter(|e| matches!(e, LinkEffect::Reconnect)).count()
}

fn bytes(frames: &[Frame]) -> u64 {
    frames.iter().map(|frame| frame.encoded_len() as u64).sum()
}

#[test]
fn it_asks_from_where_each_copy_ends() {
    let (a, b) = (log(shard(0), 1, 9, 10), log(shard(1), 1, 9, 10));
    let mut rig = Rig::new();
    assert!(rig.copy(&a, 4, 2).is_empty(), "not connected");
    let out = rig.step(LinkInput::Connected);
    assert_eq!(fetches(&out), [(shard(0), 5, chain_at(&a, 4))], "after what is appended, durable or not");
    assert!(matches!(out[0], LinkEffect::Credit(8_000)));
    assert_eq!(fetches(&rig.copy(&b, 0, 0)), [(shard(1), 1, Chain::GENESIS)], "a copy that is opened later");
    assert!(fetches(&rig.copy(&b, 0, 0)).is_empty(), "once");
}

#[test]
fn a_copy_without_a_leader_is_asked_for_once_it_has_one() {
    let a = log(shard(0), 1, 9, 10);
    let mut rig = Rig::new();
    rig.step(LinkInput::Connected);
    rig.step(LinkInput::Copy(shard(0), CopyState { leads: None, ..state(&a, 3, 3) }));
    assert!(fetches(&rig.pass(2_000, true)).is_empty());
    assert_eq!(fetches(&rig.copy(&a, 3, 3)), [(shard(0), 4, chain_at(&a, 3))]);
}

#[test]
fn frames_are_handed_on_in_order_and_only_once() {
    let a = log(shard(0), 1, 9, 10);
    let mut rig = Rig::connected(&[(&a, 2)]);
    assert_eq!(appended(&rig.frames(&a[2..4])), a[2..4]);
    assert!(appended(&rig.frames(&a[2..4])).is_empty(), "twice");
    assert!(appended(&rig.frames(&a[6..7])).is_empty(), "with a hole");
    assert_eq!(appended(&rig.frames(&a[3..6])), a[4..6], "an earlier question has brought the first already");
    let holed = [a[6].clone(), a[8].clone()];
    assert!(appended(&rig.frames(&holed)).is_empty(), "with a hole inside");
    let strange = LinkInput::Frames { shard: shard(0), frames: log(shard(7), 1, 7, 10)[6..].to_vec() };
    assert!(appended(&rig.step(strange)).is_empty(), "another shard's");
    assert!(appended(&rig.frames(&log(shard(5), 1, 1, 10))).is_empty(), "of a shard that nobody asked for");
    // All of it is given back: what was not used at once, the rest as it becomes durable.
    rig.copy(&a, 6, 6);
    rig.pass(100, true);
    let unused = bytes(&a[2..4]) + bytes(&a[3..4]) + bytes(&a[6..7]) + bytes(&holed) + 2 * bytes(&a[..1]);
    assert_eq!(rig.given, 8_000 + bytes(&a[2..6]) + unused);
}

#[test]
fn a_source_that_is_behind_is_asked_again_later() {
    let a = log(shard(0), 1, 9, 10);
    for reason in [RefusedReason::Behind, RefusedReason::UnknownShard] {
        let mut rig = Rig::connected(&[(&a, 5)]);
        assert_eq!(rig.status().state, LinkState::Connecting, "what is missing is not known yet");
        rig.refused(shard(0), reason);
        assert!(fetches(&rig.pass(900, true)).is_empty());
        assert_eq!(fetches(&rig.pass(200, true)), [(shard(0), 6, chain_at(&a, 5))]);
        assert!(rig.status().faults.is_empty());
        assert_eq!(rig.status().state, LinkState::Connecting, "nor is it now");
        rig.step(LinkInput::Mark(shard(0), mark(5)));
        assert_eq!(rig.status().state, LinkState::Live);
    }
}

#[test]
fn two_histories_fault_their_shard_alone_and_for_good() {
    for (reason, name) in
        [(RefusedReason::ChainDiffers, "CHAIN_DIFFERS"), (RefusedReason::OriginShorter, "ORIGIN_SHORTER")]
    {
        let (a, b) = (log(shard(0), 1, 9, 10), log(shard(1), 1, 9, 10));
        let mut rig = Rig::connected(&[(&a, 5), (&b, 5)]);
        rig.refused(shard(0), reason);
        let status = rig.status();
        assert_eq!(status.state, LinkState::Faulted);
        assert_eq!((status.faults[0].shard, status.faults[0].reason), (shard(0), name));
        assert!(appended(&rig.frames(&a[5..7])).is_empty(), "nothing is appended");
        assert_eq!(appended(&rig.frames(&b[5..7])), b[5..7], "others go on");
        // Not by a copy that shows itself, nor by time, nor by a word that was on its way, nor by a new connection.
        assert!(fetches(&rig.copy(&a, 5, 5)).is_empty());
        rig.refused(shard(0), RefusedReason::Behind);
        rig.refused(shard(0), RefusedReason::Damaged);
        assert!(fetches(&rig.pass(60_000, true)).iter().all(|fetch| fetch.0 != shard(0)));
        rig.copy(&b, 7, 7);
        rig.step(LinkInput::Disconnected);
        assert_eq!(fetches(&rig.step(LinkInput::Connected)), [(shard(1), 8, chain_at(&b, 7))]);
        assert_eq!(rig.status().faults[0].reason, name);
    }
}

#[test]
fn a_copy_that_faults_takes_nothing_more_and_frees_its_credit() {
    let a = log(shard(0), 1, 9, 500);
    let mut rig = Rig::connected(&[(&a, 2)]);
    rig.frames(&a[2..6]);
    let fault =
        ShardFault { shard: shard(0), seq: Seq(5), reason: "CHAIN_DIFFERS", message: "differs".into() };
    rig.step(LinkInput::Copy(shard(0), CopyState { fault: Some(fault.clone()), ..state(&a, 4, 2) }));
    assert_eq!(rig.status().faults.first(), Some(&fault));
    rig.refused(shard(0), RefusedReason::Damaged);
    assert!(appended(&rig.frames(&a[6..8])).is_empty());
    rig.step(LinkInput::Copy(shard(0), CopyState { fault: Some(fault), ..state(&a, 4, 4) }));
    assert!(fetches(&rig.pass(60_000, true)).is_empty());
    assert_eq!(rig.given, 8_000 + bytes(&a[2..8]));
}

#[test]
fn a_damaged_source_is_asked_again_and_forgiven_once_it_delivers() {
    let a = log(shard(0), 1, 9, 10);
    let mut rig = Rig::connected(&[(&a, 5)]);
    rig.refused(shard(0), RefusedReason::Damaged);
    assert_eq!(rig.status().faults[0].reason, "DAMAGED");
    assert_eq!(fetches(&rig.pass(10_000, true)), [(shard(0), 6, chain_at(&a, 5))]);
    assert_eq!(rig.status().faults.len(), 1);
    rig.frames(&a[5..6]);
    assert!(rig.status().faults.is_empty());
}

#[test]
fn a_source_that_stays_damaged_is_no_stall() {
    let a = log(shard(0), 1, 9, 10);
    let mut rig = Rig::connected(&[(&a, 5)]);
    for _ in 0..5 {
        rig.step(LinkInput::Mark(shard(0), mark(9)));
        rig.refused(shard(0), RefusedReason::Damaged);
        let out = rig.pass(10_000, true);
        assert_eq!(reconnects(&out), 0, "another connection mends nothing");
        assert_eq!(fetches(&out), [(shard(0), 6, chain_at(&a, 5))]);
    }
    rig.step(LinkInput::Mark(shard(0), mark(9)));
    assert_eq!(reconnects(&rig.pass(9_900, true)), 0);
    assert_eq!(reconnects(&rig.pass(100, true)), 1, "but once it has agreed it owes what it has");
}

#[test]
fn after_a_disconnect_it_asks_only_once_its_copys_end_is_known() {
    let (a, b) = (log(shard(0), 1, 9, 1000), log(shard(1), 1, 9, 10));
    let mut rig = Rig::connected(&[(&a, 2), (&b, 0)]);
    rig.frames(&a[2..5]);
    rig.step(LinkInput::Disconnected);
    assert_eq!(rig.status().state, LinkState::Connecting);
    let out = rig.step(LinkInput::Connected);
    assert_eq!(
        fetches(&out),
        [(shard(1), 1, Chain::GENESIS)],
        "frames 3 to 5 are still on their way to their copy"
    );
    assert_eq!(rig.given, 8_000 - bytes(&a[2..5]), "and still fill memory");
    assert!(fetches(&rig.copy(&a, 4, 3)).is_empty());
    assert!(fetches(&rig.pass(500, true)).is_empty());
    assert!(fetches(&rig.copy(&a, 5, 4)).is_empty(), "appended is not yet durable");
    assert_eq!(fetches(&rig.copy(&a, 5, 5)), [(shard(0), 6, chain_at(&a, 5))]);
    assert_eq!(appended(&rig.frames(&a[4..6])), a[5..6], "what was asked for is what is taken");
    assert!(appended(&rig.frames(&a[5..6])).is_empty());
    rig.copy(&a, 6, 6);
    rig.pass(100, true);
    assert_eq!(
        rig.given,
        8_000 + bytes(&a[4..6]) + bytes(&a[5..6]),
        "what was given less what came is all of it"
    );
}

#[test]
fn credit_that_came_back_while_disconnected_is_not_given_twice() {
    let a = log(shard(0), 1, 9, 1000);
    let mut rig = Rig::connected(&[(&a, 0)]);
    rig.frames(&a[..4]);
    rig.step(LinkInput::Disconnected);
    rig.copy(&a, 4, 4);
    rig.pass(300, false);
    rig.step(LinkInput::Connected);
    rig.pass(300, true);
    assert_eq!(rig.given, 8_000);
}

#[test]
fn memory_that_is_full_is_not_filled_further_by_a_new_connection() {
    let (a, b) = (log(shard(0), 1, 9, 1000), log(shard(1), 1, 9, 10));
    let mut rig = Rig::connected(&[(&a, 0), (&b, 0)]);
    rig.frames(&a[..8]);
    assert!(bytes(&a[..8]) > 8_000, "the last frame overdraws");
    for _ in 0..10 {
        rig.step(LinkInput::Disconnected);
        rig.step(LinkInput::Connected);
        rig.pass(500, true);
        assert_eq!(rig.given, 0);
    }
    rig.copy(&a, 8, 8);
    rig.pass(100, true);
    assert_eq!(rig.given, 8_000, "what was over the credit is not given again");
}

#[test]
fn credit_is_given_back_in_sums_worth_a_message_or_with_the_next_tick() {
    let a = log(shard(0), 1, 9, 100);
    let one = bytes(&a[..1]);
    let mut rig = Rig::connected(&[(&a, 0)]);
    for frame in &a {
        rig.frames(std::slice::from_ref(frame));
    }
    rig.copy(&a, 9, 1);
    assert_eq!(rig.given, 8_000, "one frame is not worth it");
    rig.copy(&a, 9, 8);
    assert_eq!(rig.given, 8_000 + 8 * one);
    rig.copy(&a, 9, 9);
    assert_eq!(rig.given, 8_000 + 8 * one);
    rig.pass(100, true);
    assert_eq!(rig.given, 8_000 + 9 * one, "but it must not keep the last bytes of a backlog away");
}

#[test]
fn durable_marks_are_told_and_told_again_to_each_new_connection() {
    let a = log(shard(0), 1, 9, 10);
    let mut rig = Rig::new();
    rig.copy(&a, 4, 3);
    let expected =
        |seq| (shard(0), DurableMark { seq: Seq(seq), totals: mark(seq).totals, hosting: (3, EPOCH) });
    assert_eq!(
        durable(&rig.step(LinkInput::Connected)),
        [expected(3)],
        "the source keeps them in memory alone"
    );
    assert_eq!(durable(&rig.copy(&a, 4, 4)), [], "not one by one: a word of its own wakes the source's node");
    assert_eq!(durable(&rig.pass(100, true)), [expected(4)]);
    assert!(durable(&rig.copy(&a, 5, 4)).is_empty(), "appended is not durable");
    rig.pass(100, true);
    assert_eq!(durable(&rig.copy(&a, 6, 5)), [expected(5)], "at once after a while");
    rig.step(LinkInput::Disconnected);
    assert_eq!(durable(&rig.copy(&a, 6, 6)), []);
    assert_eq!(durable(&rig.step(LinkInput::Connected)), [expected(6)]);
    assert!(durable(&rig.pass(1_000, true)).is_empty());
}

#[test]
fn something_to_read_and_no_progress_is_a_stall() {
    let a = log(shard(0), 1, 9, 10);
    let mut rig = Rig::connected(&[(&a, 5)]);
    rig.step(LinkInput::Mark(shard(0), mark(5)));
    assert_eq!(reconnects(&rig.pass(60_000, true)), 0, "nothing to read");
    rig.step(LinkInput::Mark(shard(0), mark(6)));
    assert_eq!(reconnects(&rig.pass(9_900, true)), 0);
    assert_eq!(reconnects(&rig.pass(100, true)), 1, "within ten seconds of when there was something to read");
    assert_eq!((rig.status().stalls, rig.status().state), (1, LinkState::Stalled));
    rig.step(LinkInput::Disconnected);
    assert_eq!(rig.status().reconnects, 1);
    assert_eq!(fetches(&rig.step(LinkInput::Connected)), [(shard(0), 6, chain_at(&a, 5))]);
    rig.pass(5_000, true);
    rig.frames(&a[5..6]);
    rig.copy(&a, 6, 6);
    assert_eq!(reconnects(&rig.pass(60_000, true)), 0);
    assert_eq!(rig.status().state, LinkState::Live);
}

#[test]
fn a_peer_that_says_nothing_at_all_is_a_stall_too() {
    let a = log(shard(0), 1, 9, 10);
    let mut rig = Rig::connected(&[(&a, 5)]);
    // It never even told its mark: nobody knows whether there is something to read.
    assert_eq!(reconnects(&rig.pass(9_900, false)), 0);
    assert_eq!(reconnects(&rig.pass(100, false)), 1);
}

#[test]
fn a_source_that_never_says_whether_the_copies_agree_is_a_stall_too() {
    let (a, b) = (log(shard(0), 1, 9, 10), log(shard(1), 1, 200, 10));
    let mut rig = Rig::connected(&[(&a, 9), (&b, 0)]);
    rig.step(LinkInput::Mark(shard(1), mark(200)));
    // The other shard makes progress all the time, and there may be nothing to read of this one.
    let mut reconnected = 0;
    for i in 0..99 {
        rig.frames(&b[i..i + 1]);
        reconnected += reconnects(&rig.pass(100, true));
    }
    assert_eq!(reconnected, 0);
    assert_eq!(reconnects(&rig.pass(100, true)), 1);
    rig.copy(&b, 99, 99);
    rig.step(LinkInput::Disconnected);
    rig.step(LinkInput::Connected);
    rig.step(LinkInput::Mark(shard(0), mark(9)));
    rig.step(LinkInput::Mark(shard(1), mark(99)));
    assert_eq!(reconnects(&rig.pass(60_000, true)), 0, "it has said so");
}

#[test]
fn a_link_too_slow_for_one_message_gets_more_patience_each_time() {
    let a = log(shard(0), 1, 9, 10);
    let mut rig = Rig::connected(&[(&a, 5)]);
    rig.step(LinkInput::Mark(shard(0), mark(9)));
    for patience in [10_000, 20_000, 40_000, 80_000, 160_000, 160_000] {
        assert_eq!(reconnects(&rig.pass(patience - 100, true)), 0);
        assert_eq!(reconnects(&rig.pass(100, true)), 1);
        rig.step(LinkInput::Disconnected);
        rig.step(LinkInput::Connected);
    }
    rig.frames(&a[5..9]);
    rig.copy(&a, 9, 9);
    rig.pass(100, true);
    rig.step(LinkInput::Mark(shard(0), mark(12)));
    assert_eq!(reconnects(&rig.pass(9_900, true)), 0);
    assert_eq!(reconnects(&rig.pass(100, true)), 1, "once nothing is left to read it is watchful again");
}

#[test]
fn a_busy_shard_does_not_keep_a_large_message_of_another_from_crossing() {
    let (busy, slow) = (log(shard(0), 1, 30, 10), log(shard(1), 1, 9, 10));
    let mut rig = Rig::connected(&[(&busy, 5), (&slow, 5)]);
    let needs = 35_000;
    let mut had = 5;
    for connection in 0.. {
        assert!(connection < 4, "given up again and again");
        // The busy shard has gathered something meanwhile, and comes first; then the wire is taken.
        rig.step(LinkInput::Mark(shard(0), mark(had as u64 + 2)));
        rig.step(LinkInput::Mark(shard(1), mark(9)));
        rig.frames(&busy[had..had + 1]);
        had += 1;
        rig.copy(&busy, had as u64, had as u64);
        let mut given_up = 0;
        for _ in 0..needs / 100 {
            given_up = reconnects(&rig.pass(100, false));
            if given_up > 0 {
                break;
            }
        }
        if given_up == 0 {
            break;
        }
        rig.step(LinkInput::Disconnected);
        rig.step(LinkInput::Connected);
    }
    rig.frames(&slow[5..9]);
    rig.copy(&slow, 9, 9);
}

#[test]
fn a_copy_that_faults_is_not_fed_any_more() {
    let a = log(shard(0), 1, 9, 10);
    let mut rig = Rig::connected(&[(&a, 5)]);
    rig.step(LinkInput::Mark(shard(0), mark(9)));
    let fault =
        ShardFault { shard: shard(0), seq: Seq(6), reason: "CHAIN_DIFFERS", message: "it does".into() };
    let out = rig.step(LinkInput::Copy(shard(0), CopyState { fault: Some(fault), ..state(&a, 5, 5) }));
    assert!(out.iter().any(|effect| matches!(effect, LinkEffect::Stop(stopped) if *stopped == shard(0))));
    assert_eq!(rig.status().state, LinkState::Faulted);
}

#[test]
fn a_repaired_source_clears_its_fault_though_nothing_new_comes() {
    let a = log(shard(0), 1, 9, 10);
    let mut rig = Rig::connected(&[(&a, 9)]);
    rig.refused(shard(0), RefusedReason::Damaged);
    assert_eq!(rig.status().state, LinkState::Faulted);
    assert_eq!(fetches(&rig.pass(10_100, true)), [(shard(0), 10, chain_at(&a, 9))]);
    rig.step(LinkInput::Mark(shard(0), mark(9)));
    assert_eq!(rig.status().state, LinkState::Live);
}

#[test]
fn a_clock_that_jumps_back_holds_nothing_up() {
    let (a, b) = (log(shard(0), 1, 9, 10), log(shard(1), 1, 9, 10));
    let mut rig = Rig::connected(&[(&a, 5), (&b, 5)]);
    rig.refused(shard(0), RefusedReason::Behind);
    rig.step(LinkInput::Mark(shard(1), mark(9)));
    rig.now -= 600_000;
    let out = rig.pass(100, true);
    assert_eq!(fetches(&out), [(shard(0), 6, chain_at(&a, 5))]);
    assert!(out.iter().any(|e| matches!(e, LinkEffect::Ping)));
    assert_eq!(reconnects(&rig.pass(10_000, true)), 1, "the watchdog watches on");
}

#[test]
fn the_backlog_is_what_the_source_has_and_the_copy_has_not() {
    let (a, b) = (log(shard(0), 1, 20, 10), log(shard(1), 1, 9, 10));
    let mut rig = Rig::connected(&[(&a, 10), (&b, 5)]);
    rig.now = 50_000;
    rig.step(LinkInput::Mark(shard(0), mark(18)));
    rig.step(LinkInput::Mark(shard(1), mark(5)));
    let status = rig.status();
    assert_eq!((status.events, status.bytes), (80, 800));
    // The oldest that is missing came after frame 10 and is told of by a mark of hlc 18: no older than that is known.
    assert_eq!(status.oldest, Duration::from_millis(50_000 - 18));
    rig.step(LinkInput::Mark(shard(0), mark(20)));
    assert_eq!(
        rig.status().oldest,
        Duration::from_millis(50_000 - 18),
        "what was missing then is missing still"
    );
    rig.frames(&a[10..20]);
    rig.copy(&a, 20, 19);
    assert_eq!((rig.status().events, rig.status().bytes), (10, 100), "appended is not durable");
    assert_eq!(rig.status().oldest, Duration::from_millis(50_000 - 19));
    rig.step(LinkInput::Disconnected);
    assert_eq!(rig.status().events, 10, "what is known stays known");
    rig.copy(&a, 20, 20);
    let status = rig.status();
    assert_eq!((status.events, status.bytes, status.oldest), (0, 0, Duration::ZERO));
}

#[test]
fn the_round_trip_is_measured() {
    let mut rig = Rig::connected(&[]);
    let out = rig.pass(1_000, false);
    assert!(out.iter().any(|effect| matches!(effect, LinkEffect::Ping)));
    assert_eq!(rig.status().round_trip, None);
    rig.step(LinkInput::Pong(Duration::from_micros(930)));
    assert_eq!(rig.status().round_trip, Some(Duration::from_micros(930)));
}

#[test]
fn another_leadership_asks_from_where_the_log_ends_then_and_holds_no_credit() {
    let a = log(shard(0), 1, 9, 10);
    let mut rig = Rig::connected(&[(&a, 0)]);
    rig.step(LinkInput::Frames { shard: shard(0), frames: a[..4].to_vec() });
    // Another node is elected before they are durable; then this one again.
    let elsewhere = CopyState { leads: None, follows: true, ..state(&a, 4, 2) };
    let out = rig.step(LinkInput::Copy(shard(0), elsewhere));
    assert!(out.iter().any(|effect| matches!(effect, LinkEffect::Stop(_))));
    assert_eq!(rig.status().state, LinkState::Live, "what another node mirrors is not waited for");
    let epoch = EPOCH.next().next();
    let out = rig.step(LinkInput::Copy(shard(0), CopyState { leads: Some(epoch), ..state(&a, 3, 3) }));
    assert_eq!(fetches(&out), [(shard(0), 4, chain_at(&a, 3))]);
    let told = durable(&out)[0].1;
    assert_eq!(
        (told.hosting.1, told.seq),
        (epoch, Seq(3)),
        "the origin hears under which leadership it is durable"
    );
}

/// A past incarnation's shard is asked for everywhere, and most sources have no more of it than this region.
#[test]
fn a_source_that_holds_less_of_a_past_incarnation_is_no_reason_to_turn() {
    for is_past in [true, false] {
        let a = log(shard(0), 1, 5, 10);
        let mut rig = Rig::new();
        rig.step(LinkInput::Copy(shard(0), CopyState { is_past, ..state(&a, 5, 5) }));
        rig.step(LinkInput::Connected);
        rig.refused(shard(0), RefusedReason::Behind);
        let (mut asked, mut turned) = (0, 0);
        for _ in 0..300 {
            for effect in rig.pass(100, true) {
                match effect {
                    LinkEffect::Fetch { .. } => {
                        asked += 1;
                        rig.refused(shard(0), RefusedReason::Behind);
                    }
                    LinkEffect::Reconnect => turned += 1,
                    _ => {}
                }
            }
        }
        if is_past {
            assert!(turned == 0 && (2..=4).contains(&asked), "turned {turned} times, asked {asked} times");
            assert_eq!(rig.status().state, LinkState::Live);
        } else {
            assert!(turned > 0, "one that only lags is turned away from");
        }
    }
}
