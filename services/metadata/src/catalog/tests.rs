//! The catalog's laws: what each command changes and refuses, and that a snapshot says all that the state does.

use std::collections::{BTreeMap, BTreeSet};

use meridian_types::{
    ClusterUuid, DiskUuid, Incarnation, NodeId, Origin, RegionId, RegionName, Seq, ShardId, ShardNo,
    StreamId, StreamName, TenantId, TenantName, Timestamp,
};
use proptest::prelude::*;
use prost::Message as _;
use std::sync::Arc;
use uuid::Uuid;

use super::*;
use crate::group::Standing;
use crate::machine::Machine;

fn region(id: u16, name: &str) -> RegionRow {
    RegionRow::first(RegionId(id), RegionName::new(name).unwrap(), 16)
}

fn node(id: u32, region: u16, disk: u128) -> NodeRow {
    NodeRow {
        id: NodeId(id),
        region: RegionId(region),
        disk: DiskUuid(Uuid::from_u128(disk)),
        peer_address: format!("127.0.0.1:{}", 7000 + id),
        client_address: format!("http://127.0.0.1:{}", 8000 + id),
        max_feature_level: MAX_FEATURE_LEVEL,
        added: false,
        replaces: None,
    }
}

fn genesis() -> Genesis {
    Genesis {
        cluster: ClusterUuid(Uuid::from_u128(0xC1)),
        feature_level: MAX_FEATURE_LEVEL,
        regions: vec![region(1, "us"), region(2, "eu")],
        nodes: vec![node(1, 1, 0xD1), node(2, 2, 0xD2)],
    }
}

fn at(ms: u64, change: Change) -> Command {
    Command::new(Timestamp(ms), change)
}

fn founded() -> Catalog {
    let mut catalog = Catalog::default();
    catalog.apply(at(1, Change::Genesis(genesis()))).unwrap();
    catalog
}

fn settings(partitions: u32) -> StreamSettings {
    StreamSettings { partitions, ..StreamSettings::default() }
}

fn create(name: &str, partitions: u32) -> Change {
    Change::CreateStream(CreateStream {
        tenant: TenantId::DEFAULT,
        name: StreamName::new(name).unwrap(),
        settings: settings(partitions),
    })
}

fn code(reply: Reply) -> RefusalCode {
    reply.expect_err("should be refused").code
}

#[test]
fn nothing_comes_before_the_genesis_and_none_after_it() {
    let mut catalog = Catalog::default();
    assert_eq!(code(catalog.apply(at(1, create("a", 1)))), RefusalCode::NotFounded);
    assert_eq!(catalog, Catalog::default(), "a refusal changes nothing");
    catalog.apply(at(2, Change::Genesis(genesis()))).unwrap();
    assert_eq!(code(catalog.apply(at(3, Change::Genesis(genesis())))), RefusalCode::AlreadyFounded);
    assert_eq!(catalog.cluster(), Some(genesis().cluster));
    assert_eq!(catalog.founded_at(), Some(Timestamp(2)));
    assert_eq!(catalog.tenant_named(&TenantName::default()).unwrap().id, TenantId::DEFAULT);
    assert_eq!(catalog.region_named(&RegionName::new("eu").unwrap()).unwrap().id, RegionId(2));
}

#[test]
fn a_bad_genesis_is_refused() {
    let bad = |change: fn(&mut Genesis)| {
        let mut genesis = genesis();
        change(&mut genesis);
        let mut catalog = Catalog::default();
        let refused = catalog.apply(at(1, Change::Genesis(genesis))).is_err();
        assert_eq!(refused, catalog == Catalog::default(), "a refusal changes nothing");
        refused
    };
    assert!(bad(|g| g.regions.clear()));
    assert!(bad(|g| g.nodes.clear()));
    assert!(bad(|g| g.feature_level = 0));
    assert!(bad(|g| g.feature_level = MAX_FEATURE_LEVEL + 1));
    assert!(bad(|g| g.regions[1].id = RegionId(1)));
    assert!(bad(|g| g.regions[1].name = g.regions[0].name.clone()));
    assert!(bad(|g| g.regions[0].shards = 0));
    assert!(bad(|g| g.regions[0].incarnation = Incarnation(2)));
    assert!(bad(|g| g.nodes[1].id = NodeId(1)));
    assert!(bad(|g| g.nodes[1].disk = g.nodes[0].disk));
    assert!(bad(|g| g.nodes[0].region = RegionId(9)));
    assert!(bad(|g| g.nodes[0].peer_address.clear()));
    assert!(!bad(|_| ()));
}

#[test]
fn streams_live_and_their_ids_are_never_given_again() {
    let mut catalog = founded();
    let Ok(Outcome::StreamCreated { stream, created: true }) = catalog.apply(at(5, create("orders", 4)))
    else {
        panic!("not created");
    };
    assert_eq!((stream.id, stream.version, stream.created_at), (StreamId(1), 1, Timestamp(5)));
    let again = catalog.apply(at(9, create("orders", 4))).unwrap();
    assert_eq!(again, Outcome::StreamCreated { stream: stream.clone(), created: false });
    assert_eq!(code(catalog.apply(at(9, create("orders", 5)))), RefusalCode::StreamExists);

    let update = |partitions, expected_version| {
        Change::UpdateStream(UpdateStream {
            id: StreamId(1),
            settings: settings(partitions),
            expected_version,
        })
    };
    assert_eq!(code(catalog.apply(at(9, update(3, None)))), RefusalCode::BadPartitionCount);
    assert_eq!(code(catalog.apply(at(9, update(8, Some(2))))), RefusalCode::VersionConflict);
    let Ok(Outcome::StreamUpdated(updated)) = catalog.apply(at(9, update(8, Some(1)))) else {
        panic!("not updated");
    };
    assert_eq!((updated.version, updated.settings.partitions), (2, 8));

    catalog.apply(at(10, Change::DeleteStream(StreamId(1)))).unwrap();
    assert_eq!(code(catalog.apply(at(11, Change::DeleteStream(StreamId(1))))), RefusalCode::StreamNotFound);
    assert!(catalog.is_deleted(StreamId(1)));
    assert!(!catalog.is_deleted(StreamId(2)), "not given yet is not deleted");
    assert!(catalog.stream_named(TenantId::DEFAULT, &stream.name).is_none());
    let Ok(Outcome::StreamCreated { stream, .. }) = catalog.apply(at(12, create("orders", 1))) else {
        panic!("not created");
    };
    assert_eq!(stream.id, StreamId(2));
}

#[test]
fn bad_streams_are_refused() {
    let mut catalog = founded();
    for partitions in [0, 1025, u32::MAX] {
        assert_eq!(code(catalog.apply(at(1, create("a", partitions)))), RefusalCode::BadPartitionCount);
    }
    let with = |settings: StreamSettings, tenant: u32| {
        Change::CreateStream(CreateStream {
            tenant: TenantId(tenant),
            name: StreamName::new("a").unwrap(),
            settings,
        })
    };
    assert_eq!(code(catalog.apply(at(1, with(settings(1), 7)))), RefusalCode::TenantNotFound);
    let labels = |labels: BTreeMap<String, String>| StreamSettings { labels, ..settings(1) };
    for bad in [
        (0..65).map(|i| (format!("k{i}"), String::new())).collect(),
        [(String::new(), String::new())].into(),
        [("k".repeat(64), String::new())].into(),
        [("k".to_owned(), "v".repeat(257))].into(),
    ] {
        assert_eq!(code(catalog.apply(at(1, with(labels(bad), 1)))), RefusalCode::Malformed);
    }
    assert_eq!(catalog, founded_like(&catalog));
}

/// The founded state with the same remembered answers, to compare everything else.
fn founded_like(catalog: &Catalog) -> Catalog {
    Catalog { answered: catalog.answered.clone(), ..founded() }
}

#[test]
fn pages_of_streams_follow_names() {
    let mut catalog = founded();
    for name in ["b", "a", "d", "c"] {
        catalog.apply(at(1, create(name, 1))).unwrap();
    }
    let page = |after: Option<&str>| -> Vec<String> {
        let after = after.map(|name| StreamName::new(name).unwrap());
        catalog.streams_of(TenantId::DEFAULT, after.as_ref()).map(|s| s.name.to_string()).collect()
    };
    assert_eq!(page(None), ["a", "b", "c", "d"]);
    assert_eq!(page(Some("b")), ["c", "d"]);
    assert_eq!(page(Some("bb")), ["c", "d"]);
    assert_eq!(page(Some("d")), Vec::<String>::new());
    assert_eq!(catalog.streams_of(TenantId(2), None).count(), 0);
}

#[test]
fn a_node_that_lost_its_disk_is_another_node() {
    let mut catalog = founded();
    let mut moved = node(1, 1, 0xD1);
    moved.peer_address = "10.0.0.1:7000".into();
    catalog.apply(at(1, Change::RegisterNode(moved.clone()))).unwrap();
    assert_eq!(**catalog.node(NodeId(1)).unwrap(), moved);
    let register = |catalog: &mut Catalog, node| code(catalog.apply(at(1, Change::RegisterNode(node))));
    assert_eq!(register(&mut catalog, node(1, 1, 0xEE)), RefusalCode::NodeChanged);
    assert_eq!(register(&mut catalog, node(1, 2, 0xD1)), RefusalCode::NodeChanged);
    assert_eq!(register(&mut catalog, node(3, 1, 0xD1)), RefusalCode::NodeChanged);
    assert_eq!(register(&mut catalog, node(3, 9, 0xD3)), RefusalCode::RegionNotFound);
    assert_eq!(register(&mut catalog, node(0, 1, 0xD3)), RefusalCode::Malformed);
    catalog.apply(at(1, Change::RegisterNode(node(3, 1, 0xD3)))).unwrap();
    assert_eq!(catalog.disk_of(NodeId(3)), Some(DiskUuid(Uuid::from_u128(0xD3))));
    let added = |id| catalog.node(NodeId(id)).unwrap().added;
    assert_eq!((added(1), added(3)), (false, true), "who founded is never forgotten");
}

#[test]
fn the_feature_level_gates_commands_and_rises_with_the_nodes() {
    const NEXT: u32 = MAX_FEATURE_LEVEL + 1;
    let mut catalog = founded();
    assert_eq!(code(catalog.apply(at(1, Change::RaiseFeatureLevel(NEXT + 1)))), RefusalCode::FeatureLevel);
    assert_eq!(
        code(catalog.apply(at(1, Change::RaiseFeatureLevel(NEXT)))),
        RefusalCode::FeatureLevel,
        "nodes of this level are there"
    );
    let same = catalog.apply(at(1, Change::RaiseFeatureLevel(MAX_FEATURE_LEVEL)));
    assert_eq!(same, Ok(Outcome::FeatureLevelRaised(MAX_FEATURE_LEVEL)));

    for id in [1, 2] {
        let upgraded = NodeRow { max_feature_level: NEXT, ..node(id, id as u16, 0xD0 + u128::from(id)) };
        catalog.apply(at(1, Change::RegisterNode(upgraded))).unwrap();
    }
    let before = catalog.clone();
    let raised = catalog.apply(at(1, Change::RaiseFeatureLevel(NEXT)));
    assert_eq!(raised, Ok(Outcome::FeatureLevelRaised(NEXT)));
    assert_eq!(code(catalog.apply(at(1, Change::RegisterNode(node(3, 1, 0xD3))))), RefusalCode::FeatureLevel);

    // This build knows no such level: as a member of that cluster it must stop, not guess.
    let mut old = before;
    let raise = at(1, Change::RaiseFeatureLevel(NEXT)).to_bytes();
    assert!(Machine::apply(&mut old, &raise).is_err());
    assert!(Catalog::restore(&catalog.snapshot()).is_err());

    let mut low = founded();
    low.feature_level = 0;
    assert_eq!(code(low.apply(at(1, create("a", 1)))), RefusalCode::FeatureLevel);
    // Of a cluster that older builds founded: its nodes may say where they are, and no more.
    low.feature_level = 1;
    low.apply(at(1, Change::RegisterNode(node(1, 1, 0xD1)))).unwrap();
    assert_eq!(code(low.apply(at(1, Change::RegisterNode(node(3, 1, 0xD3))))), RefusalCode::FeatureLevel);
    assert_eq!(code(low.apply(at(1, Change::RemoveNode(NodeId(2))))), RefusalCode::FeatureLevel);
}

#[test]
fn a_removed_node_is_refused_for_ever_under_its_id_and_with_its_disk() {
    let mut catalog = founded();
    assert_eq!(code(catalog.apply(at(1, Change::RemoveNode(NodeId(9))))), RefusalCode::NodeNotFound);
    for again in 0..2 {
        let removed = catalog.apply(at(again, Change::RemoveNode(NodeId(2))));
        assert_eq!(removed, Ok(Outcome::NodeRemoved(NodeId(2))));
    }
    catalog = Catalog::restore(&catalog.snapshot()).unwrap();
    assert!(catalog.node(NodeId(2)).is_none() && catalog.is_removed(NodeId(2)));
    for back in [node(2, 2, 0xD2), node(2, 2, 0xD9), node(9, 2, 0xD2)] {
        let refused = catalog.apply(at(5, Change::RegisterNode(back)));
        assert_eq!(code(refused), RefusalCode::NodeRemoved);
    }
    assert_eq!(code(catalog.apply(at(1, Change::RemoveNode(NodeId(1))))), RefusalCode::LastNode);
    catalog.apply(at(1, Change::RegisterNode(node(3, 1, 0xD3)))).unwrap();
    catalog.apply(at(1, Change::RemoveNode(NodeId(1)))).unwrap();
}

#[test]
fn no_two_nodes_have_one_address() {
    let mut catalog = founded();
    let (first, own) = (node(1, 1, 0xD1), node(3, 1, 0xD3));
    let (peer, client) = (&first.peer_address, &first.client_address);
    for (peer, client) in [
        (peer, &own.client_address),
        (&own.peer_address, client),
        (client, &own.client_address),
        (&own.peer_address, peer),
    ] {
        let taken = NodeRow { peer_address: peer.clone(), client_address: client.clone(), ..own.clone() };
        let before = catalog.clone();
        assert_eq!(code(catalog.apply(at(1, Change::RegisterNode(taken)))), RefusalCode::AddressTaken);
        assert_eq!(catalog, before);
    }
    let twice = NodeRow { client_address: own.peer_address.clone(), ..own.clone() };
    assert_eq!(code(catalog.apply(at(1, Change::RegisterNode(twice)))), RefusalCode::Malformed);
    catalog.apply(at(1, Change::RegisterNode(own))).unwrap();
}

#[test]
fn a_command_that_is_proposed_again_is_answered_and_not_repeated() {
    let mut catalog = founded();
    let first = at(1, create("a", 1));
    let answer = catalog.apply(first.clone());
    catalog.apply(at(2, Change::DeleteStream(StreamId(1)))).unwrap();
    let state = catalog.clone();
    assert_eq!(catalog.apply(first), answer);
    assert_eq!(catalog, state);
    let restored = Catalog::restore(&catalog.snapshot()).unwrap();
    assert_eq!(restored, state, "remembered over snapshots too");
}

#[test]
fn what_is_no_command_stops_or_is_refused() {
    let mut catalog = founded();
    assert!(Machine::apply(&mut catalog, b"\xff\xff").is_err());
    assert!(Catalog::check(&[]).is_err(), "a newer build's command reads as none");
    let mut wire = meridian_wire::v1::CatalogCommand::from(&at(1, create("a", 1)));
    wire.request_id = bytes::Bytes::from_static(b"short");
    let reply = Machine::apply(&mut catalog, &wire.encode_to_vec()).unwrap();
    assert_eq!(code(machine::reply_from_bytes(&reply).unwrap()), RefusalCode::Malformed);
    assert_eq!(catalog, founded_like(&catalog));
}

fn change() -> impl Strategy<Value = Change> {
    let name = "[a-d]{1,2}".prop_map(|name| StreamName::new(name).unwrap());
    let settings = (
        0u32..6,
        proptest::option::of(0u64..100),
        proptest::collection::btree_map("[a-c]{0,2}", "[a-c]{0,2}", 0..3),
    )
        .prop_map(|(partitions, retention_ms, labels)| StreamSettings {
            partitions,
            retention_ms,
            retention_bytes: retention_ms.map(|ms| ms * 10),
            labels,
        });
    prop_oneof![
        6 => (1u32..3, name, settings.clone()).prop_map(|(tenant, name, settings)| Change::CreateStream(
            CreateStream { tenant: TenantId(tenant), name, settings }
        )),
        4 => (0u64..12, settings, proptest::option::of(1u64..4)).prop_map(|(id, settings, expected_version)| {
            Change::UpdateStream(UpdateStream { id: StreamId(id), settings, expected_version })
        }),
        3 => (0u64..12).prop_map(|id| Change::DeleteStream(StreamId(id))),
        2 => (0u32..5, 1u16..4, 0xD0u128..0xD6).prop_map(|(id, r, d)| Change::RegisterNode(node(id, r, d))),
        2 => (0u32..5).prop_map(|id| Change::RemoveNode(NodeId(id))),
        1 => (0u32..4).prop_map(Change::RaiseFeatureLevel),
        1 => Just(Change::Genesis(genesis())),
    ]
}

/// Request ids from a small set, so that repetitions happen.
fn commands() -> impl Strategy<Value = Vec<Command>> {
    proptest::collection::vec(
        (0u128..60, 0u64..1000, change()).prop_map(|(request, ms, change)| Command {
            request: RequestId(Uuid::from_u128(request)),
            at: Timestamp(ms),
            change,
        }),
        0..80,
    )
}

proptest! {
    #[test]
    fn same_commands_same_state_and_bytes(commands in commands(), cut in 0usize..80) {
        let mut straight = Catalog::default();
        let mut bytes_in = Catalog::default();
        let mut over_snapshots = Catalog::default();
        let mut ids = BTreeSet::new();
        for (i, command) in commands.iter().enumerate() {
            let logged = command.to_bytes();
            let back = meridian_wire::v1::CatalogCommand::decode(logged.as_ref()).unwrap();
            prop_assert_eq!(&Command::try_from(back).unwrap(), command, "survives the log");
            if i == cut {
                over_snapshots = Catalog::restore(&over_snapshots.snapshot()).unwrap();
            }
            let before = straight.clone();
            let reply = straight.apply(command.clone());
            let answer = Machine::apply(&mut bytes_in, &logged).unwrap();
            prop_assert_eq!(&machine::reply_from_bytes(&answer).unwrap(), &reply, "survives the wire");
            prop_assert_eq!(&over_snapshots.apply(command.clone()), &reply);
            match reply {
                Err(_) => prop_assert_eq!(&before, &straight, "a refusal changes nothing"),
                Ok(Outcome::StreamCreated { stream, created: true }) if before != straight => {
                    prop_assert!(ids.insert(stream.id), "an id given twice");
                }
                Ok(_) => {}
            }
        }
        prop_assert_eq!(straight.snapshot(), bytes_in.snapshot());
        prop_assert_eq!(straight.snapshot(), over_snapshots.snapshot());
        prop_assert_eq!(&Catalog::restore(&straight.snapshot()).unwrap(), &straight);
        for stream in straight.streams() {
            prop_assert_eq!(straight.stream_named(stream.tenant, &stream.name).map(|s| s.id), Some(stream.id));
            prop_assert!((1..=1024).contains(&stream.settings.partitions));
        }
        let named: usize = straight.names.values().map(rpds::RedBlackTreeMap::size).sum();
        prop_assert_eq!(named, straight.streams().count());
    }

    #[test]
    fn bytes_from_anywhere_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut catalog = founded();
        let _ = Machine::apply(&mut catalog, &bytes);
        let _ = Catalog::restore(&bytes);
        let _ = machine::reply_from_bytes(&bytes);
    }
}

fn restore(incarnation: u16, voters: &[u32], lost: &[u32], recovered: usize) -> Change {
    let ids = |nodes: &[u32]| nodes.iter().map(|&id| NodeId(id)).collect::<Vec<_>>();
    let origin = Origin { region: RegionId(1), incarnation: Incarnation(incarnation) };
    Change::RestoreRegion(RestoreRegion {
        region: RegionId(1),
        incarnation: Incarnation(incarnation),
        voters: ids(voters),
        lost: ids(lost),
        past: vec![Past { origin, elsewhere: vec![Seq(7); recovered], ..Past::default() }],
    })
}

/// A region of three, two of whose disks are lost and replaced.
fn wounded() -> Catalog {
    let nodes = vec![node(1, 1, 0xD1), node(3, 1, 0xD3), node(4, 1, 0xD4), node(2, 2, 0xD2)];
    let mut catalog = Catalog::default();
    let genesis = Genesis { nodes, ..genesis() };
    catalog.apply(at(1, Change::Genesis(genesis))).unwrap();
    for (id, disk) in [(5, 0xD5), (6, 0xD6)] {
        catalog.apply(at(2, Change::RegisterNode(node(id, 1, disk)))).unwrap();
    }
    catalog
}

#[test]
fn a_region_that_lost_its_majority_goes_on_as_its_next_incarnation() {
    let mut catalog = wounded();
    let restored = catalog.apply(at(3, restore(1, &[1, 3, 4], &[3, 4], 16))).unwrap();
    let row = Arc::clone(catalog.region(RegionId(1)).unwrap());
    assert_eq!(restored, Outcome::RegionRestored(Arc::clone(&row)));
    assert_eq!((row.incarnation, row.shards, row.past[0].elsewhere.len()), (Incarnation(2), 16, 16));
    assert_eq!(row.founders, [NodeId(1), NodeId(5), NodeId(6)]);
    assert_eq!(row.origins().map(|origin| origin.incarnation.0).collect::<Vec<_>>(), [1, 2]);
    for lost in [3, 4] {
        assert!(catalog.is_removed(NodeId(lost)) && catalog.node(NodeId(lost)).is_none());
    }
    let disk_again = catalog.apply(at(4, Change::RegisterNode(node(9, 1, 0xD3))));
    assert_eq!(code(disk_again), RefusalCode::NodeRemoved, "given up for ever");
    let bytes = catalog.snapshot();
    assert_eq!(Catalog::restore(&bytes).unwrap(), catalog, "and all of it is in a snapshot");
}

#[test]
fn a_region_is_restored_once_and_never_while_it_has_its_majority() {
    let catalog = wounded();
    let refused = |change: Change| code(catalog.clone().apply(at(3, change)));
    assert_eq!(refused(restore(1, &[1, 3, 4], &[3], 16)), RefusalCode::RegionHealthy);
    assert_eq!(refused(restore(1, &[], &[3, 4], 16)), RefusalCode::RegionHealthy);
    assert_eq!(refused(restore(2, &[1, 3, 4], &[3, 4], 16)), RefusalCode::VersionConflict);
    assert_eq!(refused(restore(1, &[1, 3, 4], &[3, 2], 16)), RefusalCode::NodeNotFound, "of another region");
    assert_eq!(refused(restore(1, &[1, 3, 4], &[3, 4], 3)), RefusalCode::Malformed);
    assert_eq!(refused(restore(1, &[1, 3, 4], &[1, 3, 4, 5, 6], 16)), RefusalCode::LastNode);
    let mut twice = catalog.clone();
    twice.apply(at(3, restore(1, &[1, 3, 4], &[3, 4], 16))).unwrap();
    let after = twice.clone();
    assert_eq!(code(twice.apply(at(4, restore(1, &[1, 3, 4], &[3, 4], 16)))), RefusalCode::VersionConflict);
    assert_eq!(twice, after, "a refusal changes nothing");
}

#[test]
fn what_is_left_of_a_restored_region_and_with_whom_is_kept_for_each_incarnation() {
    let mut catalog = wounded();
    let us = |incarnation: u16| Origin { region: RegionId(1), incarnation: Incarnation(incarnation) };
    let of = |origin: Origin, elsewhere: u64, held: &[(u32, u64)]| Past {
        origin,
        elsewhere: vec![Seq(elsewhere); 16],
        held: held.iter().map(|(node, seq)| (NodeId(*node), vec![Seq(*seq); 16])).collect(),
    };
    let restored = |catalog: &mut Catalog, incarnation: u16, lost: &[u32], past: Vec<Past>| {
        let Change::RestoreRegion(restore) = restore(incarnation, lost, lost, 16) else { unreachable!() };
        let command = at(9, Change::RestoreRegion(RestoreRegion { past, ..restore }));
        let wire = meridian_wire::v1::CatalogCommand::from(&command);
        assert_eq!(Command::try_from(wire).unwrap(), command);
        catalog.apply(command).map(|_| catalog.region(RegionId(1)).unwrap().clone())
    };
    let shard = |origin: Origin| ShardId { origin, no: ShardNo(3) };
    let first = [(1, 6), (4, 9), (5, 0)];
    let row = restored(&mut catalog, 1, &[3, 4], vec![of(us(1), 5, &first)]).unwrap();
    assert_eq!(row.held_before(shard(us(2))), [(shard(us(1)), Seq(6))]);
    assert_eq!(row.held_before(shard(us(1))), [], "what is over waits for nothing");
    let holders = BTreeMap::from([(NodeId(1), Seq(6))]);
    assert_eq!(row.holders().get(&shard(us(1))), Some(&holders), "not who is lost, nor who has nothing");
    assert_eq!(Catalog::restore(&catalog.snapshot()).unwrap(), catalog);

    let mut again = catalog.clone();
    let row = restored(&mut again, 2, &[5], vec![of(us(2), 4, &[(1, 3), (6, 4)])]).unwrap();
    assert_eq!(row.held_before(shard(us(3))), [(shard(us(1)), Seq(6)), (shard(us(2)), Seq(4))]);
    let silent = vec![of(us(1), 5, &[]), of(us(2), 4, &[])];
    let row = restored(&mut catalog.clone(), 2, &[5], silent).unwrap();
    assert_eq!(
        row.held_before(shard(us(3)))[0].1,
        Seq(6),
        "node 1 said nothing of it this time, and holds it still"
    );
    again.apply(at(9, Change::RemoveNode(NodeId(1)))).unwrap();
    let row = again.region(RegionId(1)).unwrap();
    let left = [(shard(us(1)), Seq(5)), (shard(us(2)), Seq(4))];
    assert_eq!(row.held_before(shard(us(3))), left, "what a removed node alone held is waited for no more");
    assert_eq!((row.holders().get(&shard(us(1))), row.holders().len()), (None, 16));
    let mut again = catalog.clone();
    let row = restored(&mut again, 2, &[1], vec![of(us(1), 7, &[(6, 7)]), of(us(2), 4, &[])]).unwrap();
    assert_eq!(
        row.held_before(shard(us(3))),
        [(shard(us(1)), Seq(7)), (shard(us(2)), Seq(4))],
        "less is left by now"
    );
    assert_eq!(row.holders().get(&shard(us(1))), Some(&BTreeMap::from([(NodeId(6), Seq(7))])));
    for bad in [us(3), Origin { region: RegionId(2), ..us(1) }, Origin { region: RegionId(9), ..us(1) }] {
        let refused = restored(&mut catalog.clone(), 2, &[5], vec![of(bad, 4, &[])]);
        assert_eq!(refused.unwrap_err().code, RefusalCode::Malformed, "{bad} is not over");
    }
}

#[test]
fn what_an_earlier_build_wrote_of_a_restore_is_understood() {
    let wire = meridian_wire::v1::CatalogRestoreRegion {
        region: 1,
        incarnation: 1,
        voters: vec![1, 3, 4],
        lost: vec![3, 4],
        recovered: vec![7; 16],
        past: vec![],
    };
    let change = Some(meridian_wire::v1::catalog_command::Change::RestoreRegion(wire));
    let command = meridian_wire::v1::CatalogCommand { request_id: vec![1; 16].into(), at_ms: 1, change };
    let command = Command::try_from(command).unwrap();
    assert_eq!(command.change, restore(1, &[1, 3, 4], &[3, 4], 16));
    let region = meridian_wire::v1::CatalogRegion {
        id: 1,
        name: "us".into(),
        incarnation: 2,
        shards: 16,
        founders: vec![1],
        recovered: vec![7; 16],
        past: vec![],
    };
    let mut catalog = wounded();
    catalog.apply(command).unwrap();
    assert_eq!(RegionRow::try_from(region).unwrap().past, catalog.region(RegionId(1)).unwrap().past);
}

#[test]
fn a_node_comes_in_the_place_of_one_other_of_its_region() {
    let mut catalog = founded();
    let new = |id: u32, replaces: u32| {
        let row = node(id, 1, 0xD0 + u128::from(id));
        Change::RegisterNode(NodeRow { replaces: Some(NodeId(replaces)), ..row })
    };
    let code = |catalog: &mut Catalog, change| catalog.apply(at(9, change)).unwrap_err().code;
    assert_eq!(code(&mut catalog, new(9, 9)), RefusalCode::NodeNotFound, "itself");
    assert_eq!(code(&mut catalog, new(9, 2)), RefusalCode::NodeNotFound, "another region's");
    assert_eq!(code(&mut catalog, new(9, 77)), RefusalCode::NodeNotFound);
    catalog.apply(at(9, new(9, 1))).unwrap();
    catalog.apply(at(9, new(9, 1))).unwrap();
    assert_eq!(code(&mut catalog, new(8, 1)), RefusalCode::NodeChanged, "node 9 does already");
    let Change::RegisterNode(plain) = new(9, 1) else { unreachable!() };
    catalog.apply(at(9, Change::RegisterNode(NodeRow { replaces: None, ..plain }))).unwrap();
    assert_eq!(catalog.node(NodeId(9)).unwrap().replaces, Some(NodeId(1)), "once said, it stays");
    catalog.apply(at(9, Change::RemoveNode(NodeId(1)))).unwrap();
    catalog.apply(at(9, new(9, 1))).unwrap();
    assert_eq!(code(&mut catalog, new(8, 1)), RefusalCode::NodeRemoved);
}

#[test]
fn a_restore_is_due_once_no_set_of_voters_that_anyone_knows_of_has_a_majority_left() {
    let mut catalog = founded();
    let us = RegionName::new("us").unwrap();
    let set = |ids: &[u32]| ids.iter().map(|id| NodeId(*id)).collect::<BTreeSet<_>>();
    let seen = |ids: &[u32]| Standing { configs: vec![set(ids)], leader: None };
    let nothing = Standing::default();
    let add = |catalog: &mut Catalog, id: u32, replaces: Option<u32>| {
        let row = NodeRow { replaces: replaces.map(NodeId), ..node(id, 1, 0xD0 + u128::from(id)) };
        catalog.apply(at(9, Change::RegisterNode(row))).unwrap();
    };
    for id in [11, 12] {
        add(&mut catalog, id, None);
    }
    assert_eq!(catalog.due_restore(&us, &[seen(&[1, 11, 12])]), None);
    assert_eq!(catalog.due_restore(&us, &[]), None);
    add(&mut catalog, 21, Some(1));
    assert_eq!(
        catalog.due_restore(&us, &[seen(&[1, 11, 12])]),
        None,
        "two of three are left: placement sees to it"
    );
    assert_eq!(
        catalog.due_restore(&us, std::slice::from_ref(&nothing)),
        None,
        "11 and 12 took part, and are not lost"
    );
    add(&mut catalog, 22, Some(11));
    assert_eq!(catalog.remaining(&us), set(&[12, 21, 22]));
    let restore = catalog.due_restore(&us, &[seen(&[1, 11, 12]), nothing.clone(), nothing.clone()]).unwrap();
    assert_eq!(
        (&restore.lost[..], &restore.voters[..]),
        (&[NodeId(1), NodeId(11)][..], &[NodeId(1), NodeId(11), NodeId(12)][..])
    );
    // Node 12 was away while 21 and 22 came to decide: what it knows is old.
    let stale = [seen(&[1, 11, 12]), seen(&[12, 21, 22]), seen(&[12, 21, 22])];
    assert_eq!(catalog.due_restore(&us, &stale), None);
    let led = Standing { leader: Some(NodeId(11)), ..seen(&[1, 11, 12]) };
    assert_eq!(catalog.due_restore(&us, &[led]), None, "somebody leads: it is not lost");
    let joint = Standing { configs: vec![set(&[1, 11, 12]), set(&[1, 11, 12, 21, 22])], leader: None };
    assert_eq!(catalog.due_restore(&us, &[joint]).unwrap().voters, [NodeId(1), NodeId(11), NodeId(12)]);

    let asked = |strangers: &[u32]| -> Vec<u32> {
        catalog.may_hold(&restore, &set(strangers)).iter().map(|row| row.id.0).collect()
    };
    assert_eq!((asked(&[21, 22]), asked(&[22])), (vec![2, 12], vec![2, 12, 21]));
    catalog.apply(at(9, Change::RestoreRegion(restore.clone()))).unwrap();
    assert_eq!(catalog.due_restore(&us, &[seen(&[1, 11, 12])]), None, "done");

    // Of those that were to found it anew two are lost before they had.
    assert_eq!(catalog.region_named(&us).unwrap().founders, [NodeId(12), NodeId(21), NodeId(22)]);
    add(&mut catalog, 31, Some(21));
    let unheard = [nothing.clone(), nothing.clone()];
    assert_eq!(catalog.due_restore(&us, &unheard), None, "two of three can found it");
    add(&mut catalog, 32, Some(22));
    let again = catalog.due_restore(&us, &unheard).unwrap();
    assert_eq!(again.voters, [NodeId(12), NodeId(21), NodeId(22)]);
}

#[test]
fn a_restore_is_due_where_a_shards_set_lost_its_majority_and_placement_did_not() {
    use crate::placement::{self, Found, Join, Placement};

    let mut catalog = founded();
    let us = RegionName::new("us").unwrap();
    let set = |ids: &[u32]| ids.iter().map(|id| NodeId(*id)).collect::<BTreeSet<_>>();
    let add = |catalog: &mut Catalog, placement: &mut Placement, id: u32, replaces: Option<u32>| {
        let row = NodeRow { replaces: replaces.map(NodeId), ..node(id, 1, 0xD0 + u128::from(id)) };
        let NodeRow { disk, peer_address, client_address, .. } = row.clone();
        catalog.apply(at(9, Change::RegisterNode(row))).unwrap();
        let join = Join { node: NodeId(id), disk, peer_address, client_address };
        match placement.founded() {
            Some(_) => placement.change(placement::Change::Join(join)).unwrap(),
            None => {
                let found = Found {
                    cluster: genesis().cluster,
                    region: RegionId(1),
                    replication: 3,
                    nodes: vec![join],
                };
                placement.change(placement::Change::Found(found)).unwrap();
            }
        }
    };
    let mut placement = Placement::default();
    for id in 11..=15 {
        add(&mut catalog, &mut placement, id, None);
    }
    let shard = |no: u16| ShardId { origin: Origin::first(RegionId(1)), no: ShardNo(no) };
    // A copy of what another region writes is there again, whoever loses it.
    let of_another = ShardId { origin: Origin::first(RegionId(2)), no: ShardNo(0) };
    let members = [13, 14, 15].map(NodeId).to_vec();
    placement.change(placement::Change::Create { shard: of_another, members }).unwrap();
    for (no, members) in [(0, [11, 12, 13]), (1, [12, 13, 14])] {
        let members = members.map(NodeId).to_vec();
        placement.change(placement::Change::Create { shard: shard(no), members }).unwrap();
    }
    add(&mut catalog, &mut placement, 21, Some(11));
    assert_eq!(catalog.due_restore_of_shards(&us, &placement, &set(&[11])), None, "placement empties it");
    let before = placement.clone();
    add(&mut catalog, &mut placement, 22, Some(12));
    assert_eq!(catalog.due_restore_of_shards(&us, &placement, &set(&[11])), None, "node 12 is heard");
    let silent = set(&[11, 12, 15]);
    assert_eq!(catalog.due_restore_of_shards(&us, &before, &silent), None, "node 22 is not there yet");
    let restore = catalog.due_restore_of_shards(&us, &placement, &silent).unwrap();
    assert_eq!(restore.voters, [NodeId(11), NodeId(12), NodeId(13)]);
    assert_eq!(restore.lost, [NodeId(11), NodeId(12)], "node 15 may come back");
    let (mut others, mut copies) = (catalog.clone(), before);
    for id in [24, 25] {
        add(&mut others, &mut copies, id, Some(id - 10));
    }
    assert_eq!(
        others.due_restore_of_shards(&us, &copies, &set(&[14, 15])),
        None,
        "only a copy lost its majority"
    );
    catalog.apply(at(9, Change::RestoreRegion(restore))).unwrap();
    assert_eq!(catalog.region_named(&us).unwrap().founders.len(), 6);
}

#[test]
fn where_nobody_is_left_who_decided_all_that_came_first_must_be_lost() {
    let mut catalog = founded();
    let us = RegionName::new("us").unwrap();
    let row = NodeRow { replaces: Some(NodeId(1)), ..node(21, 1, 0xE1) };
    catalog.apply(at(9, Change::RegisterNode(row))).unwrap();
    let restore = catalog.due_restore(&us, &[Standing::default()]).unwrap();
    assert_eq!((restore.voters, restore.lost), (vec![NodeId(1)], vec![NodeId(1)]));
}
