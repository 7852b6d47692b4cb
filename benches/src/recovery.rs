//! How long a node takes until it is ready again after a SIGKILL, with much stored.

use std::time::Instant;

use crate::cluster::Cluster;
use crate::error::BenchError;
use crate::files::forget_cached;
use crate::measure::Bench;
use crate::plan::{Place, System, VALUE_BYTES};
use crate::record::Outcome;
use crate::site::Site;
use crate::usage::{Snapshot, read_of_disk};

const STREAM: &str = "stored";

/// Fills a volume, kills the node, and starts it again.
///
/// # Errors
/// It does not come back, or not with all that was acknowledged.
pub async fn recover(bench: &Bench<'_>, bytes: u64) -> Result<Outcome, BenchError> {
    let dir = bench.dir.to_path_buf();
    let cluster =
        Cluster::start(System::Meridian, Place::Alone, &[Site::loopback("us")], bench.tools, dir).await?;
    let events = bytes / VALUE_BYTES as u64;
    cluster.create(STREAM).await?;
    bench.fill(&cluster, STREAM, events).await?;
    let Cluster::Meridian(mut world) = cluster else {
        return Err(BenchError::wrong("only Meridian's recovery is measured"));
    };
    world.first().kill().await?;
    let note = tokio::task::spawn_blocking(forget_cached).await?;
    let begun = Instant::now();
    world.first().start_again(bench.tools.meridian())?;
    world.first().until_ready().await?;
    let seconds = begun.elapsed().as_secs_f64();
    let node = [world.first().watched()];
    let usage = Snapshot::before_start(&node)?.usage(&node)?;
    let read = Some(read_of_disk(node[0].pid)?);
    world.verify(STREAM, events).await?;
    world.end().await?;
    let bytes = bytes as f64 / seconds;
    Ok(Outcome { events, bytes, seconds: Some(seconds), read, usage, note, ..Outcome::default() })
}
