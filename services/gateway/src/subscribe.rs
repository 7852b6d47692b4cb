//! Subscribe: every lane of a stream that this region holds, within the credit that the reader gives. What this node has no
//! replica of is read at the region's other nodes, within the same room, so a reader that takes nothing holds up nobody there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use meridian_metadata::catalog::StreamRow;
use meridian_types::{Cursor, NodeId, ShardId, StreamId, Timestamp};
use meridian_wire::{ApiError, Reason, v1};
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::Status;
use v1::subscribe_request::Request as In;
use v1::subscribe_response::Response as Out;
use v1::subscribe_start::From;

use crate::budget::Taken;
use crate::connections::Connection;
use crate::following::{Due, Following, Moved, News, Seat};
use crate::held::{Read, read_with_room};
use crate::mending::Mending;
use crate::metered::{PATIENCE, overloaded};
use crate::news::{Grown, ShardNews};
use crate::outgoing::{End as StreamEnd, Outgoing, outgoing};
use crate::peers::{Failed, Told, Upstream};
use crate::received::Incoming;
use crate::shared::{Gateway, SubscriberPlace};

/// How often the catalog is looked at for new partitions and a deletion.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often somebody is looked for who serves a shard that nobody in reach serves.
const SEEK_EVERY: Duration = Duration::from_millis(100);
/// How often a reader is told at most that it has caught up.
const MARK_EVERY: Duration = Duration::from_millis(100);
/// A cursor of up to so many bytes is covered by what is allowed for each subscription.
const FREE_CURSOR: usize = 64 * 1024;
/// What a cursor takes for each of its bytes: as it came, decoded, and on its way back in a mark.
const CURSOR_MEMORY: u64 = 6;

/// Answers are handed over together up to so many bytes: each time two tasks wake each other. One may be larger.
const TOGETHER: usize = 64 * 1024;
/// More than what an answer is longer than its batch.
const ANSWER_OVERHEAD: usize = 96;

/// Answers, each behind its gRPC prefix, and their bytes of the budget.
type Answers = (Bytes, Taken);

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

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Opens a subscription: its first message says where to start.
pub(crate) async fn open(
    gateway: Gateway,
    mut requests: Incoming<v1::SubscribeRequest>,
    connection: Option<Connection>,
) -> Result<(impl Stream<Item = (Bytes, Taken)> + Send + 'static, StreamEnd), ApiError> {
    gateway.check_readable()?;
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
        following: Following::new(Cursor::start(stream.id)),
        stream: stream.id,
        credit: signed(start.credit_bytes),
        news: ShardNews::new(stream.id, gateway.host()),
        upstreams: BTreeMap::new(),
        woken: Arc::default(),
        mending: Mending::default(),
        marked: false,
        marked_at: None,
        cursor_room: Taken::default(),
        _place: place,
        gateway,
    };
    subscription.begin(&stream, start.from).await?;
    subscription.follow_lanes(&stream);
    // One message waits for the connection, one is being read: more would only be memory.
    let (out, queued, end) = outgoing::<Answers>(1, connection);
    tokio::spawn(subscription.run(requests, out, stream.settings.partitions));
    Ok((queued, end))
}

/// Why a request cannot be read, as a client gets it.
fn unreadable(status: &Status) -> ApiError {
    ApiError::from_status(status).unwrap_or_else(|| ApiError::new(Reason::InvalidArgument, status.message()))
}

struct Subscription {
    gateway: Gateway,
    stream: StreamId,
    following: Following,
    /// Below zero while a batch that was larger than what was left is not given back: else each of them would widen the window for good.
    credit: i64,
    /// Of the shards that are read here.
    news: ShardNews,
    /// The nodes where the others are read.
    upstreams: BTreeMap<NodeId, Upstream>,
    /// An upstream has said something.
    woken: Arc<Notify>,
    /// Lanes whose next frame is damaged where it is read.
    mending: Mending,
    /// The reader knows that it has caught up.
    marked: bool,
    /// When it was last told.
    marked_at: Option<Instant>,
    /// Where the cursor is large.
    cursor_room: Taken,
    _place: SubscriberPlace,
}

impl Subscription {
    /// Follows partitions that are new, and regions that write under a new incarnation.
    fn follow_lanes(&mut self, row: &StreamRow) {
        let state = self.gateway.catalog().state();
        for region in state.regions() {
            for origin in region.origins() {
                self.following.follow(origin, region.shards, row.settings.partitions);
            }
        }
        self.look();
    }

    /// Looks where each shard is to be read now.
    fn look(&mut self) {
        for shard in self.following.shards() {
            let holders = self.gateway.region().holders(shard);
            if let Some(moved) = self.following.look(shard, &holders) {
                self.sit(shard, moved);
            }
        }
        let nodes = self.following.nodes();
        self.upstreams.retain(|node, _| nodes.contains(node));
    }

    /// Reads a shard from elsewhere.
    fn sit(&mut self, shard: ShardId, moved: Moved) {
        match moved.from {
            Seat::Here => self.news.leave(shard),
            Seat::At(node) => {
                if let Some(upstream) = self.upstreams.get(&node) {
                    upstream.leave(shard);
                }
            }
            Seat::Nowhere => {}
        }
        match moved.to {
            Seat::Here => {
                if let Some(handle) = self.gateway.host().get(shard) {
                    self.news.watch(&handle);
                    self.following.served(shard, Seat::Here);
                }
            }
            Seat::At(node) => {
                let (gateway, stream, woken) = (&self.gateway, self.stream, &self.woken);
                let upstream = self
                    .upstreams
                    .entry(node)
                    .or_insert_with(|| gateway.peers().watch(node, stream, woken.clone()));
                upstream.add(shard);
            }
            Seat::Nowhere => {
                tracing::debug!(%shard, "a subscription waits: no node in reach serves the shard");
            }
        }
    }

    /// Shards that are read here have shown themselves anew: the lanes that have grown are looked at, and no others.
    fn heard(&mut self, grown: Grown) {
        match grown {
            Grown::Lanes(lanes) => {
                for lane in lanes {
                    self.following.grown(lane, Seat::Here);
                }
            }
            Grown::AnyOf(shard) => self.following.served(shard, Seat::Here),
        }
    }

    /// Takes up what the upstreams have said.
    fn hear_upstreams(&mut self) {
        let told: Vec<(NodeId, Told)> =
            self.upstreams.iter().map(|(node, upstream)| (*node, upstream.told())).collect();
        let mut must_look = false;
        for (node, told) in told {
            for shard in told.here {
                self.following.served(shard, Seat::At(node));
            }
            for lane in told.grown {
                self.following.grown(lane, Seat::At(node));
            }
            must_look |= told.is_lost || !told.not_here.is_empty();
            for shard in told.not_here {
                self.following.left(shard, node);
            }
            if told.is_lost {
                self.lose(node);
            }
        }
        if must_look {
            self.look();
        }
    }

    fn lose(&mut self, node: NodeId) {
        self.upstreams.remove(&node);
        self.following.lost(node);
    }

    /// Sets the cursor to where reading starts.
    async fn begin(&mut self, row: &StreamRow, from: Option<From>) -> Result<(), ApiError> {
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
                self.following.start_at(cursor);
            }
            Some(From::Latest(_)) => self.begin_at(row, None).await?,
            Some(From::TimeMs(time)) => self.begin_at(row, Some(Timestamp(time))).await?,
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
    async fn begin_at(&mut self, row: &StreamRow, time: Option<Timestamp>) -> Result<(), ApiError> {
        // A node that has not found its region may know neither.
        self.gateway.check_ready()?;
        let shards = self.gateway.shards_of_stream(row);
        let mut cursor = Cursor::start(self.stream);
        for extent in self.gateway.extents(self.stream, shards, time).await? {
            cursor.set(extent.lane.origin, extent.lane.partition, extent.at);
        }
        self.following.start_at(cursor);
        Ok(())
    }

    async fn run(
        mut self,
        mut requests: Incoming<v1::SubscribeRequest>,
        out: Outgoing<Answers>,
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
        out: &Outgoing<Answers>,
        partitions: u32,
    ) -> End {
        let started = v1::SubscribeStarted {
            stream_id: self.stream.0,
            partitions,
            cursor: self.following.cursor().to_bytes().into(),
        };
        if let Err(end) = self.send(out, Out::Started(started)).await {
            return end;
        }
        let gateway = self.gateway.clone();
        let draining = gateway.until_draining();
        tokio::pin!(draining);
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut seeks = tokio::time::interval(SEEK_EVERY);
        seeks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut placed = self.gateway.region().changed();
        // A client that sends no more still reads, as far as its credit goes.
        let mut heard_all = false;
        loop {
            let can_read = self.credit > 0 && self.following.has_due();
            if heard_all && self.credit <= 0 {
                return End::Gone;
            }
            // What a node that has not found its region holds may be long past.
            let has_caught_up = self.following.has_caught_up() && !self.marked && self.gateway.is_ready();
            let (woken, seeks_seat) = (self.woken.clone(), self.following.seeks());
            // Not with each batch: it names every lane.
            let mark_at = self.marked_at.map_or_else(Instant::now, |at| at + MARK_EVERY);
            let mend_at = self.mending.next_at();
            tokio::select! {
                biased;
                () = &mut draining => {
                    return ApiError::new(Reason::NotReady, "this node is stopping; go on at another, from your cursor").into();
                }
                message = requests.message(), if !heard_all => match message {
                    Ok(Some((v1::SubscribeRequest { request: Some(In::Credit(credit)) }, _))) => {
                        self.credit = self.credit.saturating_add(signed(credit.bytes));
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
                Ok(()) = placed.changed() => self.look(),
                _ = seeks.tick(), if seeks_seat => self.look(),
                () = woken.notified() => self.hear_upstreams(),
                () = out.answers.closed() => return End::Gone,
                () = tokio::time::sleep_until(mend_at.unwrap_or_else(Instant::now)), if mend_at.is_some() => {
                    for lane in self.mending.due(Instant::now()) {
                        self.following.again(lane);
                    }
                }
                // Before the shards' news, which never end while others publish.
                () = std::future::ready(()), if can_read => {
                    if let Err(end) = self.send_next(out).await {
                        return end;
                    }
                }
                () = tokio::time::sleep_until(mark_at), if has_caught_up => {
                    (self.marked, self.marked_at) = (true, Some(Instant::now()));
                    let mark = v1::Mark { cursor: self.following.cursor().to_bytes().into(), caught_up: true };
                    if let Err(end) = self.send(out, Out::Mark(mark)).await {
                        return end;
                    }
                }
                Some(grown) = self.news.next() => self.heard(grown),
            }
        }
    }

    /// Reads the lane whose turn it is, and sends what there is.
    async fn send_next(&mut self, out: &Outgoing<Answers>) -> Result<(), End> {
        let Some(due) = self.following.next() else { return Ok(()) };
        if self.mending.waits(due.lane) {
            return Ok(());
        }
        let Some((runs, end, mut room)) = self.read(due, out).await? else { return Ok(()) };
        let News { runs, hole } = self.following.take(due.lane, runs, end);
        let mut left: usize = runs.iter().map(|(run, _)| run.batch.len() + ANSWER_OVERHEAD).sum();
        let (mut together, mut taken) = (Vec::new(), 0);
        for (run, first) in runs {
            self.marked = false;
            let (next, bytes) = (run.next(), run.batch.len());
            if !together.is_empty() && together.len() + bytes > TOGETHER {
                self.hand_over(out, std::mem::take(&mut together), room.split(std::mem::take(&mut taken)))
                    .await?;
            }
            if together.is_empty() {
                together.reserve(left.min(TOGETHER).max(bytes + ANSWER_OVERHEAD));
            }
            left -= bytes + ANSWER_OVERHEAD;
            let batch = v1::Batch {
                lane: Some(due.lane.into()),
                base_offset: run.base.0,
                events: run.events,
                hlc: run.hlc,
                first_wanted: first.0,
                batch: run.batch,
            };
            self.credit = self.credit.saturating_sub(signed(bytes as u64));
            self.gateway.metrics().delivered_events.inc_by(next.0 - first.0);
            let response = v1::SubscribeResponse { response: Some(Out::Batch(batch)) };
            meridian_wire::frame_into(&response, &mut together);
            taken += bytes as u64;
        }
        if !together.is_empty() {
            self.hand_over(out, together, room.split(taken)).await?;
        }
        match hole {
            Some(hole) => {
                let (lane, at, next) = (due.lane, hole.at, hole.next);
                let message = format!("lane {lane} has nothing at offset {at}, the next is {next}");
                Err(ApiError::new(Reason::Damaged, message).into())
            }
            None => Ok(()),
        }
    }

    /// The next run of a lane, and room for it, which is taken before it is read; none: it is to be read elsewhere, or later.
    async fn read(&mut self, due: Due, out: &Outgoing<Answers>) -> Result<Option<Read>, End> {
        let gateway = &self.gateway;
        let credit = usize::try_from(self.credit.max(0)).unwrap_or(usize::MAX);
        let budget = gateway.delivery();
        let most = usize::try_from(budget.capacity()).unwrap_or(usize::MAX);
        let limit = gateway.config().subscriber_buffer_bytes.min(credit).min(most).max(1);
        let Due { lane, shard, from, seat } = due;
        let read = || async move {
            match seat {
                Seat::At(node) => gateway.peers().read_lane(node, lane, from, limit as u64).await,
                Seat::Here | Seat::Nowhere => {
                    gateway.read_here(lane, from, limit).await.map_err(Failed::Refused)
                }
            }
        };
        let read = tokio::select! {
            () = out.answers.closed() => return Err(End::Gone),
            read = read_with_room(budget, limit, read) => read,
        };
        match (read, seat) {
            (Ok(read), _) => {
                self.mending.whole(lane);
                Ok(Some(read))
            }
            (Err(Failed::Refused(error)), _) if error.reason == Reason::Damaged => {
                if !self.mending.met(lane, Instant::now()) {
                    return Err(error.into());
                }
                tracing::debug!(%lane, %error, "a subscription waits for a repair");
                self.following.unreadable(lane);
                Ok(None)
            }
            (Err(Failed::Refused(error)), _) => Err(error.into()),
            (Err(Failed::Unreachable(why)), seat) => {
                tracing::debug!(%shard, why, "a lane is to be read elsewhere");
                if let Seat::At(node) = seat {
                    if let Some(upstream) = self.upstreams.get(&node) {
                        upstream.leave(shard);
                    }
                    self.following.left(shard, node);
                }
                self.look();
                Ok(None)
            }
        }
    }

    async fn send(&self, out: &Outgoing<Answers>, response: Out) -> Result<(), End> {
        let response = v1::SubscribeResponse { response: Some(response) };
        let mut framed = Vec::new();
        meridian_wire::frame_into(&response, &mut framed);
        self.hand_over(out, framed, Taken::default()).await
    }

    /// A reader that takes nothing for so long is cut off: its memory is others'.
    async fn hand_over(&self, out: &Outgoing<Answers>, mut framed: Vec<u8>, taken: Taken) -> Result<(), End> {
        // It may lie in HTTP/2's buffers as it is, where its length counts.
        if framed.capacity() > 2 * framed.len() {
            framed.shrink_to_fit();
        }
        let answers = (Bytes::from(framed), taken);
        match tokio::time::timeout(self.gateway.config().slow_reader, out.answers.send(answers)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::Slow),
        }
    }
}
