//! SIGKILL at random points of a real process with real files: whatever it had acknowledged is there when the files are
//! opened again. `MERIDIAN_SEED` repeats a run.

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{at, disk, never_fatal};
use meridian_metadata::catalog::{
    Change, CreateStream, Genesis, NodeRow, Outcome, RegionRow, StreamSettings,
};
use meridian_metadata::{CatalogGroup, Config, NoChannel, PeerChannels};
use meridian_types::{NodeId, RegionId, RegionName, StreamId, StreamName, TenantId};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tonic::transport::Channel;

/// So many, and on a slow machine up to ten times as many, until enough was acknowledged.
const ROUNDS: usize = 40;
const CHILD: &str = "MERIDIAN_KILL_CHILD";
const WITHIN: Duration = Duration::from_secs(30);

struct Alone;

impl PeerChannels for Alone {
    fn channel(&self, node: NodeId) -> Result<Channel, NoChannel> {
        Err(NoChannel { node, why: "a group of one".into() })
    }
}

/// Snapshots and purges often, so that kills hit them too.
async fn start(dir: &Path) -> CatalogGroup {
    let config = Config {
        heartbeat: Duration::from_millis(50),
        election_min: Duration::from_millis(150),
        election_max: Duration::from_millis(300),
        snapshot_after: 15,
        keep_entries: 5,
        ..Config::catalog(NodeId(1), disk(1), dir)
    };
    CatalogGroup::start(config, Arc::new(Alone), never_fatal()).await.unwrap()
}

fn genesis() -> Genesis {
    Genesis {
        cluster: common::CLUSTER,
        feature_level: 1,
        regions: vec![RegionRow::first(RegionId(1), RegionName::new("only").unwrap(), 1)],
        nodes: vec![NodeRow {
            id: NodeId(1),
            region: RegionId(1),
            disk: disk(1),
            peer_address: "127.0.0.1:1".into(),
            client_address: "http://127.0.0.1:2".into(),
            max_feature_level: 1,
            added: false,
            replaces: None,
        }],
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()).unwrap();
}

/// The process that is killed: this test alone, with the variable set. Otherwise it has nothing to do.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let group = start(Path::new(&dir)).await;
        let handle = group.handle();
        say("open");
        handle.bootstrap(at(1, Change::Genesis(genesis())), WITHIN).await.unwrap();
        say("founded");
        // What was logged but not answered before the kill may be done now: the next name comes after it.
        handle.barrier(WITHIN).await.unwrap();
        for n in handle.state().streams().last().map_or(1, |stream| stream.id.0 + 1).. {
            let create = CreateStream {
                tenant: TenantId::DEFAULT,
                name: StreamName::new(format!("s{n}")).unwrap(),
                settings: StreamSettings { partitions: 1, ..StreamSettings::default() },
            };
            match handle.propose(at(n, Change::CreateStream(create)), WITHIN).await.unwrap().unwrap() {
                Outcome::StreamCreated { stream, created: true } => {
                    say(&format!("ack {} {}", stream.id, stream.name))
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn what_was_acknowledged_survives_kills_at_any_point() {
    let seed =
        std::env::var("MERIDIAN_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("MERIDIAN_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("catalog");
    let mut acked: Vec<(StreamId, String)> = Vec::new();
    let mut founded = false;
    let mut round = 0;
    while round < ROUNDS || (acked.len() <= ROUNDS && round < 10 * ROUNDS) {
        // At the start, after the opening, or somewhere in the writing.
        let longest = if round < ROUNDS { 250_000 } else { 2_000_000 };
        let patience = Duration::from_micros(random.random_range(0..longest));
        let after = random.random_range(0..4);
        let mut child = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(CHILD, &store)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (told, hear) = std::sync::mpsc::channel();
        let out = child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            let mut out = BufReader::new(out);
            let mut said = Vec::new();
            let mut line = String::new();
            // A line without its end was cut by the kill: not said.
            while out.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
                let _ = told.send(());
                said.push(std::mem::take(&mut line).trim_end().to_owned());
            }
            said
        });
        if after > 0 {
            // Lines of the test harness count too; that only moves the point.
            for _ in 0..after + 2 {
                hear.recv_timeout(WITHIN).expect("the child says something");
            }
        }
        std::thread::sleep(patience);
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(9),
            "round {round}: it died before"
        );
        for line in reader.join().unwrap() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["ack", id, name] => acked.push((StreamId(id.parse().unwrap()), name.to_owned())),
                ["founded"] => founded = true,
                _ => {}
            }
        }

        // What a restart shows before it has heard of anyone.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let group = start(&store).await;
            let state = group.handle().state();
            assert!(!founded || state.cluster().is_some(), "seed {seed} round {round}: the genesis is gone");
            for (id, name) in &acked {
                let found = state.stream(*id).map(|stream| stream.name.as_str());
                assert_eq!(found, Some(name.as_str()), "seed {seed} round {round}: {id} is gone");
            }
            group.close().await;
        });
        round += 1;
    }
    println!("{round} kills, {} acknowledged", acked.len());
    assert!(acked.len() > ROUNDS, "too few were acknowledged to say anything: {}", acked.len());
}
