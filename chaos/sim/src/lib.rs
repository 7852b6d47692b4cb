//! A deterministic simulation of Meridian's pure cores that tries to break them.
//!
//! In: a seed. Out: a trace, what was met on the way, and the law that was broken, if any. The cores are the real ones;
//! everything that they meet comes from the seed. Must never read a clock, start a thread within a history, or let a
//! checker ask a core what it should know by itself.

pub mod check;
pub mod coverage;
mod host;
pub mod mutants;
mod network;
mod node;
mod queue;
pub mod run;
mod swarm;
pub mod trace;
mod world;
