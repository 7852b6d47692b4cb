//! Between words on the wire and what the cores know.

use meridian_metadata::driver::{Election as Told, FenceAnswer, FenceOutcome, Heartbeat, Led};
use meridian_metadata::placement::Elected;
use meridian_mirror::{join_frames, split_frames};
use meridian_shard::{Ack, Election, LogPoint, Message, Reject, ReplicaSet};
use meridian_storage::Chain;
use meridian_types::{
    Boot, Hlc, Lane, LeaderEpoch, LogEnd, LogEpoch, NodeId, Offset, ProducerEpoch, Seq, SetVersion, ShardId,
};
use meridian_wire::v1::{self, replica_word};

/// A word that says nothing that this build understands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadWord(pub String);

fn missing(what: &str) -> BadWord {
    BadWord(format!("the word has no {what}"))
}

pub(crate) fn shard(shard: Option<&v1::ShardRef>) -> Result<ShardId, BadWord> {
    ShardId::try_from(shard.ok_or_else(|| missing("shard"))?).map_err(|error| BadWord(error.to_string()))
}

fn probe(attempt: u32, at: LogPoint) -> v1::ReplicaProbe {
    v1::ReplicaProbe {
        attempt,
        seq: at.seq.0,
        log_epoch: at.epoch.0,
        chain: bytes::Bytes::copy_from_slice(&at.chain.0),
        end: None,
        doubt: false,
    }
}

fn point(probe: &v1::ReplicaProbe) -> Result<LogPoint, BadWord> {
    let chain: [u8; 16] = probe.chain[..].try_into().map_err(|_| missing("chain of 16 bytes"))?;
    Ok(LogPoint { seq: Seq(probe.seq), epoch: LogEpoch(probe.log_epoch), chain: Chain(chain) })
}

pub(crate) fn replica_to_wire(shard: ShardId, message: &Message) -> v1::Word {
    use replica_word::Word;
    let (epoch, word) = match message {
        Message::Probe { epoch, attempt, at, doubt } => {
            (epoch, Word::Probe(v1::ReplicaProbe { doubt: *doubt, ..probe(*attempt, *at) }))
        }
        Message::Mismatch { epoch, attempt, mine } => (epoch, Word::Mismatch(probe(*attempt, *mine))),
        Message::Match { epoch, attempt, at, end } => {
            let end = end.map(|seq| seq.0);
            (epoch, Word::Match(v1::ReplicaProbe { end, ..probe(*attempt, *at) }))
        }
        Message::Frames { epoch, frames, committed } => {
            let count = u32::try_from(frames.len()).unwrap_or(u32::MAX);
            let frames = join_frames(frames);
            (epoch, Word::Frames(v1::ReplicaFrames { count, frames, committed: committed.0 }))
        }
        Message::Committed { epoch, seq } => (epoch, Word::Committed(seq.0)),
        Message::Flushed { epoch, set, seq } => {
            (epoch, Word::Flushed(v1::ReplicaFlushed { set_version: set.0, seq: seq.0 }))
        }
        Message::Confirm { epoch, round } => (epoch, Word::Confirm(*round)),
        Message::Confirmed { epoch, round } => (epoch, Word::Confirmed(*round)),
        Message::Fenced { promised } => (promised, Word::Fenced(true)),
        Message::Leads { epoch } => (epoch, Word::Leads(true)),
    };
    let word = v1::ReplicaWord { shard: Some(shard.into()), epoch: epoch.0, word: Some(word) };
    v1::Word { word: Some(v1::word::Word::Replica(word)) }
}

pub(crate) fn replica_from_wire(word: v1::ReplicaWord) -> Result<(ShardId, Message), BadWord> {
    use replica_word::Word;
    let shard = shard(word.shard.as_ref())?;
    let epoch = LeaderEpoch(word.epoch);
    let message = match word.word.ok_or_else(|| missing("content that is known here"))? {
        Word::Probe(probe) => {
            Message::Probe { epoch, attempt: probe.attempt, at: point(&probe)?, doubt: probe.doubt }
        }
        Word::Mismatch(probe) => Message::Mismatch { epoch, attempt: probe.attempt, mine: point(&probe)? },
        Word::Match(probe) => {
            Message::Match { epoch, attempt: probe.attempt, at: point(&probe)?, end: probe.end.map(Seq) }
        }
        Word::Frames(frames) => Message::Frames {
            epoch,
            committed: Seq(frames.committed),
            frames: split_frames(frames.frames, frames.count).map_err(|error| BadWord(error.to_string()))?,
        },
        Word::Committed(seq) => Message::Committed { epoch, seq: Seq(seq) },
        Word::Flushed(flushed) => {
            Message::Flushed { epoch, set: SetVersion(flushed.set_version), seq: Seq(flushed.seq) }
        }
        Word::Confirm(round) => Message::Confirm { epoch, round },
        Word::Confirmed(round) => Message::Confirmed { epoch, round },
        Word::Fenced(_) => Message::Fenced { promised: epoch },
        Word::Leads(_) => Message::Leads { epoch },
    };
    Ok((shard, message))
}

pub(crate) fn heartbeat_to_wire(heartbeat: &Heartbeat) -> v1::NodeHeartbeat {
    v1::NodeHeartbeat {
        node: heartbeat.node.0,
        boot: heartbeat.boot.0,
        full: heartbeat.full,
        leads: heartbeat
            .leads
            .iter()
            .map(|led| v1::LedShard {
                shard: Some(led.shard.into()),
                epoch: led.epoch.0,
                settled: led.settled,
                caught_up: led.caught_up.map(|node| node.0),
                durable: led.durable.0,
            })
            .collect(),
    }
}

pub(crate) fn heartbeat_from_wire(heartbeat: &v1::NodeHeartbeat) -> Result<Heartbeat, BadWord> {
    let led = |led: &v1::LedShard| {
        Ok(Led {
            shard: shard(led.shard.as_ref())?,
            epoch: LeaderEpoch(led.epoch),
            settled: led.settled,
            caught_up: led.caught_up.map(NodeId),
            durable: Seq(led.durable),
        })
    };
    Ok(Heartbeat {
        node: NodeId(heartbeat.node),
        boot: Boot(heartbeat.boot),
        full: heartbeat.full,
        leads: heartbeat.leads.iter().map(led).collect::<Result<_, _>>()?,
    })
}

pub(crate) fn fenced_to_wire(node: NodeId, boot: Boot, answers: &[FenceAnswer]) -> v1::NodeFenced {
    use v1::shard_fenced::Outcome;
    let answers = answers.iter().map(|answer| v1::ShardFenced {
        shard: Some(answer.shard.into()),
        epoch: answer.epoch.0,
        outcome: Some(match answer.outcome {
            FenceOutcome::Promised { end, unsure_from } => Outcome::Promised(v1::FencePromised {
                log_epoch: end.epoch.0,
                seq: end.seq.0,
                unsure_from: unsure_from.map(|seq| seq.0),
            }),
            FenceOutcome::Refused { promised } => Outcome::Refused(promised.0),
        }),
    });
    v1::NodeFenced { node: node.0, boot: boot.0, answers: answers.collect() }
}

pub(crate) fn fenced_from_wire(fenced: &v1::NodeFenced) -> Result<Vec<FenceAnswer>, BadWord> {
    use v1::shard_fenced::Outcome;
    let answer = |answer: &v1::ShardFenced| {
        Ok(FenceAnswer {
            shard: shard(answer.shard.as_ref())?,
            epoch: LeaderEpoch(answer.epoch),
            outcome: match answer.outcome.as_ref().ok_or_else(|| missing("outcome"))? {
                Outcome::Promised(promised) => FenceOutcome::Promised {
                    end: LogEnd { epoch: LogEpoch(promised.log_epoch), seq: Seq(promised.seq) },
                    unsure_from: promised.unsure_from.map(Seq),
                },
                Outcome::Refused(promised) => FenceOutcome::Refused { promised: LeaderEpoch(*promised) },
            },
        })
    };
    fenced.answers.iter().map(answer).collect()
}

pub(crate) fn told_to_wire(elections: &[Told]) -> v1::TellElections {
    let elections = elections.iter().map(|told| v1::ToldElection {
        shard: Some(told.shard.into()),
        epoch: told.elected.epoch.0,
        leader: told.elected.node.0,
        boot: told.elected.boot.0,
        set_version: told.version.0,
        members: told.members.iter().map(|node| node.0).collect(),
    });
    v1::TellElections { elections: elections.collect() }
}

pub(crate) fn told_from_wire(told: &v1::TellElections) -> Result<Vec<(ShardId, Election)>, BadWord> {
    let election = |told: &v1::ToldElection| {
        let members = told.members.iter().copied().map(NodeId).collect();
        let elected =
            Elected { epoch: LeaderEpoch(told.epoch), node: NodeId(told.leader), boot: Boot(told.boot) };
        Ok((shard(told.shard.as_ref())?, election_of(elected, SetVersion(told.set_version), members)))
    };
    told.elections.iter().map(election).collect()
}

/// A placement's election, as a replica takes it.
pub(crate) fn election_of(elected: Elected, version: SetVersion, members: Vec<NodeId>) -> Election {
    let Elected { epoch, node, boot } = elected;
    Election { epoch, leader: node, boot, set: ReplicaSet { version, members } }
}

/// What a forwarded publish came to; none: the leader's node stops.
pub(crate) fn answer_to_wire(id: u64, answer: Option<Result<Ack, Reject>>) -> v1::ForwardAnswer {
    use v1::forward_answer::Answer;
    use v1::forward_reject::Code;
    let reject =
        |code: Code, got, expected| Answer::Reject(v1::ForwardReject { code: code.into(), got, expected });
    let answer = match answer {
        Some(Ok(ack)) => Answer::Ack(v1::ForwardAck {
            lane: Some(ack.lane.into()),
            base_offset: ack.base_offset.0,
            seq: ack.seq.0,
            hlc: ack.hlc.0,
            duplicate: ack.duplicate,
        }),
        Some(Err(Reject::NotLeader)) => reject(Code::NotLeader, 0, 0),
        Some(Err(Reject::ProducerFenced { got, current })) => {
            reject(Code::ProducerFenced, i32::from(got.0), i32::from(current.0))
        }
        Some(Err(Reject::ProducerExpired)) => reject(Code::ProducerExpired, 0, 0),
        Some(Err(Reject::OutOfSequence { got, expected })) => reject(Code::OutOfSequence, got, expected),
        Some(Err(Reject::Damaged)) => reject(Code::Damaged, 0, 0),
        None => reject(Code::Stopped, 0, 0),
    };
    v1::ForwardAnswer { id, answer: Some(answer) }
}

/// The inverse of [`answer_to_wire`]; none: the leader's node stops, or said what is not known here.
pub(crate) fn answer_from_wire(answer: v1::ForwardAnswer) -> Option<Result<Ack, Reject>> {
    use v1::forward_answer::Answer;
    use v1::forward_reject::Code;
    let epoch = |value: i32| ProducerEpoch(i16::try_from(value).unwrap_or(i16::MAX));
    match answer.answer? {
        Answer::Ack(ack) => Some(Ok(Ack {
            lane: Lane::try_from(ack.lane.as_ref()?).ok()?,
            base_offset: Offset(ack.base_offset),
            seq: Seq(ack.seq),
            hlc: Hlc(ack.hlc),
            duplicate: ack.duplicate,
        })),
        Answer::Reject(reject) => Some(Err(match reject.code() {
            Code::NotLeader => Reject::NotLeader,
            Code::ProducerFenced => {
                Reject::ProducerFenced { got: epoch(reject.got), current: epoch(reject.expected) }
            }
            Code::ProducerExpired => Reject::ProducerExpired,
            Code::OutOfSequence => Reject::OutOfSequence { got: reject.got, expected: reject.expected },
            Code::Damaged => Reject::Damaged,
            Code::Stopped | Code::Unspecified => return None,
        })),
    }
}
