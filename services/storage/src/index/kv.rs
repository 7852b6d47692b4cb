//! The floor under the index: ordered bytes in column families.

use std::fmt;

use super::keys::Family;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Ordered keys in column families, written in atomic batches.
///
/// A batch that [`write`](Self::write) took is seen by every later read, whole. It outlives a crash once a
/// [`flush`](Self::flush) that began after it has returned; an implementation may make batches durable sooner, but only
/// ever a prefix of the batches in the order they were written, over all families at once.
pub trait KeyValue: Send + Sync + 'static {
    /// Writes all changes of the batch or none; of two changes to one key the later one holds.
    fn write(&self, batch: Batch) -> Result<(), KvError>;

    /// The value of a key.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// Up to `limit` pairs of the range, of one moment: rising from its start, or falling from its end.
    fn scan(
        &self,
        family: Family,
        range: &KeyRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Pair>, KvError>;

    /// Makes all that was written durable, over all families at once, and waits for it.
    fn flush(&self) -> Result<(), KvError>;
}

/// Which way a scan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Rising keys, from the start of the range.
    Forward,
    /// Falling keys, from the end of the range.
    Reverse,
}

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets a key.
    Put {
        /// Where.
        family: Family,
        /// The key.
        key: Vec<u8>,
        /// Its new value.
        value: Vec<u8>,
    },
    /// Removes a key, if it is there.
    Delete {
        /// Where.
        family: Family,
        /// The key.
        key: Vec<u8>,
    },
}

/// Changes that are written together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// In the order in which they take effect.
    pub changes: Vec<Change>,
}

impl Batch {
    /// Sets a key.
    pub fn put(&mut self, family: Family, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes.push(Change::Put { family, key: key.into(), value: value.into() });
    }

    /// Removes a key, if it is there.
    pub fn delete(&mut self, family: Family, key: impl Into<Vec<u8>>) {
        self.changes.push(Change::Delete { family, key: key.into() });
    }
}

/// Keys from `from` on, and before `to` where there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key that is in the range.
    pub from: Vec<u8>,
    /// The first key behind the range. None: up to the last key of the family.
    pub to: Option<Vec<u8>>,
}

impl KeyRange {
    /// Every key.
    pub fn all() -> Self {
        Self::default()
    }

    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        Self { from: prefix.to_vec(), to: after_prefix(prefix) }
    }

    /// The keys that begin with `prefix`, from `key` on.
    pub fn prefix_from(prefix: &[u8], key: &[u8]) -> Self {
        Self { from: key.to_vec(), to: after_prefix(prefix) }
    }

    /// The keys that begin with `prefix`, up to `key` and with it.
    pub fn prefix_through(prefix: &[u8], key: &[u8]) -> Self {
        let mut to = key.to_vec();
        to.push(0);
        Self { from: prefix.to_vec(), to: Some(to) }
    }

    /// Whether no key can be in it. (`BTreeMap::range` panics on such a range, RocksDB's bounds must not cross.)
    pub(super) fn is_empty(&self) -> bool {
        self.to.as_ref().is_some_and(|to| *to <= self.from)
    }
}

/// The first key that is behind all keys with the prefix; none, if they reach to the end.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut after = prefix[..=last].to_vec();
    after[last] += 1;
    Some(after)
}

/// Why the floor did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// Another process has it open.
    #[error("the index in {folder} is in use by another process: end that one, or name another data folder")]
    InUse {
        /// The folder of the index.
        folder: String,
    },
    /// Written by a newer version. Nothing was changed.
    #[error(
        "the index in {folder} has format {found}, this version knows up to {known}: start the newer version \
         of the node; nothing was changed"
    )]
    NewerFormat {
        /// The folder of the index.
        folder: String,
        /// What it is.
        found: u32,
        /// The newest that this code knows.
        known: u32,
    },
    /// What is on the disk is not what was written.
    #[error(
        "the index is damaged ({detail}): move its folder away and start again, it is derived from the volume"
    )]
    Damaged {
        /// What was found.
        detail: String,
    },
    /// The disk or RocksDB failed; what was asked may have been done or not.
    #[error("the index cannot {doing}: {detail}")]
    Failed {
        /// What was being done.
        doing: Doing,
        /// What the library said.
        detail: String,
    },
}

/// What the floor was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Opening.
    Open,
    /// Writing a batch.
    Write,
    /// Reading.
    Read,
    /// Making durable.
    Flush,
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "be opened",
            Self::Write => "write a batch",
            Self::Read => "be read",
            Self::Flush => "be flushed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(KeyRange::prefix(&[1, 2]).to, Some(vec![1, 3]));
        assert_eq!(KeyRange::prefix(&[1, 0xff, 0xff]).to, Some(vec![2]));
        assert_eq!(KeyRange::prefix(&[0xff, 0xff]).to, None);
        assert_eq!(KeyRange::prefix(&[]), KeyRange::all());
    }
}
