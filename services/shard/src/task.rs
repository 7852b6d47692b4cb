//! The task that executes a replica's effects: the only place where a shard meets channels, the volume and the index.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use meridian_storage::index::{FrameEffects, Index, IndexError, ProducerState};
use meridian_storage::{Entry, Frame, FrameKind, Place, Submission, WriterHandle};
use meridian_types::mutant::{self, Mutant};
use meridian_types::{Clock, Hlc, Incarnation, Lane, LeaderEpoch, NodeId, Origin, ProducerId, Seq, ShardId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::answers::{Answer, Answers};
use crate::message::LogPoint;
use crate::{
    Ack, CopyFault, Effect, Election, FenceAnswer, Input, Message, Peers, Placement, Progress, Publish,
    Quarantine, Reader, Reject, Replica, RequestId, Tail, Totals, frame_effects, tail,
};

/// Messages handled before the frames that came of them are queued as one submission.
const BURST: usize = 256;

/// After how long a follower's question is taken up again that met a frame which cannot be read.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The most frames that are applied in one batch.
const APPLY_RUN: usize = 4096;

/// Why a publish has no acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// It got no offset.
    #[error(transparent)]
    Rejected(#[from] Reject),
    /// The node stops; whether the batch was stored is not known, and a retry finds out.
    #[error("the node is stopping")]
    Stopped,
}

/// Effects that have room from step to step.
const EFFECTS: usize = 1024;

/// Who is told what came of a publish. Dropped untold, the node stops.
pub trait Reply: Send {
    /// Whether anybody still waits. One that nobody waits for when its turn comes is not stored.
    fn is_wanted(&self) -> bool;

    /// Called on the shard's task: it must not block.
    fn tell(self: Box<Self>, result: Result<Ack, Reject>);
}

impl Reply for oneshot::Sender<Result<Ack, Reject>> {
    fn is_wanted(&self) -> bool {
        !self.is_closed()
    }

    fn tell(self: Box<Self>, result: Result<Ack, Reject>) {
        let _ = self.send(result);
    }
}

/// A place in a shard's queue.
pub struct QueuePlace<'a>(mpsc::Permit<'a, Request>);

impl QueuePlace<'_> {
    /// Takes the place with a batch.
    pub fn publish(self, publish: Publish, reply: Box<dyn Reply>) {
        self.0.send(Request::Publish(publish, reply));
    }
}

pub(crate) enum Request {
    Publish(Publish, Box<dyn Reply>),
    Read(oneshot::Sender<Result<Seq, Reject>>),
    Copy(LeaderEpoch, Vec<Frame>),
    Fence(LeaderEpoch, oneshot::Sender<FenceAnswer>),
    Begun(LeaderEpoch, bool),
    Elected(Election),
    From(NodeId, Message),
    Connected(NodeId),
    FlushedBy(NodeId, oneshot::Sender<Option<Seq>>),
}

enum Synced {
    /// Where frames lie, and how far the log is told to be applied.
    Frames(Vec<(LogPoint, Place)>, Seq),
    Cut(LogPoint),
    Promise(LeaderEpoch),
    Sure,
}

/// Talks to a shard's task.
#[derive(Clone)]
pub struct ShardHandle {
    /// Which shard.
    pub id: ShardId,
    requests: mpsc::Sender<Request>,
    progress: watch::Receiver<Progress>,
    quarantine: Arc<Quarantine>,
}

impl ShardHandle {
    /// Publishes a batch and waits until it is committed. Dropping the future takes nothing back. `request` is chosen
    /// by the task.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(&self, publish: Publish) -> Result<Ack, PublishError> {
        let answer = self.begin_publish(publish).await?;
        answer.await.map_err(|_| PublishError::Stopped)?.map_err(PublishError::from)
    }

    /// Puts a batch into the shard's queue; its place among this caller's batches is settled once this returns.
    ///
    /// # Errors
    /// The node stops.
    pub async fn begin_publish(
        &self,
        publish: Publish,
    ) -> Result<oneshot::Receiver<Result<Ack, Reject>>, PublishError> {
        let (reply, answer) = oneshot::channel();
        self.queue_place().await?.publish(publish, Box::new(reply));
        Ok(answer)
    }

    /// Waits for a place in the shard's queue. Batches of one caller keep the order in which they take their places.
    ///
    /// # Errors
    /// The node stops.
    pub async fn queue_place(&self) -> Result<QueuePlace<'_>, PublishError> {
        self.requests.reserve().await.map(QueuePlace).map_err(|_| PublishError::Stopped)
    }

    /// Hands over frames that the origin committed, in order, to this leadership of the copy. Returns false once the node stops.
    pub async fn copy(&self, epoch: LeaderEpoch, frames: Vec<Frame>) -> bool {
        self.requests.send(Request::Copy(epoch, frames)).await.is_ok()
    }

    /// What is committed: everything that was acknowledged, anywhere, before this was called is at or below it.
    ///
    /// # Errors
    /// [`PublishError`]: this node does not lead, or stops.
    pub async fn read(&self) -> Result<Seq, PublishError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Read(reply)).await.map_err(|_| PublishError::Stopped)?;
        answer.await.map_err(|_| PublishError::Stopped)?.map_err(PublishError::from)
    }

    /// Has the replica promise to do nothing below `epoch`, and say how far its log is. None once the node stops.
    pub async fn fence(&self, epoch: LeaderEpoch) -> Option<FenceAnswer> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Fence(epoch, reply)).await.ok()?;
        answer.await.ok()
    }

    /// Tells a damaged replica that placement, asked since this process began, has begun nothing above this epoch, and whether it
    /// has never elected anybody. Returns false once the node stops.
    pub async fn begun(&self, epoch: LeaderEpoch, untouched: bool) -> bool {
        self.requests.send(Request::Begun(epoch, untouched)).await.is_ok()
    }

    /// Tells the replica whom placement has elected. Returns false once the node stops.
    pub async fn elected(&self, election: Election) -> bool {
        self.requests.send(Request::Elected(election)).await.is_ok()
    }

    /// Hands over what another replica says. Returns false once the node stops.
    pub async fn said(&self, node: NodeId, message: Message) -> bool {
        self.requests.send(Request::From(node, message)).await.is_ok()
    }

    /// The way to a node is new: if it leads the shard, the replica asks it again where they agree. Returns false once
    /// this node stops.
    pub async fn connected(&self, node: NodeId) -> bool {
        self.requests.send(Request::Connected(node)).await.is_ok()
    }

    /// How far a node that follows this leader has flushed; none: it does not, or this is no leader.
    pub async fn flushed_by(&self, node: NodeId) -> Option<Seq> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::FlushedBy(node, reply)).await.ok()?;
        answer.await.ok().flatten()
    }

    /// What the shard shows now.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// How many of its applied frames are damaged here, and how many were repaired since the start.
    pub fn quarantined(&self) -> (u64, u64) {
        self.quarantine.counts(self.id)
    }

    /// Follows what the shard shows.
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }
}

/// A frame on its way from the log's end into the index.
pub(crate) struct Unapplied {
    pub effects: FrameEffects,
    /// Its place is known.
    pub flushed: bool,
}

pub(crate) struct ShardTask {
    pub replica: Replica,
    pub shard: ShardId,
    pub index: Arc<Index>,
    pub writer: WriterHandle,
    pub clock: Arc<dyn Clock>,
    pub placement: Arc<dyn Placement>,
    pub peers: Arc<dyn Peers>,
    pub reader: Reader,
    pub fatal: Arc<dyn Fn(String) + Send + Sync>,
    pub tail: Arc<Tail>,
    pub unapplied: VecDeque<Unapplied>,
    pub totals: Totals,
    pub mark_after: Duration,
    /// How far the volume says that the log was applied.
    pub was_applied: Seq,
}

/// What the task carries from step to step.
struct Running {
    task: ShardTask,
    answers: Answers,
    /// Committed and flushed, and to be applied before anything else happens: once for all that was flushed meanwhile.
    to_apply: Option<Seq>,
    /// Kept for its memory.
    effects: Vec<Effect>,
    /// Queued for the volume in the next submission.
    to_submit: Vec<Entry>,
    /// How far the volume was told that the log is applied, and how far that is synced.
    marking: Seq,
    marked: Seq,
    /// When it is told more, unless frames take it along before.
    mark_at: Option<Instant>,
    applied_hlc: Hlc,
    fault: Option<CopyFault>,
    synced: mpsc::UnboundedSender<Synced>,
    /// Its own inbox; weak, for the task ends with its handles.
    itself: mpsc::WeakSender<Request>,
    fences: Vec<(LeaderEpoch, oneshot::Sender<FenceAnswer>)>,
    /// Begun by this node itself, where it is the only one.
    election: Option<Election>,
    progress: watch::Sender<Progress>,
    /// Frames were appended that nobody who watches was woken for.
    untold: bool,
    /// Other nodes are fed from this log, as soon as it grows.
    feeds: bool,
}

impl ShardTask {
    /// Starts the task. It asks placement for a leadership at once.
    pub fn spawn(self) -> (ShardHandle, tokio::task::JoinHandle<()>) {
        let (requests, inbox) = mpsc::channel(BURST);
        let (synced, synced_inbox) = mpsc::unbounded_channel();
        let marks = self.replica.marks();
        let applied_hlc = if marks.applied == marks.appended { self.replica.hlc() } else { Hlc::ZERO };
        let (progress, watcher) = watch::channel(self.progress(Hlc::ZERO, marks.applied, None));
        let itself = requests.downgrade();
        let quarantine = self.reader.quarantine().clone();
        let handle = ShardHandle { id: self.shard, requests, progress: watcher, quarantine };
        let mut running = Running {
            applied_hlc,
            task: self,
            answers: Answers::default(),
            to_apply: None,
            effects: Vec::new(),
            to_submit: Vec::new(),
            marking: marks.applied,
            marked: marks.applied,
            mark_at: None,
            fault: None,
            synced,
            itself,
            fences: Vec::new(),
            election: None,
            progress,
            untold: false,
            feeds: false,
        };
        // Before anybody sees it: what it shows is what is left, where others are lost.
        running.step(Input::WasApplied(running.task.was_applied));
        running.apply_due();
        running.show(true);
        (handle, tokio::spawn(running.run(inbox, synced_inbox)))
    }

    fn progress(&self, applied_hlc: Hlc, marked: Seq, fault: Option<CopyFault>) -> Progress {
        Progress::of(&self.replica, applied_hlc, self.totals, marked, fault)
    }
}

impl Running {
    async fn run(mut self, mut inbox: mpsc::Receiver<Request>, mut synced: mpsc::UnboundedReceiver<Synced>) {
        self.ask_placement();
        self.apply_due();
        self.submit();
        let mut burst = Vec::with_capacity(BURST);
        loop {
            let mut flushed = false;
            // Flush reports first: they free memory and answer clients.
            tokio::select! {
                biased;
                Some(report) = synced.recv() => {
                    flushed = true;
                    self.on_synced(report);
                    while let Ok(report) = synced.try_recv() {
                        // One batch for the index of all that was flushed; before anything else it has what it is to have.
                        if !matches!(report, Synced::Frames(..)) {
                            self.apply_due();
                        }
                        self.on_synced(report);
                    }
                }
                count = inbox.recv_many(&mut burst, BURST) => {
                    if count == 0 {
                        return;
                    }
                    for request in burst.drain(..) {
                        self.on_request(request);
                        self.apply_due();
                    }
                }
                () = at(self.mark_at) => {
                    self.mark_at = None;
                    self.mark();
                }
            }
            self.apply_due();
            self.submit();
            self.show(flushed);
        }
    }

    fn ask_placement(&mut self) {
        let replica = &self.task.replica;
        let promised = replica.promised();
        let begun = self.task.placement.begin(self.task.shard, promised, replica.end().end());
        if let Some(election) = begun {
            let epoch = election.epoch;
            // Nobody else has a part in it, so what was begun is what is known here.
            self.step(Input::Begun { epoch: promised, untouched: false });
            self.election = Some(election);
            self.step(Input::Fence { epoch });
        }
    }

    fn on_request(&mut self, request: Request) {
        match request {
            Request::Publish(mut publish, reply) => {
                if !reply.is_wanted() {
                    return;
                }
                publish.request = self.answers.add(Answer::Publish(reply));
                if let Some(producer) = publish.producer {
                    self.learn(publish.stream, publish.partition, producer.id);
                }
                self.step(Input::Publish(publish));
            }
            Request::Read(reply) => {
                let request = self.answers.add(Answer::Read(reply));
                self.step(Input::Read { request });
            }
            Request::Copy(epoch, frames) => {
                for frame in frames {
                    self.step(Input::Copy { epoch, frame });
                }
            }
            Request::Fence(epoch, reply) => {
                // A full disk answers no fence, and whoever asked asks again.
                self.fences.retain(|(_, reply)| !reply.is_closed());
                self.fences.push((epoch, reply));
                self.step(Input::Fence { epoch });
            }
            Request::Begun(epoch, untouched) => self.step(Input::Begun { epoch, untouched }),
            Request::Elected(election) => self.step(Input::Elected(election)),
            Request::From(node, message) => {
                if let Some(held) = self.look_up(node, &message) {
                    self.step(Input::From { node, message, held });
                }
            }
            Request::Connected(node) => {
                if self.task.replica.follows().is_some_and(|(leader, _)| leader == node) {
                    self.step(Input::Connected);
                }
            }
            Request::FlushedBy(node, reply) => drop(reply.send(self.task.replica.flushed_by(node))),
        }
    }

    /// What the replica has to know of its applied log to hear this; none: it cannot be read now, and is asked again once
    /// it may have been repaired.
    fn look_up(&self, node: NodeId, message: &Message) -> Option<Option<LogPoint>> {
        let Some((seq, epoch)) = self.task.replica.must_look_up(message) else { return Some(None) };
        let error = match self.task.reader.newest(self.task.shard, seq, epoch) {
            Ok(point) => return Some(Some(point)),
            Err(error) => error,
        };
        tracing::error!(shard = %self.task.shard, %seq, %error, "a follower asks for a frame that cannot be read");
        let (itself, message) = (self.itself.clone(), message.clone());
        tokio::spawn(async move {
            tokio::time::sleep(ASK_AGAIN).await;
            if let Some(requests) = itself.upgrade() {
                let _ = requests.send(Request::From(node, message)).await;
            }
        });
        None
    }

    fn learn(
        &mut self,
        stream: meridian_types::StreamId,
        partition: meridian_types::Partition,
        id: meridian_types::ProducerId,
    ) {
        if !self.task.replica.must_learn(stream, partition, id) {
            return;
        }
        let lane = Lane { stream, partition, origin: self.task.shard.origin };
        let index = &self.task.index;
        let learnt = index.producer(lane, id).and_then(|state| Ok((state, past_producer(index, lane, id)?)));
        match learnt {
            Ok((state, past)) => self.task.replica.learn(stream, partition, id, state, past),
            Err(error) => self.die(format!("the index cannot be read: {error}")),
        }
    }

    fn on_synced(&mut self, report: Synced) {
        match report {
            Synced::Promise(epoch) => self.step(Input::Promised { epoch }),
            Synced::Sure => self.step(Input::Sure),
            Synced::Cut(LogPoint { seq, chain, .. }) => self.step(Input::Flushed { seq, chain }),
            Synced::Frames(places, marked) => {
                self.marked = marked;
                let Some(first) = self.task.unapplied.front().map(|frame| frame.effects.header.seq) else {
                    return;
                };
                let mut last = None;
                for (point, place) in places {
                    let at = point.seq.0.checked_sub(first.0).and_then(|at| usize::try_from(at).ok());
                    // What was cut while it was written is not there any more, or another frame is.
                    if let Some(frame) = at.and_then(|at| self.task.unapplied.get_mut(at))
                        && frame.effects.header.chain == point.chain
                    {
                        frame.effects.place = place;
                        frame.flushed = true;
                        last = Some(point);
                    }
                }
                if let Some(LogPoint { seq, chain, .. }) = last {
                    self.step(Input::Flushed { seq, chain });
                }
            }
        }
    }

    fn applied(&self) -> Seq {
        self.task.replica.marks().applied
    }

    fn step(&mut self, input: Input) {
        // An effect may be a step of its own, which then finds no memory kept and makes its own.
        let mut effects = std::mem::take(&mut self.effects);
        self.task.replica.step(input, self.task.clock.now(), &mut effects);
        for effect in effects.drain(..) {
            self.execute(effect);
        }
        // A step of many acknowledgements is not to leave its room behind for good.
        effects.shrink_to(EFFECTS);
        self.effects = effects;
    }

    /// The one place where effects happen.
    fn execute(&mut self, effect: Effect) {
        match effect {
            Effect::Append(frame) => {
                let nowhere = Place { file: 0, at: 0, len: 0 };
                let effects = frame_effects(&frame, nowhere);
                self.task.unapplied.push_back(Unapplied { effects, flushed: false });
                self.task.tail.append(tail::Unapplied::InMemory(frame.clone()));
                self.to_submit.push(Entry::Frame(frame));
            }
            Effect::Cut { after } => self.cut(after),
            Effect::Promise(promise) => {
                // Its own submission: what it follows is queued before it.
                self.submit();
                let synced = self.synced.clone();
                self.task.writer.submit(Submission {
                    shard: self.task.shard,
                    entries: vec![Entry::Promise(promise)],
                    done: Box::new(move |_| {
                        let _ = synced.send(Synced::Promise(promise.epoch));
                    }),
                });
            }
            Effect::Doubt { from } => self.doubt(from),
            Effect::Answer(answer) => self.answer_fence(answer),
            Effect::Send { to, message } => self.task.peers.send(self.task.shard, to, message),
            Effect::Feed { to, epoch, after } => {
                self.feeds = true;
                self.task.peers.feed(self.task.shard, to, epoch, after);
            }
            Effect::StopFeeding => {
                self.feeds = false;
                self.task.peers.stop_feeding(self.task.shard);
            }
            Effect::Apply { through } => self.to_apply = Some(through),
            Effect::Ack { request, ack } => self.answer(request, Ok(ack)),
            Effect::Reject { request, reject } => self.answer(request, Err(reject)),
            Effect::Readable { request, committed } => {
                if let Some(Answer::Read(reply)) = self.answers.take(request) {
                    let _ = reply.send(Ok(committed));
                }
            }
            Effect::Fault(fault) => {
                tracing::error!(shard = %self.task.shard, %fault, "this copy is faulted: nothing is appended to it any more");
                self.fault = Some(fault);
            }
        }
    }

    /// A caller that has gone needs no answer; its events stay.
    fn answer(&mut self, request: RequestId, result: Result<Ack, Reject>) {
        match (self.answers.take(request), result) {
            (Some(Answer::Publish(reply)), result) => reply.tell(result),
            (Some(Answer::Read(reply)), Err(reject)) => drop(reply.send(Err(reject))),
            (Some(Answer::Read(_)) | None, _) => {}
        }
    }

    fn answer_fence(&mut self, answer: FenceAnswer) {
        let (asked, promised) = match answer {
            FenceAnswer::Promised { epoch, .. } => (epoch, epoch),
            FenceAnswer::Refused { epoch, promised } => (epoch, promised),
        };
        for (epoch, reply) in std::mem::take(&mut self.fences) {
            if epoch == asked {
                let _ = reply.send(answer);
            } else if epoch < promised {
                let _ = reply.send(FenceAnswer::Refused { epoch, promised });
            } else {
                self.fences.push((epoch, reply));
            }
        }
        if let FenceAnswer::Promised { epoch, .. } = answer
            && let Some(election) = self.election.take_if(|election| election.epoch == epoch)
        {
            self.step(Input::Elected(election));
        }
    }

    fn doubt(&mut self, from: Option<Seq>) {
        self.submit();
        let (synced, shard) = (self.synced.clone(), self.task.shard);
        match from {
            Some(from) => {
                tracing::warn!(%shard, %from, "what follows here may be lost: this replica is in doubt until it has caught up");
            }
            None => tracing::info!(%shard, "this replica has caught up: its doubt is over"),
        }
        self.task.writer.submit(Submission {
            shard,
            entries: vec![Entry::Doubt { shard, from }],
            done: Box::new(move |_| {
                if from.is_none() {
                    let _ = synced.send(Synced::Sure);
                }
            }),
        });
    }

    /// What is queued but not submitted goes first, so that the cut finds it in the volume's queue.
    fn cut(&mut self, after: LogPoint) {
        self.submit();
        while self.task.unapplied.pop_back_if(|frame| frame.effects.header.seq > after.seq).is_some() {}
        self.task.tail.cut(after.seq);
        let synced = self.synced.clone();
        let shard = self.task.shard;
        self.task.writer.submit(Submission {
            shard,
            entries: vec![Entry::Cut { shard, from: after.seq.next() }],
            done: Box::new(move |_| {
                let _ = synced.send(Synced::Cut(after));
            }),
        });
    }

    /// Brings into the index what is to be there, until a step has no more for it.
    fn apply_due(&mut self) {
        while let Some(through) = self.to_apply.take() {
            self.apply(through);
        }
    }

    fn apply(&mut self, through: Seq) {
        let count = usize::try_from(through.0 - self.applied().0)
            .unwrap_or(usize::MAX)
            .min(self.task.unapplied.len());
        // Step by step: all that a new index lacks would be one batch in memory otherwise.
        let mut left = count;
        while left > 0 {
            left -= self.apply_run(left.min(APPLY_RUN));
        }
    }

    /// Applies the next `count` frames at once; how many these were.
    fn apply_run(&mut self, count: usize) -> usize {
        let run: Vec<Unapplied> = self.task.unapplied.drain(..count).collect();
        let Some(through) = run.last().map(|last| last.effects.header.seq) else { return count };
        if run.iter().any(|frame| !frame.flushed) {
            self.die(format!("frames up to {through} were to be applied before they are flushed"));
            return count;
        }
        let effects: Vec<FrameEffects> = run.iter().map(|frame| frame.effects).collect();
        if let Err(error) = self.task.index.apply(self.task.shard, &effects) {
            self.die(format!("the index takes nothing: {error}"));
            return count;
        }
        for frame in run {
            let header = frame.effects.header;
            if header.kind == FrameKind::Events {
                self.task.totals.events += u64::from(header.events);
                self.task.totals.bytes += u64::from(header.payload_len);
            }
            self.applied_hlc = header.hlc;
        }
        self.task.tail.applied(through);
        self.step(Input::Applied(through));
        count
    }

    /// Has the volume told how far the log is applied.
    fn mark(&mut self) {
        let (shard, through) = (self.task.shard, self.applied());
        if through > self.marking {
            self.marking = through;
            self.to_submit.push(Entry::Applied { shard, through });
        }
    }

    fn submit(&mut self) {
        if self.to_submit.is_empty() {
            if self.mark_at.is_none() && self.applied() > self.marking {
                self.mark_at = Some(Instant::now() + self.task.mark_after);
            }
            return;
        }
        self.mark();
        self.mark_at = None;
        let synced = self.synced.clone();
        let mut entries = std::mem::take(&mut self.to_submit);
        if let from @ Some(_) = self.task.replica.doubt_to_write() {
            entries.insert(0, Entry::Doubt { shard: self.task.shard, from });
        }
        let points: Vec<Option<LogPoint>> = entries.iter().map(point_of).collect();
        let marked = self.marking;
        self.task.writer.submit(Submission {
            shard: self.task.shard,
            entries,
            done: Box::new(move |flushed| {
                let places = points.into_iter().zip(flushed.places);
                let places = places.filter_map(|(point, place)| Some((point?, place?))).collect();
                let _ = synced.send(Synced::Frames(places, marked));
            }),
        });
    }

    /// Shows what is now. Whoever watches is woken by what has changed, but by frames that are only appended where others have to
    /// take them: their flush is shown next, and that is soon enough for everybody else.
    fn show(&mut self, flushed: bool) {
        let now = self.task.progress(self.applied_hlc, self.marked, self.fault.clone());
        let tells_appended = flushed || self.feeds;
        let untold = &mut self.untold;
        self.progress.send_if_modified(|shown| {
            let only_appended = Progress { appended: now.appended, chain: now.chain, ..shown.clone() } == now;
            let changed = *shown != now;
            *shown = now;
            *untold |= changed;
            let tell = *untold && (tells_appended || !only_appended);
            *untold &= !tell;
            tell
        });
    }

    fn die(&self, why: String) {
        (self.task.fatal)(format!("shard {}: {why}", self.task.shard));
    }
}

/// Never, where there is nothing to wait for: an idle shard has no timer.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

fn point_of(entry: &Entry) -> Option<LogPoint> {
    let Entry::Frame(frame) = entry else { return None };
    let header = &frame.header;
    Some(LogPoint { seq: header.seq, epoch: header.log_epoch, chain: header.chain })
}

/// What the newest of the region's earlier incarnations that knows a producer has of it. A partition keeps its shard's
/// number, so that replica is here where the sets of the two shards are alike.
///
/// # Errors
/// The index cannot be read.
pub fn past_producer(
    index: &Index,
    lane: Lane,
    id: ProducerId,
) -> Result<Option<(Origin, ProducerState)>, IndexError> {
    if mutant::is(Mutant::PastForgotten) {
        return Ok(None);
    }
    for incarnation in (1..lane.origin.incarnation.0).rev().map(Incarnation) {
        let origin = Origin { incarnation, ..lane.origin };
        if let Some(state) = index.producer(Lane { origin, ..lane }, id)? {
            return Ok(Some((origin, state)));
        }
    }
    Ok(None)
}
