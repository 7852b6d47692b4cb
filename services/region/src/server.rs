//! What this node is told by the region's other nodes.

use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use meridian_batch::{BatchView, Producer, Sequence};
use meridian_mirror::DurableMark;
use meridian_shard::{Publish, PublishError, Reject, RequestId, ShardHost, Totals};
use meridian_types::{LeaderEpoch, NodeId, Partition, RegionName, Seq, StreamId, TenantId};
use meridian_wire::{ApiError, Reason, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use v1::word::Word;

use crate::agent::Event;
use crate::convert::{self, BadWord, answer_from_wire, answer_to_wire};
use crate::elections;
use crate::region::Region;

/// While more than what may be pushed ahead waits for the volume, this long between two looks.
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// Answers the region's other nodes.
#[derive(Clone)]
pub struct RegionServer(Region);

impl RegionServer {
    /// Serves what `region` holds to nodes that it knows.
    pub fn new(region: Region) -> Self {
        Self(region)
    }

    /// The tonic service, with room for a batch.
    pub fn into_service(self) -> v1::region_service_server::RegionServiceServer<Self> {
        v1::region_service_server::RegionServiceServer::new(self)
            .max_decoding_message_size(crate::way::WORD_BYTES)
            .max_encoding_message_size(crate::way::WORD_BYTES)
    }
}

#[tonic::async_trait]
impl v1::region_service_server::RegionService for RegionServer {
    type SpeakStream = Pin<Box<dyn Stream<Item = Result<v1::Hello, Status>> + Send>>;

    async fn speak(
        &self,
        request: Request<Streaming<v1::Word>>,
    ) -> Result<Response<Self::SpeakStream>, Status> {
        let mut words = request.into_inner();
        let Some(Word::Hello(hello)) = words.message().await?.and_then(|word| word.word) else {
            return Err(ApiError::new(Reason::InvalidArgument, "the first word is no Hello").into());
        };
        let node = self.0.meet(&hello)?;
        if self.0.0.host.get().is_none() {
            let error = ApiError::new(Reason::NotReady, "this node has not opened its shards yet");
            return Err(error.retry_after(Duration::from_millis(100)).into());
        }
        let (answers, stream) = mpsc::channel(1);
        let _ = answers.send(Ok(self.0.0.me.to_hello())).await;
        let region = self.0.clone();
        tokio::spawn(async move {
            region.0.ask_again(node);
            let why = tokio::select! {
                why = listen(&region, node, words) => why,
                () = region.0.closed.cancelled() => "this node ends".to_owned(),
            };
            tracing::info!(%node, why, "a node of this region has ended what it said");
            region.0.forwards.lost(node);
            let _ = region.0.events.send(Event::Suspect(node));
            drop(answers);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

async fn listen(region: &Region, node: NodeId, mut words: Streaming<v1::Word>) -> String {
    loop {
        let word = match words.message().await {
            Ok(Some(v1::Word { word: Some(word) })) => word,
            // Of a newer build.
            Ok(Some(v1::Word { word: None })) => continue,
            Ok(None) => return "it was ended".to_owned(),
            Err(status) => return status.message().to_owned(),
        };
        if let Err(BadWord(why)) = hear(region, node, word).await {
            return why;
        }
    }
}

async fn hear(region: &Region, node: NodeId, word: Word) -> Result<(), BadWord> {
    let inner = &region.0;
    let Some(host) = inner.host.get() else { return Ok(()) };
    match word {
        Word::Hello(_) => return Err(BadWord("a second Hello".to_owned())),
        Word::Replica(word) => {
            if matches!(word.word, Some(v1::replica_word::Word::Frames(_))) {
                // The volume's queue takes whatever it is given: who pushes must wait here.
                while host.queued_bytes() > inner.config.replication_bytes {
                    tokio::time::sleep(FULL_PAUSE).await;
                }
            }
            let (shard, message) = convert::replica_from_wire(word)?;
            if let Some(handle) = host.get(shard) {
                handle.said(node, message).await;
            }
        }
        Word::Heartbeat(heartbeat) => {
            let heartbeat = convert::heartbeat_from_wire(&heartbeat)?;
            if heartbeat.node == node {
                inner.heard(node, heartbeat.full);
                let _ = inner.events.send(Event::Heard(heartbeat));
            }
        }
        Word::Suspect(suspect) => drop(inner.events.send(Event::Suspect(NodeId(suspect)))),
        Word::Fence(fence) => {
            let wanted = fence
                .shards
                .iter()
                .map(|fence| Ok((convert::shard(fence.shard.as_ref())?, LeaderEpoch(fence.epoch))));
            let wanted: Vec<_> = wanted.collect::<Result<_, BadWord>>()?;
            let region = region.clone();
            tokio::spawn(async move {
                let answers = elections::fence(&region, wanted).await;
                let me = &region.0.me;
                region.0.say(node, Word::Fenced(convert::fenced_to_wire(me.node, me.boot, &answers)));
            });
        }
        Word::Fenced(fenced) => {
            let answers = convert::fenced_from_wire(&fenced)?;
            let boot = meridian_types::Boot(fenced.boot);
            let _ = inner.events.send(Event::Fenced { node, boot, answers });
        }
        Word::Tell(told) => {
            for (shard, election) in convert::told_from_wire(&told)? {
                elections::tell(region, shard, election).await;
            }
        }
        Word::Publish(publish) => take(region, host, node, publish).await,
        Word::Published(answer) => {
            let id = answer.id;
            inner.forwards.answered(node, id, answer_from_wire(answer));
        }
        Word::Durable(durable) => note_durable(region, durable)?,
    }
    Ok(())
}

/// A batch of another node's client: its place in the shard's queue is settled here, in the order of the words; its answer
/// comes when it comes.
async fn take(region: &Region, host: &ShardHost, from: NodeId, publish: v1::ForwardPublish) {
    let id = publish.id;
    let begun = match read(publish) {
        Ok(publish) => match host.home_shard(publish.stream, publish.partition) {
            Some(shard) if region.has_recovered(shard.id) => shard.begin_publish(publish).await,
            _ => Err(PublishError::Rejected(Reject::NotLeader)),
        },
        Err(()) => Err(PublishError::Rejected(Reject::NotLeader)),
    };
    let region = region.clone();
    tokio::spawn(async move {
        let answer = match begun {
            Ok(answer) => answer.await.ok(),
            Err(PublishError::Rejected(reject)) => Some(Err(reject)),
            Err(PublishError::Stopped) => None,
        };
        region.0.say(from, Word::Published(answer_to_wire(id, answer)));
    });
}

/// The batch passed the checks of the node that took it in; what is read of it here is what the shard needs.
fn read(publish: v1::ForwardPublish) -> Result<Publish, ()> {
    let view = BatchView::new(&publish.batch).map_err(drop)?;
    let events = u32::try_from(view.records_count()).map_err(drop)?;
    let producer = Sequence::new(view.base_sequence()).filter(|_| view.producer_id().is_some());
    let producer =
        producer.map(|sequence| Producer { id: view.producer_id(), epoch: view.producer_epoch(), sequence });
    Ok(Publish {
        request: RequestId(0),
        tenant: TenantId(publish.tenant),
        stream: StreamId(publish.stream_id),
        partition: Partition(publish.partition),
        events,
        producer,
        batch: publish.batch,
    })
}

fn note_durable(region: &Region, durable: v1::RegionDurable) -> Result<(), BadWord> {
    let name = RegionName::new(durable.region).map_err(|error| BadWord(error.to_string()))?;
    let mark = durable.mark.ok_or_else(|| BadWord("the word has no mark".to_owned()))?;
    let shard = convert::shard(mark.shard.as_ref())?;
    let hosting = (mark.hosting_incarnation, LeaderEpoch(mark.leader_epoch));
    let totals = Totals { events: mark.events, bytes: mark.bytes };
    region.0.board.report(shard, &name, DurableMark { seq: Seq(mark.seq), totals, hosting });
    Ok(())
}
