//! Runs histories: one on this thread, or many on several.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use meridian_types::mutant::{self, Mutant};

use crate::check::{Breach, Law};
use crate::coverage::Coverage;
use crate::world::World;

/// A history has at least so many operations of clients, and so many faults.
pub const OPERATIONS: u64 = 100;
/// See [`OPERATIONS`].
pub const FAULTS: u64 = 3;

/// What became of a history.
#[derive(Debug)]
pub struct Outcome {
    /// Whose.
    pub seed: u64,
    /// Over the whole trace.
    pub hash: u128,
    /// The first law that was broken, if any.
    pub breach: Option<Breach>,
    /// What occurred, and how often.
    pub met: Coverage,
    /// How many things happened.
    pub events: u64,
    /// How many of them were clients' doing.
    pub operations: u64,
    /// How many were faults, and operators'.
    pub faults: u64,
    /// How long it was in simulated time, in µs.
    pub lasted: u64,
    /// If they were asked for.
    pub lines: Vec<String>,
}

impl Outcome {
    /// Whether it ended early without a reason: too little happened.
    pub fn is_thin(&self) -> bool {
        self.breach.is_none() && (self.operations < OPERATIONS || self.faults < FAULTS)
    }
}

thread_local!(static PANIC: RefCell<Option<String>> = const { RefCell::new(None) });
static QUIET: Once = Once::new();

/// Keeps what a core's assertion says for the outcome, where a history runs; other panics speak as they do.
fn catch_panics() {
    QUIET.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let caught = PANIC.with_borrow_mut(|slot| match slot {
                Some(text) => {
                    *text = info.to_string();
                    true
                }
                None => false,
            });
            if !caught {
                usual(info);
            }
        }));
    });
}

/// Runs one history; `mutant`: with that fault in the cores.
pub fn history(seed: u64, mutant: Option<Mutant>, keep_trace: bool) -> Outcome {
    catch_panics();
    PANIC.set(Some(String::new()));
    let mut world = World::new(seed, keep_trace);
    let result = with(mutant, || panic::catch_unwind(AssertUnwindSafe(|| world.run())));
    let said = PANIC.take().unwrap_or_default();
    if result.is_err() {
        let verdict = Err(said.replace('\n', " "));
        world.judge(Law::OwnChecks, verdict);
    }
    let (hash, lasted) = (world.trace.hash(), world.now);
    Outcome {
        seed,
        hash,
        breach: world.laws.breach.take(),
        events: world.steps,
        operations: world.operations,
        faults: world.faults,
        lasted,
        met: std::mem::take(&mut world.met),
        lines: world.trace.into_lines(),
    }
}

#[cfg(debug_assertions)]
fn with<T>(mutant: Option<Mutant>, work: impl FnOnce() -> T) -> T {
    mutant::with(mutant, work)
}

/// A build without the switch runs the cores as they are.
#[cfg(not(debug_assertions))]
fn with<T>(mutant: Option<Mutant>, work: impl FnOnce() -> T) -> T {
    assert!(mutant.is_none_or(mutant::is), "this build has no mutants");
    work()
}

/// Runs the histories of some seeds on so many threads; `done` is called for each, in no order, and says whether to begin
/// further ones.
pub fn histories(
    seeds: std::ops::Range<u64>,
    jobs: usize,
    mutant: Option<Mutant>,
    done: impl FnMut(Outcome) -> bool + Send,
) {
    let (next, go_on) = (AtomicU64::new(seeds.start), AtomicBool::new(true));
    let done = Mutex::new(done);
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while go_on.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = history(seed, mutant, false);
                    let mut done = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    if !done(outcome) {
                        go_on.store(false, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}
