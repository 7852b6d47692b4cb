//! Fault 30: the link between two regions is cut both ways, and both reach a third: events flow through that. Healed,
//! they come from their origin again, and nothing is doubled.

use std::time::{Duration, Instant};

use crate::record::{Load, What};
use crate::scenario::{Outcome, Run, Stage};
use crate::trouble::Trouble;
use crate::world::Plan;

/// A dead connection is noticed, and the origin tried in vain, before another region is asked.
const FLOWS_WITHIN: Duration = Duration::from_secs(45);
const DIRECT_WITHIN: Duration = Duration::from_secs(60);
const STAYS: Duration = Duration::from_secs(10);
const STAYS_SHORT: Duration = Duration::from_secs(2);
/// What a node logs when it needs no relay any more.
const DIRECT: &str = "the origin is in reach again";

/// Runs it.
pub fn run(run: Run) -> Outcome {
    Stage::play(run, Plan::default(), Load::default(), |stage| {
        for (a, b) in [(1, 2), (2, 3), (3, 1)].into_iter().take(run.rounds(3, 1) as usize) {
            let names = [stage.region_name(a), stage.region_name(b)];
            let direct = [stage.direct_again(b), stage.direct_again(a)];
            for (from, to) in [(a, b), (b, a)] {
                stage.world.relay.change(from, to, |profile| profile.up = false);
            }
            stage.fault(format!("nothing passes between {} and {}", names[0], names[1]));
            let begun = Instant::now();
            let passed = stage.world.relay.counted(a, b).passed + stage.world.relay.counted(b, a).passed;
            // Of what is published from now on.
            let since = [stage.calls_of(&names[0]), stage.calls_of(&names[1])];
            for (index, number) in since.into_iter().enumerate() {
                stage.wait_seen(&names[1 - index], &names[index], number, begun + FLOWS_WITHIN)?;
            }
            stage.step(format!("events flow through the third after {:.1?}", begun.elapsed()));
            std::thread::sleep(if run.short { STAYS_SHORT } else { STAYS });
            for index in 0..2 {
                let number = stage.calls_of(&names[index]);
                let within = Instant::now() + Duration::from_secs(5);
                stage.wait_seen(&names[1 - index], &names[index], number, within)?;
            }
            let still = stage.world.relay.counted(a, b).passed + stage.world.relay.counted(b, a).passed;
            if still != passed {
                return Err(Trouble::tool("packets passed a link that is cut"));
            }
            for (from, to) in [(a, b), (b, a)] {
                stage.world.relay.change(from, to, |profile| profile.up = true);
            }
            stage.step("healed");
            let healed = Instant::now();
            for (region, before) in [(b, direct[0]), (a, direct[1])] {
                while stage.direct_again(region) == before {
                    if healed.elapsed() > DIRECT_WITHIN {
                        return Err(Trouble::broken(format!(
                            "{} takes a relay {DIRECT_WITHIN:?} after the link was healed",
                            stage.region_name(region)
                        )));
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
            stage.step(format!("both have them from their origins again after {:.1?}", healed.elapsed()));
        }
        Ok(())
    })
}

impl Stage {
    fn region_name(&self, number: u8) -> String {
        self.world.regions()[usize::from(number) - 1].clone()
    }

    /// How often a region's nodes have left a relay for the origin.
    fn direct_again(&self, region: u8) -> usize {
        self.world
            .nodes_of(region)
            .into_iter()
            .map(|index| self.world.node(index).log().matches(DIRECT).count())
            .sum()
    }

    /// How many events the SDK's publisher of a region was given so far.
    fn calls_of(&self, region: &str) -> u64 {
        let prefix = format!("{region}/0/");
        self.recorder.count(|what| matches!(what, What::Call { id, .. } if id.starts_with(&prefix)))
    }

    /// Waits until a region's consumer has been given an event of another's publisher with this number or a later one.
    fn wait_seen(&self, by: &str, of: &str, number: u64, until: Instant) -> Result<(), Trouble> {
        let prefix = format!("{of}/0/");
        let is_one = |what: &What| match what {
            What::Seen { consumer, id, .. } if consumer == by => id
                .strip_prefix(&prefix)
                .and_then(|rest| rest.parse().ok())
                .is_some_and(|seen: u64| seen >= number),
            _ => false,
        };
        while self.recorder.count(is_one) == 0 {
            if Instant::now() > until {
                return Err(Trouble::broken(format!("{by} is given nothing new of {of}")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}
