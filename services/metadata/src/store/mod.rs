//! What Raft keeps on disk: its log in a RocksDB of its own (WAL on, every write synced), its snapshots in checksummed
//! files, and the *anchor*, a small file that states the vote and how much there must be.
//!
//! Flows in: openraft's reads and writes. Flows out: what was written, or an error that says what is damaged. Must never
//! open with less than the anchor states, answer before the disk has it, or delete anything at opening: RocksDB by
//! itself opens silently just before a corruption and forgives a missing end.
//!
//! The order of writes, so that a crash between two of them leaves at least what the anchor states:
//! append: log, then anchor. Truncate: anchor, then log. Snapshot: file, then anchor, then the older file goes. Purge
//! only what a snapshot covers. The machine is in memory; `committed` is in the anchor before anything is applied, so
//! that a restart gives back what was applied, without a quorum.

mod anchor;
mod codec;
mod disk;
mod error;
mod log;
mod machine;
mod open;
mod published;
mod snapshots;
#[cfg(test)]
mod tests;

pub use error::StoreError;
pub(crate) use machine::MachineStore;
pub use open::Identity;
pub(crate) use open::Store;
