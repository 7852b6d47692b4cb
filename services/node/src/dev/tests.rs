//! The world around its nodes, with nodes that only say that they are ready.

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::config::ByteSize;
use crate::lock::LockError;

/// A node that has nothing but `/readyz`. It ends when told to, or when its folder has a file `die`.
async fn fake_node(config: NodeConfig, stop: CancellationToken) -> Result<(), NodeError> {
    let listener = TcpListener::bind(config.listen.admin).await?;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                if config.data_dir().join("die").exists() {
                    return Err("told to die".into());
                }
            }
            accepted = listener.accept() => {
                // Whoever dials and is gone, or says nothing, is no trouble of the node's.
                let Ok((mut stream, _)) = accepted else { continue };
                tokio::spawn(async move {
                    let mut request = [0; 256];
                    let _ = stream.read(&mut request).await;
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    let _ = stream.write_all(answer).await;
                });
            }
        }
    }
}

fn in_process() -> Launcher {
    Launcher::InProcess(Arc::new(|config, stop| Box::pin(fake_node(config, stop))))
}

/// Another process writes it: a file that this one has open for writing goes along into a child that another test forks at
/// that moment, and cannot be executed until that child has let go of it.
fn write_script(path: &Path, text: &str) {
    let write = ["-c", "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\"", path.to_str().unwrap(), text];
    assert!(std::process::Command::new("sh").args(write).status().unwrap().success());
}

/// This test binary as a node's process: `serve --config X` becomes a run of the test `as_a_process` alone.
fn processes(folder: &Path) -> Launcher {
    let exe = folder.join("fake-meridian");
    let me = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\nset -u\nexport FAKE_NODE=\"$3\"\nexec '{}' --exact dev::tests::as_a_process --nocapture\n",
        me.display()
    );
    write_script(&exe, &script);
    Launcher::Processes { exe }
}

/// A node, when run by [`processes`]; a node by that name never exists otherwise, and there is nothing to test.
#[tokio::test]
async fn as_a_process() {
    let Ok(config) = std::env::var("FAKE_NODE") else { return };
    let config = NodeConfig::load(Path::new(&config)).unwrap();
    let stop = CancellationToken::new();
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
    let told = stop.clone();
    tokio::spawn(async move {
        term.recv().await;
        told.cancel();
    });
    // As `--until-stdin-ends` does.
    let orphaned = stop.clone();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        orphaned.cancel();
    });
    let folder = config.data_dir();
    fake_node(config, stop).await.unwrap();
    std::fs::write(folder.join("drained"), "").unwrap();
}

fn options(folder: &Path) -> DevOptions {
    DevOptions { ready_within: Duration::from_secs(20), ..DevOptions::new(folder) }
}

fn regions(names: &[&str]) -> Option<Vec<RegionName>> {
    Some(names.iter().map(|n| RegionName::new(*n).unwrap()).collect())
}

type Events = mpsc::UnboundedReceiver<DevEvent>;

async fn start(options: DevOptions, launcher: Launcher) -> Result<(World, Events), DevError> {
    let (tell, events) = mpsc::unbounded_channel();
    World::start(options, launcher, tell).await.map(|world| (world, events))
}

async fn until(events: &mut Events, what: impl Fn(&DevEvent) -> bool) -> DevEvent {
    let next = async {
        loop {
            let event = events.recv().await.expect("the world goes on");
            if what(&event) {
                return event;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), next).await.expect("in time")
}

#[tokio::test]
async fn a_second_run_finds_the_same_world() {
    let dir = tempfile::tempdir().unwrap();
    let wan: WanTable = "us-eu=80ms".parse().unwrap();
    let asked = DevOptions { wan: Some(wan.clone()), ..options(dir.path()) };
    let (world, _events) = start(asked, in_process()).await.unwrap();
    let first = world.plan().clone();
    assert_eq!(ClusterFile::read(world.cluster_path()).unwrap(), world.cluster());
    let names: Vec<_> = world.cluster().regions.iter().map(|r| r.name.to_string()).collect();
    assert_eq!(names, ["us", "eu", "ap"]);
    let us = &world.cluster().regions[0].nodes[0];
    assert_eq!(us.pid, std::process::id());
    assert_eq!(us.endpoint, first.nodes[0].endpoint());
    let config = NodeConfig::load(&Path::new(&us.dir).join("node.toml")).unwrap();
    assert_eq!(config.wan, wan);
    assert_eq!(config.listen.client.port(), first.nodes[0].client_port);
    world.end().await;

    // Changed by hand, and kept.
    let file = dir.path().join("us-1/node.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n[limits]\nsubscribers = 7\n")).unwrap();
    let (world, _events) = start(options(dir.path()), in_process()).await.unwrap();
    assert_eq!(world.plan(), &first);
    world.end().await;
    assert_eq!(NodeConfig::load(&file).unwrap().limits.subscribers, 7);

    // Other round trips are a change that can be asked for.
    let asked = DevOptions { wan: Some("us-ap=150ms".parse().unwrap()), ..options(dir.path()) };
    let (world, _events) = start(asked, in_process()).await.unwrap();
    world.end().await;
    let config = NodeConfig::load(&file).unwrap();
    assert_eq!(config.wan, "us-ap=150ms".parse().unwrap());
    assert_eq!(config.limits.subscribers, 7);
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let refused = async |options: DevOptions| start(options, in_process()).await.unwrap_err().to_string();
    let with = || options(dir.path());
    for nodes in [0, 22, u32::MAX] {
        let message = refused(DevOptions { nodes: Some(nodes), ..with() }).await;
        assert!(message.contains(&format!("--nodes {nodes}: in 3 regions")), "{message}");
    }
    assert!(refused(DevOptions { regions: Some(vec![]), ..with() }).await.contains("--regions"));
    let twice = refused(DevOptions { regions: regions(&["us", "eu", "us"]), ..with() }).await;
    assert!(twice.contains("us is named twice"), "{twice}");
    assert!(refused(DevOptions { base_port: Some(65_400), ..with() }).await.contains("65602"));
    let wan = refused(DevOptions { wan: Some("us-mars=1s".parse().unwrap()), ..with() }).await;
    assert!(wan.contains("--wan") && wan.contains("us-mars"), "{wan}");
    assert!(!dir.path().join("dev.json").exists(), "nothing was laid out by what was refused");

    let (world, _events) = start(with(), in_process()).await.unwrap();
    let again = start(with(), in_process()).await.unwrap_err();
    assert!(matches!(again, DevError::Lock(LockError::InUse { .. })), "{again}");
    let kept = world.plan().nodes[0].client_port;
    world.end().await;
    let other = refused(DevOptions { regions: regions(&["us", "eu"]), ..with() }).await;
    assert!(other.contains("regions us,eu,ap, not us,eu"), "{other}");
    let other = refused(DevOptions { base_port: Some(kept - 1), ..with() }).await;
    assert!(other.contains(&format!("first port is {kept}")), "{other}");

    let busy = std::net::TcpListener::bind(("127.0.0.1", kept)).unwrap();
    let message = refused(with()).await;
    assert!(message.contains(&format!("port {kept} (client listener of us-1) is in use")), "{message}");
    drop(busy);

    std::fs::remove_dir_all(dir.path().join("eu-1")).unwrap();
    let lost = refused(with()).await;
    assert!(lost.contains("eu-1: this folder is empty") && lost.contains("give it a new id"), "{lost}");
}

#[tokio::test]
async fn a_region_has_as_many_nodes_as_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let asked = || DevOptions { regions: regions(&["us", "eu"]), ..options(dir.path()) };
    let (world, mut events) = start(DevOptions { nodes: Some(3), ..asked() }, in_process()).await.unwrap();
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(event, DevEvent::NoneMayFail { .. }), "{event}");
    }
    let plan = world.plan().clone();
    let names: Vec<_> = plan.nodes.iter().map(|n| (n.id.get(), n.name.as_str(), n.region.as_str())).collect();
    assert_eq!(
        names,
        [
            (1, "us-1", "us"),
            (2, "us-2", "us"),
            (3, "us-3", "us"),
            (4, "eu-1", "eu"),
            (5, "eu-2", "eu"),
            (6, "eu-3", "eu")
        ]
    );
    let mut ports: Vec<_> =
        plan.nodes.iter().flat_map(|n| [n.client_port, n.peer_port, n.admin_port]).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 18, "each listener has its own");

    let cluster = ClusterFile::read(world.cluster_path()).unwrap();
    for (region, of) in cluster.regions.iter().zip(["us", "eu"]) {
        assert_eq!(region.name.as_str(), of);
        assert_eq!(region.nodes.len(), 3);
        for node in &region.nodes {
            let planned = plan.nodes.iter().find(|n| n.id == node.id).unwrap();
            assert_eq!((&node.name, &node.endpoint), (&planned.name, &planned.endpoint()));
            assert_eq!(Path::new(&node.dir), planned.folder(world.folder()));
            let config = NodeConfig::load(&Path::new(&node.dir).join("node.toml")).unwrap();
            assert_eq!((config.node.id, config.neighbours()), (node.id, 2));
            assert_eq!(config.cluster.nodes.len(), 6);
            assert_eq!(config.runtime.workers, 1);
            assert_eq!(config.limits.index_memory_bytes, ByteSize::mib(16));
            assert_eq!(config.limits.tail_bytes, ByteSize::mib(16));
            assert_eq!((config.storage.file_bytes, config.storage.stock), (ByteSize::mib(16), 1));
        }
    }

    // A world outlives any of them.
    std::fs::write(dir.path().join("us-2/die"), "").unwrap();
    let died = until(&mut events, |e| matches!(e, DevEvent::Died { .. })).await;
    assert_eq!(died, DevEvent::Died { node: "us-2".into(), how: "told to die".into() });
    std::fs::remove_file(dir.path().join("us-2/die")).unwrap();
    world.start_node("us-2").await.unwrap();
    world.ready("us-2", Duration::from_secs(20)).await.unwrap();
    world.end().await;

    let other = start(DevOptions { nodes: Some(1), ..asked() }, in_process()).await.unwrap_err().to_string();
    assert!(other.contains("with 3 in region us, not 1"), "{other}");
    let (world, _events) = start(asked(), in_process()).await.unwrap();
    assert_eq!(world.plan(), &plan, "it goes on with what is there");
    world.end().await;
}

#[tokio::test]
async fn two_nodes_are_warned_about_and_one_is_as_ever() {
    let dir = tempfile::tempdir().unwrap();
    let of = |nodes, name: &str| DevOptions {
        nodes: Some(nodes),
        regions: regions(&["us"]),
        ..options(&dir.path().join(name))
    };
    let (world, mut events) = start(of(2, "two"), in_process()).await.unwrap();
    let warning = until(&mut events, |e| matches!(e, DevEvent::NoneMayFail { .. })).await.to_string();
    assert!(warning.starts_with("us: warning: of two nodes none may fail"), "{warning}");
    world.end().await;

    let (world, mut events) = start(of(1, "one"), in_process()).await.unwrap();
    let node = &world.plan().nodes[0];
    assert_eq!((node.id.get(), node.name.as_str()), (1, "us-1"));
    let config = NodeConfig::load(&node.config_file(world.folder())).unwrap();
    assert_eq!((config.limits, config.storage), Default::default(), "it has the machine for itself");
    world.end().await;
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(event, DevEvent::NoneMayFail { .. }), "{event}");
    }
}

#[tokio::test]
async fn base_port_sets_every_port() {
    for _ in 0..100 {
        let dir = tempfile::tempdir().unwrap();
        let base = super::ports::free(1).unwrap()[0];
        let asked = DevOptions {
            base_port: Some(base),
            regions: regions(&["a"]),
            nodes: Some(2),
            ..options(dir.path())
        };
        match start(asked, in_process()).await {
            Ok((world, _events)) => {
                for (node, base) in world.plan().nodes.iter().zip([base, base + 1]) {
                    let ports = (node.client_port, node.peer_port, node.admin_port);
                    assert_eq!(ports, (base, base + 100, base + 200));
                }
                return world.end().await;
            }
            // Somebody has one of them: then that one is named, and others may be free.
            Err(DevError::PortInUse { port, .. }) => {
                let all = [base, base + 1].map(|port| [port, port + 100, port + 200]);
                assert!(all.as_flattened().contains(&port), "{port} of {base}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("no six ports are free");
}

#[tokio::test]
async fn the_world_outlives_a_death_and_starts_again_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (world, mut events) = start(options(dir.path()), in_process()).await.unwrap();
    std::fs::write(dir.path().join("eu-1/die"), "").unwrap();
    let died = until(&mut events, |e| matches!(e, DevEvent::Died { .. })).await;
    assert_eq!(died, DevEvent::Died { node: "eu-1".into(), how: "told to die".into() });
    assert!(matches!(world.kill("us-1").await, Err(DevError::NotAProcess(_))));
    assert!(matches!(world.start_node("us-1").await, Err(DevError::Running(_))));
    assert!(matches!(world.start_node("mars-1").await, Err(DevError::NoSuchNode(_))));
    std::fs::remove_file(dir.path().join("eu-1/die")).unwrap();
    world.start_node("eu-1").await.unwrap();
    world.ready("eu-1", Duration::from_secs(20)).await.unwrap();
    world.end().await;

    let asked = DevOptions { respawn: true, ..options(dir.path()) };
    let (world, mut events) = start(asked, in_process()).await.unwrap();
    std::fs::write(dir.path().join("eu-1/die"), "").unwrap();
    until(&mut events, |e| matches!(e, DevEvent::Respawning { .. })).await;
    std::fs::remove_file(dir.path().join("eu-1/die")).unwrap();
    until(&mut events, |e| matches!(e, DevEvent::Ready { node, .. } if node == "eu-1")).await;
    world.end().await;
}

#[tokio::test]
async fn processes_are_killed_started_again_and_ended() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("world");
    let asked = DevOptions { regions: regions(&["us", "eu"]), ..options(&folder) };
    let (world, mut events) = start(asked, processes(dir.path())).await.unwrap();
    let before = ClusterFile::read(world.cluster_path()).unwrap();
    let pids = |file: &ClusterFile| [file.regions[0].nodes[0].pid, file.regions[1].nodes[0].pid];
    assert!(!pids(&before).contains(&std::process::id()));

    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(events.try_recv().is_ok_and(|e| matches!(e, DevEvent::Started { .. })));
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(event, DevEvent::Died { .. }), "{event}");
    }
    world.kill("us-1").await.unwrap();
    let died = until(&mut events, |e| matches!(e, DevEvent::Died { .. })).await;
    assert!(died.to_string().contains("signal: 9"), "{died}");
    world.start_node("us-1").await.unwrap();
    world.ready("us-1", Duration::from_secs(20)).await.unwrap();
    let after = ClusterFile::read(world.cluster_path()).unwrap();
    assert_ne!(pids(&after)[0], pids(&before)[0]);
    assert_eq!(pids(&after)[1], pids(&before)[1]);

    world.end().await;
    assert!(folder.join("us-1/drained").exists() && folder.join("eu-1/drained").exists());
    for pid in pids(&after) {
        let alive = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), None);
        assert!(alive.is_err(), "process {pid} is left");
    }
}

#[tokio::test]
async fn one_of_three_is_killed_and_started_again_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("world");
    let asked = DevOptions { regions: regions(&["us"]), nodes: Some(3), ..options(&folder) };
    let (world, mut events) = start(asked, processes(dir.path())).await.unwrap();
    let pids =
        || ClusterFile::read(world.cluster_path()).unwrap().regions[0].nodes.iter().map(|n| n.pid).collect();
    let before: Vec<u32> = pids();
    world.kill("us-2").await.unwrap();
    let died = until(&mut events, |e| matches!(e, DevEvent::Died { .. })).await;
    assert!(matches!(&died, DevEvent::Died { node, .. } if node == "us-2"), "{died}");
    assert!(matches!(world.kill("us").await, Err(DevError::NoSuchNode(_))), "a region is no node");
    world.start_node("us-2").await.unwrap();
    world.ready("us-2", Duration::from_secs(20)).await.unwrap();
    let after: Vec<u32> = pids();
    assert_eq!((after[0], after[2]), (before[0], before[2]));
    assert_ne!(after[1], before[1]);
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(event, DevEvent::Died { .. }), "{event}");
    }
    world.end().await;
    assert!(["us-1", "us-2", "us-3"].iter().all(|node| folder.join(node).join("drained").exists()));
}

#[tokio::test]
async fn a_node_that_dies_at_its_start_is_shown_with_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let exe = dir.path().join("broken");
    write_script(&exe, "#!/bin/sh\necho 'the volume is damaged' >&2\nexit 3\n");
    let folder = dir.path().join("world");
    let error = start(options(&folder), Launcher::Processes { exe }).await.unwrap_err().to_string();
    assert!(error.contains("us-1 died before it was ready: exit status: 3"), "{error}");
    assert!(error.contains("the volume is damaged"), "{error}");
    assert!(!folder.join("cluster.json").exists());

    let exe = dir.path().join("absent");
    let error = start(options(&folder), Launcher::Processes { exe }).await.unwrap_err().to_string();
    assert!(error.contains("absent"), "{error}");
}
