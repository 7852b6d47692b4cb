//! All that can happen in a history, on one screen.

use std::collections::VecDeque;

use bytes::Bytes;
use meridian_metadata::driver;
use meridian_mirror::{FeedEffect, FeedInput, LinkEffect, RefusedReason};
use meridian_shard::{Ack, Message, Publish, Reject, RequestId, Stretch};
use meridian_types::{Boot, LeaderEpoch, NodeId, Seq, ShardId};

use crate::queue::Synced;

/// A process of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    pub node: NodeId,
    pub life: u64,
}

/// What nodes of a region say to each other.
#[derive(Clone, Debug)]
pub enum Packet {
    Replica(ShardId, Message),
    Heartbeat(driver::Heartbeat),
    Fence(Vec<(ShardId, LeaderEpoch)>),
    Fenced(Boot, Vec<driver::FenceAnswer>),
    Tell(Vec<driver::Election>),
}

/// What a source says on a link.
#[derive(Clone, Debug)]
pub enum Reply {
    Feed(FeedEffect),
    Refused { shard: ShardId, reason: RefusedReason, last: Seq, message: String, holders: Vec<NodeId> },
    Pong,
}

/// What happens.
#[derive(Clone, Debug)]
pub enum Event {
    RoundBegins(At),
    RoundEnds(At),
    Synced(At, ShardId, Synced),
    FlushIndex(At),
    Start(NodeId),
    Packet { from: NodeId, to: At, connection: u64, packet: Box<Packet> },
    Connected { node: At, peer: NodeId, connection: u64 },
    Pump { at: At, shard: ShardId, to: NodeId },
    Heartbeat(At),
    ConfirmEnds(At, ShardId, RequestId),
    GroupTick(usize),
    SeatTick(usize, u64),
    SeatEnds(usize, u64),
    Ordered { group: usize, command: Bytes },
    NotOrdered { group: usize, seat: u64 },
    ApplyPlacement(NodeId),
    ApplyCatalog(NodeId),
    LoseDisks(usize),
    Restore(usize),
    LinkTick(At),
    LinkConnect(At, usize),
    LinkLeg(At, usize, NodeId, u64),
    LinkConnected(u64),
    LinkRequest(u64, Box<LinkEffect>),
    LinkReply(u64, Box<Reply>),
    SessionTick(u64, u64),
    SessionLooks(u64, Box<FeedInput>),
    ShowCopy(At, ShardId),
    Mark(At, ShardId),
    Begun { at: At, shard: ShardId, upto: Option<usize> },
    Repair(At),
    RepairFrom(At, VecDeque<NodeId>, Box<Stretch>),
    Said { from: NodeId, to: At, shard: ShardId, message: Box<Message> },
    Operation,
    Publish { node: NodeId, client: usize, ticket: u64, publish: Box<Publish> },
    Answer { client: usize, batch: u64, answer: Result<Ack, Reject> },
    TimedOut { client: usize, ticket: u64 },
    Kick(usize),
    Fault,
    DiskFreed(NodeId),
    Mend(Vec<(NodeId, NodeId)>),
}

impl Event {
    /// The node that must run for it to happen; while it stands still, this waits.
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Self::RoundBegins(at)
            | Self::RoundEnds(at)
            | Self::Synced(at, ..)
            | Self::FlushIndex(at)
            | Self::Pump { at, .. }
            | Self::Heartbeat(at)
            | Self::ConfirmEnds(at, ..)
            | Self::LinkTick(at)
            | Self::LinkConnect(at, _)
            | Self::LinkLeg(at, ..)
            | Self::ShowCopy(at, _)
            | Self::Mark(at, _)
            | Self::Begun { at, .. }
            | Self::Repair(at)
            | Self::RepairFrom(at, ..)
            | Self::Said { to: at, .. }
            | Self::Packet { to: at, .. }
            | Self::Connected { node: at, .. } => Some(at.node),
            Self::ApplyPlacement(node) | Self::ApplyCatalog(node) | Self::Publish { node, .. } => Some(*node),
            _ => None,
        }
    }
}
