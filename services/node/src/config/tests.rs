//! Every refusal of a `node.toml`, by the key that its message must name.

use std::path::Path;

use super::*;

const GOOD: &str = r#"
[node]
id = 2
region = "eu"

[cluster]
uuid = "6f1f7f64-6a39-4c0b-9d2b-53a8a9f3a001"

[[cluster.regions]]
id = 1
name = "us"
shards = 16

[[cluster.regions]]
id = 2
name = "eu"

[[cluster.nodes]]
id = 1
region = "us"
peer = "http://127.0.0.1:7501"
client = "http://127.0.0.1:7401"

[[cluster.nodes]]
id = 2
region = "eu"
peer = "http://127.0.0.1:7502"
client = "http://127.0.0.1:7402"

[listen]
client = "127.0.0.1:7402"
peer = "127.0.0.1:7502"
admin = "127.0.0.1:7602"
"#;

fn parse(text: &str) -> Result<NodeConfig, ConfigError> {
    NodeConfig::parse(Path::new("world/eu-1/node.toml"), text)
}

/// The message for GOOD with `from` replaced by `to`.
fn refusal(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    parse(&GOOD.replace(from, to)).expect_err(to).to_string()
}

/// The message for GOOD with more sections.
fn refusal_with(more: &str) -> String {
    parse(&format!("{GOOD}\n{more}")).expect_err(more).to_string()
}

#[test]
fn reads_a_file_and_fills_in_the_defaults() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.node.id, NodeId(2));
    assert_eq!(config.region().id, RegionId(2));
    assert_eq!(config.region().shards, DEFAULT_SHARDS);
    assert_eq!(config.data_dir(), Path::new("world/eu-1"));
    assert_eq!(config.limits.publish_bytes_in_flight, ByteSize::mib(64));
    assert_eq!(config.log.format, LogFormat::Text);
    let elsewhere =
        GOOD.replace("region = \"eu\"\n\n[cluster]", "region = \"eu\"\ndata = \"disk\"\n\n[cluster]");
    assert_eq!(parse(&elsewhere).unwrap().data_dir(), Path::new("world/eu-1/disk"));
}

#[test]
fn what_it_writes_it_reads() {
    let mut config = parse(GOOD).unwrap();
    config.wan = "us-eu=80ms".parse().unwrap();
    config.limits.subscribers = 3;
    config.storage.file_bytes = ByteSize::mib(32);
    config.log = LogSection { level: "debug".into(), format: LogFormat::Json };
    let text = config.to_toml().unwrap();
    assert_eq!(parse(&text).unwrap(), config, "{text}");
    assert!(!text.contains("[tls]") && !text.contains("[raft]"), "defaults are left out:\n{text}");
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    for (more, key) in [
        ("[limits]\npublish_bytes_in_fight = \"1MiB\"", "publish_bytes_in_fight"),
        ("[gateway]\nx = 1", "gateway"),
        ("[tls]\ncert = \"x\"", "cert"),
        ("[raft]\nelection = \"1s\"", "election"),
        ("[placement]\nreplicas = 3", "replicas"),
        ("[storage]\nfile = \"1MiB\"", "file"),
        ("[log]\nlevels = \"info\"", "levels"),
        ("[runtime]\nthreads = 1", "threads"),
    ] {
        let message = refusal_with(more);
        assert!(message.starts_with("world/eu-1/node.toml: "), "{message}");
        assert!(message.contains(&format!("unknown field `{key}`")), "{message}");
        assert!(message.contains("line "), "{message}");
    }
    assert!(refusal("[listen]", "[listen]\nhttp = 1").contains("unknown field `http`"));
    assert!(refusal("shards = 16", "shard = 16").contains("unknown field `shard`"));
}

#[test]
fn a_missing_key_and_a_value_of_the_wrong_kind_are_named() {
    assert!(refusal("[node]\nid = 2", "[node]").contains("missing field `id`"));
    assert!(
        refusal("uuid = \"6f1f7f64-6a39-4c0b-9d2b-53a8a9f3a001\"", "uuid = \"x\"").contains("uuid = \"x\"")
    );
    assert!(refusal("client = \"127.0.0.1:7402\"", "client = \"7402\"").contains("client = \"7402\""));
    let message = refusal_with("[limits]\nlink_credit_bytes = \"32MB\"");
    assert!(message.contains("is not a size") && message.contains("link_credit_bytes"), "{message}");
    assert!(refusal("name = \"us\"", "name = \"u s\"").contains("has the character ' '"));
}

#[test]
fn tls_is_refused_not_ignored() {
    for key in ["client_cert", "client_key", "client_ca", "peer_cert", "peer_key", "peer_ca"] {
        let message = refusal_with(&format!("[tls]\n{key} = \"x.pem\""));
        assert!(message.contains(&format!("tls.{key}: this release does not speak TLS yet")), "{message}");
    }
    let message = refusal("http://127.0.0.1:7501", "https://127.0.0.1:7501");
    assert!(message.contains("cluster.nodes[0].peer") && message.contains("TLS"), "{message}");
}

#[test]
fn the_cluster_must_fit_itself() {
    for (from, to, key, says) in [
        ("id = 2\nname = \"eu\"", "id = 1\nname = \"eu\"", "cluster.regions[1].id", "already the number"),
        ("id = 2\nname = \"eu\"", "id = 0\nname = \"eu\"", "cluster.regions[1].id", "from 1"),
        ("id = 2\nname = \"eu\"", "id = 2\nname = \"us\"", "cluster.regions[1].name", "already the name"),
        ("shards = 16", "shards = 0", "cluster.regions[0].shards", "within 1 and 1024"),
        ("shards = 16", "shards = 1025", "cluster.regions[0].shards", "within 1 and 1024"),
        ("id = 1\nregion = \"us\"", "id = 2\nregion = \"us\"", "cluster.nodes[1].id", "already the number"),
        ("id = 1\nregion = \"us\"", "id = 0\nregion = \"us\"", "cluster.nodes[0].id", "from 1"),
        ("id = 1\nregion = \"us\"", "id = 1\nregion = \"ap\"", "cluster.nodes[0].region", "not among"),
        ("id = 1\nregion = \"us\"", "id = 1\nregion = \"eu\"", "cluster.nodes", "region us has no node"),
        (
            "name = \"eu\"",
            "name = \"eu\"\n\n[[cluster.regions]]\nid = 3\nname = \"ap\"",
            "cluster.nodes",
            "region ap has no node",
        ),
        (
            "http://127.0.0.1:7502",
            "http://127.0.0.1:7501",
            "cluster.nodes[1].peer",
            "already cluster.nodes[0].peer",
        ),
        ("http://127.0.0.1:7402", "127.0.0.1:7402", "cluster.nodes[1].client", "http://host:port"),
        ("http://127.0.0.1:7402", "http://127.0.0.1", "cluster.nodes[1].client", "has no port"),
        ("http://127.0.0.1:7402", "http://127.0.0.1:7402/x", "cluster.nodes[1].client", "after the port"),
        ("[node]\nid = 2", "[node]\nid = 3", "node.id", "3 is not among cluster.nodes (1, 2)"),
        ("[node]\nid = 2", "[node]\nid = 1", "node.region", "node 1 is in us"),
    ] {
        let message = refusal(from, to);
        assert!(message.contains(&format!("{key}: ")) && message.contains(says), "{message}");
    }
}

/// GOOD, as node 3 has it, which is added to the cluster later.
fn added(more: &str) -> String {
    GOOD.replace("[node]\nid = 2", &format!("[node]\nid = 3\n{more}"))
}

const ADVERTISED: &str =
    "advertise_peer = \"http://127.0.0.1:7503\"\nadvertise_client = \"http://127.0.0.1:7403\"";

#[test]
fn a_node_that_is_added_later_says_where_it_is() {
    let config = parse(&added(ADVERTISED)).unwrap();
    assert!(!config.is_founder());
    let addresses = ("http://127.0.0.1:7503".to_owned(), "http://127.0.0.1:7403".to_owned());
    assert_eq!(config.own_addresses(), addresses);
    assert_eq!(config.neighbours(), 1, "the founder of its region");
    assert_eq!(parse(&config.to_toml().unwrap()).unwrap(), config);
    let founder = parse(GOOD).unwrap();
    assert!(founder.is_founder());
    assert_eq!(founder.own_addresses().0, "http://127.0.0.1:7502");
    // It need not name a founder of every region.
    let seeds = added(ADVERTISED).replace("id = 1\nregion = \"us\"", "id = 1\nregion = \"eu\"");
    assert_eq!(parse(&seeds).unwrap().neighbours(), 2);

    for (more, key, says) in [
        ("", "node.id", "set node.advertise_peer and node.advertise_client"),
        ("advertise_peer = \"http://127.0.0.1:7503\"", "node.id", "set node.advertise_peer and"),
        (
            &ADVERTISED.replace("http://127.0.0.1:7503", "127.0.0.1:7503"),
            "node.advertise_peer",
            "has no http://",
        ),
        (&ADVERTISED.replace("7503", "7501"), "node.advertise_peer", "already that of node 1"),
        (&ADVERTISED.replace("7403", "7402"), "node.advertise_client", "already that of node 2"),
        (&ADVERTISED.replace("7403", "7503"), "node.advertise_client", "already node.advertise_peer"),
    ] {
        let message = parse(&added(more)).unwrap_err().to_string();
        assert!(message.contains(&format!("{key}: ")) && message.contains(says), "{message}");
    }
    let founder = refusal("[node]\nid = 2", &format!("[node]\nid = 2\n{ADVERTISED}"));
    assert!(founder.contains("node.advertise_peer: node 2 is among cluster.nodes"), "{founder}");
    let elsewhere = added(ADVERTISED).replacen("region = \"eu\"", "region = \"ap\"", 1);
    let message = parse(&elsewhere).unwrap_err().to_string();
    assert!(message.contains("node.region: ap is not among cluster.regions"), "{message}");
}

/// GOOD with more nodes, from number 3 on, in a region.
fn with_nodes(region: &str, more: u16) -> String {
    let entry = |id: u16| {
        let (peer, client) = (8000 + id, 9000 + id);
        format!(
            "[[cluster.nodes]]\nid = {id}\nregion = \"{region}\"\npeer = \"http://127.0.0.1:{peer}\"\nclient = \
             \"http://127.0.0.1:{client}\"\n\n"
        )
    };
    let entries: String = (3..3 + more).map(entry).collect();
    GOOD.replace("[listen]", &format!("{entries}[listen]"))
}

#[test]
fn a_region_has_as_many_nodes_as_it_is_given() {
    for (more, neighbours) in [(0, 0), (1, 1), (2, 2), (62, 62)] {
        let config = parse(&with_nodes("eu", more)).unwrap();
        assert_eq!(config.neighbours(), neighbours);
        assert_eq!(parse(&config.to_toml().unwrap()).unwrap(), config);
    }
    assert_eq!(parse(&with_nodes("us", 2)).unwrap().neighbours(), 0, "they are another region's");
    let message = parse(&with_nodes("eu", 63)).unwrap_err().to_string();
    assert!(message.contains("cluster.nodes: 65 are too many; at most 64"), "{message}");
    // What holds for nodes of two regions holds for those of one.
    for (from, to, key, says) in [
        ("id = 4", "id = 3", "cluster.nodes[3].id", "already the number of cluster.nodes[2]"),
        (":8004", ":8003", "cluster.nodes[3].peer", "already cluster.nodes[2].peer"),
        (":9004", ":8003", "cluster.nodes[3].client", "already cluster.nodes[2].peer"),
    ] {
        let message = parse(&with_nodes("eu", 2).replace(from, to)).unwrap_err().to_string();
        assert!(message.contains(&format!("{key}: ")) && message.contains(says), "{message}");
    }
}

#[test]
fn placement_has_its_defaults_and_is_read() {
    let default = parse(GOOD).unwrap();
    assert_eq!(default.limits.replication_bytes, ByteSize::mib(16));
    let text = "heartbeat = \"100ms\"\nelection_min = \"400ms\"\nelection_max = \"800ms\"\ndead_after = \"1s\"\n\
                grace = \"5m\"\nreplication = 3";
    assert_eq!(parse(&format!("{GOOD}\n[placement]\n{text}")).unwrap(), default);
    assert!(!default.to_toml().unwrap().contains("[placement]"), "defaults are left out");
    let five = parse(&format!("{GOOD}\n[placement]\nreplication = 5\ngrace = \"1h\"")).unwrap();
    assert_eq!((five.placement.replication, five.placement.grace), (5, Span::millis(3_600_000)));
    assert_eq!(parse(&five.to_toml().unwrap()).unwrap(), five);
}

#[test]
fn listeners_are_apart_and_on_loopback() {
    let message = refusal("admin = \"127.0.0.1:7602\"", "admin = \"127.0.0.1:7402\"");
    assert!(message.contains("listen.admin: 127.0.0.1:7402 is already listen.client"), "{message}");
    let message = refusal("admin = \"127.0.0.1:7602\"", "admin = \"0.0.0.0:7602\"");
    assert!(message.contains("listen.admin") && message.contains("insecure_non_loopback"), "{message}");
    let accepted =
        GOOD.replace("admin = \"127.0.0.1:7602\"", "admin = \"0.0.0.0:7602\"\ninsecure_non_loopback = true");
    assert!(parse(&accepted).is_ok());
    assert!(parse(&GOOD.replace("admin = \"127.0.0.1:7602\"", "admin = \"[::1]:7602\"")).is_ok());
}

#[test]
fn numbers_that_cannot_work_are_refused() {
    for (more, key) in [
        ("[limits]\npublish_bytes_in_flight = \"1MiB\"", "limits.publish_bytes_in_flight"),
        ("[limits]\nsubscribers = 0", "limits.subscribers"),
        ("[limits]\nsubscriber_buffer_bytes = \"1KiB\"", "limits.subscriber_buffer_bytes"),
        ("[limits]\nlink_credit_bytes = \"1MiB\"", "limits.link_credit_bytes"),
        ("[storage]\nfile_bytes = \"1MiB\"", "storage.file_bytes"),
        ("[storage]\nfile_bytes = \"67108865B\"", "storage.file_bytes"),
        ("[storage]\nmax_round_bytes = \"65MiB\"", "storage.max_round_bytes"),
        ("[raft]\nheartbeat = \"0s\"", "raft.heartbeat"),
        ("[raft]\nelection_min = \"600ms\"", "raft.election_min"),
        ("[raft]\nelection_max = \"2s\"", "raft.election_max"),
        ("[raft]\nheartbeat = \"500us\"", "raft.heartbeat"),
        ("[limits]\nreplication_bytes = \"1MiB\"", "limits.replication_bytes"),
        ("[placement]\nheartbeat = \"0s\"", "placement.heartbeat"),
        ("[placement]\nheartbeat = \"201ms\"", "placement.election_min"),
        ("[placement]\nelection_min = \"800ms\"", "placement.election_max"),
        ("[placement]\ndead_after = \"199ms\"", "placement.dead_after"),
        ("[placement]\ngrace = \"999ms\"", "placement.grace"),
        ("[placement]\nreplication = 0", "placement.replication"),
        ("[placement]\nreplication = 8", "placement.replication"),
        ("[log]\nlevel = \"\"", "log.level"),
        ("[runtime]\nworkers = 5000", "runtime.workers"),
    ] {
        let message = refusal_with(more);
        assert!(message.contains(&format!("{key}: ")), "{message}");
    }
}

#[test]
fn a_simulated_wan_is_for_one_machine() {
    let wan = "[wan]\nus-eu = \"80ms\"";
    let config = parse(&format!("{GOOD}\n{wan}")).unwrap();
    assert_eq!(
        config.wan.round_trip(&config.cluster.regions[1].name, &config.cluster.regions[0].name).as_millis(),
        80
    );
    assert!(refusal_with("[wan]\nus-mars = \"80ms\"").contains("wan.us-mars: "));
    let far = GOOD.replace("http://127.0.0.1:7501", "http://10.0.0.1:7501");
    parse(&far).expect("another machine, nothing simulated");
    let message = parse(&format!("{far}\n{wan}")).unwrap_err().to_string();
    assert!(message.contains("wan: ") && message.contains("10.0.0.1:7501"), "{message}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let message = NodeConfig::load(Path::new("nowhere/node.toml")).unwrap_err().to_string();
    assert!(message.starts_with("nowhere/node.toml: cannot read the configuration"), "{message}");
}
