//! A timer that is set anew as seldom as can be: deadlines that move away with every answer would be work for each.

use std::future::pending;
use std::pin::Pin;
use std::time::Instant;

use tokio::time::{Sleep, sleep_until};

/// Fires at the earliest deadline that it was given since it fired last; whoever asks it looks at what is due, and gives it
/// the next one.
pub(super) struct Timer {
    sleep: Pin<Box<Sleep>>,
    at: Option<Instant>,
}

impl Timer {
    /// One that never fires.
    pub(super) fn new() -> Self {
        Self { sleep: Box::pin(sleep_until(Instant::now().into())), at: None }
    }

    /// Whether it will fire by then.
    pub(super) fn is_set_by(&self, by: Instant) -> bool {
        self.at.is_some_and(|at| at <= by)
    }

    /// Fires then, or earlier if it was to.
    pub(super) fn look_at(&mut self, deadline: Option<Instant>) {
        if let Some(deadline) = deadline
            && self.at.is_none_or(|at| deadline < at)
        {
            self.sleep.as_mut().reset(deadline.into());
            self.at = Some(deadline);
        }
    }

    /// Until it fires.
    pub(super) async fn fired(&mut self) {
        if self.at.is_none() {
            return pending().await;
        }
        self.sleep.as_mut().await;
        self.at = None;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_fires_at_the_earliest_deadline_and_then_not_again() {
        let begun = tokio::time::Instant::now();
        let after = |ms| Some((begun + Duration::from_millis(ms)).into_std());
        let mut timer = Timer::new();
        timer.look_at(after(50));
        timer.look_at(after(900));
        timer.look_at(after(20));
        timer.look_at(None);
        timer.fired().await;
        assert_eq!(begun.elapsed().as_millis(), 20);
        assert!(!timer.is_set_by(Instant::now() + Duration::from_secs(9)));
        let again = tokio::time::timeout(Duration::from_secs(5), timer.fired()).await;
        assert!(again.is_err());
    }
}
