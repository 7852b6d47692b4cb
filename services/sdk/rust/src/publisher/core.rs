//! The publisher's rules, without I/O: events, answers, connections, leaders and time come in; requests and outcomes go
//! out.
//!
//! Laws: a batch's bytes and number never change once it has them; within a partition batches are sent in order, and
//! sent again in order; an event fails only if none before it in its partition is still open, and with it fails all
//! that was taken for that partition before the failure; a session is used once per partition. Each partition is at one
//! node at a time: it goes to another once all that it sent is answered, or is to be sent again from the oldest on.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meridian_batch::{Codec, Event, Sequence};
use meridian_types::{Hlc, Lane, Offset, ProducerEpoch, ProducerId, partition_for_key};
use meridian_wire::v1::publish_batches_response::Result as Answer;
use meridian_wire::v1::{
    Durability, PublishBatchesRequest, PublishBatchesResponse, PublishedBatch, StreamRef,
};
use meridian_wire::{ApiError, Reason, v1};
use rand::rngs::StdRng;

use super::error::{PublishError, Stored};
use super::partition::{Dropped, Partition, Session, State, stored_after};
use super::receipt::Waiters;
use super::spare::Spare;
use crate::backoff::{jitter, step};
use crate::client::NodeIndex;
use crate::fault::{self, Fault};

/// A node that answers nothing for so long may not be the leader any more: the region is asked who is.
pub(super) const PROBE: Duration = Duration::from_millis(300);
/// How long a node that is not the leader any more is waited for, before what it has not answered is sent to the new one;
/// but for one that was silent before that already.
const LEAVE: Duration = Duration::from_millis(500);
/// In a region of several nodes, one that was deposed and does not know it yet refuses sequences that are right. It is
/// believed once that was the only answer for so long and so often.
const DOUBT: (Duration, u32) = (Duration::from_secs(5), 4);

/// What the core needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) stream: StreamRef,
    pub(crate) partitions: u32,
    pub(crate) codec: Codec,
    pub(crate) batch_bytes: usize,
    pub(crate) progress_timeout: Duration,
    pub(crate) answer_timeout: Duration,
    pub(crate) session_idle: Duration,
    pub(crate) min_backoff: Duration,
    pub(crate) max_backoff: Duration,
}

/// Where a batch is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) lane: Lane,
    pub(crate) first: Offset,
    pub(crate) hlc: Hlc,
    pub(crate) regions: Arc<[String]>,
    pub(crate) duplicate: bool,
}

/// An event that was taken.
#[derive(Debug)]
pub(crate) struct Pushed<T> {
    pub(crate) ticket: T,
    /// The node to which there is something to send now that there was not before.
    pub(crate) news_for: Option<NodeIndex>,
    /// It cannot be sent yet: a session must be fetched, or time must pass. What takes batches off the core sees to neither.
    pub(crate) waits: bool,
}

/// What became of a batch.
#[derive(Debug)]
pub(crate) struct Outcome<W> {
    pub(crate) waiters: W,
    pub(crate) result: Result<Place, PublishError>,
}

/// A request under way on a connection.
struct Attempt {
    node: NodeIndex,
    partition: usize,
    sequence: Sequence,
    /// Its batch is sent to another node: the answer is not waited for any more.
    left: bool,
}

/// A connection to a node.
struct Link {
    /// Requests without an answer.
    open: usize,
    /// When the last answer came, or the first request after none was open was sent.
    answered: Instant,
    /// When the region was last asked because of its silence.
    probed: Instant,
}

impl Link {
    /// When the region is asked whether this is the leader still.
    fn probe_at(&self) -> Option<Instant> {
        (self.open > 0).then(|| self.answered.max(self.probed) + PROBE)
    }

    /// Whether what was sent is unanswered for long enough to ask so.
    fn is_silent(&self, now: Instant) -> bool {
        self.open > 0 && now >= self.answered + PROBE
    }
}

pub(crate) struct Core<W> {
    settings: Settings,
    partitions: Vec<Partition<W>>,
    spare: Spare,
    /// Where events without a key go until the batch is closed.
    sticky: usize,
    /// Where the search for the next batch begins, so that no partition starves.
    scan: usize,
    session: Option<Session>,
    generation: u64,
    links: BTreeMap<NodeIndex, Link>,
    attempts: HashMap<u64, Attempt>,
    next_request: u64,
    /// Whether the region has more than one node.
    several: bool,
    /// Who leads may have changed.
    stale: bool,
    /// Something happened that is another task's to act on.
    news: bool,
    /// Events without an outcome.
    open: u64,
    /// When the last acknowledgement came, or the first event after none was open.
    progress: Instant,
    trouble: Option<String>,
    failed: Option<PublishError>,
    outcomes: VecDeque<Outcome<W>>,
    rng: StdRng,
}

impl<W: Waiters> Core<W> {
    pub(crate) fn new(settings: Settings, now: Instant, rng: StdRng) -> Self {
        let partitions = (0..settings.partitions)
            .map(|_| Partition::new(settings.codec, settings.batch_bytes, now))
            .collect();
        Self {
            spare: Spare::new(settings.batch_bytes),
            settings,
            partitions,
            sticky: 0,
            scan: 0,
            session: None,
            generation: 0,
            links: BTreeMap::new(),
            attempts: HashMap::new(),
            next_request: 1,
            several: false,
            stale: false,
            news: false,
            open: 0,
            progress: now,
            trouble: None,
            failed: None,
            outcomes: VecDeque::new(),
            rng,
        }
    }

    // ---- events in

    /// Takes an event. The order of calls is the order in its partition.
    pub(crate) fn push(
        &mut self,
        now: Instant,
        event: &Event,
        partition: Option<meridian_types::Partition>,
        waiter: W::One,
    ) -> Result<Pushed<W::Ticket>, PublishError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let count = self.settings.partitions;
        let index = match (partition, &event.key) {
            (Some(partition), _) if partition.0 >= count => {
                return Err(PublishError::NoSuchPartition { partition, partitions: count });
            }
            (Some(partition), _) => partition.0 as usize,
            (None, Some(key)) => partition_for_key(key, count).0 as usize,
            (None, None) => {
                if self.partitions[self.sticky].would_overflow(event) {
                    self.close(self.sticky);
                }
                self.sticky
            }
        };
        let partition = &mut self.partitions[index];
        if !partition.has_work() {
            partition.expire_session(now, self.settings.session_idle);
        }
        // Whoever was told of the first event that waits takes all that wait with it.
        let is_news = !partition.has_unnumbered();
        let ticket = partition.push(event, waiter, &mut self.spare).map_err(PublishError::Event)?;
        let news_for = is_news.then(|| partition.target());
        let waits = is_news && !partition.is_ready(now, self.session.as_ref());
        if self.open == 0 {
            self.progress = now;
        }
        self.open += 1;
        Ok(Pushed { ticket, news_for, waits })
    }

    fn close(&mut self, index: usize) {
        self.partitions[index].close();
        if self.sticky == index {
            self.sticky = (index + 1) % self.partitions.len();
        }
    }

    // ---- the session

    /// Whether something can only be sent with a new session.
    pub(crate) fn wants_session(&self) -> bool {
        self.failed.is_none() && self.partitions.iter().any(|p| p.wants_session(self.session.as_ref()))
    }

    pub(crate) fn on_session(&mut self, id: ProducerId, epoch: ProducerEpoch) {
        self.generation += 1;
        self.session = Some(Session { id, epoch, generation: self.generation });
    }

    // ---- leaders

    /// Where each partition goes from now on, and whether there is more than one node to ask.
    pub(crate) fn set_targets(&mut self, now: Instant, targets: &[NodeIndex], several: bool) {
        self.several = several;
        for (partition, target) in self.partitions.iter_mut().zip(targets) {
            if partition.target() != *target {
                partition.set_target(now, *target);
                self.news = true;
            }
        }
    }

    /// Whether who leads may have changed since this was last asked.
    pub(crate) fn take_stale(&mut self) -> bool {
        std::mem::take(&mut self.stale)
    }

    /// Whether something happened since this was last asked that another task may have to act on.
    pub(crate) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    // ---- requests out

    /// The nodes to which something is to be sent and there is no connection, each once.
    pub(crate) fn wants_links(&self, now: Instant) -> Vec<NodeIndex> {
        if self.failed.is_some() {
            return Vec::new();
        }
        let ready = self.partitions.iter().filter(|p| p.is_ready(now, self.session.as_ref()));
        let mut nodes: Vec<NodeIndex> =
            ready.map(Partition::target).filter(|node| !self.links.contains_key(node)).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Whether [`Core::next_request`] has something.
    pub(crate) fn can_send(&self, now: Instant, node: NodeIndex) -> bool {
        let ready = |p: &Partition<W>| p.target() == node && p.is_ready(now, self.session.as_ref());
        self.failed.is_none() && self.links.contains_key(&node) && self.partitions.iter().any(ready)
    }

    /// The next request for a node.
    pub(crate) fn next_request(&mut self, now: Instant, node: NodeIndex) -> Option<PublishBatchesRequest> {
        if self.failed.is_some() {
            return None;
        }
        let link = self.links.get_mut(&node)?;
        let count = self.partitions.len();
        for step in 0..count {
            let index = (self.scan + step) % count;
            if self.partitions[index].target() != node {
                continue;
            }
            match self.partitions[index].next_to_send(now, self.session.as_ref()) {
                Ok(None) => {}
                Ok(Some(batch)) => {
                    self.scan = (index + 1) % count;
                    if index == self.sticky {
                        self.sticky = (index + 1) % count;
                    }
                    if link.open == 0 {
                        link.answered = now;
                    }
                    link.open += 1;
                    let request_id = self.next_request;
                    self.next_request += 1;
                    let sequence = batch.sequence;
                    self.attempts
                        .insert(request_id, Attempt { node, partition: index, sequence, left: false });
                    return Some(PublishBatchesRequest {
                        request_id,
                        stream: Some(self.settings.stream.clone()),
                        partition: index as u32,
                        batch: batch.bytes,
                        durability: Some(Durability {
                            level: v1::durability::Level::Region.into(),
                            regions: 0,
                        }),
                        deadline_ms: 0,
                    });
                }
                Err((error, Dropped { waiters, events, .. })) => {
                    // A codec without memory. What is before this batch is still open; nothing good comes of going on.
                    self.resolve(waiters, events, Err(PublishError::Event(error.clone())));
                    self.fail_all(now, PublishError::Event(error));
                    return None;
                }
            }
        }
        None
    }

    // ---- connections

    pub(crate) fn on_connected(&mut self, now: Instant, node: NodeIndex) {
        self.links.insert(node, Link { open: 0, answered: now, probed: now });
    }

    pub(crate) fn on_disconnected(&mut self, node: NodeIndex, trouble: Option<String>) {
        self.links.remove(&node);
        self.attempts.retain(|_, attempt| attempt.node != node);
        for partition in self.partitions.iter_mut().filter(|partition| partition.is_at(node)) {
            partition.disconnected();
        }
        // What was outstanding there may go to another node now.
        self.news = true;
        if trouble.is_some() {
            self.trouble = trouble;
        }
    }

    /// Whether nothing goes to that node any more, and nothing that matters is to come from it: what was left there would only
    /// be in the way of what goes there next.
    pub(crate) fn is_unneeded(&self, node: NodeIndex) -> bool {
        let is_awaited = |attempt: &Attempt| attempt.node == node && !attempt.left;
        self.partitions.iter().all(|partition| partition.target() != node)
            && !self.attempts.values().any(is_awaited)
    }

    /// Something does not work, and is tried again.
    pub(crate) fn on_trouble(&mut self, trouble: String) {
        self.trouble = Some(trouble);
    }

    /// Whether what was sent to that node is unanswered for so long that another connection is worth a try.
    pub(crate) fn is_silent(&self, now: Instant, node: NodeIndex) -> bool {
        self.silent_at(node).is_some_and(|at| now >= at)
    }

    /// When silence on a connection is too long.
    pub(crate) fn silent_at(&self, node: NodeIndex) -> Option<Instant> {
        let link = self.links.get(&node).filter(|link| link.open > 0)?;
        Some(link.answered + self.settings.answer_timeout)
    }

    pub(crate) fn on_answer(&mut self, now: Instant, response: PublishBatchesResponse) {
        let Some(attempt) = self.attempts.remove(&response.request_id) else {
            return self.fail_all(
                now,
                PublishError::Protocol(format!("request {} was never sent", response.request_id)),
            );
        };
        let Attempt { node, partition: index, sequence, left } = attempt;
        if let Some(link) = self.links.get_mut(&node) {
            link.answered = now;
            link.open = link.open.saturating_sub(1);
        }
        let partition = &mut self.partitions[index];
        if left {
            return;
        }
        // An answer to a batch that failed meanwhile: it frees its place, and says nothing more.
        partition.answered();
        self.news |= partition.target() != node;
        let Some(batch) = partition.window.iter_mut().find(|batch| batch.sequence == sequence) else {
            return;
        };
        let State::Sent { alone } = batch.state else { return };
        let (events, tries) = (batch.events, batch.tries);
        let error = match response.result {
            Some(Answer::Published(published)) => match place(&published, index, events) {
                Ok(place) => {
                    let waiters = partition.done(sequence, &mut self.spare);
                    self.progress = now;
                    self.trouble = None;
                    if let Some(waiters) = waiters {
                        self.resolve(waiters, events, Ok(place));
                    }
                    return self.fail_refused(now, index);
                }
                Err(text) => return self.fail_all(now, PublishError::Protocol(text)),
            },
            Some(Answer::Error(error)) => error,
            None => {
                return self.fail_all(now, PublishError::Protocol("an answer without a result".to_owned()));
            }
        };
        batch.state = State::Unsent;
        let error = match fault::of_message(&error) {
            Fault::Retry { after, reason, text } => {
                if matches!(reason, Some(Reason::NotLeader | Reason::NotReady)) {
                    (self.stale, self.news) = (true, true);
                }
                partition.doubts_no_more();
                return self.try_again(now, index, after, text);
            }
            // The batch before it was refused, and will be sent first. Where that one begins the session, the server does
            // not know the session yet.
            Fault::Refused(error) if !alone && is_of_sequence(error.reason) => {
                return partition.rewind(now);
            }
            Fault::Refused(error)
                if self.several && is_of_sequence(error.reason) && {
                    let (time, times) = partition.doubt(now);
                    time < DOUBT.0 || times < DOUBT.1
                } =>
            {
                (self.stale, self.news) = (true, true);
                return self.try_again(now, index, error.retry_after, error.to_string());
            }
            Fault::Refused(error) => error,
            Fault::Foreign { code, message } => {
                ApiError::new(Reason::Internal, format!("{code:?}: {message}"))
            }
        };
        if error.reason == Reason::ProducerFenced {
            return self.fail_all(now, PublishError::ProducerFenced { message: error.message });
        }
        partition.refuse(sequence, refusal(index, tries, error));
        self.fail_refused(now, index);
    }

    /// Sends a partition's batches again after a while.
    fn try_again(&mut self, now: Instant, index: usize, after: Option<Duration>, text: String) {
        let partition = &mut self.partitions[index];
        let wait = step(self.settings.min_backoff, self.settings.max_backoff, partition.refusals);
        partition.refusals = partition.refusals.saturating_add(1);
        let wait = jitter(wait, &mut self.rng).max(after.unwrap_or_default());
        partition.rewind(now + wait);
        self.trouble = Some(text);
    }

    /// Fails the partition's oldest open batch if the server refused it, and with it all that was taken after it.
    fn fail_refused(&mut self, now: Instant, index: usize) {
        let oldest = self.partitions[index].window.front_mut();
        let Some(error) = oldest.and_then(|batch| batch.refusal.take()) else { return };
        let earlier = Arc::new(error.clone());
        let mut first = Some(error);
        for Dropped { waiters, events, tries } in self.partitions[index].drop_all(now) {
            let error = first.take().unwrap_or_else(|| PublishError::Abandoned {
                earlier: Arc::clone(&earlier),
                // The server takes no sequence past one that it refused.
                stored: if earlier.stored() == Stored::No { Stored::No } else { stored_after(tries) },
            });
            self.resolve(waiters, events, Err(error));
        }
    }

    // ---- time

    /// When [`Core::on_time`] has something to do if nothing else happens.
    pub(crate) fn wakes_at(&self) -> Option<Instant> {
        if self.failed.is_some() {
            return None;
        }
        let progress = (self.open > 0).then(|| self.progress + self.settings.progress_timeout);
        let probe = self.links.values().filter_map(Link::probe_at).min();
        let pauses = self.partitions.iter().filter_map(Partition::wakes_at).min();
        let moves = self.partitions.iter().filter_map(Partition::moving_since).min().map(|at| at + LEAVE);
        [progress, probe, pauses, moves].into_iter().flatten().min()
    }

    pub(crate) fn on_time(&mut self, now: Instant) {
        for partition in &mut self.partitions {
            partition.on_time(now);
        }
        for link in self.links.values_mut() {
            if link.probe_at().is_some_and(|at| now >= at) {
                link.probed = now;
                (self.stale, self.news) = (true, true);
            }
        }
        self.leave_behind(now);
        let waited = now.saturating_duration_since(self.progress);
        if self.failed.is_some() || self.open == 0 || waited < self.settings.progress_timeout {
            return;
        }
        let sent = self
            .partitions
            .iter()
            .flat_map(|partition| &partition.window)
            .filter(|batch| batch.tries > 0 && batch.state != State::Done)
            .map(|batch| u64::from(batch.events))
            .sum();
        let last = self.trouble.clone().unwrap_or_else(|| "no answer".to_owned());
        let error = PublishError::Stalled { waited, events: self.open, sent, last, stored: Stored::Unknown };
        self.fail_all(now, error);
    }

    /// Waits no longer for nodes that say nothing of what was sent to them while they led: it is sent again elsewhere.
    fn leave_behind(&mut self, now: Instant) {
        let silent: Vec<NodeIndex> =
            self.links.iter().filter(|(_, link)| link.is_silent(now)).map(|(node, _)| *node).collect();
        for (index, partition) in self.partitions.iter_mut().enumerate() {
            let says_nothing = silent.iter().any(|node| partition.is_at(*node));
            if partition.moving_since().is_some_and(|since| says_nothing || now >= since + LEAVE) {
                partition.disconnected();
                let attempts = self.attempts.values_mut();
                attempts.filter(|attempt| attempt.partition == index).for_each(|attempt| attempt.left = true);
                self.news = true;
            }
        }
    }

    // ---- outcomes out

    /// Ends the publisher: everything open fails, and all that comes.
    pub(crate) fn fail_all(&mut self, now: Instant, error: PublishError) {
        if self.failed.is_some() {
            return;
        }
        let earlier = Arc::new(error.clone());
        for index in 0..self.partitions.len() {
            for Dropped { waiters, events, tries } in self.partitions[index].drop_all(now) {
                let error = match error.clone() {
                    PublishError::Stalled { waited, events, sent, last, .. } => {
                        PublishError::Stalled { waited, events, sent, last, stored: stored_after(tries) }
                    }
                    error if error.stored() == Stored::No && tries > 0 => {
                        PublishError::Abandoned { earlier: Arc::clone(&earlier), stored: Stored::Unknown }
                    }
                    error => error,
                };
                self.resolve(waiters, events, Err(error));
            }
        }
        self.attempts.clear();
        self.failed = Some(error);
    }

    fn resolve(&mut self, waiters: W, events: u32, result: Result<Place, PublishError>) {
        self.open = self.open.saturating_sub(u64::from(events));
        self.outcomes.push_back(Outcome { waiters, result });
    }

    pub(crate) fn take_outcomes(&mut self) -> VecDeque<Outcome<W>> {
        std::mem::take(&mut self.outcomes)
    }

    /// Events that were taken and have no outcome yet.
    pub(crate) fn open(&self) -> u64 {
        self.open
    }

    /// Why nothing is taken any more.
    pub(crate) fn failed(&self) -> Option<&PublishError> {
        self.failed.as_ref()
    }

    /// What stands in the way just now.
    pub(crate) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}

/// Whether a batch can be refused so for no fault but that of the one before it.
const fn is_of_sequence(reason: Reason) -> bool {
    matches!(reason, Reason::OutOfSequence | Reason::ProducerExpired)
}

/// What a refusal means for the batch, which was sent `tries` times.
fn refusal(index: usize, tries: u32, error: ApiError) -> PublishError {
    let partition = meridian_types::Partition(index as u32);
    // A batch that was sent once is in the log only if that try is; the answer says that it is not.
    let stored = if tries <= 1 { Stored::No } else { Stored::Unknown };
    let message = error.message.clone();
    match error.reason {
        Reason::ProducerExpired => PublishError::ProducerExpired { partition, message, stored },
        Reason::OutOfSequence => PublishError::OutOfSequence { partition, message, stored },
        Reason::Internal | Reason::Damaged => PublishError::Refused { error, stored: Stored::Unknown },
        _ => PublishError::Refused { error, stored },
    }
}

/// Checks an acknowledgement.
fn place(published: &PublishedBatch, partition: usize, events: u32) -> Result<Place, String> {
    let first = published.first.as_ref().ok_or("an acknowledgement without a position")?;
    let lane = first.lane.as_ref().ok_or("an acknowledgement without a lane")?;
    let lane = Lane::try_from(lane).map_err(|error| error.to_string())?;
    if lane.partition.0 as usize != partition {
        return Err(format!("a batch of partition {partition} was acknowledged in {}", lane.partition));
    }
    if published.events != events {
        return Err(format!("a batch of {events} events was acknowledged as {}", published.events));
    }
    Ok(Place {
        lane,
        first: Offset(first.offset),
        hlc: Hlc(first.hlc),
        regions: first.regions.clone().into(),
        duplicate: published.duplicate,
    })
}
