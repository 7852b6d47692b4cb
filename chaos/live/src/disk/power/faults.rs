//! What happens to the next syncs: they fail, take long, or stand still until they are let go.

use std::path::Path;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How syncs that were held end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// They sync.
    Sync,
    /// They do not, and nobody is told: for callers that were killed meanwhile, who hear nothing any more.
    Abandon,
}

/// What becomes of one sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It syncs.
    Sync,
    /// It fails with EIO; its blocks are lost to later syncs.
    Fail,
    /// It answers, and did nothing.
    Abandon,
}

#[derive(Debug, Default)]
struct Rules {
    /// Syncs of paths that contain this fail, so often.
    fail: Option<(String, u32)>,
    failed: u64,
    slow: Option<(String, Duration)>,
    hold: Option<String>,
    lie: Option<String>,
    release: Option<Release>,
    held: u64,
    /// Power is going: no sync has an effect any more, also none that is under way.
    going: bool,
}

/// The rules, and who waits because of them.
#[derive(Debug, Default)]
pub struct SyncFaults {
    rules: Mutex<Rules>,
    changed: Condvar,
}

impl SyncFaults {
    /// The next `times` syncs of paths that contain `part` fail.
    pub fn fail(&self, part: &str, times: u32) {
        self.rules.lock().fail = Some((part.to_owned(), times));
    }

    /// How many failed so far.
    pub fn failed(&self) -> u64 {
        self.rules.lock().failed
    }

    /// Syncs of paths that contain `part` take so much longer; none: no longer.
    pub fn slow(&self, slow: Option<(&str, Duration)>) {
        self.rules.lock().slow = slow.map(|(part, by)| (part.to_owned(), by));
    }

    /// Syncs of paths that contain `part` answer at once and do nothing: a disk that lies.
    pub fn lie(&self, part: &str) {
        self.rules.lock().lie = Some(part.to_owned());
    }

    /// Syncs are true again; those that lied did nothing all the same.
    pub fn tell_the_truth(&self) {
        self.rules.lock().lie = None;
    }

    /// Syncs of paths that contain `part` stand still until [`SyncFaults::release`].
    pub fn hold(&self, part: &str) {
        let mut rules = self.rules.lock();
        (rules.hold, rules.release) = (Some(part.to_owned()), None);
    }

    /// How many stand still now.
    pub fn held(&self) -> u64 {
        self.rules.lock().held
    }

    /// Lets go of those that stand still; no more are held.
    pub fn release(&self, how: Release) {
        let mut rules = self.rules.lock();
        (rules.hold, rules.release) = (None, Some(how));
        self.changed.notify_all();
    }

    /// No sync has an effect from now on, also none that is under way; and none waits.
    pub fn power_goes(&self) {
        self.rules.lock().going = true;
        self.changed.notify_all();
    }

    /// Power is back; nothing stands still.
    pub fn power_is_back(&self) {
        let mut rules = self.rules.lock();
        (rules.going, rules.hold) = (false, None);
    }

    /// Whether a sync of this path may have to wait, and needs a thread of its own for that.
    pub fn may_wait(&self, path: &Path) -> bool {
        let path = path.to_string_lossy();
        let rules = self.rules.lock();
        let hold = rules.hold.as_ref().is_some_and(|part| path.contains(part));
        hold || rules.slow.as_ref().is_some_and(|(part, _)| path.contains(part))
    }

    /// What becomes of a sync of this path. Waits as long as the rules say.
    pub fn fate(&self, path: &Path) -> Fate {
        let path = path.to_string_lossy();
        let mut rules = self.rules.lock();
        if let Some((part, times)) = &mut rules.fail
            && *times > 0
            && path.contains(part.as_str())
        {
            *times -= 1;
            rules.failed += 1;
            return Fate::Fail;
        }
        if rules.lie.as_ref().is_some_and(|part| path.contains(part)) {
            return Fate::Abandon;
        }
        if let Some((_, by)) = rules.slow.as_ref().filter(|(part, _)| path.contains(part)) {
            let by = *by;
            parking_lot::MutexGuard::unlocked(&mut rules, || std::thread::sleep(by));
        }
        if rules.going {
            return Fate::Abandon;
        }
        if rules.hold.as_ref().is_none_or(|part| !path.contains(part)) {
            return Fate::Sync;
        }
        rules.held += 1;
        while rules.hold.is_some() && !rules.going {
            self.changed.wait(&mut rules);
        }
        rules.held -= 1;
        match rules.release {
            _ if rules.going => Fate::Abandon,
            Some(Release::Abandon) => Fate::Abandon,
            _ => Fate::Sync,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a sync that has begun when power goes.
    fn within(prepare: impl FnOnce(&SyncFaults), has_begun: impl Fn(&SyncFaults) -> bool) -> Fate {
        let faults = SyncFaults::default();
        prepare(&faults);
        std::thread::scope(|scope| {
            let sync = scope.spawn(|| faults.fate(Path::new("volume/volume-1")));
            while !has_begun(&faults) {
                std::thread::yield_now();
            }
            faults.power_goes();
            sync.join().unwrap()
        })
    }

    #[test]
    fn a_sync_that_is_under_way_when_power_goes_does_nothing() {
        let slow = Duration::from_millis(30);
        assert_eq!(within(|faults| faults.slow(Some(("volume", slow))), |_| true), Fate::Abandon);
        assert_eq!(within(|faults| faults.hold("volume"), |faults| faults.held() == 1), Fate::Abandon);
        let faults = SyncFaults::default();
        faults.power_goes();
        assert_eq!(faults.fate(Path::new("volume/volume-1")), Fate::Abandon);
        faults.power_is_back();
        assert_eq!(faults.fate(Path::new("volume/volume-1")), Fate::Sync);
    }
}
