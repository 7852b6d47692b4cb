//! A short choice of the scenarios, in every test run; and the proof that the checks bite.

use std::time::Instant;

use meridian_chaos_live::disk::Loss;
use meridian_chaos_live::record::Load;
use meridian_chaos_live::runner::{Ended, run_once};
use meridian_chaos_live::scenario::{Run, Stage, all};
use meridian_chaos_live::trouble::Trouble;
use meridian_chaos_live::world::{DiskKind, Plan};
use meridian_chaos_live::{or_skip, say};
use rand::RngExt as _;

fn holds(name: &str) {
    let scenario = all().into_iter().find(|scenario| scenario.name == name).expect("it is in the catalogue");
    let seed = std::env::var("MERIDIAN_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| rand::rng().random_range(0..1_000_000_000));
    say(&format!("{name}: MERIDIAN_SEED={seed}"));
    let result = run_once(&scenario, Run { seed, short: true }, 1);
    let verdict = match result.ended {
        Ended::Ok => Ok(result.verdict),
        Ended::Skipped(reason) => Err(Trouble::Skip(reason)),
        Ended::Failed(why) => Err(Trouble::Broken(why)),
    };
    let Some(verdict) = or_skip(name, verdict) else { return };
    assert!(verdict.injected > 0 && verdict.acknowledged > 0, "{verdict:?}");
    assert_eq!((verdict.lost, verdict.doubled), (0, 0));
}

#[test]
fn power_loss_after_acks() {
    holds("01-power-loss-after-ack");
}

#[test]
fn a_torn_tail() {
    holds("07-torn-tail");
}

#[test]
fn a_sync_that_fails() {
    holds("09-sync-error");
}

#[test]
fn clocks_that_step() {
    holds("13-clock");
}

#[test]
fn retries() {
    holds("17-retry");
}

#[test]
fn a_region_that_is_lost() {
    holds("21-region-lost");
}

#[test]
fn a_kill_before_a_sync() {
    holds("37-kill-before-sync");
}

/// A disk that says yes and does nothing loses acknowledged events, whatever the product does. A harness that calls this
/// good would call anything good.
#[test]
fn a_disk_that_lies_is_found_out() {
    let plan = Plan { disk: DiskKind::Power, ..Plan::default() };
    let begun = Instant::now();
    let played = Stage::play(Run { seed: 1, short: true }, plan, Load::default(), |stage| {
        stage.keep_when_broken = false;
        let all: Vec<usize> = (0..stage.world.nodes()).collect();
        for index in &all {
            stage.world.node(*index).power()?.lie_about_syncs("volume/volume-");
        }
        stage.wait_acks(300)?;
        stage.world.kill(&all)?;
        for index in &all {
            stage.world.node(*index).power()?.lose_power(Loss::All)?;
        }
        stage.fault("every disk lied, and lost power");
        stage.start_again(&all)?;
        Ok(())
    });
    let found = match played {
        Ok(verdict) => format!(
            "{} lost, first of {} breaches: {:?}",
            verdict.lost,
            verdict.breaches.len(),
            verdict.breaches.first()
        ),
        Err(Trouble::Broken(why)) => format!("refused: {why}"),
        Err(trouble) => {
            or_skip::<()>("a disk that lies", Err(trouble));
            return;
        }
    };
    assert!(!found.starts_with("0 lost"), "nothing was found: {found}");
    say(&format!("a disk that lies, after {:.1?}: {found}", begun.elapsed()));
}
