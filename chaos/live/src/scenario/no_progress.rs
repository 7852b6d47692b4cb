//! Fault 28: a link that is connected and makes no progress, as behind a router that drops large packets: small ones
//! pass, so the connection stays up. It is noticed within seconds: a metric, a reconnect. The time without
//! progress rises whoever gives the connection up, the link or HTTP/2's pings, and however patient the link has become; where the link
//! does, the count of stalls rises before it.

use std::time::{Duration, Instant};

use crate::record::Load;
use crate::scenario::{Outcome, Run, Stage};
use crate::trouble::Trouble;
use crate::world::Plan;

/// Handshakes, acknowledgements and pings pass; batches do not.
const LARGEST: usize = 250;
/// Ten seconds, and what it takes until there is something to read and the metric is read here.
const NOTICED_WITHIN: Duration = Duration::from_secs(12);
/// What was not mirrored meanwhile comes after.
const LIVE_WITHIN: Duration = Duration::from_secs(90);

/// Runs it.
pub fn run(run: Run) -> Outcome {
    let load = Load { padding: 1500, ..Load::default() };
    Stage::play(run, Plan::default(), load, |stage| {
        let eu = stage.world.first_of("eu")?;
        for _ in 0..run.rounds(2, 1) {
            is_live(stage, eu)?;
            let before = noticed(stage, eu);
            stage.world.relay.change(1, 2, |profile| profile.largest = Some(LARGEST));
            stage.fault("large packets from us to eu vanish");
            let begun = Instant::now();
            while !noticed(stage, eu).is_more_than(&before) {
                if begun.elapsed() > NOTICED_WITHIN {
                    return Err(Trouble::broken(format!(
                        "no metric says within {NOTICED_WITHIN:?} that a link makes no progress: \
                         {before:?} -> {:?}",
                        noticed(stage, eu)
                    )));
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            stage.step(format!(
                "noticed after {:.1?}: {before:?} -> {:?}",
                begun.elapsed(),
                noticed(stage, eu)
            ));
            std::thread::sleep(Duration::from_secs(if run.short { 2 } else { 25 }));
            stage.world.relay.change(1, 2, |profile| profile.largest = None);
            stage.step(format!("large packets pass again: {:?}", noticed(stage, eu)));
        }
        Ok(())
    })
}

/// What eu says: the time without progress and the connections that it gave up for that, by its metrics; links that it lost, by
/// its log.
#[derive(Debug)]
struct Noticed {
    stalled_ms: u64,
    stalls: u64,
    #[expect(dead_code, reason = "shown")]
    lost: usize,
}

impl Noticed {
    /// Whether a metric has risen: which one is first depends on who gives the connection up.
    fn is_more_than(&self, before: &Self) -> bool {
        self.stalled_ms > before.stalled_ms || self.stalls > before.stalls
    }
}

fn noticed(stage: &Stage, eu: usize) -> Noticed {
    let metric = |name| stage.world.metric(eu, name, "").unwrap_or(0.0) as u64;
    Noticed {
        stalled_ms: metric("meridian_link_stalled_ms"),
        stalls: metric("meridian_link_stalls"),
        lost: stage.world.node(eu).log().matches("the link is lost").count(),
    }
}

/// Waits until both links of eu have caught up, and us is asked itself: a stall is one only where there is progress to miss,
/// and what comes through another region (as it may right after the start) never passes the line that is broken here.
fn is_live(stage: &Stage, eu: usize) -> Result<(), Trouble> {
    let links = stage.world.nodes() as u64 - 1;
    let until = Instant::now() + LIVE_WITHIN;
    while stage.world.metric(eu, "meridian_link_live", "").unwrap_or(0.0) as u64 != links
        || is_relayed(stage, eu)
    {
        if Instant::now() > until {
            return Err(Trouble::broken(format!("the links of eu are not live within {LIVE_WITHIN:?}")));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Whether eu has the events of us from another region, by the last that its log says of that link.
fn is_relayed(stage: &Stage, eu: usize) -> bool {
    let log = stage.world.node(eu).log();
    let said = |line: &&str| {
        line.contains("region=us")
            && (line.contains("the link is connected") || line.contains("the origin is in reach again"))
    };
    log.lines().rfind(said).is_none_or(|line| line.contains("through=") && !line.contains("through=us"))
}
