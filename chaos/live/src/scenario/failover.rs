//! Fault 17 in a region of three: leaders are killed again and again while idempotent publishers retry, and a batch that
//! was acknowledged is retried at another node under another leader.

use std::time::Duration;

use meridian_sdk::v1::Producer;
use rand::RngExt as _;

use crate::record::Load;
use crate::scenario::producers::{acknowledged, same};
use crate::scenario::quorum::plan;
use crate::scenario::raw::Raw;
use crate::scenario::{Outcome, Run, Stage};
use crate::trouble::Trouble;
use crate::world::DiskKind;

const EVENTS: u64 = 3;
const BACK_WITHIN: Duration = Duration::from_secs(30);
const TRIES: usize = 40;

/// Runs it.
pub fn run(run: Run) -> Outcome {
    Stage::play(run, plan(DiskKind::Plain), Load::default(), |stage| {
        let mut raw = Raw::of_node(stage, 0)?;
        let (id, epoch) = raw.init_producer(stage)?;
        let mut sequence = 0;
        for _ in 0..run.rounds(12, 3) {
            let victim = stage.leader()?;
            let others = stage.others(victim);
            let batch = raw.batch(&stage.recorder, Some(Producer { id, epoch, sequence }), EVENTS);
            sequence += EVENTS as i32;
            raw.turn_to(stage, victim);
            let first = acknowledged(raw.publish(stage, &batch)?)?;
            // One more goes on its way, and its leader dies at some moment of it.
            let under_way = raw.batch(&stage.recorder, Some(Producer { id, epoch, sequence }), EVENTS);
            sequence += EVENTS as i32;
            let sent = raw.send(stage, &under_way)?;
            stage.pause(12);
            let since = stage.recorder.elapsed();
            stage.world.kill(&[victim])?;
            stage.fault(format!("{} is killed", stage.world.node(victim).name));
            let early = stage.world.clients.join(sent)?.ok().and_then(Result::ok);
            let other = others[stage.rng.random_range(0..others.len())];
            raw.turn_to(stage, other);
            same("a retry at another node", &first, &until_acknowledged(stage, &raw, &batch)?)?;
            let again = until_acknowledged(stage, &raw, &under_way)?;
            if let Some(early) = early {
                same("a retry of what was answered while its leader died", &early, &again)?;
            }
            let stall = stage.wait_flows(since, BACK_WITHIN)?;
            stage.figure("killed", stall);
            stage.pause(1500);
            stage.start_again(&[victim])?;
        }
        Ok(())
    })
}

/// As a client does: refused while there is no leader, it tries again.
fn until_acknowledged(
    stage: &Stage,
    raw: &Raw,
    batch: &crate::scenario::raw::Batch,
) -> Result<Vec<crate::scenario::raw::At>, Trouble> {
    let mut last = String::new();
    for _ in 0..TRIES {
        match raw.publish(stage, batch)? {
            Ok(places) => return Ok(places),
            Err(refused) => last = refused,
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    Err(Trouble::broken(format!("a retry is refused for ever: {last}")))
}
