//! The toy's replicas: promises, logs, acks, commits.

use std::collections::BTreeMap;

use rand::RngExt as _;

use super::world::World;
use super::*;

/// A frame is known by the epoch that made it: with its place that is unique.
pub(super) type Log = Vec<u32>;

#[derive(Clone, Debug, Default)]
pub(super) struct Replica {
    pub promised: u32,
    pub log: Log,
    /// The epoch that it leads in, in this life.
    pub leads: Option<u32>,
    pub members: Vec<NodeId>,
    pub learner: Option<NodeId>,
    /// How far each node has this leader's log.
    pub acked: BTreeMap<NodeId, usize>,
    /// The epoch and how much of its leader's log this follower has matched.
    pub matched: (u32, usize),
    pub committed: usize,
    /// The log as it was before damage hid its end. `Some`: the replica is unsure of what comes after its log.
    pub hidden: Option<Log>,
}

#[derive(Clone, Debug)]
pub(super) enum Message {
    ToDriver(usize, Input),
    Fence(usize, Vec<(ShardId, LeaderEpoch)>),
    Tell(Vec<Election>),
    Append { shard: ShardId, epoch: u32, log: Log },
    Ack { shard: ShardId, epoch: u32, len: usize },
    Propose(usize, Vec<Change>),
}

impl World {
    pub(super) fn beat(&mut self, id: NodeId) {
        let node = &self.nodes[&id];
        let leads = node
            .replicas
            .iter()
            .filter_map(|(shard, replica)| {
                let epoch = replica.leads?;
                let settled = replica.committed > 0 && replica.log[replica.committed - 1] == epoch;
                let caught_up = replica
                    .learner
                    .filter(|node| replica.acked.get(node).is_some_and(|len| len + 2 >= replica.log.len()));
                Some(Led { shard: *shard, epoch: LeaderEpoch(epoch), settled, durable: Seq::ZERO, caught_up })
            })
            .collect();
        let heartbeat = Heartbeat { node: id, boot: Boot(node.boot), full: false, leads };
        for (seat, at) in self.seats.iter().map(|(seat, at)| (*seat, at.at)).collect::<Vec<_>>() {
            self.send(id, at, Message::ToDriver(seat, Input::Heard(heartbeat.clone())));
        }
    }

    /// A leader writes a frame now and then and sends its whole log to the others.
    pub(super) fn replicate(&mut self, id: NodeId) {
        let grows = self.rng.random_ratio(1, 3);
        let node = self.nodes.get_mut(&id).unwrap();
        let mut out = Vec::new();
        for (shard, replica) in &mut node.replicas {
            let Some(epoch) = replica.leads else { continue };
            if grows && replica.log.len() < 120 {
                replica.log.push(epoch);
            }
            replica.acked.insert(id, replica.log.len());
            let others = replica.members.iter().chain(replica.learner.iter()).filter(|to| **to != id);
            out.extend(others.map(|to| (*to, *shard, epoch, replica.log.clone())));
        }
        for (to, shard, epoch, log) in out {
            self.send(id, to, Message::Append { shard, epoch, log });
        }
        for shard in self.nodes[&id].replicas.keys().copied().collect::<Vec<_>>() {
            self.commit(id, shard);
        }
    }

    pub(super) fn deliver(&mut self, from: NodeId, to: NodeId, message: Message) {
        match message {
            Message::Propose(seat, changes) => return self.order(seat, changes),
            Message::ToDriver(seat, input) => return self.drive(seat, input),
            _ => {}
        }
        let node = self.nodes.get_mut(&to).unwrap();
        if !node.up {
            return;
        }
        let boot = node.boot;
        match message {
            Message::Fence(seat, epochs) => {
                let mut answers = Vec::new();
                for (shard, epoch) in epochs {
                    let replica = node.replicas.entry(shard).or_default();
                    let outcome = if epoch.0 < replica.promised {
                        FenceOutcome::Refused { promised: LeaderEpoch(replica.promised) }
                    } else {
                        if epoch.0 > replica.promised {
                            replica.leads = None;
                        }
                        replica.promised = epoch.0;
                        let end = end(replica.log.last().copied().unwrap_or(0), replica.log.len() as u64);
                        let unsure_from = replica.hidden.as_ref().map(|_| Seq(replica.log.len() as u64 + 1));
                        FenceOutcome::Promised { end, unsure_from }
                    };
                    answers.push(FenceAnswer { shard, epoch, outcome });
                }
                self.send(
                    to,
                    from,
                    Message::ToDriver(seat, Input::Fenced { node: to, boot: Boot(boot), answers }),
                );
            }
            Message::Tell(elections) => {
                for election in elections {
                    let replica = node.replicas.entry(election.shard).or_default();
                    let epoch = election.elected.epoch.0;
                    if election.elected.node != to
                        || election.elected.boot.0 != boot
                        || epoch < replica.promised
                    {
                        continue;
                    }
                    if replica.leads != Some(epoch) {
                        replica.promised = epoch;
                        replica.leads = Some(epoch);
                        replica.acked.clear();
                        replica.members = election.members.clone();
                        replica.log.push(epoch);
                    }
                    replica.learner = election.learner;
                }
            }
            Message::Append { shard, epoch, log } => {
                let replica = node.replicas.entry(shard).or_default();
                if epoch < replica.promised || replica.leads == Some(epoch) {
                    return;
                }
                replica.promised = epoch;
                replica.leads = None;
                if replica.matched.0 != epoch || replica.matched.1 < log.len() {
                    replica.matched = (epoch, log.len());
                    replica.log = log;
                    replica.hidden = None;
                }
                let len = replica.matched.1;
                self.send(to, from, Message::Ack { shard, epoch, len });
            }
            Message::Ack { shard, epoch, len } => {
                let replica = node.replicas.entry(shard).or_default();
                if replica.leads == Some(epoch) {
                    let acked = replica.acked.entry(from).or_default();
                    *acked = len.max(*acked);
                    self.commit(to, shard);
                }
            }
            Message::Propose(..) | Message::ToDriver(..) => {}
        }
    }

    /// Law 3 in small: what one leader has committed, no other contradicts.
    pub(super) fn commit(&mut self, id: NodeId, shard: ShardId) {
        let Some(replica) = self.nodes.get_mut(&id).and_then(|node| node.replicas.get_mut(&shard)) else {
            return;
        };
        let Some(epoch) = replica.leads else { return };
        let mut ends: Vec<usize> =
            replica.members.iter().map(|node| replica.acked.get(node).copied().unwrap_or(0)).collect();
        ends.sort_unstable_by(|a, b| b.cmp(a));
        let everywhere = ends[replica.members.len() / 2];
        if everywhere <= replica.committed || replica.log[everywhere - 1] != epoch {
            return;
        }
        replica.committed = everywhere;
        let known = self.committed.entry(shard).or_default();
        let new = &replica.log[..everywhere];
        let both = known.len().min(new.len());
        assert_eq!(known[..both], new[..both], "two histories of {shard} at {}", self.now);
        if new.len() > known.len() {
            *known = new.to_vec();
        }
    }
}
