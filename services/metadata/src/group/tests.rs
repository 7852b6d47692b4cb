//! What only shows from inside: a failing disk ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use meridian_types::{NodeId, Timestamp};
use tokio::sync::mpsc;
use tonic::transport::Channel;

use super::*;
use crate::catalog::{Change, Command};
use crate::testing::{disk, genesis};

struct Alone;

impl PeerChannels for Alone {
    fn channel(&self, node: NodeId) -> Result<Channel, NoChannel> {
        Err(NoChannel { node, why: "a group of one".into() })
    }
}

fn config(dir: &std::path::Path) -> Config {
    Config {
        heartbeat: Duration::from_millis(50),
        election_min: Duration::from_millis(150),
        election_max: Duration::from_millis(300),
        ..Config::catalog(NodeId(1), disk(1), dir)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_disk_ends_the_process_and_a_stop_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let deaths = Arc::new(AtomicU32::new(0));
    let (told, mut tell) = mpsc::unbounded_channel();
    let on_fatal: OnFatal = {
        let deaths = Arc::clone(&deaths);
        Arc::new(move |what| {
            deaths.fetch_add(1, Ordering::SeqCst);
            let _ = told.send(what.to_owned());
        })
    };
    let group = CatalogGroup::start(config(dir.path()), Arc::new(Alone), on_fatal).await.unwrap();
    let handle = group.handle();
    let founding = Command::new(Timestamp(1), Change::Genesis(genesis(&[1])));
    handle.bootstrap(founding, Duration::from_secs(10)).await.unwrap();
    handle.stop().await;
    handle.start().await.unwrap();
    handle.barrier(Duration::from_secs(10)).await.unwrap();
    assert_eq!(deaths.load(Ordering::SeqCst), 0);

    // From here on every write fails, as with EIO.
    group.shared.store.disk.close();
    let raise = Command::new(Timestamp(2), Change::RaiseFeatureLevel(1));
    assert!(handle.propose(raise, Duration::from_secs(1)).await.is_err());
    let what = tokio::time::timeout(Duration::from_secs(10), tell.recv()).await.unwrap().unwrap();
    assert!(what.contains("closed"), "{what}");
    assert_eq!(deaths.load(Ordering::SeqCst), 1);
    assert!(handle.state().cluster().is_some(), "what is known is served all the same");
    group.close().await;
}
