//! Faults 17 and 18: a producer retries over restarts and while its original is under way; a producer of an older epoch.

use std::time::{Duration, Instant};

use meridian_sdk::v1::Producer;

use crate::disk::{Loss, Release};
use crate::record::Load;
use crate::scenario::raw::{Answered, At, Raw};
use crate::scenario::{Outcome, Run, Stage};
use crate::trouble::Trouble;
use crate::world::{DiskKind, Plan};

const EVENTS: u64 = 3;
const VOLUME: &str = "volume/volume-";

pub(super) fn acknowledged(answered: Answered) -> Result<Vec<At>, Trouble> {
    answered.map_err(|refused| Trouble::broken(format!("a producer in order is refused: {refused}")))
}

pub(super) fn same(what: &str, first: &[At], again: &[At]) -> Result<(), Trouble> {
    if first == again {
        Ok(())
    } else {
        Err(Trouble::broken(format!("{what}: first at {first:?}, then at {again:?}")))
    }
}

/// Fault 17.
pub fn retry(run: Run) -> Outcome {
    let plan = Plan { disk: DiskKind::Power, ..Plan::default() };
    Stage::play(run, plan, Load::default(), |stage| {
        let us = stage.world.first_of("us")?;
        let raw = Raw::new(stage, 1)?;
        let (id, epoch) = raw.init_producer(stage)?;
        let mut sequence = 0;
        for round in 0..run.rounds(4, 1) {
            let producer = |sequence| Some(Producer { id, epoch, sequence });
            // Acknowledged, and then retried over a restart; every other one loses power.
            let batch = raw.batch(&stage.recorder, producer(sequence), EVENTS);
            sequence += EVENTS as i32;
            let first = acknowledged(raw.publish(stage, &batch)?)?;
            same("a retry at once", &first, &acknowledged(raw.publish(stage, &batch)?)?)?;
            stage.world.kill(&[us])?;
            if round % 2 == 1 {
                stage.world.node(us).power()?.lose_power(Loss::All)?;
            }
            stage.fault("us restarts between a batch and its retry");
            stage.start_again(&[us])?;
            same("a retry over a restart", &first, &acknowledged(raw.publish(stage, &batch)?)?)?;

            // A retry meets its original while that is not yet committed.
            let batch = raw.batch(&stage.recorder, producer(sequence), EVENTS);
            sequence += EVENTS as i32;
            hold(stage, us)?;
            let (one, two) = (raw.send(stage, &batch)?, raw.send(stage, &batch)?);
            stage.fault("a retry meets its original");
            std::thread::sleep(Duration::from_secs(1));
            if one.is_finished() || two.is_finished() {
                return Err(Trouble::broken("a batch is answered before it is synced"));
            }
            stage.world.node(us).power()?.release_syncs(Release::Sync);
            let one = acknowledged(stage.world.clients.join(one)??)?;
            same("both tries", &one, &acknowledged(stage.world.clients.join(two)??)?)?;

            // Neither acknowledged nor refused: power is lost while it is under way, and it is retried.
            let batch = raw.batch(&stage.recorder, producer(sequence), EVENTS);
            sequence += EVENTS as i32;
            hold(stage, us)?;
            let lost = raw.send(stage, &batch)?;
            std::thread::sleep(Duration::from_millis(300));
            stage.world.node_mut(us).signal(rustix::process::Signal::KILL);
            stage.world.node(us).power()?.release_syncs(Release::Abandon);
            stage.world.node_mut(us).wait_gone(Duration::from_secs(30))?;
            if let Ok(Ok(Ok(places))) = stage.world.clients.join(lost) {
                return Err(Trouble::broken(format!("acknowledged without a sync: {places:?}")));
            }
            stage.world.node(us).power()?.lose_power(Loss::All)?;
            stage.fault("power is lost under a batch");
            stage.start_again(&[us])?;
            let first = acknowledged(raw.publish(stage, &batch)?)?;
            same("a retry of what was lost", &first, &acknowledged(raw.publish(stage, &batch)?)?)?;
        }
        Ok(())
    })
}

/// Syncs stand still, and one does.
pub(super) fn hold(stage: &Stage, index: usize) -> Result<(), Trouble> {
    let power = stage.world.node(index).power()?;
    power.hold_syncs(VOLUME);
    let until = Instant::now() + Duration::from_secs(20);
    while power.held_syncs() == 0 {
        if Instant::now() > until {
            return Err(Trouble::tool("no sync comes that could be held"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Fault 18.
pub fn older_epoch(run: Run) -> Outcome {
    Stage::play(run, Plan::default(), Load::default(), |stage| {
        let us = stage.world.first_of("us")?;
        let raw = Raw::new(stage, 1)?;
        for round in 0..run.rounds(4, 1) {
            let (id, epoch) = raw.init_producer(stage)?;
            let send = |stage: &Stage, epoch, sequence| {
                let batch = raw.batch(&stage.recorder, Some(Producer { id, epoch, sequence }), EVENTS);
                raw.publish(stage, &batch)
            };
            acknowledged(send(stage, epoch, 0)?)?;
            acknowledged(send(stage, epoch + 1, 0)?)?;
            for (restart, sequence) in [(false, EVENTS as i32), (true, EVENTS as i32), (false, 0)] {
                if restart && round % 2 == 0 {
                    stage.world.kill(&[us])?;
                    stage.start_again(&[us])?;
                }
                stage.fault(format!("a producer of epoch {epoch} where {} is at work", epoch + 1));
                match send(stage, epoch, sequence)? {
                    Err(refused) if refused.contains("FENCED") => {}
                    other => return Err(Trouble::broken(format!("an older epoch is answered by {other:?}"))),
                }
            }
            acknowledged(send(stage, epoch + 1, EVENTS as i32)?)?;
        }
        Ok(())
    })
}
