//! Placement's laws: what each change does and refuses, and that a snapshot says all that the state does.

use meridian_types::{
    Boot, ClusterUuid, DiskUuid, LeaderEpoch, NodeId, Origin, RegionId, SetVersion, ShardId, ShardNo,
};
use meridian_wire::v1;
use proptest::prelude::*;
use prost::Message as _;
use uuid::Uuid;

use super::*;
use crate::machine::Machine;
use crate::testing::{CLUSTER, disk};

fn join(node: u32) -> Join {
    Join {
        node: NodeId(node),
        disk: disk(node),
        peer_address: format!("127.0.0.1:{}", 7000 + node),
        client_address: format!("http://127.0.0.1:{}", 8000 + node),
    }
}

fn found(nodes: &[u32], replication: u8) -> Change {
    let nodes = nodes.iter().map(|node| join(*node)).collect();
    Change::Found(Found { cluster: CLUSTER, region: RegionId(1), replication, nodes })
}

fn shard(no: u16) -> ShardId {
    ShardId { origin: Origin::first(RegionId(1)), no: ShardNo(no) }
}

fn ids(nodes: &[u32]) -> Vec<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

fn create(no: u16, members: &[u32]) -> Change {
    Change::Create { shard: shard(no), members: ids(members) }
}

fn begin(epoch: u32) -> Change {
    Change::Begin { shard: shard(0), epoch: LeaderEpoch(epoch) }
}

fn elect(epoch: u32, node: u32, boot: u64) -> Change {
    Change::Elect { shard: shard(0), epoch: LeaderEpoch(epoch), node: NodeId(node), boot: Boot(boot) }
}

fn learner(version: u32, node: Option<u32>) -> Change {
    Change::Learner { shard: shard(0), version: SetVersion(version), node: node.map(NodeId) }
}

fn change(version: u32, members: &[u32]) -> Change {
    Change::Change { shard: shard(0), version: SetVersion(version), members: ids(members) }
}

fn settle(epoch: u32) -> Change {
    Change::Settle { shard: shard(0), epoch: LeaderEpoch(epoch) }
}

fn mv(from: u32, to: u32) -> Change {
    Change::Move { shard: shard(0), from: NodeId(from), to: NodeId(to) }
}

fn drain(node: u32) -> Change {
    Change::Drain { node: NodeId(node) }
}

fn remove(node: u32) -> Change {
    Change::Remove { node: NodeId(node) }
}

/// Nodes 1 to 4, replication 3, shard 0 on 1 to 3.
fn placed() -> Placement {
    let mut state = Placement::default();
    for change in [found(&[1, 2, 3, 4], 3), create(0, &[3, 1, 2])] {
        state.change(change).unwrap();
    }
    state
}

#[track_caller]
fn refused(state: &mut Placement, change: Change) -> RefusalCode {
    let before = state.clone();
    let refusal = state.change(change).expect_err("should be refused");
    assert_eq!(&before, state, "a refusal changes nothing");
    assert!(!refusal.message.is_empty());
    refusal.code
}

fn row(state: &Placement) -> ShardRow {
    state.shard(shard(0)).unwrap().clone()
}

#[test]
fn nothing_comes_before_the_founding_and_none_after_it() {
    let mut state = Placement::default();
    assert_eq!(refused(&mut state, Change::Join(join(1))), RefusalCode::NotFounded);
    assert_eq!(refused(&mut state, found(&[1, 1], 3)), RefusalCode::Malformed);
    assert_eq!(refused(&mut state, found(&[1], 0)), RefusalCode::Malformed);
    state.change(found(&[1], 3)).unwrap();
    assert_eq!(refused(&mut state, found(&[1], 3)), RefusalCode::AlreadyFounded);
    assert_eq!(Machine::cluster(&state), Some(CLUSTER));
    assert_eq!(state.disk_of(NodeId(1)), Some(disk(1)));
}

#[test]
fn an_id_and_a_disk_belong_together_for_ever() {
    let mut state = placed();
    let moved = Join { peer_address: "10.0.0.9:1".into(), ..join(4) };
    state.change(Change::Join(moved.clone())).unwrap();
    assert_eq!(state.node(NodeId(4)).unwrap().peer_address, moved.peer_address);
    assert_eq!(refused(&mut state, Change::Join(Join { disk: disk(9), ..join(4) })), RefusalCode::UsedId);
    assert_eq!(refused(&mut state, Change::Join(Join { disk: disk(1), ..join(5) })), RefusalCode::UsedDisk);
    state.change(drain(4)).unwrap();
    state.change(Change::Join(join(4))).unwrap();
    assert!(!state.is_active(NodeId(4)), "a restart does not end a drain");
    state.change(remove(4)).unwrap();
    state.change(remove(4)).unwrap();
    assert_eq!(refused(&mut state, Change::Join(Join { disk: disk(9), ..join(4) })), RefusalCode::UsedId);
    assert_eq!(refused(&mut state, Change::Join(Join { disk: disk(4), ..join(5) })), RefusalCode::UsedDisk);
}

#[test]
fn a_drain_needs_somewhere_to_go() {
    let mut state = placed();
    state.change(drain(4)).unwrap();
    state.change(drain(4)).unwrap();
    assert_eq!(refused(&mut state, drain(1)), RefusalCode::NoRoom);
    state.change(Change::Undrain { node: NodeId(4) }).unwrap();
    state.change(drain(1)).unwrap();

    let mut lonely = Placement::default();
    lonely.change(found(&[1], 3)).unwrap();
    lonely.change(create(0, &[1])).unwrap();
    assert_eq!(refused(&mut lonely, drain(1)), RefusalCode::LastReplica);
    assert_eq!(refused(&mut lonely, remove(1)), RefusalCode::OnlyCopy);
    assert_eq!(refused(&mut lonely, drain(7)), RefusalCode::NodeNotFound);
}

#[test]
fn a_node_with_any_part_is_not_removed() {
    let mut state = placed();
    assert_eq!(refused(&mut state, remove(4)), RefusalCode::NotDraining);
    assert_eq!(refused(&mut state, remove(1)), RefusalCode::InUse);
    state.change(learner(1, Some(4))).unwrap();
    state.change(drain(1)).unwrap();
    state.change(change(1, &[1, 2, 3, 4])).unwrap();
    state.change(elect(1, 2, 1)).unwrap();
    state.change(settle(1)).unwrap();
    state.change(change(2, &[2, 3, 4])).unwrap();
    assert_eq!(refused(&mut state, remove(1)), RefusalCode::InUse, "elections may still need it");
    state.change(elect(2, 2, 1)).unwrap();
    state.change(settle(2)).unwrap();
    state.change(remove(1)).unwrap();
}

#[test]
fn a_row_is_made_once_with_members_that_are_known() {
    let mut state = placed();
    assert_eq!(row(&state).members, ids(&[1, 2, 3]));
    assert_eq!(refused(&mut state, create(0, &[4])), RefusalCode::AlreadyThere);
    assert_eq!(refused(&mut state, create(1, &[9])), RefusalCode::NodeNotFound);
    assert_eq!(refused(&mut state, create(1, &[])), RefusalCode::BadSet);
    assert_eq!(refused(&mut state, create(1, &[1, 1])), RefusalCode::BadSet);
    assert_eq!(refused(&mut state, create(1, &[1, 2, 3, 4])), RefusalCode::BadSet);
    assert_eq!(
        refused(&mut state, Change::Begin { shard: shard(5), epoch: LeaderEpoch(1) }),
        RefusalCode::ShardNotFound
    );
}

#[test]
fn one_is_elected_in_an_epoch_and_only_in_the_one_last_begun() {
    let mut state = placed();
    assert_eq!(refused(&mut state, elect(0, 1, 1)), RefusalCode::StaleEpoch);
    state.change(begin(3)).unwrap();
    assert_eq!(refused(&mut state, begin(3)), RefusalCode::StaleEpoch);
    assert_eq!(refused(&mut state, elect(2, 1, 1)), RefusalCode::StaleEpoch);
    assert_eq!(refused(&mut state, elect(4, 1, 1)), RefusalCode::StaleEpoch);
    assert_eq!(refused(&mut state, elect(3, 4, 1)), RefusalCode::NotMember);
    state.change(elect(3, 1, 7)).unwrap();
    state.change(elect(3, 1, 7)).unwrap();
    assert_eq!(refused(&mut state, elect(3, 1, 8)), RefusalCode::AlreadyElected);
    assert_eq!(refused(&mut state, elect(3, 2, 7)), RefusalCode::AlreadyElected);
    assert_eq!(row(&state).leader().unwrap().boot, Boot(7));
    state.change(begin(4)).unwrap();
    assert_eq!(row(&state).leader(), None, "superseded");
    assert_eq!(row(&state).elected.unwrap().epoch, LeaderEpoch(3), "but remembered");
}

#[test]
fn a_set_changes_by_one_node_through_a_learner_into_a_new_epoch() {
    let mut state = placed();
    state.change(begin(5)).unwrap();
    assert_eq!(refused(&mut state, change(1, &[1, 2, 3, 4])), RefusalCode::BadSet);
    assert_eq!(refused(&mut state, learner(2, Some(4))), RefusalCode::VersionConflict);
    assert_eq!(refused(&mut state, learner(1, Some(3))), RefusalCode::AlreadyMember);
    assert_eq!(refused(&mut state, learner(1, Some(9))), RefusalCode::NodeNotFound);
    state.change(learner(1, Some(4))).unwrap();
    assert_eq!(refused(&mut state, change(1, &[1, 2, 4])), RefusalCode::BadSet);
    assert_eq!(refused(&mut state, change(1, &[1, 2, 3])), RefusalCode::BadSet);
    assert_eq!(refused(&mut state, change(1, &[])), RefusalCode::BadSet);
    assert_eq!(refused(&mut state, change(2, &[1, 2, 3, 4])), RefusalCode::VersionConflict);
    state.change(change(1, &[1, 2, 3, 4])).unwrap();
    let now = row(&state);
    assert_eq!((now.version, now.begun, now.changed_in), (SetVersion(2), LeaderEpoch(6), LeaderEpoch(6)));
    assert_eq!((now.learner, now.previous), (None, Some(ids(&[1, 2, 3]))));
    assert_eq!(refused(&mut state, change(2, &[1, 2, 4])), RefusalCode::Busy, "not settled");
    assert_eq!(refused(&mut state, settle(6)), RefusalCode::StaleEpoch, "nobody leads");
    state.change(elect(6, 4, 1)).unwrap();
    assert_eq!(
        refused(&mut state, change(2, &[1, 2, 3])),
        RefusalCode::Busy,
        "one leads, and will settle it"
    );
    assert_eq!(refused(&mut state, settle(5)), RefusalCode::StaleEpoch);
    state.change(settle(6)).unwrap();
    state.change(settle(6)).unwrap();
    assert_eq!(row(&state).previous, None);
}

#[test]
fn a_change_that_nobody_can_lead_is_taken_back_and_elections_still_ask_both_sets() {
    let mut state = placed();
    state.change(begin(5)).unwrap();
    state.change(change(1, &[1, 2])).unwrap();
    assert_eq!(refused(&mut state, change(2, &[1])), RefusalCode::Busy);
    state.change(change(2, &[1, 2, 3])).unwrap();
    let now = row(&state);
    assert_eq!((now.version, now.begun, now.changed_in), (SetVersion(3), LeaderEpoch(7), LeaderEpoch(7)));
    assert_eq!((now.members, now.previous), (ids(&[1, 2, 3]), Some(ids(&[1, 2]))));
    state.change(elect(7, 3, 1)).unwrap();
    state.change(settle(7)).unwrap();
    assert_eq!(row(&state).previous, None);
}

#[test]
fn a_draining_node_is_no_learner_and_no_newcomer() {
    let mut state = placed();
    state.change(learner(1, Some(4))).unwrap();
    state.change(drain(4)).unwrap();
    assert_eq!(refused(&mut state, change(1, &[1, 2, 3, 4])), RefusalCode::Draining);
    state.change(learner(1, None)).unwrap();
    assert_eq!(refused(&mut state, learner(1, Some(4))), RefusalCode::Draining);
}

#[test]
fn two_operators_do_not_move_one_shard() {
    let mut state = placed();
    state.change(Change::Join(join(5))).unwrap();
    assert_eq!(refused(&mut state, mv(4, 5)), RefusalCode::NotMember);
    assert_eq!(refused(&mut state, mv(1, 2)), RefusalCode::AlreadyMember);
    assert_eq!(refused(&mut state, mv(1, 9)), RefusalCode::NodeNotFound);
    state.change(mv(1, 4)).unwrap();
    state.change(mv(1, 4)).unwrap();
    assert_eq!(refused(&mut state, mv(2, 5)), RefusalCode::Busy);
    state.change(Change::CancelMove { shard: shard(0) }).unwrap();
    state.change(mv(2, 5)).unwrap();
    state.change(change(1, &[1, 3])).unwrap();
    assert_eq!(row(&state).moving, None, "what it was to leave, it left");
    assert_eq!(refused(&mut state, mv(1, 4)), RefusalCode::Busy, "not settled");
}

#[test]
fn the_last_epoch_is_not_passed() {
    let mut state = placed();
    state.change(begin(u32::MAX)).unwrap();
    assert_eq!(refused(&mut state, change(1, &[1, 2])), RefusalCode::Malformed);
}

#[test]
fn each_change_of_a_batch_is_on_its_own() {
    let mut state = placed();
    let reply = state.apply(Command { changes: vec![begin(1), begin(1), elect(1, 9, 1), elect(1, 2, 1)] });
    let codes: Vec<_> = reply.iter().map(|outcome| outcome.as_ref().err().map(|e| e.code)).collect();
    assert_eq!(codes, [None, Some(RefusalCode::StaleEpoch), Some(RefusalCode::NotMember), None]);
}

#[test]
fn what_this_build_does_not_know_is_unsupported() {
    let newer = v1::PlacementCommand { changes: vec![v1::PlacementChange { change: None }] };
    let bytes = newer.encode_to_vec();
    assert!(Placement::check(&bytes).is_err());
    let mut state = placed();
    assert!(Machine::apply(&mut state, &bytes).is_err());
    assert_eq!(state, placed());
    let mut stored = v1::PlacementState::decode(state.snapshot()).unwrap();
    stored.nodes[0].state = 9;
    assert!(Placement::restore(&stored.encode_to_vec()).is_err());
    stored.nodes[0].state = 1;
    stored.version = 2;
    assert!(Placement::restore(&stored.encode_to_vec()).is_err());
}

fn any_change() -> impl Strategy<Value = Change> {
    let node = || (0u32..7).prop_map(NodeId);
    let id = || (0u16..3).prop_map(shard);
    let epoch = || (0u32..9).prop_map(LeaderEpoch);
    let version = || (0u32..6).prop_map(SetVersion);
    let set = || proptest::collection::vec((1u32..7).prop_map(NodeId), 0..5);
    prop_oneof![
        2 => (0u32..7, 0u32..7).prop_map(|(id, d)| Change::Join(Join { disk: disk(d), ..join(id) })),
        1 => node().prop_map(|node| Change::Drain { node }),
        1 => node().prop_map(|node| Change::Undrain { node }),
        1 => node().prop_map(|node| Change::Remove { node }),
        2 => (id(), set()).prop_map(|(shard, members)| Change::Create { shard, members }),
        4 => (id(), epoch()).prop_map(|(shard, epoch)| Change::Begin { shard, epoch }),
        6 => (id(), epoch(), node(), 1u64..3)
            .prop_map(|(shard, epoch, node, boot)| Change::Elect { shard, epoch, node, boot: Boot(boot) }),
        6 => (id(), version(), proptest::option::of(node()))
            .prop_map(|(shard, version, node)| Change::Learner { shard, version, node }),
        8 => (id(), version(), set()).prop_map(|(shard, version, members)| Change::Change { shard, version, members }),
        4 => (id(), epoch()).prop_map(|(shard, epoch)| Change::Settle { shard, epoch }),
        2 => (id(), node(), node()).prop_map(|(shard, from, to)| Change::Move { shard, from, to }),
        1 => id().prop_map(|shard| Change::CancelMove { shard }),
        1 => (0u8..6).prop_map(|replicas| Change::SetReplication { replicas }),
        1 => Just(found(&[1, 2], 3)),
    ]
}

proptest! {
    #[test]
    fn same_commands_same_state_and_bytes(
        batches in proptest::collection::vec(proptest::collection::vec(any_change(), 1..5), 0..60),
        cut in 0usize..60,
    ) {
        let mut straight = Placement::default();
        straight.change(found(&[1, 2, 3, 4], 3)).unwrap();
        let mut bytes_in = straight.clone();
        let mut over_snapshots = straight.clone();
        for (i, changes) in batches.into_iter().enumerate() {
            let command = Command { changes };
            let logged = command.to_bytes();
            if i == cut {
                over_snapshots = Placement::restore(&over_snapshots.snapshot()).unwrap();
            }
            let reply = straight.apply(command.clone());
            let answer = Machine::apply(&mut bytes_in, &logged).unwrap();
            prop_assert_eq!(&reply_from_bytes(&answer).unwrap(), &reply, "survives the log and the wire");
            prop_assert_eq!(&over_snapshots.apply(command), &reply);
        }
        prop_assert_eq!(straight.snapshot(), bytes_in.snapshot());
        prop_assert_eq!(straight.snapshot(), over_snapshots.snapshot());
        let restored = Placement::restore(&straight.snapshot()).unwrap();
        prop_assert_eq!(&restored, &straight);
        prop_assert_eq!(restored.snapshot(), straight.snapshot());
        for (_, row) in straight.shards() {
            prop_assert!(!row.members.is_empty() && row.members.is_sorted_by(|a, b| a < b));
            prop_assert!(row.voters().iter().all(|node| straight.node(*node).is_some()));
            prop_assert!(row.elected.is_none_or(|elected| elected.epoch <= row.begun));
            prop_assert!(row.learner.is_none_or(|node| !row.members.contains(&node)));
        }
    }

    #[test]
    fn bytes_from_anywhere_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut state = placed();
        let _ = Machine::apply(&mut state, &bytes);
        let _ = Placement::restore(&bytes);
        let _ = reply_from_bytes(&bytes);
    }
}

#[test]
fn a_nil_uuid_is_refused_and_a_node_zero_too() {
    let mut state = placed();
    let nil = Join { disk: DiskUuid(Uuid::nil()), ..join(5) };
    assert_eq!(refused(&mut state, Change::Join(nil)), RefusalCode::Malformed);
    assert_eq!(
        refused(&mut state, Change::Join(Join { node: NodeId(0), ..join(5) })),
        RefusalCode::Malformed
    );
    let nobody = Change::Found(Found {
        cluster: ClusterUuid(Uuid::nil()),
        region: RegionId(1),
        replication: 3,
        nodes: vec![join(1)],
    });
    assert_eq!(refused(&mut Placement::default(), nobody), RefusalCode::Malformed);
}

#[test]
fn replication_is_what_was_last_asked_for_and_never_more_than_can_be() {
    let mut state = Placement::default();
    state.change(found(&[1, 2, 3, 4, 5], 3)).unwrap();
    for replicas in [5, 5, 3, 1] {
        state.change(Change::SetReplication { replicas }).unwrap();
        assert_eq!(state.replication(), usize::from(replicas));
    }
    let before = state.clone();
    let refused = |replicas| before.clone().change(Change::SetReplication { replicas }).unwrap_err().code;
    assert_eq!((refused(0), refused(6)), (RefusalCode::Malformed, RefusalCode::NoRoom));
    state.change(Change::SetReplication { replicas: 6 }).unwrap_err();
    assert_eq!(state, before, "a refusal changes nothing");
}
