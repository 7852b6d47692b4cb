//! The way back from a relay to the origin: when the direct line is tried, and when it is trusted again.
//!
//! A line that connects and carries nothing, as one that swallows large packets, costs the link its progress each time that it
//! is tried. So it counts only once it has delivered, and is tried more and more rarely until then.

use std::time::Duration;

/// How often the origin is tried while frames come through a relay, and how rarely one is that came to nothing.
const FIRST: Duration = Duration::from_secs(5);
const LAST: Duration = Duration::from_secs(320);

/// See the module.
#[derive(Debug)]
pub(crate) struct Homeward {
    wait: Duration,
    on_trial: bool,
}

impl Homeward {
    /// No relay yet.
    pub fn new() -> Self {
        Self { wait: FIRST, on_trial: false }
    }

    /// How long to wait before the origin is tried.
    pub fn wait(&self) -> Duration {
        self.wait
    }

    /// The relay is left for a direct line.
    pub fn tried(&mut self) {
        self.on_trial = true;
    }

    /// Whether the direct line has yet to show that it carries anything.
    pub fn is_on_trial(&self) -> bool {
        self.on_trial
    }

    /// The direct line has delivered, or is level.
    pub fn delivered(&mut self) {
        *self = Self::new();
    }

    /// The direct line is lost. Whether that was before it delivered anything: then the relay is to be asked again at once.
    pub fn lost(&mut self) -> bool {
        let was_on_trial = std::mem::take(&mut self.on_trial);
        if was_on_trial {
            self.wait = LAST.min(2 * self.wait);
        }
        was_on_trial
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direct_line_that_carries_nothing_is_tried_more_and_more_rarely() {
        let mut homeward = Homeward::new();
        let mut waits = Vec::new();
        for _ in 0..9 {
            waits.push(homeward.wait().as_secs());
            homeward.tried();
            assert!(homeward.lost(), "back to the relay");
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 320, 320]);
    }

    #[test]
    fn one_that_has_delivered_is_trusted_again() {
        let mut homeward = Homeward::new();
        homeward.tried();
        assert!(homeward.lost());
        homeward.tried();
        homeward.delivered();
        assert!(!homeward.is_on_trial() && !homeward.lost(), "an ordinary loss");
        assert_eq!(homeward.wait(), FIRST);
    }
}
