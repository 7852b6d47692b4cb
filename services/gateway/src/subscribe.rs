//! Subscribe: every lane of a stream that this region holds, within the credit that the reader gives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use meridian_metadata::catalog::StreamRow;
use meridian_shard::{LaneFrames, Progress};
use meridian_storage::FrameKind;
use meridian_types::{Cursor, Lane, Offset, Origin, Partition, Seq, ShardId, StreamId, Timestamp, shard_of};
use meridian_wire::{ApiError, Reason, v1};
use tokio::time::Instant;
use tokio_stream::StreamMap;
use tokio_stream::wrappers::WatchStream;
use tonic::Status;
use v1::subscribe_request::Request as In;
use v1::subscribe_response::Response as Out;
use v1::subscribe_start::From;

use crate::budget::Taken;
use crate::connections::Connection;
use crate::metered::{PATIENCE, overloaded};
use crate::outgoing::{End as StreamEnd, Outgoing, outgoing};
use crate::received::Incoming;
use crate::shared::{Gateway, SubscriberPlace, blocking};

/// How often the catalog is looked at for new partitions and a deletion.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often a reader is told at most that it has caught up.
const MARK_EVERY: Duration = Duration::from_millis(100);
/// A cursor of up to so many bytes is covered by what is allowed for each subscription.
const FREE_CURSOR: usize = 64 * 1024;
/// What a cursor takes for each of its bytes: as it came, decoded, and on its way back in a mark.
const CURSOR_MEMORY: u64 = 6;

/// An answer, and its bytes of the budget.
type Answer = (v1::SubscribeResponse, Taken);

/// Why a subscription ends.
enum End {
    /// The reader wants no more.
    Gone,
    /// It takes nothing.
    Slow,
    /// Something else.
    Error(ApiError),
}

impl std::convert::From<ApiError> for End {
    fn from(error: ApiError) -> Self {
        Self::Error(error)
    }
}

/// Opens a subscription: its first message says where to start.
pub(crate) async fn open(
    gateway: Gateway,
    mut requests: Incoming<v1::SubscribeRequest>,
    connection: Option<Connection>,
) -> Result<(impl Stream<Item = (Bytes, Taken)> + Send + 'static, StreamEnd), ApiError> {
    gateway.check_ready()?;
    let first = match requests.message().await {
        // Its room is kept until it was read.
        Ok(message) => message.and_then(|(message, taken)| Some((message.request?, taken))),
        Err(status) => return Err(unreadable(&status)),
    };
    let (first, _room) = first.unzip();
    let Some(In::Start(start)) = first else {
        return Err(ApiError::new(Reason::InvalidArgument, "a subscription begins with `start`"));
    };
    let (_, stream) = gateway.stream(start.stream.as_ref()).await?;
    let place = gateway.take_subscriber()?;
    let mut subscription = Subscription {
        cursor: Cursor::start(stream.id),
        stream: stream.id,
        followed: BTreeMap::new(),
        credit: start.credit_bytes,
        due: VecDeque::new(),
        queued: BTreeSet::new(),
        lanes: BTreeMap::new(),
        shards: StreamMap::new(),
        applied: BTreeMap::new(),
        marked: false,
        marked_at: None,
        cursor_room: Taken::default(),
        _place: place,
        gateway,
    };
    subscription.follow_lanes(&stream);
    subscription.begin(start.from).await?;
    // One message waits for the connection, one is being read: more would only be memory.
    let (out, queued, end) = outgoing::<Answer>(1, connection);
    tokio::spawn(subscription.run(requests, out, stream.settings.partitions));
    Ok((queued.map(|(message, taken)| (meridian_wire::framed(&message), taken)), end))
}

/// Why a request cannot be read, as a client gets it.
fn unreadable(status: &Status) -> ApiError {
    ApiError::from_status(status).unwrap_or_else(|| ApiError::new(Reason::InvalidArgument, status.message()))
}

struct Subscription {
    gateway: Gateway,
    stream: StreamId,
    /// How many partitions of each writer are followed.
    followed: BTreeMap<Origin, u32>,
    cursor: Cursor,
    credit: u64,
    /// Lanes that may hold something to read, each once.
    due: VecDeque<Lane>,
    queued: BTreeSet<Lane>,
    lanes: BTreeMap<ShardId, Vec<Lane>>,
    shards: StreamMap<ShardId, WatchStream<Progress>>,
    /// How far each of them was applied when its lanes were last looked at.
    applied: BTreeMap<ShardId, Seq>,
    /// The reader knows that it has caught up.
    marked: bool,
    /// When it was last told.
    marked_at: Option<Instant>,
    /// Where the cursor is large.
    cursor_room: Taken,
    _place: SubscriberPlace,
}

impl Subscription {
    /// Follows the shards of partitions that are new, and of regions that write under a new incarnation.
    fn follow_lanes(&mut self, row: &StreamRow) {
        let state = self.gateway.catalog().state();
        let origins =
            state.regions().flat_map(|region| region.origins().map(|origin| (origin, region.shards)));
        for (origin, shards) in origins {
            let followed = self.followed.insert(origin, row.settings.partitions).unwrap_or(0);
            for partition in (followed..row.settings.partitions).map(Partition) {
                let lane = Lane { stream: self.stream, partition, origin };
                let no = shard_of(lane.stream, lane.partition, shards);
                self.lanes.entry(ShardId { origin, no }).or_default().push(lane);
                self.make_due(lane);
            }
        }
        self.follow_shards();
    }

    /// Follows the shards that have turned up here, and looks at their lanes.
    fn follow_shards(&mut self) {
        let host = self.gateway.host();
        let found: Vec<_> = self
            .lanes
            .keys()
            .filter(|shard| !self.shards.contains_key(shard))
            .filter_map(|&shard| Some((shard, host.get(shard)?.watch())))
            .collect();
        for (shard, mut watch) in found {
            self.applied.insert(shard, watch.borrow_and_update().applied);
            self.shards.insert(shard, WatchStream::from_changes(watch));
            self.make_lanes_due(shard);
        }
    }

    /// A shard has shown itself anew: the lanes that have grown are looked at, and no others.
    fn heard(&mut self, shard: ShardId, applied: Seq) {
        let before = self.applied.insert(shard, applied).unwrap_or(Seq::ZERO);
        if before == applied {
            return;
        }
        match self.gateway.host().reader().lanes_after(shard, before) {
            Some(grown) => {
                let followed = self.lanes.get(&shard).map(Vec::as_slice).unwrap_or_default();
                let grown: Vec<Lane> = followed.iter().filter(|lane| grown.contains(lane)).copied().collect();
                for lane in grown {
                    self.make_due(lane);
                }
            }
            None => self.make_lanes_due(shard),
        }
    }

    fn make_lanes_due(&mut self, shard: ShardId) {
        for lane in self.lanes.get(&shard).cloned().unwrap_or_default() {
            self.make_due(lane);
        }
    }

    fn make_due(&mut self, lane: Lane) {
        if self.queued.insert(lane) {
            self.due.push_back(lane);
        }
    }

    /// Sets the cursor to where reading starts.
    async fn begin(&mut self, from: Option<From>) -> Result<(), ApiError> {
        match from {
            None | Some(From::Earliest(_)) => {}
            Some(From::Cursor(bytes)) => {
                self.cursor_room = self.room_for_cursor(bytes.len()).await?;
                let cursor = Cursor::from_bytes(&bytes)
                    .map_err(|error| ApiError::new(Reason::BadCursor, error.to_string()))?;
                if cursor.stream != self.stream {
                    return Err(ApiError::new(
                        Reason::BadCursor,
                        format!("the cursor is of stream {}, this is stream {}", cursor.stream, self.stream),
                    ));
                }
                self.cursor = cursor;
            }
            Some(From::Latest(_)) => self.begin_at(None).await?,
            Some(From::TimeMs(time)) => self.begin_at(Some(Timestamp(time))).await?,
        }
        Ok(())
    }

    async fn room_for_cursor(&self, bytes: usize) -> Result<Taken, ApiError> {
        if bytes <= FREE_CURSOR {
            return Ok(Taken::default());
        }
        let budget = self.gateway.cursors();
        let room = tokio::time::timeout(PATIENCE, budget.acquire(bytes as u64 * CURSOR_MEMORY)).await;
        room.ok().flatten().ok_or_else(|| overloaded("large cursors", budget))
    }

    /// Starts each lane at a time, or at its end.
    async fn begin_at(&mut self, time: Option<Timestamp>) -> Result<(), ApiError> {
        let (reader, stream) = (self.gateway.host().reader(), self.stream);
        let starts = blocking(move || {
            let mut starts = Vec::new();
            for (lane, state) in reader.lanes_of(stream)? {
                let at = match time {
                    Some(time) => reader.offset_at(lane, time)?,
                    None => None,
                };
                starts.push((lane, at.unwrap_or(state.end)));
            }
            Ok(starts)
        })
        .await?;
        for (lane, next) in starts {
            self.cursor.set(lane.origin, lane.partition, next);
        }
        Ok(())
    }

    async fn run(
        mut self,
        mut requests: Incoming<v1::SubscribeRequest>,
        out: Outgoing<Answer>,
        partitions: u32,
    ) {
        match self.serve(&mut requests, &out, partitions).await {
            End::Gone => {}
            End::Slow => out.cut_off(&self.gateway),
            End::Error(error) => {
                self.gateway.refused(&error);
                out.end(error);
            }
        }
    }

    async fn serve(
        &mut self,
        requests: &mut Incoming<v1::SubscribeRequest>,
        out: &Outgoing<Answer>,
        partitions: u32,
    ) -> End {
        let started = v1::SubscribeStarted {
            stream_id: self.stream.0,
            partitions,
            cursor: self.cursor.to_bytes().into(),
        };
        if let Err(end) = self.send(out, Out::Started(started), Taken::default()).await {
            return end;
        }
        let gateway = self.gateway.clone();
        let draining = gateway.until_draining();
        tokio::pin!(draining);
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // A client that sends no more still reads, as far as its credit goes.
        let mut heard_all = false;
        loop {
            let can_read = self.credit > 0 && !self.due.is_empty();
            if heard_all && self.credit == 0 {
                return End::Gone;
            }
            let has_caught_up = self.due.is_empty() && !self.marked;
            // Not with each batch: it names every lane.
            let mark_at = self.marked_at.map_or_else(Instant::now, |at| at + MARK_EVERY);
            tokio::select! {
                biased;
                () = &mut draining => {
                    return ApiError::new(Reason::NotReady, "this node is stopping; go on at another, from your cursor").into();
                }
                message = requests.message(), if !heard_all => match message {
                    Ok(Some((v1::SubscribeRequest { request: Some(In::Credit(credit)) }, _))) => {
                        self.credit = self.credit.saturating_add(credit.bytes);
                    }
                    Ok(Some(_)) => {
                        return ApiError::new(Reason::InvalidArgument, "a subscription starts once; after that it takes credit").into();
                    }
                    Ok(None) => heard_all = true,
                    Err(status) => return unreadable(&status).into(),
                },
                _ = look.tick() => {
                    let row = self.gateway.catalog().state().stream(self.stream).cloned();
                    match row {
                        Some(row) => self.follow_lanes(&row),
                        None => return ApiError::new(Reason::StreamNotFound, "the stream was deleted").into(),
                    }
                }
                () = out.answers.closed() => return End::Gone,
                // Before the shards' news, which never end while others publish.
                () = std::future::ready(()), if can_read => {
                    if let Err(end) = self.send_next(out).await {
                        return end;
                    }
                }
                () = tokio::time::sleep_until(mark_at), if has_caught_up => {
                    (self.marked, self.marked_at) = (true, Some(Instant::now()));
                    let mark = v1::Mark { cursor: self.cursor.to_bytes().into(), caught_up: true };
                    if let Err(end) = self.send(out, Out::Mark(mark), Taken::default()).await {
                        return end;
                    }
                }
                Some((shard, progress)) = self.shards.next() => self.heard(shard, progress.applied),
            }
        }
    }

    /// Reads the lane whose turn it is, and sends what there is.
    async fn send_next(&mut self, out: &Outgoing<Answer>) -> Result<(), End> {
        let Some(lane) = self.due.pop_front() else { return Ok(()) };
        self.queued.remove(&lane);
        let from = self.cursor.next(lane.origin, lane.partition);
        let (LaneFrames { frames, end }, mut room) = self.read(lane, from, out).await?;
        let Some(last) = frames.last() else { return Ok(()) };
        if last.header.next_offset() < end {
            // There is more: it waits its turn behind the other lanes.
            self.make_due(lane);
        }
        self.marked = false;
        let mut next = from;
        for frame in frames {
            if frame.header.kind != FrameKind::Events || frame.header.next_offset() <= next {
                continue;
            }
            if frame.header.base_offset > next
                && next > Offset::ZERO
                && self.cursor.has(lane.origin, lane.partition)
            {
                return Err(ApiError::new(
                    Reason::Damaged,
                    format!(
                        "lane {lane} has nothing at offset {next}, the next is {}",
                        frame.header.base_offset
                    ),
                )
                .into());
            }
            let bytes = frame.payload.len() as u64;
            let batch = v1::Batch {
                lane: Some(lane.into()),
                base_offset: frame.header.base_offset.0,
                events: frame.header.events,
                hlc: frame.header.hlc.0,
                first_wanted: next.0.max(frame.header.base_offset.0),
                batch: frame.payload,
            };
            next = frame.header.next_offset();
            self.credit = self.credit.saturating_sub(bytes);
            self.gateway.metrics().delivered_events.inc_by(next.0 - batch.first_wanted);
            self.send(out, Out::Batch(batch), room.split(bytes)).await?;
        }
        self.cursor.set(lane.origin, lane.partition, next);
        Ok(())
    }

    /// The next frames of a lane, and room for them. Room is taken before they are read. A frame that is larger than
    /// what one read takes is put back and read again with room for all of it: to hold some room while waiting for more
    /// would let readers wait for each other.
    async fn read(
        &self,
        lane: Lane,
        from: Offset,
        out: &Outgoing<Answer>,
    ) -> Result<(LaneFrames, Taken), End> {
        let config = self.gateway.config();
        let credit = usize::try_from(self.credit).unwrap_or(usize::MAX);
        let budget = self.gateway.delivery();
        let most = usize::try_from(budget.capacity()).unwrap_or(usize::MAX);
        let limit = config.subscriber_buffer_bytes.min(credit).min(most).max(1);
        let mut wanted = limit as u64;
        loop {
            let mut room = tokio::select! {
                () = out.answers.closed() => return Err(End::Gone),
                room = budget.acquire(wanted.min(budget.capacity())) => room.unwrap_or_default(),
            };
            let reader = self.gateway.host().reader();
            let read = blocking(move || reader.lane_frames(lane, from, limit)).await?;
            let bytes: u64 = read.frames.iter().map(|frame| frame.payload.len() as u64).sum();
            if bytes <= room.bytes() || wanted >= budget.capacity() {
                // What was not needed is others'.
                return Ok((read, room.split(bytes)));
            }
            wanted = bytes;
        }
    }

    /// A reader that takes nothing for so long is cut off: its memory is others'.
    async fn send(&self, out: &Outgoing<Answer>, response: Out, taken: Taken) -> Result<(), End> {
        let answer = (v1::SubscribeResponse { response: Some(response) }, taken);
        match tokio::time::timeout(self.gateway.config().slow_reader, out.answers.send(answer)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::Slow),
        }
    }
}
