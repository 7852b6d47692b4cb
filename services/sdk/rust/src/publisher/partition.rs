//! What one partition has to send: an open batch, closed ones, and the window of numbered ones. Pure.
//!
//! A batch gets its producer, epoch and sequence when it enters the window, and keeps these bytes for ever. The window
//! spans at most [`WINDOW`] batches from the oldest without an answer, which is how far back a server remembers.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_batch::{BatchBuilder, BatchError, Codec, Event, Producer, Sequence};
use meridian_types::{ProducerEpoch, ProducerId};

use super::error::{PublishError, Stored};
use super::receipt::Waiters;
use super::spare::Spare;
use crate::client::NodeIndex;

/// As Kafka's `max.in.flight.requests.per.connection` with idempotence.
pub(super) const WINDOW: usize = 5;
/// More than a record's varints take, for deciding whether an event still fits.
const RECORD_OVERHEAD: usize = 40;

/// A producer session, as the server gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) id: ProducerId,
    pub(super) epoch: ProducerEpoch,
    /// Counts sessions of this publisher, from 1: a partition uses each at most once, as its sequences begin at 0.
    pub(super) generation: u64,
}

/// A batch that has no number yet.
struct Pending<W> {
    builder: BatchBuilder,
    waiters: W,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// To be sent, again or for the first time.
    Unsent,
    /// Sent on this connection; `alone`: nothing before it was open then.
    Sent { alone: bool },
    /// Acknowledged, but not the ones before it.
    Done,
}

/// A batch that has its number.
pub(super) struct Numbered<W> {
    pub(super) sequence: Sequence,
    pub(super) events: u32,
    pub(super) bytes: Bytes,
    /// None once it is acknowledged.
    waiters: Option<W>,
    pub(super) state: State,
    /// How often it was sent, over all connections.
    pub(super) tries: u32,
    /// The server will not have it. It fails once none before it is open; nothing after it is sent.
    pub(super) refusal: Option<PublishError>,
}

/// What to hand to the connection.
pub(super) struct ToSend {
    pub(super) sequence: Sequence,
    pub(super) bytes: Bytes,
}

/// Events that will not be sent any more.
pub(super) struct Dropped<W> {
    pub(super) waiters: W,
    pub(super) events: u32,
    pub(super) tries: u32,
}

pub(super) struct Partition<W> {
    codec: Codec,
    batch_bytes: usize,
    session: Option<Session>,
    /// The last session that was in use here.
    generation: u64,
    next: Sequence,
    pub(super) window: VecDeque<Numbered<W>>,
    closed: VecDeque<Pending<W>>,
    open: Option<Pending<W>>,
    /// Sent on one connection and not yet answered. Until it is 0 nothing is sent again, nor to another node.
    pub(super) outstanding: usize,
    /// The node that its batches go to from now on.
    target: NodeIndex,
    /// The node at which something is outstanding.
    at: Option<NodeIndex>,
    /// Since when the target is another node than the one at which something is outstanding.
    moving_since: Option<Instant>,
    /// Since when, and how often in a row, a sequence was refused that no batch before it explains.
    doubted: Option<(Instant, u32)>,
    /// Nothing is sent before this, and before all that is outstanding is answered.
    pause: Option<Instant>,
    /// Refusals since the last acknowledgement, for the backoff.
    pub(super) refusals: u32,
    last_used: Instant,
}

impl<W: Waiters> Partition<W> {
    pub(super) fn new(codec: Codec, batch_bytes: usize, now: Instant) -> Self {
        Self {
            codec,
            batch_bytes,
            session: None,
            generation: 0,
            next: Sequence::ZERO,
            window: VecDeque::new(),
            closed: VecDeque::new(),
            open: None,
            outstanding: 0,
            target: NodeIndex(0),
            at: None,
            moving_since: None,
            doubted: None,
            pause: None,
            refusals: 0,
            last_used: now,
        }
    }

    /// Whether an event would not fit the open batch any more.
    pub(super) fn would_overflow(&self, event: &Event) -> bool {
        let overhead = RECORD_OVERHEAD + 10 * event.headers.len();
        self.open.as_ref().is_some_and(|open| {
            !open.builder.is_empty() && open.builder.bytes() + event.bytes() + overhead > self.batch_bytes
        })
    }

    /// Takes an event.
    pub(super) fn push(
        &mut self,
        event: &Event,
        waiter: W::One,
        spare: &mut Spare,
    ) -> Result<W::Ticket, BatchError> {
        if self.would_overflow(event) {
            self.close();
        }
        loop {
            let open = self.open.get_or_insert_with(|| Pending {
                builder: BatchBuilder::new(self.codec),
                waiters: W::default(),
            });
            let from = spare.from();
            if open.builder.bytes() < from && open.builder.bytes() + event.bytes() >= from {
                open.builder.move_into(spare.take());
            }
            match open.builder.push(event) {
                Ok(()) => return Ok(open.waiters.add(waiter)),
                Err(error) if error.is_full() && !open.builder.is_empty() => self.close(),
                Err(error) => return Err(error),
            }
        }
    }

    /// Closes the open batch.
    pub(super) fn close(&mut self) {
        self.closed.extend(self.open.take_if(|open| !open.builder.is_empty()));
    }

    /// Whether anything has no number yet.
    pub(super) fn has_unnumbered(&self) -> bool {
        !self.closed.is_empty() || self.open.as_ref().is_some_and(|open| !open.builder.is_empty())
    }

    /// Whether anything is without an answer.
    pub(super) fn has_work(&self) -> bool {
        !self.window.is_empty() || self.has_unnumbered()
    }

    /// Starts anew with the next batch if nothing was sent for so long that the server may have forgotten the session.
    pub(super) fn expire_session(&mut self, now: Instant, idle: Duration) {
        if self.window.is_empty() && now.saturating_duration_since(self.last_used) >= idle {
            self.session = None;
        }
    }

    /// Whether there is something to number, and only a session is missing.
    pub(super) fn wants_session(&self, current: Option<&Session>) -> bool {
        self.session.is_none()
            && self.window.is_empty()
            && self.has_unnumbered()
            && current.is_none_or(|session| session.generation <= self.generation)
    }

    /// The first batch to send again. All before it were sent or are done: batches are numbered, rewound and sent in
    /// order.
    fn first_unsent(&self) -> Option<usize> {
        self.window
            .iter()
            .position(|batch| batch.state == State::Unsent || batch.refusal.is_some())
            .filter(|index| self.window[*index].refusal.is_none())
    }

    fn may_number(&self, current: Option<&Session>) -> bool {
        self.has_unnumbered()
            && self.window.len() < WINDOW
            && self.window.iter().all(|batch| batch.refusal.is_none())
            && (self.session.is_some() || current.is_some_and(|session| session.generation > self.generation))
    }

    /// The node that its batches go to.
    pub(super) fn target(&self) -> NodeIndex {
        self.target
    }

    /// Sends to another node from now on, once nothing is outstanding at the one before.
    pub(super) fn set_target(&mut self, now: Instant, target: NodeIndex) {
        self.target = target;
        let moves = self.at.is_some_and(|at| at != target);
        self.moving_since = if moves { self.moving_since.or(Some(now)) } else { None };
    }

    /// Since when it waits for a node that it has turned away from.
    pub(super) fn moving_since(&self) -> Option<Instant> {
        self.moving_since
    }

    /// Whether something is outstanding at that node.
    pub(super) fn is_at(&self, node: NodeIndex) -> bool {
        self.at == Some(node)
    }

    /// A sequence is refused that no batch before it explains: for how long so, and how often.
    pub(super) fn doubt(&mut self, now: Instant) -> (Duration, u32) {
        let (since, times) = self.doubted.unwrap_or((now, 0));
        self.doubted = Some((since, times + 1));
        (now.saturating_duration_since(since), times + 1)
    }

    /// Something else was said since.
    pub(super) fn doubts_no_more(&mut self) {
        self.doubted = None;
    }

    /// An answer came.
    pub(super) fn answered(&mut self) {
        self.outstanding = self.outstanding.saturating_sub(1);
        if self.outstanding == 0 {
            (self.at, self.moving_since) = (None, None);
        }
    }

    /// Whether [`Partition::next_to_send`] has something.
    pub(super) fn is_ready(&self, now: Instant, current: Option<&Session>) -> bool {
        if self.at.is_some_and(|at| at != self.target) {
            return false;
        }
        if let Some(pause) = self.pause
            && (self.outstanding > 0 || now < pause)
        {
            return false;
        }
        self.first_unsent().is_some() || self.may_number(current)
    }

    /// Ends a pause that is over.
    pub(super) fn on_time(&mut self, now: Instant) {
        self.pause = self.pause.filter(|pause| self.outstanding > 0 || now < *pause);
    }

    /// When a pause ends that nothing else ends.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.pause.filter(|_| self.outstanding == 0 && self.has_work())
    }

    /// The next batch in order: first what must be sent again, then what is new. `None` if there is nothing to send
    /// now.
    ///
    /// # Errors
    /// [`BatchError`] if a codec fails, with the batch's waiters.
    pub(super) fn next_to_send(
        &mut self,
        now: Instant,
        current: Option<&Session>,
    ) -> Result<Option<ToSend>, (BatchError, Dropped<W>)> {
        if !self.is_ready(now, current) {
            return Ok(None);
        }
        self.pause = None;
        if self.first_unsent().is_none() {
            self.number_next(current)?;
        }
        let Some(index) = self.first_unsent() else { return Ok(None) };
        let alone = self.window.iter().take(index).all(|batch| batch.state == State::Done);
        let batch = &mut self.window[index];
        batch.state = State::Sent { alone };
        batch.tries += 1;
        self.outstanding += 1;
        self.at = Some(self.target);
        self.last_used = now;
        Ok(Some(ToSend { sequence: batch.sequence, bytes: batch.bytes.clone() }))
    }

    fn number_next(&mut self, current: Option<&Session>) -> Result<(), (BatchError, Dropped<W>)> {
        let session = match (self.session, current) {
            (Some(session), _) => session,
            (None, Some(&session)) => {
                self.session = Some(session);
                self.generation = session.generation;
                self.next = Sequence::ZERO;
                session
            }
            (None, None) => return Ok(()),
        };
        if self.closed.is_empty() {
            self.close();
        }
        let Some(Pending { builder, waiters }) = self.closed.pop_front() else { return Ok(()) };
        let (events, sequence) = (builder.events(), self.next);
        let producer = Producer { id: session.id, epoch: session.epoch, sequence };
        let bytes = match builder.with_producer(producer).build() {
            Ok(bytes) => bytes,
            Err(error) => return Err((error, Dropped { waiters, events, tries: 0 })),
        };
        self.next = sequence.plus(events);
        let state = State::Unsent;
        let waiters = Some(waiters);
        self.window.push_back(Numbered { sequence, events, bytes, waiters, state, tries: 0, refusal: None });
        Ok(())
    }

    /// Sends everything again that is not done, in order, once all that is outstanding is answered and `until` has
    /// come.
    pub(super) fn rewind(&mut self, until: Instant) {
        self.pause = Some(self.pause.map_or(until, |pause| pause.max(until)));
    }

    /// The connection is gone, or not waited for any more: every answer that was to come is.
    pub(super) fn disconnected(&mut self) {
        self.outstanding = 0;
        (self.at, self.moving_since) = (None, None);
        for batch in &mut self.window {
            if matches!(batch.state, State::Sent { .. }) {
                batch.state = State::Unsent;
            }
        }
    }

    /// Marks a batch as refused for good.
    pub(super) fn refuse(&mut self, sequence: Sequence, error: PublishError) {
        if let Some(batch) = self.window.iter_mut().find(|batch| batch.sequence == sequence) {
            batch.refusal = Some(error);
        }
    }

    /// Marks a batch as acknowledged and takes its waiters.
    pub(super) fn done(&mut self, sequence: Sequence, spare: &mut Spare) -> Option<W> {
        let mut waiters = None;
        if let Some(batch) = self.window.iter_mut().find(|batch| batch.sequence == sequence) {
            batch.state = State::Done;
            spare.give(std::mem::take(&mut batch.bytes));
            waiters = batch.waiters.take();
        }
        while self.window.front().is_some_and(|batch| batch.state == State::Done) {
            self.window.pop_front();
        }
        self.refusals = 0;
        self.doubted = None;
        waiters
    }

    /// Gives everything up, in order, and ends the session: the next batch begins another. What is outstanding is
    /// waited for, so that nothing old can be stored after it.
    pub(super) fn drop_all(&mut self, now: Instant) -> Vec<Dropped<W>> {
        self.close();
        self.session = None;
        self.doubted = None;
        self.rewind(now);
        let window = self.window.drain(..).filter_map(|batch| {
            Some(Dropped { waiters: batch.waiters?, events: batch.events, tries: batch.tries })
        });
        let closed = self.closed.drain(..).map(|batch| Dropped {
            events: batch.builder.events(),
            waiters: batch.waiters,
            tries: 0,
        });
        window.chain(closed).collect()
    }
}

/// What is known of a batch that was sent so often and never acknowledged.
pub(super) const fn stored_after(tries: u32) -> Stored {
    if tries == 0 { Stored::No } else { Stored::Unknown }
}
