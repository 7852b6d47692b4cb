//! The copy's end of a link, sans-IO: what to ask for, what to append, when to give credit, when to give up.
//!
//! It never appends what it cannot place: frames go to the shard's replica, which takes frame n+1 after frame n or
//! faults. A fault stops that shard alone, for good: the others go on.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use meridian_shard::Totals;
use meridian_storage::{Chain, Frame};
use meridian_types::mutant::{self, Mutant};
use meridian_types::{Hlc, LeaderEpoch, Seq, ShardId, Timestamp};

use crate::credit::Credit;
use crate::status::{LinkState, LinkStatus, ShardFault};
use crate::{DurableMark, SourceMark};

/// The fault of a copy that has lost its end, and takes nothing until it follows or leads again.
pub(crate) const COPY_DAMAGED: &str = "COPY_DAMAGED";

/// How a link is set up.
#[derive(Clone, Copy, Debug)]
pub struct LinkConfig {
    /// The most bytes that may be on their way or waiting to be stored.
    pub credit_bytes: u64,
    /// After how long without progress a link that has something to read is connected anew, in milliseconds.
    pub stall_ms: u64,
    /// How long to wait before a shard is asked for again at a source that is behind, in milliseconds.
    pub retry_ms: u64,
    /// This region's incarnation, for durable marks.
    pub hosting_incarnation: u32,
}

/// Why a source does not push a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedReason {
    /// The copies differ.
    ChainDiffers,
    /// The origin's leader has less than its copy.
    OriginShorter,
    /// The source is only behind.
    Behind,
    /// The source does not have the shard.
    UnknownShard,
    /// The source's copy is damaged there.
    Damaged,
}

/// How the copy of a shard is, in this region.
#[derive(Clone, Debug)]
pub struct CopyState {
    /// Its last appended frame.
    pub appended: Seq,
    /// The chain through that.
    pub chain: Chain,
    /// Its last frame that is applied, and on stable storage at a majority of this region's replicas of the shard; zero while not all
    /// that is applied is.
    pub durable: Seq,
    /// Sums up to there.
    pub totals: Totals,
    /// The hlc of that frame.
    pub hlc: Hlc,
    /// The copy's leadership here; none: it takes no frames.
    pub leads: Option<LeaderEpoch>,
    /// Another node of this region leads the copy, and mirrors the shard.
    pub follows: bool,
    /// Its origin writes no more, under this incarnation: no source owes more than it has, and each region asks every other.
    pub is_past: bool,
    /// Why it takes no frames any more.
    pub fault: Option<ShardFault>,
}

/// What happens to a link.
#[derive(Clone, Debug)]
pub enum LinkInput {
    /// The peer's Hello was accepted.
    Connected,
    /// The connection is gone.
    Disconnected,
    /// A shard copy is ready, has stored more, or has faulted.
    Copy(ShardId, CopyState),
    /// Frames came, CRCs checked.
    Frames {
        /// Of which shard.
        shard: ShardId,
        /// Which.
        frames: Vec<Frame>,
    },
    /// The source tells how far it is.
    Mark(ShardId, SourceMark),
    /// The source does not push a shard.
    Refused {
        /// Which.
        shard: ShardId,
        /// Why.
        reason: RefusedReason,
        /// The source's last.
        last: Seq,
        /// For people.
        message: String,
    },
    /// The connection shall have so much credit from now on.
    Allot(u64),
    /// The source gives back credit that it was asked for.
    Withdrawn(u64),
    /// The echo of a ping came, so long after that was sent.
    Pong(Duration),
    /// Time has passed. Some ten a second.
    Tick,
}

/// What a link wants done.
#[derive(Clone, Debug)]
pub enum LinkEffect {
    /// Ask for a shard.
    Fetch {
        /// Which.
        shard: ShardId,
        /// From where.
        from: Seq,
        /// The chain before that.
        chain_before: Chain,
    },
    /// Let the source send more.
    Credit(u64),
    /// Ask back what the source has not used of its credit, at most so much.
    Withdraw(u64),
    /// Ask for no more of a shard.
    Stop(ShardId),
    /// Hand frames to this leadership of the shard copy, for which they were asked.
    Append(ShardId, LeaderEpoch, Vec<Frame>),
    /// Tell the source what is durable here.
    Durable(ShardId, DurableMark),
    /// Ask for an echo, and measure how long it takes.
    Ping,
    /// Give the connection up and connect anew: no progress.
    Reconnect,
}

#[derive(Debug)]
enum Fetching {
    /// Not asked for, until then.
    Paused(Timestamp),
    /// Asked for.
    Asked {
        /// The next frame expected.
        next: Seq,
        /// Since when the source owes a word on whether the copies agree.
        unanswered: Option<Timestamp>,
    },
    /// Faulted: never again until an operator has looked.
    Faulted,
    /// It goes to another connection, once what is in hand is stored.
    Parting,
}

/// A shard that goes from one connection to another.
#[derive(Debug)]
pub(crate) struct Carried {
    mirrored: Mirrored,
    fault: Option<ShardFault>,
}

/// What a shard waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    /// Nothing is known to be missing, or this node does not mirror it.
    ForNothing,
    /// For frames of a source that has agreed to send them.
    Fed,
    /// For a source: something is missing, or it is not known whether anything is, and nobody sends it.
    Unfed,
}

#[derive(Debug)]
struct Mirrored {
    copy: CopyState,
    fetching: Fetching,
    mark: Option<SourceMark>,
    /// Whether the source has said on this connection how far it is: until then what is missing is not known.
    heard: bool,
    /// Since when the source has nothing to say of this shard, though it is asked again and again.
    refused_since: Option<Timestamp>,
    /// When the source last agreed on where this copy ends: only from then on does it owe frames.
    agreed_at: Timestamp,
    /// The hlc of the source's mark when this copy was first seen behind.
    behind_since: Option<Hlc>,
    /// Frames handed over and not yet durable: their credit is given back when they are.
    in_hand: VecDeque<(Seq, u64)>,
    /// What the source was told last on this connection, and when.
    told: Option<(Seq, Timestamp)>,
}

impl Mirrored {
    /// Whether the source has said how far it is, or another node mirrors this shard.
    fn is_told(&self) -> bool {
        self.heard || self.copy.follows
    }

    /// Whether the source has told of more than is durable here.
    fn is_behind(&self) -> bool {
        self.mark.is_some_and(|mark| mark.seq > self.copy.durable)
    }
}

/// The copy's end of one link. See the module.
#[derive(Debug)]
pub struct LinkCore {
    config: LinkConfig,
    connected: bool,
    shards: BTreeMap<ShardId, Mirrored>,
    credit: Credit,
    faults: BTreeMap<ShardId, ShardFault>,
    last_progress: Timestamp,
    /// When the peer last said anything. It answers pings and repeats its marks, so silence is a broken link too.
    last_heard: Timestamp,
    last_ping: Timestamp,
    /// The latest time seen: the clock may jump back.
    latest: Timestamp,
    stalled: bool,
    /// Reconnects for want of progress, one soon after the other. Frames of one shard do not end the row: on a slow link
    /// they come first on every new connection, and what stalled is another shard's message behind them.
    stalls_in_a_row: u32,
    /// When the link was last connected, or given up.
    quiet_since: Timestamp,
    status: LinkStatus,
}

const PING_EVERY_MS: u64 = 1000;
/// How often a source is told how far a shard is durable here, at most: what is left goes with the next tick.
const DURABLE_EVERY_MS: u64 = 10;
/// Patience doubles this often: a link too slow for one message within `stall_ms` must get it across one day.
const DOUBLINGS: u32 = 4;

impl LinkCore {
    /// A link that is not connected.
    pub fn new(config: LinkConfig) -> Self {
        Self {
            config,
            connected: false,
            shards: BTreeMap::new(),
            credit: Credit::new(config.credit_bytes),
            faults: BTreeMap::new(),
            last_progress: Timestamp(0),
            last_heard: Timestamp(0),
            last_ping: Timestamp(0),
            latest: Timestamp(0),
            stalled: false,
            stalls_in_a_row: 0,
            quiet_since: Timestamp(0),
            status: LinkStatus::default(),
        }
    }

    /// Takes one input and appends what is to be done to `out`.
    pub fn step(&mut self, input: LinkInput, now: Timestamp, out: &mut Vec<LinkEffect>) {
        self.notice_a_jump_back(now);
        let is_ours = matches!(
            input,
            LinkInput::Disconnected | LinkInput::Copy(..) | LinkInput::Allot(_) | LinkInput::Tick
        );
        if !is_ours {
            self.last_heard = now;
        }
        match input {
            LinkInput::Connected => self.connected(now, out),
            LinkInput::Disconnected => self.disconnected(now),
            LinkInput::Copy(shard, copy) => self.copy(shard, copy, now, out),
            LinkInput::Frames { shard, frames } => self.frames(shard, frames, now, out),
            LinkInput::Mark(shard, mark) => self.mark(shard, mark, now),
            LinkInput::Refused { shard, reason, last, message } => {
                self.refused(shard, reason, last, message, now);
            }
            LinkInput::Allot(bytes) => {
                self.credit.allot(bytes);
                self.settle_credit(1, now, out);
            }
            LinkInput::Withdrawn(bytes) => {
                self.credit.withdrawn(bytes);
                self.settle_credit(1, now, out);
            }
            LinkInput::Pong(round_trip) => self.status.round_trip = Some(round_trip),
            LinkInput::Tick => self.tick(now, out),
        }
    }

    /// Deadlines of a clock that has jumped back would hold for as long as the jump (fault 13): they are due now.
    fn notice_a_jump_back(&mut self, now: Timestamp) {
        if now < self.latest {
            self.last_progress = self.last_progress.min(now);
            self.last_heard = self.last_heard.min(now);
            self.quiet_since = self.quiet_since.min(now);
            self.credit.forgive(now);
            for mirrored in self.shards.values_mut() {
                mirrored.agreed_at = mirrored.agreed_at.min(now);
                mirrored.refused_since = mirrored.refused_since.map(|since| since.min(now));
                if let Fetching::Paused(time) | Fetching::Asked { unanswered: Some(time), .. } =
                    &mut mirrored.fetching
                {
                    *time = (*time).min(now);
                }
            }
        }
        self.latest = now;
    }

    fn connected(&mut self, now: Timestamp, out: &mut Vec<LinkEffect>) {
        self.connected = true;
        self.stalled = false;
        self.last_progress = now;
        self.quiet_since = now;
        self.credit.anew(self.in_hand());
        self.settle_credit(1, now, out);
        for (&shard, mirrored) in &mut self.shards {
            // The source keeps marks in memory alone: a quiet shard would never be told of again.
            mirrored.told = None;
            mirrored.heard = false;
            mirrored.refused_since = None;
            Self::tell_durable(self.config.hosting_incarnation, shard, mirrored, now, out);
            if !matches!(mirrored.fetching, Fetching::Faulted | Fetching::Parting) {
                Self::ask(shard, mirrored, now, out);
            }
        }
    }

    fn disconnected(&mut self, now: Timestamp) {
        self.status.reconnects += 1;
        self.close(now);
    }

    /// The connection is given up for want of use, which is no loss of it.
    pub(crate) fn close(&mut self, now: Timestamp) {
        self.connected = false;
        self.credit.anew(self.in_hand());
        for mirrored in self.shards.values_mut() {
            if !matches!(mirrored.fetching, Fetching::Faulted | Fetching::Parting) {
                mirrored.fetching = Fetching::Paused(now);
            }
        }
    }

    /// What came and is not stored yet.
    fn in_hand(&self) -> u64 {
        self.shards.values().flat_map(|shard| shard.in_hand.iter().map(|&(_, bytes)| bytes)).sum()
    }

    /// Asks from where the copy ends: what was sent and not appended is sent again.
    fn ask(shard: ShardId, mirrored: &mut Mirrored, now: Timestamp, out: &mut Vec<LinkEffect>) {
        if mirrored.copy.leads.is_none() || !mirrored.in_hand.is_empty() {
            // Its end is not known yet: frames are on their way to it.
            mirrored.fetching = Fetching::Paused(now);
            return;
        }
        let next = mirrored.copy.appended.next();
        let next = if mutant::is(Mutant::ResumeTooFar) { next.next() } else { next };
        mirrored.fetching = Fetching::Asked { next, unanswered: Some(now) };
        out.push(LinkEffect::Fetch { shard, from: next, chain_before: mirrored.copy.chain });
    }

    fn copy(&mut self, shard: ShardId, copy: CopyState, now: Timestamp, out: &mut Vec<LinkEffect>) {
        if let Some(fault) = &copy.fault {
            self.faults.insert(shard, fault.clone());
        }
        let faulted = copy.fault.is_some();
        let is_mended = !faulted && self.faults.get(&shard).is_some_and(|fault| fault.reason == COPY_DAMAGED);
        if is_mended {
            self.faults.remove(&shard);
        }
        let mirrored = self.shards.entry(shard).or_insert_with(|| Mirrored {
            copy: copy.clone(),
            fetching: Fetching::Paused(now),
            mark: None,
            heard: false,
            refused_since: None,
            agreed_at: now,
            behind_since: None,
            in_hand: VecDeque::new(),
            told: None,
        });
        if copy.durable > mirrored.copy.durable {
            self.last_progress = now;
        }
        let another_leadership = copy.leads != mirrored.copy.leads;
        mirrored.copy = copy;
        if another_leadership && !faulted {
            // What was handed to the leadership before was perhaps not appended, and no longer fills memory for this link.
            // The next one asks from where the log ends then, and the origin hears under which one it is durable.
            self.credit.freed(mirrored.in_hand.drain(..).map(|(_, bytes)| bytes).sum());
            mirrored.told = None;
            if mirrored.copy.leads.is_none() {
                // Another node mirrors this shard now: what this one last heard of it grows old.
                mirrored.mark = None;
                mirrored.behind_since = None;
                mirrored.heard = false;
            }
            if matches!(mirrored.fetching, Fetching::Asked { .. }) {
                if self.connected {
                    out.push(LinkEffect::Stop(shard));
                }
                mirrored.fetching = Fetching::Paused(now);
            }
        }
        if is_mended && matches!(mirrored.fetching, Fetching::Faulted) {
            mirrored.fetching = Fetching::Paused(now);
        }
        if faulted {
            if self.connected && matches!(mirrored.fetching, Fetching::Asked { .. }) {
                out.push(LinkEffect::Stop(shard));
            }
            mirrored.fetching = Fetching::Faulted;
            // What it did not take no longer fills memory.
            self.credit.freed(mirrored.in_hand.drain(..).map(|(_, bytes)| bytes).sum());
        }
        while let Some(&(seq, bytes)) = mirrored.in_hand.front()
            && seq <= mirrored.copy.durable
        {
            mirrored.in_hand.pop_front();
            self.credit.freed(bytes);
        }
        if mirrored.mark.is_none_or(|mark| mark.seq <= mirrored.copy.durable) {
            mirrored.behind_since = None;
        }
        if self.connected {
            let just_told = mirrored.told.is_some_and(|(_, at)| at <= now && now.0 < at.0 + DURABLE_EVERY_MS);
            if !just_told {
                Self::tell_durable(self.config.hosting_incarnation, shard, mirrored, now, out);
            }
            if matches!(mirrored.fetching, Fetching::Paused(since) if since <= now) {
                Self::ask(shard, mirrored, now, out);
            }
        }
        self.settle_credit(self.credit.wanted() / 8, now, out);
    }

    fn tell_durable(
        incarnation: u32,
        shard: ShardId,
        mirrored: &mut Mirrored,
        now: Timestamp,
        out: &mut Vec<LinkEffect>,
    ) {
        if mirrored.copy.durable > mirrored.told.map_or(Seq::ZERO, |(seq, _)| seq)
            && let Some(epoch) = mirrored.copy.leads
        {
            mirrored.told = Some((mirrored.copy.durable, now));
            let (seq, totals) = (mirrored.copy.durable, mirrored.copy.totals);
            out.push(LinkEffect::Durable(shard, DurableMark { seq, totals, hosting: (incarnation, epoch) }));
        }
    }

    /// Gives back what is owed, if it is anything and at least so much; asks for what the connection is to have no more.
    fn settle_credit(&mut self, at_least: u64, now: Timestamp, out: &mut Vec<LinkEffect>) {
        if !self.connected {
            return;
        }
        if let Some(bytes) = self.credit.take_owed(at_least) {
            out.push(LinkEffect::Credit(bytes));
        }
        if let Some(bytes) = self.credit.take_withdrawal(now) {
            out.push(LinkEffect::Withdraw(bytes));
        }
    }

    /// Of the link's credit, what this connection has.
    pub(crate) fn allotted(&self) -> u64 {
        self.credit.allotted()
    }

    /// What it is to have.
    pub(crate) fn wanted(&self) -> u64 {
        self.credit.wanted()
    }

    /// Asks for no more of a shard, which goes to another connection.
    pub(crate) fn part(&mut self, shard: ShardId, out: &mut Vec<LinkEffect>) {
        let Some(mirrored) = self.shards.get_mut(&shard) else { return };
        if self.connected && matches!(mirrored.fetching, Fetching::Asked { .. }) {
            out.push(LinkEffect::Stop(shard));
        }
        mirrored.refused_since = None;
        if !matches!(mirrored.fetching, Fetching::Faulted) {
            mirrored.fetching = Fetching::Parting;
        }
    }

    /// Lets a shard go, unless something of it is in hand: until that is stored its end is not known, and it counts here.
    pub(crate) fn take_out(&mut self, shard: ShardId) -> Option<Carried> {
        let mirrored = self.shards.get(&shard).filter(|mirrored| mirrored.in_hand.is_empty()).is_some();
        let mirrored = mirrored.then(|| self.shards.remove(&shard)).flatten()?;
        Some(Carried { mirrored, fault: self.faults.remove(&shard) })
    }

    /// Takes a shard over from another connection, and asks for it from then on.
    pub(crate) fn take_in(
        &mut self,
        shard: ShardId,
        carried: Carried,
        from: Timestamp,
        now: Timestamp,
        out: &mut Vec<LinkEffect>,
    ) {
        let Carried { mut mirrored, fault } = carried;
        if let Some(fault) = fault {
            self.faults.insert(shard, fault);
        }
        mirrored.heard = false;
        // This source has not been told.
        mirrored.told = None;
        mirrored.agreed_at = now;
        if !matches!(mirrored.fetching, Fetching::Faulted) {
            mirrored.fetching = Fetching::Paused(from);
        }
        if self.connected {
            Self::tell_durable(self.config.hosting_incarnation, shard, &mut mirrored, now, out);
            if matches!(mirrored.fetching, Fetching::Paused(from) if from <= now) {
                Self::ask(shard, &mut mirrored, now, out);
            }
        }
        self.shards.insert(shard, mirrored);
    }

    /// Asks for a shard that was refused no sooner than then, and holds that against no node.
    pub(crate) fn ask_later(&mut self, shard: ShardId, from: Timestamp) {
        if let Some(mirrored) = self.shards.get_mut(&shard)
            && !matches!(mirrored.fetching, Fetching::Faulted | Fetching::Parting)
        {
            mirrored.refused_since = None;
            mirrored.fetching = Fetching::Paused(from);
        }
    }

    /// How far a shard that is carried here is stored.
    pub(crate) fn durable_of(&self, shard: ShardId) -> Option<Seq> {
        self.shards.get(&shard).map(|mirrored| mirrored.copy.durable)
    }

    /// Whether it is connected, its source has told how far it is with each shard, and that is stored here.
    pub(crate) fn is_level(&self) -> bool {
        self.connected && self.shards.values().all(|shard| shard.is_told() && !shard.is_behind())
    }

    /// What each shard waits for; whether the source of the link is in reach at all is the caller's to know.
    pub(crate) fn waits(&self, in_reach: bool) -> impl Iterator<Item = (ShardId, Waits)> {
        self.shards.iter().map(move |(&shard, mirrored)| {
            let is_fed =
                self.connected && matches!(mirrored.fetching, Fetching::Asked { unanswered: None, .. });
            let is_faulted = matches!(mirrored.fetching, Fetching::Faulted);
            let waits = if mirrored.copy.leads.is_none() || is_faulted {
                Waits::ForNothing
            } else if mirrored.is_behind() {
                if is_fed { Waits::Fed } else { Waits::Unfed }
            } else if in_reach && !mirrored.heard {
                Waits::Unfed
            } else {
                Waits::ForNothing
            };
            (shard, waits)
        })
    }

    fn frames(&mut self, shard: ShardId, mut frames: Vec<Frame>, now: Timestamp, out: &mut Vec<LinkEffect>) {
        let Some(mirrored) = self.shards.get_mut(&shard) else {
            self.credit.freed(bytes_of(&frames));
            return;
        };
        if let Fetching::Asked { next, .. } = mirrored.fetching {
            // What an earlier question brought was on its way when it was asked again.
            let known = frames.iter().take_while(|frame| frame.header.seq < next).count();
            self.credit.freed(bytes_of(&frames[..known]));
            frames.drain(..known);
        }
        let bytes = bytes_of(&frames);
        let (first, last) = match (frames.first(), frames.last()) {
            (Some(first), Some(last)) => (first.header.seq, last.header.seq),
            _ => return self.settle_credit(self.credit.wanted() / 8, now, out),
        };
        // A peer's word: what is not a run of this shard's frames is not used, and asked for anew once it is missed.
        let is_run = frames.iter().zip(0u64..).all(|(frame, i)| {
            frame.header.shard_id() == shard && Some(frame.header.seq.0) == first.0.checked_add(i)
        });
        match (&mut mirrored.fetching, mirrored.copy.leads) {
            (Fetching::Asked { next, unanswered }, Some(epoch)) if *next == first && is_run => {
                *next = last.next();
                *unanswered = None;
                mirrored.refused_since = None;
                mirrored.heard = true;
                if self.faults.get(&shard).is_some_and(|fault| fault.reason == "DAMAGED") {
                    // The source has been repaired.
                    self.faults.remove(&shard);
                }
                mirrored.in_hand.push_back((last, bytes));
                self.last_progress = now;
                out.push(LinkEffect::Append(shard, epoch, frames));
            }
            // Sent before the source heard of the newer fetch, or to a copy that takes nothing: not used.
            _ => self.credit.freed(bytes),
        }
        self.settle_credit(self.credit.wanted() / 8, now, out);
    }

    fn mark(&mut self, shard: ShardId, mark: SourceMark, now: Timestamp) {
        let Some(mirrored) = self.shards.get_mut(&shard) else { return };
        mirrored.heard = true;
        if let Fetching::Asked { unanswered, .. } = &mut mirrored.fetching
            && unanswered.take().is_some()
        {
            mirrored.agreed_at = now;
            mirrored.refused_since = None;
        }
        if mark.seq <= mirrored.copy.appended
            && self.faults.get(&shard).is_some_and(|fault| fault.reason == "DAMAGED")
        {
            // The chain agrees and nothing is left to read: what was damaged there has been repaired.
            self.faults.remove(&shard);
        }
        let idle = mirrored.mark.is_none_or(|known| known.seq <= mirrored.copy.durable);
        mirrored.mark = Some(mark);
        if mark.seq > mirrored.copy.durable {
            mirrored.behind_since.get_or_insert(mark.hlc);
            if idle {
                // The watchdog counts from when there was something to read.
                self.last_progress = self.last_progress.max(now);
            }
        }
    }

    fn refused(&mut self, shard: ShardId, reason: RefusedReason, last: Seq, message: String, now: Timestamp) {
        let Some(mirrored) = self.shards.get_mut(&shard) else { return };
        if matches!(mirrored.fetching, Fetching::Faulted | Fetching::Parting) {
            // Sent before the source heard of it. Asking again would hand frames to a copy that takes none.
            return;
        }
        let fault = match reason {
            RefusedReason::Behind | RefusedReason::UnknownShard => None,
            RefusedReason::ChainDiffers => Some("CHAIN_DIFFERS"),
            RefusedReason::OriginShorter => Some("ORIGIN_SHORTER"),
            RefusedReason::Damaged => Some("DAMAGED"),
        };
        match fault {
            None if mirrored.copy.is_past && reason == RefusedReason::Behind => {
                // It may hold less for ever, and nobody is to blame.
                mirrored.heard = true;
                mirrored.refused_since = None;
                mirrored.fetching = Fetching::Paused(Timestamp(now.0 + self.config.stall_ms));
            }
            None => {
                mirrored.refused_since.get_or_insert(now);
                mirrored.fetching = Fetching::Paused(Timestamp(now.0 + self.config.retry_ms));
            }
            Some(reason) => {
                tracing::error!(%shard, reason, %last, message, "the link is faulted for this shard: nothing is appended");
                let seq = mirrored.copy.appended;
                self.faults.insert(shard, ShardFault { shard, seq, reason, message });
                // A damaged source is repaired, and can be asked again; two histories stay two.
                mirrored.fetching = if reason == "DAMAGED" {
                    Fetching::Paused(Timestamp(now.0 + self.config.stall_ms))
                } else {
                    Fetching::Faulted
                };
            }
        }
    }

    fn tick(&mut self, now: Timestamp, out: &mut Vec<LinkEffect>) {
        if !self.connected {
            return;
        }
        if now.0 >= self.last_ping.0 + PING_EVERY_MS || now < self.last_ping {
            self.last_ping = now;
            out.push(LinkEffect::Ping);
        }
        for (&shard, mirrored) in &mut self.shards {
            Self::tell_durable(self.config.hosting_incarnation, shard, mirrored, now, out);
            if matches!(mirrored.fetching, Fetching::Paused(until) if until <= now) {
                Self::ask(shard, mirrored, now, out);
            }
        }
        // Credit too small for a message on its own must not keep the last bytes of a backlog away.
        self.settle_credit(1, now, out);
        // Since when the source owes frames that do not come: one that has just agreed, or is not asked, owes none yet.
        let owed_since = self
            .shards
            .values()
            .filter(|mirrored| {
                matches!(mirrored.fetching, Fetching::Asked { unanswered: None, .. }) && mirrored.is_behind()
            })
            .map(|mirrored| mirrored.agreed_at.max(self.last_progress))
            .min();
        let patience = self.config.stall_ms << self.stalls_in_a_row.min(DOUBLINGS);
        let is_late = |since: Timestamp| now.0 >= since.0 + patience;
        let unanswered = self.credit.unanswered().is_some_and(is_late)
            || self.shards.values().any(|mirrored| {
                matches!(mirrored.fetching, Fetching::Asked { unanswered: Some(since), .. } if is_late(since))
            });
        let no_progress = owed_since.is_some_and(is_late);
        let silent = now.0 >= self.last_heard.0 + patience;
        // Another node of the source's region may have what this one has not, or no more.
        let refused = self.shards.values().any(|mirrored| {
            mirrored.copy.leads.is_some()
                && mirrored.refused_since.is_some_and(|since| now.0 >= since.0 + patience)
        });
        if no_progress || silent || unanswered || refused {
            self.status.stalls += 1;
            self.stalled = true;
            self.stalls_in_a_row += 1;
            self.last_progress = now;
            self.last_heard = now;
            self.quiet_since = now;
            for mirrored in self.shards.values_mut() {
                if let Fetching::Asked { unanswered: Some(since), .. } = &mut mirrored.fetching {
                    *since = now;
                }
            }
            out.push(LinkEffect::Reconnect);
        } else if !self.shards.values().any(Mirrored::is_behind) || now.0 >= self.quiet_since.0 + 2 * patience
        {
            self.stalls_in_a_row = 0;
            self.quiet_since = now;
        }
    }

    /// What the link shows.
    pub fn status(&self, now: Timestamp) -> LinkStatus {
        let mut status = self.status.clone();
        let mut oldest: Option<Hlc> = None;
        for mirrored in self.shards.values() {
            let Some(mark) = mirrored.mark else { continue };
            status.events += mark.totals.events.saturating_sub(mirrored.copy.totals.events);
            status.bytes += mark.totals.bytes.saturating_sub(mirrored.copy.totals.bytes);
            if mark.seq > mirrored.copy.durable {
                // The oldest that is missing came after what the copy has, and no later than the mark that told of it.
                let since = mirrored.behind_since.unwrap_or(mark.hlc).max(mirrored.copy.hlc);
                oldest = Some(oldest.map_or(since, |known| known.min(since)));
            }
        }
        status.oldest =
            oldest.map_or(Duration::ZERO, |hlc| Duration::from_millis(now.0.saturating_sub(hlc.time().0)));
        status.faults = self.faults.values().cloned().collect();
        status.state = if !self.faults.is_empty() {
            LinkState::Faulted
        } else if self.stalled {
            LinkState::Stalled
        } else if self.connected && self.shards.values().all(Mirrored::is_told) {
            LinkState::Live
        } else {
            LinkState::Connecting
        };
        status
    }
}

fn bytes_of(frames: &[Frame]) -> u64 {
    frames.iter().map(|frame| frame.encoded_len() as u64).sum()
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
