//! What scenarios of a region with several nodes need: who leads, whether all is well, how long a lane stood still.

use std::time::{Duration, Instant};

use crate::laws::longest_stall;
use crate::scenario::Stage;
use crate::trouble::Trouble;
use crate::world::{DiskKind, Leading, Plan};

/// The region that has several nodes.
pub const US: u8 = 1;
const WELL_WITHIN: Duration = Duration::from_secs(60);
/// A lane in which an answer came so lately is served.
const FLOWS: Duration = Duration::from_millis(400);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Three nodes in one region, and another region that mirrors them.
pub fn plan(disk: DiskKind) -> Plan {
    Plan::quorum(3, disk)
}

impl Stage {
    /// A node's name.
    pub(super) fn name(&self, index: usize) -> String {
        self.world.node(index).name.clone()
    }

    /// Waits until the region's nodes agree on all leaders.
    pub(super) fn wait_well(&self) -> Result<Leading, Trouble> {
        self.world.wait_well(US, WELL_WITHIN)
    }

    /// The node that leads the most shards, once all is well.
    pub(super) fn leader(&self) -> Result<usize, Trouble> {
        self.wait_well()?.most().ok_or_else(|| Trouble::broken("nobody leads"))
    }

    /// The other nodes of the region.
    pub(super) fn others(&self, than: usize) -> Vec<usize> {
        self.world.nodes_of(US).into_iter().filter(|index| *index != than).collect()
    }

    /// The longest time that a lane of the region's publisher stood still since then.
    pub(super) fn stall(&self, since: Duration) -> Result<Duration, Trouble> {
        Ok(longest_stall(&self.recorder.entries()?, "us/0", since, self.recorder.elapsed()))
    }

    /// Waits until acknowledgements come in every lane of the region's publisher again, all of them later than `since`.
    /// Gives how long the slowest lane stood still.
    ///
    /// # Errors
    /// They do not come in time.
    pub(super) fn wait_flows(&self, since: Duration, within: Duration) -> Result<Duration, Trouble> {
        let until = Instant::now() + within;
        loop {
            let now = self.recorder.elapsed();
            // Twice: an answer that was on its way when the fault came is none that came after it.
            if now > since + 2 * FLOWS {
                let entries = self.recorder.entries()?;
                // No lane without an answer in the last moments, and that all after the fault.
                if longest_stall(&entries, "us/0", now, now) < FLOWS {
                    return Ok(longest_stall(&entries, "us/0", since, now));
                }
            }
            if Instant::now() > until {
                let stall = self.stall(since)?;
                return Err(Trouble::broken(format!(
                    "a lane has no acknowledgement for {stall:.1?}, the fault being {:.1?} ago",
                    now.saturating_sub(since)
                )));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Nothing is acknowledged in the region for so long.
    pub(super) fn no_acks(&self, during: Duration) -> Result<(), Trouble> {
        let before = self.acks_of("us");
        std::thread::sleep(during);
        let more = self.acks_of("us") - before;
        if more == 0 {
            Ok(())
        } else {
            Err(Trouble::broken(format!("{more} acknowledgements came meanwhile")))
        }
    }

    /// Notes a figure.
    pub(super) fn figure(&self, what: &str, stall: Duration) {
        self.step(format!("{what}: {:.2} s without an ack", stall.as_secs_f64()));
    }
}
