//! Reading: one subscription at a time, resumed from the reader's own place when it breaks off.

mod latest;
mod resume;

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use meridian_batch::{BatchError, Header, Limits, Records, decode};
use meridian_types::{Cursor, CursorError, Hlc, Lane, Offset, StreamId, Timestamp};
use meridian_wire::v1::subscribe_response::Response;
use meridian_wire::{Reason, v1};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

pub use self::latest::Latest;
use self::resume::{Admit, Resume};
use crate::backoff::Backoff;
use crate::client::{Client, NodeIndex, events};
use crate::fault::{self, Fault};
use crate::{ConsumerOptions, SdkError, StartFrom};

/// Credit messages that may wait for the connection; what does not fit is given with the next one.
const CREDIT_QUEUE: usize = 16;

/// Why reading ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsumeError {
    /// The server refuses, or no node answers.
    #[error(transparent)]
    Client(#[from] SdkError),
    /// Offsets are missing, and no gap says why.
    #[error(
        "lane {lane} goes on at offset {found} where {expected} should come; nothing was skipped, read on from the last cursor, and run `meridian verify`"
    )]
    Hole {
        /// Where.
        lane: Lane,
        /// What should come.
        expected: Offset,
        /// What came.
        found: Offset,
    },
    /// A batch that does not read back as it was written.
    #[error("the batch at offset {offset} of lane {lane} is damaged: {fault}; run `meridian verify`")]
    Damaged {
        /// Where.
        lane: Lane,
        /// Its first offset.
        offset: Offset,
        /// What is wrong.
        fault: BatchError,
    },
    /// The stream was deleted, and another created under its name.
    #[error(
        "this is stream {found}, but the cursor is of stream {expected}: it was deleted and created again; start from `start`"
    )]
    OtherStream {
        /// Which stream was read.
        expected: StreamId,
        /// Which one is there now.
        found: StreamId,
    },
    /// An answer that contradicts the protocol.
    #[error("the server broke the protocol: {0}; check that client and node are of compatible versions")]
    Protocol(String),
}

/// What comes out of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An event.
    Event(ConsumedEvent),
    /// Offsets that no reachable copy has.
    Gap(Gap),
    /// A word on how far reading is.
    Mark(Mark),
}

/// An event, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumedEvent {
    /// Its lane.
    pub lane: Lane,
    /// Its offset there.
    pub offset: Offset,
    /// Its batch's hybrid logical time.
    pub hlc: Hlc,
    /// When its producer says that it happened.
    pub timestamp: Timestamp,
    /// Its key.
    pub key: Option<Bytes>,
    /// What it says. It shares memory with the other events of its batch.
    pub value: Option<Bytes>,
    /// Its headers.
    pub headers: Vec<Header>,
}

/// Offsets `[first, next)` of a lane that no reachable copy has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Where.
    pub lane: Lane,
    /// The first that is missing.
    pub first: Offset,
    /// The first after it that is not.
    pub next: Offset,
    /// Why.
    pub reason: String,
}

/// Everything before the cursor was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The place.
    pub cursor: Cursor,
    /// All that the region held when it made the mark was given.
    pub caught_up: bool,
}

/// Reads one stream: every region's events, from this region, in the order of each lane, each once.
pub struct Consumer {
    client: Client,
    stream: v1::StreamRef,
    options: ConsumerOptions,
    resume: Resume,
    link: Option<Link>,
    batch: Option<OpenBatch>,
    backoff: Backoff,
    /// Not before this is a connection tried again.
    retry_at: Option<Instant>,
    /// Since when nothing came.
    failing_since: Option<Instant>,
    /// When a node said first, and last, that what comes next is damaged there.
    damaged: Option<(Instant, Instant)>,
}

struct Link {
    node: NodeIndex,
    answers: Pin<Box<dyn Stream<Item = Result<v1::SubscribeResponse, Status>> + Send>>,
    requests: mpsc::Sender<v1::SubscribeRequest>,
    opened: Instant,
    /// Whether anything came on it.
    answered: bool,
    /// Credit that was used up and not yet given again.
    owed: u64,
}

struct OpenBatch {
    lane: Lane,
    hlc: Hlc,
    first: Offset,
    records: Records,
    /// What it took of the link's credit.
    bytes: u64,
}

impl Consumer {
    pub(crate) fn new(client: Client, stream: &str, options: ConsumerOptions) -> Result<Self, ConsumeError> {
        let stream = client.stream_ref(stream)?;
        let resume = Resume::new(options.from.clone());
        let backoff = client.backoff();
        Ok(Self {
            client,
            stream,
            options,
            resume,
            link: None,
            batch: None,
            backoff,
            retry_at: None,
            failing_since: None,
            damaged: None,
        })
    }

    /// The place after what [`Consumer::next`] has given: a consumer in any region can go on from it. None until the
    /// server has said where reading begins.
    pub fn cursor(&self) -> Option<&Cursor> {
        self.resume.cursor()
    }

    /// The next event of those that have come already, if there is one: what waits for nothing need not be awaited.
    pub fn try_next(&mut self) -> Option<ConsumedEvent> {
        self.next_in_batch()
    }

    /// The next event, gap or mark. Dropping the future before it is ready loses nothing.
    ///
    /// # Errors
    /// [`ConsumeError`]; what breaks off and can be resumed is resumed.
    pub async fn next(&mut self) -> Result<Item, ConsumeError> {
        loop {
            if let Some(event) = self.next_in_batch() {
                return Ok(Item::Event(event));
            }
            if let Some(at) = self.retry_at {
                tokio::time::sleep_until(at).await;
                self.retry_at = None;
            }
            let link = match &mut self.link {
                Some(link) => link,
                None => self.link.insert(Link::open(
                    &self.client,
                    &self.stream,
                    &self.resume,
                    self.options.credit_bytes,
                )),
            };
            let answer = if link.answered {
                link.answers.next().await
            } else {
                // A node may be listening and yet take nobody in: its first word is not waited for for ever.
                let since = *self.failing_since.get_or_insert_with(Instant::now);
                let attempt = self.client.options().attempt_timeout;
                let until = (link.opened + attempt).min(since + self.options.timeout);
                let first = tokio::time::timeout_at(until, link.answers.next()).await;
                first.unwrap_or_else(|_| Some(Err(Status::deadline_exceeded("no answer in time"))))
            };
            let fault = match answer {
                Some(Ok(message)) => {
                    if !link.answered {
                        link.answered = true;
                        self.client.worked(link.node);
                    }
                    self.failing_since = None;
                    self.backoff.reset();
                    if let Some(item) = self.take(message)? {
                        return Ok(item);
                    }
                    continue;
                }
                Some(Err(status)) => fault::of_status(&status),
                None => Fault::broken("the server ended the subscription"),
            };
            self.broke_off(fault)?;
        }
    }

    fn next_in_batch(&mut self) -> Option<ConsumedEvent> {
        let batch = self.batch.as_mut()?;
        let first = batch.first;
        if let Some(record) = batch.records.find(|record| record.offset >= first) {
            self.resume.advance(batch.lane, record.offset.plus(1));
            let event = record.event;
            return Some(ConsumedEvent {
                lane: batch.lane,
                offset: record.offset,
                hlc: batch.hlc,
                timestamp: event.timestamp,
                key: event.key,
                value: event.value,
                headers: event.headers,
            });
        }
        let bytes = batch.bytes;
        self.batch = None;
        self.used(bytes);
        None
    }

    /// Gives credit again once a quarter of it is used up.
    fn used(&mut self, bytes: u64) {
        let Some(link) = &mut self.link else { return };
        link.owed += bytes;
        if link.owed >= self.options.credit_bytes.div_ceil(4) {
            let credit = v1::subscribe_request::Request::Credit(v1::Credit { bytes: link.owed });
            if link.requests.try_send(v1::SubscribeRequest { request: Some(credit) }).is_ok() {
                link.owed = 0;
            }
        }
    }

    fn take(&mut self, message: v1::SubscribeResponse) -> Result<Option<Item>, ConsumeError> {
        match message.response {
            Some(Response::Started(started)) => {
                let cursor = cursor(&started.cursor)?;
                self.resume.on_started(StreamId(started.stream_id), cursor)?;
                Ok(None)
            }
            Some(Response::Batch(batch)) => self.take_batch(batch).map(|()| None),
            Some(Response::Gap(gap)) => {
                let lane = lane(gap.lane.as_ref())?;
                let news = self.resume.on_gap(lane, Offset(gap.first), Offset(gap.next))?;
                Ok(news.map(|(first, next)| Item::Gap(Gap { lane, first, next, reason: gap.reason })))
            }
            Some(Response::Mark(mark)) => {
                self.resume.on_mark(&cursor(&mark.cursor)?)?;
                let cursor = self.resume.cursor().cloned();
                Ok(cursor.map(|cursor| Item::Mark(Mark { cursor, caught_up: mark.caught_up })))
            }
            // A newer server says something that this client needs not know.
            None => Ok(None),
        }
    }

    fn take_batch(&mut self, batch: v1::Batch) -> Result<(), ConsumeError> {
        let lane = lane(batch.lane.as_ref())?;
        let (base, bytes) = (Offset(batch.base_offset), batch.batch.len() as u64);
        match self.resume.admit(lane, base, batch.events, Offset(batch.first_wanted))? {
            Admit::Nothing => self.used(bytes),
            Admit::From(first) => {
                let damaged = |fault| ConsumeError::Damaged { lane, offset: base, fault };
                let mut records = decode(batch.batch, &Limits::DEFAULT).map_err(damaged)?;
                let (events, stored) = (records.info().events, records.clone().next().map(|r| r.offset));
                if events != batch.events || stored != Some(base) {
                    return Err(ConsumeError::Protocol(format!(
                        "a batch of {} events from {base} in lane {lane} holds {events} from {}",
                        batch.events,
                        stored.unwrap_or_default(),
                    )));
                }
                // Skipped ones are not made twice.
                for _ in base.0..first.0 {
                    records.next();
                }
                self.batch = Some(OpenBatch { lane, hlc: Hlc(batch.hlc), first, records, bytes });
            }
        }
        Ok(())
    }

    /// Drops the link, and says when there may be another, or gives up.
    fn broke_off(&mut self, fault: Fault) -> Result<(), ConsumeError> {
        let node = self.link.take().map(|link| link.node);
        let now = Instant::now();
        let waited = now.saturating_duration_since(*self.failing_since.get_or_insert(now));
        let fault = self.unless_damaged_everywhere(fault, now);
        match fault {
            Fault::Retry { after, ref text, .. } if waited < self.options.timeout => {
                tracing::debug!(endpoints = self.client.endpoints(), fault = text, "reading broke off");
                if let Some(node) = node {
                    self.client.broke_off(node, Some(&fault));
                }
                let rest = self.options.timeout - waited;
                let wait = self.backoff.next().max(after.unwrap_or_default()).min(rest.max(MIN_WAIT));
                self.retry_at = Some(now + wait);
                Ok(())
            }
            fault => Err(fault.give_up(self.client.endpoints(), waited).into()),
        }
    }
}

impl Consumer {
    /// What is damaged at one node is repaired there soon, or whole at another: it is asked for again for as long as the options
    /// allow. Opening a subscription works all the while, so that is counted apart.
    fn unless_damaged_everywhere(&mut self, fault: Fault, now: Instant) -> Fault {
        let Fault::Refused(error) = &fault else { return fault };
        if error.reason != Reason::Damaged {
            return fault;
        }
        let timeout = self.options.timeout;
        let recent = self.damaged.filter(|(_, last)| now.saturating_duration_since(*last) < timeout);
        let first = recent.map_or(now, |(first, _)| first);
        self.damaged = Some((first, now));
        if now.saturating_duration_since(first) >= timeout {
            return fault;
        }
        let after = Some(error.retry_after.unwrap_or(DAMAGED_AGAIN_AFTER));
        Fault::Retry { after, reason: Some(error.reason), text: error.to_string() }
    }
}

/// A repair takes a moment, and opening anew is no work for nothing.
const DAMAGED_AGAIN_AFTER: Duration = Duration::from_millis(500);
const MIN_WAIT: Duration = Duration::from_millis(1);

impl Link {
    fn open(client: &Client, stream: &v1::StreamRef, resume: &Resume, credit_bytes: u64) -> Self {
        let node = client.current();
        let channel = client.dedicated_for(node, credit_bytes);
        let (requests, outgoing) = mpsc::channel(CREDIT_QUEUE);
        let start =
            v1::SubscribeStart { stream: Some(stream.clone()), from: Some(from(resume)), credit_bytes };
        let first = v1::SubscribeRequest { request: Some(v1::subscribe_request::Request::Start(start)) };
        let outgoing = futures::stream::once(async { first }).chain(ReceiverStream::new(outgoing));
        let answers = futures::stream::once(async move {
            events(channel).subscribe(outgoing).await.map(tonic::Response::into_inner)
        })
        .try_flatten();
        Self { node, answers: Box::pin(answers), requests, opened: Instant::now(), answered: false, owed: 0 }
    }
}

fn from(resume: &Resume) -> v1::subscribe_start::From {
    use v1::subscribe_start::From;
    match resume.start() {
        StartFrom::Start => From::Earliest(v1::Earliest {}),
        StartFrom::End => From::Latest(v1::Latest {}),
        StartFrom::Time(time) => From::TimeMs(time.0),
        StartFrom::Cursor(cursor) => From::Cursor(cursor.to_bytes().into()),
    }
}

fn cursor(bytes: &[u8]) -> Result<Cursor, ConsumeError> {
    Cursor::from_bytes(bytes).map_err(|error: CursorError| ConsumeError::Protocol(error.to_string()))
}

fn lane(message: Option<&v1::Lane>) -> Result<Lane, ConsumeError> {
    let lane = message.ok_or_else(|| ConsumeError::Protocol("a message without a lane".to_owned()))?;
    Lane::try_from(lane).map_err(|error| ConsumeError::Protocol(error.to_string()))
}
