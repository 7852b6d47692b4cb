//! The task that executes a replica's effects: the only place where a shard meets channels, the volume and the index.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use meridian_storage::index::{FrameEffects, Index};
use meridian_storage::{Chain, Entry, Frame, FrameKind, Place, Submission, WriterHandle};
use meridian_types::{Clock, Hlc, LeaderEpoch, NodeId, Seq, ShardId};
use tokio::sync::{mpsc, oneshot, watch};

use crate::core::Replica;
use crate::{Ack, CopyFault, Effect, Input, Placement, Publish, Reject, RequestId, Tail, frame_effects};

/// Messages handled before the frames that came of them are queued as one submission.
const BURST: usize = 256;

/// The most frames that are applied in one batch.
const APPLY_RUN: usize = 4096;

/// Sums over the applied frames of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events.
    pub events: u64,
    /// Payload bytes of Events frames.
    pub bytes: u64,
}

/// What a shard shows of itself.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The last frame handed to the volume.
    pub appended: Seq,
    /// The last committed frame.
    pub committed: Seq,
    /// The last applied frame: what readers may read.
    pub applied: Seq,
    /// The chain of the last appended frame.
    pub chain: Chain,
    /// The hlc of the last applied frame.
    pub hlc: Hlc,
    /// Over the applied frames.
    pub totals: Totals,
    /// The leadership that this node holds.
    pub leads: Option<LeaderEpoch>,
    /// It accepts publishes (in the origin) or frames (in a copy).
    pub ready: bool,
    /// The log is damaged here above what is applied: nothing is appended.
    pub damaged: bool,
    /// How many frames recovery found damaged: they are not served.
    pub quarantined: u64,
    /// Why a copy takes no more frames.
    pub fault: Option<CopyFault>,
}

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

pub(crate) enum Message {
    Publish(Publish, oneshot::Sender<Result<Ack, Reject>>),
    Copy(Vec<Frame>),
}

enum Synced {
    Frames(Vec<Option<Place>>),
    Promise(LeaderEpoch),
}

/// Talks to a shard's task.
#[derive(Clone)]
pub struct ShardHandle {
    /// Which shard.
    pub id: ShardId,
    messages: mpsc::Sender<Message>,
    progress: watch::Receiver<Progress>,
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
        self.messages.send(Message::Publish(publish, reply)).await.map_err(|_| PublishError::Stopped)?;
        Ok(answer)
    }

    /// Hands over frames that the origin committed, in order. Returns false once the node stops.
    pub async fn copy(&self, frames: Vec<Frame>) -> bool {
        self.messages.send(Message::Copy(frames)).await.is_ok()
    }

    /// What the shard shows now.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Follows what the shard shows.
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }
}

/// A frame on its way from the log's end into the index.
pub(crate) struct Unapplied {
    /// The place is set once the frame is flushed.
    pub effects: FrameEffects,
    /// For the tail; none for replayed frames.
    pub frame: Option<Frame>,
}

pub(crate) struct ShardTask {
    pub replica: Replica,
    pub shard: ShardId,
    pub me: NodeId,
    pub index: Arc<Index>,
    pub writer: WriterHandle,
    pub clock: Arc<dyn Clock>,
    pub placement: Arc<dyn Placement>,
    pub fatal: Arc<dyn Fn(String) + Send + Sync>,
    pub tail: Arc<Tail>,
    pub unapplied: VecDeque<Unapplied>,
    pub totals: Totals,
    pub damaged: bool,
    pub quarantined: u64,
}

/// What the task carries from step to step.
struct Running {
    task: ShardTask,
    answers: HashMap<RequestId, oneshot::Sender<Result<Ack, Reject>>>,
    next_request: u64,
    /// Queued for the volume, not yet known to be synced: the head of `unapplied` without a place.
    to_submit: Vec<Entry>,
    flushed: Seq,
    applied_hlc: Hlc,
    fault: Option<CopyFault>,
    synced: mpsc::UnboundedSender<Synced>,
    election: Option<crate::Election>,
    progress: watch::Sender<Progress>,
}

impl ShardTask {
    /// Starts the task. It asks placement for a leadership at once.
    pub fn spawn(self) -> (ShardHandle, tokio::task::JoinHandle<()>) {
        let (messages, inbox) = mpsc::channel(BURST);
        let (synced, synced_inbox) = mpsc::unbounded_channel();
        let marks = self.replica.marks();
        let first = Progress {
            appended: marks.appended,
            committed: marks.committed,
            applied: marks.applied,
            chain: self.replica.chain(),
            hlc: Hlc::ZERO,
            totals: self.totals,
            leads: None,
            ready: false,
            damaged: self.damaged,
            quarantined: self.quarantined,
            fault: None,
        };
        let (progress, watcher) = watch::channel(first);
        let handle = ShardHandle { id: self.shard, messages, progress: watcher };
        let running = Running {
            flushed: marks.flushed,
            applied_hlc: if marks.applied == marks.appended { self.replica.hlc() } else { Hlc::ZERO },
            task: self,
            answers: HashMap::new(),
            next_request: 0,
            to_submit: Vec::new(),
            fault: None,
            synced,
            election: None,
            progress,
        };
        (handle, tokio::spawn(running.run(inbox, synced_inbox)))
    }
}

impl Running {
    async fn run(mut self, mut inbox: mpsc::Receiver<Message>, mut synced: mpsc::UnboundedReceiver<Synced>) {
        self.ask_placement();
        self.submit();
        let mut burst = Vec::with_capacity(BURST);
        loop {
            // Flush reports first: they free memory and answer clients.
            tokio::select! {
                biased;
                Some(report) = synced.recv() => {
                    self.on_synced(report);
                    while let Ok(report) = synced.try_recv() {
                        self.on_synced(report);
                    }
                }
                count = inbox.recv_many(&mut burst, BURST) => {
                    if count == 0 {
                        return;
                    }
                    for message in burst.drain(..) {
                        self.on_message(message);
                    }
                }
            }
            self.submit();
            self.show();
        }
    }

    fn ask_placement(&mut self) {
        let election = self.task.placement.begin(self.task.shard, self.task.replica.standing());
        if election.leader == self.task.me {
            self.step(Input::Fence { epoch: election.epoch });
            self.election = Some(election);
        }
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::Publish(mut publish, reply) => {
                if reply.is_closed() {
                    return;
                }
                publish.request = RequestId(self.next_request);
                self.next_request += 1;
                self.answers.insert(publish.request, reply);
                if let Some(producer) = publish.producer {
                    self.learn(publish.stream, publish.partition, producer.id);
                }
                self.step(Input::Publish(publish));
            }
            Message::Copy(frames) => {
                for frame in frames {
                    if frame.header.kind == FrameKind::Events
                        && let Some(producer) =
                            frame_effects(&frame, Place { file: 0, at: 0, len: 0 }).producer
                    {
                        self.learn(frame.header.stream, frame.header.partition, producer.id);
                    }
                    self.step(Input::Copy(frame));
                }
            }
        }
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
        let lane = meridian_types::Lane { stream, partition, origin: self.task.shard.origin };
        match self.task.index.producer(lane, id) {
            Ok(state) => self.task.replica.learn(stream, partition, id, state),
            Err(error) => self.die(format!("the index cannot be read: {error}")),
        }
    }

    fn on_synced(&mut self, report: Synced) {
        match report {
            Synced::Promise(epoch) => {
                if let Some(election) = self.election.take_if(|election| election.epoch == epoch) {
                    self.step(Input::Lead { epoch, set: election.set });
                }
            }
            Synced::Frames(places) => {
                // Submissions are synced in order, so these are the oldest frames without a place.
                let first = usize::try_from(self.flushed.0 - self.applied().0).unwrap_or(usize::MAX);
                for (frame, place) in self.task.unapplied.iter_mut().skip(first).zip(places) {
                    if let Some(place) = place {
                        frame.effects.place = place;
                        self.flushed = frame.effects.header.seq;
                    }
                }
                self.step(Input::Flushed(self.flushed));
            }
        }
    }

    fn applied(&self) -> Seq {
        self.task.replica.marks().applied
    }

    fn step(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.task.replica.step(input, self.task.clock.now(), &mut effects);
        for effect in effects {
            self.execute(effect);
        }
    }

    /// The one place where effects happen.
    fn execute(&mut self, effect: Effect) {
        match effect {
            Effect::Append(frame) => {
                let nowhere = Place { file: 0, at: 0, len: 0 };
                self.task.unapplied.push_back(Unapplied {
                    effects: frame_effects(&frame, nowhere),
                    frame: Some(frame.clone()),
                });
                self.to_submit.push(Entry::Frame(frame));
            }
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
            Effect::Apply { through } => self.apply(through),
            Effect::Ack { request, ack } => self.answer(request, Ok(ack)),
            Effect::Reject { request, reject } => self.answer(request, Err(reject)),
            Effect::Fault(fault) => {
                tracing::error!(shard = %self.task.shard, %fault, "this copy is faulted: nothing is appended to it any more");
                self.fault = Some(fault);
            }
        }
    }

    fn answer(&mut self, request: RequestId, result: Result<Ack, Reject>) {
        if let Some(reply) = self.answers.remove(&request) {
            // A caller that has gone needs no answer; its events stay.
            let _ = reply.send(result);
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
            if let Some(frame) = frame.frame {
                self.task.tail.push(frame);
            }
        }
        self.step(Input::Applied(through));
        count
    }

    fn submit(&mut self) {
        if self.to_submit.is_empty() {
            return;
        }
        let synced = self.synced.clone();
        self.task.writer.submit(Submission {
            shard: self.task.shard,
            entries: std::mem::take(&mut self.to_submit),
            done: Box::new(move |flushed| {
                let _ = synced.send(Synced::Frames(flushed.places));
            }),
        });
    }

    fn show(&self) {
        let marks = self.task.replica.marks();
        self.progress.send_replace(Progress {
            appended: marks.appended,
            committed: marks.committed,
            applied: marks.applied,
            chain: self.task.replica.chain(),
            hlc: self.applied_hlc,
            totals: self.task.totals,
            leads: self.task.replica.leads(),
            ready: self.task.replica.is_ready(),
            damaged: self.task.damaged,
            quarantined: self.task.quarantined,
            fault: self.fault.clone(),
        });
    }

    fn die(&self, why: String) {
        (self.task.fatal)(format!("shard {}: {why}", self.task.shard));
    }
}
