//! Between openraft's types and the messages of `raft.proto`.

use std::collections::{BTreeMap, BTreeSet};

use meridian_wire::v1;
use meridian_wire::v1::raft_entry::Payload;
use openraft::{BasicNode, EntryPayload};

use super::{CommandBytes, Entry, LeaderId, LogId, Membership, SnapshotMeta, StoredMembership, Vote};

/// A message or a record that lacks what it must have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadMessage(pub &'static str);

pub(crate) fn log_id_to_wire(id: &LogId) -> v1::RaftLogId {
    v1::RaftLogId { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

pub(crate) fn log_id_from_wire(id: &v1::RaftLogId) -> LogId {
    LogId::new(LeaderId { term: id.term, node_id: id.node }, id.index)
}

pub(crate) fn vote_to_wire(vote: &Vote) -> v1::RaftVote {
    v1::RaftVote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

pub(crate) fn vote_from_wire(vote: Option<&v1::RaftVote>) -> Result<Vote, BadMessage> {
    let vote = vote.ok_or(BadMessage("no vote"))?;
    Ok(match vote.committed {
        true => Vote::new_committed(vote.term, vote.node),
        false => Vote::new(vote.term, vote.node),
    })
}

fn membership_to_wire(membership: &Membership) -> v1::RaftMembership {
    v1::RaftMembership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| v1::RaftVoters { nodes: voters.iter().copied().collect() })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(id, node)| (*id, v1::RaftNode { address: node.addr.clone() }))
            .collect(),
    }
}

fn membership_from_wire(wire: v1::RaftMembership) -> Result<Membership, BadMessage> {
    let configs: Vec<BTreeSet<u64>> =
        wire.configs.into_iter().map(|voters| voters.nodes.into_iter().collect()).collect();
    let nodes: BTreeMap<u64, BasicNode> =
        wire.nodes.into_iter().map(|(id, node)| (id, BasicNode { addr: node.address })).collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes)
        .map_err(|_| BadMessage("a membership with an empty set or a voter without a node"))
}

pub(crate) fn entry_to_wire(entry: &Entry) -> v1::RaftEntry {
    let payload = match &entry.payload {
        EntryPayload::Blank => Payload::Blank(v1::RaftEmpty {}),
        EntryPayload::Normal(command) => Payload::Command(command.0.clone()),
        EntryPayload::Membership(membership) => Payload::Membership(membership_to_wire(membership)),
    };
    v1::RaftEntry { log_id: Some(log_id_to_wire(&entry.log_id)), payload: Some(payload) }
}

pub(crate) fn entry_from_wire(wire: v1::RaftEntry) -> Result<Entry, BadMessage> {
    let log_id = log_id_from_wire(&wire.log_id.ok_or(BadMessage("an entry without a log id"))?);
    let payload = match wire.payload.ok_or(BadMessage("an entry without a payload"))? {
        Payload::Blank(_) => EntryPayload::Blank,
        Payload::Command(command) => EntryPayload::Normal(CommandBytes(command)),
        Payload::Membership(membership) => EntryPayload::Membership(membership_from_wire(membership)?),
    };
    Ok(Entry { log_id, payload })
}

pub(crate) fn meta_to_wire(meta: &SnapshotMeta) -> v1::RaftSnapshotMeta {
    v1::RaftSnapshotMeta {
        last_log_id: meta.last_log_id.as_ref().map(log_id_to_wire),
        membership: Some(v1::RaftStoredMembership {
            log_id: meta.last_membership.log_id().as_ref().map(log_id_to_wire),
            membership: Some(membership_to_wire(meta.last_membership.membership())),
        }),
    }
}

pub(crate) fn meta_from_wire(wire: v1::RaftSnapshotMeta) -> Result<SnapshotMeta, BadMessage> {
    let stored = wire.membership.ok_or(BadMessage("a snapshot without a membership"))?;
    let membership =
        membership_from_wire(stored.membership.ok_or(BadMessage("a snapshot without a membership"))?)?;
    Ok(SnapshotMeta {
        last_log_id: wire.last_log_id.as_ref().map(log_id_from_wire),
        last_membership: StoredMembership::new(stored.log_id.as_ref().map(log_id_from_wire), membership),
    })
}
